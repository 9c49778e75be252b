"""The game between leader and follower as a parallel environment of PettingZoo.

`pip install -e ".[pettingzoo]"` brings PettingZoo.

Example:
    >>> from bilevel_gym.pettingzoo import parallel_env
    >>> env = parallel_env("BilevelGridWorld-v0")
    >>> observations, infos = env.reset(seed=0)
    >>> actions = {agent: env.action_space(agent).sample() for agent in env.agents}
    >>> observations, rewards, terminations, truncations, infos = env.step(actions)
    >>> sorted(rewards)
    ['follower', 'leader']
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, cast

import gymnasium as gym
from gymnasium.error import ResetNeeded

try:
    from pettingzoo import ParallelEnv
except ImportError as error:
    raise ImportError(
        "bilevel_gym.pettingzoo needs PettingZoo, which is not installed; run: "
        'pip install -e ".[pettingzoo]"'
    ) from error

from .core.checks import received
from .envs.base import BilevelEnv
from .envs.ids import follower_id
from .wrappers import LowerLevel

__all__ = ["JointGame", "parallel_env"]

LEADER, FOLLOWER = "leader", "follower"


class JointGame(ParallelEnv[str, Any, Any]):  # type: ignore[misc]  # which has no types
    """Both players of a game, who move at once, as agents "leader" and "follower".

    A step is one transition of the follower, s -> s', as in the game's own `step`:

    * Action. Leader: x, the game's `upper_space`, which he may choose anew in each step. Follower:
      a, the game's `lower_space`.
    * Observation, of both: the follower's state s', in the form that `observation` asks for.
    * Reward. Leader: his reward u_x(s, a) of the step, without terms in x alone (as the costs of x
      in some tasks); zero where F is no sum over steps. Follower: r_x(s, a), without entropy.
    * Info of the follower: `upper_params`, the x in force, float64; `action_mask`, int8, where
      actions vary (what does not exist changes nothing and has the worst reward there is); and what
      the environment of a follower who learns reports. The leader's is empty.
    * Episode end: that of the follower's episode, for both at once.

    A leader who keeps x against a follower who plays pi*(x) has the discounted return F(x), but for
    the terms in x alone. One who changes x from step to step plays another game: a Markov game.

    Attributes:
        game: The game.
    """

    def __init__(self, seat: LowerLevel[Any], name: str) -> None:
        """Initialise the environment with the follower's seat of a fresh game, and its name."""
        self._seat = seat
        self.game = cast("BilevelEnv", seat.game)
        self.render_mode = seat.render_mode
        self.metadata = {**seat.metadata, "name": name, "is_parallelizable": True}
        self.possible_agents = [LEADER, FOLLOWER]
        self.agents: list[str] = []
        # Spaces of its own for each agent: they are seeded one by one.
        shown = seat.observation_space
        self.observation_spaces = {LEADER: deepcopy(shown), FOLLOWER: deepcopy(shown)}
        spaces = {LEADER: self.game.upper_space, FOLLOWER: self.game.lower_space}
        self.action_spaces = deepcopy(spaces)

    def observation_space(self, agent: str) -> gym.Space[Any]:
        """Return what an agent observes."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gym.Space[Any]:
        """Return what an agent chooses from."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Start an episode.

        Args:
            seed: Seed of everything random that follows.
            options: `{"upper_params": x}` puts the leader at x instead of the game's initial x;
                others are ignored, as PettingZoo's tests ask.

        Raises:
            ValueError: If x is not in its space.
        """
        start = (options or {}).get("upper_params", self.game.initial_upper_params)
        self._seat.upper_params = self.game.commit(start)
        observation, info = self._seat.reset(seed=seed)
        self.agents = list(self.possible_agents)
        return self._seen(observation), self._infos(info)

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[
        dict[str, Any],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """Make one transition.

        Args:
            actions: `{"leader": x, "follower": a}`.

        Raises:
            ResetNeeded: If no episode is under way.
            ValueError: If an action is missing or not in its space.
        """
        if not self.agents:
            raise ResetNeeded("`step` needs an episode under way; call `reset` first")
        if not isinstance(actions, Mapping) or set(actions) != {LEADER, FOLLOWER}:
            raise ValueError(
                f'`actions` must be {{"leader": x, "follower": a}}, got {received(actions)}'
            )
        self._seat.upper_params = self.game.commit(actions[LEADER])
        observation, reward, terminated, truncated, info = self._seat.step(actions[FOLLOWER])
        rewards = {LEADER: float(info["upper_reward"]), FOLLOWER: float(reward)}
        if terminated or truncated:
            self.agents = []
        return (
            self._seen(observation),
            rewards,
            dict.fromkeys(self.possible_agents, terminated),
            dict.fromkeys(self.possible_agents, truncated),
            self._infos(info),
        )

    def render(self) -> Any:
        """Show the game: a `uint8 [height, width, 3]` frame, or a window for "human"."""
        return self._seat.render()

    def close(self) -> None:
        """Close the window, if there is one."""
        self._seat.close()

    def _seen(self, observation: Any) -> dict[str, Any]:
        return {LEADER: deepcopy(observation), FOLLOWER: observation}

    def _infos(self, info: dict[str, Any]) -> dict[str, dict[str, Any]]:
        told = {key: value for key, value in info.items() if key != "upper_reward"}
        told["upper_params"] = self._seat.upper_params.copy()
        return {LEADER: {}, FOLLOWER: told}


def parallel_env(
    id: str, *, observation: str = "state", render_mode: str | None = None, **options: Any
) -> JointGame:
    """Make a task as a parallel environment of PettingZoo.

    Args:
        id: Id of a registered task, such as "BilevelGridWorld-v0".
        observation: How discrete states are observed: "state", "one-hot" or "coordinates"; see
            `bilevel_gym.LowerLevel`.
        render_mode: None, "human" or "rgb_array".
        **options: Arguments of the game, and `max_episode_steps` of `gymnasium.make`.

    Raises:
        TypeError: If the game does not take an option.
        ValueError: If an option is out of range, or observations cannot be shown as asked.
        gymnasium.error.Error: If there is no such task.
    """
    if render_mode is not None:  # without a picture to draw, a game need not know about them
        options["render_mode"] = render_mode
    if not isinstance(id, str):
        raise TypeError(f"`id` must be the id of a task, got {received(id)}")
    own = follower_id(id)
    env = gym.make(own if own in gym.registry else id, **options)
    return JointGame(LowerLevel(env, observation=observation), id)
