"""A game that weighs the terms of a reward, which the environment evaluates at each step."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike

from ..core.checks import check_at_least, check_flag, finite_array, first_line, unknown_name
from ..core.mdp import FloatArray
from ..rendering.canvas import pygame
from .base import View
from .learnable import check_spaces
from .parametric import ParametricGame
from .sources import EnvLike, Source, time_limit
from .terms import CONSTANT, OWN_REWARD, Objective, RecordTerms, Terms

if TYPE_CHECKING:
    from ..episodes.recorded import Batch

__all__ = ["DesignGame", "WeighedTerms"]

# Spreads below this share of a term's largest size are rounding.
ROUNDING = 1e-9

# Steps after which two copies of an environment, of one seed, are compared.
COMPARED = 8


class WeighedTerms:
    """r_x = sum_i x_i term_i / scale_i, a reward model that reads nothing but terms."""

    def __init__(self, scales: FloatArray) -> None:
        """Weigh terms of so many units, `[K]`, positive."""
        self._scales = scales
        self.num_params = len(scales)

    def initial_params(self) -> FloatArray:
        """Return zeros: at first there is no reward."""
        return np.zeros(self.num_params)

    def rewards(
        self, upper_params: FloatArray, observations: Batch, actions: Batch, terms: Batch
    ) -> FloatArray:
        """Return r_x for each entry of a batch, `[B]`; `terms` is `[B, K]`."""
        return np.asarray(terms, np.float64) @ (upper_params / self._scales)

    def vjp(
        self,
        upper_params: FloatArray,
        observations: Batch,
        actions: Batch,
        weights: FloatArray,
        terms: Batch,
    ) -> FloatArray:
        """Return sum_b weights(b) dr_x/dx, `[K]`; see `RewardModel`."""
        return weights @ self.jacobian(upper_params, observations, actions, terms)

    def jacobian(
        self, upper_params: FloatArray, observations: Batch, actions: Batch, terms: Batch
    ) -> FloatArray:
        """Return dr_x/dx for each entry of a batch, `[B, K]`; see `WithJacobian`."""
        return np.asarray(terms, np.float64) / self._scales


class DesignGame(ParametricGame):
    """Any environment as a game about its reward: x weighs terms that are evaluated at each step.

    ## Description
    The follower's reward is r_x = sum_i x_i term_i / scale_i; the leader's is an objective, by
    default the environment's own reward. Terms and objective are functions of a whole step,
    (observation, action, next_observation, info), or names of entries of `info`; see
    `bilevel_gym.envs.terms`. What they say is kept with the step. So r_x is known of actions that
    were taken, and of no others.

    Terms differ in size. Their scales are their standard deviations in a first run of uniform
    actions (where they do not vary, their largest size, or 1), so that one box and one temperature
    suit every environment; `weights(x)` are those of the raw terms.

    ## Upper Level
    x in [-`upper_bound`, `upper_bound`]^K, in units of 1 / scale; it starts at 0.

    ## Lower Level, Spaces, Rewards, Episode End and Info
    See `ParametricGame`; `info["terms"]` has the terms of a step, float64 `[K]`.

    Example:
        >>> import gymnasium as gym
        >>> def energy(observation, action, next_observation, info):
        ...     return {"speed": abs(next_observation[1]), "effort": -(action[0] ** 2)}
        >>> game = DesignGame("MountainCarContinuous-v0", energy, own_reward=False)
        >>> game.term_names, game.upper_space.shape
        (('speed', 'effort', 'constant'), (3,))

    Attributes:
        term_names: Names of the terms, K of them.
        scales: What a term is divided by, `[K]`.
        measured_steps: Environment steps that were made to find the scales.
        episode_length: Mean steps of an episode then; if none ended, those it is cut after, or inf.
    """

    leader_does, follower_does = "weighs terms", "acts"
    leader_wants = "its own objective to be high"
    follower_wants = "a high sum of the weighed terms"

    def __init__(
        self,
        env: EnvLike,
        terms: Terms,
        *,
        objective: Objective | None = None,
        own_reward: bool = True,
        constant: bool = True,
        env_kwargs: Mapping[str, Any] | None = None,
        episode_steps: int | None = None,
        measured_steps: int = 500,
        scales: ArrayLike | None = None,
        seed: int = 0,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        """Set up the game, and measure its terms.

        Args:
            env: The environment; see `ParametricGame`.
            terms: The terms; see `bilevel_gym.envs.terms.RecordTerms`.
            objective: The leader's reward; see there.
            own_reward: Whether the environment's own reward is one more term, "own_reward". A
                vector of rewards is none.
            constant: Whether there is one more term, "constant", that is -1 in each step: where
                episodes may end, it decides how soon they should.
            env_kwargs: Arguments of the environment.
            episode_steps: Steps after which episodes are cut; None for its own limit.
            measured_steps: Steps of uniform actions in which terms are measured, at least 1.
            scales: What terms are divided by, positive, `[K]`; None to measure it.
            seed: Seed of the measurement.
            render_mode: None, "human" or "rgb_array".
            **options: Other arguments of `ParametricGame`.

        Raises:
            TypeError: If the environment, terms or objective are none.
            ValueError: If terms or objective are not finite numbers, or names are unknown or
                change; the environment cannot be seeded; or as in `ParametricGame`.
        """
        source = Source(env, env_kwargs, episode_steps)
        steps = check_at_least("measured_steps", measured_steps, 1)
        plain = source.make()
        check_spaces(plain)
        first = list(_uniform_steps(plain, min(COMPARED, steps), seed))
        also = [CONSTANT] if check_flag("constant", constant) else []
        if check_flag("own_reward", own_reward) and np.ndim(first[0][1]) == 0:
            also.insert(0, OWN_REWARD)
        self._recorded = partial(RecordTerms, terms=terms, objective=objective, also=also)
        watched = self._recorded(source.make())
        if watched.unwrapped is plain.unwrapped:
            raise ValueError(
                f"{source.name} must make a new environment each time, as learners have copies of "
                "their own, and returned the same one twice"
            )
        found = list(_uniform_steps(watched, steps, seed))
        if any(not np.array_equal(a[0], b[0]) for a, b in zip(first, found, strict=False)):
            warnings.warn(
                f"{source.name} does not go the same way twice, by the same seed and actions: "
                "results cannot be repeated",
                stacklevel=2,
            )
        self.measured_steps, self.term_names = len(found), watched.names
        ended = sum(over for *_, over in found)
        self.episode_length = len(found) / ended if ended else time_limit(watched)
        plain.close()
        watched.close()
        values = np.array([info["terms"] for _, _, info, _ in found])
        if scales is None:
            self.scales = _scales(values)
            own = len(self.term_names) - len(also)
            _warn_of_constants(self.term_names[:own], values[:, :own])
        else:
            self.scales = finite_array("scales", scales, (len(self.term_names),), "[K]")
            if not (self.scales > 0.0).all():
                raise ValueError(f"`scales` must be positive, got {self.scales.tolist()}")
        model: Any = WeighedTerms(self.scales)  # a reward model with one argument more
        super().__init__(source, model, render_mode=render_mode, **options)

    def make_environment(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Return a fresh copy of the environment, which evaluates the terms."""
        return self._recorded(super().make_environment(render_mode), names=self.term_names)

    @property
    def title(self) -> str:
        """The name of the environment."""
        return self._source.name

    def weights(self, upper_params: ArrayLike) -> dict[str, float]:
        """Return the weight of each raw term under x, by name: r_x is the sum of their products."""
        x = self.validate_upper_params(upper_params)
        return dict(zip(self.term_names, (x / self.scales).tolist(), strict=True))

    def of_weights(self, weights: Mapping[str, float]) -> FloatArray:
        """Return the x of weights of raw terms by name, 0 for those that are not named.

        Raises:
            ValueError: If a name is unknown, or x is not in the box.
        """
        for name in weights:
            if name not in self.term_names:
                raise ValueError(unknown_name("term", name, self.term_names))
        raw = np.array([float(weights.get(name, 0.0)) for name in self.term_names])
        return self.validate_upper_params(raw * self.scales)

    def draw(self, view: View) -> pygame.Surface:
        """Draw what the environment shows, and the weights below."""
        headline = "the leader's x: weight of each term, over its spread"
        return self._with_bars(super().draw(view), view, self.term_names, headline)


