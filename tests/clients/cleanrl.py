"""CleanRL: its files dqn.py and ppo.py as they are, on an id whose option is one-hot.

They are run from a checkout of https://github.com/vwxyzjn/cleanrl that `--cleanrl` names, beside
the newest Gymnasium instead of the 0.29.1 that CleanRL declares. The id must not cut episodes:
dqn.py reads `infos["final_observation"]` where one is cut, which Gymnasium 1.0 has renamed.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from .commands import run
from .flat import FLAT

NAME, NEEDS = "CleanRL", ("tyro", "tyro")

CHECKOUT = os.environ.get("CLEANRL", "")


def version() -> str | None:
    """Return the commit of the checkout, None without one."""
    if not (Path(CHECKOUT) / "cleanrl" / "dqn.py").is_file():
        return None
    command = ["git", "-C", CHECKOUT, "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "?"


def follower() -> str:
    """Learn to act, from a vector for each state."""
    os.environ["PYTHONPATH"] = os.pathsep.join([CHECKOUT, os.environ["PYTHONPATH"]])
    few = {
        "dqn": ("--total-timesteps", "600", "--learning-starts", "200", "--batch-size", "32"),
        "ppo": ("--total-timesteps", "512", "--num-steps", "64"),
    }
    for name, arguments in few.items():
        file = str(Path(CHECKOUT) / "cleanrl" / f"{name}.py")
        run(file, "--env-id", f"tests.clients.flat:{FLAT}", "--no-cuda", *arguments)
    return "dqn.py, ppo.py, one-hot; dqn.py only where episodes are not cut"


CHECKS = {"follower": follower}
