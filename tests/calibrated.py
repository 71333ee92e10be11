"""Random networks that behave as trained ones do: statistics that fit, logits of size one. (No tests.)"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from convcraft.config import ModelConfig
from convcraft.models.build import build_model


def calibrated_network(config: ModelConfig, images: Tensor, num_classes: int = 3) -> nn.Module:
    """Batch norms know the statistics of these images, and logits spread by about one.

    Random statistics would let the maps of a deep network grow or die; rounding would then hide or fake differences.

    Args:
        images: float32 [B, C, H, W], normalised; not those of the test.
    """
    _, channels, height, width = images.shape
    model = build_model(config, num_classes=num_classes, in_channels=channels, image_size=(height, width))
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        classifier = model.get_classifier()  # type: ignore[operator]
        classifier.weight.div_(model.eval()(images).std())
    return model


EXACT = 1e-10  # of logits of size one, in float64
ROUNDED = 1e-5  # of the range of the logits, in float32
ROUNDINGS = 2.0  # times the rounding that the unmerged network shows


def assert_merges(adapted: nn.Module, merged: Callable[[nn.Module], nn.Module], images: Tensor) -> None:
    """Merging is the same function, and costs no accuracy.

    In float64 the logits agree within `EXACT`. In float32 the merged network is as near to those exact logits as
    `ROUNDED` of their range; or, where float32 itself keeps the unmerged network farther away (random deep networks
    at small sizes amplify rounding: 6e-5 for MobileNetV2), not more than `ROUNDINGS` times as far as that one.

    Args:
        merged: gives a merged copy.
        images: float32 [B, C, H, W], normalised.
    """
    exact = copy.deepcopy(adapted).double().eval()
    with torch.no_grad():
        truth, logits = exact(images.double()), adapted.eval()(images)
        from_exact = merged(exact)(images.double()) - truth
        rounding, merged_rounding = ((values - truth).abs().max() for values in (logits, merged(adapted)(images)))
    assert from_exact.abs().max() <= EXACT, f"{from_exact.abs().max():.2e} in float64"
    allowed = max(ROUNDED * (truth.max() - truth.min()), ROUNDINGS * rounding)
    assert merged_rounding <= allowed, f"{merged_rounding:.2e} in float32, {rounding:.2e} before merging"
