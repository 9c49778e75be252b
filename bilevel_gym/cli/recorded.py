"""What a run of `bilevel-gym solve` keeps in order to go on: evaluations, and what was learnt.

An optimizer that is told the same does the same, so what it was told is its state: to go on, it
runs again and is told what is recorded, which takes no time, until it asks for more. From there on
the method answers, put back where it was when its own state was last written. In the midst of an
answer it has none that could be kept, so the last few evaluations may be made again; they come out
the same where the method is deterministic. The safe climb, which puts followers back, has a state
of its own instead.
"""

from __future__ import annotations

import io
import json
import math
import time
import zipfile
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.files import check_regular, claim, replacing
from ..core.mdp import FloatArray
from ..core.plain import checked_members, readable
from ..core.state import dump_tree, read_tree, write_tree
from ..model.protocols import LearntMethod, Resumable
from .arguments import CommandError, Failure
from .console import uninterrupted

if TYPE_CHECKING:
    from ..optimizers import Evaluation, Start
    from ..optimizers.climb import Together
    from ..optimizers.safe import SafeClimb
    from ..wrappers import HyperGradient, LeaderObjective

EVALUATIONS, STATE, LEARNT = "evaluations.bin", "method.npz", "method.zip"

# In the file of a method whose follower learns, beside what its `save` puts there; the latter is
# of a climb that has a state of its own.
PLACE, CLIMB = "place.json", "climb.npz"

# How long the method's state may be older than the last evaluation, in seconds, where it is small
# and where it is a learner with its replay; and the share of the run that writing it may take.
SECONDS, LEARNT_SECONDS = 3.0, 60.0
SHARE = 0.05


