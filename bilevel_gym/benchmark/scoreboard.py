"""Scoreboards: claimed best x of tasks, and what they are worth by the exact answer.

A file of claims is a JSON list of entries, as `best_known.json` of the tasks is one:

    {"task": "BilevelGridWorld-v0", "arguments": {"slip": 0.2}, "x": [...], "name": "who",
     "source": "how it was found", "objective": 0.46, "date": "2026-11-30"}

`objective`, the value claimed, and `date` may be missing, and so may `arguments`, those of the task
that are not its defaults. To read one runs no code in it, and imports nothing that it names.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import gymnasium as gym

from ..core.checks import received, unknown_name
from ..core.files import check_regular, replacing
from ..making import beside_user, find_task, made_game, names_of_code
from ..model import BilevelModel, evaluate
from ..optimizers import projected_gradient_norm
from ..registration import task_ids

if TYPE_CHECKING:
    from ..core.mdp import FloatArray
    from ..envs import BilevelEnv

# The most bytes of a file of claims.
MOST = 1 << 26

# Keys of an entry, and the types of their values.
REQUIRED: dict[str, tuple[type, ...]] = {"task": (str,), "x": (list,), "name": (str,)}
REQUIRED["source"] = (str,)
OPTIONAL: dict[str, tuple[type, ...]] = {"arguments": (dict,), "date": (str,)}
# The second is what a scoreboard's own file says; it is computed anew.
OPTIONAL |= dict.fromkeys(("objective", "projected_gradient_norm"), (int, float))
WORDS = {str: "a text", list: "a list", dict: "an object", int: "a finite number"}

# A claim that differs from F(x) by more than this, relative to max(1, |F|), is not confirmed: such
# as come of rounding to six decimals are.
AGREES = 1e-6

# Of a task and its arguments, a table shows so many characters.
LONGEST = 100

NUMBERS = ("F(x)", "claimed", "best known", "projected gradient norm", "at bounds")
HEAD = ("task", "name", *NUMBERS, "source")


@dataclass(frozen=True)
class Claim:
    """An x that somebody has found.

    Attributes:
        where: What messages call it.
        task: Id of the task.
        x: Its entries, in nested lists.
        name: Who or what found it.
        source: How it was found.
        arguments: Arguments of the task.
        objective: The value claimed, None without.
        date: When it was found, None without.
    """

    where: str
    task: str
    x: list[Any]
    name: str
    source: str
    arguments: dict[str, Any] = field(default_factory=dict)
    objective: float | None = None
    date: str | None = None


@dataclass(frozen=True)
class Score:
    """A claim and what it is worth, exactly.

    Attributes:
        objective: F(x).
        projected_gradient_norm: See `bilevel_gym.optimizers.projected_gradient_norm`.
        at_bounds: Entries of x that lie on a bound of the box.
        entries: Entries of x.
        best_known: The best value known of this instance of the task, None where there is none.
    """

    claim: Claim
    objective: float
    projected_gradient_norm: float
    at_bounds: int
    entries: int
    best_known: float | None

    @property
    def confirmed(self) -> bool | None:
        """Whether F(x) is what was claimed, None where nothing was."""
        if self.claim.objective is None:
            return None
        slack = AGREES * max(1.0, abs(self.objective))
        return abs(self.claim.objective - self.objective) <= slack


def read_claims(path: Path) -> list[Claim]:
    """Return the claims of a file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no list of entries as above; the message names the first wrong one.
    """
    check_regular(path, MOST)
    return parse_claims(path.read_bytes(), str(path))


def parse_claims(text: str | bytes, name: str) -> list[Claim]:
    """Return the claims of a text; see `read_claims`. `name` is what messages call it."""
    try:
        entries = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # undecodable bytes are such an error too
        raise ValueError(f"{name} must be JSON: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{name} must be a list of entries, got {received(entries)}")
    return [_claim(f"{name}, entry {number}", entry) for number, entry in enumerate(entries, 1)]


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _claim(where: str, entry: Any) -> Claim:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} must be an object, got {received(entry)}")
    kinds = {**REQUIRED, **OPTIONAL}
    for key, value in entry.items():
        if key not in kinds:
            raise ValueError(f"{where}: {unknown_name('key', key, kinds)}")
        infinite = isinstance(value, int | float) and abs(value) > sys.float_info.max
        if not isinstance(value, kinds[key]) or isinstance(value, bool) or infinite:
            words = WORDS[kinds[key][0]]
            raise ValueError(f"{where}: `{key}` must be {words}, got {received(value)}")
    for key in REQUIRED:
        if key not in entry:
            raise ValueError(f"{where} must have `{key}`, got {', '.join(entry) or 'nothing'}")
    known = {key: entry[key] for key in entry if key != "projected_gradient_norm"}
    return Claim(f"{where} ({received(entry['name'])})", **known)


def verified(claims: Iterable[Claim], *, trust: bool = False) -> list[Score]:
    """Return what claims are worth, by task and then by objective, the largest first.

    Args:
        claims: The claims.
        trust: Whether what they name as "module:Name" is imported.

    Raises:
        ValueError: If one names an unknown task or argument, code without trust, a task without an
            exact answer, or its x has another shape, or an entry that is not finite or out of the
            box; the message names the claim.
    """
    scores = [_verified(claim, trust) for claim in claims]
    return sorted(scores, key=lambda s: (*_instance(s.claim), -s.objective))


def _instance(claim: Claim) -> tuple[str, str]:
    """Return the task and its arguments as text, none for the defaults."""
    arguments = json.dumps(claim.arguments, sort_keys=True) if claim.arguments else ""
    return claim.task.rpartition(":")[2], arguments


def _verified(claim: Claim, trust: bool) -> Score:
    try:
        if not trust:
            for code in names_of_code([claim.task, claim.arguments]):
                raise ValueError(f"{received(code)} would be imported; trust the file by `--trust`")
            if claim.task not in gym.registry:
                raise ValueError(
                    unknown_name("task", claim.task, task_ids(), listed_by="bilevel-gym list")
                )
        env_id = find_task(beside_user(claim.task))
        game = cast("BilevelEnv", made_game(env_id, claim.arguments).unwrapped)
        model = game.model
        if not isinstance(model, BilevelModel):
            raise ValueError(f"{env_id} has no exact answer to verify x by")
        x: FloatArray = model.validate(claim.x)
        answer = evaluate(model, x)
        if answer.converged is False:
            raise ValueError("the follower's problem is not solved to its tolerance at this x")
    except (ValueError, TypeError, ImportError, ArithmeticError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{claim.where}: {text}") from None
    return Score(
        claim,
        float(answer.objective),
        projected_gradient_norm(x, answer.hyper_gradient, model.low, model.high),
        int(((x == model.low) | (x == model.high)).sum()),
        x.size,
        None if game.best_known is None else float(game.best_known.value),
    )


def rows_of(scores: Sequence[Score]) -> list[tuple[str, ...]]:
    """Return the rows of a scoreboard below `HEAD`, as text."""
    return [_row(score) for score in scores]


def _row(score: Score) -> tuple[str, ...]:
    claim = score.claim
    task = " ".join(filter(None, _instance(claim)))
    claimed = "" if claim.objective is None else f"{claim.objective:.6f}"
    return (
        task if len(task) <= LONGEST else f"{task[: LONGEST - 3]}...",
        claim.name,
        f"{score.objective:.6f}",
        f"{claimed} (wrong)" if score.confirmed is False else claimed,
        "none" if score.best_known is None else f"{score.best_known:.6f}",
        f"{score.projected_gradient_norm:.1e}",
        f"{score.at_bounds} of {score.entries}",
        claim.source,
    )


def as_json(scores: Iterable[Score]) -> str:
    """Return a scoreboard as a file of claims, an entry a line, with the verified values."""
    lines = []
    for score in scores:
        claim = score.claim
        entry = {
            "task": claim.task,
            "arguments": claim.arguments,
            "name": claim.name,
            "source": claim.source,
            **({} if claim.date is None else {"date": claim.date}),
            "objective": score.objective,
            "projected_gradient_norm": score.projected_gradient_norm,
            "x": claim.x,
        }
        lines.append(json.dumps(entry, allow_nan=False))
    return "[\n" + ",\n".join(lines) + "\n]\n"


def as_csv(scores: Sequence[Score]) -> str:
    """Return the table of a scoreboard as CSV."""
    import csv
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEAD, *rows_of(scores)])
    return text.getvalue()


def as_markdown(scores: Sequence[Score]) -> str:
    """Return the table of a scoreboard as Markdown."""
    from .report import markdown

    return markdown(HEAD, rows_of(scores), right=range(2, len(HEAD) - 1)) + "\n"


# How a scoreboard is written, by the suffix of its file.
WRITERS = {".json": as_json, ".csv": as_csv, ".md": as_markdown}


def write_scoreboard(scores: Sequence[Score], path: Path) -> None:
    """Write a scoreboard, whole or not at all, in the format of the suffix: one of `WRITERS`."""
    text = WRITERS[path.suffix](scores)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
