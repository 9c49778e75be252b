"""Pages of optimizers and objectives, and the scoreboard."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from bilevel_gym.benchmark import scoreboard
from bilevel_gym.core.checks import accepted_options
from bilevel_gym.envs.records import FILE, best_known_text
from bilevel_gym.model import objectives, preferences
from bilevel_gym.optimizers import OPTIMIZERS, RULES, SCHEDULES

from .markdown import docstring, table

ROOT = Path(__file__).resolve().parent.parent

# The changelog's page, as links of other pages know it.
LOWER = "changelog.md"

OPTIMIZERS_HEAD = """# Optimizers

An optimizer maximises any function x -> (value, gradient) over a box, and knows nothing of games.
`make_optimizer(NAME, **options)` returns one, `--optimizer NAME --optimizer-set OPTION=VALUE`
chooses it on the command line. `climb`, from many starts, is the default where answers are exact,
`safe` where they are estimated. [Constraints](constraints.md) are a page of their own.

```python
from bilevel_gym import make
from bilevel_gym.optimizers import make_optimizer
from bilevel_gym.wrappers import exact_objective

model = make("BilevelToll-v0").unwrapped.model
climb = make_optimizer("lbfgsb", max_evaluations=50)
outcome = climb(exact_objective(model), model.initial_upper_params, model.low, model.high)
print(f"{outcome.best.value:.2f}")
```

The function may be any other, as `climb(lambda x: (1.0 - x @ x, -2.0 * x), start, low, high)`.
`slsqp` and `trust-constr` keep constraints, `cobyqa` uses no gradient, and `safe` is for followers
who learn.

How many instances each brings within 1 % of the best value known, from the task's own start, by its
defaults and in at most 400 evaluations (`python -m tests.benchmarks.climb measure`, 30 November
2026); in brackets, instances that were kept aside while `climb` was made:

| instances | `climb` | `restarted-lbfgsb` | `adam` | `lbfgsb` | `cobyqa` |
|---|---|---|---|---|---|
| thirteen registered tasks, as they come | 13 of 13 | 11 | 8 | 11 | 6 of 7 |
| random maps of BilevelGridWorld-v0 | 30 of 30 (20 of 20) | 26 | 26 | 10 | |
| settings of BilevelFourRooms-v0 | 11 of 12 | 1 | 0 | 2 | |
| random BilevelIncentive-v0 | 10 of 10 (5 of 5) | 5 | 0 | 0 | |
| random tolled links of BilevelToll-v0 | 9 of 10 (5 of 5) | 4 | 0 | 3 | 4 |
| random bonus of BilevelMarkovGame-v0 | 10 of 10 (5 of 5) | 9 | 7 | 8 | 10 |
| random BilevelInverseRL-v0 | 10 of 10 (5 of 5) | 10 | 2 | 10 | 10 |
| random BilevelContract-v0, none seen before | (15 of 15) | (11) | (10) | (11) | (13) |
| random BilevelGoalPlacement-v0, none seen before | (14 of 15) | (13) | (3) | (10) | (13) |

COBYQA is left out where x has more than 30 entries. The two instances that `climb` misses it finds
with 1000 evaluations.
"""

OBJECTIVES_HEAD = """# Objectives

The leader's objective is a function of what the follower does, f(x, pi*(x)), to be maximised. These
can be named in a model, and added by `Sum`. One of your own is a class with the methods of
`bilevel_gym.model.objectives.Objective`.
"""

SCOREBOARD_HEAD = """# Scoreboard

The best x known for each task with an exact answer. Nothing here is taken on trust: this build has
evaluated F and the hyper-gradient of every x anew, and fails where a claim is off by more than one
part in a million. *Projected gradient norm* is the norm of P(x + dF/dx) - x, with P the projection
on the box: it is 0 exactly at a stationary point. Values are local optima, not proven to be global,
unless the last column says so.
"""

SUBMIT = f"""## How to submit

Find a better x by any means, and write it to a file:

```json
[{{"task": "BilevelToll-v0", "arguments": {{}}, "x": [0.0, 1.5], "name": "who",
  "source": "how it was found", "objective": 0.11, "date": "2026-11-30"}}]
```

