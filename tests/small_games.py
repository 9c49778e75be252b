"""Small games that methods are measured on, and what their estimates are held to."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import t as student

from bilevel_gym.core.mdp import FloatArray, Kernel
from bilevel_gym.envs import TabularBilevelEnv
from bilevel_gym.episodes.sampler import Sampler
from bilevel_gym.methods import ExactResponse, make_method
from bilevel_gym.model import ArrayModel
from bilevel_gym.model.objectives import Objective, TruncatedReturn
from bilevel_gym.model.preferences import PreferenceLikelihood

from .helpers import array_game
from .models import random_mdp

# A correct code exceeds a bound once in so many runs; seeds are fixed.
ONCE_IN = 1e4

SHAPE = (5, 3)


class PaidByX(ArrayModel):
    """A game whose leader's own reward depends on x as well."""

    def upper_reward(self, upper_params: FloatArray) -> FloatArray:
        return self._upper_reward + 0.5 * upper_params[: SHAPE[0] * SHAPE[1]].reshape(SHAPE)

    def upper_reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        return 0.5 * cotangent.ravel()


def small_game(
    *,
    kind: type[ArrayModel] = PaidByX,
    masked: bool = False,
    termination: float = 0.0,
    objective: Objective | None = None,
    transition: FloatArray | None = None,
    **options: Any,
) -> TabularBilevelEnv:
    """Return a game of five states, three actions and an entry of x for each pair."""
    rng = np.random.default_rng(8)
    mask = None
    if masked:
        mask = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1], [1, 0, 0], [1, 0, 1]], dtype=bool)
    model = random_mdp(4, num_states=5, num_actions=3, termination=termination)
    arguments: dict[str, Any] = {
        "upper_reward": rng.normal(size=SHAPE),
        "initial_distribution": rng.dirichlet(np.ones(5)),
        "gamma": 0.8,
        "temperature": 0.5,
        "features": np.eye(15).reshape(5, 3, 15),
        "initial_upper_params": rng.uniform(-0.5, 0.5, size=15),
        "action_mask": mask,
    }
    # Rows are made uneven, so that states differ by much in how often they are visited.
    dense = model.kernel.to_dense() ** 3
    dense *= (1.0 - termination) / dense.sum(axis=2, keepdims=True)
    return TabularBilevelEnv(
        kind(
            dense if transition is None else transition,
            model.reward,
            objective=objective,
            **{**arguments, **options},
        )
    )


COUNTS = np.array([[2.0, 1, 0], [0, 3, 1], [0, 1, 4], [2, 0, 0], [1, 0, 1]])

GAMES: dict[str, dict[str, Any]] = {
    "masked": {"masked": True},
    "ending": {"termination": 0.3},
    "short-sighted leader": {"upper_gamma": 0.5},
    "far-sighted leader": {"upper_gamma": 0.9, "termination": 0.05},
    "leader's horizon": {"objective": TruncatedReturn(4)},
    "leader's horizon, undiscounted": {"objective": TruncatedReturn(6, gamma=1.0)},
}


def exact_parts(game: TabularBilevelEnv) -> tuple[ExactResponse, FloatArray]:
    """Return the exact answer to the initial x, and the response part of its hyper-gradient."""
    answer = game.evaluate(game.initial_upper_params)
    return answer, answer.hyper_gradient - answer.direct_gradient


def replicates(
    game: TabularBilevelEnv, method: str, count: int, seed: int = 12, **options: Any
) -> Any:
    """Return objectives `[R]`, response parts `[R, D]` and direct parts `[R, D]`.

    The spread of the replicates says what standard errors would, which take most of the time.
    """
    learner: Any = make_method(method, game, **{"error_bars": False, **options})
    learner.reset(np.random.default_rng(seed))
    found = [learner.step(game.initial_upper_params) for _ in range(count)]
    return (
        np.array([response.objective for response in found]),
        np.stack([response.hyper_gradient - response.direct_gradient for response in found]),
        np.stack([response.direct_gradient for response in found]),
    )


