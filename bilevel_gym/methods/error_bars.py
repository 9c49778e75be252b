"""How far an estimate from episodes may be off.

The delta method. What the frequencies of transitions are made into, an estimate theta(P), varies to
first order with them, and the successors of a pair that was tried n times are multinomial. So

    Var theta = sum_sa Var[ d theta/dP(.|s, a) dP(.|s, a) ],   Cov dP = (diag P - P P^T) / n(s, a),

and likewise for first states. Of the covariance the frequencies tell too little where n is small: a
pair tried once has led to one place. So it is that of frequencies with one pretended try, which
goes where all actions of the state have gone. Changes dP are drawn that have this covariance,

    dP(s') = (sqrt(P(s')) e(s') - P(s') sum_z sqrt(P(z)) e(z)) / sqrt(n),   e standard normal,

and d theta dP is computed for all of them together, by the derivative of each step of the estimate
(forward mode): three linear solves with the factors at hand, whatever the dimension of x. A
standard error from K draws is itself off by about 1 / sqrt(2 K).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_array, diags_array, vstack

from ..core.linear import DiscountedSystem
from ..core.mdp import FloatArray
from ..episodes.sampler import TransitionCounts
from ..model.objectives import Outcome, StepObjective

__all__ = [
    "DRAWS",
    "Changes",
    "change_of_adjoint",
    "change_of_return",
    "error_of_mean",
    "expected_cosine",
]

# Of an estimate that does not vary, relative to it.
ROUNDING = 1e-9

# Changes that are drawn: standard errors are then off by about 9 %.
DRAWS = 64


def expected_cosine(gradient: FloatArray, error: FloatArray) -> float:
    """Return the expected cosine of an estimate to the one without its error, in [0, 1].

    `error` has the standard error of each entry. With C the covariance of the estimate g, the
    cosine is taken to be |g|^2 / (|g|^2 + tr C). The square of g is expected to be that of its mean
    and tr C; from this, the cosine would be sqrt(1 - tr C / |g|^2), which is much the same where it
    is large, and nothing where |g|^2 happens to be smaller than tr C.
    """
    square, noise = float(np.square(gradient).sum()), float(np.square(error).sum())
    return square / (square + noise) if square > 0.0 else 0.0


def error_of_mean(values: FloatArray) -> float | None:
    """Return the standard error of the mean of values `[N]`, None of a single one."""
    return float(values.std(ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else None


def where_it_varies(error: Any, estimate: Any) -> Any:
    """Return the error of an estimate, None unless it is more than rounding.

    Where nothing varies the size of the error is unknown, not zero.
    """
    if error is None or np.linalg.norm(error) <= ROUNDING * np.linalg.norm(estimate):
        return None
    return error


class Changes:
    """Changes of the frequencies of transitions and first states, as large as chance makes them.

    Numbers by state and action are kept by row, `[A*S, K]`, K changes side by side, in the order of
    `Kernel.matrix`; numbers by state are `[S, K]`.

    Attributes:
        kernel: The frequencies of transitions that are changed.
        starts: Changes of the frequencies of first states, `[S, K]`.
    """

    def __init__(
        self,
        counts: TransitionCounts,
        starts: FloatArray,
        rng: np.random.Generator,
        draws: int = DRAWS,
    ) -> None:
        """Draw changes.

        Args:
            counts: The transitions seen.
            starts: How often each first state was seen, `[S]`.
            rng: Where the changes come from.
            draws: K.
        """
        self.kernel = counts.kernel()
        shares, tries = _with_one_more_try(counts)
        rows, successors = shares.coords
        change = _centred(rows, shares.data, shares.shape[0], rng, draws)
        change /= np.sqrt(tries[rows])[:, None]
        goes_on = successors < counts.num_states
        self._rows, self._successors = rows[goes_on], successors[goes_on]
        self._change = change[goes_on]
        size, each = len(self._rows), np.arange(len(self._rows))
        ones, states = np.ones(size), counts.num_states
        self._by_row = csr_array((ones, (self._rows, each)), shape=(shares.shape[0], size))
        self._by_successor = csr_array((ones, (self._successors, each)), shape=(states, size))
        began, number = np.flatnonzero(starts), float(starts.sum())
        self.starts = np.zeros((len(starts), draws))
        share = starts[began] / number
        none = np.zeros(len(began), dtype=np.int64)
        self.starts[began] = _centred(none, share, 1, rng, draws) / np.sqrt(number)

    def expect(self, value: FloatArray) -> FloatArray:
        """Return sum_s' dP(s'|s, a) value(s') `[A*S, K]` of a value `[S]`."""
        product: FloatArray = self._by_row @ (self._change * value[self._successors, None])
        return product

    def flow(self, weights: FloatArray) -> FloatArray:
        """Return sum_sa weights(s, a) dP(.|s, a) `[S, K]` of weights `[S, A]`."""
        by_row = weights.T.ravel()[self._rows]
        product: FloatArray = self._by_successor @ (self._change * by_row[:, None])
        return product

    def expected(self, values: FloatArray) -> FloatArray:
        """Return sum_s' P(s'|s, a) values(s') `[A*S, K]` of values `[S, K]`."""
        product: FloatArray = self.kernel.matrix @ values
        return product

    def flowed(self, weights: FloatArray) -> FloatArray:
        """Return sum_sa weights(s, a) P(.|s, a) `[S, K]` of weights `[A*S, K]`."""
        product: FloatArray = self.kernel.matrix.T @ weights
        return product


def _with_one_more_try(counts: TransitionCounts) -> tuple[Any, FloatArray]:
    """Return frequencies `[A*S, S + 1]`, the end last, with a pretended try, and tries `[A*S]`.

    Each pair that was seen is tried once more, and goes where the actions of its state have gone.
    """
    rows, successors, tries, shares = counts.transitions()
    states, actions = counts.num_states, counts.num_actions
    shape = actions * states, states + 1
    seen = csr_array((tries * shares, (rows, successors)), shape=shape)
    number = seen.sum(axis=1)
    by_state = sum(seen[a * states : (a + 1) * states] for a in range(actions))
    total = np.maximum(by_state.sum(axis=1), 1.0)
    pretended = vstack([diags_array(1.0 / total) @ by_state] * actions)
    scale = np.where(number > 0.0, 1.0 / (number + 1.0), 0.0)
    mixed = (diags_array(scale) @ (seen + pretended)).tocoo()
    mixed.eliminate_zeros()
    return mixed, number


def _centred(
    rows: Any, shares: FloatArray, num_rows: int, rng: np.random.Generator, draws: int
) -> FloatArray:
    """Return by how much multinomial frequencies `[T]` of rows are off, times sqrt(n), `[T, K]`."""
    roots = np.sqrt(shares)[:, None]
    drawn = roots * rng.standard_normal((len(shares), draws))
    each = np.arange(len(shares))
    sums = csr_array((np.ones(len(shares)), (rows, each)), shape=(num_rows, len(shares))) @ drawn
    off: FloatArray = drawn - shares[:, None] * sums[rows]
    return off


def change_of_return(
    changes: Changes, outcome: Outcome, term: StepObjective
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return how the leader's return and its derivatives vary in a game that was seen.

    Args:
        changes: What varies.
        outcome: The policy, in the frequencies seen.
        term: A `DiscountedReturn` or `TruncatedReturn`.

    Returns:
        Changes of the return `[K]`; of its derivative with respect to the policy, `[A*S, K]`, up to
        constants of states; and of the visits of states by which the leader weighs, `[S, K]`.
    """
    solution, rho = outcome.solution, outcome.initial_distribution
    gamma = solution.mdp.gamma if term.gamma is None else term.gamma
    policy, reward = solution.policy, outcome.upper_reward
    mean = _Mean(policy)
    if term.horizon is None:
        system = solution.discounted_system(gamma)
        value, _ = system.solve((policy * reward).sum(axis=1), name="value")
        visits = outcome.occupancy(gamma)
        through = gamma * changes.expect(value)
        values = system.solve_columns(mean(through))
        arrived = changes.starts + gamma * changes.flow(visits[:, None] * policy)
        moved = system.solve_columns(arrived, transpose=True)
        advantages = reward + gamma * changes.kernel.expect(value)
        slopes = mean.times(moved, advantages)
        slopes += mean.each(visits) * (through + gamma * changes.expected(values))
        return changes.starts.T @ value + rho @ values, slopes, moved
    return _change_of_truncated(changes, outcome, gamma, term.horizon)


def _change_of_truncated(
    changes: Changes, outcome: Outcome, gamma: float, horizon: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return what `change_of_return` does, with step by step what it solves for."""
    policy, reward = outcome.solution.policy, outcome.upper_reward
    rho, mean, kernel = outcome.initial_distribution, _Mean(policy), changes.kernel
    rewards = (policy * reward).sum(axis=1)
    ahead = [(np.zeros(len(rho)), np.zeros_like(changes.starts))]  # V_k, and its change
    for _ in range(horizon):
        value, values = ahead[-1]
        through = gamma * (changes.expect(value) + changes.expected(values))
        returns = gamma * (policy * kernel.expect(value)).sum(axis=1)
        ahead.append((rewards + returns, mean(through)))
    present, moved = rho, changes.starts  # d_t, and its change
    slopes, visits = np.zeros((policy.size, moved.shape[1])), np.zeros_like(moved)
    for value, values in ahead[-2::-1]:
        advantages = reward + gamma * kernel.expect(value)
        slopes += mean.times(moved, advantages)
        through = gamma * (changes.expect(value) + changes.expected(values))
        slopes += mean.each(present) * through
        visits = visits + moved
        weights = present[:, None] * policy
        carried = changes.flowed(mean.weighted(moved))
        present, moved = gamma * kernel.flow(weights), gamma * (changes.flow(weights) + carried)
    value, values = ahead[-1]
    return changes.starts.T @ value + rho @ values, slopes, visits


def change_of_adjoint(
    changes: Changes,
    system: DiscountedSystem,
    score: FloatArray,
    adjoint: FloatArray,
    slopes: FloatArray,
    temperature: float,
) -> tuple[FloatArray, FloatArray]:
    """Return how score and adjoint vary: `[A*S, K]` and `[S, K]`; see `bilevel_gym.core.adjoint`.

    Args:
        changes: What varies.
        system: I - gamma P_pi in the frequencies seen, with its policy.
        score: u_c `[S, A]`.
        adjoint: v `[S]`.
        slopes: How the derivative with respect to the policy varies, `[A*S, K]`.
        temperature: tau.
    """
    mean = _Mean(system.policy)
    scores = mean.each() * (slopes - mean.spread(mean(slopes))) / temperature
    weights = score + system.policy * adjoint[:, None]
    arrived = system.discount * (changes.flow(weights) + changes.flowed(scores))
    return scores, system.solve_columns(arrived, transpose=True)


class _Mean:
    """Means over the actions of a policy `[S, A]`, of numbers by row, `[A*S, K]`."""

    def __init__(self, policy: FloatArray) -> None:
        self._policy = policy.T[:, :, None]

    def __call__(self, numbers: FloatArray) -> FloatArray:
        """Return sum_a pi(a|s) numbers(s, a), `[S, K]`."""
        actions, states, _ = self._policy.shape
        mean: FloatArray = (self._policy * numbers.reshape(actions, states, -1)).sum(axis=0)
        return mean

    def spread(self, by_state: FloatArray) -> FloatArray:
        """Return numbers of states `[S, K]` for each of their actions, `[A*S, K]`."""
        return np.tile(by_state, (len(self._policy), 1))

    def each(self, by_state: FloatArray | None = None) -> FloatArray:
        """Return numbers of states `[S]`, or the policy, by row, `[A*S, 1]`."""
        if by_state is None:
            return self._policy.reshape(-1, 1)
        return np.tile(by_state, len(self._policy))[:, None]

    def times(self, by_state: FloatArray, by_pair: FloatArray) -> FloatArray:
        """Return products of numbers `[S, K]` and `[S, A]`, `[A*S, K]`."""
        return self.spread(by_state) * by_pair.T.reshape(-1, 1)

    def weighted(self, by_state: FloatArray) -> FloatArray:
        """Return numbers of states `[S, K]`, times the policy, `[A*S, K]`."""
        return self.spread(by_state) * self.each()
