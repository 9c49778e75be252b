"""The follower's seat."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, SupportsFloat, cast

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import ArrayLike, NDArray

from ..core.checks import check_keywords, received
from ..envs.ids import follower_id
from .observations import state_arrays
from .seats import GameT, Seat, registered_limit, take_seat

__all__ = ["LowerLevel"]


class LowerLevel(Seat[GameT], RecordConstructorArgs):
    """The follower's seat: x held fixed, an ordinary environment for any agent.

    Action and observation are the follower's; the reward is r_x(s, a). Info holds `upper_reward`,
    the leader's part of the step (without terms in x alone), and `action_mask` where actions vary.

    `gymnasium.make("NameFollower-vN", upper_params=x)` makes it by the follower's id of the task,
    whose time limit it has in any case.

    Example:
        >>> import bilevel_gym, gymnasium as gym, numpy as np
        >>> env = bilevel_gym.LowerLevel(gym.make("BilevelGridWorld-v0"), np.zeros(52))
        >>> state, info = env.reset(seed=0)
        >>> env.action_space, env.observation_space
        (Discrete(4), Discrete(52))
    """

    own_id = staticmethod(follower_id)

    if not TYPE_CHECKING:  # to type checkers and editors the constructor is `__init__` alone

        def __new__(cls, *args, **kwargs):
            """Raise a `TypeError` for an argument that is not known, or the game's."""
            game = getattr(args[0], "unwrapped", None) if args else None
            for name in kwargs:
                if game is not None and name in inspect.signature(type(game)).parameters:
                    raise TypeError(
                        f"`{name}` is an argument of the game {type(game).__name__}: make the game "
                        f"with it, gym.make(id, {name}=...)"
                    )
            check_keywords(cls, kwargs)
            return super().__new__(cls)

    def __init__(
        self,
        env: GameT | Seat[GameT] | gym.Env[Any, Any],
        upper_params: ArrayLike | None = None,
        *,
        observation: str = "state",
    ) -> None:
        """Initialise the follower's seat.

        Args:
            env: A game, in no seat or in one that this seat replaces.
            upper_params: The leader's x, held fixed, shape of the game's `upper_space`; None for
                the game's initial one.
            observation: "state", what the game shows. Where that is `Discrete(S)`, on which many
                deep learners stumble, also "one-hot", `Box(0, 1, [S])` float32; on maps also
                "coordinates", `Box(0, 1, [2])` float32: row and column from the top left corner
                (`[3]` in Taxi, where a cell is twenty states).

        Raises:
            TypeError: If a wrapper stands between the seat and the game.
            ValueError: If x is not finite, out of bounds or of the wrong shape, or the game's
                observations cannot be shown as asked.
        """
        inner, game, limit = take_seat(LowerLevel, env)
        self._shown = state_arrays(game, observation)
        committed = game.commit(game.initial_upper_params if upper_params is None else upper_params)
        shown: dict[str, Any] = {} if self._shown is None else {"observation": observation}
        RecordConstructorArgs.__init__(self, upper_params=committed.tolist(), **shown)
        gym.Wrapper.__init__(self, inner)
        self.upper_params = committed
        self.game = cast("GameT", game)
        self._options = {**shown, **({} if upper_params is None else {"upper_params": committed})}
        self._limit = registered_limit(game) if math.isinf(limit) else limit
        self.action_space = game.lower_space
        self.observation_space = (
            game.observation_space if self._shown is None else self._shown.space
        )
        game.draws_itself = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode under the fixed x.

        Raises:
            ValueError: If `options` names another x: this seat holds it fixed.
        """
        if options is not None and not (isinstance(options, Mapping) and len(options) == 0):
            given = [*options] if isinstance(options, Mapping) else options
            raise ValueError(
                f"the follower's seat takes no reset options, got {received(given)}; "
                "wrap again, LowerLevel(env, x), to change x"
            )
        self.upper_params = self.game.commit(self.upper_params)
        observation, info = self.env.reset(seed=seed, options={"upper_params": self.upper_params})
        return observation if self._shown is None else self._shown(observation), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Make one transition under the fixed x.

        Args:
            action: The follower's action.

        Raises:
            ResetNeeded: If no episode is under way.
            ValueError: If the action is not in the space; nothing changes.
        """
        # Straight to the game, past what `gymnasium.make` put between: the game refuses what it
        # must by itself, and the time limit is applied here.
        game = self.game
        result = game.advance(self.upper_params, action)
        if self._shown is None and game.elapsed_steps < self._limit:
            return result
        observation, reward, terminated, truncated, info = result
        if self._shown is not None:
            observation = self._shown(observation)
        truncated = truncated or game.elapsed_steps >= self._limit
        return observation, reward, terminated, truncated, info

    @property
    def limit(self) -> float:
        """Steps of an episode, inf where this seat counts none."""
        return self._limit

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions exist in the present state, bool `[A]`.

        Raises:
            AttributeError: If the follower's actions are not discrete.
        """
        masks: NDArray[np.bool_] = self.env.get_wrapper_attr("action_masks")()
        return masks
