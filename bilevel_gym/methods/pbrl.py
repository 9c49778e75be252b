"""Penalty methods: one surrogate of x and a policy of its own, in place of two levels.

H. Shen, Z. Yang, T. Chen, "Principled penalty-based methods for bilevel reinforcement learning and
RLHF", ICML 2024, arXiv 2402.06886. The paper minimises; in our maximising letters, with pi_y the
soft-max policy of logits y and p >= 0 a penalty that vanishes exactly at the follower's answer,

    L(x, y) = f(x, pi_y) - lambda p(x, y),   F(x) <= max_y L(x, y),

and `hyper_gradient` is the gradient of this surrogate with respect to x at the y at hand,

    dL/dx = df/dx - lambda dp/dx:

no derivative of the follower's answer is taken. Where y maximises L it differs from dF/dx by
O(1 / lambda) (about 1 / (lambda * temperature * weight), see below). Where y does not, the error is
multiplied by lambda. `direct_gradient` is df/dx.

Both penalties are temperature-weighted divergences from the follower's answer pi* = pi*(x):

    p = tau sum_s m(s) KL(pi_y(s) || pi*(s)).

At each x, y climbs L by policy mirror ascent, that is natural gradient steps on the logits: with
f_pi and f_log the derivatives of f with respect to pi and log pi, and T the target of the penalty,
a step leads towards

    argmax_pi sum_a [pi (T + f_pi / (lambda tau m) - log pi) + f_log / (lambda tau m) log pi]

in each state. This is the mirror step of length 1 / tau, which neither a small temperature nor a
large lambda upsets, with terms in log pi taken as they are (their linearisation, f_log / pi, is no
guide where pi is small). For the value penalty and a return from the same first states with the
same discount it is soft policy iteration on the reward r + u / lambda. Where a whole step would
lower L the policy moves a share of the way, halved until L does not fall.

pi* is solved for instead of learnt: an error in it is multiplied by lambda as well, and mirror
ascent of length 1 / tau on the follower's problem alone is the Newton iteration of
`bilevel_gym.core.soft.solve_soft_mdp`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from scipy.special import log_softmax, wrightomega

from ..core.bellman import EPS, soft_q
from ..core.checks import check_at_least, check_choice, check_positive
from ..core.mdp import FloatArray, TabularMDP
from ..core.reprs import MadeFor
from ..core.soft import PolicyAnswer, SoftSolution, solve_soft_mdp
from ..core.state import Remembers
from ..core.threads import single_threaded
from ..model.responses import TabularResponse
from ..model.tabular import TabularModel
from .learners import greedy_solution
from .model_based import Evaluation, check_tabular

__all__ = [
    "BellmanPenalty",
    "PBRLBellman",
    "PBRLValue",
    "PenaltyMethod",
    "Point",
    "ValuePenalty",
    "at_policy",
    "soft_rewards",
]

STARTS = ("initial", "uniform")

# Residual of linear systems relative to their right-hand side.
ACCURACY = 1e-12

# A step is halved so many times before the policy is taken for stationary.
MAX_HALVINGS = 40

# Weights of states are at least this share of the largest where f has terms in log pi.
FLOOR = 1e-12

# Halvings of the interval of a multiplier, and the least logit that is distinguished from minus
# infinity.
BISECTIONS, LEAST_LOGIT = 64, -1e12


def at_policy(
    mdp: TabularMDP, log_policy: FloatArray, *, solver: str, value: FloatArray | None = None
) -> SoftSolution:
    """Return a policy with its soft value V^pi = sum_a pi (r - tau log pi + gamma P V^pi).

    `log_policy` is normalised log pi `[S, A]`, -inf for actions that do not exist. A critic's
    `value` `[S]` takes the place of V^pi. An `ArithmeticError` says that values overflow.
    """
    policy = np.exp(log_policy)
    answer = PolicyAnswer(
        mdp=mdp, policy=policy, solver=solver, log_probabilities=log_policy, accuracy=ACCURACY
    )
    if value is None:
        value, _ = answer.system.solve(soft_rewards(mdp, log_policy))
    solution = replace(
        greedy_solution(mdp, value),
        policy=policy,
        log_probabilities=log_policy,
        solver=solver,
        accuracy=ACCURACY,
    )
    vars(solution)["system"] = answer.system  # with its factors
    return solution


def soft_rewards(mdp: TabularMDP, log_policy: FloatArray) -> FloatArray:
    """Return sum_a pi (r - tau log pi) `[S]` from log pi `[S, A]`."""
    policy = np.exp(log_policy)
    entropy = mdp.temperature * np.where(policy > 0.0, log_policy, 0.0)
    rewards: FloatArray = (policy * (mdp.reward - entropy)).sum(axis=1)
    return rewards


@dataclass(frozen=True, eq=False)
class Point:
    """The surrogate at one x and one policy.

    Attributes:
        solution: The policy, with its value.
        best: The follower's answer to x.
        evaluation: f(x, pi_y) and its derivatives.
        weight: m, how much a divergence from the answer counts in each state `[S]`, not negative.
        surrogate: L(x, y).
        rounding: What rounding may make of it.
    """

    solution: SoftSolution
    best: SoftSolution
    evaluation: Evaluation
    weight: FloatArray
    surrogate: float
    rounding: float


class PenaltyMethod(MadeFor, Remembers, ABC):
    """A surrogate f - lambda p: its value and derivatives at a policy, and where mirror steps lead.

    Subclasses define the penalty, and others how the policies are found.
    """

    exact: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False

    def __init__(self, model: TabularModel, *, penalty: float) -> None:
        """Bind the method to a model.

        Args:
            model: A tabular model.
            penalty: lambda, positive.
        """
        check_tabular(model)
        self._model = model
        self._penalty = check_positive("penalty", penalty)
        self.reset(np.random.default_rng(0))

    @abstractmethod
    def reset(self, rng: np.random.Generator) -> None:
        """Forget the policies; the method draws nothing from `rng`."""

    @abstractmethod
    def step(self, upper_params: FloatArray) -> TabularResponse:
        """Return f at the method's own policy, and the gradient of the surrogate."""

    @abstractmethod
    def _weight(self, x: FloatArray, solution: SoftSolution) -> FloatArray:
        """Return m `[S]`."""

    @abstractmethod
    def _target(self, solution: SoftSolution, best: SoftSolution) -> FloatArray:
        """Return T `[S, A]`, up to a constant in each state; what does not exist is ignored."""

    @abstractmethod
    def _gradient(self, x: FloatArray, at: Point) -> FloatArray:
        """Return -dp/dx, shape of x."""

    def _point(
        self,
        x: FloatArray,
        best: SoftSolution,
        log_policy: FloatArray,
        value: FloatArray | None = None,
    ) -> Point:
        solution = at_policy(best.mdp, log_policy, solver=best.solver, value=value)
        evaluation = Evaluation.of(self._model, x, solution)
        weight = self._weight(x, solution)
        # log pi - log pi*, zero where pi is.
        ratio, tau = np.zeros_like(solution.policy), best.mdp.temperature
        np.subtract(solution.log_policy, best.log_policy, out=ratio, where=solution.policy > 0.0)
        penalty = tau * float(weight @ divergence(solution.policy, best.policy, ratio))
        terms = tau * float(weight @ (solution.policy * np.abs(ratio)).sum(axis=1))
        return Point(
            solution=solution,
            best=best,
            evaluation=evaluation,
            weight=weight,
            surrogate=evaluation.upper.value - self._penalty * penalty,
            rounding=64.0 * EPS * (abs(evaluation.upper.value) + self._penalty * terms),
        )

    def _goal(self, at: Point) -> FloatArray:
        """Return log pi `[S, A]` where a whole mirror step leads."""
        policy, upper, mdp = at.solution.policy, at.evaluation.upper, at.best.mdp
        scale = self._penalty * mdp.temperature * at.weight[:, None]
        goal = self._target(at.solution, at.best)
        if upper.policy is not None:
            gain = upper.policy - (policy * upper.policy).sum(axis=1, keepdims=True)
            # States that count for nothing are never visited: no return asks for anything there.
            goal = goal + np.divide(gain, scale, out=np.zeros_like(gain), where=scale > 0.0)
        if mdp.action_mask is not None:
            goal = np.where(mdp.action_mask, goal, -np.inf)
        if upper.log_policy is None:
            return log_softmax(goal, axis=1)
        return with_log_terms(goal, upper.log_policy / np.maximum(scale, FLOOR * scale.max()))


