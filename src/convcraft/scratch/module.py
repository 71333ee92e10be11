"""What every layer is: forward, backward, parameters with gradients, buffers, and torch's names for all of them.

    output = layer(input)                  remembers what backward needs
    grad_input = layer.backward(grad)      adds to the gradients of the parameters, returns that of the input

`grad` is dL/d(output): one number per number of the output, saying how the loss L changes with it. A network is a
layer made of layers, and its backward calls theirs in the opposite order: that is all of backpropagation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from convcraft.scratch.checks import Array, refuse


class Parameter:
    """Numbers that learning changes.

    Attributes:
        data: float32 or float64 array.
        grad: dL/d(data), same shape; backward adds to it, `Module.zero_grad` sets it back.
        trainable: optimisers leave a parameter alone where this is False (torch's `requires_grad`).
    """

    def __init__(self, data: Array) -> None:
        self.data = data
        self.grad = np.zeros_like(data)
        self.trainable = True


class Buffer:
    """Numbers that belong to a layer's state but not to learning, such as running means."""

    def __init__(self, data: Array) -> None:
        self.data = data


class Module:
    """A layer, or a network of layers. Subclasses write `forward` and `backward`.

    Parameters, buffers and modules are found among the attributes, in the order of their assignment, and named after
    them ("layer1.0.conv1.weight"), so that a state dict is the torch module's, name by name.
    """

    training: bool = True

    def forward(self, input: Array) -> Array:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, grad_output: Array) -> Array:
        """Add dL/d(parameter) to every parameter's grad and return dL/d(input).

        Args:
            grad_output: dL/d(output), of the shape that the last `forward` returned.
        """
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def __call__(self, input: Array) -> Array:
        return self.forward(input)

    # What is inside -------------------------------------------------------------------------------------------------

    def children(self) -> Iterator[tuple[str, Module]]:
        """Modules directly inside, with their names."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def modules(self) -> Iterator[Module]:
        """This module and all inside it."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        yield from self._named(Parameter, prefix)

    def named_buffers(self, prefix: str = "") -> Iterator[tuple[str, Buffer]]:
        yield from self._named(Buffer, prefix)

    def parameters(self) -> list[Parameter]:
        return [parameter for _, parameter in self.named_parameters()]

    def _named(self, kind: type[Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in vars(self).items():
            if isinstance(value, kind):
                yield prefix + name, value
        for name, child in self.children():
            yield from child._named(kind, f"{prefix}{name}.")

    # Modes and gradients --------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Module:
        """Training mode: dropout drops, batch norm uses the batch. `eval` is the opposite."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        return self.train(False)

    def zero_grad(self) -> None:
        for parameter in self.parameters():
            parameter.grad.fill(0)

    def freeze(self) -> None:
        """Optimisers leave all parameters in here alone."""
        for parameter in self.parameters():
            parameter.trainable = False

    def astype(self, dtype: Any) -> Module:
        """Turn all floating parameters and buffers into float32 or float64."""
        for _, parameter in self.named_parameters():
            parameter.data, parameter.grad = parameter.data.astype(dtype), parameter.grad.astype(dtype)
        for _, buffer in self.named_buffers():
            if np.issubdtype(buffer.data.dtype, np.floating):
                buffer.data = buffer.data.astype(dtype)
        return self

    # State ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters and buffers under torch's names."""
        return {name: item.data.copy() for name, item in self._stored().items()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take all numbers from `state`, converted to the dtype that each has here.

        A missing `num_batches_tracked` is let pass: older files have none, and only batch norm without momentum
        reads it.

        Raises:
            ValueError: names that are missing or too many, or another shape; nothing is changed then.
        """
        own = self._stored()
        missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
        unknown = [name for name in state if name not in own]
        if missing or unknown:
            received = f"a state dict without {missing[:5]} and with the unknown {unknown[:5]}"
            raise refuse(received, f"the {len(own)} names of {type(self).__name__}", "Load it into its own network.")
        for name, array in state.items():
            if array.shape != own[name].data.shape:
                raise refuse(
                    f"{name} of shape {list(array.shape)}",
                    str(list(own[name].data.shape)),
                    "Build the network with the sizes it was saved with, e.g. num_classes.",
                )
        for name, array in state.items():
            own[name].data = np.array(array, dtype=own[name].data.dtype)

    def _stored(self) -> dict[str, Parameter | Buffer]:
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}


class Chain(Module):
    """Layers one after the other, in the order in which they were assigned as attributes."""

    def forward(self, input: Array) -> Array:
        for _, layer in self.children():
            input = layer(input)
        return input

    def backward(self, grad_output: Array) -> Array:
        for _, layer in reversed(list(self.children())):
            grad_output = layer.backward(grad_output)
        return grad_output


class Sequential(Chain):
    """A chain named "0", "1", ... as in torch; layers without parameters count too."""

    def __init__(self, *layers: Module) -> None:
        self.layers = list(layers)

    def children(self) -> Iterator[tuple[str, Module]]:
        for index, layer in enumerate(self.layers):
            yield str(index), layer

    def __getitem__(self, index: int) -> Module:
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)
