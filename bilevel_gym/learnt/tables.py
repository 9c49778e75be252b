"""Deep methods on tabular games, where the exact answer says how good they are.

The follower observes the number of its state and learns by `SoftDQN` from interaction; of the model
nothing but its transitions is used. `game.evaluate(x)` scores the result. The estimators are those
of `bilevel_gym.learnt.estimators`, with options of their own, `defaults`: with those, 15 normalised
steps on BilevelGridWorld-v0 take about a minute. The policy of networks lags behind x; where the
objective has a cliff, as there, steps have to be short (.03, falling to 0).

The leader's objective is one discounted return, estimated from episodes as in games without a
table, and terms that evaluate the policy or x. The policy is known in every state, so that the
latter are estimated as `bilevel_gym.methods.sampled` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from ..core.mdp import FloatArray
from ..episodes.recorded import Batch, LearntEpisodes
from ..episodes.sampler import Episodes
from ..episodes.transitions import TransitionTables
from ..methods.sampled import check_rewards_alone, enough_steps, policy_response, seen_outcome
from ..model.objectives import DiscountedReturn, Objective, flattened, scope_of
from ..model.responses import LearntResponse, TabularResponse
from ..model.tabular import TabularModel
from .estimators import Estimator, LearntSoBiRL
from .scores import LearntScore
from .traces import LearntBCHG, LearntHPGD, LearntTrace
from .trust import Estimate

__all__ = [
    "DeepBCHG",
    "DeepHPGD",
    "DeepResponse",
    "DeepScore",
    "DeepSoBiRL",
    "DeepTrace",
    "TableGame",
]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class DeepResponse(LearntResponse, TabularResponse):
    """The answer of a tabular game's follower who learns; for shapes see `TabularResponse`."""


