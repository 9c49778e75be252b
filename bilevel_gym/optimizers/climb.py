"""The climb from many starts: for objectives whose values and gradients are exact.

F has many local optima, and plateaus where the follower has given up what the leader wants. So this
climb looks at many starts before it follows the best few:

1. **Starts**: x0, those that the objective suggests and a few random ones, evaluated together.
2. **Easier objectives**, if the objective knows some: the climb goes down their sequence, on each
   from x0 and from the best ends on the one before; the last ends are starts too.
3. **Races** of quasi-Newton ascents (see `quasi_newton`), x0 and the best starts side by side:
   after a few steps the better half goes on, in the end one alone. The next race is of the best
   that have not come to an end, and of random starts farther out where too few are left.
4. The best of all is followed to its top, when several runs have ended there or little is left of
   the budget.

Races are successive halving (K. Jamieson, A. Talwalkar, "Non-stochastic best arm identification and
hyperparameter optimization", AISTATS 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from ..core.checks import check_at_least, check_in_box, checked_bounds, received
from ..core.reprs import Described, brief, number
from .base import Callback, Evaluation, FloatArray, Optimum, Recorder, answer_of
from .libraries import finite_width
from .quasi_newton import quasi_newton_ascent
from .rules import check_gradient

__all__ = ["ClimbOptimum", "Fate", "Informed", "MultistartClimb", "Start", "Together", "climb"]

Answer = tuple[float, FloatArray]
Box = tuple[FloatArray, FloatArray]

# Yields x to evaluate, is sent the answers.
Plan = Generator[list[FloatArray], list[Answer], str]

# Many x, to their values and gradients in the same order.
Together = Callable[[Sequence[FloatArray]], Iterable[Answer]]

# Shares of the budget: of starts that are suggested, of the easier objectives, of each run in the
# stages of a race, and of what is left for the best in the end.
SUGGESTED, EASED, FINAL = 1 / 5, 1 / 4, 1 / 8
STAGES = ((4, 1 / 33), (2, 1 / 10))

# Evaluations for which there is one run more in a race, and one random start more.
FOR_A_RUN, FOR_A_START = 20, 100

# Ends on an easier objective that are gone on from, fewer of them where each run there would have
# less evaluations than the next number; and their least number.
BRANCHES, ENOUGH, LEAST = 3, 10, 4

# Standard deviations of random starts, and of those farther out, as shares of the width of the box.
NEAR, FAR = (0.01, 0.05), (0.05, 0.2, 0.5)

# Shares of the way from x0 to an end of the box.
LEVELS = (0.1, 0.3, 0.5, 0.8)

# First step of an ascent, as a share of the width of the box.
FIRST_STEP = 0.02

# Runs that must have ended at the best value, and what of the gain may lie between their values.
AGREEING, AGREED = 8, 1e-4

# Entries of x that are the same, as a share of the width of the box.
SAME = 1e-3

# A run rests when so many evaluations have brought less than this share of the gain.
PATIENCE, LITTLE = 15, 1e-5

# Sup norm of the projected gradient that is zero, where values are of order one.
ZERO = 1e-7


@dataclass(frozen=True, eq=False)
class Start:
    """An x to climb from.

    Attributes:
        name: What it is called.
        x: The x, shape of the box.
    """

    name: str
    x: FloatArray


@runtime_checkable
class Informed(Protocol):
    """An objective that knows where to start, and easier objectives than itself."""

    def starts(self, x: FloatArray, most: int) -> Sequence[Start]:
        """Return so many starts at most, for a climb that begins at x."""
        ...

    def easier(self, x: FloatArray) -> Sequence[Together]:
        """Return objectives, the easiest first; what is best on the last is nearly best here."""
        ...


@runtime_checkable
class AnswersTogether(Protocol):
    """An objective that answers many x in less time than one after the other."""

    def together(self, xs: Sequence[FloatArray]) -> Iterator[Answer]:
        """Yield value and gradient of each x."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class Fate(Described):
    """What became of a start.

    Attributes:
        name: What it is called.
        value: F there.
        best: The best value that was reached from it.
        evaluations: Made on the way.
        message: How the way ended.
        dead_end: Whether it ended below another start.
    """

    name: str
    value: float
    best: float
    evaluations: int
    message: str
    dead_end: bool

    def described(self) -> Iterator[tuple[str, str]]:
        """Yield the name, both values, and how it ended."""
        yield "name", brief(self.name)
        yield "value", number(self.value)
        yield "best", number(self.best)
        yield "message", brief(self.message)


