"""Plug-in: the exact hyper-gradient of the game that was seen.

The transitions of the episodes are counted, their frequencies are taken for the kernel, those of
the first states for the start, and the leader's rewards are those that were seen. In this game one
adjoint solve gives the signed occupancy of the follower's policy pi (see
`bilevel_gym.core.adjoint`):

    c(s, a) = pi(a|s) (f_pi(s, a) - sum_b pi(b|s) f_pi(s, b)) / tau,   f_pi = df/dpi,
    (I - gamma P_pi)^T v = gamma sum_sa P(.|s, a) c(s, a),   q(s, a) = c(s, a) + pi(a|s) v(s).

Certainty equivalence, as it is called, is the maximum likelihood estimate of the hyper-gradient,
given the policy. It needs no critic beside the model, and no product of two averages of the same
episodes. Unless x moves the kernel, transitions of earlier x count as much as those of this one.

Pairs that were never seen have no successors. The policy is renormalised over the actions that were
seen in a state, and q spreads with the true one: to take it that an unseen action ends the episode
would be a larger error, since the value of a state is rarely zero.

Worse than `trace`: where what is counted is not what is sampled. The estimate is biased by the
order of 1 / episodes, as `trace` is. Where the goal of the leader was never seen, no estimate
from episodes helps: `coverage` says how much of the policy was.

The standard errors are those of the delta method, see `bilevel_gym.methods.error_bars`: of the
frequencies, given which pairs were tried how often. Where x moves the kernel or the start, or the
objective varies with the frequencies in a way of its own, they are found by leaving out groups of
episodes (`bilevel_gym.methods.jackknife`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from ..core.bellman import centred_score
from ..core.checks import check_flag
from ..core.mdp import FloatArray
from ..episodes.sampler import Episodes, Plays
from ..model.objectives import Outcome, Scope, StepObjective, flattened, scope_of
from ..model.tabular import TabularModel
from .episode_sums import Seen, renormalised
from .error_bars import DRAWS, Changes, change_of_adjoint, change_of_return
from .moved import seen_direct_part
from .sampled import Estimate, Sampled

__all__ = ["PlugIn"]

# Numbers held at a time, of changes by state and action.
BUFFER = 1 << 22


class PlugIn(Sampled):
    """Differentiate in the model of the frequencies seen."""

    on_policy: ClassVar[bool] = False
    scopes: ClassVar[frozenset[Scope]] = frozenset({"steps", "policy", "params"})
    remembered = (*Sampled.remembered, "_seen")

    def __init__(
        self,
        model: TabularModel,
        *,
        pooled: bool = True,
        **options: Any,
    ) -> None:
        """Bind the method to a model.

        Args:
            model: A tabular model.
            pooled: Whether transitions count that were seen under earlier x, unless x moves the
                kernel, and those that the follower has learnt from.
            **options: See `Sampled`: episodes, horizon, inner, inner_options, error_bars.
        """
        super().__init__(model, **options)
        self._pooled = check_flag("pooled", pooled)
        self.reset(self._rng)

    def reset(self, rng: np.random.Generator) -> None:
        """Forget all counts; draw all randomness from `rng` from now on."""
        super().reset(rng)
        self._forget()

    def _forget(self) -> None:
        self._seen = Seen(self._model.num_states, self._model.num_actions)

    def follow(self, upper_params: FloatArray, played: Sequence[Episodes]) -> None:
        """Count what the follower has learnt from."""
        if not self._pooled or self._model.moves_kernel:
            self._forget()
        if self._model.moves_start:
            self._seen.starts[:] = 0.0
        if self._pooled:
            self._seen.add(played)

    def watch(self, blocks: Sequence[Episodes]) -> None:
        """Count what was watched; see `Sampled`."""
        super().watch(blocks)
        self._seen.add(blocks)

    def seen_pairs(self, blocks: Sequence[Episodes]) -> NDArray[np.bool_]:
        """Return which pairs were ever seen, `[S, A]`."""
        return self._seen.counts.visits > 0.0

    def estimate(
        self, x: FloatArray, policy: FloatArray, blocks: Sequence[Episodes], sampler: Plays
    ) -> Estimate:
        """Evaluate and differentiate the objective in the game that was seen."""
        model, seen = self._model, self._seen
        followed = seen.outcome(model, x, renormalised(policy, self.seen_pairs(blocks)))
        known = seen.outcome(model, x, policy)  # for terms that evaluate the policy alone
        value, direct, score = 0.0, np.zeros(x.shape), np.zeros(policy.shape)
        measured = self._error_bars
        for term in flattened(model.objective):
            counted = scope_of(term) == "steps"
            outcome = followed if counted else known
            upper = term.evaluate(outcome)
            value += upper.value
            direct += seen_direct_part(model, x, upper, outcome)
            used = outcome.solution.policy
            score += centred_score(used, model.temperature, upper.policy, upper.log_policy)
            # How other terms vary with the frequencies is not known.
            measured &= counted or upper.kernel is None
        kernel = followed.solution.mdp.kernel
        rhs = model.gamma * kernel.flow(score)
        adjoint, _ = followed.solution.system.solve(rhs, transpose=True)
        moving = model.moves_kernel or model.moves_start
        signed = score + policy * adjoint[:, None]
        estimate = Estimate(value, direct, signed, kernel if moving else None)
        if not measured:
            return estimate
        objective_se, error = self._errors(x, policy, followed, score, adjoint)
        # What x does to the kernel adds to the hyper-gradient, and to its error.
        return estimate._replace(
            objective_se=objective_se, hyper_gradient_se=None if moving else error
        )

    def _errors(
        self,
        x: FloatArray,
        policy: FloatArray,
        followed: Outcome,
        score: FloatArray,
        adjoint: FloatArray,
    ) -> tuple[float, FloatArray]:
        """Return the standard errors of objective and hyper-gradient."""
        # Iterative solves go one by one.
        draws = DRAWS if followed.solution.system.strategy.takes_columns else DRAWS // 4
        at_once = max(1, min(draws, BUFFER // policy.size))
        values: list[float] = []
        gradients: list[FloatArray] = []
        while len(values) < draws:
            number = min(at_once, draws - len(values))
            changes = Changes(self._seen.counts, self._seen.starts, self._rng, number)
            changed, more = self._changes(x, policy, followed, score, adjoint, changes)
            values += changed.tolist()
            gradients += more
        return float(_spread(np.array(values))), _spread(np.stack(gradients))

    def _changes(
        self,
        x: FloatArray,
        policy: FloatArray,
        followed: Outcome,
        score: FloatArray,
        adjoint: FloatArray,
        changes: Changes,
    ) -> tuple[FloatArray, list[FloatArray]]:
        """Return how objective `[K]` and hyper-gradient (shape of x, K of them) vary."""
        model, number = self._model, changes.starts.shape[1]
        used, (actions, states) = followed.solution.policy, policy.T.shape
        values, slopes = np.zeros(number), np.zeros((policy.size, number))
        visits = np.zeros((states, number))
        for term in flattened(model.objective):
            if scope_of(term) == "steps":
                parts = change_of_return(changes, followed, cast("StepObjective", term))
                values, slopes, visits = values + parts[0], slopes + parts[1], visits + parts[2]
        scores, adjoints = change_of_adjoint(
            changes, followed.solution.system, score, adjoint, slopes, model.temperature
        )
        by_action = scores.reshape(actions, states, number) + policy.T[:, :, None] * adjoints
        gradients = [
            model.reward_vjp(x, by_action[:, :, k].T)
            + model.upper_reward_vjp(x, visits[:, k, None] * used)
            for k in range(number)
        ]
        return values, gradients


def _spread(changes: FloatArray) -> Any:
    """Return the standard deviation of changes `[K, ...]` whose mean is zero."""
    return np.sqrt(np.square(changes).mean(axis=0))
