"""A lesson in five stages: why the greedy leader fails, and the hyper-gradient does not.

It is taken in `BilevelToll-v0`, where the greedy leader's failure is easy to see: at the traffic of
now higher tolls always earn more, and in the end nobody comes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..rendering.canvas import THEME, Colour
from .climbing import part

if TYPE_CHECKING:
    from .session import Session

TASK = "BilevelToll-v0"


@dataclass(frozen=True)
class Stage:
    """A stage of the lesson.

    Attributes:
        title: What it is about.
        told: What the leader is told.
        task: What it is to do.
        done: Whether it has done so.
        learnt: What is said then.
        start: The toll on every link at the start, in minutes.
    """

    title: str
    told: str
    task: str
    done: Callable[[Session], bool]
    learnt: str
    start: float = 0.0


def raised_a_toll(session: Session) -> bool:
    """Whether a toll is at least 5 minutes."""
    return bool(session.x.max() >= 5.0)


def earns(session: Session) -> bool:
    """Whether F is positive, without climbing."""
    return session.climb is None and session.response.objective > 0.0


def followed_the_direct_part(session: Session) -> bool:
    """Whether the direct part leads no further."""
    climb = session.climb
    return climb is not None and climb.way == "direct part" and bool(session.stuck)


def cancelled(session: Session) -> bool:
    """Whether some toll's parts cancel: their sum is less than a third of the direct part."""
    if session.dragged is not None or session.climb is not None:
        return False
    direct, total = (part(session.response, name) for name in ("direct part", "hyper-gradient"))
    return bool(((np.abs(total) < 0.3 * direct) & (direct > 2e-3)).any())


def climbed(session: Session) -> bool:
    """Whether the hyper-gradient has led to the best F known, to a hundredth."""
    climb, best = session.climb, session.game.best_known
    if climb is None or climb.way != "hyper-gradient" or best is None:
        return False
    return bool(session.response.objective > best.value - 1e-3)


STAGES = (
    Stage(
        "the follower answers",
        "You set the tolls of ten roads at node 10. A toll earns you its minutes, but each passage "
        "of these roads costs you 2. The drivers answer every toll at once: wide arrows show where "
        "they go then, and F is what you gain.",
        "Drag one slider to 5 minutes or more.",
        raised_a_toll,
        "That road is almost empty now: its arrows are thin. You choose x, and never the traffic; "
        "the follower's best answer to x does that.",
    ),
    Stage(
        "by hand",
        "Without tolls F is negative: drivers pass and cost you. Every toll moves the traffic of "
        "all roads, so that the sliders cannot be set one by one.",
        "Bring the objective above 0. Shift and drag moves all sliders together.",
        earns,
        "Too low, and everybody comes and pays little. Too high, and nobody comes. Between the two "
        "is the best x, with a toll of its own for each road.",
    ),
    Stage(
        "the greedy leader",
        "The blue bars are the direct part of dF/dx: what a toll gains if nobody reacts. At the "
        "traffic of now a higher toll always earns more.",
        "Hold D to follow the direct part until it is stuck. Watch the objective.",
        followed_the_direct_part,
        "F rose at first and then fell to 0: the tolls are so high now that nobody comes. "
        "The greedy leader never sees the drivers leave.",
    ),
    Stage(
        "what it overlooks",
        "The red bars are the response part: how F changes because drivers react to the toll. The "
        "black bars are the sum of both, the hyper-gradient. All tolls are 3 minutes again.",
        "Move a slider until its black bar is almost gone, and its blue bar is not.",
        cancelled,
        "There the parts cancel: what another minute earns is lost with the drivers who leave. The "
        "greedy leader would go on; the sum says stop.",
        start=3.0,
    ),
    Stage(
        "the hyper-gradient",
        "From tolls of 0 again, now along the black bars. A line search chooses the length of each "
        "step, so that F always rises.",
        "Hold G until the objective is the best known.",
        climbed,
        "Every red bar cancels its blue one now: no toll can gain, and F is the best known. The "
        "greedy leader ended at 0. The hyper-gradient counts what the follower will do.",
    ),
)


class Lesson:
    """The state of the lesson.

    Attributes:
        number: The stage, from 0.
        finished: Whether the task of the stage is done.
        over: Whether the last stage is done and left.
    """

    def __init__(self) -> None:
        """Start at the first stage."""
        self.number, self.finished, self.over = 0, False, False

    @property
    def stage(self) -> Stage:
        """The stage."""
        return STAGES[self.number]

    def begin(self, session: Session) -> None:
        """Put the leader where the stage starts."""
        self.finished = False
        session.go_to(np.full_like(session.low, self.stage.start))

    def watch(self, session: Session) -> None:
        """Notice when the task is done."""
        if not self.finished and session.seat == "leader":
            self.finished = self.stage.done(session)

    def go_on(self, session: Session) -> None:
        """Go to the next stage, done or not; after the last one the game goes on without stages."""
        if self.number + 1 < len(STAGES):
            self.number += 1
            self.begin(session)
        else:
            self.over = True

    @property
    def paragraphs(self) -> list[tuple[str, Colour]]:
        """What the panel says, with colours."""
        if self.over:
            return [("The lesson is over; play on. H lists all keys.", THEME.ink)]
        stage, count = self.stage, len(STAGES)
        said: list[tuple[str, Colour]] = [
            (f"Lesson {self.number + 1} of {count}: {stage.title}", THEME.curves[0]),
            (stage.learnt if self.finished else stage.told, THEME.ink),
        ]
        if self.finished:
            last = self.number + 1 == count
            what = "to end the lesson" if last else "to go on"
            return [*said, (f"Done. Press Enter {what}.", THEME.curves[2])]
        return [*said, (f"Your task: {stage.task}", THEME.accent)]
