"""The safe climb: for objectives that are estimated while a follower learns.

F(x) is noisy, its gradient more so, and whatever x does to the follower is hard to take back: one
who has unlearnt to reach a goal may never find it again. So this climb keeps followers together
with x, goes back to them, and judges by episodes that they had not learnt from.

1. **Screen**, one short evaluation for each x. Where the gradient at x0 is certain, long steps
   along it are tried. Where it is not, and x has few entries: CMA-ES (Hansen, Ostermeier,
   Evolutionary Computation 9, 2001) over x in units that matter to the follower. Gradients are
   local, and zero where the follower at x0 never reaches what the leader wants.
2. **Climb** from the best: natural steps, whose length is the Kullback-Leibler divergence that they
   are predicted to move the follower's policy by. A step that lowers F by more than two standard
   errors is undone, the follower included, and the length shrinks; where F rises it grows. Where
   it does not rise any more, and there was no screen by CMA-ES, there is one now.
3. **Compare**: the best few are watched anew, and the best of them is what is found.

The follower is reached through the protocol `Revisable`, which the leader's seat implements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..core.checks import (
    check_at_least,
    check_in_box,
    check_positive,
    check_probability,
    checked_bounds,
    optional,
)
from .base import Callback, Evaluation, FloatArray, Iterate, Optimum, Recorder, answer_of
from .candidates import Candidate
from .natural import natural_step, units_of
from .revisable import Report, Revisable
from .rules import check_gradient
from .screen import Screen

__all__ = ["SafeClimb", "safe"]

# Entries of x up to which there is a screen: with more of them too few evaluations say too little.
FEW = 10

# Divergences of the long steps along a certain gradient.
LONG = (2.0, 32.0)

# Evaluations in a row that bring nothing, after which far x are tried.
PATIENCE = 3

# Followers that are kept to be compared in the end.
KEPT = 3

# Of the length of steps: its least and largest value, and factors where F fell and where it rose.
SHORTEST, LONGEST, SHRINK, GROW = 1e-3, 0.5, 1.0 / 3.0, 2.0

# How many times the predicted divergence is due to the follower's own unrest, and not to x.
UNREST = 4.0

# Numbers that a climb goes on from.
NUMBERS = (
    *("evaluations", "_from", "_used", "_cost", "_watching"),
    *("_length", "_predicted", "_refused", "_stuck", "_screened", "_until"),
)


class _Plain:
    """An objective without a follower."""

    samples = 0

    def __init__(self, objective: Evaluation) -> None:
        self._objective, self._value = objective, 0.0

    def __call__(self, x: FloatArray) -> tuple[float, FloatArray]:
        value, gradient = answer_of(self._objective, x)
        self._value = float(value)
        return value, gradient

    def measure(self, x: FloatArray) -> Report:
        self(x)
        return self.report()

    def watch(self, x: FloatArray) -> FloatArray:
        return np.array([self(x)[0]])

    def report(self) -> Report:
        return Report(np.array([self._value]))

    def snapshot(self) -> None:
        return None

    def restore(self, snapshot: Any) -> None:
        pass


class SafeClimb(Recorder):
    """A safe climb that the caller evaluates, at `x` and at the seat that it is made for.

    `start`, the bounds and `x` have one shape.

    Attributes:
        x: What to evaluate next.
        screening: Whether `measure` will do: then `tell`, otherwise `move`.
    """

    def __init__(
        self,
        start: ArrayLike,
        low: FloatArray,
        high: FloatArray,
        seat: Revisable,
        *,
        steps: int = 30,
        samples: int | None = None,
        screen: float = 0.5,
        length: float = 0.1,
        seed: int = 0,
        callback: Callback | None = None,
    ) -> None:
        """Begin at a start in the box; the options are those of `safe`."""
        low, high = checked_bounds(low, high, bounded=False)
        super().__init__(low, high, callback)
        self.x: FloatArray = check_in_box("start", start, low, high)
        self._seat = seat
        self._steps = check_at_least("steps", steps, 1)
        self._samples = optional(check_at_least, "samples", samples, 1)
        self._share = check_probability("screen", screen)
        self._length = check_positive("length", length)
        self._seed = check_at_least("seed", seed, 0)
        self._used, self._cost, self._watching = 0, 0, 0  # environment steps
        self._counted = seat.samples
        self._from = 0  # evaluations when the budget began
        self._screen: Screen | None = None
        self._long: list[FloatArray] = []  # x that are left to be tried along the first gradient
        self._start: Candidate | None = None
        self._kept: list[Candidate] = []  # the best first
        self._here: Candidate | None = None  # what the step under way started from
        self._predicted = 0.0  # its divergence
        self._refused = 0  # steps that were undone in a row
        self._stuck = 0  # evaluations in a row that brought nothing
        self._screened, self._until = 0, self._share  # whether there was a screen; its end

    @property
    def screening(self) -> bool:
        """Whether the next evaluation is one of the screen."""
        return self._screen is not None or bool(self._long)

    @property
    def progress(self) -> float:
        """The share of the budget that is used up, beside what is left for comparing."""
        if self._samples is None or self._start is None:
            return (self.evaluations - self._from) / (self._steps + 1)
        reserve = len(self._finalists) * self._watching
        cost = max(self._cost, self._watching)  # whatever it is, some are watched
        return (self._used + cost) / max(1, self._samples - reserve)

    @property
    def used(self) -> int:
        """Environment steps used so far."""
        return self._used

    @property
    def over(self) -> bool:
        """Whether the budget is used up: what is left is to compare."""
        return self.evaluations > self._from and self.progress >= 1.0

    def extend(self, evaluations: int) -> None:
        """Begin a new budget, of so many evaluations, at least 1."""
        self._from, self._steps, self._samples = self.evaluations, evaluations - 1, None

    def tell(self, report: Report) -> None:
        """Go on from what `measure` has reported at `x`."""
        unknown = np.full_like(self.x, np.nan)
        candidate = self._noted(float(report.values.mean()), unknown, report)
        self._offer(candidate)
        if self._long:
            del self._long[0]
        elif self._screen is not None:
            self._screen.tell(candidate.mean)
        self._go_on_screening()

    def move(self, value: float, gradient: FloatArray) -> None:
        """Go on from F(x) and its gradient, shape of x; the seat has a report of them.

        Raises:
            ValueError: If the gradient has another shape or is not finite.
        """
        check_gradient(self.x, gradient)
        here = self._noted(value, gradient, self._seat.report())
        if self._start is None:
            self._begin(here)
            return
        refused, gained = self._is_refused(here), here.exceeds(self._kept[0])
        self._stuck = 0 if gained else self._stuck + 1
        if refused:
            self._undo()
        else:
            self._offer(here)
            self._refused = 0
            self._step(here)
        if self._stuck >= PATIENCE and self._may_screen:
            self._begin_screen()

    def take(self, value: float, gradient: FloatArray) -> None:
        """Go on from a full evaluation, also where a short one would have done."""
        if self.screening:
            self.tell(self._seat.report())
        else:
            self.move(value, gradient)

    def finish(self) -> Optimum:
        """Watch the best few anew, put the best follower back, and return what was found."""
        found, *others = self._compared
        if others and self._affords(2):
            # What was seen before made it the best: only what is new is free of that.
            found.values = self._watched(found)
            for candidate in others:
                if self._affords(1) and not candidate.falls_below(found):
                    candidate.values = self._watched(candidate)
                    found = max(found, candidate, key=lambda each: each.mean)
        return self._found(found, f"{self.evaluations} evaluations made")

    def stop(self, message: str) -> Optimum:
        """Put the best follower back, by what is known of it, and return what was found."""
        return self._found(self._kept[0], message)

    @property
    def values(self) -> tuple[FloatArray, FloatArray]:
        """The leader's values of the episodes watched at the start and at the best x, `[N]`."""
        assert self._start is not None
        return self._start.values, self._kept[0].values

    def _found(self, found: Candidate, message: str) -> Optimum:
        assert self.first is not None
        self._kept = [found]
        self._go_back()
        self.best = replace(found.iterate, value=found.mean)
        return Optimum(self.best, self.first, self.evaluations, message)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the climb, as nested dicts of numbers and arrays.

        The followers that are kept are in it; the one who learns is not.
        """
        return {
            **{name.lstrip("_"): copy(getattr(self, name)) for name in NUMBERS},
            "x": self.x.copy(),
            "screen": None if self._screen is None else np.array(self._screen.told),
            "long": {str(n): x for n, x in enumerate(self._long)},
            "iterates": {
                name: vars(iterate)
                for name in ("first", "best", "last")
                if (iterate := getattr(self, name)) is not None
            },
            "candidates": {str(n): each.state_dict() for n, each in enumerate(self._candidates)},
            "kept": [self._candidates.index(candidate) for candidate in self._kept],
            "start": self._number(self._start),
            "here": self._number(self._here),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` has returned, of a climb with the same options.

        Raises:
            ValueError: If its x is not in the box.
        """
        self.x = check_in_box("x", state["x"], self._low, self._high)
        for name in NUMBERS:
            setattr(self, name, type(getattr(self, name))(state[name.lstrip("_")]))
        self._counted = self._seat.samples
        for name, iterate in state["iterates"].items():
            setattr(self, name, Iterate(**iterate))
        found = {int(n): Candidate.of(each) for n, each in state["candidates"].items()}
        self._kept = [found[int(n)] for n in state["kept"]]
        self._start, self._here = (
            None if state[name] is None else found[int(state[name])] for name in ("start", "here")
        )
        self._long = [state["long"][str(n)] for n in range(len(state["long"]))]
        self._screen = None
        if state["screen"] is not None:
            self._screen = self._make_screen()
            for value in state["screen"]:
                self._screen.ask()
                self._screen.tell(float(value))
            if not self._long:
                self._screen.ask()

    @property
    def _candidates(self) -> list[Candidate]:
        """All that is kept, each once."""
        every = [*self._kept, self._start, self._here]
        return list({id(each): each for each in every if each is not None}.values())

    def _number(self, candidate: Candidate | None) -> int | None:
        return None if candidate is None else self._candidates.index(candidate)

    # Screen ------------------------------------------------------------------------------------

    def _begin(self, start: Candidate) -> None:
        """Choose what comes after the first evaluation."""
        self._start = start
        self._offer(start)
        if self.progress >= self._until:
            self._step(start)
            return
        if start.is_certain:
            x, gradient, report = start.x, start.iterate.gradient, start.report
            steps = [natural_step(x, gradient, report, n, self._low, self._high) for n in LONG]
            # Where the box ends, the same x comes up again.
            self._long = list({x.tobytes(): x for x, moved in steps if moved > 0.0}.values())
        elif self._may_screen:
            self._begin_screen()
            return
        if self._long:
            self._go_on_screening()
        else:
            self._step(start)

    @property
    def _may_screen(self) -> bool:
        """Whether there may be a screen, and has been none."""
        assert self._start is not None
        known = self._start.report.units is not None and self.x.size <= FEW
        return known and self._share > 0.0 and not self._screened

    def _begin_screen(self) -> None:
        self._screen, self._screened = self._make_screen(), 1
        self._until = max(self._share, self.progress + 0.5 * self._share)
        self._go_on_screening()

    def _make_screen(self) -> Screen:
        assert self._start is not None
        start = self._start
        units = units_of(start.report, self._low, self._high)
        return Screen(start.x, self._low, self._high, units, self._seed)

    def _go_on_screening(self) -> None:
        """Choose the next x of the screen, or end it and begin to climb from its best."""
        if self.progress >= self._until:
            self._screen, self._long = None, []
        if self._long:
            self.x = self._long[0]
        elif self._screen is not None:
            self.x = self._screen.ask()
        else:
            self._stuck = 0
            self._go_back()

    # Climb -------------------------------------------------------------------------------------

    def _is_refused(self, here: Candidate) -> bool:
        """Whether an evaluation is worse than the best that is known, and x is to blame for it."""
        best = self._kept[0]
        moved, old = here.report.divergence, self._here
        if not here.falls_below(best):
            expected = UNREST * self._predicted
            if moved is not None and old is not None and LONGEST < moved <= expected:
                self._length = max(SHORTEST, self._length / GROW)
            elif best.falls_below(here) or (old is not None and here.goes_on_from(old)):
                self._length = min(LONGEST, self._length * GROW)
            return False
        if moved is None or old is None or moved <= UNREST * self._predicted or self.over:
            return True
        # The policy moved by more than x explains: the same follower, learning on at the old x.
        self._seat.restore(old.snapshot)
        report = self._seat.measure(old.x)
        self._count()
        if here.falls_below(Candidate(old.iterate, report, report.values, None)):
            return True
        self._seat.restore(here.snapshot)
        self._length = max(SHORTEST, self._length / GROW)
        return False

    def _undo(self) -> None:
        """Go back to the best follower, and take a shorter step from there."""
        self._length = max(SHORTEST, self._length * SHRINK)
        self._refused += 1
        best = self._kept[0]
        # A best that was lucky would refuse everything: look again.
        best.values = np.concatenate([best.values, self._watched(best)])
        self._kept.sort(key=lambda candidate: -candidate.rank)
        best = self._kept[0]
        # Once more from its gradient, then with a new one.
        if best.steps_on and self._refused % 2 == 1:
            self._seat.restore(best.snapshot)
            self._step(best)
        else:
            self._go_back()

    def _go_back(self) -> None:
        """Put the best follower back, to answer its x once more."""
        best = self._kept[0]
        self._seat.restore(best.snapshot)
        self.x, self._here, self._predicted = best.x, None, 0.0

    def _step(self, here: Candidate) -> None:
        """Choose the next x, from where there is a gradient."""
        self._here = here
        self.x, self._predicted = natural_step(
            here.x, here.iterate.gradient, here.report, self._length, self._low, self._high
        )

    def _offer(self, candidate: Candidate) -> None:
        """Keep a candidate if it is among the best few."""
        self._kept.append(candidate)
        self._kept.sort(key=lambda candidate: -candidate.rank)
        del self._kept[KEPT:]

    @property
    def _compared(self) -> list[Candidate]:
        """The best few and the start, the best one first."""
        assert self._start is not None
        return [*self._kept, *([] if self._start in self._kept else [self._start])]

    @property
    def _finalists(self) -> list[Candidate]:
        """Those of them that may be the best, by what is known."""
        best, *others = self._compared
        return [best, *(candidate for candidate in others if not candidate.falls_below(best))]

    # Budget ------------------------------------------------------------------------------------

    def _affords(self, times: int) -> bool:
        """Whether what is left of the budget suffices to watch so many times."""
        left = math.inf if self._samples is None else self._samples - self._used
        return times * self._watching <= left

    def _noted(self, value: float, gradient: FloatArray, report: Report) -> Candidate:
        cost = self._count()
        if self._start is not None:  # the first evaluation takes longer than all others
            self._cost = max(self._cost, cost)
        self._watching = max(self._watching, report.watched)
        self.note(self.x, value, gradient)
        assert self.last is not None
        return Candidate(self.last, report, report.values, self._seat.snapshot())

    def _watched(self, candidate: Candidate) -> FloatArray:
        """Return the values of fresh episodes of a candidate, who is put back for it."""
        self._seat.restore(candidate.snapshot)
        values = self._seat.watch(candidate.x)
        self._watching = max(self._watching, self._count())
        return values

    def _count(self) -> int:
        """Take note of the environment steps used since the last time, and return them."""
        new = self._seat.samples - self._counted
        self._counted += new
        self._used += new
        return new


