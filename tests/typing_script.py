# pyright: strict
"""What a user writes; `.ci/run` has pyright read it as an editor does, and no type is unknown."""

from __future__ import annotations

from typing import ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import bilevel_gym
from bilevel_gym.envs import BilevelGridWorld, ParametricGame, TabularBilevelEnv
from bilevel_gym.methods import Response

FloatArray = NDArray[np.float64]


class Halved:
    """A method of the user's own: half the exact hyper-gradient."""

    exact: ClassVar[bool] = False

    def __init__(self, game: TabularBilevelEnv, share: float = 0.5) -> None:
        self.game, self.share = game, share

    def reset(self, rng: np.random.Generator) -> None:
        """There is nothing to forget."""

    def step(self, upper_params: FloatArray) -> Response:
        """Answer x."""
        answer = self.game.evaluate(upper_params)
        return Response(
            upper_params=upper_params,
            objective=answer.objective,
            hyper_gradient=self.share * answer.hyper_gradient,
        )


def position(observations: FloatArray, actions: FloatArray) -> FloatArray:
    return observations[:, :1]


def main() -> None:
    seat = bilevel_gym.HyperGradient(gym.make("BilevelGridWorld-v0"), outer_steps=20)
    _, info = seat.reset(seed=0)
    x: FloatArray = info["upper_params"]
    for _ in range(3):
        _, _, _, _, info = seat.step(x)
        x = x + 0.05 * info["hyper_gradient"] / np.linalg.norm(info["hyper_gradient"])
    response = seat.response
    print(response.objective, response.converged)

    game = BilevelGridWorld(map_name="4x4")
    answer = game.evaluate(game.initial_upper_params)
    print(answer.policy.argmax(axis=1), answer.occupancy, answer.direct_gradient.shape)
    print(Halved(game).step(answer.upper_params).hyper_gradient)

    learnt = ParametricGame(
        "CartPole-v1",
        {"kind": "linear", "features": position, "num_params": 1},
        episode_steps=20,
    )
    print(learnt.upper_space.low, learnt.lower_space, learnt.initial_upper_params)


if __name__ == "__main__":
    main()
