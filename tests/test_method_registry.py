"""Methods by name: rows of the table, methods from outside, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

import bilevel_gym
from bilevel_gym import HyperGradient, register_method
from bilevel_gym.cli import main
from bilevel_gym.core.checks import accepted_options
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.methods import LEARNT_METHODS, METHODS, Response, make_method, method_names
from bilevel_gym.methods import registry as registry_module
from bilevel_gym.methods.registry import WrongAnswer, checked_response, resolve_method
from bilevel_gym.model import ArrayModel, BilevelModel, evaluate
from bilevel_gym.testing import MethodError, check_method

from .helpers import refusals
from .learnt import TINY_LEARNER

Patch = pytest.MonkeyPatch

GRID, MARKET = "BilevelGridWorld-v0", "BilevelMarkovGame-v0"
HERE = f"{__name__}:Halved"


class Halved:
    """A method of somebody else: half the exact hyper-gradient."""

    exact: ClassVar[bool] = False

    def __init__(self, model: Any, share: float = 0.5) -> None:
        if not isinstance(model, BilevelModel):
            raise TypeError(f"Halved needs an exact answer, which {type(model).__name__} lacks")
        self._model, self._share = model, share

    def reset(self, rng: np.random.Generator) -> None:
        """Forget nothing."""

    def step(self, upper_params: FloatArray) -> Response:
        answer = evaluate(self._model, upper_params)
        return replace(answer, hyper_gradient=self._share * answer.hyper_gradient)


ONES: Any = {"upper_reward": [[1.0]], "initial_distribution": [1.0]}
HALVED = Halved(ArrayModel(np.ones((1, 1, 1)), np.ones((1, 1)), **ONES))


class NoMethod:
    """A class without `step`."""

    exact = False

    def reset(self, rng: np.random.Generator) -> None:
        """Do nothing."""


class Undeclared(Halved):
    """It does not say whether it is exact."""

    exact = None  # type: ignore[assignment]


class Unbuildable(Halved):
    """It takes no game."""

    def __init__(self) -> None:
        """Take nothing."""


@pytest.fixture(autouse=True)
def _own_table(monkeypatch: Patch) -> None:
    monkeypatch.setattr(registry_module, "_registered", {})


def first_gradient(**options: Any) -> FloatArray:
    _, info = HyperGradient(gym.make(GRID, map_name="4x4"), **options).reset(seed=0)
    gradient: FloatArray = info["hyper_gradient"]
    return gradient


def test_a_method_of_ones_own_is_taken_by_place_by_name_and_by_class() -> None:
    exact = first_gradient()
    np.testing.assert_array_equal(first_gradient(method=HERE), 0.5 * exact)
    np.testing.assert_array_equal(first_gradient(method=HERE, share=0.25), 0.25 * exact)
    register_method("halved", HERE)
    bilevel_gym.register_method("also-halved", Halved)
    for name in ("halved", "also-halved"):
        np.testing.assert_array_equal(first_gradient(method=name, share=0.125), 0.125 * exact)
    assert method_names()[-2:] == ["halved", "also-halved"]
    seat = HyperGradient(gym.make(GRID), method="halved", share=0.25)
    assert seat.spec is not None
    again = gym.make(gym.envs.registration.EnvSpec.from_json(seat.spec.to_json()))
    assert again.get_wrapper_attr("method")._share == 0.25
    # A class that is defined anew, as by a cell of a notebook, replaces its former self.
    register_method("halved", Halved)


def test_methods_from_outside_are_offered_to_every_game_and_named_in_mistakes() -> None:
    register_method("halved", Halved)
    _, info = bilevel_gym.make("BilevelLQR-v0", method="halved").reset(seed=0)
    assert np.isfinite(info["hyper_gradient"]).all()
    with pytest.raises(TypeError, match="Halved needs an exact answer, which BilevelPendulum"):
        HyperGradient(gym.make("BilevelPendulum-v0"), method="halved")
    game = bilevel_gym.make(GRID).game
    with pytest.raises(ValueError, match="unknown method 'halve'.*Did you mean 'halved'"):
        make_method("halve", game)
    with pytest.raises(TypeError, match="method 'halved': 'shar'.*Accepted: 'share'"):
        make_method("halved", game, shar=0.1)


@pytest.mark.parametrize(
    ("name", "target", "error", "message"),
    [
        ("exact", HERE, ValueError, "'exact' is taken by bilevel_gym.methods.exact:Exact"),
        ("halved", f"{__name__}:NoMethod", ValueError, f"is taken by {HERE}"),
        ("two words", HERE, ValueError, "`name` must be letters"),
        ("a:B", HERE, ValueError, "`name` must be letters"),
        (3, HERE, ValueError, "`name` must be letters"),
        ("other", "no_such_module:Halved", ImportError, "cannot import 'no_such_module'.*No mod"),
        ("other", f"{__name__}:Halve", ValueError, "unknown class of .*Did you mean 'Halved'"),
        ("other", f"{__name__}:NoMethod", TypeError, "NoMethod is no method: .*no method `step`"),
        ("other", NoMethod, TypeError, "NoMethod is no method: it has no method `step`"),
        ("other", Undeclared, TypeError, "does not declare `exact`, True or False"),
        ("other", Unbuildable, TypeError, r"Unbuildable\(model, \*\*options\) must be possible"),
        ("other", f"{__name__}:first_gradient", TypeError, "a class is expected"),
        ("other", "trice", ValueError, "unknown method 'trice'.*Did you mean 'trace'"),
        ("other", "numpy:", ValueError, "row of the tables, a registered name or 'module:Class'"),
        ("other", ":Halved", ValueError, "row of the tables, a registered name or 'module:Class'"),
        ("other", HALVED, TypeError, "or 'module:Class', got <"),
        ("other", None, TypeError, "or 'module:Class', got None"),
    ],
)
def test_what_cannot_be_registered_is_named_and_nothing_is_kept(
    name: Any, target: Any, error: type[Exception], message: str
) -> None:
    register_method("halved", Halved)
    if name == "halved":
        target = f"{__name__}:Quartered"
    with pytest.raises(error, match=message):
        register_method(name, target)
    assert method_names()[len({**METHODS, **LEARNT_METHODS}) :] == ["halved"]
    if name == "other":  # the seat says the same
        with pytest.raises(error, match=message):
            make_method(target, bilevel_gym.make(GRID).game)


class Quartered(Halved):
    """Another method."""


def test_a_module_that_fails_says_so_in_one_line(tmp_path: Path, monkeypatch: Patch) -> None:
    (tmp_path / "failing_module.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="cannot import 'failing_module' .*ZeroDivisionError"):
        register_method("failing", "failing_module:Method")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, [*arguments])


def answer(**changes: Any) -> Any:
    fields = {"upper_params": np.zeros(2), "objective": 1.0, "hyper_gradient": np.ones(2)}
    return Response(**{**fields, **changes})


@pytest.mark.parametrize(
    ("response", "error", "message"),
    [
        ({"objective": 1.0}, WrongAnswer, "a `Response`, got dict"),
        (answer(hyper_gradient=[1.0, 1.0]), WrongAnswer, "float64 array .*got list"),
        (answer(hyper_gradient=np.ones(2, np.float32)), WrongAnswer, "got ndarray of float32"),
        (answer(hyper_gradient=np.ones(3)), WrongAnswer, r"shape of x, \(2,\), got \(3,\)"),
        (answer(hyper_gradient=np.array([0.0, np.nan])), ArithmeticError, r"got nan at \[1\]"),
        (answer(objective=-np.inf), ArithmeticError, "finite objective, got -inf"),
    ],
)
def test_wrong_answers_name_the_method(response: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"`step` of the method Halved must return .*{message}"):
        checked_response(response, np.zeros(2), HALVED)


def test_a_right_answer_is_returned_as_it_is() -> None:
    for right in (answer(), answer(hyper_gradient=None)):
        assert checked_response(right, np.zeros(2), HALVED) is right


# Installed packages -----------------------------------------------------------------------------

PLUGIN = """
from tests.test_method_registry import Halved
from bilevel_gym.envs import BilevelGridWorld

