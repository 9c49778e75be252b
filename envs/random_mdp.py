"""BilevelRandomMDP-v0: random MDPs of any size, whose optimum is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ..core.checks import check_at_least, check_choice, received
from ..core.mdp import FloatArray, Kernel, action_major
from ..core.memory import check_memory
from ..model.objectives import PolicyCost, QuadraticCost, Sum
from .base import BestKnown, upper_box
from .tabular import TabularBilevelEnv

__all__ = ["BilevelRandomMDP"]

# How x makes rewards.
REWARDS = ("linear", "quadratic")

# Half the width of the box of x.
BOUND = 10.0

# Random numbers held at a time while successors are drawn by sorting.
CHUNK = 1 << 22

# Without `branching` the kernel stores about S^2 A / 2 transitions; more than this are refused.
MAX_STORED = 5e7

# Bytes for each transition, which an evaluation with its hyper-gradient takes at most.
TRANSITION_MEMORY = 100

# States, actions or entries of x: more do not fit into indices of kernels.
LARGEST = 2**31 - 1


class BilevelRandomMDP(TabularBilevelEnv):
    """A leader keeps the policy of a random MDP spread out, at the least effort.

    ## Description
    Every state and action has random successors with random probabilities, and a reward that x
    scales. The leader's cost is that of x, and of a policy that prefers some actions to others. Any
    size that fits into memory is possible; the optimum is known exactly for all of them.

    The task does not rank methods: stepping along -x, the direct gradient, leads to the optimum as
    fast as the hyper-gradient does (see Ground Truth). It shows whether a hyper-gradient is right,
    and how a method scales.

    ## Upper Level
    x in [-10, 10]^upper_dim. x starts at a draw from N(0, I), clipped to the box. The objective,
    to be maximised, is

        F(x) = -(||x||^2 + sum_sa pi(a|s)^2) / 2

    ## Lower Level
    An entropy-regularised MDP with discount `gamma` and temperature `temperature`. Each state and
    action has n successors, chosen without replacement, all sets of n being equally likely; their
    probabilities are draws from U[0, 1], normalised. n is uniform in {1, ..., S - 1} for each pair,
    or `branching` for all. The reward is

        quadratic:  r_x(s, a) = c(s, a) x^T M x,  M_ij from N(0, 1), c the product of two U[0, 1]
        linear:     r_x(s, a) = sum_i phi_i(s, a) x_i,  `active_features` of the phi_i from N(0, 1),
                    the others zero

    x enters the reward alone. Memory grows with S * A * (branching + active_features), plus
    upper_dim^2 for a quadratic reward.

    ## Spaces and Episode
    * Observation: `Discrete(S)`.
    * Action: `Discrete(num_actions)`.
    * Rewards: F evaluates the policy as a whole and is no sum over steps: `upper_reward` is zero.
    * Episode: it starts in a uniform state, never terminates and is truncated after 200 steps.

    ## Arguments
    * `num_states` (10): S, at least 2;
    * `num_actions` (5): A, at least 1;
    * `branching` (None): successors of each state and action, in 1..S. None draws their number for
      each pair, which stores about S^2 A / 2 transitions and is refused above fifty million;
    * `upper_dim` (100): entries of x, at least 1;
    * `gamma` (.5), `temperature` (1), `entropy` ("plain") and `render_mode`: see `BilevelEnv`. The
      picture shows at most 28 states;
    * `reward` ("quadratic"): or "linear";
    * `active_features` (5): features that are not zero in each state and action, in 1..upper_dim;
      all of them where there are fewer than five. For linear rewards only;
    * `seed` (0): seed of the instance, not negative; it gives the same kernel and first x with
      either reward.

    ## Ground Truth
    x = 0 (`best_known`) is the only global maximum of every instance, with the value -S / (2 A), -1
    by default: ||x||^2 is least there, and so is sum_sa pi^2, since without rewards pi is uniform.
    The hyper-gradient there is zero.

    The default instance:

    | at | F | norm of dF/dx | norm of its direct part, -x |
    |---|---|---|---|
    | the first x | -55.153152 | 11.041769 | 10.163137 |
    | half of it | -14.782585 | 8.787169 | 5.081568 |
    | a tenth of it | -1.521220 | 1.079672 | 1.016314 |

    From the first x, every run ends at x = 0, F = -1, with what remains of the gradient:

    | run | norm of dF/dx at its end |
    |---|---|
    | 3000 steps of 8e-3 along the hyper-gradient | 3.46e-10 |
    | 3000 steps of 8e-3 along the direct gradient alone | 3.48e-10 |
    | L-BFGS-B on the hyper-gradient, 24 evaluations | 5e-7 |
    | L-BFGS-B on the direct gradient, 2 evaluations | 0 |

    The follower's answer soon stops to matter: the first steps drive x^T M x, hence all rewards, to
    zero (the response part falls from 3.76 to below 1e-15 within 200 steps); -x is left, which
    shrinks by .992 a step. L-BFGS-B on the hyper-gradient ended at x = 0 for seeds 0 to 5 at
    temperatures 1 and .01. Steps of 8e-3 are the published ones of M-SoBiRL, which also takes
    adjoint steps of .5 and 10 sweeps of soft value iteration between them; it is reported to bring
    the gradient's norm below 1e-9 in 3000 steps, and so does -x.

    With a million states and `branching` 5, one core builds the game in 5 s (linear reward: 10 s)
    and takes 16 s (31 s) for the first `evaluate`, 8 s (14 s) for one nearby, in 2.1 (2.5) GiB of
    memory.

    ## References
    Y. Yang, B. Gao, Y. Yuan, "Bilevel reinforcement learning via the development of hyper-gradient
    without lower-level convexity", AISTATS 2025, arXiv 2405.19697 (SoBiRL; the default instance is
    its synthetic problem). A fixed `branching` with linear rewards makes the family of T. W.
    Archibald, K. I. M. McKinnon, L. C. Thomas, "On the generation of Markov decision processes",
    Journal of the Operational Research Society 46, 1995 (Garnet). Sets of successors: J. Bentley,
    B. Floyd, "Programming pearls: a sample of brilliance", Communications of the ACM 30, 1987.
    """

    leader_does, follower_does = "scales rewards", "acts"
    leader_wants = "a small x, and all actions equally likely"
    follower_wants = "high rewards r(s, a), all of which x scales"

    def __init__(
        self,
        num_states: int = 10,
        num_actions: int = 5,
        *,
        branching: int | None = None,
        upper_dim: int = 100,
        gamma: float = 0.5,
        temperature: float = 1.0,
        entropy: str = "plain",
        reward: str = "quadratic",
        active_features: int | None = None,
        seed: int = 0,
        render_mode: str | None = None,
    ) -> None:
        """Build the game; arguments, described above, out of range raise a `ValueError`."""
        check_at_least("num_states", num_states, 2, LARGEST)
        check_at_least("num_actions", num_actions, 1, LARGEST)
        check_at_least("upper_dim", upper_dim, 1, LARGEST)
        check_at_least("seed", seed, 0)
        stored = 0.5 * num_states * num_states * num_actions
        if branching is not None:
            _check_count("branching", branching, num_states, "the number of states")
            stored = float(branching) * num_states * num_actions
        elif stored > MAX_STORED:
            raise ValueError(
                "`branching` must be given for so many states, got None, which would store "
                f"about {stored:.2g} transitions (at most {MAX_STORED:.0e} are accepted)"
            )
        check_memory("num_states", num_states, TRANSITION_MEMORY * stored)
        self._quadratic = check_choice("reward", reward, REWARDS) == "quadratic"
        active = min(5, upper_dim)
        if active_features is not None:
            if self._quadratic:
                raise ValueError(
                    '`active_features` goes with reward="linear", got '
                    f"{received(active_features)} with {reward=}"
                )
            _check_count("active_features", active_features, upper_dim, "`upper_dim`")
            active = active_features
        for_kernel, for_reward, for_start = np.random.default_rng(seed).spawn(3)
        shape = (num_states, num_actions)
        if self._quadratic:  # only the chosen one of the two rewards is drawn
            # c, the product of two uniform draws, in action-major memory.
            self._scale = for_reward.random(shape[::-1]).T
            self._scale *= for_reward.random(shape[::-1]).T
            self._matrix = for_reward.standard_normal((upper_dim, upper_dim))
        else:
            self._features = _features(shape, upper_dim, active, for_reward)
        super().__init__(
            kernel=_kernel(shape, branching, for_kernel),
            initial_distribution=np.full(num_states, 1.0 / num_states),
            objective=Sum((PolicyCost(0.5), QuadraticCost(0.5))),
            upper_reward=np.zeros(shape, order="F"),
            upper_space=upper_box(-BOUND, BOUND, (upper_dim,)),
            initial_upper_params=np.clip(for_start.standard_normal(upper_dim), -BOUND, BOUND),
            gamma=gamma,
            temperature=temperature,
            entropy=entropy,
            render_mode=render_mode,
        )
        self.best_known = BestKnown(
            self.validate_upper_params(np.zeros(upper_dim)),
            -num_states / (2.0 * num_actions),
            "proven: x = 0 minimises both costs at once, ||x||^2 and, as the policy is uniform "
            "without rewards, sum_sa pi^2",
        )

    def reward(self, upper_params: FloatArray) -> FloatArray:
        """Return r_x(s, a), `[S, A]`."""
        if self._quadratic:
            return self._scale * float(upper_params @ self._matrix @ upper_params)
        rewards: FloatArray = self._features @ upper_params
        return rewards.reshape(self.num_actions, self.num_states).T

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_sa cotangent(s, a) dr_x(s, a)/dx, `[upper_dim]`."""
        if self._quadratic:
            weight = float(np.vdot(action_major(self._scale), action_major(cotangent)))
            # M is not symmetric.
            slope: FloatArray = self._matrix @ upper_params + upper_params @ self._matrix
            return weight * slope
        product: FloatArray = self._features.T @ action_major(cotangent).ravel()
        return product


