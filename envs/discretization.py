"""Classic control on a grid: multilinear interpolation makes a table of it, with exact derivatives.

A step from a node of the grid ends between nodes. It is taken to end in one of the 2^K nodes
around, with the weights of multilinear interpolation as probabilities; the expected value after the
step is then the interpolated one (Davies 1996; Munos and Moore, "Variable resolution discretization
in optimal control", Machine Learning 49, 2002). The weights are differentiable in where the step
ends, but where it crosses a line of the grid, and so the kernel is differentiable in whatever moves
the dynamics.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.checks import (
    check_at_least,
    check_not_negative,
    check_positive,
    received,
    unknown_name,
)
from ..core.mdp import FloatArray, Kernel
from ..model import TabularModel
from ..model.objectives import DiscountedReturn, QuadraticCost, Sum
from .classic import CLASSIC, ClassicControl
from .tabulated import Tabulated

__all__ = ["Discretized", "DiscretizedModel", "discretize"]

# The formulas are compared with so many steps of the environment, and agree to this accuracy.
COMPARED, ACCURACY = 500, 1e-6

# The most nodes of a grid.
MOST_STATES = 1_000_000


def discretize(env: str | ClassicControl, bins: Sequence[int], *, actions: int = 5) -> Discretized:
    """Return classic control on a grid, of which `model` makes a bilevel problem.

    Args:
        env: "MountainCar-v0", "Pendulum-v1", or a `ClassicControl` of your own.
        bins: Nodes along each coordinate of the state, at least 2 each.
        actions: Number of actions where the environment's are continuous.

    Raises:
        ValueError: If the environment is another one, or a number is out of range; or if the
            environment's own steps are not those of its formulas.

    Example:
        >>> from bilevel_gym import discretize
        >>> car = discretize("MountainCar-v0", (40, 30))
        >>> model = car.model(moves=("force",), gamma=0.99, temperature=0.1)
        >>> model.num_states, model.low
        (1200, array([-1.]))
    """
    if isinstance(env, str):
        if env not in CLASSIC:
            raise ValueError(
                unknown_name("environment", env, CLASSIC)
                + "; a ClassicControl of your own will do as well"
            )
        env = CLASSIC[env]()
    if not isinstance(env, ClassicControl):
        raise ValueError(
            f"`env` must be one of {[*CLASSIC]} or a ClassicControl, got {received(env)}"
        )
    count = len(env.axes)
    if isinstance(bins, str) or not isinstance(bins, Sequence) or len(bins) != count:
        names = ", ".join(axis.name for axis in env.axes)
        raise ValueError(f"`bins` must be {count} numbers, for {names}, got {received(bins)}")
    shape = tuple(check_at_least("bins", number, 2) for number in bins)
    if np.prod(shape, dtype=float) > MOST_STATES:
        raise ValueError(f"`bins` must make at most {MOST_STATES} nodes, got {received(bins)}")
    made = Discretized(env, shape, env.actions(actions))
    _compare(made)
    return made


# 2^x is finite, and so is what it is multiplied with.
MOST_OCTAVES = 50


class Discretized:
    """An environment on a grid of S nodes, with A actions.

    Attributes:
        dynamics: Its formulas.
        shape: Nodes along each coordinate, `[K]`.
        states: The nodes, `[S, K]`, the last coordinate the fastest.
        actions: The environment's actions.
        ended: At which nodes episodes end, bool `[S]`.
        reward: Its own reward `[S, A]`; 0 at nodes where episodes end.
        initial_distribution: `[S]`, interpolated.
    """

    def __init__(
        self,
        dynamics: ClassicControl,
        shape: tuple[int, ...],
        actions: Sequence[NDArray[np.float32] | int],
    ) -> None:
        """Lay the grid."""
        self.dynamics, self.shape, self.actions = dynamics, shape, tuple(actions)
        low, high = (np.array([getattr(a, end) for a in dynamics.axes]) for end in ("low", "high"))
        self._periodic = np.array([axis.periodic for axis in dynamics.axes])
        self._low = low
        self._spacing = (high - low) / (np.array(shape) - ~self._periodic)
        lines = [
            np.linspace(axis.low, axis.high, size, endpoint=not axis.periodic)
            for axis, size in zip(dynamics.axes, shape, strict=True)
        ]
        self.states = np.array(list(itertools.product(*lines)))
        self.ended = dynamics.ended(self.states)
        numbers = np.array([float(np.ravel(action)[0]) for action in self.actions])
        # Row a * S + s of all that follows is that of (s, a), as kernels have it.
        self._from = np.tile(self.states, (len(numbers), 1))
        self._by = np.repeat(numbers, len(self.states))
        self._going = ~np.tile(self.ended, len(numbers))
        reward = np.where(self._going, dynamics.reward(self._from, self._by), 0.0)
        self.reward = reward.reshape(len(numbers), -1).T
        nodes, weights, _ = self.weights(dynamics.starts())
        start = np.bincount(nodes.ravel(), weights.ravel(), minlength=len(self.states))
        self.initial_distribution = start / start.sum()

    def weights(self, points: FloatArray) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
        """Return the nodes around points, their weights, and the slopes of these.

        Args:
            points: `[B, K]`; beyond the grid the nearest point on it counts, whose slope is 0.

        Returns:
            Nodes int `[B, 2^K]`, weights `[B, 2^K]` and their derivatives by the points
            `[B, 2^K, K]`.
        """
        sizes = np.array(self.shape)
        place = (points - self._low) / self._spacing
        place = np.where(self._periodic, place % sizes, place)
        inside = self._periodic | ((place >= 0.0) & (place <= sizes - 1))
        place = np.where(self._periodic, place, place.clip(0, sizes - 1))
        below = np.minimum(place.astype(np.int64), np.where(self._periodic, sizes - 1, sizes - 2))
        share = place - below
        nodes, weights, slopes = [], [], []
        for corner in itertools.product((0, 1), repeat=len(sizes)):
            up = np.array(corner, dtype=bool)
            nodes.append(np.ravel_multi_index(tuple(((below + up) % sizes).T), self.shape))
            parts = np.where(up, share, 1.0 - share)
            signs = np.where(up, 1.0, -1.0) / self._spacing * inside
            weights.append(parts.prod(axis=1))
            others = [np.delete(parts, k, axis=1).prod(axis=1) for k in range(len(sizes))]
            slopes.append(signs * np.column_stack(others))
        return np.stack(nodes, axis=1), np.stack(weights, axis=1), np.stack(slopes, axis=1)

    def interpolated(self, values: FloatArray, points: ArrayLike) -> FloatArray:
        """Return values `[S]` between the nodes, at points `[B, K]`: `[B]`."""
        nodes, weights, _ = self.weights(np.asarray(points, dtype=np.float64))
        between: FloatArray = (weights * values[nodes]).sum(axis=1)
        return between

    def params(self, **changes: float) -> dict[str, float]:
        """Return the parameters of the dynamics, some of them changed.

        Raises:
            ValueError: If there is no such parameter, or a value is not positive.
        """
        for name, value in changes.items():
            if name not in self.dynamics.params:
                raise ValueError(unknown_name("parameter", name, self.dynamics.params))
            check_positive(name, value)
        return {**self.dynamics.params, **changes}

    def kernel(self, params: Mapping[str, float]) -> Kernel:
        """Return the kernel under parameters of the dynamics; see `params`."""
        nodes, weights, _ = self.weights(self.dynamics.step(self._from, self._by, params))
        rows, kept = self._kept(nodes)
        actions, states = np.divmod(rows, len(self.states))
        return Kernel.from_triplets(
            states,
            actions,
            nodes[kept],
            weights[kept],
            num_states=len(self.states),
            num_actions=len(self.actions),
        )

    def kernel_vjp(
        self, params: Mapping[str, float], kernel: Kernel, cotangent: FloatArray
    ) -> dict[str, float]:
        """Return sum_k cotangent(k) dP(k) by each parameter; `kernel` is that under `params`."""
        step = self._from, self._by, params
        nodes, _, slopes = self.weights(self.dynamics.step(*step))
        rows, kept = self._kept(nodes)
        codes = kernel.rows.astype(np.int64) * len(self.states) + kernel.matrix.indices
        on_nodes = np.zeros(nodes.shape)
        on_nodes[kept] = cotangent[np.searchsorted(codes, rows * len(self.states) + nodes[kept])]
        # Derivative by where each step ends, [B, K].
        by_end = np.einsum("bc,bck->bk", on_nodes, slopes)
        return {
            name: float((by_end * slope).sum())
            for name, slope in self.dynamics.derivatives(*step).items()
        }

    def _kept(self, nodes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the transitions that go on, bool `[B, 2^K]`, and the row of each of them."""
        kept = self._going[:, None] & ~self.ended[nodes]
        return np.nonzero(kept)[0], kept

    def table(self, **changes: float) -> Tabulated:
        """Return the table at parameters of the dynamics, such as `force=.002`."""
        observed = self.states.copy()
        return Tabulated(
            name=self.dynamics.env_id,
            kernel=self.kernel(self.params(**changes)),
            reward=self.reward.copy(order="F"),
            initial_distribution=self.initial_distribution.copy(),
            observations={"": observed},
            keys=np.array([f"node {number}" for number in range(len(observed))]),
            terms=np.empty((*self.reward.shape, 0)),
        )

    def model(self, moves: Sequence[str] = (), **options: Any) -> TabularModel:
        """Return a bilevel problem whose x moves parameters of the dynamics.

        Args:
            moves: Names of parameters, an entry of x for each; none for what
                `Tabulated.model(**options)` makes, where x shapes rewards.
            **options: See `DiscretizedModel`.

        Raises:
            ValueError: If there is no such parameter, or an option is out of range.
        """
        if not moves:
            return self.table().model(**options)
        return DiscretizedModel(self, moves, **options)


