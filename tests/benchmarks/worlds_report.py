"""Results of `tests.benchmarks.worlds`: the records of jobs, and what is counted in them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .estimators import bar

# Of all runs of the climb: standard errors of the difference to the start by which a run may be
# worse, and in how many it may be; standard errors by which it should be better, and in how many
# worlds of each seed; the share of the way from start to direct training, and in which part of the
# worlds.
WORSE = {3.0: 0, 2.0: 1}
BETTER, BETTER_WORLDS = 2.0, 8
SHARE, SHARE_WORLDS = 0.8, 0.5


class Score(NamedTuple):
    """A mean over episodes and its standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        """Return both, the error in brackets."""
        return f"{self.mean:.4g} ({self.error:.2g})"


class Job(NamedTuple):
    """What is run once: a contender in a world.

    Attributes:
        tag: Name of an ablation; empty for the defaults.
        world: A key of `worlds_tasks.WORLDS`.
        seed: Seed of everything random.
        contender: "start", "climb", "direct" or "cma".
        budget: Environment steps that it has.
    """

    tag: str
    world: str
    seed: int
    contender: str
    budget: int


@dataclass(frozen=True)
class Record:
    """What came of a job.

    Attributes:
        job: Which one.
        mean: The mean of the leader's return in held-out episodes of the follower, not discounted.
        error: Its standard error.
        length: The mean length of those episodes.
        learnt: Environment steps that the learner made.
        watched: Those of episodes that were played to see how good something is, held-out ones
            not among them.
        seconds: Processor time.
        x: The x that was found.
        settings: What differed from the defaults.
    """

    job: Job
    mean: float
    error: float
    length: float
    learnt: int
    watched: int
    seconds: float
    x: list[float]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Environment steps that count: what direct training watches is for free."""
        return self.learnt + (0 if self.job.contender == "direct" else self.watched)

    @property
    def score(self) -> Score:
        """The mean and its standard error."""
        return Score(self.mean, self.error)


Records = dict[Job, Record]


def append(path: Path, record: Record) -> None:
    """Add a record to a file, as a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record) | {"job": record.job._asdict()}) + "\n")


def read(path: Path) -> Records:
    """Return the records of a file, none if it is not there."""
    if not path.exists():
        return {}
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    records = [Record(**{**line, "job": Job(**line["job"])}) for line in lines]
    return {record.job: record for record in records}


# What is counted ---------------------------------------------------------------------------------


def errors_better(score: Score, other: Score) -> float:
    """Return by how many standard errors of the difference a score is better than another."""
    gain, error = score.mean - other.mean, math.hypot(score.error, other.error)
    if gain == 0.0:
        return 0.0
    return gain / error if error > 0.0 else math.copysign(math.inf, gain)


def pooled(scores: Iterable[Score]) -> Score:
    """Return the mean of means, with the standard error that those of independent means make."""
    means, errors = zip(*scores, strict=True)
    return Score(sum(means) / len(means), math.hypot(*errors) / len(errors))


class Runs:
    """Records of one budget, and of one ablation.

    What the ablation has not run itself is that of the defaults.
    """

    def __init__(self, records: Records, budget: int, tag: str = "") -> None:
        own, defaults = (
            {
                (job.world, job.seed, job.contender): record
                for job, record in records.items()
                if job.budget == budget and job.tag == wanted
            }
            for wanted in (tag, "")
        )
        run = {(world, seed) for world, seed, _ in own}
        self._records = own | {
            (world, seed, name): record
            for (world, seed, name), record in defaults.items()
            if (world, seed) in run and name != "climb" and (world, seed, name) not in own
        }
        self.worlds = list(dict.fromkeys(world for world, _, _ in own))
        self.seeds = sorted({seed for _, seed in run})

    def record(self, world: str, seed: int, contender: str) -> Record | None:
        """Return a record, None if there is none."""
        return self._records.get((world, seed, contender))

    def gains(self, contender: str) -> dict[tuple[str, int], float]:
        """Return by how many standard errors each run is better than its start."""
        found = {}
        for (world, seed, name), record in self._records.items():
            start = self.record(world, seed, "start")
            if name == contender and start is not None:
                found[world, seed] = errors_better(record.score, start.score)
        return found

    def worse(self, contender: str, errors: float) -> int:
        """Return how many runs are worse than their start by more than so many errors."""
        return sum(gain < -errors for gain in self.gains(contender).values())

    def most_steps(self, contender: str) -> float:
        """Return the most environment steps of a run, in units of the budget."""
        found = [one for (*_, name), one in self._records.items() if name == contender]
        return max((one.steps / one.job.budget for one in found), default=0.0)

    def better(self, contender: str, errors: float) -> dict[int, int]:
        """Return in how many worlds of each seed it is better by so many errors or more."""
        counts = dict.fromkeys(self.seeds, 0)
        for (_, seed), gain in self.gains(contender).items():
            counts[seed] += gain >= errors
        return counts

    def of_world(self, world: str, *contenders: str) -> list[Score]:
        """Return the score of each contender over the seeds that all of them were run with.

        There are none if there is no such seed.
        """
        rows = [[self.record(world, seed, name) for name in contenders] for seed in self.seeds]
        whole = [[record.score for record in row if record is not None] for row in rows]
        whole = [row for row in whole if len(row) == len(contenders)]
        return [pooled(scores) for scores in zip(*whole, strict=True)]

    def shares(self, contender: str) -> dict[str, float]:
        """Return the share of the way from start to direct training, over all seeds.

        Of the worlds where direct training is better than the start by more than two errors.
        """
        found = {}
        for world in self.worlds:
            scores = self.of_world(world, "start", "direct", contender)
            if scores and errors_better(scores[1], scores[0]) > 2.0:
                start, direct, other = (score.mean for score in scores)
                found[world] = (other - start) / (direct - start)
        return found


