"""Work for a long time: memory, file descriptors and threads must not grow after warm-up.

Run it as `python -m tests.benchmarks.endurance` (Linux); it prints a table, a row for each kind of
work, and ends with 1 if anything grows. `--fast` does a tenth.

Each kind of work has a process of its own, whose first third is warm-up. Then it is looked at after
each of equal shares of the rest. Growth is the median of the later half of these looks less that of
the earlier half: of resident memory once freed memory has been given back to the system, of
Python's allocated blocks (all objects, whether collected or not), of file descriptors, of threads.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import _lru_cache_wrapper, partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

import bilevel_gym
from bilevel_gym.core import fast
from bilevel_gym.core.linear import SOLVERS
from bilevel_gym.model import TabularModel, evaluate
from tests.helpers import DRAWN_TASKS, EXACT_TASKS, LEARNT_TASKS, follower_seat, leader_seat

from .memory import resident

# Shares of the work after which it is looked at: so many of warm-up, so many that count.
WARM, LOOKS = 10, 20

# What may be found where nothing grows: bytes, beside one jump, and blocks. An environment that is
# not freed is some
# hundred blocks, and two of 500 would be found.
BYTES, BLOCKS = 400_000, 400

LIBRARY = ctypes.CDLL(None)


class Look(NamedTuple):
    """What a process holds at a moment."""

    memory: int
    blocks: int
    files: int
    threads: int

    @classmethod
    def taken(cls) -> Look:
        """Look now, with the caches of pictures empty: they fill slowly, but not for ever."""
        for found in gc.get_objects():
            if isinstance(found, _lru_cache_wrapper) and found.cache_parameters()["maxsize"]:
                if found.__module__.startswith("bilevel_gym"):
                    found.cache_clear()
        gc.collect()
        LIBRARY.malloc_trim(0)
        threads = len(os.listdir("/proc/self/task"))
        files = len(os.listdir("/proc/self/fd"))
        return cls(resident("VmRSS"), sys.getallocatedblocks(), files, threads)


# Kinds of work: functions that make what is needed, and then do a piece of it whenever asked.
Work = Iterator[None]


def leaders(method: str | None = None, **options: Any) -> Work:
    """A leader's steps; each piece is one."""
    env: Any = gym.make("BilevelIncentive-v0")
    env = bilevel_gym.HyperGradient(env, method=method, **options)
    rng = np.random.default_rng(0)
    over = True
    while True:
        if over:
            env.reset(seed=0)
        *_, over, _ = env.step(rng.uniform(env.action_space.low, env.action_space.high))
        yield


def leader_copies() -> Work:
    """Steps of eight leaders at once."""
    envs = bilevel_gym.LeaderVectorEnv("BilevelIncentive-v0", 8)
    envs.reset(seed=0)
    while True:
        envs.step(envs.action_space.sample())
        yield


def followers() -> Work:
    """A follower's steps, a thousand in each piece."""
    env = bilevel_gym.LowerLevel(gym.make("BilevelGridWorld-v0"), np.zeros(52))
    actions = np.random.default_rng(0).integers(4, size=1000).tolist()
    over = True
    while True:
        for action in actions:
            if over:
                env.reset()
            _, _, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
        yield


def follower_copies() -> Work:
    """Steps of a thousand followers at once."""
    envs = bilevel_gym.LowerLevelVectorEnv("BilevelGridWorld-v0", 1000, np.zeros(52))
    envs.reset(seed=0)
    while True:
        envs.step(envs.action_space.sample())
        yield


def renders() -> Work:
    """Pictures of both seats of every task that is solved exactly, one in each piece."""
    tasks = [task for task in DRAWN_TASKS if task in EXACT_TASKS]
    kinds: Any = (leader_seat, follower_seat)
    seats = [seat(task, render_mode="rgb_array") for task in tasks for seat in kinds]
    while True:
        # Short episodes, as pictures show all of one, and always the same, as the follower's seat
        # fills a table of the states and actions that it has seen.
        for seat in seats:
            seat.reset(seed=0)
            seat.action_space.seed(0)
        for _ in range(3):
            for seat in seats:
                _, _, terminated, truncated, _ = seat.step(seat.action_space.sample())
                seat.render()
                if terminated or truncated:
                    seat.reset()
                yield


def windows() -> Work:
    """Tasks that are made, shown in a window and closed."""
    return makes("human")


def makes(render_mode: str = "rgb_array") -> Work:
    """Tasks that are made, drawn and closed, one in each piece."""
    tasks = [task for task in DRAWN_TASKS if task in EXACT_TASKS]
    while True:
        for task in tasks:
            env = leader_seat(task, render_mode=render_mode)
            env.reset(seed=0)
            env.step(env.action_space.sample())
            env.render()
            env.close()
            del env  # what is looked at is what stays, and not the task that was last
            yield


def learners() -> Work:
    """Tasks whose follower learns, made and closed; the follower learns for a few steps."""
    while True:
        for task in LEARNT_TASKS:
            try:
                env = leader_seat(task, render_mode="rgb_array" if task in DRAWN_TASKS else None)
            except (ImportError, gym.error.Error):  # an extra that is not installed
                continue
            env.reset(seed=0)
            env.step(env.action_space.sample())
            env.close()
            del env
            yield