@dataclass(frozen=True, eq=False, repr=False)
class ClimbOptimum(Optimum):
    """What a climb from many starts returns.

    Attributes:
        fates: What became of each start, in the order in which they were evaluated.
        eased: Evaluations of easier objectives, beside `evaluations`.
    """

    fates: tuple[Fate, ...] = ()
    eased: int = 0


class _Run:
    """An ascent from a start, which asks for one evaluation after the other."""

    def __init__(self, name: str, x: FloatArray, answer: Answer, box: Box) -> None:
        self.name, self.x, self.message = name, x, ""
        self.first = self.value = answer[0]
        self.evaluations, self._marks = 1, [self.value]
        width = float((box[1] - box[0]).max())
        tolerance = ZERO * min(1.0, max(1e-3, abs(self.value)))
        self._ascent = quasi_newton_ascent(
            x, *answer, *box, first_step=FIRST_STEP * width, tolerance=tolerance
        )
        self.asked, self._begun = x, False

    @property
    def ended(self) -> bool:
        """Whether it has come to an end."""
        return self.message != ""

    def begin(self) -> None:
        """Ask for the first evaluation, unless the ascent is under way."""
        if not self._begun:
            self._begun = True
            self._proceed(None)

    def take(self, answer: Answer) -> None:
        """Go on from an evaluation."""
        self.evaluations += 1
        if answer[0] > self.value:
            self.x, self.value = self.asked, answer[0]
        self._marks.append(self.value)
        self._proceed(answer)

    def _proceed(self, answer: Answer | None) -> None:
        try:
            self.asked = next(self._ascent) if answer is None else self._ascent.send(answer)
        except StopIteration as stopped:
            self.message = stopped.value

    def rests(self, gain: float) -> bool:
        """Whether the last evaluations have brought little of a gain."""
        marks = self._marks
        return len(marks) > PATIENCE and marks[-1] - marks[-1 - PATIENCE] < LITTLE * gain