# What is printed ---------------------------------------------------------------------------------

COLUMNS = ("start", "climb", "direct", "cma")


def print_report(records: Records, budget: int) -> None:
    """Print tables and counts, and those of the ablations."""
    runs = Runs(records, budget)
    if runs.worlds:
        print_runs(runs)
        print_counts(runs)
    for tag in dict.fromkeys(job.tag for job in records if job.tag and job.budget == budget):
        print(f"\n### {tag}\n")
        print_ablation(runs, Runs(records, budget, tag))


def print_runs(runs: Runs) -> None:
    """Print a row for each run, and one for each world."""
    print(
        "| world | seed | start | climb | direct training | CMA-ES | share | "
        "steps: climb, direct, CMA-ES | processor, s |\n" + "|---" * 9 + "|"
    )
    shares = runs.shares("climb")
    for world in runs.worlds:
        for seed in runs.seeds:
            found = [runs.record(world, seed, name) for name in COLUMNS]
            if not any(found):
                continue
            scores = [str(record.score) if record else "" for record in found]
            steps = [str(record.steps) if record else "" for record in found[1:]]
            seconds = [f"{record.seconds:.0f}" if record else "" for record in found[1:]]
            cells = [f"`{world}`", str(seed), *scores, "", ", ".join(steps), ", ".join(seconds)]
            print("| " + " | ".join(cells) + " |")
        over = ["".join(map(str, runs.of_world(world, name))) for name in COLUMNS]
        share = f"{shares[world]:.2f}" if world in shares else ""
        cells = [f"`{world}`", "all", *over, share]
        print("| " + " | ".join([*cells, "", ""]) + " |")


def print_counts(runs: Runs) -> None:
    """Print what was asked of the climb, and whether it was reached; the search beside it."""
    gains, shares = runs.gains("climb"), runs.shares("climb")
    print("\n| what | value | reached |\n|---|---|---|")
    for errors, allowed in WORSE.items():
        count = runs.worse("climb", errors)
        text = f"runs worse than the start by > {errors:g} errors, <= {allowed}"
        bar(text, count, count <= allowed)
    counts = runs.better("climb", BETTER)
    for seed, count in counts.items():
        text = f"worlds better by {BETTER:g} errors, seed {seed}, >= {BETTER_WORLDS}"
        bar(text, count, count >= BETTER_WORLDS)
    if shares:
        part = sum(share >= SHARE for share in shares.values()) / len(shares)
        text = f"of {len(shares)} worlds, part with a share >= {SHARE:g}, >= {SHARE_WORLDS:g}"
        bar(text, part, part >= SHARE_WORLDS)
    most = f"of at most {runs.most_steps('climb'):.2f} times the steps"
    print(f"\n{len(gains)} runs of the climb in {len(runs.worlds)} worlds, {most}")
    for name in ("direct", "cma"):
        if runs.gains(name):
            print(f"{name}: {counted(runs, name)}")


def counted(runs: Runs, contender: str) -> str:
    """Return the same counts in a line."""
    worse = ", ".join(f"{runs.worse(contender, errors)} by > {errors:g}" for errors in WORSE)
    better = ", ".join(map(str, runs.better(contender, BETTER).values()))
    far = sum(share >= SHARE for share in runs.shares(contender).values())
    return (
        f"runs worse than the start {worse}; worlds better by {BETTER:g}, by seed: {better}; "
        f"a share >= {SHARE:g} in {far}"
    )


def print_ablation(runs: Runs, others: Runs) -> None:
    """Print what becomes of the climb without a part, beside what it is with all."""
    print("| world | seed | start | climb | so | errors better |\n" + "|---" * 6 + "|")
    for world in others.worlds:
        for seed in others.seeds:
            start, other = (others.record(world, seed, name) for name in ("start", "climb"))
            if other is None:
                continue
            whole = runs.record(world, seed, "climb")
            gain = f"{errors_better(other.score, whole.score):+.1f}" if whole else ""
            scores = [str(record.score) if record else "" for record in (start, whole, other)]
            print("| " + " | ".join([f"`{world}`", str(seed), *scores, gain]) + " |")
    print(f"\n{counted(others, 'climb')}")