class TableGame:
    """A tabular model as a game whose follower learns; see `bilevel_gym.model.protocols`.

    Attributes:
        model: The model.
        returns: The leader's return, None where its objective has none.
        others: The other terms of the objective.
    """

    def __init__(self, model: TabularModel) -> None:
        """Set up the game of a model.

        x must enter the rewards alone, actions exist everywhere, and the leader have at most one
        discounted return, and other terms that evaluate the policy or x.

        Raises:
            TypeError: If it is another one.
        """
        check_rewards_alone(model)
        if model.action_mask is not None:
            raise TypeError(
                f"actions of {model.name} vary with the state, and deep followers know "
                'no mask; take "trace" or another method with a table'
            )
        self.model, self.title = model, model.name
        self.returns, self.others = _terms(model)
        self.observation_space = spaces.Discrete(model.num_states)
        self.lower_space = spaces.Discrete(model.num_actions)
        self.upper_space = spaces.Box(model.low, model.high, dtype=np.float64)
        self.initial_upper_params = x = model.initial_upper_params
        self.gamma, self.temperature = model.gamma, model.temperature
        upper_gamma = None if self.returns is None else self.returns.gamma
        self.upper_gamma = model.gamma if upper_gamma is None else upper_gamma
        self.episode_steps = enough_steps(model)
        self.term_names: tuple[str, ...] = ()
        self.moves_dynamics = False
        self._tables = TransitionTables(model.lower_mdp(x), model.checked_upper_reward(x))
        self._start = np.cumsum(model.start_distribution(x))
        self.commit(x)

    def commit(self, upper_params: FloatArray) -> None:
        """Make x the one that `upper_reward` and `reward` are computed for, as `reward` does."""
        self._x, self._reward = upper_params, self.model.lower_mdp(upper_params).reward
        # Rewards that no return counts are none.
        counted = self.returns is not None
        upper_reward = self.model.checked_upper_reward(upper_params)
        self._upper_reward = upper_reward if counted else np.zeros_like(upper_reward)

    def configure(self, environment: Any, upper_params: FloatArray) -> bool:
        """Return False, as x enters the rewards alone."""
        return False

    def transition_score(
        self,
        upper_params: FloatArray,
        observations: Batch,
        actions: Batch,
        next_observations: Batch,
    ) -> FloatArray:
        """Return zeros, `[B, D]`, as x enters the rewards alone."""
        return np.zeros((len(observations), upper_params.size))

    def make_environment(self) -> gym.Env[int, int]:
        """Return a fresh environment of the follower."""
        environment = _Transitions(
            self.observation_space, self.lower_space, self._tables, self._start
        )
        return TimeLimit(environment, self.episode_steps)

    def reward(self, upper_params: FloatArray, observations: Batch, actions: Batch) -> FloatArray:
        """Return the follower's reward r_x for each entry of a batch, `[B]`."""
        if not np.array_equal(upper_params, self._x):
            self.commit(upper_params)
        return self._reward[observations.astype(np.intp), actions.astype(np.intp)]

    def reward_vjp(
        self, upper_params: FloatArray, observations: Batch, actions: Batch, weights: FloatArray
    ) -> FloatArray:
        """Return sum_b weights(b) dr_x(s_b, a_b)/dx, shape of x; `weights` is `[B]`."""
        return self.model.through_reward(upper_params, self._summed(observations, actions, weights))

    def reward_jacobian(
        self, upper_params: FloatArray, observations: Batch, actions: Batch
    ) -> FloatArray:
        """Return dr_x/dx for each entry of a batch, `[B, D]`."""
        pairs = np.stack([observations, actions]).astype(np.intp)
        found, at = np.unique(pairs, axis=1, return_inverse=True)
        one = np.ones(1)
        rows = [self.reward_vjp(upper_params, s[None], a[None], one).ravel() for s, a in found.T]
        return np.stack(rows)[at.ravel()]

    def upper_reward(self, observations: Batch, actions: Batch, rewards: FloatArray) -> FloatArray:
        """Return the leader's reward for each entry of a batch, `[B]`, under the last x."""
        return self._upper_reward[observations.astype(np.intp), actions.astype(np.intp)]

    def direct_part(
        self, upper_params: FloatArray, played: LearntEpisodes
    ) -> tuple[float, FloatArray]:
        """Return 0, and the derivative of the leader's return at a fixed policy, shape of x."""
        if self.returns is None:
            return 0.0, np.zeros(upper_params.shape)
        visits = self.visits(played, self.upper_gamma)
        return 0.0, np.array(self.model.upper_reward_vjp(upper_params, visits))

    def visits(self, played: LearntEpisodes, gamma: float) -> FloatArray:
        """Return mean discounted visits of pairs in episodes, `[S, A]`."""
        late = np.power(gamma, np.arange(len(played.alive)))[:, None]
        weights = np.broadcast_to(late, played.alive.shape)[played.alive] / played.num_episodes
        return self._summed(*played.as_batch, weights)

    def _summed(self, states: Batch, actions: Batch, weights: FloatArray) -> FloatArray:
        """Return weights of steps `[B]`, summed for each state and action, `[S, A]`."""
        shape = self.model.num_states, self.model.num_actions
        pairs = states.astype(np.intp) * shape[1] + actions.astype(np.intp)
        sums = np.bincount(pairs, weights, minlength=shape[0] * shape[1])
        return sums.astype(np.float64, copy=False).reshape(shape)


