"""The plasma fractal: clouds, by the diamond-square method (Fournier, Fussell, Carpenter 1982)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

START = 100.0  # only its decay matters: the result is stretched to 0..1


def plasma(side: int, smoothness: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Random heights in 0..1, float64 [side, side], which go on at the opposite edge.

    Args:
        side: a power of two, at least 2.
        smoothness: above 1; each halving of the step divides the random part by its square, as in ImageNet-C's script.
    """
    heights = np.zeros((side, side))
    step, strength = side, START
    while step >= 2:
        _fill(heights, step, strength * strength, random)
        step //= 2
        strength /= smoothness
    heights -= heights.min()
    return heights / heights.max()


def _fill(heights: NDArray[np.float64], step: int, strength: float, random: np.random.Generator) -> None:
    """The middles of the squares of this step, then the middles of their sides; in place."""
    half = step // 2

    def wobbled(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return sums / 4 + random.uniform(-strength, strength, sums.shape)

    number = len(heights) // step
    after, before = (
        np.arange(1 - number, 1),
        np.arange(-1, number - 1),
    )  # neighbours; negative places count from the end
    corners = heights[::step, ::step]
    pairs = corners + corners[after]
    heights[half::step, half::step] = middles = wobbled(pairs + pairs[:, after])
    heights[::step, half::step] = wobbled(corners + corners[:, after] + middles + middles[before])
    heights[half::step, ::step] = wobbled(pairs + middles + middles[:, before])
