"""SLAC, a single-loop actor-critic with an attenuating temperature.

S. Zeng, S. Bhatt, S. Ganesh, A. Koppel, "A regularized actor-critic algorithm for bi-level
reinforcement learning" (later versions: "A Hessian-free actor-critic algorithm ..."), AISTATS 2026,
arXiv 2601.16399. Known from its abstracts: a single loop of first-order steps on a penalty
reformulation, with an entropy whose weight attenuates, so that hyper-gradients become unbiased for
the problem without entropy, which is never solved. Rates of k^-1/10 there, and k^-1/3 at a fixed
temperature, are reported by others. Ours is the rest. With the value penalty of
`bilevel_gym.methods.pbrl`, and tau_k of `bilevel_gym.methods.cooling`, each x gets for each of two
policies, the tracking policy pi_hat (of the follower's problem) and pi_y (of f - lambda_k p),

    critic   V <- V + beta (T^pi V - V),   T^pi V = sum_a pi (r_x - tau_k log pi + gamma P V)
    actor    pi <- the mirror step of `bilevel_gym.methods.pbrl`, with r_x + gamma P V as its Q

and the hyper-gradient is df/dx - lambda_k dp/dx at both. What the paper draws from episodes
(states, transitions, the gradient of r_x) is its expectation here, so that nothing is left of its
noise; f and its derivative at a policy are exact. Both policies and critics start from the
follower's answer to the first x, so that one lags as far behind as the other, and lambda times
their difference is free of it up to O(1 / lambda); see `bilevel_gym.methods.pbrl_sl`.

The error of a surrogate is about 1 / (lambda tau weight), which lambda_k = penalty tau_0 / tau_k
keeps as it is. A critic step carries values one transition further: followers who look far ahead
(gamma near one) are tracked slowly, and at a small temperature the same lag is a larger error.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from scipy.special import log_softmax

from ..core.bellman import soft_q
from ..core.checks import check_positive, check_probability
from ..core.mdp import FloatArray, TabularMDP
from ..core.soft import solve_soft_mdp
from ..core.threads import single_threaded
from ..model.responses import TabularResponse
from ..model.tabular import TabularModel
from .cooling import Cooled
from .pbrl import ValuePenalty, at_policy, soft_rewards

__all__ = ["SLAC"]


class SLAC(ValuePenalty):
    """Take one critic step and one policy step for each x, at a temperature that attenuates."""

    remembered: ClassVar[tuple[str, ...]] = (
        "_log_policy",
        "_tracking",
        "_value",
        "_tracking_value",
        "_iteration",
    )

    def __init__(
        self,
        model: TabularModel,
        *,
        penalty: float = 1e3,
        critic_step: float = 1.0,
        attenuation: float = 0.5,
        least_temperature: float | None = None,
        unregularised: bool = True,
        start: str = "initial",
    ) -> None:
        """Bind the method to a model.

        Args:
            model: A tabular model.
            penalty: lambda at the model's own temperature, positive; see `ValuePenalty`.
            critic_step: beta, in (0, 1].
            attenuation: Power of k + 1 by which the temperature falls, not negative; 0 keeps it.
            least_temperature: Where it stays, positive; None takes a hundredth of the first one.
            unregularised: Whether F without entropy is reported beside F, where the objective is a
                return and costs of x.
            start: First states that the penalty counts; see `ValuePenalty`.

        Raises:
            TypeError: If the model is no tabular one.
            ValueError: If an option is out of range.
        """
        super().__init__(model, penalty=penalty, start=start)
        self._cooled = Cooled.of(model, attenuation, least_temperature, unregularised)
        self._model = self._cooled.model
        self._first_penalty = self._penalty
        self._critic_step = check_probability(
            "critic_step", check_positive("critic_step", critic_step)
        )

    def reset(self, rng: np.random.Generator) -> None:
        """Forget policies, critics and the step; the method draws nothing from `rng`."""
        self._log_policy: FloatArray | None = None
        self._tracking: FloatArray | None = None
        self._value: FloatArray | None = None
        self._tracking_value: FloatArray | None = None
        self._iteration = 0

    @single_threaded
    def step(self, upper_params: FloatArray) -> TabularResponse:
        """Return f at the policy of the surrogate after its step, and the surrogate's gradient.

        `policy`, `occupancy`, `soft_value` (its critic), `lower_value` and `residual` are those of
        that policy too; the temperature is that of the step.

        Raises:
            ArithmeticError: If values overflow.
        """
        x = self._model.validate(upper_params)
        temperature = self._cooled.set(self._iteration)
        self._penalty = self._first_penalty * self._cooled.first / temperature
        self._iteration += 1
        mdp = self._model.lower_mdp(x)
        if self._tracking is None or self._log_policy is None:
            found = solve_soft_mdp(mdp)
            self._tracking = self._log_policy = found.log_policy
            self._tracking_value = self._value = found.soft_value
        assert self._value is not None and self._tracking_value is not None
        self._tracking_value = self._criticised(mdp, self._tracking, self._tracking_value)
        self._value = self._criticised(mdp, self._log_policy, self._value)
        before = at_policy(mdp, self._tracking, solver="auto", value=self._tracking_value)
        at = self._point(x, before, self._log_policy, self._value)
        self._log_policy = self._goal(at)
        self._tracking = log_softmax(soft_q(mdp, self._tracking_value) / temperature, axis=1)
        best = at_policy(mdp, self._tracking, solver="auto", value=self._tracking_value)
        at = self._point(x, best, self._log_policy, self._value)
        total = at.evaluation.direct + self._penalty * self._gradient(x, at)
        response = at.evaluation.response(total, iterations=1, converged=None)
        answer: TabularResponse = self._cooled.reported(x, response)
        return answer

    def _criticised(self, mdp: TabularMDP, log_policy: FloatArray, value: FloatArray) -> FloatArray:
        """Return a critic `[S]` after its step towards the soft value of a policy."""
        ahead = (np.exp(log_policy) * mdp.kernel.expect(value)).sum(axis=1)
        target = soft_rewards(mdp, log_policy) + mdp.gamma * ahead
        return value + self._critic_step * (target - value)
