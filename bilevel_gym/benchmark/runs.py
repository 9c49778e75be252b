"""One run: an optimizer climbs along a method's hyper-gradient, and a referee scores every step.

There are two referees: the exact answer where the game has one, else held-out episodes of the
method's own follower, from which nothing is learnt.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..core.checks import check_in_box
from ..core.threads import one_torch_thread, single_threaded
from ..model import BilevelModel, evaluate
from ..model.protocols import LearntMethod
from ..optimizers import make_optimizer, options_for, projected_gradient_norm
from ..optimizers.base import Stopped
from ..optimizers.climb import Informed, Start, Together
from ..optimizers.revisable import Report, Revisable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..core.mdp import FloatArray
    from ..envs import BilevelEnv, ParametricGame
    from ..methods import Method
    from ..optimizers import Evaluation


# Episodes of a referee without an exact answer: of the order that methods watch themselves, so that
# it takes no longer than they do; the standard error is a sixth of the spread of an episode.
HELD_OUT_EPISODES = 32


@dataclass(frozen=True)
class Run:
    """All that determines a run, of JSON types.

    Attributes:
        env_id: Registered id of the task, which `gym.make` makes with `kwargs`.
        start_spread: See `start_of`.
        method: Name of the method; see `bilevel_gym.methods.registry`.
        optimizer: A key of `bilevel_gym.optimizers.OPTIMIZERS`.
        steps: Steps of the leader; a run ends after one evaluation more than that.
        seed: Seed of the start and of all that is drawn.
        target: "module:Class" of a method from outside, for workers, which do not know its name.
    """

    env_id: str
    kwargs: dict[str, Any]
    start_spread: float
    method: str
    method_options: dict[str, Any]
    optimizer: str
    optimizer_options: dict[str, Any]
    steps: int
    seed: int
    target: str | None = None

    @property
    def canonical(self) -> str:
        """The run as JSON, the same text for the same run."""
        fields = asdict(self)
        if self.target is None:
            del fields["target"]
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def name(self) -> str:
        """A file name without its ending: readable in front, unique by the hash at the end."""
        words = f"{self.env_id}-{self.method}-{self.optimizer}-seed{self.seed}"
        digest = hashlib.sha256(self.canonical.encode()).hexdigest()[:8]
        return f"{re.sub(r'[^A-Za-z0-9.-]+', '_', words)[:120]}-{digest}"


@dataclass(frozen=True)
class Row:
    """One evaluation of a run.

    Attributes:
        step: Evaluations before this one, 0 at the start.
        env_steps: Steps of the environment that the method has used so far.
        wall_time: Seconds that method and optimizer have used so far.
        estimated_objective: F(x) as the method knows it.
        objective: F(x), exact, as all that follows. Of games without an exact answer: the leader's
            discounted return, a mean over held-out episodes of the method's follower. That is F as
            well, but where preferences are what the leader goes by: F is a likelihood there, and
            this is the return that the environment itself would have paid.
        objective_error: Standard error of that mean, None where it is exact. What follows is None
            where it is not.
        gradient_norm: Euclidean norm of dF/dx.
        projected_gradient_norm: See `bilevel_gym.optimizers.projected_gradient_norm`.
        cosine: Of the angle between the method's hyper-gradient and dF/dx, None where one is zero.
        relative_error: Norm of their difference over that of dF/dx, None where that is zero.
    """

    step: int
    env_steps: int
    wall_time: float
    estimated_objective: float
    objective: float
    objective_error: float | None = None
    gradient_norm: float | None = None
    projected_gradient_norm: float | None = None
    cosine: float | None = None
    relative_error: float | None = None


@dataclass(frozen=True)
class RunOutcome:
    """What became of a run.

    Attributes:
        rows: Its evaluations; none where it failed.
        error: Why it failed, None where it did not.
        best_known: The best value known of the task, None where there is none.
        warnings: What was warned of, each once.
    """

    run: Run
    rows: tuple[Row, ...] = ()
    error: str | None = None
    best_known: float | None = None
    warnings: tuple[str, ...] = ()


# Measures an x, and the hyper-gradient that the method has just given for it, in fields of `Row`
# from `objective` on; leaves the method as it is.
Referee = Callable[["FloatArray", "FloatArray"], dict[str, float | None]]


def exact_referee(game: BilevelEnv) -> Referee:
    """Return the exact answer of a game that nobody plays: it cannot help the method."""
    last: Any = None

    def measure(x: FloatArray, estimate: FloatArray) -> dict[str, float | None]:
        nonlocal last
        last = evaluate(game.model, x, warm_start=last)
        gradient, low, high = last.hyper_gradient, game.model.low, game.model.high
        cosine, relative_error = agreement(estimate, gradient)
        return {
            "objective": float(last.objective),
            "gradient_norm": float(np.linalg.norm(gradient)),
            "projected_gradient_norm": projected_gradient_norm(x, gradient, low, high),
            "cosine": cosine,
            "relative_error": relative_error,
        }

    return measure


def held_out_referee(game: ParametricGame, method: LearntMethod, seed: int) -> Referee:
    """Return episodes of a method's follower that nobody learns from, of the leader's return.

    They are played in environments of their own. The follower has not played yet; the seed is that
    of the run.
    """
    watched = method.follower.spectator()
    # Of another stream than the method's, and than the start's.
    stream = np.random.SeedSequence(seed, spawn_key=(2,))

    def measure(x: FloatArray, estimate: FloatArray) -> dict[str, float | None]:
        watched.model = method.follower.model  # another one after a reset
        # All steps of a run, and all methods of a seed, have first states and luck in common.
        played = watched.play(x, HELD_OUT_EPISODES, np.random.default_rng(stream))
        returns = np.power(game.upper_gamma, np.arange(len(played.alive))) @ played.upper_rewards
        beside, _ = game.direct_part(x, played)
        error = returns.std(ddof=1) / np.sqrt(len(returns))
        return {"objective": float(returns.mean()) + beside, "objective_error": float(error)}

    return measure


def make_referee(game: BilevelEnv, method: Method, seed: int) -> Referee:
    """Return who scores a method's steps.

    Nobody plays the game; the method, in a game of its own, is before its first step. A `TypeError`
    says that there is nothing to score by.
    """
    if isinstance(game.model, BilevelModel):
        return exact_referee(game)
    if not isinstance(method, LearntMethod):
        raise TypeError(
            f"{type(game).__name__} has no exact answer, `evaluate`, to score by, and "
            f"{type(method).__name__} no `follower` who could be watched"
        )
    return held_out_referee(cast("ParametricGame", game), method, seed)


@single_threaded
def perform(run: Run, tell: Callable[[int], None] = lambda evaluations: None) -> RunOutcome:
    """Run, and return what became of it; an error is an outcome as well.

    `tell` gets the number of evaluations so far.
    """
    import gymnasium as gym

    from ..wrappers import HyperGradient

    with warnings.catch_warnings(record=True) as caught:
        try:
            seat = HyperGradient(
                gym.make(run.env_id, **run.kwargs),
                method=run.target or run.method,
                outer_steps=run.steps + 1,
                **run.method_options,
            )
            game = cast("BilevelEnv", gym.make(run.env_id, **run.kwargs).unwrapped)
            referee = make_referee(game, seat.method, run.seed)
            with one_torch_thread():
                tell(0)
                rows = _scored_climb(run, seat, game, referee, tell)
        except Exception as error:
            outcome = RunOutcome(run, error=f"{type(error).__name__}: {error}")
        else:
            best = None if game.best_known is None else float(game.best_known.value)
            outcome = RunOutcome(run, rows, best_known=best)
    seen = tuple(dict.fromkeys(str(warning.message) for warning in caught))
    return replace(outcome, warnings=seen)


def _scored_climb(
    run: Run, seat: Any, game: BilevelEnv, referee: Referee, tell: Callable[[int], None]
) -> tuple[Row, ...]:
    """Return the evaluations of a run, scored by the referee."""
    from ..wrappers import LeaderObjective

    rows: list[Row] = []
    began, refereeing = 0.0, 0.0

    class Scored(LeaderObjective):
        """The leader's objective, each evaluation of which is scored."""

        def __call__(self, x: FloatArray) -> tuple[float, FloatArray]:
            value, estimate = super().__call__(x)
            self._score(x, estimate)
            return value, estimate

        def measure(self, x: FloatArray) -> Report:
            report = super().measure(x)
            self._score(x, None)
            return report

        def _score(self, x: FloatArray, estimate: FloatArray | None) -> None:
            nonlocal refereeing
            stopped = time.perf_counter()
            measured: Any = referee(x, np.zeros_like(x) if estimate is None else estimate)
            if estimate is None:
                measured = {**measured, "cosine": None, "relative_error": None}
            value, wall_time = float(self.seat.response.objective), stopped - began - refereeing
            rows.append(Row(len(rows), self.samples - used, wall_time, value, **measured))
            tell(len(rows))
            refereeing += time.perf_counter() - stopped

    leader, used = Scored(seat), 0
    start = start_of(run, game)
    if not isinstance(seat.method, LearntMethod):
        # What a process does once, compiling for one, is not charged; the reset at the start
        # forgets everything else. To train a follower twice would take more than it saves.
        seat.reset(seed=run.seed, options={"upper_params": start})
        used = seat.samples
    began = time.perf_counter()
    leader.reset(start, seed=run.seed)
    climb(run, leader, start, leader.low, leader.high)
    return tuple(rows)


