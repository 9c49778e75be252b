"""Games with finitely many states and actions, whose follower can be answered for exactly.

`TabularBilevelEnv` adds the model to the game: kernel, rewards and their vector-Jacobian products,
and with them the exact response. A tabular task is a subclass that supplies arrays.
"""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import ArrayLike, NDArray

from ..core.adjoint import response_gradient
from ..core.batch import solve_batch
from ..core.checks import unknown_name
from ..core.mdp import FloatArray, Kernel, TabularMDP, checked_mask
from ..core.soft import SoftSolution, solve_soft_mdp
from ..core.threads import single_threaded
from ..episodes.sampler import Sampler
from ..episodes.transitions import TransitionArrays, TransitionTables
from ..methods.model_based import direct_gradient, through_model
from ..model.objectives import Objective, Outcome
from ..model.responses import ExactResponse, Response, Sensitivities, TabularResponse
from .base import BestKnown, BilevelEnv, View, shown

if TYPE_CHECKING:
    from .arrays import ArrayBilevelEnv

__all__ = ["TabularBilevelEnv"]

# Probabilities of first states may miss one by this much.
DISTRIBUTION_TOLERANCE = 1e-9
# Uniform numbers drawn at a time: one call for each would take longer than the rest of a step.
DRAWN_AHEAD = 1024


