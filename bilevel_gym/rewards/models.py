"""The follower's reward as a function of observations and actions, with x as its parameters.

A reward model is a pair of functions of batches, so that games of any kind of observation can share
the estimators: its values, and the product of its Jacobian with one weight for each entry of the
batch. Linear models are here; networks are in `bilevel_gym.rewards.networks`, as they need PyTorch.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np

from ..core.checks import (
    check_at_least,
    check_choice,
    check_positive,
    optional,
    received,
    unknown_name,
)
from ..core.mdp import FloatArray
from ..core.plugins import imported_function
from ..episodes.recorded import Batch, as_argument

if TYPE_CHECKING:
    from gymnasium import Space
    from torch.nn import Module

__all__ = [
    "FEW",
    "FixedReward",
    "LinearReward",
    "RewardModel",
    "WithJacobian",
    "jacobian",
    "make_reward_model",
]

# Entries of x, at most, for which derivatives are learnt one by one.
FEW = 64

Features = Callable[[Batch, Batch], FloatArray]


@runtime_checkable
class RewardModel(Protocol):
    """r_x(s, a) on batches: `observations` and `actions` are `[B, ...]`, in the spaces' units."""

    @property
    def num_params(self) -> int:
        """D, the length of x."""
        ...

    def initial_params(self) -> FloatArray:
        """Return the x to start from, `[D]`."""
        ...

    def rewards(self, upper_params: FloatArray, observations: Batch, actions: Batch) -> FloatArray:
        """Return r_x for each entry of a batch, `[B]`."""
        ...

    def vjp(
        self, upper_params: FloatArray, observations: Batch, actions: Batch, weights: FloatArray
    ) -> FloatArray:
        """Return sum_b weights(b) dr_x(s_b, a_b)/dx, `[D]`; `weights` is `[B]`."""
        ...


@runtime_checkable
class WithJacobian(Protocol):
    """A reward model that has the derivatives of every reward of a batch at once."""

    def jacobian(self, upper_params: FloatArray, observations: Batch, actions: Batch) -> FloatArray:
        """Return dr_x/dx for each entry of a batch, `[B, D]`."""
        ...


def jacobian(
    model: RewardModel,
    upper_params: FloatArray,
    observations: Batch,
    actions: Batch,
    terms: FloatArray | None = None,
) -> FloatArray:
    """Return dr_x/dx for each entry of a batch, `[B, D]`: one by one if the model has no other way.

    One by one, each takes a call of `vjp`. `terms` `[B, K]` are for models that read them.
    """
    if isinstance(model, WithJacobian):
        return model.jacobian(upper_params, observations, actions, **as_argument(terms))
    one, found = np.ones(1), []
    for b in (slice(b, b + 1) for b in range(len(observations))):
        said = as_argument(None if terms is None else terms[b])
        found.append(model.vjp(upper_params, observations[b], actions[b], one, **said))
    return np.reshape(found, (len(found), len(upper_params)))


class LinearReward:
    """r_x(s, a) = base(s, a) + bound tanh(x . phi(s, a) / bound), or without the tanh."""

    def __init__(
        self,
        features: Features | str,
        num_params: int,
        *,
        base: Features | str | None = None,
        bound: float | None = None,
    ) -> None:
        """Build the model.

        Args:
            features: phi: (observations `[B, ...]`, actions `[B, ...]`) -> `[B, D]`, or where to
                import it from, "module:function".
            num_params: D.
            base: The part that does not depend on x: (observations, actions) -> `[B]`; None for 0.
            bound: Bound on what x adds, positive; None for none.

        Raises:
            TypeError: If a function is none.
            ValueError: If a name is not "module:function", or the bound is out of range.
            ImportError: If there is no such module.
            AttributeError: If there is no such function in it.
        """
        self._features: Features = imported_function("features", features)
        self._base: Features | None = None if base is None else imported_function("base", base)
        self._bound = optional(check_positive, "bound", bound)
        self.num_params = check_at_least("num_params", num_params, 1)

    def initial_params(self) -> FloatArray:
        """Return zeros: at first the reward is `base`."""
        return np.zeros(self.num_params)

    def rewards(self, upper_params: FloatArray, observations: Batch, actions: Batch) -> FloatArray:
        """Return r_x for each entry of a batch, `[B]`; see `RewardModel`."""
        added = self._phi(observations, actions) @ upper_params
        if self._bound is not None:
            added = self._bound * np.tanh(added / self._bound)
        if self._base is not None:
            base = np.asarray(self._base(observations, actions), np.float64)
            if base.shape != added.shape:
                raise ValueError(f"`base` must return shape [B] = {added.shape}, got {base.shape}")
            added = added + base
        return added

    def vjp(
        self, upper_params: FloatArray, observations: Batch, actions: Batch, weights: FloatArray
    ) -> FloatArray:
        """Return sum_b weights(b) dr_x(s_b, a_b)/dx, `[D]`; see `RewardModel`."""
        return weights @ self.jacobian(upper_params, observations, actions)

    def jacobian(self, upper_params: FloatArray, observations: Batch, actions: Batch) -> FloatArray:
        """Return dr_x/dx for each entry of a batch, `[B, D]`; see `WithJacobian`."""
        phi = self._phi(observations, actions)
        if self._bound is None:
            return phi
        return phi * (1.0 - np.tanh(phi @ upper_params / self._bound) ** 2)[:, None]

    def _phi(self, observations: Batch, actions: Batch) -> FloatArray:
        phi = np.asarray(self._features(observations, actions), dtype=np.float64)
        expected = len(observations), self.num_params
        if phi.shape != expected:
            raise ValueError(f"`features` must return shape [B, D] = {expected}, got {phi.shape}")
        return phi


