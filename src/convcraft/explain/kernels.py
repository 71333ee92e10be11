"""The weights of a convolution as pictures: what each of its kernels looks for.

Kernels of the first layer, which sees colours, can be read directly. Deeper ones combine the maps of the layer before
and say little by themselves.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from convcraft.errors import UserError

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
SCALES = ("layer", "kernel")


@dataclass(frozen=True, eq=False)
class Kernels:
    """The kernels of one layer; O outputs, I inputs, G groups.

    weights: float32 [O, I/G, kh, kw], signed, as the layer has them.
    inputs: int64 [O, I/G], the input channel that each slice reads. Without groups that is 0..I-1 in every row, in a
        depthwise convolution there is a single one.
    pictures: float32 [O, I/G, kh, kw] in -1..1: weights divided by the largest magnitude, so that 0 stays 0.
    """

    layer: str
    weights: NDArray[np.float32]
    inputs: NDArray[np.int64]
    pictures: NDArray[np.float32]

    @property
    def colours(self) -> NDArray[np.float32] | None:
        """Each kernel as an RGB picture, float32 [O, kh, kw, 3] in 0..1; grey (0.5) is weight 0.

        None where a kernel does not read three channels.
        """
        if self.pictures.shape[1] != 3:
            return None
        return (self.pictures.transpose(0, 2, 3, 1) + np.float32(1)) / np.float32(2)


def kernels(model: nn.Module, layer: str | None = None, *, scale: str = "layer") -> Kernels:
    """Pictures of a convolution's weights; nothing of the model is changed or shared.

    Args:
        layer: name as in `model.named_modules()`; None takes the first convolution that the network defines.
        scale: "layer" divides by the largest magnitude of all kernels, so that they can be compared; "kernel" divides
            each by its own, so that weak ones can be seen.

    Raises:
        UserError: no such layer, one that is no 2-D convolution, weights that are not finite, or another scale.
    """
    if scale not in SCALES:
        raise UserError(f"scale {scale!r}", " or ".join(SCALES), "Choose one of these.")
    name, convolution = _convolution(model, layer)
    given = convolution.weight.detach().float().cpu().numpy().copy()
    groups, in_channels = convolution.groups, convolution.in_channels
    weights = _outputs_first(given, groups) if convolution.transposed else given
    if not np.isfinite(weights).all():
        raise UserError(f"layer {name!r} with NaN or infinite weights", "finite weights", "Load other weights.")
    group_of = np.arange(len(weights)) * groups // len(weights)
    inputs = group_of[:, None] * (in_channels // groups) + np.arange(in_channels // groups)
    largest = np.abs(weights).max(axis=None if scale == "layer" else (1, 2, 3), keepdims=True)
    pictures = (weights / np.where(largest > 0, largest, 1)).astype(np.float32)
    return Kernels(name, weights, inputs, pictures)


def _convolution(model: nn.Module, layer: str | None) -> tuple[str, nn.Conv2d | nn.ConvTranspose2d]:
    modules = dict(model.named_modules())
    convolutions = {name: module for name, module in modules.items() if isinstance(module, CONVOLUTIONS)}
    if not convolutions:
        raise UserError(f"{type(model).__name__} without Conv2d", "a convolutional network", "Leave its kernels out.")
    name = next(iter(convolutions)) if layer is None else layer
    if name not in convolutions:
        near = difflib.get_close_matches(name, convolutions, n=5, cutoff=0.4) or list(convolutions)[:5]
        received = f"layer {name!r}" + (f", a {type(modules[name]).__name__}" if name in modules else "")
        raise UserError(received, "the name of a convolution of this network", f"Close names: {', '.join(near)}.")
    return name, convolutions[name]


def _outputs_first(weights: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """A transposed convolution has its weights as [I, O/G, kh, kw]: here [O, I/G, kh, kw]."""
    num_inputs, per_group, height, width = weights.shape
    parts = weights.reshape(groups, num_inputs // groups, per_group, height, width).swapaxes(1, 2)
    return parts.reshape(groups * per_group, num_inputs // groups, height, width)
