"""An agent of Stable-Baselines3 in the follower's seat, without shaping and with the best known.

`LowerLevel(env, x)` holds the leader's x fixed, and is an ordinary environment for any agent. PPO
maximises the follower's reward, in which hazards cost nothing: without shaping it learns to walk
through them, with shaping it learns the way around. The exact follower, which the leader plans
with, does the same.

    python demos/sb3_follower.py
    python demos/sb3_follower.py --headless ppo_follower.gif
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from bilevel_gym import LowerLevel
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import BilevelGridWorld
from bilevel_gym.envs.base import View
from bilevel_gym.methods import ExactResponse
from bilevel_gym.rendering import NoDisplayError, Screen, StepCurve, draw_grid

ENV_ID = "BilevelGridWorld-v0"

# Parallel environments, and steps in each of them between two updates of PPO.
NUM_ENVS, ROLLOUT = 8, 128

# Pictures of one training, and steps of the walk that is shown after it.
PICTURES, WALK = 20, 40


def main(args: argparse.Namespace) -> None:
    """Train an agent under either x, and measure it beside the exact follower."""
    import bilevel_gym.sb3  # noqa: F401  (names the extra where it is missing)

    game = gym.make(ENV_ID).unwrapped
    assert isinstance(game, BilevelGridWorld) and game.best_known is not None
    shapings = (
        ("no shaping", game.initial_upper_params),
        ("best known shaping", game.best_known.upper_params),
    )
    with Screen("PPO in the follower's seat", headless=args.headless) as screen:
        print(f"{'follower':<40}{'steps in hazards':>18}{'leader objective':>18}")
        for name, x in shapings:
            exact = game.evaluate(x)
            policy = train(game, exact, f"PPO, {name}", screen, args)
            for who, acts in (("PPO", policy), ("exact", exact.policy)):
                hazard_share, leader_return = measure(game, x, acts, args.episodes, args.seed)
                objective = leader_return - shaping_cost(game, exact)
                print(f"{f'{who}, {name}':<40}{hazard_share:>18.1%}{objective:>18.3f}", flush=True)
            print(f"{f'exact, {name}, computed':<40}{'':>18}{exact.objective:>18.3f}", flush=True)
        screen.linger()


def train(
    game: BilevelGridWorld,
    exact: ExactResponse,
    title: str,
    screen: Screen,
    args: argparse.Namespace,
) -> FloatArray:
    """Train PPO under x, show how it learns and how it walks, and return its policy `[S, A]`."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)  # networks this small are slower on more

    x = exact.upper_params
    # The seat is taken inside the factory, below the wrappers that `make_vec_env` puts on top.
    envs = make_vec_env(lambda: LowerLevel(gym.make(ENV_ID), x), n_envs=NUM_ENVS, seed=args.seed)
    # `ent_coef` weighs a bonus in PPO's loss; it is not the temperature of the game.
    model = PPO(
        "MlpPolicy",
        envs,
        n_steps=ROLLOUT,
        batch_size=256,
        learning_rate=1e-3,
        gamma=game.gamma,
        ent_coef=0.01,
        seed=args.seed,
        device="cpu",
    )

    def policy() -> FloatArray:
        with torch.no_grad():
            chances: Any = model.policy.get_distribution(torch.arange(len(exact.policy)))
        table = chances.distribution.probs.numpy().astype(np.float64)
        return table / table.sum(axis=1, keepdims=True)  # from single precision

    hazards = hazard_states(game)
    in_hazard: list[float] = []
    hazard_shares: list[float] = []
    rewards: list[float] = []

    def show(title: str, state: int | None = None, *, frames: int = 2) -> None:
        answer = replace(exact, policy=policy())
        status = (
            ("steps of training", str(model.num_timesteps)),
            ("reward of an episode", f"{rewards[-1]:.3f}" if rewards else "none yet"),
        )
        view = View(game.headline("follower", title), x, answer, state, status)
        curves = tuple(
            StepCurve(label, np.repeat(values, args.timesteps // PICTURES))
            for label, values in (
                ("share of steps in hazards", hazard_shares),
                ("reward of an episode", rewards),
            )
        )
        # Occupancy and hyper-gradient are those of the exact follower.
        scene = replace(game.scene(view), occupancy=None, gradient=None, curves=curves)
        screen.show(draw_grid(scene), frames=frames)

    def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
        in_hazard.append(float(hazards[local["new_obs"]].mean()))
        if len(in_hazard) >= args.timesteps / PICTURES / NUM_ENVS and model.ep_info_buffer:
            hazard_shares.append(float(np.mean(in_hazard)))
            rewards.append(float(np.mean([episode["r"] for episode in model.ep_info_buffer])))
            in_hazard.clear()
            show(f"{title}: it learns")
        return not screen.closed

    model.learn(args.timesteps, callback=watch)
    env, rng = LowerLevel(gym.make(ENV_ID), x), np.random.default_rng(args.seed)
    for step, (state, _) in enumerate(episode(env, policy(), rng, args.seed)):
        if step == WALK:
            break
        show(f"{title}: it walks", state, frames=3)
    return policy()


def episode(
    env: LowerLevel, policy: FloatArray, rng: np.random.Generator, seed: int | None = None
) -> Iterator[tuple[int, float]]:
    """Play an episode; yield each state and the leader's reward there."""
    state, _ = env.reset(seed=seed)
    over = False
    while not over:
        action = rng.choice(policy.shape[1], p=policy[state])
        here = int(state)
        state, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        yield here, info["upper_reward"]


def measure(
    game: BilevelGridWorld, x: FloatArray, policy: FloatArray, count: int, seed: int
) -> tuple[float, float]:
    """Return the share of steps in hazards, and the leader's mean discounted return."""
    env, rng = LowerLevel(gym.make(ENV_ID), x), np.random.default_rng(seed)
    hazards = hazard_states(game)
    visits: list[int] = []
    leader_return = 0.0
    for number in range(count):
        for step, (state, upper_reward) in enumerate(
            episode(env, policy, rng, seed if number == 0 else None)
        ):
            visits.append(state)
            leader_return += game.gamma**step * upper_reward
    return float(hazards[visits].mean()), leader_return / count


def hazard_states(game: BilevelGridWorld) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which states are hazards, bool `[S]`; walls of the map are no states."""
    return np.array([cell == "H" for cell in "".join(game.desc) if cell != "#"])


def shaping_cost(game: BilevelGridWorld, exact: ExactResponse) -> float:
    """Return the cost of x itself in the objective: the leader's expected return less F."""
    rewards = (exact.policy * game.upper_reward(exact.upper_params)).sum(axis=1)
    expected_return = exact.occupancy @ rewards / (1.0 - game.gamma)
    return float(expected_return - exact.objective)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--timesteps", type=int, default=50_000, help="steps of each training")
    parser.add_argument("--episodes", type=int, default=1000, help="episodes of each measurement")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument("--headless", type=Path, metavar="OUT.gif", help="film, without a display")
    try:
        main(parser.parse_args())
    except (ImportError, NoDisplayError, ValueError) as error:
        sys.exit(f"error: {error}")
