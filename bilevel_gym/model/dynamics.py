"""Where transitions lead and episodes begin, under x, and the derivatives of both.

Methods that know the model ask for the derivatives of P and rho everywhere. Those that see only
episodes need no more than those of log P(s'|s, a) at the transitions seen, ends of episodes among
them, and of log rho(s) where episodes began. A model may define either; cotangents of the one are
made cotangents of the other. With P_end(s, a) = 1 - sum_s' P(s'|s, a),

    d log P(s'|s, a) = dP(s'|s, a) / P(s'|s, a),   d log P_end(s, a) = -sum_s' dP(s'|s, a) / P_end.
"""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from ..core.checks import checked_distribution, finite_array, real_numbers, received
from ..core.mdp import FloatArray, Kernel
from ..episodes.transitions import FULL_ROW_TOLERANCE
from .base import BilevelModel, CommonOptions

__all__ = ["Dynamics", "ending_probabilities", "of_shape"]

Indices = NDArray[np.integer]


class Dynamics(BilevelModel):
    """Kernel and start of a bilevel problem with finitely many states and actions.

    Attributes:
        initial_kernel: The kernel at the initial x.
        initial_distribution: Distribution of the first state there `[S]`.
        num_states: S.
        num_actions: A.
    """

    def __init__(
        self, *, kernel: Kernel, initial_distribution: ArrayLike, **common: Unpack[CommonOptions]
    ) -> None:
        """Set up kernel and start; see `TabularModel`."""
        super().__init__(**common)
        if not isinstance(kernel, Kernel):
            raise TypeError(f"`kernel` must be a Kernel, got {received(kernel)}")
        self.initial_kernel = kernel
        self.num_states, self.num_actions = kernel.num_states, kernel.num_actions
        self.initial_distribution = checked_distribution(
            "initial_distribution", initial_distribution, self.num_states
        )
        self.initial_distribution.flags.writeable = False

    @property
    def moves_kernel(self) -> bool:
        """Whether x moves the kernel: whether one of its two products is overridden."""
        return self._overrides("kernel_vjp") or self._overrides("log_kernel_vjp")

    @property
    def moves_start(self) -> bool:
        """Whether x moves the distribution of the first state: likewise."""
        return self._overrides("start_distribution_vjp") or self._overrides("log_start_vjp")

    @property
    def says_logs(self) -> bool:
        """Whether a product with log P or log rho is the model's own."""
        return self._overrides("log_kernel_vjp") or self._overrides("log_start_vjp")

    def kernel(self, upper_params: FloatArray) -> Kernel:
        """Return the kernel at x; the same one always, unless overridden."""
        return self.initial_kernel

    def kernel_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_k cotangent(k) dP(k)/dx, shape of x; zero unless x moves the kernel.

        It is derived from `log_kernel_vjp`, unless overridden.

        Args:
            upper_params: x.
            cotangent: A number for each stored transition of `kernel(x)`, `[K]`, in the order of
                its `triplets`.
        """
        if not self._overrides("log_kernel_vjp"):
            return np.zeros(self.low.shape)
        return self.through_log_kernel(
            upper_params, *cotangent_of_logs(self.kernel(upper_params), cotangent)
        )

    def log_kernel_vjp(
        self,
        upper_params: FloatArray,
        states: Indices,
        actions: Indices,
        next_states: Indices,
        ended: NDArray[np.bool_],
        cotangent: FloatArray,
    ) -> FloatArray:
        """Return sum_b cotangent(b) d log P(s'_b|s_b, a_b)/dx, shape of x.

        It is what methods that see only episodes ask for, and derived from `kernel_vjp` unless
        overridden; then methods that know the model derive from it what they need.

        Args:
            upper_params: x.
            states: s of B transitions that can occur under x, int `[B]`.
            actions: a, int `[B]`.
            next_states: s', int `[B]`; not to be looked at where the episode ended.
            ended: Whether the transition ended the episode, bool `[B]`: P is the probability of
                that then, 1 - sum_s' P(s'|s, a).
            cotangent: A number per transition, `[B]`.

        Raises:
            ValueError: If a transition has probability zero.
        """
        if not self._overrides("kernel_vjp"):
            return np.zeros(self.low.shape)
        kernel = self.kernel(upper_params)
        seen = states, actions, next_states, ended
        return self.through_kernel(upper_params, cotangent_of_kernel(kernel, *seen, cotangent))

    def start_distribution(self, upper_params: FloatArray) -> FloatArray:
        """Return the distribution of the first state at x, `[S]`; constant unless overridden."""
        return self.initial_distribution

    def start_distribution_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_s cotangent(s) d rho(s)/dx, shape of x; zero unless x moves the start.

        It is derived from `log_start_vjp`, unless overridden.

        Args:
            upper_params: x.
            cotangent: A number per state, `[S]`.
        """
        if not self._overrides("log_start_vjp"):
            return np.zeros(self.low.shape)
        start = self.checked_start(upper_params)
        states = np.flatnonzero(start)  # elsewhere rho is at its minimum
        return self.through_log_start(upper_params, states, (start * cotangent)[states])

    def log_start_vjp(
        self, upper_params: FloatArray, states: Indices, cotangent: FloatArray
    ) -> FloatArray:
        """Return sum_b cotangent(b) d log rho(s_b)/dx, shape of x; see `log_kernel_vjp`.

        Args:
            upper_params: x.
            states: B states that can be first ones under x, int `[B]`.
            cotangent: A number for each, `[B]`.

        Raises:
            ValueError: If a state has probability zero.
        """
        if not self._overrides("start_distribution_vjp"):
            return np.zeros(self.low.shape)
        start = self.checked_start(upper_params)
        return self.through_start(upper_params, cotangent_of_start(start, states, cotangent))

    def checked_start(self, upper_params: FloatArray) -> FloatArray:
        """Return the distribution of the first state at x `[S]`.

        Raises:
            ValueError: If `start_distribution` returns anything but a distribution.
        """
        start = self.start_distribution(upper_params)
        if start is self.initial_distribution:
            return start
        return checked_distribution("start_distribution(x)", start, self.num_states)

    def through_kernel(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return `kernel_vjp`, after checking that it has the shape of x."""
        return of_shape(upper_params, "kernel_vjp", self.kernel_vjp(upper_params, cotangent))

    def through_start(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return `start_distribution_vjp`, after checking that it has the shape of x."""
        product = self.start_distribution_vjp(upper_params, cotangent)
        return of_shape(upper_params, "start_distribution_vjp", product)

    def through_log_kernel(
        self,
        upper_params: FloatArray,
        states: Indices,
        actions: Indices,
        next_states: Indices,
        ended: NDArray[np.bool_],
        cotangent: FloatArray,
    ) -> FloatArray:
        """Return `log_kernel_vjp`, after checking its shape, and that it is finite."""
        seen = states, actions, next_states, ended
        product = self.log_kernel_vjp(upper_params, *seen, cotangent)
        return finite_array("log_kernel_vjp", product, upper_params.shape, "of x")

    def through_log_start(
        self, upper_params: FloatArray, states: Indices, cotangent: FloatArray
    ) -> FloatArray:
        """Return `log_start_vjp`, after checking its shape, and that it is finite."""
        product = self.log_start_vjp(upper_params, states, cotangent)
        return finite_array("log_start_vjp", product, upper_params.shape, "of x")

    def _overrides(self, name: str) -> bool:
        """Whether the model has a method of its own in place of one of this class."""
        own = getattr(self, name)
        return getattr(own, "__func__", own) is not getattr(Dynamics, name)


def of_shape(x: FloatArray, name: str, product: FloatArray) -> FloatArray:
    """Return a vector-Jacobian product of the model, after checking that it has the shape of x."""
    if np.shape(product) != x.shape:
        raise ValueError(f"`{name}` must return the shape of x, {x.shape}, got {np.shape(product)}")
    return product


def checked_groups(groups: ArrayLike, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Return groups `[S, A]` as read-only integers.

    Raises:
        ValueError: If they have another shape, are no integers, or nobody belongs to a group.
    """
    given = real_numbers("groups", groups)
    if given.shape != shape or given.dtype.kind not in "iu" or given.min(initial=-1) < -1:
        raise ValueError(
            f"`groups` must be integers [S, A] = {shape}, -1 for none, got shape {given.shape} of "
            f"{given.dtype}"
        )
    if given.max() < 0:
        raise ValueError("`groups` must have a member, got -1 everywhere")
    numbers = given.astype(np.int64)
    numbers.flags.writeable = False
    return numbers


def slopes_of_shape(name: str, slopes: Any, shape: tuple[int, int]) -> Any:
    """Return the derivative by the crowd that a model gives, as a CSR array of that shape.

    Raises:
        ValueError: If it has another shape, or is not finite.
    """
    if np.shape(slopes) != shape:
        raise ValueError(f"`{name}` must return shape {shape}, got {np.shape(slopes)}")
    found = csr_array(slopes)
    if not np.isfinite(found.data).all():
        raise ValueError(f"`{name}` must return finite numbers, got {received(found.data)}")
    return found


def ending_probabilities(kernel: Kernel) -> FloatArray:
    """Return the probability that the episode ends after `(s, a)`, `[S, A]`.

    It is zero where a row sums to one but for rounding, as it is for simulators.
    """
    missing = 1.0 - kernel.row_sums
    return np.where(missing > FULL_ROW_TOLERANCE, missing, 0.0)


def cotangent_of_kernel(
    kernel: Kernel,
    states: Indices,
    actions: Indices,
    next_states: Indices,
    ended: NDArray[np.bool_],
    cotangent: FloatArray,
) -> FloatArray:
    """Return the cotangent of P `[K]` that amounts to one of log P at B transitions.

    Args:
        kernel: P, with K stored transitions.
        states: `[B]`.
        actions: `[B]`.
        next_states: `[B]`; ignored where the episode ended.
        ended: Whether the transition ended the episode, `[B]`.
        cotangent: A number per transition, `[B]`.

    Raises:
        ValueError: If a transition has probability zero.
    """
    moves = actions if kernel.moves is None else kernel.moves[actions]
    rows = moves.astype(np.int64) * kernel.num_states + states
    # Stored transitions are sorted by row and successor; one more stands for what is not stored.
    size, stored = kernel.num_states, kernel.matrix
    codes = np.append(kernel.rows.astype(np.int64) * size + stored.indices, stored.shape[0] * size)
    wanted = rows[~ended] * size + next_states[~ended]
    place = np.searchsorted(codes, wanted)
    probability = np.zeros(len(states))
    probability[~ended] = np.where(codes[place] == wanted, np.append(stored.data, 0.0)[place], 0.0)
    probability[ended] = ending_probabilities(kernel)[states[ended], actions[ended]]
    if not (probability > 0.0).all():
        b = int(np.argmin(probability))
        to = "the end of the episode" if ended[b] else f"state {next_states[b]}"
        raise ValueError(
            "log P has a derivative only where P is positive, got probability 0 for the "
            f"transition from state {states[b]} with action {actions[b]} to {to}"
        )
    weights = cotangent / probability
    ending = np.zeros(stored.shape[0])
    np.add.at(ending, rows[ended], weights[ended])
    total: FloatArray = -ending[kernel.rows]
    np.add.at(total, place, weights[~ended])
    return total


def cotangent_of_start(start: FloatArray, states: Indices, cotangent: FloatArray) -> FloatArray:
    """Return the cotangent of rho `[S]` that amounts to one of log rho `[B]` at B states.

    Raises:
        ValueError: If a state has probability zero.
    """
    if not (start[states] > 0.0).all():
        raise ValueError(
            "log rho has a derivative only where rho is positive, got probability 0 for first "
            f"state {states[int(np.argmin(start[states]))]}"
        )
    total = np.zeros(len(start))
    np.add.at(total, states, cotangent / start[states])
    return total


def cotangent_of_logs(
    kernel: Kernel, cotangent: FloatArray
) -> tuple[Indices, Indices, Indices, NDArray[np.bool_], FloatArray]:
    """Return the cotangent of log P that amounts to one of P `[K]`, with its transitions.

    That is states, actions, next states, whether they ended, and the cotangent, `[B]` each, for the
    stored transitions of positive probability. At others P is at its minimum, so that its
    derivative is zero inside the box of x.
    """
    states, moves, next_states = kernel.triplets
    positive, actions = kernel.matrix.data > 0.0, moves
    if kernel.moves is not None:  # any action that makes the move will do
        positive &= np.isin(moves, kernel.moves)
        makes = kernel.moves[None] == np.arange(kernel.num_moves)[:, None]
        actions = makes.argmax(axis=1)[moves]
    ended = np.zeros(int(positive.sum()), dtype=np.bool_)
    weights = (cotangent * kernel.matrix.data)[positive]
    return states[positive], actions[positive], next_states[positive], ended, weights
