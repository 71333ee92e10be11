"""im2col + GEMM with whole maps in memory one after the other: the engine's way where there are few channels.

    matrix [O, C kH kW] @ columns [C kH kW, b oH oW] = output [O, b oH oW]

As in `im2col_nhwc`, but turned: a row of `columns` is one tap of the kernel over all images, copied in runs of a row of
pixels, and the output lies map by map, [O, B, oH, oW]. With one channel, or six, that is better than pixel by pixel.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

from convcraft.scratch.checks import Array
from convcraft.scratch.conv_algorithms.groups import each_group
from convcraft.scratch.conv_geometry import Geometry, keeps_columns
from convcraft.scratch.parallel import images_per_chunk, over_images, sum_in_order


def convolve(input: Array, weight: Array, geometry: Geometry) -> Array:
    return forward(input, weight, None, geometry)[0]


def forward(
    input: Array, weight: Array, bias: Array | None, geometry: Geometry
) -> tuple[Array, list[list[Array]] | None]:
    """[B, C, H, W], [O, C / G, kH, kW], [O] -> [B, O, oH, oW], map by map in memory; and small columns, kept."""
    output = np.empty((geometry.out_channels, geometry.batch, *geometry.output_size), input.dtype)

    def some(images: slice) -> list[Array]:
        padded, kept = _padded(input[images], geometry), []
        for inputs, outputs, group in each_group(geometry):
            kept.append(_columns(padded[inputs], group))  # [C kH kW, b oH oW]
            product = weight[outputs].reshape(group.out_channels, -1) @ kept[-1]
            if bias is not None:
                product += bias[outputs, None]
            output[outputs, images] = product.reshape(group.out_channels, -1, *geometry.output_size)
        return kept if keeps_columns(geometry, input.itemsize) else []

    columns = over_images(some, geometry.batch, _chunk(geometry, input.itemsize))
    return output.transpose(1, 0, 2, 3), columns if columns[0] else None


def backward(
    grad_output: Array,
    input: Array,
    weight: Array,
    geometry: Geometry,
    need_input_grad: bool,
    columns: list[list[Array]] | None = None,
) -> tuple[Array | None, Array, Array]:
    """Gradients of input (None where not needed), weight and bias.

    output = matrix @ columns, so
        dL/dmatrix  = grad_output @ columns.T    (a weight's gradient: the gradients it led to times its inputs)
        dL/dcolumns = matrix.T @ grad_output     and every pixel adds up what all windows that it was in give it.
    """
    chunk = _chunk(geometry, input.itemsize)
    padded_shape = (geometry.in_channels, geometry.batch, *geometry.padded_size)
    grad_padded = np.zeros(padded_shape, input.dtype) if need_input_grad else None

    def some(images: slice) -> tuple[Array, Array]:
        kept = columns[images.start // chunk] if columns is not None else _built(input[images], geometry)
        grads = np.ascontiguousarray(grad_output[images].transpose(1, 0, 2, 3))  # [O, b, oH, oW]
        grad_weight = np.empty_like(weight)
        for (inputs, outputs, group), own in zip(each_group(geometry), kept, strict=True):
            rows = grads[outputs].reshape(group.out_channels, -1)  # [O, b oH oW]
            grad_weight[outputs] = (rows @ own.T).reshape(weight[outputs].shape)
            if grad_padded is not None:
                matrix = weight[outputs].reshape(group.out_channels, -1)
                _spread(matrix.T @ rows, grad_padded[inputs, images], group)
        return grad_weight, grads.sum(axis=(1, 2, 3))

    parts = over_images(some, geometry.batch, chunk)
    grad_weight, grad_bias = (sum_in_order([part[which] for part in parts]) for which in (0, 1))
    if grad_padded is None:
        return None, grad_weight, grad_bias
    (top, left), (height, width) = geometry.before, geometry.input_size
    grad_input = grad_padded[:, :, top : top + height, left : left + width].transpose(1, 0, 2, 3)
    return grad_input, grad_weight, grad_bias


def _padded(input: Array, geometry: Geometry) -> Array:
    """[b, C, H, W] -> [C, b, pH, pW] with zeros around; a view where there are none."""
    maps = input.transpose(1, 0, 2, 3)
    if geometry.padded_size == geometry.input_size:
        return maps
    padded = np.zeros((*maps.shape[:2], *geometry.padded_size), input.dtype)
    (top, left), (height, width) = geometry.before, geometry.input_size
    padded[:, :, top : top + height, left : left + width] = maps
    return padded


def _built(input: Array, geometry: Geometry) -> list[Array]:
    """The columns of every group."""
    padded = _padded(input, geometry)
    return [_columns(padded[inputs], group) for inputs, _, group in each_group(geometry)]


def _columns(padded: Array, geometry: Geometry) -> Array:
    """[C, b, pH, pW] -> [C kH kW, b oH oW]: one row per tap of the kernel."""
    channels, images, rows, pixels = padded.strides
    (down, right), (gap_down, gap_right) = geometry.stride, geometry.dilation
    under = as_strided(
        padded,
        (padded.shape[0], *geometry.kernel, padded.shape[1], *geometry.output_size),
        (channels, rows * gap_down, pixels * gap_right, images, rows * down, pixels * right),
        writeable=False,
    )
    return under.reshape(geometry.taps, -1)


def _spread(grad_columns: Array, grad_padded: Array, geometry: Geometry) -> None:
    """The transpose of `_columns`: [C kH kW, b oH oW] is added to the pixels [C, b, pH, pW] it was read from."""
    taps = grad_columns.reshape(len(grad_padded), *geometry.kernel, grad_padded.shape[1], *geometry.output_size)
    (rows, columns), (down, right) = geometry.output_size, geometry.stride
    for i in range(geometry.kernel[0]):
        for j in range(geometry.kernel[1]):
            top, left = i * geometry.dilation[0], j * geometry.dilation[1]
            pixels = grad_padded[:, :, top : top + rows * down : down, left : left + columns * right : right]
            pixels += taps[:, i, j]


def _chunk(geometry: Geometry, itemsize: int) -> int:
    numbers = (geometry.taps + geometry.out_channels) * math.prod(geometry.output_size)
    return images_per_chunk(numbers * itemsize)