class ValuePenalty(PenaltyMethod):
    """Penalise what the policy loses of the follower's soft value.

        p(x, y) = V*_x(rho) - V^{pi_y}_x(rho) = tau sum_s d_y(s) KL(pi_y(s) || pi*(s))

    is the performance difference in the soft MDP, both values with the follower's entropy; the
    weights m = d_y = (I - gamma P_{pi_y})^-T rho are the discounted visits. By the envelope theorem
    the policy pi* may be held fixed in dV*/dx, so that

        dL/dx = df/dx + lambda sum_sa (d_y pi_y - d_* pi*) dr/dx
                + lambda gamma sum_sas' (d_y pi_y V^{pi_y}(s') - d_* pi* V*(s')) dP/dx
                + lambda sum_s (V^{pi_y} - V*) d rho/dx.

    The target of the mirror step is Q^{pi_y} / tau with Q^{pi_y} = r + gamma P V^{pi_y}.
    """

    def __init__(
        self,
        model: TabularModel,
        *,
        penalty: float = 1e3,
        start: str = "initial",
    ) -> None:
        """Bind the method to a model.

        Args:
            model: A tabular model.
            penalty: lambda, positive. Times the temperature it should be large against the leader's
                advantages.
            start: rho, "initial" for the game's first states, or "uniform". An objective that
                evaluates states which the follower hardly visits needs the latter: what is not
                visited is not penalised.
        """
        self._start = check_choice("start", start, STARTS)
        super().__init__(model, penalty=penalty)

    def _weight(self, x: FloatArray, solution: SoftSolution) -> FloatArray:
        """Return the discounted visits (I - gamma P_pi)^-T rho, `[S]`, not negative."""
        size = solution.mdp.kernel.num_states
        uniform = self._start == "uniform"
        start = np.full(size, 1.0 / size) if uniform else self._model.start_distribution(x)
        visits, _ = solution.system.solve(start, transpose=True)
        return np.maximum(visits, 0.0)

    def _target(self, solution: SoftSolution, best: SoftSolution) -> FloatArray:
        return soft_q(solution.mdp, solution.soft_value) / solution.mdp.temperature

    def _gradient(self, x: FloatArray, at: Point) -> FloatArray:
        solution, best = at.solution, at.best
        mdp = best.mdp
        taken = at.weight[:, None] * solution.policy
        wanted = self._weight(x, best)[:, None] * best.policy

        def kernel() -> FloatArray:
            of_policy = mdp.kernel.on_transitions(taken, solution.soft_value)
            of_answer = mdp.kernel.on_transitions(wanted, best.soft_value)
            return mdp.gamma * (of_policy - of_answer)

        gradient = self._model.through_model(x, taken - wanted, kernel)
        if self._start == "initial":
            lost = solution.soft_value - best.soft_value
            gradient += self._model.through_start(x, lost)
        return gradient


