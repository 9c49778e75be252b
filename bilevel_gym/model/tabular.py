"""Bilevel problems with finitely many states and actions, as mathematics.

A `TabularModel` holds what makes such a problem: kernel, rewards and their vector-Jacobian
products, start distribution, objective, and the box of the leader's parameters x. It knows no
environment. `respond` solves the follower's problem and differentiates the leader's objective
through the solution (see `bilevel_gym.core.adjoint`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar, NotRequired, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike

from ..core.adjoint import response_gradient
from ..core.batch import solve_batch
from ..core.checks import (
    check_discount,
    check_entries,
    check_not_negative,
    check_options,
    check_real,
    checked_mask,
    finite_array,
    optional,
    without_absent,
)
from ..core.linear import Solutions
from ..core.mdp import FloatArray, Kernel, TabularMDP
from ..core.soft import PolicyAnswer, SoftSolution, solve_all
from ..core.threads import single_threaded
from ..episodes.sampler import Sampler
from .base import CommonOptions, check_finite, check_warm_start, single_precision_bounds
from .dynamics import Dynamics, of_shape
from .jacobians import RewardJacobian
from .objectives import (
    DiscountedReturn,
    Objective,
    Outcome,
    QuadraticCost,
    Sum,
    UpperValue,
    check_objective,
)
from .responses import ExactResponse

__all__ = ["ArrayModel", "TabularModel"]


class ArrayOptions(TypedDict):
    """Options of a model of arrays; see `ArrayModel`."""

    upper_reward: ArrayLike
    initial_distribution: ArrayLike
    gamma: NotRequired[float]
    temperature: NotRequired[float]
    entropy: NotRequired[str]
    features: NotRequired[Any]
    upper_low: NotRequired[float]
    upper_high: NotRequired[float]
    initial_upper_params: NotRequired[ArrayLike | None]
    upper_gamma: NotRequired[float | None]
    upper_cost: NotRequired[float]
    objective: NotRequired[Objective | None]
    action_mask: NotRequired[ArrayLike | None]
    name: NotRequired[str | None]


class TabularModel(Dynamics):
    """A bilevel problem with S states and A actions.

    A subclass defines `reward`, `reward_vjp` and `upper_reward`. Where x moves the leader's reward,
    the kernel or the distribution of the first state, it also overrides `upper_reward_vjp`,
    `kernel` with `kernel_vjp`, or `start_distribution` with `start_distribution_vjp`. In place of
    the latter two products, or beside them, it may define `log_kernel_vjp` and `log_start_vjp`:
    each is derived from the other, for methods with a model and for those that see only episodes.

    The arguments of the constructor are attributes, `kernel` as `initial_kernel`.

    Attributes:
        costs: Other objectives by name, which the leader may constrain; see
            `bilevel_gym.optimizers.CostConstraint`.
        moves_upper_reward: Whether x moves the leader's reward: whether `upper_reward_vjp` is
            overridden.
    """

    solve_options: ClassVar[tuple[str, ...]] = ("solver", "tolerance", "max_iterations")
    costs: Mapping[str, Objective] = {}

    def __init__(
        self,
        *,
        kernel: Kernel,
        initial_distribution: ArrayLike,
        objective: Objective,
        action_mask: ArrayLike | None = None,
        **common: Unpack[CommonOptions],
    ) -> None:
        """Set up the problem.

        Args:
            kernel: Transition kernel (at the initial x, where x moves it).
            initial_distribution: Distribution of the first state `[S]` (likewise).
            objective: How the leader evaluates a policy.
            action_mask: Which actions exist, `[S, A]`; None when all do.
            **common: See `BilevelModel`: low, high, initial_upper_params, gamma, temperature,
                entropy, name.
        """
        super().__init__(kernel=kernel, initial_distribution=initial_distribution, **common)
        self.objective = check_objective("objective", objective)
        shape = (self.num_states, self.num_actions)
        self.action_mask = None if action_mask is None else checked_mask(action_mask, shape)
        if self.action_mask is not None:
            self.action_mask.flags.writeable = False
        self.moves_upper_reward = type(self).upper_reward_vjp is not TabularModel.upper_reward_vjp

    @staticmethod
    def from_arrays(
        transition: ArrayLike | Kernel, reward: ArrayLike, **options: Unpack[ArrayOptions]
    ) -> ArrayModel:
        """Return a model of arrays; see `ArrayModel` for the arguments.

        Raises:
            TypeError: If an argument is missing, or there is no such argument.
            ValueError: If a shape or a range is violated.
        """
        check_options("a model of arrays", ArrayModel, options)
        for name in ("upper_reward", "initial_distribution"):
            if name not in options:
                given = ", ".join(options) or "none"
                raise TypeError(f"a model of arrays needs `{name}`, got {given}; see `ArrayModel`")
        return ArrayModel(transition, reward, **options)

    # What a problem is made of -------------------------------------------------------------

    def reward(self, upper_params: FloatArray) -> FloatArray:
        """Return the follower's reward r_x `[S, A]`."""
        raise TypeError(f"{self.name} must define `reward(upper_params)`, r_x [S, A]")

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_sa cotangent(s, a) dr_x(s, a)/dx, shape of x; `cotangent` is `[S, A]`."""
        raise TypeError(
            f"{self.name} must define `reward_vjp(upper_params, cotangent)`, the sum of "
            "cotangent [S, A] * dr_x/dx, shape of x"
        )

    def upper_reward(self, upper_params: FloatArray) -> FloatArray:
        """Return the leader's reward u_x `[S, A]`, without terms in x alone."""
        raise TypeError(f"{self.name} must define `upper_reward(upper_params)`, u_x [S, A]")

    def upper_reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_sa cotangent(s, a) du_x(s, a)/dx, shape of x; zero unless overridden."""
        return np.zeros(self.low.shape)

    def lower_reward(self, upper_params: FloatArray) -> FloatArray:
        """Return the follower's reward, less temperature log A(s) if its entropy is relative."""
        reward = self.reward(upper_params)
        if self.entropy == "plain":
            return reward
        mask = self.action_mask
        count = self.num_actions if mask is None else mask.sum(axis=1, keepdims=True)
        return reward - self.temperature * np.log(count)

    # The problem at an x -------------------------------------------------------------------

    def lower_mdp(self, upper_params: FloatArray) -> TabularMDP:
        """Return the follower's problem at x."""
        return self.mdp_with(self.kernel(upper_params), upper_params)

    def mdp_with(self, kernel: Kernel, upper_params: FloatArray) -> TabularMDP:
        """Return the follower's problem at x with another kernel, such as frequencies seen."""
        return TabularMDP(
            kernel=kernel,
            reward=self.lower_reward(upper_params),
            gamma=self.gamma,
            temperature=self.temperature,
            action_mask=self.action_mask,
        )

    def checked_upper_reward(self, upper_params: FloatArray) -> FloatArray:
        """Return the leader's reward at x `[S, A]`.

        Raises:
            ValueError: If `upper_reward` returns another shape or an entry that is not finite.
        """
        reward = self.upper_reward(upper_params)
        shape = (self.num_states, self.num_actions)
        if np.shape(reward) != shape:
            raise ValueError(
                f"`upper_reward` must return shape [S, A] = {shape}, got {np.shape(reward)}"
            )
        if not np.isfinite(reward).all():
            state, action = (int(i) for i in np.argwhere(~np.isfinite(reward))[0])
            value = reward[state, action]
            raise ValueError(
                f"`upper_reward` must be finite, got {value} in state {state}, {action=}"
            )
        return reward

    def sampler(self, upper_params: FloatArray, policy: ArrayLike) -> Sampler:
        """Return what plays episodes of a policy under x, for methods that see no model.

        Args:
            upper_params: x, validated.
            policy: Action probabilities `[S, A]`, zero for actions that do not exist.

        Raises:
            ValueError: If the policy is no distribution in some state.
        """
        return Sampler(
            self.kernel(upper_params),
            policy,
            self.checked_start(upper_params),
            self.checked_upper_reward(upper_params),
        )

    # Answers -------------------------------------------------------------------------------

    @single_threaded
    def respond(
        self,
        upper_params: FloatArray,
        *,
        warm_start: ExactResponse | None = None,
        objective: Objective | None = None,
        solver: str = "auto",
        tolerance: float | None = None,
        max_iterations: int = 200,
    ) -> ExactResponse:
        """Return the exact answer to a validated x; see `BilevelModel.respond`.

        Args:
            upper_params: x, as `validate` returns it.
            warm_start: An earlier response, at a nearby x. One at this very x leaves of the solve
                but a check of it.
            objective: What to evaluate in place of the model's objective.
            solver: How linear systems are solved, a key of `bilevel_gym.core.linear.SOLVERS`, or
                "auto".
            tolerance: Sup norm of the follower's Bellman residual to reach; None takes
                `bilevel_gym.core.soft.default_tolerance`.
            max_iterations: Newton steps allowed.

        Raises:
            ValueError: If an option is out of range, or the model returns arrays of a wrong shape.
            ArithmeticError: If values overflow.
        """
        start, guesses = self._warmth(warm_start)
        mdp = self.lower_mdp(upper_params)
        found = solve_all([mdp], [start], solver, tolerance, max_iterations, [guesses])
        if objective is not None:
            check_objective("objective", objective)
        return self._exact_response(upper_params, found[0], objective or self.objective)

    @single_threaded
    def respond_batch(
        self,
        upper_params: Sequence[FloatArray],
        *,
        warm_starts: Sequence[ExactResponse | None] | None = None,
        solver: str = "auto",
        tolerance: float | None = None,
        max_iterations: int = 200,
    ) -> list[ExactResponse]:
        """Return what `respond` returns, for many x; see `BilevelModel.respond_batch`.

        The follower's problems are solved together (see `bilevel_gym.core.batch`), unless the
        kernels of different x have different patterns; "auto" then prefers "compiled".
        """
        starts = [None] * len(upper_params) if warm_starts is None else warm_starts
        check_entries("warm_starts", starts, len(upper_params), "x")
        warmth = [self._warmth(start) for start in starts]
        _ = self.initial_kernel.pattern  # once computed, kernels derived from this one share it
        mdps = [self.lower_mdp(x) for x in upper_params]

        def solved(batch: slice) -> list[SoftSolution]:
            return solve_batch(
                mdps[batch],
                initial_values=[value for value, _ in warmth[batch]],
                solver=solver,
                tolerance=tolerance,
                max_iterations=max_iterations,
                guesses=[guesses for _, guesses in warmth[batch]],
            )

        if len({id(mdp.kernel.pattern) for mdp in mdps}) <= 1:
            solutions = solved(slice(None))
        else:
            solutions = [found for b in range(len(mdps)) for found in solved(slice(b, b + 1))]
        return [
            self._exact_response(x, solution, self.objective)
            for x, solution in zip(upper_params, solutions, strict=True)
        ]

    def _warmth(
        self, warm_start: ExactResponse | None
    ) -> tuple[FloatArray | None, Solutions | None]:
        """Return what an earlier response is good for: a soft value, and guesses of solutions."""
        check_warm_start(warm_start, ExactResponse, "soft_value", self.num_states)
        if warm_start is None:
            return None, None
        return warm_start.soft_value, warm_start.linear_solutions

    def outcome(self, upper_params: FloatArray, answer: PolicyAnswer) -> Outcome:
        """Return what the objective evaluates: x, and an answer to it, the follower's or not.

        Raises:
            ValueError: If the model returns arrays of a wrong shape.
        """
        reward = self.checked_upper_reward(upper_params)
        return Outcome(answer, upper_params, reward, self.checked_start(upper_params))

    def direct_part(self, upper_params: FloatArray, upper: UpperValue) -> FloatArray:
        """Return the derivative of f(x, pi) with respect to x at a fixed policy, shape of x.

        Args:
            upper_params: x.
            upper: f(x, pi) and its derivatives.

        Raises:
            ValueError: If a vector-Jacobian product of the model has a wrong shape.
        """
        parts = [] if upper.params is None else [upper.params]
        x = upper_params
        if upper.upper_reward is not None and self.moves_upper_reward:
            product = self.upper_reward_vjp(x, upper.upper_reward)
            parts.append(of_shape(x, "upper_reward_vjp", product))
        if upper.lower_reward is not None:
            parts.append(self.through_reward(x, upper.lower_reward))
        if upper.kernel is not None and self.moves_kernel:
            parts.append(self.through_kernel(x, upper.kernel))
        if upper.initial_distribution is not None and self.moves_start:
            parts.append(self.through_start(x, upper.initial_distribution))
        return sum(parts, start=np.zeros(x.shape))

    def through_model(
        self, upper_params: FloatArray, reward: FloatArray, kernel: Callable[[], FloatArray]
    ) -> FloatArray:
        """Return the derivative, shape of x, of what depends on x through r and P alone.

        Args:
            upper_params: x.
            reward: Derivative with respect to the follower's reward `[S, A]`.
            kernel: Gives the derivative with respect to the stored transitions `[K]`; called only
                where x moves them.

        Raises:
            ValueError: If a vector-Jacobian product of the model has a wrong shape.
        """
        gradient = self.through_reward(upper_params, reward)
        if self.moves_kernel:
            gradient = gradient + self.through_kernel(upper_params, kernel())
        return gradient

    def through_reward(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return `reward_vjp`, after checking that it has the shape of x."""
        return of_shape(upper_params, "reward_vjp", self.reward_vjp(upper_params, cotangent))

    def _exact_response(
        self, x: FloatArray, solution: SoftSolution, objective: Objective
    ) -> ExactResponse:
        """Return the response that a solve of the follower's problem at x amounts to."""
        outcome = replace(self.outcome(x, solution), by_kernel=self.moves_kernel)
        upper = objective.evaluate(outcome)
        direct = self.direct_part(x, upper)
        error: Callable[[], float]
        total, adjoint_residual, error = direct.copy(), None, float
        if upper.responds:
            answer = response_gradient(
                solution,
                upper.policy,
                log_policy_gradient=upper.log_policy,
                policy_gradient_error=upper.policy_error,
            )
            adjoint_residual, error = answer.residual, partial(attrgetter("error_bound"), answer)
            total += self.through_model(x, answer.reward, lambda: answer.kernel)
        check_finite(upper.value, total)
        response = ExactResponse(
            upper_params=x,
            objective=upper.value,
            hyper_gradient=total,
            direct_gradient=direct,
            policy=solution.policy,
            soft_value=solution.soft_value,
            occupancy=(1.0 - self.gamma) * outcome.occupancy(self.gamma),
            lower_value=float(outcome.initial_distribution @ solution.soft_value),
            residual=solution.residual,
            iterations=solution.iterations,
            converged=solution.converged,
            solver=solution.solver,
            value_error_bound=solution.value_error_bound,
            adjoint_residual=adjoint_residual,
            gradient_error=error,
            linear_solutions=dict(solution.solutions),
        )
        solution.release()
        return response


class ArrayModel(TabularModel):
    """A model given by arrays, with a reward that is linear in x.

    x in R^D within `upper_low`..`upper_high` adds `features @ x` to the follower's reward. The
    leader maximises its discounted return under `upper_reward`, minus `upper_cost` * ||x||^2.
    """

    def __init__(
        self,
        transition: ArrayLike | Kernel,
        reward: ArrayLike,
        *,
        upper_reward: ArrayLike,
        initial_distribution: ArrayLike,
        gamma: float = 0.95,
        temperature: float = 0.1,
        entropy: str = "plain",
        features: Any = None,
        upper_low: float = -1.0,
        upper_high: float = 1.0,
        initial_upper_params: ArrayLike | None = None,
        upper_gamma: float | None = None,
        upper_cost: float = 0.0,
        objective: Objective | None = None,
        action_mask: ArrayLike | None = None,
        name: str | None = None,
    ) -> None:
        """Build the model.

        Args:
            transition: What `Kernel.of` takes; rows may sum to less than one (the missing mass ends
                the episode).
            reward: The follower's reward at x = 0, `[S, A]`; -inf for actions that do not exist.
            upper_reward: The leader's reward `[S, A]`.
            initial_distribution: Distribution of the first state `[S]`.
            gamma: See `BilevelModel`.
            temperature: See `BilevelModel`.
            entropy: See `BilevelModel`.
            features: d reward / dx, `[S, A, D]`; or a SciPy sparse matrix or `LinearOperator`
                `[A*S, D]` whose row `a * S + s` belongs to (s, a); None shapes each state (D = S).
            upper_low: Lower bound of every entry of x.
            upper_high: Upper bound of every entry of x.
            initial_upper_params: x at the start `[D]`; None takes the point of the box nearest 0.
            upper_gamma: The leader's discount, in [0, 1); None takes `gamma`.
            upper_cost: Weight of ||x||^2 in the leader's objective, not negative.
            objective: Another objective, in which `upper_gamma` and `upper_cost` have no part.
            action_mask: Which actions exist, `[S, A]`; None when all do.
            name: What messages call the problem; None takes the name of the class.
        """
        kernel = Kernel.of(transition)
        shape = (kernel.num_states, kernel.num_actions)
        self._reward = finite_array("reward", without_absent(reward, action_mask), shape, "[S, A]")
        self._upper_reward = finite_array("upper_reward", upper_reward, shape, "[S, A]")
        self._upper_reward.flags.writeable = False  # `upper_reward` hands it out
        upper_low = check_real("upper_low", upper_low)
        upper_high = check_real("upper_high", upper_high)
        if not upper_low < upper_high:
            raise ValueError(
                f"`upper_low` must be below `upper_high`, got {upper_low} and {upper_high}"
            )
        self._jacobian = None if features is None else RewardJacobian(features, *shape)
        size = shape[0] if self._jacobian is None else self._jacobian.num_params
        upper_gamma = optional(check_discount, "upper_gamma", upper_gamma)
        check_not_negative("upper_cost", upper_cost)
        if objective is None:
            objective = Sum((DiscountedReturn(upper_gamma), QuadraticCost(upper_cost)))
        if initial_upper_params is None:
            initial_upper_params = np.clip(np.zeros(size), upper_low, upper_high)
        low, high = single_precision_bounds(upper_low, upper_high, (size,))
        super().__init__(
            kernel=kernel,
            initial_distribution=initial_distribution,
            objective=objective,
            low=low,
            high=high,
            initial_upper_params=initial_upper_params,
            gamma=gamma,
            temperature=temperature,
            entropy=entropy,
            action_mask=action_mask,
            name=name,
        )

    def reward(self, upper_params: FloatArray) -> FloatArray:
        """Return the follower's reward r_x `[S, A]`."""
        if self._jacobian is None:
            return self._reward + upper_params[:, None]
        return self._reward + self._jacobian.product(upper_params)

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_sa cotangent(s, a) dr_x(s, a)/dx `[D]`."""
        if self._jacobian is None:
            return cotangent.sum(axis=1)
        return self._jacobian.vjp(cotangent)

    def upper_reward(self, upper_params: FloatArray) -> FloatArray:
        """Return the leader's reward `[S, A]`."""
        return self._upper_reward