class FixedReward:
    """r(s, a), without parameters: for games whose x is elsewhere."""

    num_params = 0

    def __init__(self, function: Features | str | None = None) -> None:
        """Build the model.

        Args:
            function: (observations `[B, ...]`, actions `[B, ...]`) -> `[B]`, or "module:function";
                None for 0.
        """
        self._function: Features | None = None
        if function is not None:
            self._function = imported_function("function", function)

    def initial_params(self) -> FloatArray:
        """Return none."""
        return np.zeros(0)

    def rewards(self, upper_params: FloatArray, observations: Batch, actions: Batch) -> FloatArray:
        """Return r for each entry of a batch, `[B]`; see `RewardModel`."""
        if self._function is None:
            return np.zeros(len(observations))
        return np.asarray(self._function(observations, actions), dtype=np.float64)

    def vjp(
        self, upper_params: FloatArray, observations: Batch, actions: Batch, weights: FloatArray
    ) -> FloatArray:
        """Return nothing, `[0]`; see `RewardModel`."""
        return np.zeros(0)

    def jacobian(self, upper_params: FloatArray, observations: Batch, actions: Batch) -> FloatArray:
        """Return nothing, `[B, 0]`; see `WithJacobian`."""
        return np.zeros((len(observations), 0))


# Models that can be specified: where they are. Networks need PyTorch, which is imported at use.
KINDS = {
    "linear": "bilevel_gym.rewards.models:LinearReward",
    "fixed": "bilevel_gym.rewards.models:FixedReward",
    "network": "bilevel_gym.rewards.networks:NetworkReward",
}


def make_reward_model(
    model: RewardModel | Mapping[str, Any] | Module | None,
    observation_space: Space[Any],
    action_space: Space[Any],
) -> RewardModel:
    """Return a reward model, built if it is only specified.

    Args:
        model: A model; `{"kind": "linear" | "network" | "fixed", **options}` with the options of
            `LinearReward`, `FixedReward` or `bilevel_gym.rewards.networks.NetworkReward`; or a
            module of PyTorch, see `bilevel_gym.rewards.networks.ModuleReward`.
        observation_space: What a network reads.
        action_space: What a network reads.

    Raises:
        ValueError: If the kind is unknown or an option is out of range.
        TypeError: If an option is unknown or missing, or the model is neither.
        ImportError: If the model needs PyTorch, which is not installed.
    """
    if not isinstance(model, Mapping):
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(model, torch.nn.Module):
            from .networks import ModuleReward

            return ModuleReward(model, observation_space, action_space)
        if not isinstance(model, RewardModel):
            raise TypeError(
                "`reward_model` must be a RewardModel, a specification of one such as "
                f'{{"kind": "linear", ...}}, or a module of PyTorch, got {received(model)}'
            )
        return model
    options = dict(model)
    kind = check_choice("kind of reward model", options.pop("kind", None), KINDS)
    factory = imported_function("kind", KINDS[kind])
    given = () if kind != "network" else ("observation_space", "action_space")
    accepted = {n: p for n, p in inspect.signature(factory).parameters.items() if n not in given}
    for option in options:
        if option not in accepted:
            raise TypeError(unknown_name(f"option for reward model {kind!r}:", option, accepted))
    for name, parameter in accepted.items():
        if parameter.default is parameter.empty and name not in options:
            raise TypeError(f"reward model {kind!r} needs `{name}`, got {sorted(options)}")
    spaces = (observation_space, action_space) if given else ()
    return cast(RewardModel, factory(*spaces, **options))
