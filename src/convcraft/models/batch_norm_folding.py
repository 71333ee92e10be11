"""Batch norms folded into the convolutions before them: the same network with a third less to compute.

In evaluation mode a batch norm multiplies each channel and adds to it, by numbers that stay what they are; so does the
convolution whose output it gets. One convolution with other weights does both. Source: Jacob et al. 2018,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", section 3.2.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

TOLERANCE = 1e-4  # of the largest logit: what folding may change by rounding


def fold_batch_norms(model: nn.Module, images: Tensor, keep: Collection[str] = ()) -> nn.Module:
    """A copy in evaluation mode in which convolutions do the work of the batch norms behind them.

    Which norm follows which convolution is seen in a forward pass, not guessed from the order of modules. Where the
    folded copy does not answer as the network does (a convolution whose output goes elsewhere too), an unfolded copy
    comes back.

    Args:
        model: its own weights and flags stay as they are.
        images: float32 [B, C, H, W], normalised and no constants, on the model's device.
        keep: modules whose outputs must stay what they are.

    Returns:
        the copy. A norm with an activation of its own (timm) keeps that; any other passes on what it gets.
    """
    plain = copy.deepcopy(model).eval()
    folded = copy.deepcopy(plain)
    with torch.no_grad():
        pairs = _pairs(folded, images, keep)
        if not pairs:
            return plain
        for convolution, norm in pairs:
            _fold(folded, convolution, norm)
        expected, got = plain(images), folded(images)
    if not isinstance(expected, Tensor) or not isinstance(got, Tensor):
        return plain
    largest = float(expected.abs().max())
    return folded if float((got - expected).abs().max()) <= TOLERANCE * max(largest, 1e-6) else plain


def _pairs(model: nn.Module, images: Tensor, keep: Collection[str]) -> list[tuple[str, str]]:
    """Names of each convolution that runs once, and of the batch norm that gets its output."""
    made: dict[int, tuple[str, Tensor]] = {}  # by the tensor's identity; the tensor itself keeps that from being reused
    runs: Counter[str] = Counter()
    found: dict[str, str] = {}

    def note_output(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            made[id(output)] = name, output
            runs[name] += 1

        return note

    def note_input(name: str) -> Callable[[nn.Module, Any], None]:
        def note(_module: nn.Module, inputs: Any) -> None:
            runs[name] += 1
            source = made.get(id(inputs[0]))
            if source is not None:
                found[source[0]] = name

        return note

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and name not in keep:
            handles.append(module.register_forward_hook(note_output(name)))
        elif isinstance(module, _BatchNorm) and module.running_mean is not None and name not in keep:
            handles.append(module.register_forward_pre_hook(note_input(name)))
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return [(convolution, norm) for convolution, norm in found.items() if runs[convolution] == runs[norm] == 1]


def _fold(model: nn.Module, convolution_name: str, norm_name: str) -> None:
    convolution: Any = model.get_submodule(convolution_name)
    norm: Any = model.get_submodule(norm_name)
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    # timm's norms end with their own activation; torch's end with the sum.
    rest = [part for name in ("drop", "act") if (part := getattr(norm, name, None)) is not None]
    model.set_submodule(norm_name, nn.Sequential(*rest) if rest else nn.Identity())
