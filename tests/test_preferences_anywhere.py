"""Preferences between fragments of any environment: early ends, judges of one's own, refusals."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("stable_baselines3", reason='needs pip install -e ".[sb3]"')

from bilevel_gym import HyperGradient
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import DesignGame, ParametricGame
from bilevel_gym.episodes.fragments import Fragment, Pairs, Windows, num_fragments
from bilevel_gym.episodes.recorded import LearntEpisodes
from bilevel_gym.learnt.answers import PreferenceQueue
from bilevel_gym.model.judges import BradleyTerry, Later, OneByOne

from .helpers import refusals
from .learnt import TINY_LEARNER, assert_goes_on_from_a_file

QUICK: dict[str, Any] = {"first_comparisons": 6, "comparisons": 4, "ask_every": 2}
QUICK |= {"inner_steps": 8, "inner_options": TINY_LEARNER}


def features(observations: Any, actions: Any) -> FloatArray:
    """Return the size of each number that is observed."""
    return np.abs(np.asarray(observations, np.float64))


def game(env: str = "CartPole-v1", size: int = 4, **options: Any) -> ParametricGame:
    model = {"kind": "linear", "features": features, "num_params": size}
    options = {"preferences": {"fragment_steps": 6}, "episode_steps": 30, **options}
    return ParametricGame(env, model, **options)


def seat(method: str = "direct", *, of: Any = None, **options: Any) -> Any:
    if method == "trace":
        options = {"critic_updates": 5, **options}
    return HyperGradient(of or game(), method=method, **{**QUICK, **options})


def episodes_of(lengths: list[int], ended: list[bool]) -> LearntEpisodes:
    """Return episodes of some lengths, whose rewards count their steps from 1."""
    steps, count = max(lengths), len(lengths)
    alive = np.arange(steps)[:, None] < np.array(lengths)
    numbers = np.broadcast_to(np.arange(1.0, steps + 1.0)[:, None], alive.shape)
    last = np.zeros_like(alive)
    last[np.array(lengths) - 1, np.arange(count)] = ended
    seen = np.stack([numbers, np.broadcast_to(np.arange(count), alive.shape)], axis=2)
    paid = np.where(alive, numbers, 0.0)
    actions = np.zeros(alive.shape, np.int64)
    return LearntEpisodes(seen, actions, paid, paid, alive, paid, seen, last)


# Fragments -----------------------------------------------------------------------------------


def test_an_end_is_part_of_a_fragment_and_a_cut_is_not() -> None:
    played = episodes_of([12, 12, 7, 7, 3, 3], [True, False, True, False, True, False])
    assert num_fragments(played, 5).tolist() == [3, 2, 2, 1, 1, 1]


def test_fragments_that_end_early_have_the_steps_that_there_are() -> None:
    played = episodes_of([12, 7, 3, 12], [True, True, True, True])
    windows = Windows.drawn(100, num_fragments(played, 5), 5, np.random.default_rng(0))
    pairs = windows.cut(played)
    assert len(pairs) == 2 + 1  # as many as the shorter episode of each two has
    assert pairs.alive.sum(axis=2).max() == 5
    for pair in range(len(pairs)):
        for side in (0, 1):
            fragment = pairs.fragment(pair, side)
            number, start = windows.episodes[pair, side], windows.starts[pair, side]
            length = min(5, int(played.alive[:, number].sum()) - start)
            assert fragment.rewards.tolist() == [start + 1.0 + k for k in range(length)]
            assert (fragment.observations[:, 1] == number).all()
            assert pairs.rewards[pair, side].sum() == fragment.rewards.sum()


def short_pairs() -> Pairs:
    """Return pairs of fragments, half of which end after two steps; rewards are 1 a step."""
    rng = np.random.default_rng(3)
    alive = np.ones((8, 2, 6), np.bool_)
    alive[:, 1, 2:] = False
    seen, taken = rng.normal(size=(8, 2, 6, 4)), rng.integers(2, size=(8, 2, 6))
    return Pairs(seen, taken, alive.astype(np.float64), alive)


@pytest.mark.parametrize("entropy", ["plain", "relative"])
def test_r_x_is_summed_over_the_steps_of_a_fragment(entropy: str, tmp_path: Path) -> None:
    of, queue = game(entropy=entropy), PreferenceQueue()
    queue.add(short_pairs(), np.linspace(0.0, 1.0, 8))
    queue.save(tmp_path / "queue.npz")
    x = np.array([0.3, -0.2, 0.5, 0.1])
    for told in (queue, PreferenceQueue.load(tmp_path / "queue.npz")):
        assert told.pairs is not None
        sums = [
            [(features(part.observations, part.actions) @ x).sum() for part in two]
            for two in ((told.pairs.fragment(k, 0), told.pairs.fragment(k, 1)) for k in range(8))
        ]
        first = 1.0 / (1.0 + np.exp(np.diff(sums, axis=1)[:, 0]))
        by_hand = told.answers * np.log(first) + (1.0 - told.answers) * np.log(1.0 - first)
        likelihoods, gradient = told.likelihood(of, x)
        np.testing.assert_allclose(likelihoods, by_hand, rtol=1e-10)
        for entry in 1e-6 * np.eye(4):
            ends = [told.likelihood(of, x + sign * entry)[0].mean() for sign in (1.0, -1.0)]
            slope = (ends[0] - ends[1]) / 2e-6
            assert gradient @ entry / 1e-6 == pytest.approx(slope, rel=1e-5)


# Judges --------------------------------------------------------------------------------------


def prefers_long(first: Fragment, second: Fragment) -> float:
    """Prefer the longer fragment."""
    return 0.5 + 0.5 * np.sign(len(first.rewards) - len(second.rewards))


def test_a_function_of_two_fragments_judges() -> None:
    pairs = short_pairs()
    assert OneByOne(prefers_long)(pairs, np.random.default_rng(0)) == [1.0] * 8
    env = seat(of=game(preferences={"fragment_steps": 20, "compare": prefers_long}))
    env.reset(seed=0)
    told = env.method.queue
    lengths = told.pairs.alive.sum(axis=2)
    assert len(told) > 0 and (lengths < 20).any()  # poles fall
    expected = 0.5 + 0.5 * np.sign(lengths[:, 0] - lengths[:, 1])
    np.testing.assert_array_equal(told.answers, expected)


def test_a_judge_who_answers_later_keeps_pairs_that_can_be_played_again() -> None:
    later = Later()
    env = seat(of=game(preferences={"fragment_steps": 6, "judge": later}))
    env.reset(seed=0)
    assert len(later.waiting) == env.method.shown and not len(env.method.queue)
    pair = later.waiting[-1]
    assert pair.windows is not None and pair.played is not None and pair.played.seeds is not None
    for side in (0, 1):
        number, start = int(pair.windows.episodes[0, side]), int(pair.windows.starts[0, side])
        copy = env.game.make_environment()
        seen, _ = copy.reset(seed=int(pair.played.seeds[number]))
        for step in range(start):
            seen, *_ = copy.step(pair.played.actions[step, number])
        np.testing.assert_allclose(seen, pair.observations[0, side, 0], rtol=1e-6)
    env.method.queue.add(pair, [1.0])
    assert env.method.queue.pairs.played is None  # what is remembered is the fragments


# The leader's seat ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "size", "method"),
    [
        ("CartPole-v1", 4, "direct"),
        ("CartPole-v1", 4, "sobirl"),
        ("CartPole-v1", 4, "trace"),
        ("MountainCarContinuous-v0", 2, "direct"),
        ("MountainCarContinuous-v0", 2, "sobirl"),
    ],
)
def test_any_environment_can_be_asked_about(env: str, size: int, method: str) -> None:
    def told() -> list[Any]:
        leader = seat(method, of=game(env, size))
        _, info = leader.reset(seed=1)
        found = []
        for _ in range(3):
            x = np.clip(info["upper_params"] + 0.5 * info["hyper_gradient"], -10.0, 10.0)
            _, objective, _, _, info = leader.step(x)
            found += [objective, *info["hyper_gradient"]]
        assert leader.method.shown == len(leader.method.queue) > 4
        return found

    first = told()
    assert first == told() and np.isfinite(first).all() and any(first[-size:])


@pytest.mark.parametrize("method", ["direct", "sobirl", "trace"])
def test_who_loads_goes_on(method: str, tmp_path: Path) -> None:
    assert_goes_on_from_a_file(partial(seat, method), tmp_path)


def test_a_weight_is_learnt_from_what_a_judge_likes() -> None:
    # The judge likes poles that stand; x weighs |position|, |speed|, |angle|, |its speed|.
    def upright(first: Fragment, second: Fragment) -> float:
        lean = [float(np.abs(part.observations[:, 2]).mean()) for part in (first, second)]
        return float(lean[0] < lean[1])

    preferences = {"fragment_steps": 6, "compare": upright}
    env = seat(of=game(preferences=preferences), first_comparisons=60)
    _, info = env.reset(seed=0)
    queue, x = env.method.queue, info["upper_params"]
    start = float(queue.likelihood(env.game, x)[0].mean())
    for _ in range(500):
        x = np.clip(x + 0.5 * queue.likelihood(env.game, x)[1], -10.0, 10.0)
    assert start == pytest.approx(-np.log(2.0))
    assert float(queue.likelihood(env.game, x)[0].mean()) > start + 0.2
    assert x[2] < -1.0


test_preferences_that_cannot_be_are_refused = refusals(
    lambda preferences: game(preferences=preferences),
    ({"preferences": 3}, TypeError, "`preferences` must be a dict of options, .*, got 3"),
    ({"preferences": {"fragment_step": 3}}, TypeError, "Did you mean 'fragment_steps'"),
    ({"preferences": {"fragment_steps": 0}}, "`fragment_steps` must be an integer of at least 1"),
    ({"preferences": {"fragment_steps": 31}}, "`episode_steps` .* at least 31, got 30"),
    ({"preferences": {"rationality": 0.0}}, "`rationality` must be positive"),
    ({"preferences": {"judge": 3}}, TypeError, "`judge` must be a function .*, got 3"),
    ({"preferences": {"compare": "two"}}, "must be named \"module:function\", got 'two'"),
    (
        {"preferences": {"judge": BradleyTerry(), "compare": prefers_long}},
        "`compare` must be None where there is a `judge`, got both",
    ),
)


def test_what_does_not_go_with_preferences_is_refused() -> None:
    with pytest.raises(ValueError, match="CartPole-v1 reads terms of the environment, got .*own_r"):
        game(own_reward="knob")
    with pytest.raises(ValueError, match="CartPole-v1 reads terms of the environment"):
        DesignGame("CartPole-v1", "own_reward", own_reward=False, preferences={})
    with pytest.raises(TypeError, match="'score' does not suit .* learnt from preferences"):
        seat("score")
    with pytest.raises(TypeError, match='actions of MountainCarC.*; take "direct" or "sobirl"'):
        seat("trace", of=game("MountainCarContinuous-v0", 2))


# The window ----------------------------------------------------------------------------------


def test_fragments_are_played_once_more_and_a_film_needs_no_display(tmp_path: Path) -> None:
    from PIL import Image

    from bilevel_gym.viewer.comparing import compare

    of = game("Acrobot-v1", 6, preferences={"fragment_steps": 20})
    path = tmp_path / "film.gif"
    judge = of.judge
    found = compare(of, answers=2, headless=path, inner_steps=8, inner_options=TINY_LEARNER)
    assert found.answers == 2 == len(found.seat.method.queue) and of.judge is judge  # type: ignore[attr-defined]
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) >= 3


def test_what_cannot_be_shown_is_refused() -> None:
    from bilevel_gym.viewer.comparing import Clips, compare

    plain = game(preferences=None)
    with pytest.raises(TypeError, match="must be a ParametricGame with `preferences`"):
        compare(plain, headless=Path("film.gif"))
    later = Later()
    env = seat(of=game(preferences={"fragment_steps": 6, "judge": later}))
    env.reset(seed=0)
    clips, pair = Clips(env.game), later.waiting[0]
    assert len(clips.film(pair, 0)) == pair.alive[0, 0].sum()
    pair.observations[0, 0] += 1.0  # as if it had gone another way
    with pytest.raises(RuntimeError, match="does not go the same way twice"):
        clips.film(pair, 0)