class TabularBilevelEnv(BilevelEnv):
    """A game with finitely many states and actions, and a model that is known exactly.

    A task supplies `reward` and `upper_reward` with their vector-Jacobian products, and `kernel`
    with its own where x moves the kernel. `evaluate` turns them into the exact response.

    Observation: the follower's state, `Discrete(S)`. The leader observes the discounted state
    occupancy times (1 - gamma), `Box(0, 1, [S])`.

    Attributes:
        initial_distribution: Distribution of the first state `[S]` (at the initial x, where x
            moves it).
        objective: How the leader judges a policy.
        action_mask: Which actions exist, bool `[S, A]`; None when all do.
        best_known: Best x known for this very instance, None if none is recorded.
    """

    best_known: BestKnown | None = None

    def __init__(
        self,
        *,
        kernel: Kernel,
        initial_distribution: ArrayLike,
        objective: Objective,
        upper_space: spaces.Box,
        initial_upper_params: ArrayLike,
        gamma: float,
        temperature: float,
        action_mask: ArrayLike | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Set up the game.

        Args:
            kernel: Transition kernel (at the initial x, where x moves it).
            initial_distribution: Distribution of the first state `[S]` (at the initial x, where x
                moves it).
            objective: How the leader judges a policy.
            upper_space: Finite `Box` of x.
            initial_upper_params: x at the start, in the box.
            gamma: The follower's discount, in [0, 1).
            temperature: The weight of its policy's entropy, positive.
            action_mask: Which actions exist, `[S, A]`; None when all do.
            render_mode: None, "human" or "rgb_array".

        Raises:
            ValueError: If a shape or a range is violated.
        """
        num_states, num_actions = kernel.num_states, kernel.num_actions
        super().__init__(
            upper_space=upper_space,
            lower_space=spaces.Discrete(num_actions),
            observation_space=spaces.Discrete(num_states),
            leader_observation_space=spaces.Box(0.0, 1.0, (num_states,), np.float32),
            gamma=gamma,
            temperature=temperature,
            initial_upper_params=initial_upper_params,
            render_mode=render_mode,
        )
        self._kernel = kernel
        self.objective = objective
        shape = (num_states, num_actions)
        self.action_mask = None if action_mask is None else checked_mask(action_mask, shape)
        self.initial_distribution = _distribution(
            "initial_distribution", initial_distribution, num_states
        )
        for constant in (self.initial_distribution, self.action_mask):
            if constant is not None:
                constant.flags.writeable = False
        self._state: int | None = None
        self._over = True  # no episode is under way
        self._lower_return, self._upper_return = 0.0, 0.0
        self._upper_params = self.initial_upper_params
        # Uniform numbers drawn ahead, the next one last, and the generator they came from.
        self._uniforms: list[float] = []
        self._drawn_from: np.random.Generator | None = None
        # Made for the x in force when they are first needed.
        self._start_cumulative: FloatArray | None = None
        self._tables: TransitionTables | None = None
        self._answer: ExactResponse | None = None

    @staticmethod
    def from_arrays(
        transition: ArrayLike | Kernel, reward: ArrayLike, **options: Any
    ) -> ArrayBilevelEnv:
        """Build a game of your own arrays; see `bilevel_gym.envs.arrays.ArrayBilevelEnv`."""
        from .arrays import ArrayBilevelEnv

        return ArrayBilevelEnv(transition, reward, **options)

    @property
    def num_states(self) -> int:
        """S."""
        return self._kernel.num_states

    @property
    def num_actions(self) -> int:
        """A."""
        return self._kernel.num_actions

    # The model -----------------------------------------------------------------------------

    def kernel(self, upper_params: FloatArray) -> Kernel:
        """Return the kernel at x; the same one always, unless a task overrides it."""
        return self._kernel

    def kernel_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_k cotangent(k) dP(k)/dx, shape of x; zero unless overridden.

        Args:
            upper_params: x.
            cotangent: A number for each stored transition of `kernel(x)`, `[K]`, in the order of
                its `triplets`.
        """
        return np.zeros(self.upper_space.shape)

    def start_distribution(self, upper_params: FloatArray) -> FloatArray:
        """Return the distribution of the first state at x, `[S]`.

        It is `initial_distribution` always, unless a task overrides it.
        """
        return self.initial_distribution

    def start_distribution_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_s cotangent(s) d rho(s)/dx, shape of x; zero unless overridden.

        Args:
            upper_params: x.
            cotangent: A number per state, `[S]`.
        """
        return np.zeros(self.upper_space.shape)

    @abstractmethod
    def reward(self, upper_params: FloatArray) -> FloatArray:
        """Return the follower's reward r_x `[S, A]`."""

    @abstractmethod
    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_sa cotangent(s, a) dr_x(s, a)/dx, shape of x; `cotangent` is `[S, A]`."""

    @abstractmethod
    def upper_reward(self, upper_params: FloatArray) -> FloatArray:
        """Return the leader's reward u_x `[S, A]`, without terms in x alone."""

    def upper_reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_sa cotangent(s, a) du_x(s, a)/dx, shape of x; zero unless overridden."""
        return np.zeros(self.upper_space.shape)

    def sampler(self, upper_params: FloatArray, policy: ArrayLike) -> Sampler:
        """Return what plays episodes of a policy under x, for methods that see no model.

        Args:
            upper_params: x, validated.
            policy: Action probabilities `[S, A]`, zero for actions that do not exist.

        Raises:
            ValueError: If the policy is none.
        """
        return Sampler(
            self.kernel(upper_params),
            policy,
            self._start_distribution_at(upper_params),
            self._upper_reward_at(upper_params),
        )

    def lower_mdp(self, upper_params: FloatArray) -> TabularMDP:
        """Return the follower's problem at x."""
        return TabularMDP(
            kernel=self.kernel(upper_params),
            reward=self.reward(upper_params),
            gamma=self.gamma,
            temperature=self.temperature,
            action_mask=self.action_mask,
        )

    @single_threaded
    def evaluate(
        self,
        upper_params: ArrayLike,
        *,
        warm_start: ExactResponse | None = None,
        solver: str = "auto",
        tolerance: float | None = None,
        max_iterations: int = 200,
    ) -> ExactResponse:
        """Return the exact objective, hyper-gradient and follower's answer at x.

        This is the referee: it scores any method, whatever the method itself sees.

        Args:
            upper_params: x, shape of `upper_space`.
            warm_start: An earlier response, at a nearby x, to start the solves from.
            solver: How linear systems are solved, a key of `bilevel_gym.core.linear.SOLVERS` or
                "auto".
            tolerance: Sup norm of the follower's Bellman residual to reach; None takes
                `bilevel_gym.core.soft.default_tolerance`.
            max_iterations: Newton steps allowed.

        Raises:
            ValueError: If x or an option is out of range, or the task returns arrays of a wrong
                shape.
            ArithmeticError: If values overflow.
        """
        x = self.validate_upper_params(upper_params)
        if warm_start is not None and len(warm_start.soft_value) != self._kernel.num_states:
            raise ValueError(
                f"`warm_start` must be a response of a game with {self._kernel.num_states} states, "
                f"got one with {len(warm_start.soft_value)}"
            )
        solution = solve_soft_mdp(
            self.lower_mdp(x),
            initial_value=None if warm_start is None else warm_start.soft_value,
            solver=solver,
            tolerance=tolerance,
            max_iterations=max_iterations,
            guesses=None if warm_start is None else warm_start.linear_solutions,
        )
        return self._response(x, solution)

    @single_threaded
    def evaluate_batch(
        self,
        upper_params: Sequence[ArrayLike] | FloatArray,
        *,
        warm_starts: Sequence[ExactResponse | None] | None = None,
        solver: str = "auto",
        tolerance: float | None = None,
        max_iterations: int = 200,
    ) -> list[ExactResponse]:
        """Return what `evaluate` returns, for many x.

        The follower's problems are solved together (see `bilevel_gym.core.batch`), unless the
        kernels of different x have different patterns.

        Args:
            upper_params: B values of x, `[B, ...]` with the shape of `upper_space`.
            warm_starts: For each x an earlier response, at a nearby x, or None.
            solver: As in `evaluate`; "auto" prefers "compiled" as `solve_batch` does.
            tolerance: As in `evaluate`.
            max_iterations: Newton steps allowed for each x.

        Raises:
            ValueError: If an x or an option is out of range, or the task returns arrays of a wrong
                shape; the message names the row of the x.
            ArithmeticError: If values overflow.
        """
        xs = [self._validated_row(row, x) for row, x in enumerate(upper_params)]
        starts = [None] * len(xs) if warm_starts is None else warm_starts
        if len(starts) != len(xs):
            raise ValueError(
                f"`warm_starts` must have an entry for each of {len(xs)} x, got {len(starts)}"
            )
        _ = self._kernel.pattern  # once computed, it is shared by kernels derived from this one
        mdps = [self.lower_mdp(x) for x in xs]

        def solved(batch: slice) -> list[SoftSolution]:
            return solve_batch(
                mdps[batch],
                initial_values=[None if s is None else s.soft_value for s in starts[batch]],
                solver=solver,
                tolerance=tolerance,
                max_iterations=max_iterations,
                guesses=[None if s is None else s.linear_solutions for s in starts[batch]],
            )

        if len({id(mdp.kernel.pattern) for mdp in mdps}) <= 1:
            solutions = solved(slice(None))
        else:
            solutions = [solution for b in range(len(xs)) for solution in solved(slice(b, b + 1))]
        return [self._response(x, solution) for x, solution in zip(xs, solutions, strict=True)]

    def sensitivities(
        self, upper_params: ArrayLike, *, solver: str = "auto", tolerance: float | None = None
    ) -> Sensitivities:
        """Return the derivatives of F at x with respect to what is fixed in the game.

        Args:
            upper_params: x, shape of `upper_space`.
            solver: As in `evaluate`.
            tolerance: As in `evaluate`.

        Raises:
            ValueError: If x or an option is out of range.
        """
        x = self.validate_upper_params(upper_params)
        solution = solve_soft_mdp(self.lower_mdp(x), solver=solver, tolerance=tolerance)
        upper = self.objective.evaluate(self._outcome(x, solution))
        temperature, gamma = 0.0, upper.gamma
        if upper.responds:
            answer = response_gradient(solution, upper.policy, log_policy_gradient=upper.log_policy)
            temperature, gamma = answer.temperature, gamma + answer.gamma
        start = upper.initial_distribution
        return Sensitivities(
            temperature=temperature,
            gamma=gamma,
            initial_distribution=np.zeros(len(solution.soft_value)) if start is None else start,
        )

    def _validated_row(self, row: int, upper_params: ArrayLike) -> FloatArray:
        try:
            return self.validate_upper_params(upper_params)
        except ValueError as error:
            raise ValueError(f"row {row}: {error}") from None

    def _outcome(self, x: FloatArray, solution: SoftSolution) -> Outcome:
        return Outcome(solution, x, self._upper_reward_at(x), self._start_distribution_at(x))

    def _response(self, x: FloatArray, solution: SoftSolution) -> ExactResponse:
        """Return the response that a solve of the follower's problem at x amounts to."""
        outcome = self._outcome(x, solution)
        upper = self.objective.evaluate(outcome)
        direct = direct_gradient(self, x, upper)
        total, adjoint_residual, error_bound = direct.copy(), None, 0.0
        if upper.responds:
            answer = response_gradient(
                solution,
                upper.policy,
                log_policy_gradient=upper.log_policy,
                policy_gradient_error=upper.policy_error,
            )
            adjoint_residual, error_bound = answer.residual, answer.error_bound
            total += through_model(self, x, answer.reward, lambda: answer.kernel)
        return ExactResponse(
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
            gradient_error_bound=error_bound,
            linear_solutions=dict(solution.record.solutions),
        )

    @property
    def moves_kernel(self) -> bool:
        """Whether the task says how x moves the kernel; else its cotangents are not computed."""
        return type(self).kernel_vjp is not TabularBilevelEnv.kernel_vjp

    @property
    def moves_start(self) -> bool:
        """Whether the task says how x moves the distribution of the first state."""
        return type(self).start_distribution_vjp is not TabularBilevelEnv.start_distribution_vjp

    def _upper_reward_at(self, x: FloatArray) -> FloatArray:
        """Return the leader's reward, after checking what the task returned."""
        reward = self.upper_reward(x)
        shape = (self._kernel.num_states, self._kernel.num_actions)
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

    def _start_distribution_at(self, x: FloatArray) -> FloatArray:
        """Return the distribution of the first state, after checking what the task returned."""
        start = self.start_distribution(x)
        if start is self.initial_distribution:
            return start
        return _distribution("start_distribution(x)", start, self._kernel.num_states)

    def observe(self, response: Response) -> NDArray[np.float32]:
        """Return the discounted state occupancy times (1 - gamma), float32 `[S]`.

        Raises:
            TypeError: If the response is not a tabular one.
        """
        if not isinstance(response, TabularResponse):
            raise TypeError(f"`response` must be a TabularResponse, got {type(response).__name__}")
        return np.clip(response.occupancy, 0.0, 1.0).astype(np.float32)

    # The follower's episode ----------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Start an episode of the follower.

        Args:
            seed: Seed of everything random that follows.
            options: `{"upper_params": x}` puts the leader at x instead of `initial_upper_params`.

        Returns:
            The first state, and `action_mask` where actions vary.

        Raises:
            ValueError: If an option is unknown or x is out of range; the game is left as it was.
        """
        options = options or {}
        for option in options:
            if option != "upper_params":
                raise ValueError(unknown_name("reset option", option, ["upper_params"]))
        start = options.get("upper_params", self.initial_upper_params)
        if start is not self._upper_params:
            start = self.validate_upper_params(start)
        super().reset(seed=seed)  # may refuse the seed, hence nothing has changed so far
        self._enter(start)
        self._state = int(self.first_states(self.np_random.random()))
        self._over = False
        self.elapsed_steps, self._lower_return, self._upper_return = 0, 0.0, 0.0
        if self.render_mode == "human" and self.draws_itself:
            self.render()
        return self._state, self._state_info()

    def advance(
        self, upper_params: ArrayLike, action: Any
    ) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Make one transition of the follower under x; see `BilevelEnv.advance`."""
        # What is known to be right is not checked again: on most steps this is the only condition.
        if (
            upper_params is not self._upper_params
            or self._tables is None
            or self._over
            or type(action) is not int
            or not 0 <= action < self._kernel.num_actions
        ):
            action = self._prepare(upper_params, action)
        if self._drawn_from is not self._np_random or not self._uniforms:
            self._draw_ahead()
        state, tables = self._state, self._tables
        assert state is not None and tables is not None
        uniform = self._uniforms.pop()
        state, self._over, reward, upper_reward = tables.sample(state, action, uniform)
        self._state = state
        self.elapsed_steps += 1
        self._lower_return += reward
        self._upper_return += upper_reward
        if self.render_mode == "human" and self.draws_itself:
            self.render()
        info: dict[str, Any] = {"upper_reward": upper_reward}
        if self.action_mask is not None:
            info |= self._state_info()
        return state, reward, self._over, False, info

    def first_states(self, uniforms: ArrayLike) -> NDArray[np.int64]:
        """Return the first states under the x in force that uniform numbers in [0, 1) select.

        Args:
            uniforms: Of any shape, which is that of the states.
        """
        if self._start_cumulative is None:
            self._start_cumulative = np.cumsum(self._start_distribution_at(self._upper_params))
            self._start_cumulative /= self._start_cumulative[-1]
        return np.searchsorted(self._start_cumulative, uniforms, side="right")

    def transition_arrays(self, upper_params: FloatArray) -> TransitionArrays:
        """Return every transition under x, for drawing many at a time."""
        return TransitionArrays(self.lower_mdp(upper_params), self._upper_reward_at(upper_params))

    def commit(self, upper_params: ArrayLike) -> FloatArray:
        """Make x the one in force, with its sampling tables; see `BilevelEnv.commit`."""
        if upper_params is not self._upper_params:
            self._enter(self.validate_upper_params(upper_params))
        return self._upper_params

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions exist in the follower's state, bool `[A]`."""
        if self.action_mask is None or self._state is None:
            return np.ones(self._kernel.num_actions, dtype=bool)
        return self.action_mask[self._state].copy()

    def view(self) -> View:
        """Return the follower's episode over the exact answer to the leader's x."""
        if self._answer is None:
            self._answer = self.evaluate(self._upper_params)
        status: tuple[tuple[str, str], ...] = (
            ("objective", shown(self._answer.objective)),
            ("lower value", shown(self._answer.lower_value)),
        )
        if self._state is not None:
            status += (
                ("step", str(self.elapsed_steps)),
                ("return", shown(self._lower_return)),
                ("leader's return", shown(self._upper_return)),
            )
        return View(
            title=f"{self.title}: the follower acts",
            upper_params=self._upper_params,
            response=self._answer,
            state=self._state,
            status=status,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Protect x again: copies of arrays forget that they are read-only."""
        self.__dict__.update(state)
        for x in (self.initial_upper_params, self._upper_params):
            x.flags.writeable = False

    def _enter(self, x: FloatArray) -> None:
        """Make a validated x the one in force; what was made for an equal x is kept."""
        if not np.array_equal(x, self._upper_params):
            self._upper_params = x
            self._start_cumulative, self._tables, self._answer = None, None, None

    def _draw_ahead(self) -> None:
        """Draw a block of uniform numbers, the very ones that single draws would give.

        A block is left when its generator is: after a new seed, or another `np_random`. (Writing
        to the state inside a generator is felt only in the next block.)
        """
        self._uniforms = self.np_random.random(DRAWN_AHEAD)[::-1].tolist()
        self._drawn_from = self.np_random

    def _prepare(self, upper_params: ArrayLike, action: Any) -> int:
        """Check both moves, put x in force with its tables, and return the action's index."""
        if self._over:
            raise ResetNeeded(
                "`step` needs an episode under way, got a game "
                + ("before its first `reset`" if self._state is None else "whose episode ended")
                + "; call `reset` first"
            )
        try:
            index = operator.index(action)
        except TypeError:
            self._refuse_action(action)
        if not 0 <= index < self._kernel.num_actions:
            self._refuse_action(action)
        x = self.commit(upper_params)
        if self._tables is None:
            self._tables = TransitionTables(self.lower_mdp(x), self._upper_reward_at(x))
        return index

    def _refuse_action(self, action: Any) -> NoReturn:
        raise ValueError(
            f"the follower's action must be an integer in 0..{self._kernel.num_actions - 1}, "
            f"got {action!r}"
        )

    def _state_info(self) -> dict[str, Any]:
        if self.action_mask is None:
            return {}
        return {"action_mask": self.action_mask[self._state].astype(np.int8)}


def _distribution(name: str, probabilities: ArrayLike, size: int) -> FloatArray:
    distribution = np.array(probabilities, dtype=np.float64)
    if distribution.shape != (size,):
        raise ValueError(f"`{name}` must have shape [S] = ({size},), got {distribution.shape}")
    total, smallest = distribution.sum(), distribution.min()
    if not (smallest >= 0.0 and abs(total - 1.0) <= DISTRIBUTION_TOLERANCE):
        raise ValueError(
            f"`{name}` must be probabilities that sum to 1, got sum "
            f"{total} and smallest entry {smallest}"
        )
    return distribution
