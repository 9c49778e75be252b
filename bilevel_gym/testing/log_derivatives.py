"""A model's derivatives of log P and log rho against differences of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.checks import check_at_least, check_positive, finite_array
from ..core.mdp import FloatArray, Kernel
from ..model import TabularModel
from ..model.dynamics import cotangent_of_logs, ending_probabilities
from .differences import REWARD_ROUNDING, STEPS, differences, moved_inward

__all__ = ["LogDerivativeError", "check_log_derivatives"]

# Transitions of each kind that are drawn: stored ones, ends of episodes, and impossible ones.
MOST = 48

# Least probability that is compared: what it is rounded by must not count. An end is what is
# missing to one.
LEAST, LEAST_END = 1e-9, 1e-3

Indices = NDArray[np.integer]


class LogDerivativeError(AssertionError):
    """A product of a model is not that of the logarithm of its kernel or of its start."""


def check_log_derivatives(
    model: TabularModel,
    upper_params: ArrayLike | None = None,
    *,
    coordinates: Sequence[int] | None = None,
    tolerance: float = 1e-6,
    steps: Sequence[float] = STEPS,
    seed: int = 0,
) -> None:
    """Compare `log_kernel_vjp` and `log_start_vjp` with differences of log P and log rho.

    Random sums over transitions and ends of episodes, and over first states, are differenced by
    entries of x. At transitions and first states of probability zero, which methods never ask for,
    a product must be zero or NaN, or raise a ValueError.

    Args:
        model: A model; where x moves neither kernel nor start, there is nothing to compare.
        upper_params: x; None takes the initial one. It is moved inward where a difference would
            leave the box.
        coordinates: Flat indices of the entries compared, None for all.
        tolerance: Error allowed, relative to the norm of the product, positive.
        steps: The ladder of `check_hyper_gradient`, made shorter where the box is narrow.
        seed: Seed of the draw of transitions.

    Raises:
        LogDerivativeError: If a product is wrong; the message names the worst entry of x.
        ValueError: If a product has a wrong shape or is not finite, or an argument is out of range.
    """
    check_positive("tolerance", tolerance)
    ladder = finite_array("steps", steps, (None,), "[K]")
    ladder *= min(1.0, float((model.high - model.low).min()) / (8.0 * float(ladder.max())))
    rng = np.random.default_rng(check_at_least("seed", seed, 0))
    x = model.validate(model.initial_upper_params if upper_params is None else upper_params)
    x = moved_inward(x, model.low, model.high, 2.0 * float(ladder.max()))

    chosen = [*range(x.size)] if coordinates is None else [*coordinates]

    def compare(
        name: str,
        product: FloatArray,
        logs: Callable[[FloatArray], FloatArray],
        factors: FloatArray,
    ) -> None:
        found = product.ravel()[chosen]
        numeric, used = differences(lambda x: float(factors @ logs(x)), x, chosen, ladder.tolist())
        off = np.abs(found - numeric)
        rounding = REWARD_ROUNDING * (np.abs(factors) @ np.maximum(1.0, np.abs(logs(x)))) / used
        allowed = tolerance * np.linalg.norm(numeric) + np.linalg.norm(rounding)
        if not np.linalg.norm(off) <= allowed:  # NaN must fail
            worst = int(np.argmax(off))
            place = ", ".join(str(int(i)) for i in np.unravel_index(chosen[worst], x.shape))
            raise LogDerivativeError(
                f"`{name}` must be the derivative of log-probabilities ({tolerance=:g}), got "
                f"{found[worst]:.9e} at [{place}] where differences are {numeric[worst]:.9e}"
            )

    if model.moves_kernel:
        kernel = model.kernel(x)
        seen = _drawn(kernel, rng)
        weights = rng.normal(size=len(seen[0]))
        compare(
            "log_kernel_vjp",
            model.through_log_kernel(x, *seen, weights),
            lambda x: np.log(_probabilities(model.kernel(x), *seen)),
            weights,
        )
        for s, a, after in _impossible(kernel, rng).tolist():
            transition = np.array([s]), np.array([a]), np.array([after]), np.array([False])
            product = partial(model.log_kernel_vjp, x, *transition, np.ones(1))
            of = f"from state {s} with action {a} to state {after}"
            _check_nothing("log_kernel_vjp", of, product)
    if model.moves_start:
        start = model.checked_start(x)
        states = np.flatnonzero(start > LEAST)
        weights = rng.normal(size=len(states))
        compare(
            "log_start_vjp",
            model.through_log_start(x, states, weights),
            lambda x: np.log(model.checked_start(x)[states]),
            weights,
        )
        for state in np.flatnonzero(start == 0.0)[:MOST]:
            product = partial(model.log_start_vjp, x, np.array([state]), np.ones(1))
            _check_nothing("log_start_vjp", f"for first state {state}", product)


def _check_nothing(name: str, of: str, product: Callable[[], FloatArray]) -> None:
    """Raise a `LogDerivativeError` if a derivative is claimed of what has probability zero."""
    try:
        with np.errstate(all="ignore"):
            found = np.asarray(product())
    except (ValueError, ArithmeticError):
        return
    claimed = found[np.isfinite(found) & (found != 0.0)]
    if claimed.size:
        raise LogDerivativeError(
            f"`{name}` must be zero where the probability is, got {claimed[0]:.9e} {of}"
        )


def _drawn(
    kernel: Kernel, rng: np.random.Generator
) -> tuple[Indices, Indices, Indices, NDArray[np.bool_]]:
    """Draw transitions and ends of episodes: states, actions, next states, whether they ended."""
    *stored, _, probabilities = cotangent_of_logs(kernel, np.ones(kernel.matrix.nnz))
    some = _some(np.flatnonzero(probabilities > LEAST), rng)
    states, actions, following = (part[some] for part in stored)
    ends = np.argwhere(ending_probabilities(kernel) > LEAST_END)
    ends = ends[_some(np.arange(len(ends)), rng)]
    ended = np.append(np.zeros(len(some), bool), np.ones(len(ends), bool))
    return (
        np.append(states, ends[:, 0]),
        np.append(actions, ends[:, 1]),
        np.append(following, np.full(len(ends), -1)),
        ended,
    )


def _impossible(kernel: Kernel, rng: np.random.Generator) -> Indices:
    """Draw states, actions and next states `[B, 3]` of transitions that cannot happen."""
    sizes = kernel.num_states, kernel.num_actions, kernel.num_states
    drawn = rng.integers(sizes, size=(4 * MOST, 3))
    states, actions, following = drawn.T
    chances = _probabilities(kernel, states, actions, following, np.zeros(len(drawn), bool))
    return drawn[chances == 0.0][:MOST]


def _some(indices: Indices, rng: np.random.Generator) -> Indices:
    return rng.permutation(indices)[:MOST]


def _probabilities(
    kernel: Kernel, states: Indices, actions: Indices, following: Indices, ended: NDArray[np.bool_]
) -> FloatArray:
    """Return P(s'|s, a), or the probability of an end, `[B]`."""
    found = np.zeros(len(states))
    for b, (s, a) in enumerate(zip(states.tolist(), actions.tolist(), strict=True)):
        successors, probabilities = kernel.row(s, a)
        goes = probabilities[successors == following[b]].sum()
        found[b] = 1.0 - probabilities.sum() if ended[b] else goes
    return found
