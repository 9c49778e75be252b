"""Paint the leader's shaping with the mouse, see the follower respond, and play the follower.

H lists all keys. `bilevel-gym play ID` does the same for other tasks, and
`bilevel-gym play --lesson` leads through five stages.

    python demos/play.py
    python demos/play.py --headless play.gif
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bilevel_gym.rendering import NoDisplayError
from bilevel_gym.viewer import play

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--map-name", default="8x8", help="4x4, 8x8 or 16x16")
    parser.add_argument("--headless", type=Path, metavar="OUT.gif", help="film, without a display")
    args = parser.parse_args()
    try:
        play("BilevelGridWorld-v0", headless=args.headless, map_name=args.map_name)
    except (NoDisplayError, ValueError) as error:
        sys.exit(f"error: {error}")
