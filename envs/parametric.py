"""A game made of any Gymnasium environment, with a reward r_x of the follower.

There is no model: the follower learns, and the hyper-gradient is estimated from its episodes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from ..core.checks import (
    check_at_least,
    check_choice,
    check_flag,
    check_in_box,
    check_positive,
    check_probability,
    received,
)
from ..core.mdp import FloatArray
from ..core.plugins import imported_function
from ..episodes.recorded import as_argument
from ..methods import LEARNT_METHODS
from ..methods.registry import DYNAMICS_METHODS, PREFERENCE_METHODS
from ..model.base import ENTROPIES
from ..model.judges import Judge, Preferences
from ..model.responses import EpisodicResponse, Response
from ..rendering.canvas import HEADER_HEIGHT, THEME, new_page, new_surface, pygame
from ..rendering.picture_charts import Axis, BarChart, draw_bars
from ..rewards.images import is_image_space
from ..rewards.knobs import WithKnobs, checked_weight
from ..rewards.models import (
    FEW,
    FixedReward,
    RewardModel,
    WithJacobian,
    jacobian,
    make_reward_model,
)
from .base import BilevelEnv, View, upper_box
from .learnable import (
    check_spaces,
    checked_array,
    checked_rewards,
    try_rewards,
    uniform_entropy,
)
from .parameters import EnvParameters, WithParameters
from .sources import EnvLike, Source, time_limit
from .terms import OWN_REWARD, RecordTerms

if TYPE_CHECKING:
    from torch.nn import Module

    from ..episodes.recorded import Batch, LearntEpisodes

__all__ = ["ParametricGame"]

PICTURE_WIDTH = 500

# The narrowest picture, with room for a chart of x; its height below what is seen of the game.
LEAST_WIDTH, BARS_HEIGHT = 640, 240

# Kinds of games: those whose leader learns from preferences, and whose x changes the environment.
ASKS = "a game whose reward is learnt from preferences"
MOVES = "a game whose x changes the dynamics of the environment, which that method takes as fixed"

# End of the axis of a chart of x, at most: weights of terms of order one are hardly larger; and the
# most entries that are drawn where there is not much room.
LONGEST_BAR, FEW_BARS = 4.0, 12


class ParametricGame(BilevelEnv):
    """Any Gymnasium environment as a game: x are the parameters of the follower's reward.

    ## Description
    The follower acts in the environment with the reward r_x(s, a), a linear function of features or
    a network; the leader chooses x, and its reward is the environment's own, or another function of
    the same steps. Only episodes are seen: the methods of `bilevel_gym.learnt` train the follower
    and estimate the hyper-gradient.

    ## Upper Level
    x, the parameters of the reward model, within `-upper_bound`..`upper_bound`, followed by the
    price of a step (`constant_knob`) and the weight of the environment's own reward in r_x
    (`own_reward="knob"`) where there are such. The leader maximises its expected return, discounted
    by `upper_gamma`.

    With `env_params` x also sets parameters of the environment, its last entries: masses, lengths,
    prices. An x is in force from the next episode on. Methods are then "zero-order", and "score"
    where the environment declares how its transitions depend on them
    (`bilevel_gym.envs.parameters.DeclaresScore`); others take the dynamics as given and refuse.

    With `preferences` it learns r_x from a judge who is shown pairs of fragments of episodes, H
    steps each, or fewer where one terminates, and tells which is better. It maximises the expected
    log-likelihood of the answers, log sigmoid(+-(R_x(d_1) - R_x(d_2))) with R_x the sum of r_x
    along a fragment d, see `bilevel_gym.model.preferences`; its methods are those of
    `bilevel_gym.learnt.preference_methods`. The environment's own reward, or `upper_reward`, is
    what the synthetic judge goes by; nothing learns from it.

    ## Lower Level
    The environment with the reward r_x, the discount `gamma` and the entropy weighed by
    `temperature`, relative to that of the uniform policy: the follower's reward is
    r_x - temperature log A where there are A actions, and r_x - temperature n log 2 for continuous
    ones, n numbers that learners scale to [-1, 1]. At r_x = 0 the follower is then uniform and has
    the value 0, however long it stays; with `entropy="plain"`, the convention of soft actor-critic,
    each step in which it stays alive is worth up to temperature log A. Where episodes never
    terminate, both have the same policies.

    ## Spaces, Rewards and Episode End
    Those of the environment, and the follower's reward; episodes are cut after `episode_steps`.
    The leader observes means over episodes of its return, the follower's return and the length,
    `Box(-inf, inf, [3])`; its reward F(x) is estimated from episodes.

    ## Info
    Leader: `objective` and `objective_se` (its standard error), `hyper_gradient` and
    `hyper_gradient_se` [D], `hyper_gradient_cosine` (that the errors leave, as expected),
    `upper_params` [D], `inner_samples` (environment steps, the learner's and those of the episodes
    played), `critic_loss`, `critic_explained` (share of the variance of watched sums), `cut_share`
    (of the episodes), `kl_predicted` and `kl_measured` (of the follower's policy from the one
    before) and `trust` in the hyper-gradient, 0..1. What a method cannot tell is absent; see
    `bilevel_gym.model.responses.LearntResponse`. Follower and game: that of the environment, and
    `upper_reward`.

    Example:
        >>> import numpy as np
        >>> from bilevel_gym.envs import ParametricGame
        >>> def upright(observations, actions):
        ...     return np.maximum(observations[:, :1], 0.0)
        >>> model = {"kind": "linear", "features": upright, "num_params": 1}
        >>> game = ParametricGame("Pendulum-v1", model)
        >>> game.upper_space.shape, game.lower_space.shape
        ((1,), (1,))
    """

    kind = "a game whose follower learns, without a model or a table"
    methods = LEARNT_METHODS
    default_method = "trace"
    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 30}
    term_names: tuple[str, ...] = ()
    fragment_steps: int  # where there are preferences
    judge: Judge
    moves_dynamics = False
    parameters: EnvParameters | None = None

    def __init__(
        self,
        env_id: EnvLike | Source,
        reward_model: RewardModel | Mapping[str, Any] | Module | None = None,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        env_params: Mapping[str, Any] | None = None,
        episode_steps: int | None = None,
        upper_reward: Any = None,
        gamma: float = 0.95,
        temperature: float = 0.05,
        entropy: str = "relative",
        upper_gamma: float | None = None,
        upper_bound: float = 10.0,
        initial_upper_params: ArrayLike | None = None,
        constant_knob: bool = False,
        own_reward: float | str | None = None,
        preferences: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Set up the game.

        Args:
            env_id: The environment, of which learners make copies of their own: its Gymnasium id;
                a function that makes a new one each time, or "module:function"; or one to copy.
            reward_model: r_x: a `bilevel_gym.rewards.models.RewardModel`, a specification
                of one in JSON types, or a module of PyTorch; see
                `bilevel_gym.rewards.models.make_reward_model`. With `env_params` it may be None:
                the follower's reward is the environment's own, times `own_reward` (1).
            env_kwargs: Arguments of the environment, or of the function.
            env_params: What x sets in the environment between episodes, (low, high) by name of an
                attribute or an argument, see `bilevel_gym.envs.parameters`: the last entries of x,
                in this order, in the units of the environment. They start at what the environment
                has, or else in the middle.
            episode_steps: Steps after which its episodes are cut, at least 1; None for its own
                limit.
            upper_reward: The leader's reward, (observations, actions, rewards) -> `[B]` on batches,
                or "module:function"; None for the environment's own.
            gamma: The follower's discount, in [0, 1).
            temperature: The weight of its policy's entropy, positive. The entropy of continuous
                actions is that of the learner, of actions scaled to [-1, 1].
            entropy: "relative" to the uniform policy, or "plain".
            upper_gamma: The leader's discount, in [0, 1]; None for 1, the return of an episode.
            upper_bound: Bound of every entry of x, positive.
            initial_upper_params: x at the start, in the box; None for that of the reward model.
            constant_knob: Whether x has one more entry, the price of each step: where episodes can
                end, it decides how soon they should. It starts at 0.
            own_reward: The weight of the environment's own reward in r_x; "knob" for one more entry
                of x, the last, which starts at 0; None for no such term.
            preferences: How fragments are compared, if r_x is learnt from preferences:
                `fragment_steps` (H, 25), and a judge: `judge`, a function (pairs, rng) -> answers
                `[M]`; `compare`, one (first, second) -> answer of two fragments; or a synthetic one
                of some `rationality` (1). Answers are from 0 (the second is better) to 1 (the first
                is), NaN for none; see `bilevel_gym.model.judges`.
            render_mode: None, "human" or "rgb_array".

        Raises:
            TypeError: If `env_id` is no environment, `reward_model` no reward model, `env_kwargs`
                no mapping or `upper_reward` no function.
            ValueError: If a range is violated, the environment has no limit of steps, or its spaces
                are not ones that the followers of `bilevel_gym.sb3` can learn in.
            gymnasium.error.Error: If there is no such environment.
        """
        source = env_id
        if not isinstance(source, Source):
            source = Source(source, env_kwargs, episode_steps)
        self._source = source
        if env_params is not None:
            self._moves(env_params, preferences)
            if reward_model is None:
                reward_model, own_reward = FixedReward(), 1.0 if own_reward is None else own_reward
        self._upper_function = None
        if upper_reward is not None:
            self._upper_function = imported_function("upper_reward", upper_reward)
        self._own_reward = checked_weight(own_reward)
        if self._own_reward is not None:
            self.term_names = (OWN_REWARD,)
        self._asks(preferences)
        bound = check_positive("upper_bound", upper_bound)
        self._frames = None if render_mode is None else "rgb_array"
        self.environment = self.make_environment(self._frames)
        check_spaces(self.environment)
        steps = min(time_limit(self.environment), self._source.limit or math.inf)
        if math.isinf(steps):
            raise ValueError(
                f"`episode_steps` must say when episodes of {self._source.name!r} are cut: it has "
                "no limit of its own"
            )
        self.episode_steps = int(steps)
        if preferences is not None:
            check_at_least("episode_steps", self.episode_steps, self.fragment_steps)
        acting, seen = self.environment.action_space, self.environment.observation_space
        self.reward_model = make_reward_model(reward_model, seen, acting)
        if check_flag("constant_knob", constant_knob) or self._own_reward is not None:
            self.reward_model = WithKnobs(
                self.reward_model, constant=constant_knob, own=self._own_reward
            )
        start = self.reward_model.initial_params()
        low, high = np.full(len(start), -bound), np.full(len(start), bound)
        if self.parameters is not None:
            start = np.concatenate([start, self.parameters.start])
            low = np.concatenate([low, self.parameters.low])
            high = np.concatenate([high, self.parameters.high])
        if not len(start):
            raise ValueError("`reward_model` must have parameters, or `env_params` be given: x")
        super().__init__(
            upper_space=upper_box(low, high, start.shape),
            lower_space=acting,
            observation_space=seen,
            leader_observation_space=spaces.Box(-np.inf, np.inf, (3,), np.float32),
            gamma=gamma,
            temperature=temperature,
            initial_upper_params=start if initial_upper_params is None else initial_upper_params,
            render_mode=render_mode,
        )
        self.upper_gamma = check_probability(
            "upper_gamma", 1.0 if upper_gamma is None else upper_gamma
        )
        self.entropy = check_choice("entropy", entropy, ENTROPIES)
        relative = self.entropy == "relative"
        self.entropy_offset = self.temperature * uniform_entropy(acting) if relative else 0.0
        # A task with options of its own has a method of its own, too.
        direct = isinstance(self.reward_model, WithJacobian) and not is_image_space(seen)
        few = direct and len(start) <= FEW
        if self.parameters is not None and type(self).default_method == "trace":
            self.default_method = "score" if few and self.parameters.scored else "zero-order"
        elif self.default_method == "trace" and not self.method_options:
            self.default_method = "score" if few else "trace"
        self.model = self  # there is no other
        self._observation: Any = None
        try_rewards(self)

    def _asks(self, preferences: Mapping[str, Any] | None) -> None:
        """Make it a game whose leader learns from preferences, if there are any."""
        if preferences is None:
            return
        made = Preferences.made(preferences)
        self.fragment_steps, self.judge = made.fragment_steps, made.judge
        if self.term_names:
            raise ValueError(
                "`preferences` are explained by observations and actions, and the reward of "
                f"{self.title} reads terms of the environment, got {list(self.term_names)}"
            )
        self.kind = ASKS
        self.methods, self.default_method = PREFERENCE_METHODS, "direct"

    def _moves(self, env_params: Mapping[str, Any], preferences: Any) -> None:
        """Make it a game whose x changes the environment."""
        if preferences is not None:
            raise ValueError(
                "`preferences` teach a reward in an environment that stays as it is: give either "
                f"them or `env_params`, got {received(env_params)} with them"
            )
        self.parameters = EnvParameters(self._source, env_params)
        self.moves_dynamics, self.kind, self.methods = True, MOVES, DYNAMICS_METHODS

    def make_environment(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Return a fresh copy of the environment; learners act in copies of their own."""
        environment: gym.Env[Any, Any]
        if self.parameters is None:
            environment = self._source.make(render_mode)
        else:
            environment = WithParameters(self.parameters, render_mode)
        return environment if self._own_reward is None else RecordTerms(environment, OWN_REWARD)

    def configure(self, environment: gym.Env[Any, Any], upper_params: FloatArray) -> bool:
        """Set the parameters of a copy's episodes that begin from now on; see `LearntGame`."""
        if self.parameters is None:
            return False
        values = upper_params[self.reward_model.num_params :]
        return bool(environment.get_wrapper_attr("set_parameters")(values))

    def transition_score(
        self,
        upper_params: FloatArray,
        observations: Batch,
        actions: Batch,
        next_observations: Batch,
    ) -> FloatArray:
        """Return dlog P(s'|s, a)/dx for each entry of a batch, `[B, D]`; see `LearntGame`.

        It raises what `EnvParameters.scores` raises.
        """
        x = self._of_reward(upper_params)
        found = np.zeros((len(observations), len(upper_params)))
        if self.parameters is not None:
            seen = observations, actions, next_observations
            found[:, len(x) :] = self.parameters.scores(upper_params[len(x) :], *seen)
        return found

    @property
    def title(self) -> str:
        """The name of the task's class, or of the environment."""
        return self._source.name if type(self) is ParametricGame else super().title

    # Rewards -----------------------------------------------------------------------------------

    def reward(
        self,
        upper_params: FloatArray,
        observations: Batch,
        actions: Batch,
        terms: FloatArray | None = None,
    ) -> FloatArray:
        """Return the follower's reward for each entry of a batch, `[B]`; see `LearntGame`.

        It is r_x, less `temperature` times the entropy of the uniform policy where entropy is
        relative to that.

        Raises:
            ValueError: If the reward model returns something else.
        """
        said, x = as_argument(terms), self._of_reward(upper_params)
        rewards = self.reward_model.rewards(x, observations, actions, **said)
        of = "`rewards` of the reward model"
        return checked_rewards(of, rewards, observations, actions) - self.entropy_offset

    def reward_vjp(
        self,
        upper_params: FloatArray,
        observations: Batch,
        actions: Batch,
        weights: FloatArray,
        terms: FloatArray | None = None,
    ) -> FloatArray:
        """Return sum_b weights(b) dr_x(s_b, a_b)/dx, shape of x; `weights` is `[B]`.

        Raises:
            ValueError: If the reward model returns something else.
        """
        said, x = as_argument(terms), self._of_reward(upper_params)
        gradient = self.reward_model.vjp(x, observations, actions, weights, **said)
        found = checked_array("`vjp` of the reward model", gradient, np.shape(x), "[D]")
        return np.pad(found, (0, len(upper_params) - len(x)))

    def reward_jacobian(
        self,
        upper_params: FloatArray,
        observations: Batch,
        actions: Batch,
        terms: FloatArray | None = None,
    ) -> FloatArray:
        """Return dr_x/dx for each entry of a batch, `[B, D]`; see `LearntGame`.

        Raises:
            ValueError: If the reward model returns something else.
        """
        x = self._of_reward(upper_params)
        found = jacobian(self.reward_model, x, observations, actions, terms)
        shape = len(observations), len(x)
        found = checked_array("`jacobian` of the reward model", found, shape, "[B, D]")
        return np.pad(found, ((0, 0), (0, len(upper_params) - len(x))))

    def _of_reward(self, upper_params: FloatArray) -> FloatArray:
        """Return the entries of x that are parameters of the reward."""
        return upper_params if self.parameters is None else upper_params[: -self.parameters.count]

    def upper_reward(self, observations: Batch, actions: Batch, rewards: FloatArray) -> FloatArray:
        """Return the leader's reward for each entry of a batch, `[B]`; see `LearntGame`."""
        if self._upper_function is None:
            return rewards
        upper = self._upper_function(observations, actions, rewards)
        return checked_rewards("`upper_reward`", upper, observations, actions)

    def direct_part(
        self, upper_params: FloatArray, played: LearntEpisodes
    ) -> tuple[float, FloatArray]:
        """Return F less the leader's return, and dF/dx at a fixed policy: zeros here."""
        return 0.0, np.zeros(upper_params.shape)

    def knob_names(self) -> tuple[str, ...]:
        """Return the names of the parameters of the environment, and x[i] of others."""
        names = super().knob_names()
        if self.parameters is None:
            return names
        return (*names[: self.reward_model.num_params], *self.parameters.names)

    # The follower's episode ----------------------------------------------------------------------

    def begin(self) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; the info is its own."""
        # All randomness is the game's own, in this episode and the next ones.
        drawn = int(self.np_random.integers(2**31))
        self.configure(self.environment, self._upper_params)
        self._observation, info = self.environment.reset(seed=drawn)
        self._over = False
        return copy.copy(self._observation), dict(info)

    def advance(
        self, upper_params: ArrayLike, action: Any
    ) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Make one transition of the follower under x; see `BilevelEnv.advance`."""
        self._check_under_way()
        move = self._checked_action(action)
        x = self.commit(upper_params)
        before, actions = np.asarray(self._observation)[None], move[None]
        self._observation, own, terminated, truncated, info = self.environment.step(
            move if move.shape else move.item()
        )
        # Terms, if there are any, are known when the step is made.
        said = as_argument(info["terms"][None] if self.term_names else None)
        reward = float(self.reward(x, before, actions, **said)[0])
        upper = float(self.upper_reward(before, actions, np.array([float(own)]))[0])
        self._over = bool(terminated or truncated)
        self._count(reward, upper)
        information = {**info, "upper_reward": np.float64(upper)}
        seen = copy.copy(self._observation)
        return seen, reward, bool(terminated), bool(truncated), information

    def _checked_action(self, action: Any) -> NDArray[Any]:
        """Return an action as an array of the space's own type, a copy."""
        space = self.lower_space
        if isinstance(space, spaces.Box):
            return check_in_box("action", action, space.low, space.high).astype(space.dtype)
        move = np.asarray(action)
        if move.dtype.kind not in "iu" or move.shape or not space.contains(move.item()):
            raise ValueError(f"`action` must be an integer in {space}, got {received(action)}")
        return move.astype(space.dtype)

    def observe(self, response: Response) -> NDArray[np.float32]:
        """Return the leader's and the follower's mean return and the mean length, float32 `[3]`."""
        if not isinstance(response, EpisodicResponse):
            raise TypeError(
                f"`response` must be an EpisodicResponse, got {type(response).__name__}"
            )
        return np.array(response.summary, dtype=np.float32)

    # Pictures ------------------------------------------------------------------------------------

    def view(self) -> View:
        """Return the follower's episode."""
        status = self._status(True)
        if self.kind == ASKS:  # what the environment pays is not the leader's
            names = {"leader's return": "true return"}
            status = tuple((names.get(name, name), value) for name, value in status)
        return View(
            title=self.headline("follower"),
            upper_params=self._upper_params,
            state=None,
            status=status,
        )

    def draw(self, view: View) -> pygame.Surface:
        """Draw what the environment shows, below a headline.

        Raises:
            RuntimeError: If the environment has no picture.
        """
        return self._page(view)

    def _page(self, view: View, beside: int = 0) -> pygame.Surface:
        """Return a picture of what the environment shows, with so much room on its right."""
        picture = self.environment.render() if self._frames else None
        if not isinstance(picture, np.ndarray):
            raise RuntimeError(f"{self._source.name} has no picture")
        shot = pygame.surfarray.make_surface(picture.swapaxes(0, 1))
        # Small screens, as those of Atari, are enlarged.
        shot = pygame.transform.scale_by(shot, max(1, round(PICTURE_WIDTH / shot.get_width())))
        width = max(LEAST_WIDTH, shot.get_width())
        size = (width + beside, HEADER_HEIGHT + shot.get_height())
        surface = new_page(size, view.title, view.status)
        surface.blit(shot, ((width - shot.get_width()) // 2, HEADER_HEIGHT))
        return surface

    def _with_bars(
        self, picture: pygame.Surface, view: View, names: Sequence[str], headline: str
    ) -> pygame.Surface:
        """Return a picture with a chart of x below it, `names` being those of its entries."""
        width, top = picture.get_width(), picture.get_height() + THEME.gap
        surface = new_surface((width, top + BARS_HEIGHT + THEME.margin // 2))
        surface.blit(picture, (0, 0))
        place = (THEME.margin, top, width - 2 * THEME.margin, BARS_HEIGHT)
        draw_bars(surface, place, self._bars(view, names, headline))
        return surface

    def draw_reward(
        self, surface: pygame.Surface, place: tuple[int, int, int, int], upper_params: FloatArray
    ) -> None:
        """Draw r_x in a rectangle, (left, top, width, height): by default x, if it has few entries.

        Subclasses may draw more of it.
        """
        if upper_params.size <= FEW_BARS:
            view = replace(self.view(), upper_params=upper_params)
            chart = self._bars(view, self.knob_names(), "the leader's x: parameters of the reward")
            draw_bars(surface, place, chart)

    def _bars(self, view: View, names: Sequence[str], headline: str) -> BarChart:
        """Return a chart of x, whose axis is the same at every x; longer bars are cut."""
        limit = min(round(float(self.upper_space.high.max()), 6), LONGEST_BAR)
        axis = Axis(-limit, limit, headline)
        return BarChart(axis, names, view.upper_params, ".2g", self.slopes(view))

    def close(self) -> None:
        """Close the window and the environment."""
        super().close()
        self.environment.close()
