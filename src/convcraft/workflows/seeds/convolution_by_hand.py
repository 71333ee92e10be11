"""Convolution with nothing but NumPy: the article's formula, and the whole operation of a layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convcraft.errors import UserError

Array = NDArray[np.float64]
Pair = tuple[int, int]


def written_formula(image: NDArray[np.floating], kernel: NDArray[np.floating]) -> Array:
    """Seed 002's formula: (f * g)[k, l] = sum over i, j of f[i][j] g[k - i][l - j], where both indices exist.

    This is convolution as mathematics has it: the kernel runs backwards. The article's sums leave its borders out;
    returned is the part in which kernel and image overlap fully, so that it can stand beside the article's function.

    Args:
        image: f, [H, W].
        kernel: g, [h, w].

    Returns:
        float64 [H - h + 1, W - w + 1].
    """
    height, width = kernel.shape
    output = np.zeros((image.shape[0] - height + 1, image.shape[1] - width + 1))
    for row in range(output.shape[0]):
        for column in range(output.shape[1]):
            k, l = row + height - 1, column + width - 1  # noqa: E741 - the formula's letters
            output[row, column] = sum(
                image[i, j] * kernel[k - i, l - j]
                for i in range(row, row + height)
                for j in range(column, column + width)
            )
    return output


def conv2d(
    images: NDArray[np.floating],
    kernels: NDArray[np.floating],
    bias: NDArray[np.floating] | None = None,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Array:
    """What a convolution layer computes: cross-correlation over all channels, for a batch, by plain sums.

        output[b, o, y, x] = bias[o] + sum over c, i, j of
            padded[b, c, y * stride + i * dilation, x * stride + j * dilation] * kernels[o, c, i, j]

    One loop over output rows and columns is left; the sum over channels and taps is one matrix product per position.

    Args:
        images: [B, C, H, W].
        kernels: [O, C / groups, h, w].
        bias: [O] or None.
        stride, padding, dilation: pixels, one number or (rows, columns); padding is zeros on both sides.
        groups: output map o sees only the channels of its group.

    Returns:
        float64 [B, O, H', W'] with H' = (H + 2 padding - dilation (h - 1) - 1) // stride + 1.

    Raises:
        UserError: shapes that do not fit, or a kernel that reaches over the padded image.

        >>> conv2d(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2))).tolist()
        [[[[4.0, 4.0], [4.0, 4.0]]]]
    """
    steps, pads, gaps = _pair("stride", stride, 1), _pair("padding", padding, 0), _pair("dilation", dilation, 1)
    _check_shapes(images, kernels, bias, groups)
    padded = np.pad(images.astype(np.float64), ((0, 0), (0, 0), (pads[0], pads[0]), (pads[1], pads[1])))
    reach = tuple((side - 1) * gap + 1 for side, gap in zip(kernels.shape[2:], gaps, strict=True))
    sides = tuple((side - r) // step + 1 for side, r, step in zip(padded.shape[2:], reach, steps, strict=True))
    if min(sides) < 1:
        raise UserError(
            f"a kernel that reaches over {reach[0]}x{reach[1]} pixels",
            f"at most the padded image, {padded.shape[2]}x{padded.shape[3]}",
            "Use a smaller kernel or dilation, or more padding.",
        )
    per_group, outputs = kernels.shape[1], len(kernels) // groups
    result = np.empty((len(images), len(kernels), *sides))
    for group in range(groups):
        own = padded[:, group * per_group : (group + 1) * per_group]
        taps = kernels[group * outputs : (group + 1) * outputs].reshape(outputs, -1).astype(np.float64)
        for y in range(sides[0]):
            for x in range(sides[1]):
                top, left = y * steps[0], x * steps[1]
                window = own[:, :, top : top + reach[0] : gaps[0], left : left + reach[1] : gaps[1]]
                made = window.reshape(len(images), -1) @ taps.T
                result[:, group * outputs : (group + 1) * outputs, y, x] = made
    return result if bias is None else result + bias.astype(np.float64)[:, None, None]


def _pair(name: str, value: int | Pair, least: int) -> Pair:
    pair = (value, value) if isinstance(value, int) else value
    if min(pair) < least:
        raise UserError(f"{name} {value}", f"at least {least}", f"Pass another {name}.")
    return pair


def _check_shapes(
    images: NDArray[np.floating], kernels: NDArray[np.floating], bias: NDArray[np.floating] | None, groups: int
) -> None:
    if images.ndim != 4 or kernels.ndim != 4:
        raise UserError(
            f"images {list(images.shape)} and kernels {list(kernels.shape)}",
            "images [B, C, H, W] and kernels [O, C / groups, h, w]",
            "Add the missing axes, e.g. image[None, None].",
        )
    if groups < 1 or images.shape[1] != kernels.shape[1] * groups or len(kernels) % groups:
        raise UserError(
            f"{images.shape[1]} channels, {len(kernels)} kernels of {kernels.shape[1]} channels, groups={groups}",
            "kernels of C / groups channels, and a number of kernels that groups divides",
            "Change groups or the kernels.",
        )
    if bias is not None and bias.shape != (len(kernels),):
        raise UserError(f"bias {list(bias.shape)}", f"[{len(kernels)}]", "Give one number per kernel.")
