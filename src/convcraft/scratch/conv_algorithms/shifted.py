"""One matrix product per tap of the kernel: the maps are shifted, not copied into columns.

output = sum over taps (i, j) of shifted maps [b oH oW, C] @ weight[:, :, i, j].T [C, O]: kH kW small products instead
of one large one, and no repeated pixels. cuDNN calls its relative "implicit GEMM".
"""

from __future__ import annotations

import math

import numpy as np

from convcraft.scratch.checks import Array
from convcraft.scratch.conv_algorithms.channels_last import padded_channels_last, tap_views
from convcraft.scratch.conv_algorithms.groups import each_group
from convcraft.scratch.conv_algorithms.operations import Operations, dense_operations
from convcraft.scratch.conv_geometry import Geometry


def count_ops(geometry: Geometry) -> Operations:
    """As the plain sum, and one addition more per output: the first product is added to zeros."""
    plain = dense_operations(geometry)
    return Operations(plain.multiplications, plain.additions + geometry.outputs)


def workspace_bytes(geometry: Geometry, itemsize: int = 4) -> int:
    """One shifted copy of the maps, and one product."""
    pixels = geometry.batch * math.prod(geometry.output_size)
    return pixels * (geometry.in_channels + geometry.out_channels) * itemsize


def convolve(input: Array, weight: Array, geometry: Geometry) -> Array:
    padded = padded_channels_last(input, geometry)
    output = np.zeros((geometry.batch, *geometry.output_size, geometry.out_channels), input.dtype)
    for inputs, outputs, group in each_group(geometry):
        for i, j, pixels in tap_views(padded[..., inputs], group):  # [B, oH, oW, C]
            output[..., outputs] += pixels @ weight[outputs, :, i, j].T
    return output.transpose(0, 3, 1, 2)