class Evaluations:
    """x, F(x) and the hyper-gradient of each evaluation, a row of float64 each, in a file.

    Rows are appended one by one; half a row, as a kill may leave it, counts as none.
    """

    def __init__(self, folder: Path, low: FloatArray, high: FloatArray) -> None:
        """Open the file in a folder, with what it has.

        Args:
            folder: The folder of the run.
            low: Lower bounds of x, shape of x.
            high: Upper bounds of x, shape of x.

        Raises:
            Failure: If another process has it open.
            CommandError: If it is damaged.
        """
        self._shape, self._size = low.shape, low.size
        self._file = _claimed(folder)
        self._grows = False
        width = 2 * self._size + 1
        try:
            numbers = np.fromfile(folder / EVALUATIONS, dtype="<f8")
            self.recorded = numbers[: len(numbers) // width * width].reshape(-1, width)
            xs = self.recorded[:, : self._size]
            # (There is no gradient of what was evaluated briefly.)
            if not np.isfinite(self.recorded[:, : self._size + 1]).all():
                raise ValueError("not all of it is finite")
            if not ((low.ravel() <= xs) & (xs <= high.ravel())).all():
                raise ValueError("not every x in it is in the box")
        except (ValueError, MemoryError) as error:
            self.close()
            reason = error or "too large"
            raise CommandError(f"{folder / EVALUATIONS} is damaged: {reason}") from None

    def close(self) -> None:
        """Close the file, which others may then open."""
        self._file.close()

    def keep(self, count: int) -> None:
        """Forget all but the first rows; the file does once there is another one."""
        self.recorded = self.recorded[:count]

    def add(self, x: FloatArray, value: float, gradient: FloatArray) -> None:
        """Append an evaluation; x and the gradient have the shape of x."""
        if not self._grows:
            self._file.truncate(self.recorded.nbytes)
            self._grows = True
        row = np.concatenate([x.ravel(), [value], gradient.ravel()])
        content = row.astype("<f8").tobytes()
        while content:  # a disk that is almost full takes a part
            content = content[self._file.write(content) :]

    def row(self, number: int) -> tuple[FloatArray, float, FloatArray]:
        """Return x, F(x) and the hyper-gradient of a recorded evaluation."""
        row = self.recorded[number].astype(np.float64)
        x, gradient = row[: self._size], row[self._size + 1 :]
        return x.reshape(self._shape), float(row[self._size]), gradient.reshape(self._shape)


def check_idle(folder: Path) -> None:
    """Raise a `Failure` if another process is at the run in a folder."""
    if (folder / EVALUATIONS).exists():
        _claimed(folder).close()


def _claimed(folder: Path) -> FileIO:
    """Return the file of the evaluations, open for this process alone."""
    file = FileIO(folder / EVALUATIONS, "a")
    if not claim(file):
        file.close()
        raise Failure(f"the run in {folder} is still going on in another process")
    return file


class Replayed:
    """The leader's objective, as it was recorded for as long as that lasts."""

    def __init__(self, leader: LeaderObjective, evaluations: Evaluations) -> None:
        """Begin with the first evaluation."""
        self.low, self.high = leader.low, leader.high
        self._leader, self._evaluations, self._made = leader, evaluations, 0

    @property
    def live(self) -> bool:
        """Whether the last evaluation was made, not recorded."""
        return self._made > len(self._evaluations.recorded)

    def cost(self, cost: Any) -> Evaluation:
        """Return a cost as a function of x; it is not recorded."""
        return self._leader.cost(cost)

    def __call__(self, x: FloatArray) -> tuple[float, FloatArray]:
        """Return F(x) and the hyper-gradient.

        Raises:
            CommandError: If the optimizer asks for another x than it did when that was recorded.
        """
        if self._made >= len(self._evaluations.recorded):
            self._made += 1
            return self._leader(x)
        return self._told(x)

    # As `bilevel_gym.optimizers.climb` asks for.

    def together(self, xs: Sequence[FloatArray]) -> Iterator[tuple[float, FloatArray]]:
        """Yield F and the hyper-gradient of several x.

        All are made again unless all are recorded: together they come out as they did then.
        """
        known = min(len(xs), len(self._evaluations.recorded) - self._made)
        yield from (self._told(x) for x in xs[: max(0, known)])
        if known < len(xs):
            for number, answer in enumerate(self._leader.together(xs)):
                if number >= known:
                    self._made += 1
                    yield answer

    def starts(self, x: FloatArray, most: int) -> Sequence[Start]:
        """Return so many starts at most, for a climb that begins at x."""
        return self._leader.starts(x, most)

    def easier(self, x: FloatArray) -> Sequence[Together]:
        """Return easier objectives, the easiest first."""
        return self._leader.easier(x)

    def _told(self, x: FloatArray) -> tuple[float, FloatArray]:
        number = self._made
        self._made += 1
        recorded, value, gradient = self._evaluations.row(number)
        if not np.array_equal(recorded, x):
            raise CommandError(
                f"this run cannot be gone on with: its evaluation {number} was at another x, "
                "probably under other versions of the libraries (see its config.json); "
                "`--start` with its params.npz begins a new run at its best x"
            )
        return value, gradient


class Memory:
    """The state of a run's method, on disk: what it has learnt, and after how many evaluations."""

    def __init__(self, folder: Path, seat: HyperGradient) -> None:
        """Begin with nothing written."""
        self._folder, self._seat = folder, seat
        self._least = LEARNT_SECONDS if isinstance(seat.method, LearntMethod) else SECONDS
        self._due = -math.inf
        self._began = time.monotonic()
        self.climb: SafeClimb | None = None
        self._climbed: dict[str, Any] | None = None

    def follow(self, climb: SafeClimb) -> None:
        """Keep the state of a climb with that of the method; restore what there is of it first."""
        if self.climb is None and self._climbed is not None:
            climb.load_state_dict(self._climbed)
        self.climb = climb

    @property
    def seconds(self) -> float:
        """How long the run has taken, all its parts together."""
        return time.monotonic() - self._began

    def offer(self, count: int) -> None:
        """Write the state after `count` evaluations, if it is time to."""
        if time.monotonic() >= self._due:
            self.write(count)

    def write(self, count: int) -> None:
        """Write the state after `count` evaluations."""
        began = time.monotonic()
        with uninterrupted():
            self._write({"evaluations": count, "seconds": self.seconds})
        now = time.monotonic()
        self._due = now + max(self._least, (now - began) / SHARE)

    def restore(self, recorded: int, *, trust: bool = False) -> int | None:
        """Put the method back, and return how many of the recorded evaluations it has made.

        None says that it has no state to go on from, and begins anew. `trust` is whether code in
        the file may run; see `load` of the method.

        Raises:
            CommandError: If the file is damaged, or of something else.
        """
        method = self._seat.method
        learnt = isinstance(method, LearntMethod)
        path = self._folder / (LEARNT if learnt else STATE)
        try:
            if isinstance(method, LearntMethod):
                check_regular(path)
                with readable(path), zipfile.ZipFile(path) as archive:
                    checked_members(archive)
                    place = json.loads(archive.read(PLACE))
                    if CLIMB in archive.namelist():
                        self._climbed = read_tree(io.BytesIO(archive.read(CLIMB)))
                method.load(path, trust=trust)
            else:
                place = read_tree(path)
                if "seat" in place:
                    self._seat.load_state_dict(place["seat"])
                self._climbed = place.get("climb")
            count, seconds = int(place["evaluations"]), float(place["seconds"])
            if not 0 < count <= recorded:
                raise ValueError(f"{path} is of {count} evaluations, of which {recorded} are there")
        except FileNotFoundError:
            return 0  # the run ended before its first answer was kept
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise CommandError(f"this run cannot be gone on with: {error}") from None
        self._began = time.monotonic() - seconds
        return count if learnt or {"seat", "climb"} & {*place} else None

    def _write(self, place: dict[str, Any]) -> None:
        method = self._seat.method
        if isinstance(method, LearntMethod):
            with replacing(self._folder / LEARNT) as temporary:
                method.save(temporary)
                with zipfile.ZipFile(temporary, "a") as archive:
                    archive.writestr(PLACE, json.dumps(place))
                    if self.climb is not None:
                        with archive.open(CLIMB, "w", force_zip64=True) as member:
                            dump_tree(member, self.climb.state_dict())
            return
        if isinstance(method, Resumable):
            place = {**place, "seat": self._seat.state_dict()}
        if self.climb is not None:
            place = {**place, "climb": self.climb.state_dict()}
        write_tree(self._folder / STATE, place)
