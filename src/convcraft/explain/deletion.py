"""Deletion and insertion curves: does a heat map point at the pixels that the network's answer rests on?

    deletion    the hottest pixels go first: a good map makes the probability of the class fall early (small area)
    insertion   they come back first, into an image without any: it rises early (large area)

Petsiuk et al. 2018, "RISE: Randomized Input Sampling for Explanation of Black-box Models", arXiv 1806.07421,
section 4.2. An area means nothing by itself, since it depends on the photo more than on the map: compare it with that
of `convcraft.explain.centre_blob` on the same photo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.evaluation.probabilities import probabilities_of
from convcraft.explain.heat_maps import HeatMaps, standing

FILLS = ("blur", "mean")
BLUR_SHARE = 0.05  # standard deviation, of the shorter side: less leaves the insects visible, more favours one class
STEPS = 20
BATCH_SIZE = 32

Method = Callable[[nn.Module, Tensor, Tensor], HeatMaps]  # (model, images [B, C, H, W], targets [B]) -> heat [B, H, W]


@dataclass(frozen=True, eq=False)
class Curves:
    """The probability of each image's class while its pixels go or come.

    shares: float64 [S+1], the share of pixels that were changed, 0 to 1.
    probabilities: float32 [B, S+1].
    """

    shares: NDArray[np.float64]
    probabilities: NDArray[np.float32]

    @property
    def areas(self) -> NDArray[np.float64]:
        """Area under each curve, float64 [B] in 0..1 (trapezoids)."""
        heights = self.probabilities.astype(np.float64)
        return ((heights[:, 1:] + heights[:, :-1]) / 2 * np.diff(self.shares)).sum(axis=1)


def deletion_curves(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    heat: HeatMaps,
    *,
    fill: str = "blur",
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    loss: str = "cross_entropy",
) -> Curves:
    """Pixels are replaced in the order of falling heat, in `steps` equal parts. The model stays as it was.

    Args:
        images: float32 [B, C, H, W], normalised as for the model.
        targets: int64 [B], the class whose probability is followed.
        heat: [B, H, W], finite. Of equally hot pixels the first goes first, row by row.
        fill: what comes in their place: "blur", the image under a Gaussian of BLUR_SHARE of its shorter side, or
            "mean", 0, which is the training mean of normalised images.
        batch_size: images per forward pass.
        loss: `training.loss` of the run, by which logits become probabilities.

    Raises:
        UserError: arguments that do not fit each other.
    """
    return _curves(model, (images, filled(images, fill)), targets, heat, steps, batch_size, loss)


def insertion_curves(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    heat: HeatMaps,
    *,
    fill: str = "blur",
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    loss: str = "cross_entropy",
) -> Curves:
    """The way back: pixels of the image come into its filled form in the order of falling heat.

    Arguments and errors as for `deletion_curves`.
    """
    return _curves(model, (filled(images, fill), images), targets, heat, steps, batch_size, loss)


def filled(images: Tensor, fill: str) -> Tensor:
    """What images are when all their pixels are gone: float32 [B, C, H, W].

    Raises:
        UserError: no images, or another fill.
    """
    if images.ndim != 4 or not images.numel():
        raise UserError(f"images of shape {list(images.shape)}", "images [B, C, H, W]", "Pass at least one image.")
    if fill not in FILLS:
        raise UserError(f"fill {fill!r}", " or ".join(FILLS), "Choose one of these.")
    if fill == "mean":
        return torch.zeros_like(images)
    return blurred(images, BLUR_SHARE * min(images.shape[2:]))


def blurred(images: Tensor, sigma_pixels: float) -> Tensor:
    """Gaussian blur; at the edges the weights inside the image are scaled to sum 1. [B, C, H, W] as given."""
    height, width = images.shape[2:]
    return _gaussian(height, sigma_pixels).to(images) @ images @ _gaussian(width, sigma_pixels).to(images).T


def _gaussian(size: int, sigma_pixels: float) -> Tensor:
    """Row i holds the weights of all places for place i: float64 [size, size], rows sum to 1."""
    places = torch.arange(size, dtype=torch.float64)
    return torch.softmax(-((places[:, None] - places) ** 2) / (2 * sigma_pixels**2), dim=1)


def removal_ranks(heat: HeatMaps) -> NDArray[np.int64]:
    """Each pixel's place in the order of falling heat, 0 the hottest: int64 [B, H*W]. Of equals the first is first."""
    flat = heat.reshape(len(heat), -1)
    order = np.argsort(-flat, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(flat.shape[1])[None], axis=1)
    return ranks


def _curves(
    model: nn.Module,
    ends: tuple[Tensor, Tensor],
    targets: Tensor,
    heat: HeatMaps,
    steps: int,
    batch_size: int,
    loss: str,
) -> Curves:
    """From ends[0] to ends[1], float32 [B, C, H, W] each."""
    _check(ends[0], targets, heat, steps, batch_size)
    num_pixels = heat[0].size
    counts = np.round(np.linspace(0, num_pixels, steps + 1)).astype(np.int64)
    probabilities = np.empty((len(heat), steps + 1), np.float32)
    wanted = targets.cpu().numpy()
    weight = next(model.parameters(), ends[0])
    with standing(model), torch.no_grad():
        for rows, columns, mixed in _mixtures(ends, removal_ranks(heat), counts, batch_size):
            logits = model(mixed.to(weight.device)).float().cpu().numpy()
            _check_targets(wanted, logits.shape[1])
            probabilities[rows, columns] = probabilities_of(logits, loss)[np.arange(len(rows)), wanted[rows]]
    return Curves(counts / num_pixels, probabilities)


def _mixtures(
    ends: tuple[Tensor, Tensor], ranks: NDArray[np.int64], counts: NDArray[np.int64], batch_size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Tensor]]:
    """(image numbers, step numbers, images [n, C, H, W]) of all images at all steps, batch by batch."""
    before, after = ends
    height, width = before.shape[2:]
    num_all = len(ranks) * len(counts)
    for start in range(0, num_all, batch_size):
        rows, columns = np.divmod(np.arange(start, min(start + batch_size, num_all)), len(counts))
        changed = ranks[rows] < counts[columns, None]
        mask = torch.from_numpy(changed).view(-1, 1, height, width).to(before.device)
        yield rows, columns, torch.where(mask, after[rows], before[rows])


def _check(images: Tensor, targets: Tensor, heat: HeatMaps, steps: int, batch_size: int) -> None:
    expected = (len(images), *images.shape[2:])
    if heat.shape != expected or not np.isfinite(heat).all():
        fix = "Give one finite map per image, of its height and width."
        raise UserError(f"heat of shape {list(heat.shape)}", f"{list(expected)}, finite", fix)
    if targets.shape != (len(images),):
        fix = "Give one class index per image."
        raise UserError(f"targets of shape {list(targets.shape)}", f"[{len(images)}]", fix)
    if not 1 <= steps <= heat[0].size:
        raise UserError(f"{steps} steps", f"1 to {heat[0].size}, the number of pixels", "Pass another number of steps.")
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size}", "at least 1", "Pass a larger batch_size.")


def _check_targets(targets: NDArray[np.int64], num_classes: int) -> None:
    if targets.min() < 0 or targets.max() >= num_classes:
        received = f"targets from {targets.min()} to {targets.max()}"
        raise UserError(received, f"class indices from 0 to {num_classes - 1}", "Give indices of the model's outputs.")
