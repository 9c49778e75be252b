"""The scalar trace: the leader's advantage, carried along the follower's episodes.

For the leader's return the injections of `bilevel_gym.methods.sampled` are

    c_t = gamma_u^t A_u(s_t, a_t) / tau,   A_u the leader's advantage under the follower's policy,

so that one number per step is all that is carried: e_t = gamma e_{t-1} + c_t. It is the covariance
form of Kudo et al. (BC-HG, see `bilevel_gym.methods.bc_hg`) with the two sums exchanged, and its
expectation is the adjoint q of Yang, Gao, Yuan (AISTATS 2025, arXiv 2405.19697) exactly. As the
policy is known, the last action is not sampled but averaged over: all actions of a visited state
get pi(a|s) (gamma e_{t-1} + gamma_u^t A_u(s, a) / tau).

A leader's return and a gradient's return of the same episode are correlated, so the advantage must
be a function of (s, a): it comes from a critic, `bilevel_gym.methods.episode_sums.Critic`. One that
is fitted to few episodes, the same ones at that, adds a bias that falls as 1 / episodes.

Control variate. Averaging removes the sampling noise of the last action from the estimate; most of
the variance comes from where earlier actions have led. With taken(s, a) the trace summed over the
actions that were taken, sum_t (gamma e_{t-1} + c_t) 1[(s_t, a_t) = (s, a)], and averaged(s, a) the
form above, the mean of their difference is zero, and so is that of what follows from it under any
kernel M:

    q_hat(s, a) = averaged(s, a) - pi(a|s) v(s),
    (I - gamma M_pi)^T v = gamma sum_sa M(.|s, a) [taken(s, a) - averaged(s, a)].

Were M the true kernel, the only noise left would be that of which states are visited.
M is the kernel of the frequencies seen, which costs no episode; with few of them it is wrong, and
the mean stays for all that. For this M must know nothing of the episodes that it corrects
(cross-fitting): each half of the episodes is corrected by what was seen in the other halves, of
this x and, unless x moves the kernel, of all earlier ones. On four rooms this about halves the
variance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..core.checks import check_at_least, check_choice, check_flag, optional
from ..core.linear import DiscountedSystem
from ..core.mdp import FloatArray
from ..episodes.sampler import Episodes, TransitionCounts
from ..model.tabular import TabularModel
from .episode_sums import Batch, Critic, advantages, carried, on_pairs, on_states
from .sampled import TermByTerm

__all__ = ["Trace"]

CRITICS = ("seen", "exact")


class Trace(TermByTerm):
    """Estimate the hyper-gradient by a scalar trace of the leader's advantage."""

    remembered = (*TermByTerm.remembered, "_critic", "_halves")

    def __init__(
        self,
        model: TabularModel,
        *,
        critic: str = "seen",
        all_actions: bool = True,
        truncation: int | None = None,
        control_variate: bool = True,
        **options: Any,
    ) -> None:
        """Bind the method to a model.

        Args:
            model: A tabular model.
            critic: "seen" fits the leader's advantage to all transitions seen so far, where x moves
                the kernel to those of this x; "exact" takes it from the model, to study the
                estimator alone.
            all_actions: Whether to average over the actions of a visited state.
            truncation: Steps that an injection counts, its own included; None for all. 1 leaves
                of the advantage of dr/dx its first term.
            control_variate: Whether to subtract the sampling noise of the actions, by the
                frequencies of transitions seen; it belongs to the whole trace, averaged over
                actions, and other forms go without.
            **options: See `Sampled`: episodes, horizon, inner, inner_options, error_bars.
        """
        super().__init__(model, **options)
        self._exact_critic = check_choice("critic", critic, CRITICS) == "exact"
        self._all_actions = check_flag("all_actions", all_actions)
        self._truncation = optional(check_at_least, "truncation", truncation, 1)
        corrects = check_flag("control_variate", control_variate)
        self._corrects = corrects and self._all_actions and truncation is None
        self.reset(self._rng)

    def reset(self, rng: np.random.Generator) -> None:
        """Forget everything learnt; draw all randomness from `rng` from now on."""
        super().reset(rng)
        self._forget()

    def _forget(self) -> None:
        size = self._model.num_states, self._model.num_actions
        self._critic = Critic(*size)
        self._halves = TransitionCounts(*size), TransitionCounts(*size)

    def watch(self, blocks: Sequence[Episodes]) -> None:
        """Tell the critic, and the models of the control variate; see `Sampled`."""
        super().watch(blocks)
        if self._model.moves_kernel:  # what was seen under another x is of another kernel
            self._forget()
        if not self._exact_critic:
            self._critic.add(blocks)
        if self._corrects:
            for counts, half in zip(self._halves, _halves(blocks), strict=True):
                for block in half:
                    counts.add(block)

    def signed_occupancy(self, batch: Batch) -> FloatArray:
        """Return the trace's estimate of dF/dr through pi*, `[S, A]`; see `Sampled`."""
        tables = self._advantages(batch, max(len(block.upper_rewards) for block in batch.blocks))
        if not self._corrects:
            averaged, taken = self._sums(batch.blocks, tables, batch)
            return (averaged if self._all_actions else taken) / batch.num_episodes
        signed = np.zeros(batch.policy.shape)
        for half, others in zip(_halves(batch.blocks), self._halves[::-1], strict=True):
            averaged, taken = self._sums(half, tables, batch)
            kernel = others.kernel()
            system = DiscountedSystem(kernel, batch.policy, batch.gamma)
            noise, _ = system.solve(batch.gamma * kernel.flow(taken - averaged), transpose=True)
            signed += averaged - batch.policy * noise[:, None]
        return signed / batch.num_episodes

    def _sums(
        self, blocks: Iterable[Episodes], tables: Sequence[FloatArray], batch: Batch
    ) -> tuple[FloatArray, FloatArray]:
        """Return the trace summed over episodes: averaged over actions, and of those taken."""
        policy, tau = batch.policy, batch.temperature
        averaged, taken = np.zeros(policy.shape), np.zeros(policy.shape)
        for block in blocks:
            discounts = batch.discounts(len(block.upper_rewards))
            injections = _along(block, tables) * discounts[:, None] / tau
            carry = carried(injections, batch.gamma, self._truncation)
            taken += on_pairs(block, carry + injections)
            averaged += policy * on_states(block, carry)[:, None]
            if len(tables) == 1:
                weights = np.broadcast_to(discounts[:, None], injections.shape)
                visits = on_states(block, weights)
                averaged += visits[:, None] * policy * tables[0] / tau
            else:
                for t, table in enumerate(tables[: len(discounts)]):
                    present = block.states[t]
                    number = np.bincount(present[present >= 0], minlength=len(policy))
                    averaged += discounts[t] * number[:, None] * policy * table / tau
        return averaged, taken

    def _advantages(self, batch: Batch, steps: int) -> Sequence[FloatArray]:
        if not self._exact_critic:
            return self._critic.advantages(batch, steps)
        model, x = self._model, batch.upper_params
        everywhere = np.ones(batch.policy.shape, dtype=bool)
        return advantages(
            model.kernel(x), model.upper_reward(x), batch.policy, everywhere, batch, steps
        )


def _halves(blocks: Iterable[Episodes]) -> tuple[list[Episodes], list[Episodes]]:
    """Return the episodes in two parts of the same size, or almost."""
    first, second = [], []
    for block in blocks:
        middle = block.num_episodes // 2
        first.append(block.part(slice(middle)))
        second.append(block.part(slice(middle, None)))
    return first, second


def _along(block: Episodes, tables: Sequence[FloatArray]) -> FloatArray:
    """Return the advantages of the actions taken, `[T, N]`; zero after the end."""
    if len(tables) == 1:
        return block.along(tables[0])
    values = np.zeros(block.states.shape)
    for t, alive in enumerate(block.alive):
        values[t, alive] = tables[t][block.states[t, alive], block.actions[t, alive]]
    return values