class BellmanPenalty(PenaltyMethod):
    """Penalise how far the policy is from the follower's in each state alike.

    With g(x, y) = E_s [-sum_a pi_y Q*_x(s, a) + tau sum_a pi_y log pi_y] over uniform states s,
    whose minimum over y is -E_s [V*_x(s)], attained at pi*,

        p(x, y) = g(x, y) - min_y g(x, y) = tau E_s KL(pi_y(s) || pi*(s)).

    Unlike the value penalty it is strongly convex in the policy of every state, visited or not, and
    its gradient holds the sensitivity of the follower's Q*: with c = E_s-weighted (pi_y - pi*),

        -dp/dx = sum_sa c dQ*/dx = sum_sa q dr/dx + gamma sum_sas' q V*(s') dP/dx,
        q = c + pi* z,   (I - gamma P_pi*)^T z = gamma sum_sa P(.|s, a) c(s, a),

    and dL/dx = df/dx - lambda dp/dx. The target of the mirror step is log pi*.
    """

    def __init__(self, model: TabularModel, *, penalty: float = 1e5) -> None:
        """Bind the method to a model.

        Args:
            model: A tabular model.
            penalty: lambda, positive. A state counts for 1 / S of it, however often the leader sees
                the follower there, so that it must be larger than for the value penalty.
        """
        super().__init__(model, penalty=penalty)

    def _weight(self, x: FloatArray, solution: SoftSolution) -> FloatArray:
        size = solution.mdp.kernel.num_states
        return np.full(size, 1.0 / size)

    def _target(self, solution: SoftSolution, best: SoftSolution) -> FloatArray:
        return best.log_policy

    def _gradient(self, x: FloatArray, at: Point) -> FloatArray:
        best = at.best
        kernel, gamma = best.mdp.kernel, best.mdp.gamma
        moved = at.weight[:, None] * (at.solution.policy - best.policy)
        adjoint, _ = best.system.solve(gamma * kernel.flow(moved), transpose=True)
        reward = moved + best.policy * adjoint[:, None]
        return self._model.through_model(
            x, reward, lambda: gamma * kernel.on_transitions(reward, best.soft_value)
        )


