"""What rounding a layer's weights to 8 bits does: to its outputs on average, and to the network's answers.

Layers are convolutions and linear layers, by their module's name in the `ExportNetwork`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convcraft.deploy.export_network import ExportNetwork

BATCH_SIZE = 16
MOST_IMAGES = 16  # on which sensitivity is measured: one forward pass for each layer
WEIGHT_STEPS, ACTIVATION_STEPS = 127, 255
TINIEST = 1e-12

Hook = Callable[[nn.Module, Any, Any], Any]


@dataclass(frozen=True)
class LayerSensitivity:
    """noise: rms change of the logits when this layer alone computes in 8 bits, as a share of their spread."""

    name: str
    noise: float


def layers_of(network: ExportNetwork) -> dict[str, nn.Conv2d | nn.Linear]:
    """What int8 rounds, by name, in the order of the modules."""
    return {name: each for name, each in network.named_modules() if isinstance(each, (nn.Conv2d, nn.Linear))}


@torch.no_grad()
def mean_rounding_errors(network: ExportNetwork, images: NDArray[np.generic]) -> dict[str, NDArray[np.float32]]:
    """By layer, float32 [outputs]: what its outputs rise by on average once its weights are rounded.

    Taken off the bias it no longer adds up from layer to layer. Depthwise convolutions gain most, where a channel has
    few weights and their errors do not cancel: on MobileNetV2 the change of the logits halves (docs/bundle.md).
    Source: Nagel, van Baalen, Blankevoort, Welling 2019, "Data-Free Quantization Through Weight Equalization and Bias
    Correction", arXiv 1906.04721, section 4.2; the means are measured on images, as in its appendix D.

    Args:
        images: [N, ...] as the network takes them.
    """
    layers = layers_of(network)
    errors = {name: layer.weight.new_zeros(len(layer.weight)) for name, layer in layers.items()}
    seen = dict.fromkeys(layers, 0)

    def note(name: str) -> Hook:
        def hook(layer: Any, inputs: tuple[Tensor, ...], _outputs: Tensor) -> None:
            rows = _rounding_errors(layer, inputs[0])
            errors[name] += rows.sum(dim=0)
            seen[name] += len(rows)

        return hook

    with _hooked(layers, note):
        for start in range(0, len(images), BATCH_SIZE):
            network(torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH_SIZE])))
    return {name: (errors[name] / seen[name]).numpy() for name in layers if seen[name]}


@torch.no_grad()
def layer_sensitivity(network: ExportNetwork, images: NDArray[np.generic]) -> tuple[LayerSensitivity, ...]:
    """Layers by what the logits lose when each alone has weights and inputs of 8 bits; the most sensitive first.

    The layer's mean error is taken off, as `mean_rounding_errors` does for all. Of more than 16 images, 16 that
    are evenly spread are taken.
    """
    spread = np.linspace(0, len(images) - 1, min(len(images), MOST_IMAGES)).round().astype(np.int64)
    batch = torch.from_numpy(np.ascontiguousarray(images[spread]))
    expected = _logits(network, batch)
    scale = max(float(expected.std()), TINIEST)
    found = []
    for name, layer in layers_of(network).items():
        with _hooked({name: layer}, lambda _name: _in_8_bits):
            error = _logits(network, batch) - expected
        found.append(LayerSensitivity(name, float(error.square().mean().sqrt()) / scale))
    return tuple(sorted(found, key=lambda each: (-each.noise, each.name)))


def rounded_weights(weight: Tensor) -> Tensor:
    """To 255 steps for each output (the first dimension), even around 0: what ONNX Runtime and NNCF do."""
    step = weight_steps(weight).reshape(-1, *[1] * (weight.ndim - 1))
    return (weight / step).round() * step


def weight_steps(weight: Tensor) -> Tensor:
    """The size of a step, for each output."""
    return weight.flatten(1).abs().amax(dim=1).clamp_min(TINIEST) / WEIGHT_STEPS


def rounded_activations(values: Tensor, least: Tensor, largest: Tensor) -> Tensor:
    """To 256 steps from `least` to `largest`, 0 being one of them, with the gradient of what was given; values outside
    of that are cut off and have none."""
    least, largest = least.clamp_max(0), largest.clamp_min(0)
    step = ((largest - least) / ACTIVATION_STEPS).clamp_min(TINIEST)
    zero = (-least / step).round().int()
    return torch.fake_quantize_per_tensor_affine(values, step, zero, 0, ACTIVATION_STEPS)


def _in_8_bits(layer: Any, inputs: tuple[Tensor, ...], _outputs: Tensor) -> Tensor:
    error = _rounding_errors(layer, inputs[0]).mean(dim=0)
    bias = -error if layer.bias is None else layer.bias - error
    return _with_weights(
        layer, rounded_weights(layer.weight), nn.Parameter(bias), rounded_activations(inputs[0], *inputs[0].aminmax())
    )


def _rounding_errors(layer: nn.Conv2d | nn.Linear, inputs: Tensor) -> Tensor:
    """At every place: [places, outputs]."""
    errors = _with_weights(layer, rounded_weights(layer.weight) - layer.weight, None, inputs)
    channels_last = errors.movedim(1, -1) if isinstance(layer, nn.Conv2d) else errors
    return channels_last.flatten(0, -2)


def _with_weights(layer: Any, weight: Tensor, bias: Tensor | None, inputs: Tensor) -> Tensor:
    """By the layer's own forward, as some of timm's layers pad in it."""
    own = layer.weight, layer.bias
    try:
        layer.weight, layer.bias = nn.Parameter(weight, requires_grad=False), bias
        outputs: Tensor = layer.forward(inputs)
        return outputs
    finally:
        layer.weight, layer.bias = own


def _logits(network: ExportNetwork, images: Tensor) -> Tensor:
    answer = network(images)
    return answer if isinstance(answer, Tensor) else answer[0]


@contextmanager
def _hooked(layers: dict[str, nn.Conv2d | nn.Linear], hook_of: Callable[[str], Hook]) -> Iterator[None]:
    handles = [layer.register_forward_hook(hook_of(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