class DiscretizedModel(TabularModel):
    """A bilevel problem on a grid whose x moves the dynamics.

    Each entry of x is one parameter, in octaves: it has `2^x` times the environment's own value, so
    that x = 0, the start, is the environment as it is. The leader maximises its discounted return
    less `upper_cost` * ||x||^2. The kernel is continuous in x and, but where a step crosses a line
    of the grid, differentiable; its derivatives are exact.
    """

    def __init__(
        self,
        grid: Discretized,
        moves: Sequence[str],
        *,
        gamma: float = 0.99,
        temperature: float = 0.1,
        entropy: str = "plain",
        upper_reward: ArrayLike | None = None,
        upper_cost: float = 0.0,
        octaves: float = 1.0,
    ) -> None:
        """Build the model.

        Args:
            grid: The environment on a grid.
            moves: Names of its parameters that x moves, `[D]`.
            gamma: See `BilevelModel`.
            temperature: See `BilevelModel`.
            entropy: See `BilevelModel`.
            upper_reward: The leader's reward `[S, A]`; None for the environment's own.
            upper_cost: Weight of ||x||^2, not negative.
            octaves: x lies in -octaves..octaves, positive, at most 50.

        Raises:
            ValueError: If there is no such parameter, or one is named twice, or a range is
                violated.
        """
        if isinstance(moves, str):
            raise ValueError(f"`moves` must be a list of names, got {received(moves)}")
        self.grid, self.moved = grid, tuple(moves)
        grid.params(**dict.fromkeys(self.moved, 1.0))
        if len({*self.moved}) < len(self.moved):
            raise ValueError(f"`moves` must be different parameters, got {received(moves)}")
        if check_positive("octaves", octaves) > MOST_OCTAVES:
            raise ValueError(f"`octaves` must be at most {MOST_OCTAVES}, got {received(octaves)}")
        bound = np.full(len(self.moved), float(octaves))
        own = grid.reward if upper_reward is None else upper_reward
        self._upper_reward = np.array(own, dtype=np.float64, order="F")
        self._made: tuple[bytes, Kernel] | None = None
        super().__init__(
            kernel=grid.kernel(grid.params()),
            initial_distribution=grid.initial_distribution,
            objective=Sum(
                (DiscountedReturn(), QuadraticCost(check_not_negative("upper_cost", upper_cost)))
            ),
            low=-bound,
            high=bound,
            initial_upper_params=np.zeros(len(self.moved)),
            gamma=gamma,
            temperature=temperature,
            entropy=entropy,
            name=grid.dynamics.env_id,
        )

    def params(self, upper_params: FloatArray) -> dict[str, float]:
        """Return the parameters of the dynamics at x."""
        own = self.grid.dynamics.params
        moved = {n: own[n] * 2.0**x for n, x in zip(self.moved, upper_params.tolist(), strict=True)}
        return self.grid.params(**moved)

    def reward(self, upper_params: FloatArray) -> FloatArray:
        """Return the environment's reward `[S, A]`."""
        return self.grid.reward

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return zeros: x moves the dynamics alone."""
        return np.zeros(self.low.shape)

    def upper_reward(self, upper_params: FloatArray) -> FloatArray:
        """Return the leader's reward `[S, A]`."""
        return self._upper_reward

    def kernel(self, upper_params: FloatArray) -> Kernel:
        """Return the kernel at x; that of the last x is kept."""
        code = upper_params.tobytes()
        if self._made is None or self._made[0] != code:
            self._made = code, self.grid.kernel(self.params(upper_params))
        return self._made[1]

    def kernel_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_k cotangent(k) dP(k)/dx, `[D]`."""
        params = self.params(upper_params)
        by = self.grid.kernel_vjp(params, self.kernel(upper_params), cotangent)
        return np.array([np.log(2.0) * params[name] * by[name] for name in self.moved])


def _compare(grid: Discretized) -> None:
    """Compare formulas with steps of the environment itself, from some of the nodes.

    Raises:
        ValueError: If they differ.
    """
    control, rng = grid.dynamics, np.random.default_rng(0)
    going = np.flatnonzero(~grid.ended)
    chosen = rng.choice(going, size=min(COMPARED, going.size), replace=False)
    env: Any = gym.make(control.env_id, disable_env_checker=True).unwrapped
    env.reset(seed=0)
    params = {name: float(getattr(env, name)) for name in control.params}
    for state in grid.states[chosen]:
        action = grid.actions[int(rng.integers(len(grid.actions)))]
        env.state = state.copy()
        _, reward, ended, _, _ = env.step(action)
        step = state[None], np.array([float(np.ravel(action)[0])])
        reached = control.step(*step, params)[0]
        for name, found, own in (
            ("state", reached, np.asarray(env.state)),
            ("reward", control.reward(*step), np.asarray(reward)),
            ("end", control.ended(reached[None]).astype(float), np.asarray(float(ended))),
        ):
            if np.abs(found - own).max() > ACCURACY:
                raise ValueError(
                    f"formulas of {control.env_id} must be the environment's own steps, got {name} "
                    f"{found} in place of {own} from {state} with action {action}"
                )
