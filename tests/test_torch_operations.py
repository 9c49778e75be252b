"""Operations of PyTorch: derivatives, batches, dtypes, transforms, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from bilevel_gym.core.adjoint import response_gradient
from bilevel_gym.model.objectives import DiscountedReturn

from .operations import GAMES, TABULAR, inner_point, operations_of
from .small_games import small_game

th = pytest.importorskip("torch")
framework = pytest.importorskip("bilevel_gym.torch")
objective, soft_policy = framework.objective, framework.soft_policy

# Central differences of this step are off by its square and by rounding / step, both about 1e-10.
EXACTLY = {"eps": 1e-5, "rtol": 1e-6, "atol": 1e-7}


def tensor(x: Any) -> Any:
    return th.from_numpy(np.array(x, np.float64)).requires_grad_()


@pytest.mark.parametrize("name", GAMES)
def test_the_objective_passes_gradcheck(name: str) -> None:
    game = GAMES[name]()
    assert th.autograd.gradcheck(objective(game), tensor(inner_point(game)), **EXACTLY)


@pytest.mark.parametrize("name", TABULAR)
def test_the_policy_passes_gradcheck(name: str) -> None:
    game = GAMES[name]()
    assert th.autograd.gradcheck(soft_policy(game), tensor(inner_point(game)), **EXACTLY)


@pytest.mark.parametrize("name", GAMES)
def test_a_batch_is_its_rows(name: str) -> None:
    game = GAMES[name]()
    xs = tensor(inner_point(game, 2, 3))
    for operation in operations_of(name, game, framework):
        together = operation(xs)
        rows = th.stack([th.stack([operation(x) for x in row]) for row in xs])
        assert together.shape == rows.shape and together.dtype == th.float64
        np.testing.assert_allclose(together.detach(), rows.detach(), rtol=1e-12)
        weights = th.linspace(-1.0, 1.0, together.numel(), dtype=th.float64).reshape(rows.shape)
        (found,) = th.autograd.grad((weights * together).sum(), xs)
        (wanted,) = th.autograd.grad((weights * rows).sum(), xs)
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
        assert th.func.vmap(operation)(xs.detach()[0]).equal(operation(xs.detach()[0]))


def test_value_and_gradient_are_those_of_the_referee() -> None:
    game = small_game()
    x = tensor(inner_point(game))
    answer = game.evaluate(x.detach().numpy())
    value, policy = objective(game)(x), soft_policy(game.model)(x)
    assert value.item() == answer.objective
    assert (policy.detach().numpy() == answer.policy).all()
    (gradient,) = th.autograd.grad(-3.0 * value, x)
    assert (gradient.numpy() == -3.0 * answer.hyper_gradient).all()


def test_an_objective_written_in_torch_has_the_hyper_gradient() -> None:
    game = small_game(masked=True, objective=DiscountedReturn(0.7))
    x = tensor(inner_point(game))
    model = game.model
    kernel, start = (
        th.tensor(model.initial_kernel.to_dense()),
        th.tensor(model.initial_distribution),
    )
    policy = soft_policy(game)(x)
    # The leader's reward of this game, as a function of x.
    reward = th.tensor(model.upper_reward(np.zeros(15))) + 0.5 * x.reshape(5, 3)
    steps = th.einsum("sa,sap->sp", policy, kernel)
    value = th.linalg.solve(th.eye(5, dtype=th.float64) - 0.7 * steps, (policy * reward).sum(1))
    (start @ value).backward()
    answer = game.evaluate(x.detach().numpy())
    np.testing.assert_allclose((start @ value).item(), answer.objective, rtol=1e-12)
    np.testing.assert_allclose(x.grad, answer.hyper_gradient, rtol=1e-10, atol=1e-12)


def test_any_loss_of_the_policy_takes_one_adjoint_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    solves = []

    def counted(*arguments: Any) -> Any:
        solves.append(arguments)
        return response_gradient(*arguments)

    monkeypatch.setattr("bilevel_gym.operations.response_gradient", counted)
    game = small_game()
    x = tensor(inner_point(game))
    policy = soft_policy(game)(x)
    assert not solves
    (policy.square().sum() + policy[0, 1] * policy[3, 0].log()).backward()
    assert len(solves) == 1


def test_gradients_flow_through_networks_on_both_sides() -> None:
    game = small_game()
    th.manual_seed(0)
    network = th.nn.Sequential(th.nn.Linear(3, 15), th.nn.Tanh()).double()
    head = th.nn.Linear(3, 1).double()
    context = th.rand(4, 3, dtype=th.float64)
    weight = network[0].weight

    def loss(entries: Any) -> Any:
        x = 0.9 * th.func.functional_call(network, {"0.weight": entries}, context)
        return head(soft_policy(game)(x)).square().sum() - objective(game)(x).mean()

    assert th.autograd.gradcheck(loss, weight, **EXACTLY)


def test_single_precision_comes_back_in_single_precision() -> None:
    game = small_game()
    x = th.tensor(inner_point(game), dtype=th.float32, requires_grad=True)
    value = objective(game)(x)
    (gradient,) = th.autograd.grad(value, x)
    answer = game.evaluate(x.detach().double().numpy())
    assert value.dtype == th.float64 and value.item() == answer.objective
    assert gradient.dtype == th.float32
    np.testing.assert_array_equal(gradient, answer.hyper_gradient.astype(np.float32))


@pytest.mark.parametrize("temperature", [0.5, 5e-4])  # at the lower one others underflow
def test_cotangents_of_actions_without_probability_are_ignored(temperature: float) -> None:
    game = small_game(masked=True, temperature=temperature)
    x = tensor(inner_point(game))
    # The derivative of p log p is infinite where p is zero.
    th.special.entr(soft_policy(game)(x)).sum().backward()
    policy = soft_policy(game)(y := x.detach().clone().requires_grad_())
    present = policy > 0.0
    assert (present.numpy() != game.action_mask).any() == (temperature < 0.1)
    (-policy[present] * policy[present].log()).sum().backward()
    np.testing.assert_allclose(x.grad, y.grad, rtol=1e-12)


def test_functional_transforms_give_what_backward_gives() -> None:
    game = small_game()
    x = tensor(inner_point(game))
    (gradient,) = th.autograd.grad(objective(game)(x), x)
    assert th.func.grad(objective(game))(x.detach()).equal(gradient)
    jacobian = th.autograd.functional.jacobian(soft_policy(game), x.detach())
    np.testing.assert_allclose(th.func.jacrev(soft_policy(game))(x.detach()), jacobian, rtol=1e-12)


@pytest.mark.parametrize("make", [objective, lambda game: lambda x: soft_policy(game)(x)[0, 0]])
def test_second_derivatives_are_refused_and_not_zero(make: Any) -> None:
    game = small_game()
    operation, x = make(game), tensor(inner_point(game))
    (gradient,) = th.autograd.grad(operation(x) + x.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="can be differentiated once"):
        gradient.sum().backward()
    with pytest.raises(NotImplementedError, match="can be differentiated once"):
        th.func.jacrev(th.func.grad(operation))(x.detach())


def test_what_a_game_refuses_an_operation_refuses() -> None:
    game = small_game()
    x = th.zeros(15)
    with pytest.raises(ValueError, match=r"`upper_params\[0\]` must be finite and lie in .* got 2"):
        objective(game)(x + 2.0)
    with pytest.raises(ValueError, match=r"row 1: `upper_params\[0\]`.* got nan"):
        objective(game)(th.stack([x, x * th.nan]))
    with pytest.raises(ValueError, match=r"`x` must have shape \(15,\), after .* got \(15, 2\)"):
        soft_policy(game)(th.zeros(15, 2))
    for wrong in (np.zeros(15), x.to(th.complex64), x.bool()):
        with pytest.raises(TypeError, match="`x` must be a tensor of real numbers, got"):
            objective(game)(wrong)
    policy = soft_policy(game)(x.double().requires_grad_())
    with pytest.raises(ValueError, match="`cotangent` must be finite, got nan"):
        (policy.sum() * th.nan).backward()
    with pytest.raises(TypeError, match="unknown option .* 'tol'.* Did you mean 'tolerance'?"):
        objective(game, tol=1e-9)
    with pytest.raises(TypeError, match="answer is known exactly, got BilevelPendulum"):
        objective(gym.make("BilevelPendulum-v0"))
    with pytest.raises(TypeError, match="finitely many states .* got LinearQuadraticModel"):
        soft_policy(gym.make("BilevelLQR-v0"))


def test_a_solve_that_does_not_converge_is_told() -> None:
    x = tensor(inner_point(game := small_game()))
    for make in (objective, soft_policy):
        with pytest.warns(RuntimeWarning, match="not solved to its tolerance"):
            make(game, max_iterations=0)(x)


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_a_missing_framework_is_told_with_the_extra_that_brings_it(name: str) -> None:
    code = f"import sys; sys.modules[{name!r}] = None; import bilevel_gym; bilevel_gym.{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f'not installed; run: pip install -e ".[{name}]"' in done.stderr
