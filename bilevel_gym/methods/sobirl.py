"""SoBiRL: the leader's loss of an episode, times the advantages of the reward's gradient along it.

Yang, Gao, Yuan (AISTATS 2025, arXiv 2405.19697), the model-free algorithm. With l the leader's
return of an episode of I steps,

    response = (1/tau) E[ (l - b) sum_h (dQ - dV)(s_h, a_h) ],

where dQ - dV is the advantage of the vector-valued reward dr/dx under the follower's policy. The
baseline b (the mean return of the other episodes) leaves the expectation as it is. The advantages
come from a second, independent batch of episodes: taken from the same one they would be correlated
with l, and the product biased. There, each pair's gradient return is averaged over its visits in
the first half of the horizon (later ones are cut short); pairs without a visit count nothing. What
bias remains is of the order of 1 / episodes.

`truncation=K` keeps the first K terms of the advantage. K = 1 leaves dr/dx - E_pi dr/dx, which
needs no second batch; it is what the authors' code computes, it is biased, and it vanishes where
the reward's gradient does not depend on the action.

Where the objective compares pairs of fragments (`bilevel_gym.model.preferences`), l is the
log-likelihood of an answer, the sum over h runs along both fragments, and E[dl/dx] is the direct
part; episodes make pairs in the order in which they are played. There the baseline is no luxury: l
is never near zero.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ..core.checks import check_at_least, check_choice, check_flag, optional
from ..core.linear import DiscountedSystem
from ..core.mdp import FloatArray
from ..episodes.sampler import Episodes
from ..model.objectives import Scope
from ..model.preferences import PreferenceLikelihood
from ..model.tabular import TabularModel
from .episode_sums import Batch, followed_visits, on_pairs, renormalised, spread
from .sampled import TermByTerm

__all__ = ["SoBiRL"]

ADVANTAGES = ("seen", "exact")


class SoBiRL(TermByTerm):
    """Estimate the hyper-gradient from returns of episodes and advantages of dr/dx."""

    unbiased: ClassVar[bool] = True
    scopes: ClassVar[frozenset[Scope]] = frozenset({"steps", "policy", "params", "fragments"})

    def __init__(
        self,
        model: TabularModel,
        *,
        truncation: int | None = None,
        baseline: bool = True,
        advantages: str = "seen",
        **options: Any,
    ) -> None:
        """Bind the method to a model.

        Args:
            model: A tabular model; where its leader evaluates fragments, x enters the rewards
                alone.
            truncation: Terms of the advantage that are kept, at least 1; None for all.
            baseline: Whether to subtract the mean return of the other episodes.
            advantages: "seen" takes the advantages of dr/dx from a second batch of episodes;
                "exact" takes them from the model, in full, to study the estimator alone.
            **options: See `Sampled`: episodes, horizon, inner, inner_options, error_bars.
        """
        super().__init__(model, **options)
        self._truncation = optional(check_at_least, "truncation", truncation, 1)
        self._baseline = check_flag("baseline", baseline)
        self._exact_advantages = check_choice("advantages", advantages, ADVANTAGES) == "exact"
        if self._exact_advantages and truncation is not None:
            raise ValueError(f'`truncation` must be None with advantages="exact", got {truncation}')
        if truncation == 1 and _ignores_actions(model):
            warnings.warn(
                f"with truncation=1 the response term is zero for {model.name}: the "
                "gradient of its reward does not depend on the action",
                stacklevel=2,
            )

    def signed_occupancy(self, batch: Batch) -> FloatArray:
        """Return the paper's estimate of dF/dr through pi*, `[S, A]`; see `Sampled`."""
        return self._through_advantages(self._weights(batch, batch.returns(), 1), batch)

    def of_preferences(
        self, term: PreferenceLikelihood, batch: Batch
    ) -> tuple[float, FloatArray, FloatArray]:
        """Return the paper's estimates for pairs of fragments; see `Sampled`."""
        reward = self._model.lower_reward(batch.upper_params)
        answers = [term.compare(block, reward, self._rng) for block in batch.blocks]
        likelihoods = [answer.likelihoods for answer in answers]
        signed = self._through_advantages(self._weights(batch, likelihoods, 2), batch)
        # R_x of the second fragment counts against the first.
        count = sum(len(pairs) for pairs in likelihoods)
        slope = np.zeros(batch.policy.shape)
        for block, answer in zip(batch.blocks, answers, strict=True):
            signs = np.column_stack([answer.slopes, -answer.slopes])
            slope += on_pairs(block, _along(block, signs, batch))
        value = float(np.concatenate(likelihoods).mean())
        return value, slope / count, signed

    def _weights(self, batch: Batch, signals: Sequence[FloatArray], size: int) -> FloatArray:
        """Return E[(l - b) sum_h 1[(s_h, a_h) = .]] `[S, A]`; l is of groups of `size` episodes."""
        count = sum(len(signal) for signal in signals)
        total = sum(float(signal.sum()) for signal in signals)
        weights = np.zeros(batch.policy.shape)
        for block, signal in zip(batch.blocks, signals, strict=True):
            if self._baseline and count > 1:
                signal = signal - (total - signal) / (count - 1)
            each = np.repeat(signal[:, None], size, axis=1)
            weights += on_pairs(block, _along(block, each, batch))
        return weights / count

    def _through_advantages(self, weights: FloatArray, batch: Batch) -> FloatArray:
        """Return weights of dr/dx from those of its advantages, over tau."""
        policy = batch.policy
        weights = weights / batch.temperature
        # The first term of the advantage is known: r is.
        signed = weights - policy * weights.sum(axis=1, keepdims=True)
        if self._truncation == 1:
            return signed
        if self._exact_advantages:
            kernel = self._model.kernel(batch.upper_params)
            system = DiscountedSystem(kernel, policy, batch.gamma)
            flow, _ = system.solve(batch.gamma * kernel.flow(signed), transpose=True)
            return signed + policy * flow[:, None]
        # dQ - dV after it: what follows a visit, averaged over visits of the pair, minus the same
        # over the pairs of the state.
        other = list(batch.sampler.episodes(batch.num_episodes, batch.horizon, self._rng))
        self.watch(other)
        visits = followed_visits(other, batch)
        seen = visits > 0.0
        weights = np.where(seen, weights, 0.0)
        centred = weights - renormalised(policy, seen) * weights.sum(axis=1, keepdims=True)
        return signed + spread(other, centred, visits, batch, self._truncation)


def _along(block: Episodes, signals: FloatArray, batch: Batch) -> FloatArray:
    """Return signals of groups of episodes `[M, size]` at each step that counts, `[T, N]`."""
    each = np.zeros(block.num_episodes)  # episodes that no group has room for count nothing
    each[: signals.size] = signals.ravel()
    along = np.where(block.alive, each, 0.0)
    if batch.upper_horizon is not None:  # later actions have no part in the objective
        along[batch.upper_horizon :] = 0.0
    return along


def _ignores_actions(model: TabularModel) -> bool:
    """Whether dr/dx is the same for all actions of a state, seen by one random cotangent."""
    shape = (model.num_states, model.num_actions)
    x, mask = model.initial_upper_params, model.action_mask
    exists = np.ones(shape, dtype=bool) if mask is None else mask
    cotangent = np.where(exists, np.random.default_rng(0).standard_normal(shape), 0.0)
    mean = cotangent.sum(axis=1, keepdims=True) / exists.sum(axis=1, keepdims=True)
    whole = model.reward_vjp(x, cotangent)
    centred = model.reward_vjp(x, np.where(exists, cotangent - mean, 0.0))
    return bool(np.abs(centred).max() <= 1e-10 * np.abs(whole).max())
