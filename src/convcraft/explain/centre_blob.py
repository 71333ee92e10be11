"""The heat map to beat: a blob in the middle, the same for every image, that knows neither network nor image.

Photographers put their subject in the middle, so that a map which looks at the middle alone looks clever. A method that
does no better on the curves of `convcraft.explain.deletion` has explained nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.statistics import wilson_interval

SIGMA_SHARE = 0.25  # of each side. The order of the pixels, all that a curve looks at, is the same for any width


def centre_blob(model: nn.Module, images: Tensor, targets: Tensor) -> NDArray[np.float32]:
    """A centred Gaussian for each image [B, C, H, W]: float32 [B, H, W], 1 in the middle. Called as any method is."""
    height, width = images.shape[2:]
    blob = torch.exp(-(_squared_distance(height)[:, None] + _squared_distance(width)) / (2 * SIGMA_SHARE**2))
    return np.repeat((blob / blob.max()).float().numpy()[None], len(images), axis=0)


def _squared_distance(size: int) -> Tensor:
    """Of each place from the middle, in units of the side: float64 [size]."""
    return ((torch.arange(size, dtype=torch.float64) - (size - 1) / 2) / size) ** 2


@dataclass(frozen=True)
class Wins:
    """On how many images a method did better than the baseline; ties count half.

    interval: Wilson, 95 %, of the share.
    """

    num_won: int
    num_tied: int
    num_images: int
    share: float
    interval: tuple[float, float]


def share_of_wins(method_areas: ArrayLike, baseline_areas: ArrayLike) -> Wins:
    """Image by image, whose area is lower.

    Args:
        method_areas, baseline_areas: float [N], under the deletion curves of the same images. Of insertion curves,
            where more is better, give them the other way round.

    Raises:
        UserError: no images, arrays of unlike shapes, or areas that are not finite.

        >>> share_of_wins([0.2, 0.3, 0.5, 0.5], [0.4, 0.1, 0.5, 0.6]).share
        0.625
    """
    ours, theirs = np.asarray(method_areas, np.float64), np.asarray(baseline_areas, np.float64)
    if ours.shape != theirs.shape or ours.ndim != 1 or not len(ours):
        received = f"areas of shapes {list(ours.shape)} and {list(theirs.shape)}"
        raise UserError(received, "two of the same images, at least one", "Give one area per image of both.")
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise UserError("areas that are not finite", "areas from 0 to 1", "Check the model's outputs for NaN.")
    num_won, num_tied = int((ours < theirs).sum()), int((ours == theirs).sum())
    points = num_won + num_tied / 2
    return Wins(num_won, num_tied, len(ours), points / len(ours), wilson_interval(points, len(ours)))
