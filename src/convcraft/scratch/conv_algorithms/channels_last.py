"""Maps whose channels lie next to each other in memory: [B, H, W, C], seen as [B, C, H, W].

All of the engine's shapes are NCHW. In which order the numbers lie in memory is another matter, and NumPy keeps it: the
result of an operation lies as its input did. With channels innermost, the pixels under a kernel's row are one run of
kW * C numbers, a convolution's GEMM writes its output where it belongs, and pooling moves whole pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from convcraft.scratch.checks import Array, Pair
from convcraft.scratch.conv_geometry import Geometry


def as_channels_last(maps: Array) -> Array:
    """[B, C, H, W] -> contiguous [B, H, W, C]; no copy where the memory already lies so."""
    return np.ascontiguousarray(maps.transpose(0, 2, 3, 1))


def padded_channels_last(input: Array, geometry: Geometry, padded_size: Pair | None = None) -> Array:
    """[b, C, H, W] -> contiguous [b, pH, pW, C] with zeros around; `padded_size` may ask for more zeros at the end."""
    height, width = padded_size or geometry.padded_size
    if (height, width) == geometry.input_size:
        return as_channels_last(input)
    padded = np.zeros((len(input), height, width, geometry.in_channels), input.dtype)
    (top, left), (rows, columns) = geometry.before, geometry.input_size
    padded[:, top : top + rows, left : left + columns] = input.transpose(0, 2, 3, 1)
    return padded


def windows(padded: Array, geometry: Geometry) -> Array:
    """[b, pH, pW, C] -> a view [b, oH, oW, kH, kW, C]: what lies under the kernel at every position; no copy."""
    batch, rows, columns, channels = padded.strides
    (down, right), (gap_down, gap_right) = geometry.stride, geometry.dilation
    return as_strided(
        padded,
        (len(padded), *geometry.output_size, *geometry.kernel, padded.shape[3]),
        (batch, rows * down, columns * right, rows * gap_down, columns * gap_right, channels),
        writeable=False,
    )


def tap_views(padded: Array, geometry: Geometry) -> list[tuple[int, int, Array]]:
    """(i, j, view [b, oH, oW, C]) for each position in the kernel: that pixel under all windows."""
    (rows, columns), (down, right) = geometry.output_size, geometry.stride
    views = []
    for i in range(geometry.kernel[0]):
        for j in range(geometry.kernel[1]):
            top, left = i * geometry.dilation[0], j * geometry.dilation[1]
            views.append((i, j, padded[:, top : top + rows * down : down, left : left + columns * right : right]))
    return views
