"""A layer or network of the NumPy engine and its torch twin, sent through the same numbers. Not a test file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from convcraft.scratch.checks import Array
from convcraft.scratch.gradcheck import numeric_gradient
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
