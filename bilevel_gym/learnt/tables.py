"""Deep methods on tabular games, where the exact answer says how good they are.

The follower sees the number of its state, learns by `SoftDQN` from interaction, and is watched; of
the model nothing but its transitions is used. `game.evaluate(x)` scores what comes out. The
estimators are those of `bilevel_gym.learnt.estimators`, with options of their own, `defaults`: with
those, 15 normalised steps on BilevelGridWorld-v0 take about a minute. A follower of networks lags
behind x; where the objective has a cliff, as there, steps have to be short (.03, falling to 0).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from ..core.mdp import FloatArray
from ..core.soft import PolicyAnswer
from ..envs.parametric import ParametricGame
from ..episodes.recorded import LearntEpisodes
from ..episodes.transitions import TransitionTables
from ..methods.sampled import check_rewards_alone, enough_steps
from ..model.objectives import DiscountedReturn, Objective, Outcome, flattened, scope_of
from ..model.responses import TabularResponse
from .estimators import Estimator, LearntSoBiRL
from .traces import LearntBCHG, LearntHPGD, LearntTrace

if TYPE_CHECKING:
    from ..model.tabular import TabularModel

__all__ = ["DeepBCHG", "DeepHPGD", "DeepResponse", "DeepSoBiRL", "DeepTrace", "TableGame"]


@dataclass(frozen=True, eq=False, kw_only=True)
class DeepResponse(TabularResponse):
    """What is known of a tabular game's follower who learns.

    Attributes:
        critic_loss: What the leader's critic is left with, its mean squared error; None without.
    """

    reported: ClassVar[Mapping[str, str]] = {
        **TabularResponse.reported,
        "critic_loss": "critic_loss",
    }

    critic_loss: float | None = None


class TableGame(ParametricGame):
    """A tabular game as one whose follower learns.

    Attributes:
        table: The tabular game. Nothing of its own episodes is touched.
    """

    def __init__(self, table: TabularModel) -> None:
        """Set up the game.

        Args:
            table: A tabular game whose x enters the rewards alone, whose actions exist everywhere,
                and whose leader is paid one discounted return, and costs of x.

        Raises:
            TypeError: If it is another one.
        """
        check_rewards_alone(table)
        if table.action_mask is not None:
            raise TypeError(
                f"actions of {table.name} vary with the state, and deep followers know "
                'no mask; take "trace" or another method with a table'
            )
        paid, self._costs = _terms(table)
        self.table, x = table, table.initial_upper_params
        self._paid, self._judged = _Latest(table.reward), _Latest(table.upper_reward)
        self._tables = TransitionTables(table.lower_mdp(x), table.upper_reward(x))
        self._start = np.cumsum(table.start_distribution(x))
        bounds = np.abs([table.low, table.high])
        super().__init__(
            table.name,
            _TableReward(table, self._paid),
            episode_steps=enough_steps(table),
            gamma=table.gamma,
            temperature=table.temperature,
            upper_gamma=paid.gamma,
            upper_bound=float(bounds.max()),
        )

    @property
    def title(self) -> str:
        """That of the tabular game."""
        return self.table.name

    def make_environment(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Return a fresh environment of the follower, paid what the leader gets at the start."""
        assert self._limit is not None
        return TimeLimit(_Transitions(self._tables, self._start, self.table), self._limit)

    def upper_reward(
        self, observations: NDArray[Any], actions: NDArray[Any], rewards: FloatArray
    ) -> FloatArray:
        """Return the leader's reward under the x in force; see `ParametricGame`."""
        x = self._upper_params.reshape(self.table.low.shape)
        return self._judged(x)[observations.astype(np.intp), actions.astype(np.intp)]

    def direct_part(
        self, upper_params: FloatArray, played: LearntEpisodes
    ) -> tuple[float, FloatArray]:
        """Return terms of x alone, and the direct derivative; see `ParametricGame`."""
        table = self.table
        policy = np.full((table.num_states, table.num_actions), 1.0 / table.num_actions)
        visits = _discounted(played, self.upper_gamma, policy.shape)
        value, direct = 0.0, np.array(table.upper_reward_vjp(upper_params, visits))
        outcome = _of_params(table, upper_params, policy)
        for cost in self._costs:
            judged = cost.evaluate(outcome)
            value += judged.value
            if judged.params is not None:
                direct += judged.params
        return value, direct


class OnTable(Estimator):
    """A method of games whose follower learns, for tabular ones.

    Attributes:
        defaults: Options that suit tables, in the place of the estimator's own; each is replaced
            as a whole by one that is given.
    """

    # A step of a table costs next to nothing; an update of a network is what takes the time. So
    # there are many episodes, one critic is enough, and it learns fast: it has an x to follow.
    defaults: ClassVar[Mapping[str, Any]] = {
        "episodes": 1024,
        "inner_steps": 600,
        "first_inner_steps": 8000,
        "inner_options": {"learning_rate": 3e-3, "policy_kwargs": {"n_critics": 1}},
    }
    _game: TableGame

    def __init__(self, game: TabularModel, **options: Any) -> None:
        """Bind the method to a game.

        Args:
            game: See `TableGame`.
            **options: See the estimator; what `defaults` says where they are not given.

        Raises:
            TypeError: If the method does not suit the game, or an option is unknown.
            ValueError: If an option is out of range.
        """
        super().__init__(TableGame(game), **{**self.defaults, **options})

    def step(self, upper_params: FloatArray) -> DeepResponse:
        """Let the follower learn under x, watch it, and estimate objective and hyper-gradient."""
        self._game.commit(upper_params.ravel())
        response = super().step(upper_params)
        assert isinstance(response, DeepResponse)
        return response

    def answer(self, played: LearntEpisodes, upper: float, **common: Any) -> DeepResponse:
        """Return the response to x; see `Estimator`."""
        game = self._game
        policy = self.follower.probabilities(np.arange(game.table.num_states))
        visits = _discounted(played, game.gamma, policy.shape).sum(axis=1)
        discounts = np.power(game.gamma, np.arange(len(played.alive)))
        entropy = -(policy * np.log(np.maximum(policy, np.finfo(np.float64).tiny))).sum(axis=1)
        paid = float((discounts @ played.lower_rewards).mean())
        return DeepResponse(
            policy=policy,
            occupancy=(1.0 - game.gamma) * visits,
            lower_value=paid + game.temperature * float(visits @ entropy),
            **common,
        )


