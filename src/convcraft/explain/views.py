"""Grad-CAM seen from several sides: mean of the maps of an image, its mirror image, and both enlarged.

A map of the last layer has few cells (7 x 7 of 224 pixels), and where the cell borders fall is chance. Enlarged images
have more and other cells; what a single map shows by accident averages out.

In the manner of Morbidelli et al. 2020, "Augmented Grad-CAM: Heat-Maps Super Resolution Through Augmentation" (ICASSP),
with a plain mean in place of their super-resolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from convcraft.errors import UserError
from convcraft.explain.grad_cam import grad_cam
from convcraft.explain.heat_maps import HeatMaps, check_request, scaled

SCALES = (1.0, 9 / 7, 11 / 7)  # 224, 288 and 352 pixels: maps of 7, 9 and 11 cells


def grad_cam_views(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    layer: str | None = None,
    scales: Sequence[float] = SCALES,
    mirrored: bool = True,
) -> HeatMaps:
    """Mean of Grad-CAM's maps over views, each map in 0..1 before. One forward and backward pass per view.

    Args:
        images: float32 [B, C, H, W], normalised.
        targets: int64 [B], the class to explain for each image.
        layer: as for `grad_cam`.
        scales: sizes of the views, of the image's. Networks for images of one size (a linear layer on flattened maps)
            take (1.0,) alone.
        mirrored: each view also mirrored left to right. Not for images that mean something else then, such as digits.

    Returns:
        float32 [B, H, W] in 0..1, each map scaled by its own maximum; an all-zero map stays zero.

    Raises:
        UserError: as `grad_cam`; no scales, one that is not above 0, or a network that refuses the enlarged views.
    """
    check_request(images, targets)
    if not scales or min(scales) <= 0:
        raise UserError(f"scales {list(scales)}", "at least one, above 0", "Leave scales away for the default.")
    total = torch.zeros((len(images), *images.shape[2:]), dtype=torch.float64)
    for scale in scales:
        view = _resized(images, scale)
        total += _heat(model, view, targets, layer, scale, images.shape[2:])
        if mirrored:
            total += _heat(model, view.flip(3), targets, layer, scale, images.shape[2:]).flip(2)
    return scaled(total)


def _resized(images: Tensor, scale: float) -> Tensor:
    size = [max(1, round(side * scale)) for side in images.shape[2:]]
    return images if scale == 1 else interpolate(images, size=size, mode="bilinear", antialias=True)


def _heat(
    model: nn.Module, view: Tensor, targets: Tensor, layer: str | None, scale: float, size: Sequence[int]
) -> Tensor:
    """Grad-CAM of one view, at the image's size: [B, H, W]."""
    try:
        heat = torch.from_numpy(grad_cam(model, view, targets, layer=layer))
    except RuntimeError as error:
        if scale == 1:
            raise
        fix = "Pass scales=(1.0,), or choose grad-cam."
        raise UserError(f"a network that refuses views of {list(view.shape[2:])} pixels", "any size", fix) from error
    return interpolate(heat[:, None], size=list(size), mode="bilinear", antialias=True)[:, 0]
