"""Which of the two trained-with algorithms computes a convolution: a small rule, measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from convcraft.scratch.conv_algorithms import winograd
from convcraft.scratch.conv_geometry import Geometry

LEAST_CHANNELS = 32  # of input and output maps: with fewer, the transforms cost more than the products saved


def choose(geometry: Geometry, dtype: Any, training: bool) -> str:
    """ "winograd" or "im2col".

    float64 is there for exactness and always takes the plain sums. In float32 Winograd's F(4, 3) is chosen where it is
    faster (benchmarks/scratch_convolutions.py): 3x3 kernels on enough channels.
    """
    if dtype != np.float32 or winograd.supports(geometry) is not None:
        return "im2col"
    enough = min(geometry.in_channels, geometry.out_channels) >= LEAST_CHANNELS
    return "winograd" if enough else "im2col"
