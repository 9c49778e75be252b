"""What tests of the command line share: tasks that answer soon, and the one line of an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from click.testing import Result

from bilevel_gym.registration import QUICK

Run = Callable[..., Result]

GRID = "BilevelGridWorld-v0"

SMALL = ("--set", "map_name=4x4")


def method_set(options: dict[str, Any]) -> list[str]:
    """Return the arguments that give a method its options."""
    texts = (f"{name}={json.dumps(value)}" for name, value in options.items())
    return [part for text in texts for part in ("--method-set", text)]


# A task whose follower learns, and answers soon.
LEARNT = ("BilevelPendulum-v0", "--set", "episode_steps=20", *method_set(QUICK))


def refused(result: Result) -> str:
    """Return the one line of an error that is the user's."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    # A busy machine takes so long that it says what it is at.
    assert all(line.startswith("making ") for line in result.stdout.splitlines())
    return lines[0]