def learning() -> Work:
    """Leader steps of one method whose follower learns."""
    (task,) = (task for task in LEARNT_TASKS if task.id == "BilevelPendulum-v0")
    env: Any = leader_seat(task, outer_steps=50)
    over = True
    while True:
        if over:
            env.reset(seed=0)
        *_, over, _ = env.step(env.action_space.sample())
        yield


def solves() -> Work:
    """New problems by every solver, with their hyper-gradients and error bounds."""
    rng = np.random.default_rng(0)
    while True:
        for solver in SOLVERS if fast.available() else {*SOLVERS} - {"compiled", "krylov-ilu"}:
            model = TabularModel.from_arrays(
                transition=rng.dirichlet(np.full(40, 0.1), (40, 3)),
                reward=rng.normal(size=(40, 3)),
                upper_reward=rng.normal(size=(40, 3)),
                features=rng.normal(size=(40, 3, 5)),
                initial_distribution=np.full(40, 1 / 40),
                gamma=0.9,
                temperature=0.5,
            )
            answer = evaluate(model, np.zeros(5), solver=solver)
            assert np.isfinite(answer.gradient_error_bound)
            yield


def ascents() -> Work:
    """Steps of `HyperGradientAscent`, a hundred in each piece."""
    from bilevel_gym.sb3 import HyperGradientAscent

    model = HyperGradientAscent("UpperParamsPolicy", gym.make("BilevelIncentive-v0"), seed=0)
    while True:
        model.learn(100, reset_num_timesteps=False)
        yield


def commands() -> Work:
    """Runs of `bilevel-gym solve`, with plots."""
    from click.testing import CliRunner

    from bilevel_gym.cli import main

    with tempfile.TemporaryDirectory() as folder:
        while True:
            out = ["--out", str(Path(folder) / "run"), "--overwrite", "--steps", "20"]
            assert CliRunner().invoke(main, ["solve", "BilevelIncentive-v0", *out]).exit_code == 0
            yield


# The pieces of each kind of work, and what they are.
KINDS: dict[str, tuple[Callable[..., Work], int, str]] = {
    "leader, exact": (leaders, 100_000, "leader steps"),
    "leader, trace": (partial(leaders, "trace", episodes=8), 20_000, "leader steps"),
    "leader, certainty equivalence": (
        partial(leaders, "trace", episodes=8, inner="certainty-equivalence"),
        5_000,
        "leader steps",
    ),
    "LeaderVectorEnv": (leader_copies, 5_000, "steps of 8 copies"),
    "follower": (followers, 1_000, "thousand follower steps"),
    "LowerLevelVectorEnv": (follower_copies, 5_000, "steps of 1000 copies"),
    "renders": (renders, 2_000, "pictures"),
    "make, render and close": (makes, 500, "environments"),
    "make, show a window and close": (windows, 500, "environments"),
    "make and close, follower learns": (learners, 200, "environments"),
    "follower learns": (learning, 1_000, "leader steps"),
    "solvers": (solves, 5_000, "solves with gradients"),
    "HyperGradientAscent.learn": (ascents, 300, "hundred leader steps"),
    "bilevel-gym solve": (commands, 200, "runs"),
}

HEAD = (
    "| work | pieces | memory, MB | grows by, kB | blocks | file descriptors | threads | s |",
    "|---|---|---|---|---|---|---|---|",
)


def endure(name: str, tenth: bool) -> tuple[str, bool]:
    """Do a kind of work; return its row of the table, and whether nothing grows."""
    warnings.simplefilter("ignore")
    random.seed(0)
    make, pieces, unit = KINDS[name]
    share = max(1, pieces // (WARM + LOOKS) // (10 if tenth else 1))
    began, work = time.perf_counter(), make()
    looks = np.zeros((LOOKS, 4))  # an array, as a list would grow
    for number in range(WARM + LOOKS):
        for _ in range(share):
            next(work)
        if number >= WARM:
            looks[number - WARM] = Look.taken()
    half = LOOKS // 2
    before, after = (np.median(part, axis=0) for part in (looks[:half], looks[half:]))
    grown = after - before
    # One jump of the memory is let off: a table of the interpreter doubles now and then.
    jump = np.diff(looks[:, 0]).max()
    grown[0] -= jump if jump > BYTES else 0.0
    growth = Look(*grown.round().astype(int).tolist())
    row = (
        f"| {name} | {share * (WARM + LOOKS)} {unit} | {looks[-1, 0] / 1e6:.0f} | "
        f"{growth.memory / 1e3:+.0f} | {growth.blocks:+d} | {growth.files:+d} | "
        f"{growth.threads:+d} | {time.perf_counter() - began:.0f} |"
    )
    fine = growth.memory <= BYTES and growth.blocks <= BLOCKS
    return row, fine and growth.files <= 0 and growth.threads <= 0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--fast", action="store_true", help="a tenth of the work")
    parser.add_argument("--only", choices=KINDS, nargs="+", default=KINDS, metavar="WORK")
    args = parser.parse_args()
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print("\n".join(HEAD), flush=True)
    grows = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        for name in args.only:
            row, fine = pool.submit(endure, name, args.fast).result()
            print(row, flush=True)
            grows += [] if fine else [name]
    if grows:
        sys.exit(f"grows: {', '.join(grows)}")


if __name__ == "__main__":
    main()
