"""The safe climb: what falls is undone, the follower included, and the best is compared anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from bilevel_gym import HyperGradient, RescaleUpper
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.core.state import read_tree, write_tree
from bilevel_gym.optimizers import make_optimizer
from bilevel_gym.optimizers.natural import natural_step
from bilevel_gym.optimizers.revisable import Report, Revisable
from bilevel_gym.optimizers.safe import SafeClimb, safe
from bilevel_gym.sb3 import HyperGradientAscent
from bilevel_gym.wrappers import LeaderObjective

LOW, HIGH = -np.ones(2), np.ones(2)

QUICK: dict[str, Any] = {
    "episodes": 3,
    "inner_steps": 16,
    "first_inner_steps": 32,
    "critic_updates": 2,
    "inner_options": {
        "policy_kwargs": {"net_arch": [8]},
        "batch_size": 16,
        "learning_starts": 10,
        "train_freq": 2,
    },
}


class Pupil:
    """A seat whose follower is a number, its skill, that each answer changes.

    F(x) is a function of x and of the skill, watched with noise; an evaluation takes ten steps, and
    watching takes four.
    """

    def __init__(
        self,
        value: Callable[[FloatArray, float], float],
        teach: Callable[[FloatArray, float], float] = lambda x, skill: skill,
        *,
        noise: float = 0.01,
        slope: float = 1.0,
        report: dict[str, Any] | None = None,
    ) -> None:
        self._value, self._teach, self._noise, self._slope = value, teach, noise, slope
        self._known = {"metric": np.eye(2), **(report or {})}
        self._rng = np.random.default_rng(0)
        self.skill, self.samples = 0.0, 0
        self.asked: list[FloatArray] = []

    def __call__(self, x: FloatArray) -> tuple[float, FloatArray]:
        self.samples += 10
        self._answer(x)
        return float(self._values.mean()), self._slope * np.array([1.0, 0.0])

    def measure(self, x: FloatArray) -> Report:
        self.samples += 6
        self._answer(x)
        return self.report()

    def _answer(self, x: FloatArray) -> None:
        self.asked.append(x)
        self.skill = self._teach(x, self.skill)
        self._values = self._episodes(x)

    def _episodes(self, x: FloatArray) -> FloatArray:
        noise: FloatArray = self._noise * self._rng.standard_normal(8)
        return self._value(x, self.skill) + noise

    def watch(self, x: FloatArray) -> FloatArray:
        self.samples += 4
        return self._episodes(x)

    def report(self) -> Report:
        return Report(self._values, watched=4, **self._known)

    def snapshot(self) -> FloatArray:
        return np.array([self.skill])

    def restore(self, snapshot: FloatArray) -> None:
        self.skill = float(snapshot[0])


def climbed(pupil: Pupil, **options: Any) -> Any:
    assert isinstance(pupil, Revisable)
    return safe(pupil, np.zeros(2), LOW, HIGH, **options)


# Steps ------------------------------------------------------------------------------------------


def test_a_natural_step_has_the_divergence_that_was_asked_for() -> None:
    metric = np.array([[4.0, 1.0], [1.0, 2.0]])
    report = Report(np.zeros(1), metric)
    x, moved = natural_step(np.zeros(2), np.array([3.0, -1.0]), report, 0.02, LOW, HIGH)
    assert moved == pytest.approx(0.02, rel=5e-3)
    assert moved == pytest.approx(0.5 * x @ metric @ x)
    # To first order no other direction of this divergence gains as much.
    np.testing.assert_allclose(np.cross(metric @ x, [3.0, -1.0]), 0.0, atol=1e-3)


def test_a_step_at_a_bound_is_solved_for_among_the_others() -> None:
    metric = np.array([[1.0, 0.9], [0.9, 1.0]])
    start = np.array([1.0, 0.0])
    x, moved = natural_step(
        start, np.array([1.0, 0.5]), Report(np.zeros(1), metric), 0.02, LOW, HIGH
    )
    assert x[0] == 1.0 and x[1] == pytest.approx(np.sqrt(0.04), rel=1e-2)
    assert moved == pytest.approx(0.02, rel=1e-2)


def test_an_uncertain_step_is_shorter_and_none_is_taken_without_a_gradient() -> None:
    gradient, metric = np.array([1.0, 0.0]), np.eye(2)
    sure, unsure = (
        natural_step(
            np.zeros(2), gradient, Report(np.zeros(1), metric, cosine=cosine), 0.01, LOW, HIGH
        )[0]
        for cosine in (1.0, 0.5)
    )
    np.testing.assert_allclose(unsure, 0.5 * sure)
    still, moved = natural_step(
        np.zeros(2), np.zeros(2), Report(np.zeros(1), metric), 0.01, LOW, HIGH
    )
    assert not still.any() and moved == 0.0


# Climbs -----------------------------------------------------------------------------------------


def test_a_plain_function_is_climbed_within_its_box() -> None:
    def hill(x: FloatArray) -> tuple[float, FloatArray]:
        gap = np.array([1.0, 10.0]) * (x - [2.0, 0.3])
        return -float(gap @ gap), -2.0 * np.array([1.0, 10.0]) * gap

    best = make_optimizer("safe", steps=60)(hill, np.zeros(2), LOW, HIGH).best
    assert best.upper_params[0] == 1.0
    assert best.value == pytest.approx(-1.0, abs=0.02)


def test_a_step_that_lowers_the_value_is_undone_with_its_follower() -> None:
    # The gradient points the wrong way, and a follower who was misled stays worse for good.
    pupil = Pupil(
        lambda x, skill: -abs(x[0]) - skill, lambda x, skill: skill + 5.0 * (abs(x[0]) > 0.01)
    )
    found = climbed(pupil, steps=12)
    assert found.best.upper_params[0] == 0.0 and pupil.skill == 0.0
    assert found.best.value == pytest.approx(0.0, abs=0.02)
    steps = np.abs([x[0] for x in pupil.asked])
    assert len(set(steps.round(6))) > 3  # ever shorter ones were tried
    assert steps.max() == steps[1]


def test_the_best_follower_is_put_back_when_later_ones_are_worse() -> None:
    best_at = 3

    def teach(x: FloatArray, skill: float) -> float:
        return skill + 1.0

    pupil = Pupil(lambda x, skill: -0.001 * (skill - best_at) ** 2, teach, noise=1e-4)
    assert climbed(pupil, steps=10).evaluations == 11
    assert pupil.skill == best_at


def test_luck_is_not_what_is_returned() -> None:
    pupil = Pupil(lambda x, skill: 0.0, noise=1.0)
    values = [climbed(Pupil(lambda x, skill: 0.0, noise=1.0), steps=20).best.value for _ in "ab"]
    assert values[0] == values[1]  # a generator of its own
    assert abs(climbed(pupil, steps=20).best.value) < 3.0 / np.sqrt(8)


def test_a_lucky_evaluation_is_seen_through_by_fresh_episodes() -> None:
    class Lucky(Pupil):
        def _answer(self, x: FloatArray) -> None:
            super()._answer(x)
            self._values = self._values + 5.0 * (len(self.asked) == 3)

    found = climbed(Lucky(lambda x, skill: 0.0), steps=4)
    assert found.best.value == pytest.approx(0.0, abs=0.1)


def test_far_x_are_tried_where_a_certain_gradient_leads_nowhere() -> None:
    def far(x: FloatArray, skill: float) -> float:
        return float(np.exp(-8.0 * np.sum((x - [-0.5, 0.5]) ** 2)))

    report = {"units": np.full(2, 0.1), "cosine": 1.0}
    assert climbed(Pupil(far, report=report), steps=60, seed=1).best.value > 0.5
    assert climbed(Pupil(far, report=report), steps=60, screen=0.0).best.value < 0.2


def test_unrest_of_the_follower_is_told_from_what_x_does() -> None:
    # Whatever x is, the follower forgets; only the policy's movement says that it is not x.
    def forgets(x: FloatArray, skill: float) -> float:
        return skill + 1.0

    def climb(divergence: float | None) -> list[FloatArray]:
        pupil = Pupil(lambda x, skill: x[0] - skill, forgets, report={"divergence": divergence})
        climbed(pupil, steps=6)
        return pupil.asked

    # Undone without a question, or only after a look at the old x.
    assert len(climb(None)) == 7
    asked = climb(1.0)
    assert len(asked) > 7 and any(x[0] == 0.0 for x in asked[2:])


def test_a_screen_finds_what_the_gradient_does_not_see() -> None:
    def far(x: FloatArray, skill: float) -> float:
        return float(np.exp(-8.0 * np.sum((x - [-0.5, 0.5]) ** 2)))

    report = {"units": np.full(2, 0.1), "cosine": 0.0}
    pupil = Pupil(far, slope=0.0, report=report)
    found = climbed(pupil, steps=40, seed=1)
    assert found.best.value > 0.5
    blind = climbed(Pupil(far, slope=0.0, report=report), steps=40, screen=0.0)
    assert blind.best.value < 0.1


def test_long_steps_are_tried_where_the_gradient_is_certain() -> None:
    pupil = Pupil(lambda x, skill: x[0], report={"metric": 1e4 * np.eye(2), "cosine": 1.0})
    climbed(pupil, steps=8)
    first = np.array([x[0] for x in pupil.asked])
    np.testing.assert_allclose(first[1:3] / np.sqrt([4.0, 64.0]), 0.01, rtol=1e-2)


@pytest.mark.parametrize("samples", [60, 100, 333])
@pytest.mark.parametrize("noise", [0.01, 1.0])
def test_a_budget_of_environment_steps_is_kept(samples: int, noise: float) -> None:
    pupil = Pupil(lambda x, skill: x[0], noise=noise, report={"units": np.full(2, 0.1)})
    climbed(pupil, samples=samples)
    assert samples - 30 <= pupil.samples <= samples


def test_a_climb_goes_on_from_its_state(tmp_path: Any) -> None:
    def made() -> tuple[Pupil, SafeClimb]:
        pupil = Pupil(lambda x, skill: -float(x @ x) + 0.1 * x[0], report={"units": np.ones(2)})
        return pupil, SafeClimb(np.zeros(2), LOW, HIGH, pupil, steps=30)

    def evaluate(pupil: Pupil, climb: SafeClimb) -> None:
        if climb.screening:
            climb.tell(pupil.measure(climb.x))
        else:
            climb.move(*pupil(climb.x))

    for at in (1, 5, 17, 25):
        pupil, climb = made()
        other, later = made()
        for _ in range(at):
            evaluate(pupil, climb)
        write_tree(tmp_path / "state.npz", climb.state_dict())
        later.load_state_dict(read_tree(tmp_path / "state.npz"))
        other._rng.bit_generator.state = pupil._rng.bit_generator.state
        other.skill = pupil.skill
        while not climb.over:
            np.testing.assert_array_equal(climb.x, later.x)
            evaluate(pupil, climb)
            evaluate(other, later)
        assert later.over
        np.testing.assert_array_equal(climb.finish().best.value, later.finish().best.value)


# The leader's seat ------------------------------------------------------------------------------


def test_the_seat_puts_a_follower_back_and_counts_all_steps() -> None:
    leader = LeaderObjective(HyperGradient(gym.make("BilevelCartPole-v0"), **QUICK))
    assert isinstance(leader, Revisable) and leader.seat.can_go_back
    x = leader.reset(seed=0)
    learnt: Any = leader.seat.method
    states = np.zeros((1, 4), np.float32)
    before, snapshot = learnt.follower.probabilities(states), leader.snapshot()
    used = leader.samples
    report = leader.measure(x)
    assert leader.samples == used + leader.info["inner_samples"] > used
    assert "hyper_gradient" not in leader.info and report.values.shape == (2,)
    assert not np.array_equal(learnt.follower.probabilities(states), before)
    leader.restore(snapshot)
    np.testing.assert_array_equal(learnt.follower.probabilities(states), before)
    used = leader.samples
    assert leader.watch(x).shape == (3,) and leader.samples > used


def test_evaluations_watch_episodes_that_begin_alike_and_comparing_others() -> None:
    leader = LeaderObjective(HyperGradient(gym.make("BilevelCartPole-v0"), **QUICK))
    learnt: Any = leader.seat.method
    starts: list[FloatArray] = []
    play = learnt.follower.play

    def kept(*given: Any, **options: Any) -> Any:
        played = play(*given, **options)
        starts.append(played.observations[0, :2])
        return played

    x = leader.reset(seed=0)
    learnt.follower.play = kept
    leader(x + 0.1)
    leader(x)
    leader.measure(x)
    leader.watch(x)
    first, second, brief, fresh = starts
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, brief)
    assert not np.array_equal(first, fresh)


def test_a_learning_rate_is_for_rules_alone() -> None:
    env = HyperGradient(gym.make("BilevelCartPole-v0"), **QUICK)
    assert HyperGradientAscent("UpperParamsPolicy", env, 0.1).optimizer == "normalized"
    with pytest.raises(ValueError, match="`learning_rate`.*'safe' has none, got 0.1"):
        HyperGradientAscent("UpperParamsPolicy", env, 0.1, optimizer="safe")


def test_rescaled_units_are_those_of_the_action() -> None:
    env = RescaleUpper(HyperGradient(gym.make("BilevelPendulum-v0"), **QUICK))
    env.reset(seed=0)
    own, seat = env.report(), env._seat.report()
    assert own.units is not None and seat.units is not None
    np.testing.assert_allclose(own.units, seat.units / 10.0)
    assert own.metric is not None and seat.metric is not None
    np.testing.assert_allclose(own.metric, 100.0 * seat.metric)


def test_the_algorithm_climbs_safely_where_a_follower_learns() -> None:
    env = HyperGradient(gym.make("BilevelCartPole-v0"), **QUICK)
    model = HyperGradientAscent("UpperParamsPolicy", env, seed=0).learn(6)
    assert model.optimizer == "safe"
    assert model.optimum.evaluations == 6
    x, _ = model.predict(env.reset(seed=0)[0])
    np.testing.assert_array_equal(x, model.optimum.best.upper_params)
    assert HyperGradientAscent("UpperParamsPolicy", "BilevelGridWorld-v0").optimizer != "safe"


def test_a_seat_without_a_learner_has_nothing_to_put_back() -> None:
    seat = gym.make("BilevelGridWorld-v0")
    assert isinstance(seat, HyperGradient) and not seat.can_go_back and seat.snapshot() is None
