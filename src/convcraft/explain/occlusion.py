"""Occlusion: how far the class score falls when a patch of the image is covered. No gradients, no layers.

Zeiler, Fergus 2014, "Visualizing and Understanding Convolutional Networks", arXiv:1311.2901, section 4.2; with logits
as scores and a patch of the mean colour.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.explain.heat_maps import (
    HeatMaps,
    baseline_of,
    check_count,
    check_request,
    class_scores,
    refuse_layer,
    scaled,
    scores_of_variants,
    standing,
)

PATCHES_PER_SIDE = 8  # by default


def occlusion(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    layer: str | None = None,
    patch_pixels: int | None = None,
    stride_pixels: int | None = None,
    fill: Tensor | None = None,
    batch_size: int = 32,
) -> HeatMaps:
    """Where covering costs the class score; places whose covering raises it are cut off at 0.

    Args:
        images: float32 [B, C, H, W], normalised.
        targets: int64 [B], the class to explain for each image.
        layer: None; this method looks at pixels.
        patch_pixels: side of the patch; None for an eighth of the shorter side.
        stride_pixels: from patch to patch, up to patch_pixels; None for half a patch. The last patch of a row ends at
            the image's edge.
        fill: of the patch; None for the mean colour (see `heat_maps.baseline_of`, also for black).
        batch_size: covered images per forward pass.

    Returns:
        float32 [B, H, W] in 0..1.

    Raises:
        UserError: a layer is named, the patch is larger than the image or the stride than the patch, the fill does not
            fit, or see `heat_maps.class_scores`.
    """
    refuse_layer("occlusion", layer)
    falls = score_falls(
        model,
        images,
        targets,
        patch_pixels=patch_pixels,
        stride_pixels=stride_pixels,
        fill=fill,
        batch_size=batch_size,
    )
    return scaled(falls.relu())


def score_falls(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    patch_pixels: int | None = None,
    stride_pixels: int | None = None,
    fill: Tensor | None = None,
    batch_size: int = 32,
) -> Tensor:
    """How far the logit falls, signed, [B, H, W]: for each pixel the mean over the patches that cover it."""
    check_request(images, targets)
    check_count("batch_size", batch_size)
    height, width = images.shape[2:]
    side = max(1, min(height, width) // PATCHES_PER_SIDE) if patch_pixels is None else patch_pixels
    stride = max(1, side // 2) if stride_pixels is None else stride_pixels
    if not 1 <= stride <= side <= min(height, width):
        received = f"a patch of {side} pixels, moved by {stride}, on images of {height}x{width}"
        raise UserError(received, "1 <= stride <= patch <= shorter side", "Leave both away for their defaults.")
    corners = list(product(_starts(height, side, stride), _starts(width, side, stride)))
    covers = baseline_of(images.detach(), fill)

    def covered(image: Tensor, cover: Tensor) -> Iterator[Tensor]:
        for start in range(0, len(corners), batch_size):
            some = corners[start : start + batch_size]
            copies = image.repeat(len(some), 1, 1, 1)
            for copy, (top, left) in zip(copies, some, strict=True):
                where = (..., slice(top, top + side), slice(left, left + side))
                copy[where] = cover[where]
            yield copies

    with standing(model), torch.no_grad():
        falls = torch.zeros((len(images), height, width), dtype=torch.float64, device=images.device)
        counts = torch.zeros_like(falls[0])
        for top, left in corners:
            counts[top : top + side, left : left + side] += 1
        whole = class_scores(model(images.detach().clone()), targets)
        for index, (image, cover) in enumerate(zip(images.detach(), covers, strict=True)):
            differences = whole[index] - scores_of_variants(model, covered(image, cover), targets[index, None])
            for (top, left), fall in zip(corners, differences.tolist(), strict=True):
                falls[index, top : top + side, left : left + side] += fall
    return falls / counts


def _starts(length: int, side: int, stride: int) -> list[int]:
    """First pixels of the patches along one side; the last patch ends at the edge."""
    starts = list(range(0, length - side + 1, stride))
    return starts if starts[-1] == length - side else [*starts, length - side]
