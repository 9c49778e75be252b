"""Bilevel problems whose follower is a crowd: what each wants depends on where all of them are.

A `MeanFieldModel` has one follower's problem, with reward r_x(s, a; z) and kernel P_x(s'|s, a; z)
that depend on the crowd z `[K]`. Each state and action belongs to one of K groups, such as the road
that is taken, or to none, and

    z_k = (1 - gamma) sum_{(s, a) in group k} m(s, a)      (no factor where gamma = 1)

is the discounted share of followers there, m being the masses of `bilevel_gym.core.mean_field`.
Several kinds of followers are one problem, the kind being part of the state. The answer to x is a
regularised mean-field equilibrium: a policy that is soft-optimal for the crowd that it makes,

    pi = softmax(Q_x(z) / tau),   z = Phi_x(z),

and the leader gets F(x) = f(x, z, pi). With J = dPhi/dz, and weights of z, r and P that f has by
itself and through pi, the hyper-gradient takes one adjoint solve with the joint fixed point:

    (I - J)^T lambda = df/dz + (dr/dz)^T df/dr + (dP/dz)^T df/dP
    dF/dx = df/dx + (dr/dx)^T (df/dr + M_r^T lambda) + (dP/dx)^T (df/dP + M_P^T lambda),

where M_r, M_P are the derivatives of Phi by r and P. `direct_gradient` is the derivative at a fixed
policy of all followers, and hence at a fixed crowd (where x does not move the kernel).

Monotone games, where followers do worse where there are more of them, have one equilibrium (Lasry
and Lions, 2007). Others may have several: `equilibria` looks for them from several starts, and
`respond` takes the one that its start leads to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Unpack

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array

from ..core.checks import (
    check_at_least,
    check_positive,
    checked_distribution,
    checked_mask,
    optional,
    real_numbers,
    received,
)
from ..core.ending import EndingMDP, solve_ending_mdp, uniform_sum
from ..core.mdp import FloatArray, Kernel
from ..core.mean_field import FixedPoint, Followers, crowd_adjoint, solve_fixed_point
from ..core.threads import single_threaded
from ..episodes.crowds import sampled_masses
from .base import BilevelModel, CommonOptions, check_finite, check_warm_start
from .dynamics import checked_groups, of_shape, slopes_of_shape
from .objectives import Objective, Outcome, check_objective
from .responses import CrowdResponse, ExactCrowdResponse

__all__ = ["MeanFieldModel"]

# Sup norm of Phi(z) - z, relative to that of Phi(z).
TOLERANCE = 1e-10

# Steps after which followers are warmed, and factors of the temperature on the way down again.
PATIENCE = 50
WARMTH = (243.0, 81.0, 27.0, 9.0, 3.0)

# Equilibria that are closer than this, relative to the largest entry, are one.
APART = 1e-6


class MeanFieldModel(BilevelModel):
    """A bilevel problem with many followers, S states and A actions.

    A subclass defines `reward`, `reward_vjp`, `reward_by_crowd` and `upper_reward`; where x or the
    crowd moves the leader's reward, `upper_reward_vjp` or `upper_reward_by_crowd`; where they move
    the kernel, `kernel` with `kernel_vjp` or `kernel_by_crowd`.

    The arguments of the constructor are attributes, `kernel` as `initial_kernel`. gamma may be 1
    where every episode ends, whatever a follower does.

    Attributes:
        monotone: Whether followers do no better where there are more of them, for all x: sum_sa
            (r(z) - r(z')) (m - m') <= 0 for any two masses. The equilibrium is unique then.
        num_states: S.
        num_actions: A.
        num_groups: K.
    """

    solve_options: ClassVar[tuple[str, ...]] = ("tolerance", "max_iterations")
    undiscounted: ClassVar[bool] = True
    monotone: bool = False

    def __init__(
        self,
        *,
        kernel: Kernel,
        initial_distribution: ArrayLike,
        objective: Objective,
        groups: ArrayLike,
        num_groups: int | None = None,
        action_mask: ArrayLike | None = None,
        **common: Unpack[CommonOptions],
    ) -> None:
        """Set up the problem.

        Args:
            kernel: Transition kernel (at the initial x and no crowd, where these move it).
            initial_distribution: Distribution of the first state `[S]`.
            objective: How the leader evaluates a policy.
            groups: Group of each state and action in 0..K-1, int `[S, A]`; -1 for none.
            num_groups: K; None for the least that `groups` needs.
            action_mask: Which actions exist, `[S, A]`; None when all do.
            **common: See `BilevelModel`: low, high, initial_upper_params, gamma, temperature,
                entropy, name.
        """
        super().__init__(**common)
        if not isinstance(kernel, Kernel):
            raise TypeError(f"`kernel` must be a Kernel, got {received(kernel)}")
        self.initial_kernel = kernel
        self.num_states, self.num_actions = kernel.num_states, kernel.num_actions
        self.initial_distribution = checked_distribution(
            "initial_distribution", initial_distribution, self.num_states
        )
        self.initial_distribution.flags.writeable = False
        self.objective = check_objective("objective", objective)
        shape = (self.num_states, self.num_actions)
        self.action_mask = None if action_mask is None else checked_mask(action_mask, shape)
        if self.action_mask is not None:
            self.action_mask.flags.writeable = False
        self.groups = checked_groups(groups, shape)
        least = int(self.groups.max()) + 1
        self.num_groups = optional(check_at_least, "num_groups", num_groups, least) or least
        self._weight = 1.0 if self.gamma == 1.0 else 1.0 - self.gamma
        # Raises an error where there is no discount and no end.
        uniform_sum(kernel, self.action_mask, self.gamma, np.ones(self.num_states))
        state, action = np.nonzero(self.groups >= 0)
        row, column = action * self.num_states + state, self.groups[state, action]
        size = (self.num_states * self.num_actions, self.num_groups)
        self._members = coo_array((np.ones(row.size), (row, column)), shape=size).tocsr()
        self._gather = self._members.T.tocsr()

    # What a problem is made of -------------------------------------------------------------

    def reward(self, upper_params: FloatArray, crowd: FloatArray) -> FloatArray:
        """Return a follower's reward r_x(s, a; z) `[S, A]` in a crowd `[K]`."""
        raise TypeError(f"{self.name} must define `reward(upper_params, crowd)`, [S, A]")

    def reward_vjp(
        self, upper_params: FloatArray, crowd: FloatArray, cotangent: FloatArray
    ) -> FloatArray:
        """Return sum_sa cotangent(s, a) dr_x(s, a; z)/dx, shape of x; `cotangent` is `[S, A]`."""
        raise TypeError(f"{self.name} must define `reward_vjp(upper_params, crowd, cotangent)`")

    def reward_by_crowd(self, upper_params: FloatArray, crowd: FloatArray) -> Any:
        """Return dr_x/dz as a SciPy sparse matrix `[A*S, K]`; row `a * S + s` is that of (s, a)."""
        raise TypeError(f"{self.name} must define `reward_by_crowd(upper_params, crowd)`")

    def upper_reward(self, upper_params: FloatArray, crowd: FloatArray) -> FloatArray:
        """Return the leader's reward u_x(s, a; z) `[S, A]`, without terms in x alone."""
        raise TypeError(f"{self.name} must define `upper_reward(upper_params, crowd)`, [S, A]")

    def upper_reward_vjp(
        self, upper_params: FloatArray, crowd: FloatArray, cotangent: FloatArray
    ) -> FloatArray:
        """Return sum_sa cotangent(s, a) du_x(s, a; z)/dx, shape of x; zero unless overridden."""
        return np.zeros(self.low.shape)

    def upper_reward_by_crowd(self, upper_params: FloatArray, crowd: FloatArray) -> Any:
        """Return du_x/dz as a sparse matrix `[A*S, K]`; None for zero."""
        return None

    def kernel(self, upper_params: FloatArray, crowd: FloatArray) -> Kernel:
        """Return the kernel in a crowd, on the pattern of the first one, which it is by default."""
        return self.initial_kernel

    def kernel_vjp(
        self, upper_params: FloatArray, crowd: FloatArray, cotangent: FloatArray
    ) -> FloatArray:
        """Return sum_k cotangent(k) dP(k)/dx, shape of x; zero unless overridden.

        The cotangent is one of stored transitions, in the order of `kernel.triplets`.
        """
        return np.zeros(self.low.shape)

    def kernel_by_crowd(self, upper_params: FloatArray, crowd: FloatArray) -> Any:
        """Return dP/dz as a sparse matrix, a row for each stored transition; None for zero."""
        return None

    # The problem in a crowd ------------------------------------------------------------------

    def member_mdp(self, upper_params: FloatArray, crowd: FloatArray) -> EndingMDP:
        """Return the problem of one follower under x, who takes the crowd `[K]` for granted."""
        reward = self.reward(upper_params, crowd)
        if self.entropy == "relative":
            mask = self.action_mask
            count = self.num_actions if mask is None else mask.sum(axis=1, keepdims=True)
            reward = reward - self.temperature * np.log(count)
        return EndingMDP(
            kernel=self.kernel(upper_params, crowd),
            reward=reward,
            gamma=self.gamma,
            temperature=self.temperature,
            action_mask=self.action_mask,
        )

    def checked_upper_reward(self, upper_params: FloatArray, crowd: FloatArray) -> FloatArray:
        """Return the leader's reward `[S, A]`, after checking its shape."""
        reward, shape = self.upper_reward(upper_params, crowd), self.groups.shape
        if np.shape(reward) != shape:
            raise ValueError(
                f"`upper_reward` must return shape [S, A] = {shape}, got {np.shape(reward)}"
            )
        return reward

    def _upper_by_crowd(self, x: FloatArray, crowd: FloatArray) -> Any:
        """Return du/dz `[A*S, K]` after checking it, None for zero."""
        slopes = self.upper_reward_by_crowd(x, crowd)
        return optional(slopes_of_shape, "upper_reward_by_crowd", slopes, self._members.shape)

    def crowd_of(self, mass: FloatArray) -> FloatArray:
        """Return the crowd `[K]` that masses `[S, A]` make."""
        return self._gathered(mass.T)

    def _gathered(self, mass: FloatArray) -> FloatArray:
        """Return the crowd `[K]` that action-major masses `[A, S]` make."""
        crowd: FloatArray = self._weight * (self._gather @ mass.ravel())
        return crowd

    # Answers -------------------------------------------------------------------------------

    @single_threaded
    def respond(
        self,
        upper_params: FloatArray,
        *,
        warm_start: ExactCrowdResponse | None = None,
        crowd: ArrayLike | None = None,
        tolerance: float | None = None,
        max_iterations: int = 200,
    ) -> ExactCrowdResponse:
        """Return the equilibrium at a validated x, with the hyper-gradient; see `BilevelModel`.

        Args:
            upper_params: x, as `validate` returns it.
            warm_start: An earlier response, at a nearby x.
            crowd: The crowd to start from `[K]`, in place of the one of `warm_start`; the first one
                is empty.
            tolerance: Sup norm of Phi(z) - z to reach, relative to the largest entry of z; None
                takes 1e-10, and goes beyond it.
            max_iterations: Steps of the fixed point allowed. Where 50 do not suffice, so many are
                taken at each of some higher temperatures, on the way down from them.

        Raises:
            ValueError: If an option is out of range, or the model returns arrays of a wrong shape.
            ArithmeticError: If a follower's value is infinite, or values overflow.
        """
        check_warm_start(warm_start, ExactCrowdResponse, "soft_value", self.num_states)
        optional(check_positive, "tolerance", tolerance)
        check_at_least("max_iterations", max_iterations, 0)
        value = None
        start = np.zeros(self.num_groups)
        if warm_start is not None:
            start, value = warm_start.crowd, warm_start.soft_value
        if crowd is not None:
            start = self._checked_crowd(crowd)
        wanted = TOLERANCE if tolerance is None else tolerance
        first = min(max_iterations, PATIENCE)
        found = self._fixed_point(upper_params, start, value, wanted, first)
        if not found.converged and max_iterations > first:
            found = self._cooled_down(upper_params, start, wanted, max_iterations)
        return self._response(upper_params, found)

    def _fixed_point(
        self,
        x: FloatArray,
        crowd: FloatArray,
        value: FloatArray | None,
        tolerance: float,
        most: int,
    ) -> FixedPoint[_Loaded]:
        """Return the fixed point that a crowd leads to; a value `[S]` is where solves start."""

        def load(at: FloatArray, before: _Loaded | None) -> _Loaded:
            known = value if before is None else before.followers.answer.soft_value
            return _Loaded(self, x, at, known)

        return solve_fixed_point(load, crowd, tolerance=tolerance, max_iterations=most)

    def _cooled_down(
        self, x: FloatArray, crowd: FloatArray, tolerance: float, most: int
    ) -> FixedPoint[_Loaded]:
        """Return the fixed point that equilibria of ever colder followers lead to.

        Cold followers all change their minds at once, and Newton's steps are good for little from
        afar; warm ones are easy, and lead near to those who are somewhat colder.
        """
        value, steps = None, 0
        for factor in WARMTH:
            warmer = self.at_temperature(factor * self.temperature)
            with suppress(ArithmeticError):  # as entropy may be worth more than ways cost
                found = warmer._fixed_point(x, crowd, value, tolerance, most)
                crowd, value = found.crowd, found.loaded.followers.answer.soft_value
                steps += found.iterations
        last = self._fixed_point(x, crowd, value, tolerance, most)
        return replace(last, iterations=steps + last.iterations)

    def equilibria(
        self, upper_params: ArrayLike, *, starts: int = 20, seed: int = 0, **options: Any
    ) -> list[ExactCrowdResponse]:
        """Return the different equilibria that several starts lead to, the leader's best first.

        The starts are the empty crowd, and crowds of followers whose rewards are random.

        Args:
            upper_params: x, shape of `low`.
            starts: How many starts there are, at least 1.
            seed: Seed of the starts.
            **options: `tolerance` and `max_iterations`; see `respond`.
        """
        check_at_least("starts", starts, 1)
        check_at_least("seed", seed, 0)
        x, rng = self.validate(upper_params), np.random.default_rng(seed)
        found: list[ExactCrowdResponse] = []
        for crowd in self._random_crowds(x, rng, starts):
            answer = self.respond(x, crowd=crowd, **options)
            size = float(answer.crowd.max())
            near = (np.abs(answer.crowd - other.crowd).max() <= APART * size for other in found)
            if answer.converged and not any(near):
                found.append(answer)
        return sorted(found, key=lambda answer: -answer.objective)

    def marginal_upper_reward(self, answer: CrowdResponse) -> FloatArray:
        """Return what one more follower who takes each action is worth to the leader, `[S, A]`.

        That is the leader's reward of the step, and what all others' change by, as the crowd has
        one member more; `answer` is an equilibrium of this model.
        """
        x, crowd = answer.upper_params, answer.crowd
        worth = self.checked_upper_reward(x, crowd)
        by_crowd = self._upper_by_crowd(x, crowd)
        if by_crowd is None:
            return worth
        solution = solve_ending_mdp(self.member_mdp(x, crowd), answer.soft_value)
        mass = Followers(solution, self.initial_distribution).mass
        others = self._weight * (self._members @ (by_crowd.T @ mass.ravel()))
        return worth + others.reshape(mass.shape).T

    def sampled_crowd(
        self, answer: CrowdResponse, followers: int, rng: np.random.Generator
    ) -> tuple[FloatArray, float]:
        """Return the crowd `[K]` that finitely many followers make, and the leader's mean return.

        They have the policy of an answer. The leader's rewards are those in the crowd that they
        happen to make; its expectations tend to those of the equilibrium, with an error that falls
        as 1 / sqrt(followers).

        Args:
            answer: An equilibrium of this model.
            followers: How many there are, at least 1.
            rng: What draws.
        """
        check_at_least("followers", followers, 1)
        if not isinstance(rng, np.random.Generator):
            raise TypeError(f"`rng` must be a NumPy Generator, got {received(rng)}")
        x, start = answer.upper_params, self.initial_distribution
        mdp = self.member_mdp(x, answer.crowd)
        mass = sampled_masses(mdp, answer.policy, start, followers, rng)
        crowd = self.crowd_of(mass)
        return crowd, float((mass * self.checked_upper_reward(x, crowd)).sum())

    def _random_crowds(
        self, x: FloatArray, rng: np.random.Generator, count: int
    ) -> Iterator[FloatArray]:
        empty = np.zeros(self.num_groups)
        yield empty
        mdp = self.member_mdp(x, empty)
        for _ in range(count - 1):
            # Rewards are made worse, so that episodes end as soon as before.
            size = rng.exponential(10.0 * self.temperature)
            reward = mdp.reward - size * rng.random(self.groups.shape)
            other = EndingMDP(mdp.kernel, reward, mdp.gamma, mdp.temperature, mdp.action_mask)
            yield self._gathered(Followers(solve_ending_mdp(other), self.initial_distribution).mass)

    def _checked_crowd(self, crowd: ArrayLike) -> FloatArray:
        given = real_numbers("crowd", crowd).astype(np.float64)
        if given.shape != (self.num_groups,) or not (np.isfinite(given) & (given >= 0.0)).all():
            raise ValueError(
                f"`crowd` must be finite numbers [K] = ({self.num_groups},), not negative, got "
                f"{received(crowd)}"
            )
        return given

    def _response(self, x: FloatArray, found: FixedPoint[_Loaded]) -> ExactCrowdResponse:
        """Return the response that an equilibrium amounts to, its derivatives included."""
        at, crowd, followers = found.loaded, found.crowd, found.loaded.followers
        answer = followers.answer
        upper_reward = self.checked_upper_reward(x, crowd)
        outcome = Outcome(answer, x, upper_reward, self.initial_distribution)
        upper = self.objective.evaluate(outcome)
        direct = np.zeros(x.shape) if upper.params is None else upper.params.copy()
        of_crowd = np.zeros(self.num_groups)
        if upper.upper_reward is not None:
            product = self.upper_reward_vjp(x, crowd, upper.upper_reward)
            direct += of_shape(x, "upper_reward_vjp", product)
            by_crowd = self._upper_by_crowd(x, crowd)
            if by_crowd is not None:
                of_crowd += by_crowd.T @ upper.upper_reward.T.ravel()
        weights = _Weights(np.zeros(self.groups.T.shape), None)
        if upper.kernel is not None and at.kernel_by_crowd is not None:
            of_crowd += at.kernel_by_crowd.T @ upper.kernel
        direct += self._by_kernel(at, upper.kernel)
        if upper.lower_reward is not None:
            direct += self._by_reward(at, upper.lower_reward.T)
            of_crowd += at.reward_by_crowd.T @ upper.lower_reward.T.ravel()
        total = direct.copy()
        if upper.responds:
            weights = at.weights(followers.through_policy(upper.policy, upper.log_policy))
        rhs = of_crowd + at.through(weights)
        adjoint, left = crowd_adjoint(at, rhs)
        pulled = at.pulled(adjoint)
        total += self._by_reward(at, weights.reward + pulled.reward)
        for part in (weights.kernel, pulled.kernel):
            total += self._by_kernel(at, part)
        check_finite(upper.value, total)
        size = float(np.abs(rhs).sum())
        visits = followers.visits
        response = ExactCrowdResponse(
            upper_params=x,
            objective=upper.value,
            hyper_gradient=total,
            direct_gradient=direct,
            policy=answer.policy,
            soft_value=answer.soft_value,
            occupancy=visits / visits.sum() if self.gamma == 1.0 else self._weight * visits,
            crowd=crowd,
            lower_value=float(self.initial_distribution @ answer.soft_value),
            residual=found.residual,
            iterations=found.iterations,
            damped=found.damped,
            converged=found.converged,
            unique=self.monotone,
            adjoint_residual=left / size if size > 0.0 else 0.0,
        )
        answer.release()
        return response

    def _by_reward(self, at: _Loaded, cotangent: FloatArray) -> FloatArray:
        """Return what weights of r `[A, S]` are of x, shape of x."""
        x = at.upper_params
        return of_shape(x, "reward_vjp", self.reward_vjp(x, at.crowd, cotangent.T))

    def _by_kernel(self, at: _Loaded, cotangent: FloatArray | None) -> FloatArray:
        """Return what weights of P `[K]` are of x, shape of x; None for zero."""
        x = at.upper_params
        if cotangent is None:
            return np.zeros(x.shape)
        return of_shape(x, "kernel_vjp", self.kernel_vjp(x, at.crowd, cotangent))


@dataclass(frozen=True, eq=False)
class _Weights:
    """Weights of r `[A, S]` and of stored transitions; None for zero."""

    reward: FloatArray
    kernel: FloatArray | None


class _Loaded:
    """What followers make of a crowd under x; see `bilevel_gym.core.mean_field.Loaded`."""

    def __init__(
        self, model: MeanFieldModel, x: FloatArray, crowd: FloatArray, value: FloatArray | None
    ) -> None:
        self.model, self.upper_params, self.crowd = model, x, crowd
        mdp = model.member_mdp(x, crowd)
        self.followers = Followers(solve_ending_mdp(mdp, value), model.initial_distribution)
        self.image = model._gathered(self.followers.mass)

    @cached_property
    def reward_by_crowd(self) -> Any:
        """dr/dz `[A*S, K]`."""
        slopes = self.model.reward_by_crowd(self.upper_params, self.crowd)
        shape = self.model._members.shape
        return slopes_of_shape("reward_by_crowd", slopes, shape)

    @cached_property
    def kernel_by_crowd(self) -> Any:
        """dP/dz, None for zero."""
        slopes = self.model.kernel_by_crowd(self.upper_params, self.crowd)
        shape = (self.model.initial_kernel.matrix.nnz, self.model.num_groups)
        return optional(slopes_of_shape, "kernel_by_crowd", slopes, shape)

    @cached_property
    def _crowd_by_reward(self) -> Any:
        return self.reward_by_crowd.T.tocsr()

    def tangent(self, crowd: FloatArray) -> FloatArray:
        """Return dPhi/dz v `[K]`."""
        reward = (self.reward_by_crowd @ crowd).reshape(self.followers.mass.shape)
        kernel = None if self.kernel_by_crowd is None else self.kernel_by_crowd @ crowd
        return self.model._gathered(self.followers.tangent(reward, kernel))

    def cotangent(self, crowd: FloatArray) -> FloatArray:
        """Return (dPhi/dz)^T w `[K]`."""
        return self.through(self.pulled(crowd))

    def pulled(self, crowd: FloatArray) -> _Weights:
        """Return the weights of r and P that weights of Phi(z) `[K]` amount to."""
        model, shape = self.model, self.followers.mass.shape
        mass = model._weight * (model._members @ crowd).reshape(shape)
        return self.weights(*self.followers.cotangent(mass))

    def weights(self, reward: FloatArray, value: FloatArray | None = None) -> _Weights:
        """Return weights of r with those of P that go with them, where x or z moves P.

        A value `[S]` is that of what a follower's steps are worth by themselves.
        """
        model, followers = self.model, self.followers
        moved = type(model).kernel_vjp is not MeanFieldModel.kernel_vjp
        if not moved and self.kernel_by_crowd is None:
            return _Weights(reward, None)
        mdp = followers.answer.mdp
        kernel = mdp.kernel.on_transitions(reward.T, followers.answer.soft_value)
        if value is not None:
            kernel = kernel + mdp.kernel.on_transitions(followers.mass.T, value)
        return _Weights(reward, mdp.gamma * kernel)

    def through(self, weights: _Weights) -> FloatArray:
        """Return what weights of r and P are of z, `[K]`."""
        of_crowd: FloatArray = self._crowd_by_reward @ weights.reward.ravel()
        if weights.kernel is not None and self.kernel_by_crowd is not None:
            of_crowd = of_crowd + self.kernel_by_crowd.T @ weights.kernel
        return of_crowd
