"""im2col + GEMM with channels last: the engine's usual way.

What lies under the kernel becomes one row of a matrix, the kernels become columns of another, and the convolution is
their product:

    columns [b oH oW, kH kW C] @ matrix [kH kW C, O] = output [b oH oW, O]

Chellapilla, Puri, Simard 2006, "High Performance Convolutional Neural Networks for Document Processing". The matrix of
columns repeats every pixel kH kW times, so it is built for a few images at a time, used while it is in the cache, and
built again in backward rather than kept (unless it is small).
"""

from __future__ import annotations

import math

import numpy as np

from convcraft.scratch.checks import Array
from convcraft.scratch.conv_algorithms.channels_last import (
    as_channels_last,
    padded_channels_last,
    tap_views,
    windows,
)
from convcraft.scratch.conv_algorithms.groups import each_group
from convcraft.scratch.conv_geometry import Geometry, keeps_columns
from convcraft.scratch.parallel import images_per_chunk, over_images, sum_in_order

FEW_CHANNELS = 8  # below, a window's row is too short to be copied at once


def convolve(input: Array, weight: Array, geometry: Geometry) -> Array:
    return forward(input, weight, None, geometry)[0]


def forward(
    input: Array, weight: Array, bias: Array | None, geometry: Geometry
) -> tuple[Array, list[list[Array]] | None]:
    """[B, C, H, W], [O, C / G, kH, kW], [O] -> [B, O, oH, oW], channels last in memory; and small columns, kept."""
    output = np.empty((geometry.batch, *geometry.output_size, geometry.out_channels), input.dtype)

    def some(images: slice) -> list[Array]:
        padded, kept = padded_channels_last(input[images], geometry), []
        for inputs, outputs, group in each_group(geometry):
            kept.append(_columns(padded[..., inputs], group))  # [b oH oW, kH kW C]
            product = kept[-1] @ _matrix(weight[outputs])  # [b oH oW, O]
            output[images, :, :, outputs] = product.reshape(-1, *geometry.output_size, product.shape[1])
        if bias is not None:
            output[images] += bias
        return kept if keeps_columns(geometry, input.itemsize) else []

    columns = over_images(some, geometry.batch, _chunk(geometry, input.itemsize))
    return output.transpose(0, 3, 1, 2), columns if columns[0] else None


def backward(
    grad_output: Array,
    input: Array,
    weight: Array,
    geometry: Geometry,
    need_input_grad: bool,
    columns: list[list[Array]] | None = None,
) -> tuple[Array | None, Array, Array]:
    """Gradients of input (None where not needed), weight and bias.

    output = columns @ matrix, so
        dL/dmatrix  = columns.T @ grad_output    (a weight's gradient: its inputs times the gradients they led to)
        dL/dcolumns = grad_output @ matrix.T     and every pixel adds up what all windows that it was in give it.
    The second is done tap by tap: the kernel's weight (i, j) sends grad_output back to the pixels it was read from.
    """
    chunk = _chunk(geometry, input.itemsize)
    grad_padded = (
        np.zeros((geometry.batch, *geometry.padded_size, geometry.in_channels), input.dtype)
        if need_input_grad
        else None
    )

    def some(images: slice) -> tuple[Array, Array]:
        kept = columns[images.start // chunk] if columns is not None else _built(input[images], geometry)
        grads = as_channels_last(grad_output[images])  # [b, oH, oW, O]
        grad_weight = np.empty_like(weight)
        for (inputs, outputs, group), own in zip(each_group(geometry), kept, strict=True):
            rows = np.ascontiguousarray(grads[..., outputs]).reshape(-1, group.out_channels)  # [b oH oW, O]
            grad_matrix = own.T @ rows  # [kH kW C, O]
            grad_weight[outputs] = _kernels(grad_matrix, group)
            if grad_padded is None:
                continue
            for i, j, pixels in tap_views(grad_padded[images, :, :, inputs], group):
                pixels += (rows @ weight[outputs, :, i, j]).reshape(pixels.shape)
        return grad_weight, grads.sum(axis=(0, 1, 2))

    parts = over_images(some, geometry.batch, chunk)
    grad_weight, grad_bias = (sum_in_order([part[which] for part in parts]) for which in (0, 1))
    return None if grad_padded is None else inner(grad_padded, geometry), grad_weight, grad_bias


def inner(padded: Array, geometry: Geometry) -> Array:
    """[B, pH, pW, C] -> [B, C, H, W] without the padding; a view."""
    (top, left), (rows, columns) = geometry.before, geometry.input_size
    return padded[:, top : top + rows, left : left + columns].transpose(0, 3, 1, 2)


def _built(input: Array, geometry: Geometry) -> list[Array]:
    """The columns of every group."""
    padded = padded_channels_last(input, geometry)
    return [_columns(padded[..., inputs], group) for inputs, _, group in each_group(geometry)]


def _columns(padded: Array, geometry: Geometry) -> Array:
    """[b, pH, pW, C] -> [b oH oW, kH kW C]: one row per window."""
    under = windows(padded, geometry)  # [b, oH, oW, kH, kW, C]
    if geometry.in_channels >= FEW_CHANNELS:
        return under.reshape(-1, geometry.taps)
    # Few channels: gather tap by tap, whose runs are oW long; the GEMM takes the transposed matrix as it is.
    return np.ascontiguousarray(under.transpose(3, 4, 5, 0, 1, 2)).reshape(geometry.taps, -1).T


def _matrix(weight: Array) -> Array:
    """[O, C, kH, kW] -> [kH kW C, O]."""
    return weight.transpose(2, 3, 1, 0).reshape(-1, len(weight))


def _kernels(matrix: Array, geometry: Geometry) -> Array:
    """[kH kW C, O] -> [O, C, kH, kW]."""
    return matrix.reshape(*geometry.kernel, geometry.in_channels, -1).transpose(3, 2, 0, 1)


def _chunk(geometry: Geometry, itemsize: int) -> int:
    numbers = (geometry.taps + geometry.out_channels) * math.prod(geometry.output_size)
    return images_per_chunk(numbers * itemsize)
