"""A layer or network of the NumPy engine and its torch twin, sent through the same numbers. Not a test file."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from convcraft.scratch.checks import Array
from convcraft.scratch.gradcheck import numeric_gradient
from convcraft.scratch.losses import CrossEntropyLoss
from convcraft.scratch.module import Module

FORWARD, GRADIENT, DIFFERENCES = 1e-12, 1e-10, 1e-6  # of layers, in float64
LOGITS, NETWORK_GRADIENT = 1e-10, 1e-8  # of networks, in float64


def gap(ours: Array, theirs: Any) -> float:
    """Largest difference; shapes must be equal."""
    other = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else np.asarray(theirs)
    assert ours.shape == other.shape, (ours.shape, other.shape)
    return float(np.abs(ours - other).max()) if ours.size else 0.0


def take_over(layer: Module, twin: torch.nn.Module) -> None:
    """float64 on both sides, and the torch module's numbers in the NumPy layer, by name."""
    twin.double()
    layer.astype(np.float64)
    layer.load_state_dict({name: tensor.numpy() for name, tensor in twin.state_dict().items()})


def gaps(layer: Module, twin: torch.nn.Module, input: Array, seed: int = 0) -> dict[str, float]:
    """Largest differences of output, input gradient, parameter gradients and buffers after one pass each way."""
    tensor = torch.tensor(input, requires_grad=True)
    twin.zero_grad()
    expected = twin(tensor)
    grad_output = np.random.default_rng(seed).standard_normal(tuple(expected.shape))
    expected.backward(torch.tensor(grad_output))
    layer.zero_grad()
    output = layer(input)
    assert output.dtype == input.dtype
    grad_input = layer.backward(grad_output.astype(input.dtype))
    assert grad_input.dtype == input.dtype
    found = {"output": gap(output, expected), "input": gap(grad_input, tensor.grad)}
    theirs = dict(twin.named_parameters())
    for name, parameter in layer.named_parameters():
        found[name] = gap(parameter.grad, theirs[name].grad)
    buffers = dict(twin.named_buffers())
    found |= {name: gap(np.asarray(buffer.data), buffers[name]) for name, buffer in layer.named_buffers()}
    return found


def assert_equal(
    layer: Module,
    twin: torch.nn.Module,
    shape: Sequence[int],
    *,
    forward: float = FORWARD,
    gradient: float = GRADIENT,
    scale: float = 1.0,
) -> None:
    """Both give the same output, gradients and running statistics, within the tolerances."""
    take_over(layer, twin)
    input = scale * np.random.default_rng(1).standard_normal(tuple(shape))
    found = gaps(layer, twin, input)
    assert found["output"] <= forward, found
    assert all(value <= gradient for value in found.values()), found


def assert_differences(layer: Module, shape: Sequence[int], seed: int = 2) -> None:
    """The layer's backward equals central differences, for the input and every parameter."""
    rng = np.random.default_rng(seed)
    layer.astype(np.float64)
    input = rng.standard_normal(tuple(shape))
    weights = rng.standard_normal(layer(input).shape)
    layer.zero_grad()
    layer(input)
    grad_input = layer.backward(weights)

    def loss() -> float:
        return float((layer(input) * weights).sum())

    assert gap(grad_input, numeric_gradient(loss, input)) <= DIFFERENCES
    for name, parameter in layer.named_parameters():
        assert gap(parameter.grad, numeric_gradient(loss, parameter.data)) <= DIFFERENCES, name


# Networks -----------------------------------------------------------------------------------------------------------


def assert_same_names(network: Module, twin: torch.nn.Module) -> None:
    """Both state dicts have the same names, and each name the same shape."""
    ours = {name: array.shape for name, array in network.state_dict().items()}
    assert ours == {name: tuple(tensor.shape) for name, tensor in twin.state_dict().items()}


def network_gaps(network: Module, twin: torch.nn.Module, images: Array, labels: Array) -> dict[str, float]:
    """Largest differences of logits, loss, gradients and buffers after one forward and backward of cross-entropy."""
    twin.zero_grad()
    tensor = torch.tensor(images, requires_grad=True)
    expected = twin(tensor)
    loss = torch.nn.functional.cross_entropy(expected, torch.tensor(labels))
    loss.backward()
    network.zero_grad()
    criterion = CrossEntropyLoss()
    logits = network(images)
    found = {"logits": gap(logits, expected), "loss": gap(np.asarray(criterion(logits, labels)), loss)}
    found["input"] = gap(network.backward(criterion.backward()), tensor.grad)
    theirs = dict(twin.named_parameters())
    found |= {name: gap(each.grad, theirs[name].grad) for name, each in network.named_parameters()}
    buffers = dict(twin.named_buffers())
    found |= {name: gap(np.asarray(buffer.data), buffers[name]) for name, buffer in network.named_buffers()}
    return found


def assert_networks_equal(
    network: Module, twin: torch.nn.Module, shape: Sequence[int], *, num_classes: int, training: bool = True
) -> None:
    """From the same weights both give the same logits and gradients in float64; weights go both ways by name."""
    assert_same_names(network, twin)
    take_over(network, twin)
    network.train(training)
    twin.train(training)
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal(tuple(shape)), rng.integers(0, num_classes, shape[0])
    found = network_gaps(network, twin, images, labels)
    wrong = {name: value for name, value in found.items() if not value <= NETWORK_GRADIENT}
    assert not wrong, wrong
    assert found["logits"] <= LOGITS, found["logits"]


def give_back(network: Module, twin: torch.nn.Module) -> None:
    """The NumPy network's numbers in the torch module, by name."""
    twin.load_state_dict({name: torch.tensor(array) for name, array in network.state_dict().items()})


# float32 ------------------------------------------------------------------------------------------------------------


def assert_as_exact_as_torch(layer: Module, twin: torch.nn.Module, shape: Sequence[int], factor: float = 3.0) -> None:
    """err(NumPy float32, torch float64) <= factor * err(torch float32, torch float64) + 1e-6, for all that comes out.

    Rounding differs with the order of sums, so float32 results cannot be equal; they must be as good as torch's. The
    error is the root mean square one: the largest of thousands of roundings is luck.
    """
    exact = copy.deepcopy(twin).double()
    layer.load_state_dict({name: tensor.numpy() for name, tensor in twin.state_dict().items()})
    rng = np.random.default_rng(1)
    input = rng.standard_normal(tuple(shape)).astype(np.float32)
    grad_output = rng.standard_normal(layer(input).shape).astype(np.float32)

    def torch_results(module: torch.nn.Module, dtype: torch.dtype) -> dict[str, Array]:
        tensor = torch.tensor(input, dtype=dtype, requires_grad=True)
        module.zero_grad()
        output = module(tensor)
        output.backward(torch.tensor(grad_output, dtype=dtype))
        grads = {name: parameter.grad for name, parameter in module.named_parameters()}
        found = {"output": output.detach(), "input": tensor.grad, **grads}
        return {name: each.numpy() for name, each in found.items() if each is not None}

    single, double = torch_results(twin, torch.float32), torch_results(exact, torch.float64)
    layer.zero_grad()
    ours = {"output": layer(input), "input": layer.backward(grad_output)}
    ours |= {name: parameter.grad for name, parameter in layer.named_parameters()}
    assert ours.keys() == double.keys()
    for name, array in ours.items():
        assert array.dtype == np.float32, name
        own, theirs = (float(np.sqrt(np.mean((each - double[name]) ** 2))) for each in (array, single[name]))
        assert own <= factor * theirs + 1e-6, (name, own, theirs)
