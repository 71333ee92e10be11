"""Loss surfaces over two weights, with their gradients, on which optimisers can be watched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Surface:
    """A loss of two weights (x, y).

    loss: x, y -> loss, arrays of any one shape. gradient: x, y -> (dL/dx, dL/dy). minimum: where the loss is least.
    window: (least x, greatest x, least y, greatest y), what a picture shows.
    """

    name: str
    formula: str
    loss: Callable[[Array, Array], Array]
    gradient: Callable[[Array, Array], tuple[Array, Array]]
    start: tuple[float, float]
    minimum: tuple[float, float]
    window: tuple[float, float, float, float]


def _bowl(x: Array, y: Array) -> Array:
    return (x**2 + 20 * y**2) / 2


def _bowl_gradient(x: Array, y: Array) -> tuple[Array, Array]:
    return x, 20 * y


def _beale(x: Array, y: Array) -> Array:
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def _beale_gradient(x: Array, y: Array) -> tuple[Array, Array]:
    first, second, third = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
    along_x = 2 * (first * (y - 1) + second * (y**2 - 1) + third * (y**3 - 1))
    along_y = 2 * (first * x + second * 2 * x * y + third * 3 * x * y**2)
    return along_x, along_y


BOWL = Surface(
    "bowl",
    "L = (x² + 20 y²) / 2",
    _bowl,
    _bowl_gradient,
    start=(-4.0, 1.5),
    minimum=(0.0, 0.0),
    window=(-4.6, 2.2, -2.1, 2.1),
)
"""Twenty times as steep in y as in x: the rate that y bears is slow for x."""

BEALE = Surface(
    "Beale",
    "L = (1.5 - x + xy)² + (2.25 - x + xy²)² + (2.625 - x + xy³)²",
    _beale,
    _beale_gradient,
    start=(1.0, 1.2),
    minimum=(3.0, 0.5),
    window=(-0.6, 4.2, -1.7, 1.7),
)
"""A steep wall, then a flat valley that bends. Beale 1958."""