class DeepMethod(Estimator):
    """A method of games whose follower learns, for tabular ones.

    Attributes:
        defaults: Options that suit tables, in place of the estimator's own; each is replaced as a
            whole by one that is given.
    """

    begins_alike = False  # there are many episodes, whose mean over answers is the exact one

    # A step of a table costs next to nothing; an update of a network is what takes the time. So
    # there are many episodes, one critic is enough, and it learns fast, as x moves.
    defaults: ClassVar[Mapping[str, Any]] = {
        "episodes": 1024,
        "inner_steps": 600,
        "first_inner_steps": 8000,
        "inner_options": {"learning_rate": 3e-3, "policy_kwargs": {"n_critics": 1}},
    }
    _game: TableGame

    def __init__(self, model: TabularModel, **options: Any) -> None:
        """Bind the method to a model, see `TableGame`; options replace those of `defaults`."""
        super().__init__(TableGame(model), **{**self.defaults, **options})

    def response_term(self, upper_params: FloatArray, played: LearntEpisodes) -> Estimate:
        """Return that of the leader's return; see `Estimator`."""
        if self._game.returns is None:
            return Estimate(np.zeros(upper_params.shape))
        return super().response_term(upper_params, played)  # type: ignore[safe-super]

    def other_terms(
        self, upper_params: FloatArray, played: LearntEpisodes
    ) -> tuple[float, FloatArray, FloatArray, int]:
        """Return the terms beside the return, and the return's direct part; see `Estimator`."""
        game, model, x = self._game, self._game.model, upper_params
        value, direct = game.direct_part(x, played)
        response = np.zeros(x.shape)
        if not game.others:
            return value, direct, response, 0
        policy = self.follower.probabilities(np.arange(model.num_states))
        sampler = model.sampler(x, policy)
        blocks: list[Episodes] = []
        plan = played.num_episodes, game.episode_steps, self._rng
        if any(scope_of(term) == "policy" for term in game.others):
            # Not those that were played, in which a time limit looks like an end.
            blocks = list(sampler.episodes(*plan))
        outcome = seen_outcome(model, x, policy, blocks)
        for term in game.others:
            upper = term.evaluate(outcome)
            value += upper.value
            direct += model.direct_part(x, upper)
            if upper.responds:
                signed = policy_response(model, upper, policy, sampler, *plan)
                response += model.through_reward(x, signed)
        return value, direct, response, sampler.samples

    def answer(
        self, played: LearntEpisodes, upper: float, lower: float, **common: Any
    ) -> DeepResponse:
        """Return the response to x; see `Estimator`."""
        game = self._game
        policy = self.follower.probabilities(np.arange(game.model.num_states))
        visits = game.visits(played, game.gamma).sum(axis=1)
        entropy = -(policy * np.log(np.maximum(policy, np.finfo(np.float64).tiny))).sum(axis=1)
        return DeepResponse(
            policy=policy,
            occupancy=(1.0 - game.gamma) * visits,
            lower_value=lower + game.temperature * float(visits @ entropy),
            **common,
        )


# At first the critic knows nothing, and its errors decide where the leader goes.
CRITIC = {"critic_updates": 300, "first_critic_updates": 1500}


class DeepTrace(DeepMethod, LearntTrace):
    """`LearntTrace` on a tabular model."""

    defaults = {**DeepMethod.defaults, **CRITIC}


class DeepBCHG(DeepMethod, LearntBCHG):
    """`LearntBCHG` on a tabular model."""

    defaults = {**DeepMethod.defaults, **CRITIC}


class DeepHPGD(DeepMethod, LearntHPGD):
    """`LearntHPGD` on a tabular model."""


class DeepSoBiRL(DeepMethod, LearntSoBiRL):
    """`LearntSoBiRL` on a tabular model."""


class DeepScore(DeepMethod, LearntScore):
    """`LearntScore` on a tabular model."""


class _Transitions(gym.Env[int, int]):
    """Transitions of a tabular model; rewards are the leader's at the initial x."""

    def __init__(
        self,
        observation_space: spaces.Discrete,
        action_space: spaces.Discrete,
        tables: TransitionTables,
        start: FloatArray,
    ) -> None:
        self.observation_space: Any = observation_space
        self.action_space: Any = action_space
        self._tables, self._start, self._state = tables, start, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        drawn = self.np_random.random() * self._start[-1]
        self._state = int(np.searchsorted(self._start, drawn, side="right"))
        return self._state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self._state, over, _, upper_reward = self._tables.sample(
            self._state, int(action), self.np_random.random()
        )
        return self._state, upper_reward, over, False, {}


def _terms(model: TabularModel) -> tuple[DiscountedReturn | None, list[Objective]]:
    """Return the leader's return and the other terms; raise a `TypeError` if they do not suit."""
    terms = flattened(model.objective)
    returns = [term for term in terms if isinstance(term, DiscountedReturn)]
    others = [term for term in terms if not isinstance(term, DiscountedReturn)]
    for term in others:
        if scope_of(term) in ("steps", "fragments"):
            raise TypeError(
                f"the leader's objective in {model.name} has a {type(term).__name__}, and deep "
                "methods need discounted returns and terms that evaluate the policy or x; take a "
                "method with a table or a model"
            )
    if len(returns) > 1:
        raise TypeError(
            f"the leader's objective in {model.name} has {len(returns)} discounted returns, and "
            "deep methods need one; take a method with a table or a model"
        )
    return returns[0] if returns else None, others
