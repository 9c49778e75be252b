"""Odd inputs for everything that takes inputs, a few of each; `python -m tests.fuzz` has more."""

from __future__ import annotations

import pytest

from .fuzz.running import TARGETS, tried

# Those that take longest are tried less.
EXAMPLES = {"cli": 12, "learnt_task": 12, "learnt_method": 12, "from_arrays": 60, "kernel": 60}


@pytest.mark.parametrize("name", TARGETS)
def test_an_odd_input_is_refused_in_one_line_or_answered_with_finite_numbers(name: str) -> None:
    done, findings = tried(name, EXAMPLES.get(name, 30))
    assert done > 0
    assert not findings, [finding for _, finding in findings.values()]
