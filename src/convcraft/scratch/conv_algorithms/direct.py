"""The sum itself, in loops: the article's `conv2d` (seed 002) with channels, batch, stride, padding, dilation, groups.

Shown, not used: Python's loops make it a thousand times and more slower than the others.
"""

from __future__ import annotations

import math

import numpy as np

from convcraft.scratch.checks import Array
from convcraft.scratch.conv_algorithms.groups import each_group
from convcraft.scratch.conv_geometry import Geometry


def workspace_bytes(geometry: Geometry, itemsize: int = 4) -> int:
    """One window, and the padded input."""
    padded = geometry.batch * geometry.in_channels * math.prod(geometry.padded_size)
    return (geometry.taps + padded) * itemsize


def convolve(input: Array, weight: Array, geometry: Geometry) -> Array:
    (top, left), (bottom, right) = geometry.before, geometry.after
    padded = np.pad(input, ((0, 0), (0, 0), (top, bottom), (left, right)))
    output = np.zeros((geometry.batch, geometry.out_channels, *geometry.output_size), input.dtype)
    for inputs, outputs, group in each_group(geometry):
        for image in range(geometry.batch):
            for kernel in range(group.out_channels):
                for y in range(geometry.output_size[0]):
                    for x in range(geometry.output_size[1]):
                        window = _window(padded[image, inputs], y, x, geometry)
                        output[image, outputs][kernel, y, x] = np.sum(window * weight[outputs][kernel])
    return output


def _window(maps: Array, y: int, x: int, geometry: Geometry) -> Array:
    """[C, pH, pW] -> [C, kH, kW]: what lies under the kernel at output (y, x)."""
    top, left = y * geometry.stride[0], x * geometry.stride[1]
    (height, width), (down, right) = geometry.reach, geometry.dilation
    return maps[:, top : top + height : down, left : left + width : right]
