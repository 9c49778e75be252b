"""What is shown at the prompt says what a thing is, in one line; notebooks show its picture."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from bilevel_gym.core.reprs import Described, Made, MadeFor, brief, number
from bilevel_gym.designing import Score
from bilevel_gym.envs import BilevelEnv, BilevelGridWorld, BilevelRandomMDP, ParametricGame
from bilevel_gym.methods import Response, make_method
from bilevel_gym.model.responses import EpisodicResponse
from bilevel_gym.optimizers import Restarts, make_optimizer
from bilevel_gym.registration import TASKS

from .helpers import array_game

X = np.zeros(3)


def parabola(x: Any) -> tuple[float, Any]:
    return 1.0 - float(x @ x), -2.0 * x


def climbed() -> Any:
    return make_optimizer("adam", steps=5)(parabola, np.full(2, 0.5), -np.ones(2), np.ones(2))


RESPONSE: dict[str, Any] = {"upper_params": X, "objective": -1.19859, "hyper_gradient": X + 1.0}
ERRORS: dict[str, Any] = {"objective_se": 0.0312, "hyper_gradient_se": np.full(3, 0.1)}
GAME = BilevelGridWorld(map_name="4x4")

# What is shown, and how it looks.
SHOWN = (
    (Response(**RESPONSE), "Response(objective=-1.1986, |gradient|=1.73)"),
    (
        Response(**RESPONSE, **ERRORS, hyper_gradient_cosine=0.934, samples=46031),
        "Response(objective=-1.1986±0.031, |gradient|=1.73±0.17, cosine=0.93, samples=46031)",
    ),
    (
        Response(upper_params=X, objective=2.0, residual=2.2e-16, converged=False),
        "Response(objective=2, residual=2e-16, converged=False)",
    ),
    (
        EpisodicResponse(**RESPONSE, trust=0.5, summary=(0.0, 0.0, 1.0)),
        "EpisodicResponse(objective=-1.1986, |gradient|=1.73, trust=0.5)",
    ),
    (BilevelGridWorld(), "BilevelGridWorld()"),
    (
        BilevelGridWorld(None, "4x4", slip=0.2, gamma=0.95),
        "BilevelGridWorld(map_name='4x4', slip=0.2)",
    ),
    (BilevelRandomMDP(num_states=5), "BilevelRandomMDP(num_states=5)"),
    (
        array_game(gamma=0.5).model,
        "ArrayModel(num_states=3, num_actions=2, upper_params=(3,), gamma=0.5, temperature=0.2)",
    ),
    (make_method("exact", GAME), "Exact()"),
    (make_method("trace", GAME, episodes=64), "Trace(episodes=64)"),
    (climbed(), "Optimum(value=0.55815, first=0.5, evaluations=6, message='5 steps taken')"),
    (climbed().best, "Iterate(number=5, value=0.55815, |projected gradient|=1.33)"),
    (Restarts((climbed(),), 0), "Restarts(value=0.55815, starts=[0.55815], best=0)"),
    (Score(-12.3456, 0.41, 30), "Score(mean=-12.346, standard_error=0.41, episodes=30)"),
)


@pytest.mark.parametrize(("thing", "said"), SHOWN, ids=[said for _, said in SHOWN])
def test_a_thing_says_what_it_is(thing: object, said: str) -> None:
    assert repr(thing) == said


@pytest.mark.parametrize("task", [task.id for task in TASKS if "Beam" not in task.id])
def test_every_game_is_one_short_line(task: str) -> None:
    if "Reacher" in task or "BodyDesign" in task:
        pytest.importorskip("mujoco")
    if "Preference" in task:
        pytest.importorskip("torch")
    game = gym.make(task).unwrapped
    assert isinstance(game, BilevelEnv)
    assert repr(game).startswith(f"{type(game).__name__}(") and len(repr(game)) < 100
    assert "\n" not in repr(game.best_known) and len(repr(game.best_known)) < 200


def test_a_copy_says_the_same() -> None:
    game = BilevelGridWorld(slip=0.2)
    for other in (copy.deepcopy(game), pickle.loads(pickle.dumps(game))):
        assert repr(other) == repr(game) == "BilevelGridWorld(slip=0.2)"


def test_the_learnt_games_say_their_environment() -> None:
    def features(observations: Any, actions: Any) -> Any:
        return observations[:, :1]

    model = {"kind": "linear", "features": features, "num_params": 1}
    game = ParametricGame("CartPole-v1", model, temperature=0.1)
    assert repr(game).startswith("ParametricGame(env_id='CartPole-v1', reward_model={")
    assert repr(game).endswith("temperature=0.1)")


class Wide(Made):
    """A class that passes options on."""

    def __init__(self, first: Any, second: Any = 2, **others: Any) -> None:
        pass


class For(MadeFor):
    """A class that is made for something."""

    def __init__(self, owner: Any, *, share: float = 0.5) -> None:
        pass


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (Wide(1), "Wide(first=1)"),
        (Wide(np.zeros((4, 5)), 2, third=None), "Wide(first=array[4, 5], third=None)"),
        (Wide([1, 2], second=[0] * 20), "Wide(first=[1, 2], second=[0, 0, 0, 0, 0, 0, 0, 0, ...])"),
        (Wide(10**5000), "Wide(first=an integer of about 5001 digits)"),
        (Wide(For(1, share=0.1)), "Wide(first=For(share=0.1))"),
        (For("owner"), "For()"),
    ],
)
def test_arguments_are_cut_where_they_are_long(thing: Described, said: str) -> None:
    assert repr(thing) == said


def test_numbers_are_short() -> None:
    assert number(-1.198591) == "-1.1986" and number(2.0, 0.1234) == "2±0.12"
    assert brief(np.float64(0.1)) == "0.1" and brief(np.arange(3)) == "[0, 1, 2]"


def test_a_misspelt_argument_of_a_game_is_told_with_the_right_one() -> None:
    with pytest.raises(TypeError, match="BilevelGridWorld: 'slipp'.*'slip'"):
        BilevelGridWorld(slipp=0.2)  # type: ignore[call-arg]


# Pictures ---------------------------------------------------------------------------------------


def test_notebooks_show_the_picture_of_a_game() -> None:
    shown = BilevelGridWorld(map_name="4x4")._repr_png_()
    assert shown is not None and shown.startswith(b"\x89PNG")


class Broken(BilevelGridWorld):
    """A game whose picture fails."""

    def draw(self, view: Any) -> Any:
        raise ZeroDivisionError


def test_a_picture_that_fails_does_no_harm() -> None:
    assert Broken()._repr_png_() is None


def test_a_large_game_is_not_solved_to_be_shown() -> None:
    game = BilevelRandomMDP(num_states=20_000, branching=2, reward="linear")
    assert game._repr_png_() is None and game._answer is None


def test_showing_the_text_loads_neither_pygame_nor_pillow() -> None:
    code = (
        "import sys, bilevel_gym, gymnasium as gym\n"
        "env = gym.make('BilevelGridWorld-v0')\n"
        "repr(env), repr(env.unwrapped)\n"
        "print({'pygame', 'PIL'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