def _check_count(name: str, count: int, most: int, source: str) -> None:
    """Raise a `ValueError` unless `count` is in 1..most; `source` says what `most` is."""
    check_at_least(name, count, 1)
    if count > most:
        raise ValueError(f"`{name}` must be at most {source}, {most}, got {count}")


def _features(
    shape: tuple[int, int], upper_dim: int, active: int, rng: np.random.Generator
) -> csr_array:
    """Return phi `[A*S, D]`, rows as in a kernel, with `active` entries from N(0, 1) in each."""
    rows = shape[0] * shape[1]
    columns = _subsets(rows, upper_dim, active, rng)
    columns.sort(axis=1)
    ends = np.arange(0, rows * active + 1, active)
    values = rng.standard_normal(rows * active)
    return csr_array((values, columns.ravel(), ends), shape=(rows, upper_dim))


def _kernel(shape: tuple[int, int], branching: int | None, rng: np.random.Generator) -> Kernel:
    """Return a kernel with random successors and probabilities; see the class."""
    num_states, num_actions = shape
    rows = num_states * num_actions
    if branching is None:
        counts = rng.integers(1, num_states, size=rows)
        successors = _ragged_subsets(counts, num_states, rng)
    else:
        counts = np.full(rows, branching)
        successors = _subsets(rows, num_states, branching, rng).ravel()
    weights = 1.0 - rng.random(successors.size)  # in (0, 1], so that no sum is zero
    starts = np.concatenate([[0], counts.cumsum()])
    weights /= np.repeat(np.add.reduceat(weights, starts[:-1]), counts)
    matrix = csr_array((weights, successors, starts), shape=(rows, num_states))
    return Kernel(matrix, num_states, num_actions)