def agreement(estimate: FloatArray, exact: FloatArray) -> tuple[float | None, float | None]:
    """Return cosine and relative error of an estimate, None where a zero norm would divide."""
    norm, size = float(np.linalg.norm(estimate)), float(np.linalg.norm(exact))
    if size == 0.0:
        return None, None
    relative_error = float(np.linalg.norm(estimate - exact)) / size
    if norm == 0.0:
        return None, relative_error
    # Each is divided by its own norm first: the product of two small norms may underflow.
    cosine = float(np.vdot(estimate / norm, exact / size))
    return float(np.clip(cosine, -1.0, 1.0)), relative_error


def start_of(run: Run, game: BilevelEnv) -> FloatArray:
    """Return the x that a run starts from: uniform around the game's initial one.

    Each entry is drawn within `start_spread` times the width of the box to either side, and what
    falls outside is projected on the box. It depends on the seed alone: all methods and optimizers
    start from the same x.
    """
    x, space = game.initial_upper_params, game.upper_space
    if run.start_spread == 0.0:
        return x
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    # Of another stream than what the seat draws from the same seed.
    rng = np.random.default_rng(np.random.SeedSequence(run.seed, spawn_key=(1,)))
    moved = x + run.start_spread * (high - low) * rng.uniform(-1.0, 1.0, x.shape)
    return check_in_box("start", np.clip(moved, low, high), low, high)


