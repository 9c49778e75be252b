"""A convolutional network as the follower's reward, for games whose observations are images."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space, spaces

from ..core.checks import check_at_least, check_between, check_positive, received
from .images import LEAST_SIDE, channels_first, is_image_space
from .networks import ModuleReward
from .tensors import LARGEST_LAYER, LARGEST_SEED, th

__all__ = ["ConvolutionalReward"]


# Of single precision.
LARGEST_FLOAT = float(np.finfo(np.float32).max)


class ConvolutionalReward(ModuleReward):
    """r_x(s, a) of images: three convolutions and an output for each action.

    It computes in float32, to which x is rounded.
    """

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        *,
        channels: int = 8,
        bound: float = 1.0,
        device: str = "auto",
        seed: int = 0,
    ) -> None:
        """Build the network.

        Args:
            observation_space: Images of 8 bits, channels first, of at least 36 pixels each way.
            action_space: Discrete actions.
            channels: Channels of the first convolution, at least 1; the others have twice as many.
            bound: Bound on the reward, by a tanh of the output, positive.
            device: Where it computes: "cpu", "cuda", or "auto" for the latter where there is one.
            seed: Seed of the initial weights.

        Raises:
            ValueError: If an option is out of range.
            TypeError: If the spaces are of another kind.
        """
        channels = check_at_least("channels", channels, 1, LARGEST_LAYER)
        seed = check_at_least("seed", seed, 0, LARGEST_SEED)
        place = _checked_device(device)
        bound = check_positive("bound", check_between("bound", bound, 0.0, LARGEST_FLOAT))
        shape = observation_space.shape or ()
        if not (
            is_image_space(observation_space)
            and channels_first(observation_space)
            and min(shape[1:]) >= LEAST_SIDE
        ):
            raise TypeError(
                f"observations must be images, uint8 [C, H, W] of at least {LEAST_SIDE} pixels "
                f"each way, got {observation_space}"
            )
        if not isinstance(action_space, spaces.Discrete):
            raise TypeError(f"actions must be Discrete, got {action_space}")
        with th.random.fork_rng(devices=[]):
            th.manual_seed(seed)
            module = _Convolutions(shape, int(action_space.n), channels, bound)
        super().__init__(module.to(place), observation_space, action_space)


def _checked_device(device: str) -> th.device:
    """Return a device of PyTorch; the processor where there is no "cuda"."""
    try:
        named = isinstance(device, str) and device == "auto"
        place = th.device("cuda" if named else device)
    except (RuntimeError, TypeError, ValueError):
        raise ValueError(
            f'`device` must be "auto" or a device of PyTorch such as "cpu", got {received(device)}'
        ) from None
    cpu = place.type == "cuda" and not th.cuda.is_available()
    return th.device("cpu") if cpu else place


class _Convolutions(th.nn.Module):
    def __init__(
        self, shape: tuple[int, ...], num_actions: int, channels: int, bound: float
    ) -> None:
        super().__init__()
        self.features = th.nn.Sequential(
            th.nn.Conv2d(shape[0], channels, 8, 4),
            th.nn.ReLU(),
            th.nn.Conv2d(channels, 2 * channels, 4, 2),
            th.nn.ReLU(),
            th.nn.Conv2d(2 * channels, 2 * channels, 3, 2),
            th.nn.ReLU(),
            th.nn.Flatten(),
        )
        with th.no_grad():
            size = self.features(th.zeros(1, *shape)).shape[1]
        self.output = th.nn.Linear(size, num_actions)
        self.bound = bound

    def forward(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        output = (self.output(self.features(observations)) * actions).sum(dim=1)
        return self.bound * th.tanh(output)