`x` has all entries of the task; `arguments` are those of the task that are not its defaults, so
that there may be a best x for any instance. Folders of `bilevel-gym solve` will do as well.
`bilevel-gym rescore FILE` evaluates it, and says what the value is beside the best known; it runs
no code in the file. Then add the entry to `envs/{FILE}`, which `bilevel-gym rescore FILE --out
better.json` writes in the right form, in the order of objectives for each instance, and send the
change. The tests and this page evaluate it again.
"""


def pages() -> dict[str, str]:
    """Return the pages, by path."""
    return {
        "optimizers.md": optimizers(),
        "objectives.md": objective_page(),
        "scoreboard.md": scores(),
        **copied(),
    }


def copied() -> dict[str, str]:
    """Return pages that stand elsewhere in the repository: figures, and tables of measurements."""
    figures = (ROOT / "demos" / "README.md").read_text(encoding="utf-8")
    measurements = (ROOT / "tests" / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return {
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "contributing.md": contributing.replace("docs/pages/", "").replace("CHANGELOG.md", LOWER),
        "figures.md": figures.replace("../docs/pages/", ""),
        "measurements.md": measurements,
    }


def optimizers() -> str:
    """Return the page of optimizers, of the update rules and of their schedules."""
    parts = [OPTIMIZERS_HEAD]
    for name, run in OPTIMIZERS.items():
        parts += [f"## {name}", docstring(run)]
        # A rule has its options from its class; for others the docstring of the function has them.
        rows = {**accepted_options(RULES[name]), **accepted_options(run)} if name in RULES else {}
        rows = {**rows, **accepted_options(run)}
        parts.append(_options(rows, hidden=("callback", "between")))
        if name in RULES:
            parts += [docstring(RULES[name]), docstring(RULES[name].__init__)]
    shown = ", ".join(f"`{name}`" for name in SCHEDULES)
    parts += ["## Schedules of learning rates", f"`schedule` is one of {shown}."]
    return "\n\n".join(part for part in parts if part) + "\n"


def _options(parameters: dict[str, inspect.Parameter], hidden: tuple[str, ...]) -> str:
    rows = [
        (f"`{name}`", "required" if p.default is p.empty else f"`{p.default!r}`")
        for name, p in parameters.items()
        if name not in hidden
    ]
    return table(("option", "default"), rows) if rows else ""


def objective_page() -> str:
    """Return the page of the objectives: every public class that is one."""
    parts = [OBJECTIVES_HEAD]
    for module in (objectives, preferences):
        for name in module.__all__:
            found: Any = getattr(module, name)
            if inspect.isclass(found) and _is_objective(found):
                parts += [f"## {name}", f"`{module.__name__}.{name}`", docstring(found)]
    return "\n\n".join(parts) + "\n"


def _is_objective(found: type) -> bool:
    return callable(getattr(found, "evaluate", None)) and not getattr(found, "_is_protocol", False)


def scores() -> str:
    """Return the scoreboard, with every x evaluated anew.

    Raises:
        ValueError: If an x is not what was claimed.
    """
    found = scoreboard.verified(scoreboard.parse_claims(best_known_text(), FILE))
    wrong = [score.claim.where for score in found if score.confirmed is False]
    if wrong:
        raise ValueError(f"not what was claimed: {', '.join(wrong)}")
    default = [score for score in found if not score.claim.arguments]
    others = [score for score in found if score.claim.arguments]
    parts = [SCOREBOARD_HEAD, _board(default)]
    if others:
        parts += ["## Other instances", _board(others)]
    return "\n\n".join([*parts, SUBMIT])


def _board(found: list[scoreboard.Score]) -> str:
    rows = []
    for score in found:
        claim = score.claim
        given = ", ".join(f"{name}={value!r}" for name, value in claim.arguments.items())
        if len(given) > scoreboard.LONGEST:
            given = f"{given[: scoreboard.LONGEST]}..."
        rows.append(
            (
                f"[{claim.task}](tasks/{claim.task}.md) {given}".strip(),
                f"{score.objective:.6f}",
                f"{score.projected_gradient_norm:.1e}",
                f"{score.at_bounds} of {score.entries}",
                claim.name,
                claim.date or "",
                claim.source,
            )
        )
    head = ("task", "F(x)", "projected gradient norm", "at bounds", "who", "when", "how")
    return table(head, rows)
