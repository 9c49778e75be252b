"""How exact the differentiable operations are, and what they cost beside `game.evaluate`.

Run it as `python -m tests.benchmarks.operations`. For each game: the largest error of the Jacobian
by autograd against fourth-order differences, relative to its largest entry; and the processor time
of an operation with its gradient relative to `evaluate`, medians of calls that were made in turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import jax
import torch as th

import bilevel_gym.jax
import bilevel_gym.torch

from ..operations import GAMES, inner_point, operations_of
from .table import in_turn

STEP, ROUNDS = 1e-5, 101


def error(operation: Callable[[th.Tensor], th.Tensor], x: th.Tensor) -> float:
    """Return the largest relative error of the Jacobian."""
    exact = th.autograd.functional.jacobian(operation, x)
    columns = []
    for direction in th.eye(x.numel(), dtype=th.float64).reshape(-1, *x.shape):
        near, far = (
            operation(x + step * direction) - operation(x - step * direction)
            for step in (STEP, 2.0 * STEP)
        )
        columns.append((8.0 * near - far) / (12.0 * STEP))
    found = th.stack(columns, dim=-1).reshape(exact.shape)
    return float((found - exact).abs().max() / exact.abs().max())


def timed(name: str, game: Any) -> str:
    """Return the row of a game: microseconds of `evaluate`, and ratios."""
    x = th.tensor(inner_point(game))
    operations = operations_of(name, game, bilevel_gym.torch)
    errors = [f"{error(operation, x):.1e}" for operation in operations]

    def torch_calls(operation: Callable[[th.Tensor], th.Tensor]) -> Callable[[], object]:
        leaf = x.clone().requires_grad_()
        return lambda: th.autograd.grad(operation(leaf).sum(), leaf)

    def jax_calls(operation: Callable[[Any], Any]) -> Callable[[], object]:
        run = jax.jit(jax.grad(lambda x: operation(x).sum()))
        point = jax.numpy.asarray(x.numpy())
        return lambda: jax.block_until_ready(run(point))

    sides = [torch_calls(operation) for operation in operations]
    sides += [jax_calls(operation) for operation in operations_of(name, game, bilevel_gym.jax)]
    for side in sides:
        side()
    evaluate, *times = in_turn(
        lambda: game.unwrapped.evaluate(x.numpy()), *sides, rounds=ROUNDS, clock=time.process_time
    )
    ratios = [f"{time / evaluate:.2f}" for time in times]
    half = len(ratios) // 2
    cells = [" / ".join(part) for part in (errors, ratios[:half], ratios[half:])]
    return f"| {name} | {1e6 * evaluate:.0f} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    games = {**GAMES}
    for name in ("BilevelGridWorld-v0", "BilevelFourRooms-v0"):
        games[name] = partial(gym.make, name)
    print("| game | `evaluate`, us | error: F / pi | PyTorch: F / pi | JAX: F / pi |")
    print("|---|---|---|---|---|")
    with jax.enable_x64(True):
        for name, make in games.items():
            print(timed(name, make()), flush=True)


if __name__ == "__main__":
    main()
