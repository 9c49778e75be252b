# pyright: strict
"""What a user writes; `.ci/run` has pyright read it as an editor does, and no type is unknown."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import bilevel_gym
from bilevel_gym import HyperGradient, LowerLevel
from bilevel_gym.envs import BilevelGridWorld, ParametricGame
from bilevel_gym.methods import Response
from bilevel_gym.model import TabularModel, evaluate
from bilevel_gym.model.protocols import LearntMethod
from bilevel_gym.optimizers import make_optimizer
from bilevel_gym.testing import check_hyper_gradient, check_method
from bilevel_gym.wrappers import LeaderObjective

FloatArray = NDArray[np.float64]


class Shortened:
    """A method of the user's own: the exact hyper-gradient, shortened."""

    exact: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False

    def __init__(self, model: TabularModel, share: float = 0.5) -> None:
        self.model, self.share = model, share

    def reset(self, rng: np.random.Generator) -> None:
        """There is nothing to forget."""

    def step(self, upper_params: FloatArray) -> Response:
        """Answer x."""
        answer = evaluate(self.model, upper_params)
        return replace(answer, hyper_gradient=self.share * answer.hyper_gradient)


def position(observations: FloatArray, actions: FloatArray) -> FloatArray:
    return observations[:, :1]


def main() -> None:
    bilevel_gym.register_method("shortened", Shortened)
    seat = bilevel_gym.make("BilevelGridWorld-v0", map_name="4x4", method="shortened", share=0.9)
    _, info = seat.reset(seed=0)
    for _ in range(3):
        gradient = info["hyper_gradient"]
        x = info["upper_params"] + 0.05 * gradient / np.linalg.norm(gradient)
        _, _, _, _, info = seat.step(x)
    print(info["objective"], seat.response.converged, seat.game.upper_space.low)

    referee = seat.game.evaluate(seat.game.initial_upper_params)
    print(referee.objective, referee.hyper_gradient, seat.method.exact, repr(seat.method))
    if isinstance(seat.method, LearntMethod):
        seat.method.save("learnt.zip")
    print(check_hyper_gradient(bilevel_gym.make("BilevelGridWorld-v0")).relative_error)
    print(check_method("shortened", "BilevelFrozenLake-v0", estimates=2).passed)

    objective = LeaderObjective(seat)
    x = objective.reset(seed=0)
    found = make_optimizer("adam", steps=2)(objective, x, objective.low, objective.high)
    print(found.best.value, found.best.upper_params, found.message)

    follower = LowerLevel(gym.make("BilevelGridWorld-v0"))
    print(follower.upper_params, follower.game.evaluate(follower.upper_params).objective)

    game = BilevelGridWorld(map_name="4x4", slip=0.1)
    answer = game.evaluate(game.initial_upper_params)
    print(answer.policy.argmax(axis=1), answer.occupancy, answer.direct_gradient.shape)
    exact: HyperGradient[BilevelGridWorld] = HyperGradient(game, outer_steps=20)
    print(exact.game.cell_of(0), exact.game.model.gamma)

    learnt = ParametricGame(
        "CartPole-v1",
        {"kind": "linear", "features": position, "num_params": 1},
        episode_steps=20,
    )
    print(learnt.upper_space.low, learnt.lower_space, learnt.initial_upper_params)


if __name__ == "__main__":
    main()
