"""Small networks on one stretch of memory, with a backward pass of their own.

Networks of some dozen units are slow by what surrounds their arithmetic: modules one by one, the
recording of gradients, an optimizer that walks from parameter to parameter. Here all parameters of
several networks of one shape are views of one tensor, and so are their gradients and what Adam
remembers: a layer of all networks is one product, a step of Adam one call, and so is the step of
targets. The modules stay what they are, with their parameters in this memory: Stable-Baselines3
saves, loads and evaluates them as ever, and NumPy sees them without a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch.optim.adam import adam

__all__ = ["FlatAdam", "FlatNetworks", "hooked", "linear_layers"]

# Options of Adam that change its steps, and are off where it is plain.
EXTRAS = "weight_decay", "amsgrad", "maximize", "capturable", "differentiable"

# Of all networks: weights `[C, out, in]` and biases `[C, 1, out]` of each layer.
Views = tuple[list[th.Tensor], list[th.Tensor]]

# For each layer of a network the linear modules whose outputs follow each other.
Layers = Sequence[Sequence[th.nn.Linear]]


def linear_layers(network: th.nn.Module) -> list[list[th.nn.Linear]] | None:
    """Return the layers of a network, linear with a ReLU between each two, None of any other."""
    if type(network) is not th.nn.Sequential or hooked(network):
        return None
    modules = list(network)
    kinds = [th.nn.ReLU if number % 2 else th.nn.Linear for number in range(len(modules))]
    if [type(module) for module in modules] != kinds or any(map(hooked, modules)):
        return None
    layers = [[module] for module in modules if isinstance(module, th.nn.Linear)]
    return None if any(module.bias is None for [module] in layers) else layers


def hooked(module: th.nn.Module) -> bool:
    """Whether something else is called where a module is."""
    return bool(
        module._forward_pre_hooks
        or module._forward_hooks
        or module._backward_pre_hooks
        or module._backward_hooks
    )


class FlatNetworks:
    """C networks of one shape, linear layers with a ReLU between each two, in one tensor.

    Attributes:
        memory: All parameters, `[N]`.
        parameters: The modules' parameters, views of the memory.
    """

    def __init__(self, networks: Sequence[Layers]) -> None:
        """Move the parameters of some networks into one tensor."""
        self._layers = list(zip(*networks, strict=True))
        self.parameters = [
            parameter
            for layer in self._layers
            for modules in layer
            for module in modules
            for parameter in (module.weight, module.bias)
        ]
        self.memory = th.cat([parameter.data.ravel() for parameter in self.parameters])
        self.weights, self.biases = self.views(self.memory)
        self._transposed = [weight.transpose(1, 2) for weight in self.weights]
        for parameter, place in zip(self.parameters, self.pieces(self.memory), strict=True):
            place.copy_(parameter.data)
            parameter.data = place
        self._addresses = self._where()

    @property
    def bound(self) -> bool:
        """Whether the modules' parameters still are views of the memory."""
        return self._where() == self._addresses

    def _where(self) -> list[int]:
        return [parameter.data_ptr() for parameter in self.parameters]

    def views(self, memory: th.Tensor) -> Views:
        """Return the views of a tensor `[N]` as weights `[C, out, in]` and biases `[C, 1, out]`."""
        weights: list[th.Tensor] = []
        biases: list[th.Tensor] = []
        begin = 0
        for layer in self._layers:
            outputs = sum(module.out_features for module in layer[0])
            for views, shape in (
                (weights, (len(layer), outputs, layer[0][0].in_features)),
                (biases, (len(layer), 1, outputs)),
            ):
                size = shape[0] * shape[1] * shape[2]
                views.append(memory[begin : begin + size].view(shape))
                begin += size
        return weights, biases

    def pieces(self, memory: th.Tensor) -> Iterator[th.Tensor]:
        """Yield the views of a tensor `[N]` that belong to each of the parameters."""
        for layer, weights, biases in zip(self._layers, *self.views(memory), strict=True):
            for network, modules in enumerate(layer):
                begin = 0
                for module in modules:
                    rows = slice(begin, begin + module.out_features)
                    yield weights[network, rows]
                    yield biases[network, 0, rows]
                    begin += module.out_features

    def forward(self, inputs: th.Tensor) -> list[th.Tensor]:
        """Return the values of each layer, from the inputs `[B, in]` to the outputs `[C, B, out]`.

        Inputs `[C, B, in]` are each network's own.
        """
        values = [inputs.expand(len(self.weights[0]), *inputs.shape[-2:])]
        for weight, bias in zip(self._transposed, self.biases, strict=True):
            if len(values) > 1:
                values[-1].relu_()
            values.append(th.baddbmm(bias, values[-1], weight))
        return values

    def backward(
        self, values: Sequence[th.Tensor], slopes: th.Tensor, gradient: Views | None = None
    ) -> th.Tensor:
        """Return the derivative of a sum by the inputs, `[C, B, in]`.

        Args:
            values: As `forward` returned them.
            slopes: The derivative by the outputs, `[C, B, out]`.
            gradient: Where to write the derivative by the parameters, if anywhere.
        """
        for number in range(len(self.weights) - 1, -1, -1):
            if gradient is not None:
                th.bmm(slopes.transpose(1, 2), values[number], out=gradient[0][number])
                th.sum(slopes, 1, keepdim=True, out=gradient[1][number])
            slopes = th.bmm(slopes, self.weights[number])
            if number:  # ReLU's own derivative: a mask and a product take several times as long
                slopes = th.ops.aten.threshold_backward(slopes, values[number], 0)
        return slopes

    def evaluate(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the outputs `[C, B, out]` for inputs `[B, in]`, by NumPy."""
        values = inputs
        for number, (weight, bias) in enumerate(zip(self._transposed, self.biases, strict=True)):
            if number:
                np.maximum(values, 0.0, out=values)
            values = values @ weight.numpy() + bias.numpy()
        return values


class FlatAdam:
    """Adam for flat networks, whose state is that of the optimizer of their modules.

    Attributes:
        gradient: What `step` follows downhill, `[N]`.
        places: The same, as views of each layer.
    """

    def __init__(self, networks: FlatNetworks, optimizer: th.optim.Optimizer) -> None:
        """Move the optimizer's state into tensors of its own; its options are read at each step."""
        memory = networks.memory
        self.gradient = th.zeros_like(memory)
        self.places = networks.views(self.gradient)
        self._memory, self._optimizer = memory, optimizer
        self._first = networks.parameters[0]
        means, squares = th.zeros_like(memory), th.zeros_like(memory)
        # One each, as in the optimizer: what is saved must not be shared.
        self._steps = th.zeros(len(networks.parameters), device=memory.device)
        for parameter, mean, square, steps in zip(
            networks.parameters,
            networks.pieces(means),
            networks.pieces(squares),
            self._steps,
            strict=True,
        ):
            state = optimizer.state[parameter]
            if state:
                mean.copy_(state["exp_avg"])
                square.copy_(state["exp_avg_sq"])
                steps.copy_(state["step"])
            state.update(exp_avg=mean, exp_avg_sq=square, step=steps)
        self._means, self._squares = means, squares

    @staticmethod
    def suits(networks_parameters: Sequence[th.Tensor], optimizer: Any) -> bool:
        """Whether an optimizer is plain Adam for these parameters and no others, all alike."""
        if type(optimizer) is not th.optim.Adam or len(optimizer.param_groups) != 1:
            return False
        group = optimizer.param_groups[0]
        if any(group[name] for name in EXTRAS):
            return False
        own = {id(parameter) for parameter in networks_parameters}
        return {id(parameter) for parameter in group["params"]} == own and all(
            parameter.requires_grad for parameter in networks_parameters
        )

    @staticmethod
    def even(optimizer: th.optim.Optimizer | None) -> bool:
        """Whether an optimizer has taken the same number of steps for all parameters."""
        if optimizer is None:
            return True
        states = [optimizer.state[p] for p in optimizer.param_groups[0]["params"]]
        return len({float(state.get("step", 0.0)) for state in states}) == 1

    @property
    def bound(self) -> bool:
        """Whether the optimizer's state still is in these tensors."""
        state = self._optimizer.state[self._first]
        return "exp_avg" in state and state["exp_avg"].data_ptr() == self._means.data_ptr()

    def step(self) -> None:
        """Take a step along the gradient, at the optimizer's learning rate."""
        group = self._optimizer.param_groups[0]
        beta1, beta2 = group["betas"]
        adam(
            [self._memory],
            [self.gradient],
            [self._means],
            [self._squares],
            [],
            [self._steps[0]],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )
        self._steps[1:] = self._steps[0]
