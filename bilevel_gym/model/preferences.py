"""Preferences: an objective that compares pairs of fragments of the follower's episodes.

A fragment d is the first H steps of an episode (fewer, where it ends), and R(d) the sum of a reward
along it. A judge with a reward of its own compares two independent fragments and prefers the first
with probability sigmoid(R_true(d_1) - R_true(d_2)) (Bradley and Terry); the objective is the
expected log-likelihood of the answer under the reward r_x that it has designed:

    F(x) = E_{d_1, d_2 ~ pi*(x)} E_answer[ log sigmoid(+-(R_x(d_1) - R_x(d_2))) ],

+ where the first was preferred. It is the reward-learning loss of Christiano et al. (NeurIPS 2017,
arXiv 1706.03741), negative, on fragments that the follower of that very reward plays (the bilevel
reading: Chakraborty et al., ICLR 2024, arXiv 2308.02585; Shen, Yang, Chen, ICML 2024, arXiv
2402.06886; Yang, Gao, Yuan, AISTATS 2025, arXiv 2405.19697). x enters directly, through R_x, and
through pi*; no sum over steps gives F, so that returns and critics do not apply.

Note that F is also raised by a follower whose fragments are easy to tell apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit

from ..core.bellman import EPS
from ..core.bounds import Uncertainty
from ..core.checks import check_at_least, check_choice, finite_array
from ..core.mdp import FloatArray
from ..episodes.transitions import FULL_ROW_TOLERANCE
from .objectives import BUFFER, Outcome, Scope, UpperValue

if TYPE_CHECKING:
    from ..episodes.simulator import Trajectories

__all__ = ["Comparisons", "PreferenceLikelihood"]

ANSWERS = ("drawn", "expected")

# Most fragments that are enumerated: all pairs of them are compared.
MOST_FRAGMENTS = 4096


@dataclass(frozen=True, eq=False)
class Comparisons:
    """What came out of comparing pairs of fragments.

    Attributes:
        likelihoods: Log-likelihood l of each answer under r_x, `[M]`, expected or drawn.
        slopes: Its derivative with respect to R_x(first fragment) - R_x(second), `[M]`.
    """

    likelihoods: FloatArray
    slopes: FloatArray


@dataclass(frozen=True, eq=False)
class PreferenceLikelihood:
    """The log-likelihood that r_x gives to preferences between the follower's fragments.

    Exact for small games, by enumeration. Where x moves the kernel, rows of it that sum to one are
    taken to do so at every x.

    Attributes:
        true_reward: The judge's reward `[S, A]`, finite.
        horizon: H, the steps of a fragment, at least 1.
        answers: What a judge tells of a pair in `compare`: "drawn", the fragment it prefers;
            "expected", how likely it prefers the first one, as the share of many judges who do
            would tell. F is the same, the variance of estimates is not.
    """

    scope: ClassVar[Scope] = "fragments"

    true_reward: FloatArray
    horizon: int
    answers: str = "drawn"

    def __post_init__(self) -> None:
        """Check reward, horizon and answers.

        Raises:
            ValueError: If the reward is not finite and `[S, A]`, the horizon is out of range, or
                the answers have an unknown name.
        """
        reward = finite_array("true_reward", self.true_reward, (None, None), "[S, A]")
        reward.flags.writeable = False
        object.__setattr__(self, "true_reward", reward)
        check_at_least("horizon", self.horizon, 1)
        check_choice("answers", self.answers, ANSWERS)

    def evaluate(self, outcome: Outcome) -> UpperValue:
        """Return the expected log-likelihood and its derivatives.

        With p(d) the probability of a fragment, g(d) = sum_d' p(d') l(d, d') and
        h(d) = sum_d' p(d') (sigmoid(R_true(d) - R_true(d')) - sigmoid(R_x(d) - R_x(d'))),
        F = sum_d p(d) g(d), dF/dp(d) = 2 g(d), since l is symmetric, and dF/dr(s, a) =
        2 sum_d p(d) h(d) n_d(s, a), n_d counting the visits of d.

        Raises:
            ValueError: If the reward has another shape than the follower's, or there are more than
                `MOST_FRAGMENTS` fragments.
        """
        reward = outcome.solution.mdp.reward
        self._check_shape(reward.shape)
        fragments = _Fragments.of(outcome, self.horizon)
        chances = fragments.chances
        # A fragment's return does not depend on the order of its steps.
        kinds, kind = fragments.kinds()
        true, designed = (fragments.sums(table)[kinds] for table in (self.true_reward, reward))
        likelihood, slope, spread = _expected(
            true, designed, np.bincount(kind, chances).astype(np.float64, copy=False)
        )
        likelihood, slope = likelihood[kind], slope[kind]
        slopes = fragments.gradient(2.0 * likelihood)
        return UpperValue(
            value=float(chances @ likelihood),
            policy=slopes.policy,
            policy_error=partial(self._policy_error, spread),
            lower_reward=fragments.visits(2.0 * chances * slope),
            kernel=slopes.kernel,
            initial_distribution=slopes.initial_distribution,
        )

    def _policy_error(self, spread: float, known: Uncertainty) -> float:
        """Return the bound on sum_sa pi |df/dpi - exact|, constants in a state apart.

        With kappa >= |pi - pi*| / pi, p and p / pi are off by at most e = (1 + kappa)^H - 1,
        relatively, and g, centred, by e times half the spread of l, which also bounds g itself;
        fragments have at most H steps.
        """
        off = float(np.expm1(self.horizon * np.log1p(known.total + 64.0 * EPS)))
        return self.horizon * off * (2.0 + off) * spread

    def compare(
        self, trajectories: Trajectories, reward: FloatArray, rng: np.random.Generator
    ) -> Comparisons:
        """Ask the judge about the fragments of episodes 2i and 2i + 1, for each i.

        Args:
            trajectories: Episodes that were not cut before H steps; one without a partner is left
                out.
            reward: The leader's r_x `[S, A]`.
            rng: What the judge draws its answers from.

        Raises:
            ValueError: If the judge's reward has another shape than r_x.
        """
        self._check_shape(reward.shape)
        true, designed = (
            sums[: 2 * (len(sums) // 2) : 2] - sums[1::2]
            for sums in (
                trajectories.along(table)[: self.horizon].sum(axis=0)
                for table in (self.true_reward, reward)
            )
        )
        first = expit(true)
        if self.answers == "drawn":
            first = (rng.random(len(first)) < first).astype(np.float64)
        return Comparisons(_likelihood(first, designed), first - expit(designed))

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if self.true_reward.shape != shape:
            raise ValueError(
                f"`true_reward` must have shape [S, A] = {shape}, got {self.true_reward.shape}"
            )


def _likelihood(first: FloatArray, ahead: FloatArray) -> FloatArray:
    """Return log-likelihoods of shares of preferences for the first, whose R_x is `ahead`."""
    # log sigmoid(-z) = log sigmoid(z) - z
    return np.asarray(log_expit(ahead) - (1.0 - first) * ahead)


def _expected(
    true: FloatArray, designed: FloatArray, chances: FloatArray
) -> tuple[FloatArray, FloatArray, float]:
    """Return g `[M]`, h `[M]` and max l - min l from R_true, R_x and p of fragments `[M]`."""
    likely = chances > 0.0
    likelihood, slope = np.empty((2, len(chances)))
    least, most = np.inf, -np.inf
    block = max(1, BUFFER // len(chances))
    for first in range(0, len(chances), block):
        part = slice(first, first + block)
        right = expit(true[part, None] - true[likely])
        ahead = designed[part, None] - designed[likely]
        each = _likelihood(right, ahead)
        likelihood[part] = each @ chances[likely]
        slope[part] = (right - expit(ahead)) @ chances[likely]
        least, most = min(least, float(each.min())), max(most, float(each.max()))
    return likelihood, slope, most - least


@dataclass(frozen=True, eq=False)
class _Fragments:
    """Every fragment of a game, as choices: first state, action, successor, action, and so on."""

    choices: NDArray[np.int64]  # entries of `laws`, [M, 2H]
    # All probabilities: of first states [S], of actions [S, A], of stored transitions [K], of ends
    # after each move [S, M], and a one, for all choices after an end.
    laws: FloatArray
    outcome: Outcome

    @classmethod
    def of(cls, outcome: Outcome, horizon: int) -> _Fragments:
        """Enumerate the fragments, `MOST_FRAGMENTS` at most."""
        mdp, policy = outcome.solution.mdp, outcome.solution.policy
        matrix, (num_states, num_actions) = mdp.kernel.matrix, policy.shape
        ends = 1.0 - np.asarray(matrix @ np.ones(num_states))
        ends[ends <= FULL_ROW_TOLERANCE] = 0.0
        laws = np.concatenate(
            [outcome.initial_distribution, policy.ravel(), matrix.data, ends, [1.0]]
        )
        exists = np.ones(policy.shape, dtype=bool) if mdp.action_mask is None else mdp.action_mask
        moves = np.arange(num_actions) if mdp.kernel.moves is None else mdp.kernel.moves
        first_transition, over = num_states + policy.size, len(laws) - 1

        # What can follow each choice: an action of the state that it leads to, or what comes of it.
        of_state = [
            num_states + s * num_actions + np.flatnonzero(exists[s]) for s in range(num_states)
        ]
        of_move = [
            np.append(
                np.arange(matrix.indptr[row], matrix.indptr[row + 1]),
                np.full(int(ends[row] > 0.0), matrix.nnz + row),
            )
            + first_transition
            for row in range(len(ends))
        ]
        of_pair = [of_move[move * num_states + s] for s in range(num_states) for move in moves]
        of_transition = [of_state[successor] for successor in matrix.indices]
        followers = of_state + of_pair + of_transition + [np.array([over])] * (len(ends) + 1)
        choices = np.arange(num_states)[:, None]
        for _ in range(2 * horizon - 1):
            following = [followers[choice] for choice in choices[:, -1]]
            lengths = [len(entries) for entries in following]
            if sum(lengths) > MOST_FRAGMENTS:
                raise ValueError(
                    f"all pairs of at most {MOST_FRAGMENTS} fragments can be compared, got "
                    f"{sum(lengths)} or more; take a smaller `horizon` or a smaller game, or a "
                    "method that plays episodes"
                )
            earlier = np.repeat(choices, lengths, axis=0)
            choices = np.column_stack([earlier, np.concatenate(following)])
        return cls(choices, laws, outcome)

    @property
    def chances(self) -> FloatArray:
        """Probability p(d) of each fragment, `[M]`."""
        return self.laws[self.choices].prod(axis=1)

    def kinds(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return a fragment of each set of visited pairs, `[K]`, and the set of each, `[M]`."""
        _, first, kind = np.unique(
            np.sort(self.choices[:, 1::2], axis=1), axis=0, return_index=True, return_inverse=True
        )
        return first, kind.ravel()

    def sums(self, reward: FloatArray) -> FloatArray:
        """Return the sum of a reward `[S, A]` along each fragment, `[M]`."""
        table = np.zeros(len(self.laws))
        first = len(self.outcome.initial_distribution)
        table[first : first + reward.size] = reward.ravel()
        return table[self.choices].sum(axis=1)

    def visits(self, weights: FloatArray) -> FloatArray:
        """Return sum_d weights(d) n_d(s, a), `[S, A]`, for weights `[M]`."""
        weighted = np.broadcast_to(weights[:, None], self.choices.shape)
        return self._split(weighted)[1]

    def gradient(self, values: FloatArray) -> UpperValue:
        """Return the derivatives of sum_d p(d) values(d) at fixed values `[M]`."""
        # Products of all choices but one, also where that one has probability zero.
        factors = self.laws[self.choices]
        before, after = np.ones((2, *factors.shape))
        np.cumprod(factors[:, :-1], axis=1, out=before[:, 1:])
        np.cumprod(factors[:, :0:-1], axis=1, out=after[:, -2::-1])
        first, policy, transitions, ends = self._split(values[:, None] * before * after)
        # The mass that a row lacks is what its transitions leave.
        transitions = transitions - ends[self.outcome.solution.mdp.kernel.rows]
        return UpperValue(value=0.0, policy=policy, kernel=transitions, initial_distribution=first)

    def _split(self, weights: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return weights of choices `[M, 2H]`, summed for each entry of the laws, taken apart."""
        sums = np.bincount(self.choices.ravel(), weights.ravel(), minlength=len(self.laws))
        totals: FloatArray = sums.astype(np.float64, copy=False)
        solution = self.outcome.solution
        shape, stored = solution.policy.shape, solution.mdp.kernel.matrix.nnz
        cuts = np.cumsum([shape[0], solution.policy.size, stored])
        first, pairs, transitions, ends = np.split(totals[:-1], cuts)
        return first, pairs.reshape(shape), transitions, ends