class DoubleLoop(PenaltyMethod):
    """Climb f - lambda p in the policy at each x, and report its gradient in x."""

    remembered = ("_log_policy", "_value")

    def __init__(
        self,
        model: TabularModel,
        *,
        policy_steps: int = 10,
        tolerance: float = 1e-10,
        **options: Any,
    ) -> None:
        """Bind the method to a model.

        Args:
            model: A tabular model.
            policy_steps: Steps of mirror ascent for each x (K), at least 1.
            tolerance: Largest change of an action's probability by a step at which the policy
                counts as solved for, positive; no more steps are taken.
            **options: Of the penalty.
        """
        super().__init__(model, **options)
        self._steps = check_at_least("policy_steps", policy_steps, 1)
        self._tolerance = check_positive("tolerance", tolerance)

    def reset(self, rng: np.random.Generator) -> None:
        """Forget the policy: it starts at the follower's answer to the first x.

        The method draws nothing from `rng`.
        """
        self._log_policy: FloatArray | None = None
        self._value: FloatArray | None = None

    @single_threaded
    def step(self, upper_params: FloatArray) -> TabularResponse:
        """Return f at the method's own policy, and the gradient of the surrogate.

        `policy`, `occupancy`, `soft_value`, `lower_value` and `residual` are those of that policy
        too, `iterations` its steps, and `converged` says whether it solves the surrogate.

        Raises:
            ArithmeticError: If values overflow.
        """
        x = self._model.validate(upper_params)
        best = solve_soft_mdp(self._model.lower_mdp(x), initial_value=self._value)
        self._value = best.soft_value
        start = best.log_policy if self._log_policy is None else self._log_policy
        at, steps, converged = self._climb(x, best, start)
        self._log_policy = at.solution.log_policy
        total = at.evaluation.direct + self._penalty * self._gradient(x, at)
        return at.evaluation.response(total, iterations=steps, converged=converged)

    def _climb(
        self, x: FloatArray, best: SoftSolution, log_policy: FloatArray
    ) -> tuple[Point, int, bool]:
        """Take mirror steps; return where they end, how many were taken, and whether at the top."""
        at, share = self._point(x, best, log_policy), 1.0
        for step in range(self._steps):
            goal = self._goal(at)
            for _ in range(MAX_HALVINGS):
                moved = mixed(at.solution.log_policy, goal, share)
                change = float(np.abs(np.exp(moved) - at.solution.policy).max())
                candidate = self._point(x, best, moved)
                if candidate.surrogate >= at.surrogate - at.rounding:
                    break
                share *= 0.5
            else:
                return at, step, change <= self._tolerance
            at = candidate
            if change <= self._tolerance * share:
                return at, step + 1, True
            share = min(1.0, 2.0 * share)
        return at, self._steps, False


class PBRLValue(DoubleLoop, ValuePenalty):
    """Climb the surrogate of the value penalty at each x."""


class PBRLBellman(DoubleLoop, BellmanPenalty):
    """Climb the surrogate of the Bellman penalty at each x."""


def divergence(policy: FloatArray, reference: FloatArray, ratio: FloatArray) -> FloatArray:
    """Return KL(pi || pi*) `[S]`, terms not negative; `ratio` is log pi - log pi* `[S, A]`."""
    # Close to pi* the terms are of second order, and the plain sum would be all rounding.
    near = np.abs(ratio) < 0.5
    small = np.where(near, ratio, 0.0)
    terms = np.where(
        near & (policy > 0.0),
        policy * (small + np.expm1(-small)),
        policy * ratio - policy + reference,
    )
    return np.maximum(terms, 0.0).sum(axis=1)


def with_log_terms(logits: FloatArray, shares: FloatArray) -> FloatArray:
    """Return log of argmax_pi sum_a [pi (logits - log pi) + shares log pi] in each state.

    Its conditions log pi - shares / pi = logits - nu are solved by Wright's omega function for
    pi, and by bisection for nu, which lies between 0 and the sum of the shares where the logits are
    normalised. Logits, `[S, A]`, are -inf and shares, `[S, A]` and not negative, are zero for
    actions that do not exist.
    """
    logits = log_softmax(logits, axis=1)
    some = shares > 0.0
    if (shares[~some] < 0.0).any():
        raise ValueError(
            "this method needs derivatives with respect to log pi that are not negative, got "
            f"{float(shares.min())} (over penalty, temperature and weight)"
        )
    known = np.where(some, np.maximum(logits, LEAST_LOGIT), 0.0)
    offset = np.log(shares, out=np.zeros_like(shares), where=some) - known

    def candidate(level: FloatArray) -> FloatArray:
        """Return log pi for nu = level `[S]`."""
        column = level[:, None]
        omega = np.where(some, wrightomega(offset + column), 0.0)
        return np.where(some, known, logits) - column + omega

    low, high = np.zeros(len(logits)), shares.sum(axis=1)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        too_much = np.exp(np.minimum(candidate(middle), 1.0)).sum(axis=1) > 1.0
        low, high = np.where(too_much, middle, low), np.where(too_much, high, middle)
    return log_softmax(candidate(0.5 * (low + high)), axis=1)


def mixed(log_policy: FloatArray, goal: FloatArray, share: float) -> FloatArray:
    """Return log of the policy (1 - share) exp(log_policy) + share exp(goal), `[S, A]`."""
    if share == 1.0:
        return goal
    return log_softmax(np.logaddexp(np.log1p(-share) + log_policy, np.log(share) + goal), axis=1)