def assert_unbiased(found: FloatArray, exact: Any, *, precision: float, bias: float = 0.0) -> None:
    """Check that the mean over replicates `[R, ...]` is exact, entry by entry.

    Args:
        found: The estimates.
        exact: What they estimate.
        precision: The standard error of the mean, relative to what is estimated, must be less, so
            that the check has power.
        bias: What an entry may be off beside the noise, relative to the largest.
    """
    count, exact = len(found), np.asarray(exact)
    error = found.std(axis=0, ddof=1) / np.sqrt(count)
    assert np.linalg.norm(error) <= precision * np.linalg.norm(exact), np.linalg.norm(
        error
    ) / np.linalg.norm(exact)
    quantile = student.ppf(1.0 - 0.5 / (ONCE_IN * exact.size), count - 1)
    allowed = quantile * error + bias * np.abs(exact).max() + 1e-12
    distance = np.abs(found.mean(axis=0) - exact)
    assert (distance <= allowed).all(), (distance / allowed).max()


class Hidden(PaidByX):
    """A game that gives its model to its own sampler alone."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._inside = False

    def _check(self) -> None:
        if not self._inside:
            raise AssertionError("the model was read outside the sampler")

    def sampler(self, upper_params: FloatArray, policy: Any) -> Sampler:
        self._inside = True
        try:
            return super().sampler(upper_params, policy)
        finally:
            self._inside = False

    def kernel(self, upper_params: FloatArray) -> Kernel:
        self._check()
        return super().kernel(upper_params)

    def upper_reward(self, upper_params: FloatArray) -> FloatArray:
        self._check()
        return super().upper_reward(upper_params)

    def start_distribution(self, upper_params: FloatArray) -> FloatArray:
        self._check()
        return super().start_distribution(upper_params)

    def lower_mdp(self, upper_params: FloatArray, **options: Any) -> Any:
        raise AssertionError("the model was read outside the sampler")

    respond = respond_batch = lower_mdp  # type: ignore[assignment]


# A leader who judges pairs of fragments -----------------------------------------------------------

TRUE = np.array([[0.5, -1.0], [0.2, 0.8], [-0.3, 1.5]])

MASK = np.array([[True, True], [True, False], [True, True]])

FEATURES = np.random.default_rng(3).normal(size=(3, 2, 4))

START = np.array([0.3, -0.2, 0.1, 0.25])


class Moved(ArrayModel):
    """A game whose x moves the kernel, how often it ends, and the first state, too."""

    moving_start = np.array([0.2, 0.1, -0.3])

    def _directions(self) -> FloatArray:
        """Return dP/dx_0 and dP/dx_1 on the stored transitions; the latter ends episodes."""
        kernel = self.initial_kernel
        swing = np.random.default_rng(4).normal(size=kernel.matrix.nnz)
        counts = np.bincount(kernel.rows, minlength=6)
        swing -= (np.bincount(kernel.rows, swing, 6) / np.maximum(counts, 1))[kernel.rows]
        ending = np.where(kernel.row_sums.T.ravel() < 0.99, 0.1, 0.0)[kernel.rows]
        return np.stack([0.05 * swing, ending * kernel.matrix.data])

    def kernel(self, upper_params: FloatArray) -> Kernel:
        moved = self.initial_kernel.matrix.data + upper_params[:2] @ self._directions()
        return self.initial_kernel.with_probabilities(moved)

    def kernel_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        return np.append(self._directions() @ cotangent, np.zeros(len(upper_params) - 2))

    def start_distribution(self, upper_params: FloatArray) -> FloatArray:
        return self.initial_distribution + upper_params[2] * self.moving_start

    def start_distribution_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        gradient = np.zeros(len(upper_params))
        gradient[2] = self.moving_start @ cotangent
        return gradient


def judged_game(
    horizon: int = 3,
    *,
    kind: type[ArrayModel] | None = None,
    objective: Objective | None = None,
    **options: Any,
) -> TabularBilevelEnv:
    """Return the game of three states and two actions, some of which may end the episode."""
    arguments = {
        "features": FEATURES,
        "initial_upper_params": START,
        "gamma": 0.8,
        "temperature": 1.0,
        **options,
    }
    if kind is None:
        game = array_game(**arguments)
    else:
        # Interior probabilities, so that x can move them.
        rng = np.random.default_rng(6)
        transition = rng.dirichlet(np.full(3, 3.0), size=(3, 2))
        transition[2] *= 0.7
        game = TabularBilevelEnv(
            kind(
                transition,
                rng.normal(size=(3, 2)),
                upper_reward=rng.normal(size=(3, 2)),
                initial_distribution=[0.3, 0.3, 0.4],
                **arguments,
            )
        )
    game.objective = PreferenceLikelihood(TRUE, horizon) if objective is None else objective
    return game