class MultistartClimb(Recorder):
    """A climb from many starts that the caller evaluates, at `x`, or at all of `asked` together.

    Attributes:
        asked: x, in the shape of the box, whose evaluations are needed before there are others.
        eased: Evaluations of easier objectives so far.
        message: Why the climb is over, "" until it is.
    """

    def __init__(
        self,
        start: ArrayLike,
        low: FloatArray,
        high: FloatArray,
        informed: Informed | None = None,
        *,
        starts: Sequence[ArrayLike] | None = None,
        max_evaluations: int = 400,
        seed: int = 0,
        callback: Callback | None = None,
    ) -> None:
        """Begin at a start in the box; the options are those of `climb`."""
        low, high = checked_bounds(low, high, bounded=False)
        super().__init__(low, high, callback)
        self._width, self._informed = finite_width(low, high), informed
        self._start = check_in_box("start", start, low, high)
        self._given = [
            Start(f"starts[{n}]", check_in_box(f"starts[{n}]", x, low, high))
            for n, x in enumerate(_listed(starts))
        ]
        self._budget = check_at_least("max_evaluations", max_evaluations, 1)
        self._seed = check_at_least("seed", seed, 0)
        self._begin()

    def _begin(self) -> None:
        """Begin the plan, before the first evaluation."""
        self._rng = np.random.default_rng(self._seed)
        self._from = self._advanced = self.eased = 0
        self._runs: list[_Run] = []
        self._answers: list[Answer] = []
        self.message = ""
        self._plan = self._planned()
        self.asked = next(self._plan)

    @property
    def x(self) -> FloatArray:
        """What to evaluate next."""
        return self.asked[len(self._answers)]

    @property
    def over(self) -> bool:
        """Whether the climb has come to an end, or its budget is used up."""
        return self.message != "" or self._left <= 0

    def extend(self, evaluations: int) -> None:
        """Begin a new budget, of so many evaluations, at least 1."""
        self._budget, self._from = evaluations, self._advanced + self.eased

    def move(self, value: float, gradient: FloatArray) -> None:
        """Go on from F(x) and its gradient, shape of x, which must not change afterwards.

        Raises:
            ValueError: If the gradient has another shape or is not finite.
        """
        check_gradient(self.x, gradient)
        self.note(self.x, value, gradient)
        self._advance((value, gradient))

    def optimum(self, message: str = "") -> ClimbOptimum:
        """Return what was found, with the reason for which the climb stopped."""
        easier = ", those of easier problems included" if self.eased else ""
        made = f"{self._advanced + self.eased} evaluations made{easier}"
        message = message or self.message or made
        found = super().optimum(message)
        return ClimbOptimum(**vars(found), fates=self.fates, eased=self.eased)

    @property
    def fates(self) -> tuple[Fate, ...]:
        """What became of each start so far."""
        best = max((run.first for run in self._runs), default=-np.inf)
        return tuple(
            Fate(
                run.name,
                run.first,
                run.value,
                run.evaluations,
                run.message or ("not followed" if run.evaluations == 1 else "left behind"),
                run.message != "" and run.value < best,
            )
            for run in self._runs
        )

    # The plan ----------------------------------------------------------------------------------

    @property
    def _left(self) -> int:
        """Evaluations that are left of the budget."""
        return self._budget - (self._advanced + self.eased - self._from)

    @property
    def _best(self) -> _Run:
        return max(self._runs, key=lambda run: run.value)

    @property
    def _gain(self) -> float:
        """By how much the best value is above the first, at least beyond rounding."""
        value = self._best.value
        return max(value - self._runs[0].first, 1e-8 * abs(value))

    @property
    def _agreeing(self) -> int:
        """How many runs have come to the best value, up to their accuracy, and ended there.

        On a plateau all starts agree, but none of them has gone anywhere.
        """
        near, gain = self._best.value - AGREED * self._gain, self._gain
        return sum(
            run.value >= near and run.evaluations > 1 and (run.ended or run.rests(gain))
            for run in self._runs
        )

    @property
    def _racing(self) -> bool:
        """Whether there is something to be gained by further runs, and a budget for it."""
        reserve = 0 if self._best.ended else FINAL * self._budget
        return self._left > reserve and self._agreeing < AGREEING

    def _advance(self, answer: Answer) -> None:
        self._advanced += 1
        self._answers.append(answer)
        if len(self._answers) == len(self.asked):
            answers, self._answers = self._answers, []
            try:
                self.asked = self._plan.send(answers)
            except StopIteration as stopped:
                self.message, self.asked = stopped.value, [self._best.x]

    def _planned(self) -> Plan:
        """Yield x to evaluate, several at a time, and return why the climb stopped."""
        yield from self._look([Start("x0", self._start)])
        yield from self._look(self._suggested())
        yield from self._look(self._eased_ends())
        while self._racing or not self._best.ended:
            while self._racing:
                yield from self._race()
            while not self._best.ended:
                yield from self._step([self._best])
        count = self._agreeing
        return f"{self._best.message}; {count} run{'s' * (count > 1)} ended at the best value"

    def _look(self, starts: Sequence[Start]) -> Plan:
        """Evaluate starts, each of which is the first x of a run."""
        starts = starts[: max(1, self._left)]
        if starts:
            answers = yield [start.x for start in starts]
            box = self._low, self._high
            self._runs += [
                _Run(start.name, start.x, answer, box)
                for start, answer in zip(starts, answers, strict=True)
            ]
        return ""

    def _suggested(self) -> list[Start]:
        """Return the starts that were given, those of the box, and those that are suggested."""
        most = int(SUGGESTED * self._budget)
        of_box = [*self._levels(), *self._drawn(NEAR, self._budget // FOR_A_START)][: most // 2]
        starts = [*self._given, *of_box]
        if self._informed is not None and len(starts) < most:
            starts += self._informed.starts(self._start, most - len(starts))
        return starts

    def _levels(self) -> list[Start]:
        """Return x in which all entries are moved from x0 towards one end of the box."""
        ends = {"low": self._low, "high": self._high}
        return [
            Start(f"{level:g} of the way to `{name}`", self._start + level * (end - self._start))
            for name, end in ends.items()
            for level in LEVELS
            if (end != self._start).any()
        ]

    def _drawn(self, spreads: Sequence[float], count: int) -> list[Start]:
        """Return random starts around x0."""
        starts = []
        for n in range(count):
            noise = self._rng.standard_normal(self._start.shape)
            x = self._start + spreads[n % len(spreads)] * self._width * noise
            starts.append(Start("random", np.clip(x, self._low, self._high)))
        return starts

    def _eased_ends(self) -> list[Start]:
        """Return the best ends of a climb down the sequence of easier objectives."""
        budget = int(EASED * self._budget)
        if self._informed is None or budget < LEAST:
            return []
        objectives, each = self._informed.easier(self._start), 0
        for branches in range(BRANCHES, 0, -1):
            each = budget // max(1, 1 + (1 + branches) * (len(objectives) - 1))
            if each >= ENOUGH:
                break
        ends: list[FloatArray] = []
        for objective in objectives if each >= LEAST else ():
            xs = [self._start, *ends]
            box = self._low, self._high
            runs = [
                _Run("eased", x, answer, box) for x, answer in zip(xs, objective(xs), strict=True)
            ]
            self.eased += len(xs)
            for _ in range(each - 1):
                runs_on = _going_on(runs)
                xs = [run.asked for run in runs_on]
                for run, answer in zip(runs_on, objective(xs) if xs else (), strict=True):
                    run.take(answer)
                self.eased += len(xs)
            ends = []
            for run in sorted(runs, key=lambda run: -run.value):
                if all((np.abs(run.x - end) > SAME * self._width).any() for end in ends):
                    ends.append(run.x)
            del ends[branches:]
        return [Start("eased", x) for x in ends]

    def _race(self) -> Plan:
        """Follow the best runs that have not ended, fewer and fewer, until one is alone."""
        size = int(np.clip(self._budget // FOR_A_RUN, 1, STAGES[0][0]))
        gain = self._gain
        pool = [run for run in self._runs if not run.ended and not run.rests(gain)]
        if len(pool) < size:
            known = len(self._runs)
            yield from self._look(self._drawn(FAR, size - len(pool)))
            pool += self._runs[known:]
        pool.sort(key=lambda run: (run is not self._runs[0], -run.value))  # x0 is tried once
        field = pool[:size]
        for width, share in (*STAGES, (1, 1.0)):
            field = sorted(field, key=lambda run: -run.value)[:width]
            for _ in range(max(1, int(share * self._budget))):
                gain = self._gain
                field = [run for run in field if not run.rests(gain)]
                if not self._racing or not (yield from self._step(field)):
                    break
        return ""

    def _step(self, runs: Sequence[_Run]) -> Generator[list[FloatArray], list[Answer], bool]:
        """Let runs take a step; return whether one of them has."""
        runs = _going_on(runs)[: max(1, self._left)]
        if not runs:
            return False
        answers = yield [run.asked for run in runs]
        for run, answer in zip(runs, answers, strict=True):
            run.take(answer)
        return True


def _listed(starts: Sequence[ArrayLike] | None) -> Sequence[ArrayLike]:
    """Return starts; raise a `TypeError` if they are no list."""
    if starts is None:
        return ()
    if isinstance(starts, str) or not isinstance(starts, Sequence | np.ndarray):
        raise TypeError(f"`starts` must be a list of x, got {received(starts)}")
    return list(starts)


def _going_on(runs: Iterable[_Run]) -> list[_Run]:
    """Return the runs that ask for an evaluation."""
    for run in runs:
        run.begin()
    return [run for run in runs if not run.ended]


def climb(
    objective: Evaluation,
    start: ArrayLike,
    low: FloatArray,
    high: FloatArray,
    *,
    max_evaluations: int = 400,
    seed: int = 0,
    starts: Sequence[ArrayLike] | None = None,
    callback: Callback | None = None,
) -> ClimbOptimum:
    """Climb from many starts, on an objective whose values and gradients are exact.

    See the module. An objective that is `Informed` says where else to start, and one that
    `AnswersTogether` takes less time; the leader's seat and `exact_objective` are both.

    Args:
        objective: x -> (value, gradient).
        start: First x, in the box.
        low: Lower bounds, shape of x, finite.
        high: Upper bounds, shape of x, finite.
        max_evaluations: Evaluations at most, positive, of easier objectives too.
        seed: Seed of random starts.
        starts: Other x to start from, in the box, a list or `[K, ...]`.
        callback: Called with every iterate.

    Raises:
        ValueError: If an argument is out of range, or a gradient is not finite.
        TypeError: If `starts` is no list.
        ArithmeticError: If a value is not finite.

    Example:
        >>> import bilevel_gym, gymnasium as gym
        >>> from bilevel_gym.wrappers import exact_objective
        >>> model = gym.make("BilevelIncentive-v0").unwrapped.model
        >>> x, box = model.initial_upper_params, (model.low, model.high)
        >>> climb(exact_objective(model), x, *box).best
        Iterate(...)
    """
    informed = objective if isinstance(objective, Informed) else None
    path = MultistartClimb(
        start,
        low,
        high,
        informed,
        starts=starts,
        max_evaluations=max_evaluations,
        seed=seed,
        callback=callback,
    )
    while not path.over:
        xs = path.asked
        if isinstance(objective, AnswersTogether) and len(xs) > 1:
            answers: Iterable[Answer] = objective.together(xs)
        else:
            answers = (answer_of(objective, x) for x in xs)
        for value, gradient in answers:
            path.move(value, gradient)
    return path.optimum()
