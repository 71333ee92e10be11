"""The convolution theorem: a convolution of maps is a product of their Fourier transforms, frequency by frequency.

Mathieu, Henaff, LeCun 2014, "Fast Training of Convolutional Networks through FFTs", arXiv 1312.5851. The work does not
depend on the kernel's size, so it wins with large kernels (11x11) and loses with 3x3. The conjugate of the kernel's
transform gives correlation; without it the result would be true convolution, with the kernel flipped. Of a stride
above 1 all outputs are computed and some dropped.
"""

from __future__ import annotations

import math

import numpy as np

from convcraft.scratch.checks import Array
from convcraft.scratch.conv_algorithms.groups import each_group
from convcraft.scratch.conv_algorithms.operations import Operations
from convcraft.scratch.conv_geometry import Geometry


def count_ops(geometry: Geometry) -> Operations:
    """An estimate: 2 n log2 n real multiplications and 3 n log2 n additions per complex transform of n numbers, half
    of that for real ones; 4 multiplications and 4 additions per product of two complex numbers and its summing up."""
    rows, columns = geometry.padded_size
    numbers = rows * columns
    maps = geometry.batch * (geometry.in_channels + geometry.out_channels)
    kernels = geometry.out_channels * geometry.in_channels // geometry.groups
    transforms = (maps + kernels) * numbers * math.log2(max(2, numbers))
    products = geometry.batch * kernels * rows * (columns // 2 + 1)
    return Operations(round(transforms) + 4 * products, round(1.5 * transforms) + 4 * products)


def workspace_bytes(geometry: Geometry, itemsize: int = 4) -> int:
    """The transforms of maps, kernels and outputs: complex numbers, about half as many as pixels."""
    rows, columns = geometry.padded_size
    maps = geometry.batch * (geometry.in_channels + geometry.out_channels)
    kernels = geometry.out_channels * geometry.in_channels // geometry.groups
    return (maps + kernels) * rows * (columns // 2 + 1) * 2 * itemsize


def convolve(input: Array, weight: Array, geometry: Geometry) -> Array:
    (top, left), (bottom, right) = geometry.before, geometry.after
    padded = np.pad(input, ((0, 0), (0, 0), (top, bottom), (left, right)))
    spread = np.zeros((*weight.shape[:2], *geometry.reach), weight.dtype)  # a dilated kernel has zeros between
    spread[:, :, :: geometry.dilation[0], :: geometry.dilation[1]] = weight
    maps = np.fft.rfft2(padded)  # [B, C, pH, pW / 2 + 1]
    kernels = np.fft.rfft2(spread, s=geometry.padded_size).conj()  # [O, C / G, pH, pW / 2 + 1]
    rows, columns = geometry.output_size
    down, across = geometry.stride
    parts = []
    for inputs, outputs, _ in each_group(geometry):
        # For each frequency [B, C] @ [C, O], as one stack of matrix products.
        product = maps[:, inputs].transpose(2, 3, 0, 1) @ kernels[outputs].transpose(2, 3, 1, 0)
        whole = np.fft.irfft2(product.transpose(2, 3, 0, 1), s=geometry.padded_size)  # [B, O, pH, pW]
        parts.append(whole[:, :, : rows * down : down, : columns * across : across])
    return np.concatenate(parts, axis=1).astype(input.dtype, copy=False)
