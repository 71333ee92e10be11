"""Winograd's minimal filtering: several outputs of a small kernel at once, with fewer multiplications.

Winograd 1980; Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308. In one
dimension m outputs of a kernel of 3 need m + 2 inputs, and

    y = AT ((G g) * (BT d))        d [m + 2] inputs, g [3] kernel, y [m] outputs, * number by number

takes m + 2 multiplications instead of 3 m. BT and AT hold small numbers and count as additions. In two dimensions the
matrices are applied to rows and columns, and with many channels the products become (m + 2)^2 matrix products:

    V = BT d B, U = G g GT, M[k] = V[k] @ U[k] for each of the (m + 2)^2 positions k, y = AT M A

F(2, 3) multiplies 2.25 times less than the plain sum, F(4, 3) 4 times less, but its matrices hold larger numbers, whose
rounding errors do not cancel: about five times the error of the plain sum in float32.

Where the matrices come from (Toom 1963, Cook 1966): y is part of a product of polynomials, which is known from its
values at m + 1 points and at infinity; evaluating is G and AT, going back to coefficients is BT.

Its derivative needs no second idea: forward is a chain of linear maps, so backward is the chain of their transposes, in
the opposite order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

from convcraft.scratch.checks import Array, Pair
from convcraft.scratch.conv_algorithms.channels_last import as_channels_last, padded_channels_last
from convcraft.scratch.conv_algorithms.im2col_nhwc import inner
from convcraft.scratch.conv_algorithms.operations import Operations
from convcraft.scratch.conv_geometry import Geometry
from convcraft.scratch.parallel import images_per_chunk, over_images, sum_in_order

# Where the polynomials are evaluated, besides infinity. The usual points of F(4, 3) are 0, 1, -1, 2, -2, chosen for
# matrices of whole numbers; points nearer to each other's inverses lose less (Barabasz et al. 2018, arXiv 1803.10986):
# here a fifth of the error in float32, and since BLAS applies the matrices, their fractions cost nothing.
POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)}
USUAL_POINTS = (0.0, 1.0, -1.0, 2.0, -2.0)
KERNEL = 3
CACHE_BYTES = 1 << 20  # transformed numbers of a chunk: they are read again and again, so they should stay in the cache


@dataclass(frozen=True)
class Matrices:
    """The three matrices of F(m, 3)."""

    input: Array  # BT [m + 2, m + 2]
    kernel: Array  # G [m + 2, 3]
    output: Array  # AT [m, m + 2]


def matrices(outputs: int, points: tuple[float, ...] | None = None) -> Matrices:
    """F(outputs, 3) for the given points (outputs + 1 different numbers); float64."""
    at = np.array(POINTS[outputs] if points is None else points)
    size = outputs + KERNEL - 1
    input, kernel, output = np.zeros((size, size)), np.zeros((size, KERNEL)), np.zeros((outputs, size))
    for number, point in enumerate(at):
        others = np.delete(at, number)
        output[:, number] = point ** np.arange(outputs)
        kernel[number] = point ** np.arange(KERNEL) / np.prod(point - others)
        input[number, :-1] = np.poly(others)[::-1]
    output[-1, -1] = kernel[-1, -1] = 1  # the value at infinity is the highest coefficient
    input[-1] = np.poly(at)[::-1]
    return Matrices(input, kernel, output)


def supports(geometry: Geometry) -> str | None:
    """None where it can compute this convolution, else why not."""
    if geometry.kernel not in ((KERNEL, KERNEL), (1, KERNEL)):
        return f"a kernel of {geometry.kernel[0]}x{geometry.kernel[1]}; Winograd's is 3x3 here, or 3 in a row"
    if geometry.stride != (1, 1) or geometry.dilation != (1, 1):
        return "stride or dilation above 1: neighbouring outputs share too few inputs"
    return "groups" if geometry.groups > 1 else None


def tiles(geometry: Geometry, outputs: int) -> Pair:
    """Tiles of outputs x outputs that cover the output, rows and columns; the last may reach over the border."""
    rows, columns = (-(-size // outputs) for size in geometry.output_size)
    return rows, columns


def count_ops(geometry: Geometry, outputs: int = 4) -> Operations:
    """Products of the (m + 2)^2 matrix products, and the nonzero entries of the transforms.

    Transforms are counted as matrix products with BT, G and AT, entries 0, 1 and -1 being free of multiplications.
    """
    size, number = outputs + KERNEL - 1, geometry.batch * math.prod(tiles(geometry, outputs))
    channels, kernels = geometry.in_channels, geometry.out_channels
    own = matrices(outputs)
    if geometry.kernel[0] == 1:
        number = geometry.batch * geometry.output_size[0] * -(-geometry.output_size[1] // outputs)
        products = Operations(size * number * channels * kernels, size * number * (channels - 1) * kernels)
        inputs, weights = (
            _apply_ops(own.input).times(number * channels),
            _apply_ops(own.kernel).times(channels * kernels),
        )
        return products + inputs + weights + _apply_ops(own.output).times(number * kernels)
    products = Operations(size**2 * number * channels * kernels, size**2 * number * (channels - 1) * kernels)
    inputs = (_apply_ops(own.input).times(size) + _apply_ops(own.input).times(size)).times(number * channels)
    weights = (_apply_ops(own.kernel).times(KERNEL) + _apply_ops(own.kernel).times(size)).times(channels * kernels)
    results = (_apply_ops(own.output).times(size) + _apply_ops(own.output).times(outputs)).times(number * kernels)
    return products + inputs + weights + results


def workspace_bytes(geometry: Geometry, itemsize: int = 4, outputs: int = 4) -> int:
    """U, and V, which training keeps for backward."""
    size, number = outputs + KERNEL - 1, geometry.batch * math.prod(tiles(geometry, outputs))
    return size**2 * geometry.in_channels * (number + geometry.out_channels) * itemsize


def convolve(input: Array, weight: Array, geometry: Geometry, outputs: int = 4) -> Array:
    """[B, C, H, W], [O, C, 3, 3] or [O, C, 1, 3] -> [B, O, oH, oW] by F(outputs, 3)."""
    if geometry.kernel[0] == 1:
        return _convolve_rows(input, weight, geometry, outputs)
    return forward(input, weight, None, geometry, outputs)[0]


def _convolve_rows(input: Array, weight: Array, geometry: Geometry, outputs: int) -> Array:
    """The one-dimensional algorithm, on every row: y = AT ((G g) * (BT d))."""
    own, (rows, width) = _cast(matrices(outputs), input.dtype), geometry.output_size
    columns = -(-width // outputs)
    padded = padded_channels_last(input, geometry, (geometry.padded_size[0], columns * outputs + KERNEL - 1))
    image, row, pixel, one = padded.strides
    tile_columns = as_strided(
        padded,
        (len(own.input), len(padded), rows, columns, geometry.in_channels),
        (pixel, image, row, outputs * pixel, one),
    )
    inputs = (own.input @ tile_columns.reshape(len(own.input), -1)).reshape(len(own.input), -1, geometry.in_channels)
    kernels = np.ascontiguousarray(np.einsum("nj,ocj->nco", own.kernel, weight[:, :, 0]))
    results = own.output @ (inputs @ kernels).reshape(len(own.input), -1)  # [m, b rows columns O]
    split = results.reshape(outputs, len(padded), rows, columns, geometry.out_channels)
    whole = split.transpose(1, 4, 2, 3, 0).reshape(len(padded), geometry.out_channels, rows, columns * outputs)
    return whole[..., :width]


@dataclass(frozen=True)
class Transformed:
    """What backward needs: the transformed input, chunk by chunk, and the transformed kernels."""

    inputs: list[Array]  # V, each [(m + 2)^2, tiles of the chunk, C]
    kernels: Array  # U [(m + 2)^2, C, O]
    outputs: int  # m


def forward(
    input: Array, weight: Array, bias: Array | None, geometry: Geometry, outputs: int = 4
) -> tuple[Array, Transformed]:
    """[B, C, H, W], [O, C, 3, 3], [O] -> [B, O, oH, oW], channels last in memory, and what backward needs."""
    own = _cast(matrices(outputs), input.dtype)
    rows, columns = tiles(geometry, outputs)
    kernels = _transform_kernels(weight, own)
    output = np.empty((geometry.batch, *geometry.output_size, geometry.out_channels), input.dtype)

    def some(images: slice) -> Array:
        padded = padded_channels_last(input[images], geometry, _tiled_size(geometry, outputs))
        transformed = _transform_input(padded, own, (rows, columns))  # V [n n, b tiles, C]
        products = transformed @ kernels  # M [n n, b tiles, O]
        result = _transform_output(products, own, (len(padded), rows, columns))  # [b, m rows, m columns, O]
        height, width = geometry.output_size
        output[images] = result[:, :height, :width]
        if bias is not None:
            output[images] += bias
        return transformed

    inputs = over_images(some, geometry.batch, _chunk(geometry, outputs, input.itemsize))
    return output.transpose(0, 3, 1, 2), Transformed(inputs, kernels, outputs)


def backward(
    grad_output: Array, saved: Transformed, geometry: Geometry, need_input_grad: bool
) -> tuple[Array | None, Array, Array]:
    """Gradients of input (None where not needed), weight and bias: the transposes of forward's maps.

    y = AT M A      ->  dM = A dy AT
    M = V @ U       ->  dU = V.T @ dM,  dV = dM @ U.T
    U = G g GT      ->  dg = GT dU G
    V = BT d B      ->  dd = B dV BT, and where tiles overlap, their gradients add up.
    """
    outputs, dtype = saved.outputs, grad_output.dtype
    own, size = _cast(matrices(outputs), dtype), outputs + KERNEL - 1
    rows, columns = tiles(geometry, outputs)
    chunk = _chunk(geometry, outputs, grad_output.itemsize)
    tiled = _tiled_size(geometry, outputs)
    grad_padded = np.empty((geometry.batch, *tiled, geometry.in_channels), dtype) if need_input_grad else None

    def some(images: slice) -> tuple[Array, Array]:
        grads = as_channels_last(grad_output[images])  # [b, oH, oW, O]
        grad_products = _transpose_output(grads, own, (rows, columns))  # dM [n n, b tiles, O]
        grad_kernels = saved.inputs[images.start // chunk].swapaxes(1, 2) @ grad_products  # dU [n n, C, O]
        if grad_padded is not None:
            grad_inputs = grad_products @ saved.kernels.swapaxes(1, 2)  # dV [n n, b tiles, C]
            grad_padded[images] = _transpose_input(grad_inputs, own, (len(grads), rows, columns), tiled)
        return grad_kernels, grads.sum(axis=(0, 1, 2))

    parts = over_images(some, geometry.batch, chunk)
    grad_kernels, grad_bias = (sum_in_order([part[which] for part in parts]) for which in (0, 1))
    grad_kernels = grad_kernels.reshape(size, size, geometry.in_channels, geometry.out_channels)
    grad_weight = np.einsum("ni,mj,mnco->ocij", own.kernel, own.kernel, grad_kernels, optimize=True)
    return None if grad_padded is None else inner(grad_padded, geometry), grad_weight, grad_bias


# The transforms. Each is a small matrix times a wide one, along one axis of the tiles after the other: BLAS does that
# at the speed of memory. n = m + 2; a tile's columns and rows come first, so that the products are over [tiles, C].


def _transform_kernels(weight: Array, own: Matrices) -> Array:
    """[O, C, 3, 3] -> U [n columns x n rows, C, O]."""
    transformed = np.einsum("ni,mj,ocij->mnco", own.kernel, own.kernel, weight, optimize=True)
    return np.ascontiguousarray(transformed).reshape(-1, weight.shape[1], len(weight))


def _transform_input(padded: Array, own: Matrices, number: Pair) -> Array:
    """[b, m rows + 2, m columns + 2, C] -> V [n n, b rows columns, C], for so many rows and columns of tiles."""
    (rows, columns), (step, size) = number, (len(own.output), len(own.input))
    batch, _, width, channels = padded.shape
    image, row, pixel, one = padded.strides
    tile_rows = as_strided(padded, (size, batch, rows, width, channels), (row, image, step * row, pixel, one))
    by_row = own.input @ tile_rows.reshape(size, -1)  # [n, b rows width C]
    by_row = by_row.reshape(size, batch, rows, width, channels)
    first, image, row, pixel, one = by_row.strides
    tile_columns = as_strided(
        by_row, (size, size, batch, rows, columns, channels), (pixel, first, image, row, step * pixel, one)
    )
    both = own.input @ tile_columns.reshape(size, -1)  # [n columns, n rows ...]
    return both.reshape(size * size, batch * rows * columns, channels)


def _transform_output(products: Array, own: Matrices, tiled: tuple[int, int, int]) -> Array:
    """M [n n, b rows columns, O] -> [b, m rows, m columns, O]."""
    (batch, rows, columns), (outputs, size), channels = tiled, own.output.shape, products.shape[2]
    by_column = (own.output @ products.reshape(size, -1)).reshape(outputs, size, -1)  # [m columns, n rows, ...]
    both = own.output @ by_column.swapaxes(0, 1).reshape(size, -1)  # [m rows, m columns ...]
    both = both.reshape(outputs, outputs, batch, rows, columns, channels)
    return both.transpose(2, 3, 0, 4, 1, 5).reshape(batch, rows * outputs, columns * outputs, channels)


def _transpose_output(grads: Array, own: Matrices, number: Pair) -> Array:
    """The transpose of `_transform_output`: [b, oH, oW, O] -> dM [n n, b rows columns, O]."""
    (rows, columns), (outputs, size) = number, own.output.shape
    batch, height, width, channels = grads.shape
    if (height, width) != (rows * outputs, columns * outputs):
        whole = np.zeros((batch, rows * outputs, columns * outputs, channels), grads.dtype)
        whole[:, :height, :width] = grads
        grads = whole
    split = grads.reshape(batch, rows, outputs, columns, outputs, channels).transpose(2, 4, 0, 1, 3, 5)
    by_row = (own.output.T @ split.reshape(outputs, -1)).reshape(size, outputs, -1)  # [n rows, m columns, ...]
    both = own.output.T @ by_row.swapaxes(0, 1).reshape(outputs, -1)  # [n columns, n rows ...]
    return both.reshape(size * size, -1, channels)


def _transpose_input(grads: Array, own: Matrices, tiled: tuple[int, int, int], padded_size: Pair) -> Array:
    """The transpose of `_transform_input`: dV [n n, b rows columns, C] -> [b, pH, pW, C]; overlaps add up."""
    (batch, rows, columns), size, channels = tiled, len(own.input), grads.shape[2]
    step = len(own.output)
    by_column = (own.input.T @ grads.reshape(size, -1)).reshape(size, size, batch, rows, columns, channels)
    (height, width) = padded_size
    row_sums = np.empty((size, batch, rows, width, channels), grads.dtype)
    _add_overlaps(row_sums.transpose(3, 0, 1, 2, 4), by_column.transpose(0, 4, 1, 2, 3, 5), step)
    by_row = (own.input.T @ row_sums.reshape(size, -1)).reshape(size, batch, rows, width, channels)
    sums = np.empty((batch, height, width, channels), grads.dtype)
    _add_overlaps(sums.transpose(1, 0, 2, 3), by_row.transpose(0, 2, 1, 3, 4), step)
    return sums


def _add_overlaps(sums: Array, tiles_of: Array, step: int) -> None:
    """sums[t * step + offset] = sum of tiles_of[offset, t]: tiles of n > step pixels, one every `step` pixels.

    The first `step` pixels of all tiles lie side by side and are written; only the rest of each, which lies under the
    next, is added.

    Args:
        sums: [tiles * step + n - step, ...], overwritten.
        tiles_of: [n, tiles, ...].
    """
    size, number = tiles_of.shape[:2]
    sums[number * step :] = 0
    for offset in range(size):
        pixels = sums[offset : offset + step * number : step]
        if offset < step:
            pixels[...] = tiles_of[offset]
        else:
            pixels += tiles_of[offset]


def _tiled_size(geometry: Geometry, outputs: int) -> Pair:
    rows, columns = (number * outputs + KERNEL - 1 for number in tiles(geometry, outputs))
    return rows, columns


def _chunk(geometry: Geometry, outputs: int, itemsize: int) -> int:
    size = outputs + KERNEL - 1
    transformed = size**2 * math.prod(tiles(geometry, outputs)) * geometry.in_channels * itemsize
    return images_per_chunk(transformed, CACHE_BYTES)


def _cast(own: Matrices, dtype: np.dtype) -> Matrices:
    return Matrices(own.input.astype(dtype), own.kernel.astype(dtype), own.output.astype(dtype))


def _apply_ops(matrix: Array) -> Operations:
    """One product of the matrix with a vector."""
    nonzero = matrix != 0
    multiplied = int((nonzero & (np.abs(matrix) != 1)).sum())
    return Operations(multiplied, int((nonzero.sum(axis=1) - 1).sum()))