def _subsets(rows: int, size: int, count: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Draw `count` different numbers in 0..size-1 for each row, `[rows, count]`.

    Every set is equally likely; the order within a row is not random.
    """
    if count * count > 4 * size:
        # Comparing every draw with all earlier ones would take longer than sorting.
        return _ragged_subsets(np.full(rows, count), size, rng).reshape(rows, count)
    # Floyd's method, a column at a time: where the k-th draw from 0..last is in the set already,
    # `last` itself is not.
    chosen = np.empty((count, rows), np.int32)
    for k, last in enumerate(range(size - count, size)):
        drawn = rng.integers(0, last + 1, size=rows, dtype=np.int32)
        repeated = (chosen[:k] == drawn).any(axis=0)
        chosen[k] = np.where(repeated, np.int32(last), drawn)
    return np.ascontiguousarray(chosen.T)


def _ragged_subsets(
    counts: NDArray[np.int64], size: int, rng: np.random.Generator
) -> NDArray[np.int32]:
    """Draw counts[i] different numbers in 0..size-1 for each row i, one row after the other.

    The numbers of a row are the places of its smallest random keys, some rows at a time.
    """
    step = max(1, CHUNK // size)
    parts = []
    for begin in range(0, len(counts), step):
        wanted = counts[begin : begin + step]
        order = np.argsort(rng.random((len(wanted), size)), axis=1).astype(np.int32)
        parts.append(order[np.arange(size) < wanted[:, None]])
    return np.concatenate(parts)