# At first the critic knows nothing, and what it says decides where the leader goes.
CRITIC = {"critic_updates": 300, "first_critic_updates": 1500}


class DeepTrace(OnTable, LearntTrace):
    """`LearntTrace` on a tabular game."""

    defaults = {**OnTable.defaults, **CRITIC}


class DeepBCHG(OnTable, LearntBCHG):
    """`LearntBCHG` on a tabular game."""

    defaults = {**OnTable.defaults, **CRITIC}


class DeepHPGD(OnTable, LearntHPGD):
    """`LearntHPGD` on a tabular game."""


class DeepSoBiRL(OnTable, LearntSoBiRL):
    """`LearntSoBiRL` on a tabular game."""


class _Transitions(gym.Env[Any, Any]):
    """Transitions of a tabular game, each of which pays what it pays the leader."""

    def __init__(self, tables: TransitionTables, start: FloatArray, game: TabularModel) -> None:
        self.observation_space = spaces.Discrete(game.num_states)
        self.action_space = spaces.Discrete(game.num_actions)
        self._tables, self._start, self._state = tables, start, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        drawn = self.np_random.random() * self._start[-1]
        self._state = int(np.searchsorted(self._start, drawn, side="right"))
        return self._state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self._state, over, _, paid = self._tables.sample(
            self._state, int(action), self.np_random.random()
        )
        return self._state, paid, over, False, {}


class _TableReward:
    """r_x(s, a) of a tabular game, as a function of batches; x is flat or in its own shape."""

    def __init__(self, table: TabularModel, paid: Callable[[FloatArray], FloatArray]) -> None:
        self._table, self._paid = table, paid
        self._shape = table.low.shape
        self.num_params = int(table.initial_upper_params.size)

    def initial_params(self) -> FloatArray:
        return self._table.initial_upper_params.ravel()

    def rewards(
        self, upper_params: FloatArray, observations: NDArray[Any], actions: NDArray[Any]
    ) -> FloatArray:
        paid = self._paid(upper_params.reshape(self._shape))
        return paid[observations.astype(np.intp), actions.astype(np.intp)]

    def vjp(
        self,
        upper_params: FloatArray,
        observations: NDArray[Any],
        actions: NDArray[Any],
        weights: FloatArray,
    ) -> FloatArray:
        on_pairs = _summed(
            observations, actions, weights, (self._table.num_states, self._table.num_actions)
        )
        gradient = self._table.reward_vjp(upper_params.reshape(self._shape), on_pairs)
        return np.reshape(gradient, upper_params.shape)


class _Latest:
    """A function of x that remembers what it has returned for the latest x."""

    def __init__(self, function: Callable[[FloatArray], FloatArray]) -> None:
        self._function = function
        self._x: FloatArray | None = None
        self._value: FloatArray = np.zeros(0)

    def __call__(self, upper_params: FloatArray) -> FloatArray:
        if self._x is None or not np.array_equal(upper_params, self._x):
            self._x, self._value = upper_params.copy(), self._function(upper_params)
        return self._value


def _terms(table: TabularModel) -> tuple[DiscountedReturn, list[Objective]]:
    """Return the leader's return and its other terms; raise a `TypeError` if they do not suit."""
    name, terms = table.name, flattened(table.objective)
    returns = [term for term in terms if isinstance(term, DiscountedReturn)]
    others = [term for term in terms if not isinstance(term, DiscountedReturn)]
    for term in others:
        if scope_of(term) != "params":
            raise TypeError(
                f"the leader of {name} is judged by a {type(term).__name__}, and deep methods need "
                "a discounted return and costs of x alone; take a method with a table or a model"
            )
    if len(returns) != 1:
        raise TypeError(
            f"the leader of {name} has {len(returns)} discounted returns, and deep methods need "
            "one; take a method with a table or a model"
        )
    return returns[0], others


def _of_params(table: TabularModel, upper_params: FloatArray, policy: FloatArray) -> Outcome:
    mdp = table.lower_mdp(upper_params)
    nothing = np.zeros(0)
    return Outcome(PolicyAnswer(mdp=mdp, policy=policy), upper_params, nothing, nothing)


def _discounted(played: LearntEpisodes, gamma: float, shape: tuple[int, int]) -> FloatArray:
    """Return mean discounted visits of pairs, `[S, A]`."""
    late = np.power(gamma, np.arange(len(played.alive)))[:, None]
    weights = np.broadcast_to(late, played.alive.shape)[played.alive] / played.num_episodes
    return _summed(*played.as_batch, weights, shape)


def _summed(
    states: NDArray[Any], actions: NDArray[Any], weights: FloatArray, shape: tuple[int, int]
) -> FloatArray:
    """Return weights of steps `[B]`, summed for each state and action, `[S, A]`."""
    pairs = states.astype(np.intp) * shape[1] + actions.astype(np.intp)
    sums = np.bincount(pairs, weights, minlength=shape[0] * shape[1])
    return sums.astype(np.float64, copy=False).reshape(shape)
