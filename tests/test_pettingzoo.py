"""The joint game in PettingZoo: its own tests of the interface, and the game's numbers."""

from __future__ import annotations

import builtins
import sys
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from pettingzoo.test import parallel_api_test, parallel_seed_test
from pettingzoo.utils import parallel_to_aec

from bilevel_gym.pettingzoo import parallel_env

from .helpers import assert_identical, interior_point

ID = "BilevelGridWorld-v0"

# A task of each kind, with discrete and continuous actions, masks and a follower who learns.
GAMES: list[tuple[str, dict[str, Any]]] = [
    (ID, {"slip": 0.1}),
    (ID, {"observation": "one-hot"}),
    (ID, {"observation": "coordinates", "max_episode_steps": 7}),
    ("BilevelToll-v0", {}),
    ("BilevelMarkovGame-v0", {}),
    ("BilevelThermal-v0", {}),
    ("BilevelPendulum-v0", {}),
]
every_game = pytest.mark.parametrize(("game_id", "options"), GAMES)


def actions_of(env: Any) -> dict[str, Any]:
    return {agent: env.action_space(agent).sample() for agent in env.agents}


@every_game
def test_it_passes_the_tests_of_pettingzoo(game_id: str, options: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(parallel_env(game_id, **options), num_cycles=60)
        parallel_seed_test(lambda: parallel_env(game_id, **options), num_cycles=30)


@every_game
def test_a_step_is_that_of_the_game(game_id: str, options: dict[str, Any]) -> None:
    env = parallel_env(game_id, **options)
    plain = {name: value for name, value in options.items() if name == "slip"}
    game: Any = gym.make(game_id, **plain).unwrapped
    start = interior_point(game)
    observations, infos = env.reset(seed=5, options={"upper_params": start})
    state, info = game.reset(seed=5, options={"upper_params": start})
    shown = env._seat._shown or (lambda state: state)
    np.testing.assert_array_equal(infos["follower"].pop("upper_params"), start)
    assert env.possible_agents == env.agents == ["leader", "follower"]
    for agent in env.agents:
        env.action_space(agent).seed(3)
    for step in range(20):
        assert infos["leader"] == {}
        assert_identical(infos["follower"] | {"upper_reward": info["upper_reward"]}, info)
        for agent, seen in observations.items():
            assert_identical(seen, shown(state))
            assert seen in env.observation_space(agent)
        if not env.agents:
            break
        actions = actions_of(env)
        observations, rewards, terminations, truncations, infos = env.step(actions)
        state, reward, terminated, truncated, info = game.step(
            {"upper": actions["leader"], "lower": actions["follower"]}
        )
        truncated = truncated or step + 1 == options.get("max_episode_steps")
        assert rewards == {"leader": info["upper_reward"], "follower": reward}
        assert all(type(value) is float for value in rewards.values())
        assert terminations == dict.fromkeys(rewards, terminated)
        assert truncations == dict.fromkeys(rewards, truncated)
        np.testing.assert_array_equal(infos["follower"].pop("upper_params"), actions["leader"])
        assert env.agents == ([] if terminated or truncated else env.possible_agents)
    assert env.agents == [] or "max_episode_steps" not in options


def test_a_leader_who_keeps_x_has_the_objective_but_for_terms_in_x_alone() -> None:
    env = parallel_env(ID, map_name="4x4", slip=0.2)
    game: Any = env.game
    x = interior_point(game)
    answer = game.evaluate(x)
    rng, returns = np.random.default_rng(0), []
    for episode in range(500):
        observations, _ = env.reset(seed=episode)
        total, discount = 0.0, 1.0
        while env.agents:
            action = rng.choice(4, p=answer.policy[observations["follower"]])
            observations, rewards, *_ = env.step({"leader": x, "follower": int(action)})
            total, discount = total + discount * rewards["leader"], discount * game.gamma
        returns.append(total)
    cost = game.model.objective.terms[1].weight * float(x @ x)
    error = np.std(returns) / np.sqrt(len(returns))
    assert abs(np.mean(returns) - cost - answer.objective) < 4.0 * error < 0.1


def test_pictures_and_turns() -> None:
    env = parallel_env(ID, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step({"leader": np.ones(52), "follower": 1})
    after = env.render()
    assert before.dtype == np.uint8 and before.shape == after.shape and (before != after).any()
    assert "rgb_array" in env.metadata["render_modes"] and str(env) == ID
    env.close()
    turns = parallel_to_aec(parallel_env(ID))
    turns.reset(seed=0)
    assert turns.agent_selection == "leader"


def test_mistakes_are_named() -> None:
    env = parallel_env(ID)
    with pytest.raises(ResetNeeded, match="call `reset` first"):
        env.step({"leader": np.zeros(52), "follower": 0})
    env.reset(seed=0)
    for wrong in ({"leader": np.zeros(52)}, {"upper": np.zeros(52), "lower": 0}, 3):
        with pytest.raises(ValueError, match=r'`actions` must be {"leader": x, "follower": a}'):
            env.step(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`upper_params` must have shape"):
        env.step({"leader": np.zeros(3), "follower": 0})
    with pytest.raises(
        ValueError, match="unknown observation .pixels.; accepted: .coordinates., .one-hot., .state"
    ):
        parallel_env(ID, observation="pixels")


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "pettingzoo":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "bilevel_gym.pettingzoo")
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r'pip install -e "\.\[pettingzoo\]"'):
        import bilevel_gym.pettingzoo  # noqa: F401
