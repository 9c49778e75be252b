"""skrl: rollouts and updates of PPO, with its own models."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from . import seats

NAME, NEEDS = "skrl", ("skrl", "skrl")

STEPS = 64


def trained(env: gym.Env[Any, Any]) -> str:
    """Train for a few rollouts."""
    from skrl.agents.torch.ppo import PPO, PPO_CFG
    from skrl.envs.wrappers.torch import wrap_env
    from skrl.memories.torch import RandomMemory
    from skrl.trainers.torch import SequentialTrainer
    from skrl.utils.model_instantiators.torch import (
        categorical_model,
        deterministic_model,
        gaussian_model,
    )

    wrapped = wrap_env(env)
    spaces = {
        "observation_space": wrapped.observation_space,
        "action_space": wrapped.action_space,
        "device": "cpu",
    }
    network = [{"name": "net", "input": "OBSERVATIONS", "layers": [32], "activations": "tanh"}]
    discrete = isinstance(env.action_space, gym.spaces.Discrete)
    policy = (
        categorical_model(**spaces, network=network, output="ACTIONS")
        if discrete
        else gaussian_model(**spaces, clip_actions=True, network=network, output="ACTIONS")
    )
    agent = PPO(
        models={
            "policy": policy,
            "value": deterministic_model(**spaces, network=network, output="ONE"),
        },
        memory=RandomMemory(memory_size=16, num_envs=wrapped.num_envs, device="cpu"),
        **spaces,
        cfg=PPO_CFG(rollouts=16),
    )
    trainer = SequentialTrainer(
        env=wrapped,
        agents=agent,
        cfg={"timesteps": STEPS, "headless": True, "disable_progressbar": True},
    )
    trainer.train()
    return f"{STEPS} steps of PPO"


def leader() -> str:
    """Learn x."""
    return trained(seats.make(seats.LEADER))


def follower() -> str:
    """Learn to act, from a vector for each state: skrl hands states to its models as integers."""
    return f"{trained(seats.one_hot())}, one-hot"


CHECKS = {"leader": leader, "follower": follower}