def safe(
    objective: Evaluation,
    start: ArrayLike,
    low: FloatArray,
    high: FloatArray,
    *,
    steps: int = 30,
    samples: int | None = None,
    screen: float = 0.5,
    length: float = 0.1,
    seed: int = 0,
    callback: Callback | None = None,
    between: Callable[[SafeClimb], None] | None = None,
) -> Optimum:
    """Climb safely on an objective that is estimated while a follower learns.

    See the module. The best iterate's value is the mean of fresh episodes of a follower who is put
    back in the end. Any other function takes the place of an objective with a follower.

    Args:
        objective: x -> (value, gradient), a `Revisable` if there is a follower.
        start: First x, in the box.
        low: Lower bounds, shape of x.
        high: Upper bounds, shape of x.
        steps: Steps to take, positive; one evaluation more than that.
        samples: Environment steps to use instead, positive, all of them counted: learning,
            watching, comparing.
        screen: Share of the budget that the screen takes at most, in [0, 1].
        length: Divergence that the first step is predicted to move the follower's policy by,
            positive.
        seed: Seed of the screen.
        callback: Called with every iterate; the gradient is NaN in the screen.
        between: Called with the climb before each evaluation and after the last one, when its
            state is whole: to keep it, or at first to restore one.

    Raises:
        ValueError: If an argument is out of range, or a gradient is not finite.
        ArithmeticError: If a value is not finite.
    """
    seat = objective if isinstance(objective, Revisable) else _Plain(objective)
    climb = SafeClimb(
        start,
        low,
        high,
        seat,
        steps=steps,
        samples=samples,
        screen=screen,
        length=length,
        seed=seed,
        callback=callback,
    )
    between = between or (lambda climb: None)
    between(climb)
    while not climb.over:
        if climb.screening:
            climb.tell(seat.measure(climb.x))
        else:
            climb.move(*seat(climb.x))
        between(climb)
    return climb.finish()
