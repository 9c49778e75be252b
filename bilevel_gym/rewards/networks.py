"""Networks of PyTorch as the follower's reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import flatdim

from ..core.checks import (
    check_at_least,
    check_choice,
    check_flag,
    check_positive,
    optional,
    received,
)
from ..core.mdp import FloatArray
from ..episodes.recorded import Batch
from .images import is_image_space
from .tensors import IMAGES, LARGEST_LAYER, LARGEST_SEED, as_inputs, blocks, perceptron, th

__all__ = ["ModuleReward", "NetworkReward"]

ACTIVATIONS: dict[str, type[th.nn.Module]] = {"tanh": th.nn.Tanh, "relu": th.nn.ReLU}


class ModuleReward:
    """r_x(s, a) by any module of PyTorch, x being its parameters one after the other.

    The module is called with observations and actions, float tensors of its own precision `[B, n]`
    (discrete ones as one-hot vectors, images as `[B, C, H, W]` in 0..1), and returns `[B]`.
    """

    def __init__(
        self, module: th.nn.Module, observation_space: Space[Any], action_space: Space[Any]
    ) -> None:
        """Take a module, (observations, actions) -> `[B]`; its parameters are written over."""
        self.module = module
        self._observed, self._acted = observation_space, action_space
        self._at_a_time = IMAGES if is_image_space(observation_space) else None
        self._initial = self._flat([p.detach() for p in module.parameters()])
        self.num_params = len(self._initial)

    def initial_params(self) -> FloatArray:
        """Return the parameters that the module came with, `[D]`."""
        return self._initial.copy()

    def rewards(self, upper_params: FloatArray, observations: Batch, actions: Batch) -> FloatArray:
        """Return r_x for each entry of a batch, `[B]`; see `RewardModel`."""
        with th.no_grad():
            parts = [
                self._evaluate(upper_params, observations[at], actions[at]).double().cpu().numpy()
                for at in blocks(len(observations), self._at_a_time)
            ]
        return np.concatenate(parts)

    def vjp(
        self, upper_params: FloatArray, observations: Batch, actions: Batch, weights: FloatArray
    ) -> FloatArray:
        """Return sum_b weights(b) dr_x(s_b, a_b)/dx, `[D]`; see `RewardModel`."""
        total: FloatArray = np.zeros(self.num_params)
        for at in blocks(len(observations), self._at_a_time):
            rewards = self._evaluate(upper_params, observations[at], actions[at])
            # Weights of order one: single precision has little room for tiny or huge ones.
            scale = max(float(np.abs(weights[at]).max(initial=0.0)), np.finfo(np.float64).tiny)
            factors = th.as_tensor(weights[at] / scale, dtype=rewards.dtype, device=rewards.device)
            gradients = th.autograd.grad(
                (factors * rewards).sum(), list(self.module.parameters()), materialize_grads=True
            )
            total += scale * self._flat(gradients)
        return total

    def _evaluate(self, upper_params: FloatArray, observations: Batch, actions: Batch) -> th.Tensor:
        parameters = list(self.module.parameters())
        like = parameters[0]
        # A copy: the parameters become views of it.
        flat = th.tensor(np.asarray(upper_params), dtype=like.dtype, device=like.device)
        with th.no_grad():
            th.nn.utils.vector_to_parameters(flat, parameters)
        rewards: th.Tensor = self.module(
            as_inputs(observations, self._observed, like), as_inputs(actions, self._acted, like)
        )
        if rewards.shape != (len(observations),):
            raise ValueError(
                f"the reward module must return shape [B] = {(len(observations),)}, got "
                f"{tuple(rewards.shape)}"
            )
        return rewards

    @staticmethod
    def _flat(tensors: Sequence[th.Tensor]) -> FloatArray:
        return np.concatenate([t.double().cpu().numpy().ravel() for t in tensors])


def checked_units(name: str, units: Sequence[int]) -> list[int]:
    """Return the units of layers; raise a `ValueError` unless they are a list of positive ones."""
    if not isinstance(units, Sequence) or isinstance(units, str):
        raise ValueError(f"`{name}` must be a list of positive integers, got {received(units)}")
    return [check_at_least(name, each, 1, LARGEST_LAYER) for each in units]


class NetworkReward(ModuleReward):
    """r_x(s, a) by a perceptron of flattened observations and actions."""

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        *,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        bound: float | None = 1.0,
        reads_actions: bool = True,
        seed: int = 0,
    ) -> None:
        """Build the network, float64.

        Args:
            observation_space: What is observed: discrete, or a box.
            action_space: What the follower does: discrete, or a box.
            hidden: Units of the hidden layers.
            activation: "tanh" or "relu".
            bound: Bound on the reward, by a tanh of the output; None for none. A reward that is
                learnt from preferences has no scale of its own: as it grows, the policy that is
                optimal at a fixed temperature becomes deterministic.
            reads_actions: Whether the reward depends on the action.
            seed: Seed of the initial weights.

        Raises:
            ValueError: If an option is out of range, or the observations are images.
        """
        check_choice("activation", activation, ACTIVATIONS)
        hidden = checked_units("hidden", hidden)
        seed = check_at_least("seed", seed, 0, LARGEST_SEED)
        reads_actions = check_flag("reads_actions", reads_actions)
        bound = optional(check_positive, "bound", bound)
        if is_image_space(observation_space):
            raise ValueError("a perceptron does not read images; give a module of your own")
        size = flatdim(observation_space)
        size += flatdim(action_space) if reads_actions else 0
        module = _Perceptron([size, *hidden, 1], ACTIVATIONS[activation], bound, reads_actions)
        generator = th.Generator().manual_seed(seed)
        with th.no_grad():
            for layer in module.layers:
                if isinstance(layer, th.nn.Linear):
                    width = layer.in_features**-0.5
                    layer.weight.uniform_(-width, width, generator=generator)
                    layer.bias.zero_()
        super().__init__(module, observation_space, action_space)


class _Perceptron(th.nn.Module):
    def __init__(
        self,
        sizes: Sequence[int],
        activation: type[th.nn.Module],
        bound: float | None,
        reads_actions: bool,
    ) -> None:
        super().__init__()
        self.layers = perceptron(sizes, activation, th.float64)
        self.bound, self.reads_actions = bound, reads_actions

    def forward(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        read = [observations, actions] if self.reads_actions else [observations]
        output: th.Tensor = self.layers(th.cat(read, dim=1)).squeeze(1)
        return output if self.bound is None else self.bound * th.tanh(output)