class _Limited:
    """An objective that is evaluated so many times at most."""

    def __init__(self, objective: Evaluation, evaluations: int) -> None:
        self._objective, self._left = objective, iter(range(evaluations))

    def __call__(self, x: FloatArray) -> tuple[float, FloatArray]:
        self._count()
        return self._objective(x)

    # One by one, so that each is counted and scored.
    def together(self, xs: Sequence[FloatArray]) -> Iterator[tuple[float, FloatArray]]:
        return map(self, xs)

    def starts(self, x: FloatArray, most: int) -> Sequence[Start]:
        objective = self._objective
        return objective.starts(x, most) if isinstance(objective, Informed) else ()

    def easier(self, x: FloatArray) -> Sequence[Together]:
        objective = self._objective
        return objective.easier(x) if isinstance(objective, Informed) else ()

    def _count(self) -> None:
        if next(self._left, None) is None:
            raise Stopped


class _LimitedRevisable(_Limited):
    """The same of an objective whose follower can be put back."""

    _objective: Revisable

    @property
    def samples(self) -> int:
        return self._objective.samples

    def measure(self, x: FloatArray) -> Report:
        self._count()
        return self._objective.measure(x)

    def watch(self, x: FloatArray) -> FloatArray:
        return self._objective.watch(x)

    def report(self) -> Report:
        return self._objective.report()

    def snapshot(self) -> NDArray[Any] | None:
        return self._objective.snapshot()

    def restore(self, snapshot: Any) -> None:
        self._objective.restore(snapshot)


def climb(
    run: Run, objective: Evaluation, start: FloatArray, low: FloatArray, high: FloatArray
) -> None:
    """Run the optimizer of a run until it stops, or `steps` + 1 evaluations are made."""
    optimizer = make_optimizer(run.optimizer, **all_options(run))
    limited = _LimitedRevisable if isinstance(objective, Revisable) else _Limited
    with suppress(Stopped):
        optimizer(limited(objective, run.steps + 1), start, low, high)


def all_options(run: Run) -> dict[str, Any]:
    """Return the options of a run's optimizer, with those that follow from the run itself."""
    # Where gradients are sampled, the next sample may differ; and all runs have as many rows.
    others = {"seed": run.seed, "stop_at_zero": False}
    return options_for(run.optimizer, run.optimizer_options, steps=run.steps, **others)
