"""A few of many, evenly spread: the same ones each time, from the first to the last."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def spread(number: int, most: int) -> NDArray[np.int64]:
    """At most so many of `number` positions, rising, evenly spread: int64. All of them where they are not more.

    >>> spread(10, 4)
    array([0, 3, 6, 9])
    """
    return np.unique(np.linspace(0, number - 1, min(number, most)).astype(np.int64))
