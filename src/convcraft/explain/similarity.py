"""How like two heat maps are: by the order of their pixels, and by their structure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata

Maps = NDArray[np.float32]

SSIM_SIGMA = 1.5
SSIM_RADIUS = 5  # a window of 11 x 11
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # of values in 0..1


def rank_correlations(first: Maps, second: Maps) -> NDArray[np.float64]:
    """Spearman's rank correlation of map i with map i, float64 [B] in -1..1. Equal values share their mean rank.

    A map that is the same everywhere has no order: 0, but 1 where both are such.

    Args:
        first, second: [B, H, W].
    """
    left, right = (_standard_ranks(maps) for maps in (first, second))
    blank = ~left.any(axis=1) & ~right.any(axis=1)
    return np.where(blank, 1.0, np.clip((left * right).sum(axis=1), -1.0, 1.0))


def _standard_ranks(maps: Maps) -> NDArray[np.float64]:
    """Ranks with mean 0 and length 1, or all 0: float64 [B, H*W]."""
    ranks = rankdata(maps.reshape(len(maps), -1), axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    length = np.linalg.norm(ranks, axis=1, keepdims=True)
    return np.divide(ranks, length, out=np.zeros_like(ranks), where=length > 0)


def structural_similarities(first: Maps, second: Maps) -> NDArray[np.float64]:
    """Mean SSIM of map i with map i, float64 [B] in -1..1; 1 for equal maps.

    Only windows that lie within the map count, where there are any.

    Args:
        first, second: [B, H, W], 0..1.

    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", eq. 13, with
    its Gaussian window of standard deviation 1.5.
    """
    x, y = first.astype(np.float64), second.astype(np.float64)
    mean_x, mean_y = _windowed(x), _windowed(y)
    var_x, var_y = _windowed(x * x) - mean_x**2, _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    brightness = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (var_x + var_y + SSIM_C2)
    rows, columns = (
        slice(SSIM_RADIUS, -SSIM_RADIUS) if side > 2 * SSIM_RADIUS else slice(None) for side in x.shape[1:]
    )
    return np.asarray((brightness * structure)[:, rows, columns].mean(axis=(1, 2)))


def _windowed(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian mean around each place."""
    return np.asarray(gaussian_filter(maps, (0, SSIM_SIGMA, SSIM_SIGMA), radius=(0, SSIM_RADIUS, SSIM_RADIUS)))