def _uniform_steps(
    env: gym.Env[Any, Any], steps: int, seed: int
) -> Iterator[tuple[Any, Any, dict[str, Any], bool]]:
    """Yield observation, reward, info and whether it ends of steps with uniform actions."""
    actions = copy.deepcopy(env.action_space)
    actions.seed(seed)
    try:
        env.reset(seed=seed)
    except TypeError as error:
        raise ValueError(
            f"`reset` of {env} must take `seed`, as Gymnasium's does: {first_line(error)}"
        ) from error
    over = False
    for _ in range(steps):
        if over:
            env.reset()
        observation, reward, terminated, truncated, info = env.step(actions.sample())
        over = bool(terminated or truncated)
        yield copy.copy(observation), reward, info, over


def _scales(values: FloatArray) -> FloatArray:
    """Return the standard deviation of each term, `[K]`, of values `[B, K]`.

    Of one that does not vary, it is its largest size, or 1.
    """
    largest, spread = np.abs(values).max(axis=0), values.std(axis=0)
    scales = np.where(spread > ROUNDING * largest, spread, largest)
    return np.where(scales > 0.0, scales, 1.0)


def _warn_of_constants(names: Sequence[str], values: FloatArray) -> None:
    """Warn of terms that were the same in all steps, of values `[B, K]`."""
    flat = [name for name, spread in zip(names, np.ptp(values, axis=0), strict=True) if not spread]
    if flat:
        warnings.warn(
            f"the same in all of {len(values)} steps of uniform actions: "
            f"{', '.join(map(repr, flat))}; such a term counts only if it changes later",
            stacklevel=3,
        )
