"""Sliding windows + einsum: the formula, almost letter by letter, over a view of all windows.

The shortest correct convolution in NumPy. einsum with `optimize` turns it into a matrix product over copied windows,
so it is im2col in disguise, without control over what is copied when.
"""

from __future__ import annotations

import math

import numpy as np

from convcraft.scratch.checks import Array
from convcraft.scratch.conv_algorithms.groups import each_group
from convcraft.scratch.conv_geometry import Geometry


def workspace_bytes(geometry: Geometry, itemsize: int = 4) -> int:
    """All windows, copied."""
    return geometry.batch * geometry.taps * geometry.groups * math.prod(geometry.output_size) * itemsize


def convolve(input: Array, weight: Array, geometry: Geometry) -> Array:
    (top, left), (bottom, right) = geometry.before, geometry.after
    padded = np.pad(input, ((0, 0), (0, 0), (top, bottom), (left, right)))
    every = np.lib.stride_tricks.sliding_window_view(padded, geometry.reach, axis=(2, 3))
    (down, across), (gap_down, gap_across) = geometry.stride, geometry.dilation
    windows = every[:, :, ::down, ::across, ::gap_down, ::gap_across]  # [B, C, oH, oW, kH, kW]
    output = np.empty((geometry.batch, geometry.out_channels, *geometry.output_size), input.dtype)
    for inputs, outputs, _ in each_group(geometry):
        output[:, outputs] = np.einsum("bcyxij,ocij->boyx", windows[:, inputs], weight[outputs], optimize=True)
    return output
