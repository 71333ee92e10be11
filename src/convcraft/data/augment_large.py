"""The changes of place, boxes and mixing for large images in main memory: slices of each image in turn.

A table of places or a mask for the whole batch costs the same for every pixel, and a slice costs nearly nothing but its
start. So slices are for images from `MIN_PIXELS` on, and tables for smaller ones and on a GPU. Both give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MIN_PIXELS = 48 * 48  # measured: at 32 x 32 tables are as quick (MixUp: quicker), at 48 x 48 slices win in every kind

Boxes = tuple[Tensor, Tensor, Tensor, Tensor]  # top, bottom, left, right: whole numbers [B]; bottom and right excluded


def is_large(batch: Tensor, height: int, width: int) -> bool:
    """Whether slices are the quicker way with this batch."""
    return batch.device.type == "cpu" and height * width >= MIN_PIXELS


def move_slices(pixels: Tensor, flip_rows: Tensor, flip_cols: Tensor, rows_off: Tensor, cols_off: Tensor) -> Tensor:
    """Flip and shift by whole pixels: uint8 [B, H, W, C] in and out; black comes in at the border.

    Args:
        flip_rows, flip_cols: bool [B].
        rows_off, cols_off: int64 [B], where each window starts, in pixels of the image before it is flipped.
    """
    _, height, width, _ = pixels.shape
    moved = torch.zeros(pixels.shape, dtype=pixels.dtype)
    flips = zip(flip_rows.tolist(), flip_cols.tolist(), strict=True)
    starts = zip(rows_off.tolist(), cols_off.tolist(), strict=True)
    for image, target, (upside_down, mirrored), (down, across) in zip(pixels, moved, flips, starts, strict=True):
        axes = [axis for axis, flipped in enumerate((upside_down, mirrored)) if flipped]
        to_rows, from_rows = _overlap(-down if upside_down else down, height)
        to_cols, from_cols = _overlap(-across if mirrored else across, width)
        # NumPy starts a copy of slices in less time than torch, torch mirrors in an eighth of NumPy's.
        source = (image.flip(axes) if axes else image).numpy()
        target.numpy()[to_rows, to_cols] = source[from_rows, from_cols]
    return moved


def _overlap(start: int, size: int) -> tuple[slice, slice]:
    """Where a window that starts off the image by so much gets its values, and which ones."""
    start = max(-size, min(start, size))
    return slice(max(0, -start), min(size, size - start)), slice(max(0, start), min(size, size + start))


def erase_slices(images: Tensor, boxes: Boxes) -> Tensor:
    """Zeros in one box of each image, in place: float32 [B, C, H, W]."""
    for image, (rows, cols) in zip(images, _slices(boxes), strict=True):
        image[:, rows, cols] = 0.0
    return images


def blend_neighbours(images: Tensor, kept: Tensor, pasted: Sequence[bool], boxes: Boxes | None) -> Tensor:
    """Mix each image with the one before it, the first with the last; in place.

    Args:
        images: float32 [B, C, H, W].
        kept: float32 [B], how much of its own values an image keeps where it is blended.
        pasted: per image, whether it gets its neighbour's box instead.
        boxes: of those that get one; None where none does.
    """
    places = _slices(boxes) if boxes is not None else [(slice(0), slice(0))] * len(images)
    own_shares, other_shares = kept.unbind(), (1 - kept).unbind()
    last = images[-1].clone()
    for index in reversed(range(len(images))):  # backwards, so that every neighbour is as it was
        image, neighbour = images[index], images[index - 1] if index else last
        if pasted[index]:
            rows, cols = places[index]
            image[:, rows, cols] = neighbour[:, rows, cols]
        else:
            image.mul_(own_shares[index]).add_(neighbour * other_shares[index])
    return images


def _slices(boxes: Boxes) -> list[tuple[slice, slice]]:
    top, bottom, left, right = (edge.long().tolist() for edge in boxes)
    return [
        (slice(first, behind), slice(start, stop))
        for first, behind, start, stop in zip(top, bottom, left, right, strict=True)
    ]
