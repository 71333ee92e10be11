"""Rectangles that are erased, and pairs of images that are mixed together with their labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from convcraft.config import AugmentConfig
from convcraft.data.augment_draws import (
    CUT,
    CUT_X,
    CUT_Y,
    ERASE,
    ERASE_AREA,
    ERASE_ASPECT,
    ERASE_X,
    ERASE_Y,
    MIX,
    MIX_KIND,
    between,
)
from convcraft.data.augment_large import Boxes, blend_neighbours, erase_slices, is_large
from convcraft.data.augment_light import as_rows

ERASE_AREA_RANGE = (0.02, 1 / 3)  # share of the image (Zhong et al. 2017, "Random erasing data augmentation")
ERASE_ASPECT_RANGE = (0.3, 1 / 0.3)


def erase(images: Tensor, draws: Tensor, config: AugmentConfig) -> Tensor:
    """Blank one rectangle of a share of the normalised images [B, C, H, W], in place: 0 is the mean colour."""
    height, width = images.shape[2:]
    area = between(draws, ERASE_AREA, *ERASE_AREA_RANGE) * height * width
    low, high = map(math.log, ERASE_ASPECT_RANGE)
    aspect = torch.exp(between(draws, ERASE_ASPECT, low, high))
    box_height = (area * aspect).sqrt().round().clamp(1, height)  # [B]
    box_width = (area / aspect).sqrt().round().clamp(1, width)
    top = (draws[:, ERASE_Y] * (height - box_height + 1)).floor()
    left = (draws[:, ERASE_X] * (width - box_width + 1)).floor()
    chosen = draws[:, ERASE] < config.erasing_probability
    box_height = torch.where(chosen, box_height, 0.0)
    boxes = (top, top + box_height, left, left + box_width)
    if is_large(images, height, width):
        return erase_slices(images, boxes)
    as_rows(images).masked_fill_(_inside(boxes, images), 0.0)
    return images


def _inside(boxes: Boxes, images: Tensor) -> Tensor:
    """Which values lie in each image's box, as rows: bool [B, H, W * C]."""
    top, bottom, left, right = boxes
    rows, cols = torch.arange(images.shape[2]), torch.arange(images.shape[3])
    in_rows = (rows >= top[:, None]) & (rows < bottom[:, None])  # [B, H]
    in_cols = (cols >= left[:, None]) & (cols < right[:, None])  # [B, W]
    in_cols = in_cols.repeat_interleave(images.shape[1], dim=1)  # [B, W * C]
    return in_rows.to(images.device)[:, :, None] & in_cols.to(images.device)[:, None, :]


def mix(
    images: Tensor, targets: Tensor, draws: Tensor, config: AugmentConfig, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Mix each image with its neighbour in the (already shuffled) batch, in place: MixUp or CutMix.

    Where both are on, chance decides for each image.

    Returns:
        images float32 [B, C, H, W]; targets float32 [B, K], each row adding up to one.
    """
    cut = _which_are_cut(draws, config)  # bool [B]
    share = _mixup_shares(draws, config) if config.mixup_alpha else torch.ones(len(draws))
    boxes, cut_share = _cutmix_boxes(images, draws, config) if config.cutmix_alpha else (None, share)
    label_share = torch.where(cut, cut_share, share).to(targets.device)[:, None]
    own = torch.nn.functional.one_hot(targets, num_classes).to(torch.float32)  # [B, K]
    mixed_targets = label_share * own + (1 - label_share) * own.roll(1, 0)
    if is_large(images, *images.shape[2:]):
        return blend_neighbours(images, share, cut.tolist(), boxes), mixed_targets
    kept = share[:, None, None].to(images.device)
    if boxes is not None:
        outside = (~_inside(boxes, images)).to(torch.float32)  # [B, H, W * C]
        kept = torch.where(cut.to(images.device)[:, None, None], outside, kept)
    rows = as_rows(images)
    partners = rows.roll(1, 0).mul_(1 - kept)
    rows.mul_(kept).add_(partners)
    return images, mixed_targets


def _which_are_cut(draws: Tensor, config: AugmentConfig) -> Tensor:
    """Whether each image gets CutMix and not MixUp: bool [B]."""
    if config.mixup_alpha and config.cutmix_alpha:
        return draws[:, MIX_KIND] < 0.5
    return torch.full((len(draws),), bool(config.cutmix_alpha))


def _mixup_shares(draws: Tensor, config: AugmentConfig) -> Tensor:
    """Of each pixel and of the label, how much is kept (Zhang et al. 2018, "mixup"): float32 [B].

    Each image draws its own share, at least one half, so that its own label stays the larger part.
    """
    share = _beta(draws[:, MIX], config.mixup_alpha).to(torch.float32)
    return torch.maximum(share, 1 - share)


def _cutmix_boxes(images: Tensor, draws: Tensor, config: AugmentConfig) -> tuple[Boxes, Tensor]:
    """The rectangles of CutMix (Yun et al. 2019), and of the label as much as the pixels that are left: float32 [B].

    The rectangle has the image's aspect and its centre anywhere; what sticks out is cut off, as in the paper.
    """
    height, width = images.shape[2:]
    side = (1 - _beta(draws[:, CUT], config.cutmix_alpha)).sqrt()
    half_height, half_width = (side * height).floor().div(2).floor(), (side * width).floor().div(2).floor()
    row, col = (draws[:, CUT_Y] * height).floor(), (draws[:, CUT_X] * width).floor()
    top, bottom = (row - half_height).clamp(0, height), (row + half_height).clamp(0, height)
    left, right = (col - half_width).clamp(0, width), (col + half_width).clamp(0, width)
    share = 1 - (bottom - top) * (right - left) / (height * width)
    return (top, bottom, left, right), share.to(torch.float32)


def _beta(draws: Tensor, alpha: float) -> Tensor:
    """Uniform numbers as numbers of Beta(alpha, alpha): float64 [B]."""
    from scipy.special import betaincinv

    return torch.from_numpy(betaincinv(alpha, alpha, draws.numpy()))