class Mine(Halved):
    pass

class Maze(BilevelGridWorld):
    pass
"""

DECLARED = """
[bilevel_gym.methods]
mine = maze_plugin:Mine
broken = maze_plugin:Nothing
exact = maze_plugin:Mine

[bilevel_gym.tasks]
Maze-v0 = maze_plugin:Maze
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with an installed package that declares a task and methods."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "maze_plugin.py").write_text(PLUGIN)
    about = folder / "maze_plugin-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: maze-plugin\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(DECLARED)
    yield folder


def test_installed_packages_are_read_without_importing_them(installed: Path) -> None:
    code = f"""
import sys
sys.path.append({str(installed)!r})
import bilevel_gym, gymnasium as gym
from bilevel_gym.methods import method_names
from bilevel_gym.registration import task_ids
assert task_ids()[-1] == "Maze-v0" and method_names()[-2:] == ["broken", "mine"]
assert "maze_plugin" not in sys.modules and "bilevel_gym.wrappers" not in sys.modules
env = bilevel_gym.HyperGradient(gym.make("Maze-v0", map_name="4x4"), method="mine", share=0.25)
print(type(env.method).__name__, type(env.game).__name__)
from click.testing import CliRunner
from bilevel_gym.cli import main
listed = "".join(CliRunner().invoke(main, [c]).output for c in ("list", "methods"))
assert "Maze-v0" in listed and "maze_plugin:Mine" in listed, listed
try:
    bilevel_gym.make("Maze-v0", method="broken")
except ValueError as error:
    print(error)
try:
    bilevel_gym.register_method("mine", "tests.test_method_registry:Halved")
except ValueError as error:
    print(error)
"""
    command = [sys.executable, "-W", "always", "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    made, broken, taken = ran.stdout.splitlines()
    assert made == "Mine Maze"
    assert "unknown class of maze_plugin: 'Nothing'" in broken
    assert "`name` 'mine' is taken by maze_plugin:Mine" in taken
    assert "the entry point 'exact' of maze-plugin" in ran.stderr and "is taken" in ran.stderr


# The command line -------------------------------------------------------------------------------


def test_the_command_line_takes_lists_and_completes_methods_from_outside(tmp_path: Path) -> None:
    solve = ("solve", GRID, "--set", "map_name=4x4", "--steps", "2", "--no-polish", "--method")
    place = run(*solve, HERE, "--method-set", "share=0.25", "--out", str(tmp_path / "place"))
    assert place.exit_code == 0, place.output
    register_method("halved", Halved)
    named = run(*solve, "halved", "--out", str(tmp_path / "name"))
    assert named.exit_code == 0, named.output
    wrong = run(*solve, "halve", "--out", str(tmp_path / "wrong"))
    assert wrong.exit_code == 2 and "Did you mean 'halved'?" in wrong.stderr
    absent = run(*solve, "no_such_module:X", "--out", str(tmp_path / "wrong"))
    assert absent.exit_code == 2 and "cannot import 'no_such_module'" in absent.stderr
    assert wrong.stderr.count("\n") == absent.stderr.count("\n") == 1
    completer = ShellComplete(main, {}, "bilevel-gym", "_COMPLETE")
    offered = [item.value for item in completer.get_completions(["solve", "--method"], "ha")]
    assert offered == ["halved"]


# The conformance test ---------------------------------------------------------------------------

# What makes an answer quick, for methods that take it.
QUICKLY: dict[str, Any] = {"episodes": 32, "inner_steps": 8, "first_inner_steps": 16}
QUICKLY |= {"critic_updates": 2, "first_critic_updates": 2, "inner_options": TINY_LEARNER}
ROWS = [
    *((name, GRID if name.startswith("deep-") else None) for name in METHODS),
    *((name, "BilevelCartPole-v0") for name in LEARNT_METHODS),
    *((name, "BilevelPreferencePendulum-v0") for name in ("direct", "sobirl", "trace")),
]


@pytest.mark.filterwarnings("ignore:the one-step response term is zero")
@pytest.mark.parametrize(("name", "env_id"), ROWS, ids=lambda value: value and str(value))
def test_every_row_keeps_what_methods_promise(name: str, env_id: str | None) -> None:
    learns = env_id is not None
    options = {}
    if learns == name.startswith("deep-"):
        accepted = accepted_options(resolve_method(name))
        given = QUICKLY if learns else {"episodes": 32}
        options = {key: value for key, value in given.items() if key in accepted}
    report = check_method(name, env_id, options=options, estimates=2 if learns else 8)
    assert set(report.passed) == {
        "hyper-gradient",
        "seeds",
        "pickling",
        "resuming",
        "bounds",
        "info",
        "options",
    }
    if not learns:
        suited = [row for row in report.tasks if row.refusal is None]
        # A follower can be paid the leader's return, without a horizon.
        others = {MARKET, "BilevelRandomMDP-v0"} if name == "first-order-penalty" else set()
        assert len(suited) >= 4 - (len(others) > 0) and all(row.bias is not None for row in suited)
        refused = {row.task for row in report.tasks if row.refusal}
        assert "BilevelCartPole-v0" in refused
        if "episodes" in options:
            assert refused == {"BilevelLQR-v0", "BilevelCartPole-v0", *others}


def test_methods_are_checked_without_the_extra_of_learners() -> None:
    code = (
        "import sys; sys.modules['stable_baselines3'] = None\n"
        "from bilevel_gym.testing import check_method\n"
        "print(check_method('direct', estimates=2))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "refuses BilevelCartPole-v0" in run.stdout


class Noisy(Halved):
    """The exact hyper-gradient with noise whose mean is zero, or nearly so."""

    unbiased: ClassVar[bool] = True
    drift = 0.0

    def __init__(self, model: Any) -> None:
        super().__init__(model, 1.0)
        self._rng = np.random.default_rng(0)

    def reset(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def step(self, upper_params: FloatArray) -> Response:
        answer = super().step(upper_params)
        exact = answer.hyper_gradient
        assert exact is not None
        noise = self._rng.normal(self.drift, 0.1, exact.shape) * np.linalg.norm(exact)
        return replace(answer, hyper_gradient=exact + noise)


def test_noise_alone_is_no_bias_and_a_class_of_a_function_is_checked_too() -> None:
    class Local(Noisy):
        """It cannot be pickled, nor found by its name."""

    report = check_method(Noisy, estimates=64)
    assert report.unbiased and not report.exact
    grid = report.tasks[0]
    assert grid.estimates == 64 and grid.bias is not None and grid.noise is not None
    assert 0.0 < grid.bias < grid.noise
    assert "declared unbiased" in str(report) and "refuses BilevelCartPole-v0" in str(report)
    assert check_method(Local, GRID).tasks[0].cosine == check_method(Noisy, GRID).tasks[0].cosine


class Drifting(Noisy):
    drift = 0.2


class Inexact(Halved):
    exact: ClassVar[bool] = True


class Unseeded(Noisy):
    unbiased = False

    def reset(self, rng: np.random.Generator) -> None:
        """Go on with random numbers of its own."""


class NotFinite(Halved):
    def __init__(self, model: Any) -> None:
        super().__init__(model, np.nan)


class Elsewhere(Halved):
    def step(self, upper_params: FloatArray) -> Response:
        return replace(super().step(upper_params), upper_params=upper_params + 1.0)


class Careless(Halved):
    def __init__(self, model: Any) -> None:
        self._model, self._share = model, 0.5


class Fussy(Halved):
    def __init__(self, model: Any) -> None:
        raise TypeError("nothing suits it")


class Unpicklable(Halved):
    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._hook = lambda: None


class Outside(Halved):
    """It takes differences, also where one of the two x is outside the box."""

    def step(self, upper_params: FloatArray) -> Response:
        for sign in (-1.0, 1.0):
            evaluate(self._model, upper_params + sign * 1e-4)
        return super().step(upper_params)


class Forgetful(Halved):
    """The more x it has answered, the longer its gradient; its state does not say how many."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._answered = 0

    def reset(self, rng: np.random.Generator) -> None:
        self._answered = 0

    def step(self, upper_params: FloatArray) -> Response:
        answer = super().step(upper_params)
        assert answer.hyper_gradient is not None
        self._answered += 1
        return replace(answer, hyper_gradient=answer.hyper_gradient * self._answered)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Forgetful, "resuming, arrays: the method that goes on from `state_dict` gives"),
        (Inexact, "hyper-gradient, arrays: declared exact, but .* off by 5.0e-01"),
        (Drifting, "hyper-gradient, arrays: declared unbiased, but the mean of 32 estimates"),
        (Unseeded, "seeds, arrays: the same seed gives another answer at step 0 after a reset"),
        (NotFinite, "answers, arrays: .*NotFinite: .* finite hyper-gradient, got nan"),
        (Elsewhere, "info, arrays: `upper_params` of the response is not the x"),
        (Careless, "answers, BilevelCartPole-v0: .* refused by its constructor, with a TypeError"),
        (Fussy, "games, all: it refuses every one: nothing suits it"),
        (Outside, r"bounds, arrays: x on the bounds .* `upper_params\[.* got .*; clip it"),
        (Unpicklable, "pickling, arrays: .*[Pp]ickle"),
    ],
)
def test_what_a_method_breaks_is_listed_with_the_task(method: Any, message: str) -> None:
    with pytest.raises(MethodError, match=message) as caught:
        check_method(method)
    assert str(caught.value.report) in str(caught.value) and caught.value.report.failures
    if method is Careless:
        assert len(caught.value.report.failures) == 1


def test_the_command_checks_a_method_and_prints_its_card() -> None:
    right = run("check-method", HERE, "--task", "BilevelRandomMDP-v0", "--method-set", "share=0.25")
    assert right.exit_code == 0, right.output
    assert "BilevelRandomMDP-v0" in right.output and "0.75" in right.output
    wrong = run("check-method", f"{__name__}:Inexact", "--task", GRID)
    assert wrong.exit_code == 1 and "FAILED: hyper-gradient" in wrong.output
    for arguments, said in (
        (("trice",), "Did you mean 'trace'?"),
        ((HERE, "--method-set", "shar=1"), "Accepted: 'share'"),
        ((HERE, "--task", "BilevelGridWord-v0"), f"Did you mean '{GRID}'?"),
    ):
        refused = run("check-method", *arguments)
        assert refused.exit_code == 2 and said in refused.stderr
        assert refused.stderr.count("\n") == 1


# One call ---------------------------------------------------------------------------------------


def test_make_gives_each_argument_to_whoever_takes_it() -> None:
    options: dict[str, Any] = {"map_name": "4x4", "method": "trace", "episodes": 8}
    options |= {"outer_steps": 3}
    env = bilevel_gym.make(GRID, **options, render_mode="rgb_array")
    assert isinstance(env, HyperGradient) and env.outer_steps == 3
    assert env.render_mode == "rgb_array" and env.game.spec is not None
    assert env.game.spec.kwargs["map_name"] == "4x4"
    _, info = env.reset(seed=0)
    assert info["inner_samples"] > 0


@pytest.mark.parametrize(
    ("method", "options"),
    [(None, {}), ("trace", {"first_inner_steps": 7}), ("hpgd", {"inner_steps": 7})],
)
def test_make_knows_the_methods_of_followers_who_learn(
    method: str | None, options: dict[str, Any]
) -> None:
    env = bilevel_gym.make(
        "BilevelPendulum-v0", method=method, episode_steps=20, episodes=2, **options
    )
    assert type(env.method) is resolve_method(method or "score", env.game)
    with pytest.raises(TypeError, match="the method 'score'.* Did you mean 'episodes'"):
        bilevel_gym.make("BilevelPendulum-v0", episode=2)


test_make_names_what_is_refused = refusals(
    lambda env_id=GRID, **options: bilevel_gym.make(env_id, **options),
    ({"map_nam": "4x4"}, TypeError, "'map_nam'.*Did you mean 'map_name'"),
    ({"method": "trace", "episode": 8}, TypeError, "Did you mean 'episodes'"),
    ({"slip": 2.0}, "cannot make .*`slip` must lie in"),
    ({"method": "trace", "episodes": 0}, "cannot take .*`episodes` must be"),
    ({"outer_steps": 0}, "`outer_steps` must be an integer of at least 1"),
    ({"method": "trice"}, "Did you mean 'trace'"),
    ({"env_id": "BilevelGridWord-v0"}, f"unknown task .*Did you mean '{GRID}'"),
    ({"env_id": "no_such_module:X-v0"}, ImportError, "cannot import 'no_such_module'"),
    (
        {"env_id": MARKET, "method": "trace", "horizon": 3},
        TypeError,
        "both .* 'trace' take `horizon`",
    ),
)
