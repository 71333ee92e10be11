"""Convolution: a kernel slides over the maps, and every output is the sum of the products under it.

What layers call convolution is cross-correlation: the kernel is not flipped. Letters: B images, C and O input and output
maps, H and W rows and columns, oH and oW those of the output, kH and kW those of the kernel, G groups.

    output[b, o, y, x] = bias[o] + sum over c, i, j of
        padded[b, c, y stride + i dilation, x stride + j dilation] * weight[o, c, i, j]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from convcraft.scratch.checks import Array, Pair, as_pair, check_axes, check_floating, refuse


@dataclass(frozen=True)
class SavedConv:
    """What backward needs of a forward."""

    input: Array  # [B, C, H, W]
    weight: Array  # [O, C / G, kH, kW]
    stride: Pair
    padding: tuple[Pair, Pair]  # rows (before, after), columns (before, after)
    dilation: Pair
    groups: int


def conv2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Array:
    """[B, C, H, W] or [C, H, W] -> [B, O, oH, oW] or [O, oH, oW]."""
    if input.ndim == 3:
        return conv2d(input[None], weight, bias, stride, padding, dilation, groups)[0]
    return conv2d_forward(input, weight, bias, stride, padding, dilation, groups)[0]


def conv1d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int | tuple[int] = 1,
    padding: int | tuple[int] | str = 0,
    dilation: int | tuple[int] = 1,
    groups: int = 1,
) -> Array:
    """[B, C, W] or [C, W] -> [B, O, oW] or [O, oW]: a 2-D convolution of one row."""

    def row(value: Any, one: int) -> Any:
        return value if isinstance(value, str) else (one, value if isinstance(value, int) else value[0])

    output = conv2d(
        input[..., None, :], weight[..., None, :], bias, row(stride, 1), row(padding, 0), row(dilation, 1), groups
    )
    return output[..., 0, :]


def conv2d_forward(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> tuple[Array, SavedConv]:
    """`conv2d` of a batch, and what backward needs."""
    check_floating(input=input, weight=weight, bias=bias)
    check_axes("input", input, "BCHW")
    if weight.ndim != 4 or groups < 1 or input.shape[1] != weight.shape[1] * groups or len(weight) % groups:
        raise refuse(
            f"input {list(input.shape)}, weight {list(weight.shape)}, groups={groups}",
            "weight [O, C / groups, kH, kW] with O a multiple of groups",
            "Change groups or the weight.",
        )
    if bias is not None and bias.shape != (len(weight),):
        raise refuse(f"bias {list(bias.shape)}", f"[{len(weight)}]", "Give one number per output map.")
    steps, gaps = as_pair("stride", stride, 1), as_pair("dilation", dilation, 1)
    saved = SavedConv(input, weight, steps, _padding(padding, steps, gaps, weight), gaps, groups)
    columns, size = _columns(saved)
    rows = weight.reshape(groups, len(weight) // groups, -1)  # [G, O / G, C / G * kH * kW]
    output = (rows @ columns).reshape(len(input), len(weight), *size)
    return output if bias is None else output + bias[:, None, None], saved


def conv2d_backward(
    grad_output: Array, saved: SavedConv, need_input_grad: bool = True
) -> tuple[Array | None, Array, Array]:
    """Gradients of input (None where not needed), weight and bias."""
    columns, _ = _columns(saved)
    outputs = len(saved.weight) // saved.groups
    grads = grad_output.reshape(len(grad_output), saved.groups, outputs, -1)  # [B, G, O / G, oH * oW]
    grad_weight = (grads @ columns.swapaxes(2, 3)).sum(axis=0).reshape(saved.weight.shape)
    grad_bias = grad_output.sum(axis=(0, 2, 3))
    if not need_input_grad:
        return None, grad_weight, grad_bias
    rows = saved.weight.reshape(saved.groups, outputs, -1)
    grad_columns = (rows.swapaxes(1, 2) @ grads).reshape(
        *saved.input.shape[:2], *saved.weight.shape[2:], *grad_output.shape[2:]
    )
    grad_padded = np.zeros(_padded(saved).shape, grad_output.dtype)
    (down, right), (rows_out, columns_out) = saved.stride, grad_output.shape[2:]
    for i in range(saved.weight.shape[2]):
        for j in range(saved.weight.shape[3]):
            top, left = i * saved.dilation[0], j * saved.dilation[1]
            window = grad_padded[:, :, top : top + rows_out * down : down, left : left + columns_out * right : right]
            window += grad_columns[:, :, i, j]
    (top, _), (left, _) = saved.padding
    height, width = saved.input.shape[2:]
    return grad_padded[:, :, top : top + height, left : left + width], grad_weight, grad_bias


def _padded(saved: SavedConv) -> Array:
    return np.pad(saved.input, ((0, 0), (0, 0), *saved.padding)) if np.any(saved.padding) else saved.input


def _columns(saved: SavedConv) -> tuple[Array, Pair]:
    """im2col: [B, G, C / G * kH * kW, oH * oW], and (oH, oW)."""
    padded, kernel = _padded(saved), saved.weight.shape[2:]
    reach = tuple(gap * (side - 1) + 1 for side, gap in zip(kernel, saved.dilation, strict=True))
    if padded.shape[2] < reach[0] or padded.shape[3] < reach[1]:
        received = f"a kernel that reaches over {reach[0]}x{reach[1]} pixels"
        raise refuse(received, f"at most the padded input, {padded.shape[2]}x{padded.shape[3]}", "Pad more.")
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))  # [B, C, ., ., reach, reach]
    windows = windows[:, :, :: saved.stride[0], :: saved.stride[1], :: saved.dilation[0], :: saved.dilation[1]]
    size: Pair = (windows.shape[2], windows.shape[3])
    columns = windows.transpose(0, 1, 4, 5, 2, 3).reshape(len(padded), saved.groups, -1, size[0] * size[1])
    return columns, size


def _padding(padding: int | Pair | str, stride: Pair, dilation: Pair, weight: Array) -> tuple[Pair, Pair]:
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        if stride != (1, 1):
            raise refuse(f'padding="same" with stride {stride}', "stride 1", "Give the padding as a number.")
        total = [gap * (side - 1) for side, gap in zip(weight.shape[2:], dilation, strict=True)]
        rows, columns = ((both // 2, both - both // 2) for both in total)
        return rows, columns
    if isinstance(padding, str):
        raise refuse(f"padding={padding!r}", '"valid", "same" or numbers', "Pass one of them.")
    down, right = as_pair("padding", padding, 0)
    return (down, down), (right, right)
