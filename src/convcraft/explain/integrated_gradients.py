"""Integrated gradients: how much each pixel adds to the class score on the way from an empty image to the real one.

Sundararajan, Taly, Yan 2017, "Axiomatic Attribution for Deep Networks", arXiv:1703.01365, equations 1 and 3. The
integral is a Gauss-Legendre sum rather than the paper's Riemann sum: closer with as many steps.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from convcraft.explain.heat_maps import (
    HeatMaps,
    baseline_of,
    check_count,
    check_request,
    magnitude,
    pixel_gradients,
    refuse_layer,
    scaled,
    standing,
)


def integrated_gradients(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    layer: str | None = None,
    baseline: Tensor | None = None,
    num_steps: int = 50,
) -> HeatMaps:
    """Size of each pixel's part in the class score, for or against: the attributions' absolute sum over the channels.

    Args:
        images: float32 [B, C, H, W], normalised.
        targets: int64 [B], the class to explain for each image.
        layer: None; this method looks at pixels.
        baseline: the empty image; None for the mean colour (see `heat_maps.baseline_of`, also for black). Pixels that
            are like it get nothing, however much they matter.
        num_steps: forward and backward passes. 50 are quick and rough: see `attributions` for how to tell.

    Returns:
        float32 [B, H, W] in 0..1.

    Raises:
        UserError: a layer is named, the baseline does not fit, num_steps is below 1, or see
            `heat_maps.pixel_gradients`.
    """
    refuse_layer("integrated-gradients", layer)
    return scaled(magnitude(attributions(model, images, targets, baseline=baseline, num_steps=num_steps)))


def attributions(
    model: nn.Module, images: Tensor, targets: Tensor, *, baseline: Tensor | None = None, num_steps: int = 50
) -> Tensor:
    """Signed parts of the class score, [B, C, H, W].

    Completeness: an image's parts add up to logit(image) - logit(baseline); how far they miss it tells whether
    num_steps is enough. ReLU networks bend often along the way: figures are in docs/explain.md.
    """
    check_request(images, targets)
    check_count("num_steps", num_steps)
    nodes, weights = np.polynomial.legendre.leggauss(num_steps)  # of -1..1
    with standing(model):
        start = baseline_of(images.detach(), baseline)
        way = images.detach() - start
        total = torch.zeros_like(way)
        for place, weight in zip((1 + nodes) / 2, weights / 2, strict=True):
            total += float(weight) * pixel_gradients(model, start + float(place) * way, targets)
    return way * total
