"""Which of the three algorithms that train computes a convolution: a small rule, measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from convcraft.scratch.conv_algorithms import winograd
from convcraft.scratch.conv_geometry import Geometry

WINOGRAD_CHANNELS = 16  # least input and output maps: with fewer, the transforms cost more than they save
FEW_INPUTS, FEW_OUTPUTS = 8, 16  # up to here whole maps in memory are quicker than channels last

Algorithm = str  # "im2col_nchw", "im2col_nhwc" or "winograd"


def choose(geometry: Geometry, dtype: Any) -> Algorithm:
    """The fastest that is exact enough.

    float64 is there for exactness and always takes the plain sums. In float32 Winograd's F(4, 3) is faster for 3x3
    kernels on enough channels. The thresholds are those of benchmarks/scratch_convolutions.py.
    """
    enough = min(geometry.in_channels, geometry.out_channels) >= WINOGRAD_CHANNELS
    square = geometry.kernel == (winograd.KERNEL, winograd.KERNEL)
    if dtype == np.float32 and enough and square and winograd.supports(geometry) is None:
        return "winograd"
    few = geometry.in_channels <= FEW_INPUTS and geometry.out_channels <= FEW_OUTPUTS
    return "im2col_nchw" if few else "im2col_nhwc"
