"""Trying a target: as many inputs as asked for, and each kind of finding once."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from . import arrays, games, seats, texts
from .judge import Case, Finding, judged
from .odd import Draw

# Kinds of findings of a target with how often each was seen, and the shortest input of it.
Findings = dict[tuple[str, str], tuple[int, Finding]]


@dataclass(frozen=True)
class Target:
    """What is given odd inputs, and its share of the examples."""

    draw: Callable[[Draw], Case]
    share: float = 1.0


# What takes long gets less.
SHARES = {"from_arrays": 3.0, "kernel": 2.0, "task": 3.0, "cli": 0.5, "learnt_seat": 0.1}

TARGETS = {
    name: Target(draw, SHARES.get(name, 1.0))
    for module in (arrays, games, seats, texts)
    for name, draw in module.TARGETS.items()
}


def tried(
    name: str,
    examples: int,
    seed: int | None = None,
    *,
    before: Callable[[str], Any] = lambda what: None,
) -> tuple[int, Findings]:
    """Try a target; return how many inputs it got and what was found.

    `before` is told of each input before it is given. Without a seed the inputs are always the
    same.
    """
    findings: Findings = {}
    done = 0
    target = TARGETS[name].draw

    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=seed is None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data: st.DataObject) -> None:
        nonlocal done
        case = target(data.draw)
        before(case.what)
        done += 1
        finding = judged(case)
        if finding is not None:
            key = (finding.kind, finding.place)
            times, shortest = findings.get(key, (0, finding))
            findings[key] = times + 1, min(shortest, finding, key=lambda f: len(f.what))

    (run if seed is None else seeded(seed)(run))()
    return done, findings


# Of memory, for each target.
GIGABYTES = 12


def worker(name: str, examples: int, seed: int, last: str, pipe: Any) -> None:
    """Try a target, in a process of its own."""
    resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES << 30, GIGABYTES << 30))
    place = Path(last)
    os.chdir(place.parent)
    done, findings = tried(name, examples, seed, before=lambda what: place.write_text(what))
    pipe.send((done, findings))
