"""A reward's Jacobian in its three forms, and what they give through the leader's seat."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.sparse import coo_array, csr_array
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from bilevel_gym import TabularBilevelEnv
from bilevel_gym.model.jacobians import RewardJacobian

from .helpers import refusals

STATES, ACTIONS, PARAMS = 12, 3, 5


def dense_jacobian() -> np.ndarray[Any, np.dtype[np.float64]]:
    rng = np.random.default_rng(0)
    full = rng.normal(size=(STATES, ACTIONS, PARAMS))
    return np.where(rng.random(full.shape) < 0.4, full, 0.0)


def action_major_rows() -> np.ndarray[Any, np.dtype[np.float64]]:
    return dense_jacobian().transpose(1, 0, 2).reshape(ACTIONS * STATES, PARAMS)


FORMS = {
    "dense": dense_jacobian(),
    "csr": csr_array(action_major_rows()),
    "coo": coo_array(action_major_rows()),
    "operator": aslinearoperator(action_major_rows()),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_linear_map(form: str) -> None:
    jacobian = RewardJacobian(FORMS[form], STATES, ACTIONS)
    rng = np.random.default_rng(1)
    x, cotangent = rng.normal(size=PARAMS), rng.normal(size=(STATES, ACTIONS))
    assert jacobian.num_params == PARAMS
    np.testing.assert_allclose(jacobian.product(x), dense_jacobian() @ x, atol=1e-14)
    np.testing.assert_allclose(
        jacobian.vjp(cotangent), np.einsum("sa,sad->d", cotangent, dense_jacobian()), atol=1e-14
    )


def test_a_sparse_jacobian_is_copied() -> None:
    given = csr_array(action_major_rows())
    jacobian, x = RewardJacobian(given, STATES, ACTIONS), np.arange(1.0, PARAMS + 1.0)
    before = jacobian.product(x)
    given.data[:] = 9.0
    given.indices[:] = 0
    np.testing.assert_array_equal(jacobian.product(x), before)


def game_of_arrays(features: Any) -> TabularBilevelEnv:
    rng = np.random.default_rng(2)
    transition = rng.dirichlet(np.ones(STATES), size=(STATES, ACTIONS))
    return TabularBilevelEnv.from_arrays(
        0.95 * transition,
        rng.normal(size=(STATES, ACTIONS)),
        upper_reward=rng.normal(size=(STATES, ACTIONS)),
        features=features,
        initial_distribution=np.full(STATES, 1.0 / STATES),
        temperature=0.3,
        upper_cost=0.1,
    )


def test_a_hundred_thousand_parameters_need_no_stored_jacobian() -> None:
    size = 100_000
    columns = np.arange(size) % (ACTIONS * STATES)

    class Spread(LinearOperator):  # type: ignore[misc]
        """Parameter d adds to the reward of row d modulo A*S."""

        def __init__(self) -> None:
            super().__init__(np.float64, (ACTIONS * STATES, size))

        def _matvec(self, x: Any) -> Any:
            return np.bincount(columns, np.ravel(x), minlength=ACTIONS * STATES)

        def _rmatvec(self, cotangent: Any) -> Any:
            return np.ravel(cotangent)[columns]

    game = game_of_arrays(Spread())
    response = game.evaluate(np.zeros(size))
    # The first parameters are those of a game with one parameter for each (s, a).
    small = game_of_arrays(coo_array(np.eye(ACTIONS * STATES)))
    expected = small.evaluate(np.zeros(ACTIONS * STATES)).hyper_gradient
    np.testing.assert_allclose(response.hyper_gradient, expected[columns], rtol=1e-12)


test_a_jacobian_of_another_shape_is_refused = refusals(
    game_of_arrays,
    (
        {"features": np.zeros((STATES, ACTIONS))},
        r"\[S, A, D\] = \(12, 3\) \+ \(D,\), or.*got \(12, 3\)",
    ),
    ({"features": np.zeros((ACTIONS, STATES, 2))}, r"got \(3, 12, 2\)"),
    ({"features": csr_array((STATES, 2))}, r"\[A\*S, D\] = \(36, D\) if.*got \(12, 2\)"),
    ({"features": aslinearoperator(np.zeros((2, 36)))}, r"got \(2, 36\)"),
    ({"features": csr_array(np.full((36, 1), np.inf))}, "must be finite, got inf"),
)
