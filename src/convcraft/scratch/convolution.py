"""Convolution: a kernel slides over the maps, and every output is the sum of the products under it.

What layers call convolution is cross-correlation: the kernel is not flipped (`true_convolution` flips it). Letters: B
images, C and O input and output maps, H and W rows and columns, oH and oW those of the output, kH and kW those of the
kernel, G groups.

    output[b, o, y, x] = bias[o] + sum over c, i, j of
        padded[b, c, y stride + i dilation, x stride + j dilation] * weight[o, c, i, j]

How the sums are computed is a matter of speed: `conv_algorithms` has eight ways, of which training uses three.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from convcraft.scratch.checks import Array, Pair, check_floating, refuse
from convcraft.scratch.conv_algorithms import im2col_nchw, im2col_nhwc, winograd
from convcraft.scratch.conv_algorithms.choose import choose
from convcraft.scratch.conv_geometry import Geometry, geometry_of

IM2COL: dict[str, Any] = {"im2col_nchw": im2col_nchw, "im2col_nhwc": im2col_nhwc}


def conv2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Array:
    """Slide kernels over maps.

    Args:
        input: float32 or float64 [B, C, H, W], or one image [C, H, W].
        weight: [O, C / groups, kH, kW], dtype of input.
        bias: [O].
        stride: pixels from one position to the next, one number or (rows, columns).
        padding: zeros on every side; "same" keeps the size (stride 1), "valid" is 0.
        dilation: pixels from one tap of the kernel to the next.
        groups: output map o sees only the input maps of its group; C is depthwise.

    Returns:
        [B, O, oH, oW] (or [O, oH, oW]) with oH = (H + 2 padding - dilation (kH - 1) - 1) // stride + 1.

    Raises:
        ValueError: dtypes, shapes or sizes that do not fit together.

    Example:
        >>> conv2d(np.arange(9.0).reshape(1, 3, 3), np.arange(4.0).reshape(1, 1, 2, 2))
        array([[[19., 25.],
                [37., 43.]]])
    """
    if getattr(input, "ndim", 4) == 3:
        return conv2d(input[None], weight, bias, stride, padding, dilation, groups)[0]
    geometry = geometry_of(input, weight, bias, stride, padding, dilation, groups)
    return _compute(input, weight, bias, geometry)[0]


def conv1d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int | tuple[int] = 1,
    padding: int | tuple[int] | str = 0,
    dilation: int | tuple[int] = 1,
    groups: int = 1,
) -> Array:
    """[B, C, W] or [C, W], [O, C / groups, kW] -> [B, O, oW] or [O, oW]: a 2-D convolution of one row."""
    check_floating(input=input, weight=weight, bias=bias)
    if input.ndim not in (2, 3) or weight.ndim != 3:
        received = f"input {list(input.shape)} and weight {list(weight.shape)}"
        raise refuse(received, "input [B, C, W] or [C, W] and weight [O, C / groups, kW]", "Add or drop axes.")

    def row(value: Any, across: int) -> Any:
        """A setting of one axis as one of two, with `across` for the rows."""
        if isinstance(value, str):
            return value
        return (across, value[0] if isinstance(value, tuple | list) and len(value) == 1 else value)

    images, kernels = input[..., None, :], weight[..., None, :]
    output = conv2d(images, kernels, bias, row(stride, 1), row(padding, 0), row(dilation, 1), groups)
    return output[..., 0, :]


def true_convolution(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Array:
    """Convolution as mathematics has it, with the kernel turned by 180 degrees; else as `conv2d`.

    Networks learn their kernels, so it makes no difference to them; a formula and its code should agree, though.
    """
    return conv2d(input, weight[..., ::-1, ::-1], bias, stride, padding, dilation, groups)


@dataclass(frozen=True)
class SavedConv:
    """What backward needs of a forward."""

    input: Array  # [B, C, H, W]
    weight: Array  # [O, C / G, kH, kW]
    geometry: Geometry
    kept: Any = None  # what the algorithm keeps: Winograd's transforms, or im2col's columns where they are small


def conv2d_forward(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> tuple[Array, SavedConv]:
    """`conv2d` of a batch [B, C, H, W], and what backward needs."""
    geometry = geometry_of(input, weight, bias, stride, padding, dilation, groups)
    return _compute(input, weight, bias, geometry)


def conv2d_backward(
    grad_output: Array, saved: SavedConv, need_input_grad: bool = True
) -> tuple[Array | None, Array, Array]:
    """Gradients of input (None where not needed), weight and bias; each of the shape of its array.

    With g = grad_output, from the sum at the top of this file:
        dL/dbias[o]            = sum over b, y, x of g[b, o, y, x]
        dL/dweight[o, c, i, j] = sum over b, y, x of g[b, o, y, x] padded[b, c, y stride + i dilation, ...]
        dL/dpadded[b, c, r, s] = sum over all o, y, x, i, j with y stride + i dilation = r, x stride + j dilation = s
                                 of g[b, o, y, x] weight[o, c, i, j]
    The weight's gradient is a correlation of the input with the output's gradient. The input's is a "transposed"
    convolution: with stride 1, a correlation of g, padded by kernel - 1, with the kernel turned by 180 degrees.
    """
    check_floating(grad_output=grad_output, weight=saved.weight)
    if grad_output.shape != (saved.geometry.batch, saved.geometry.out_channels, *saved.geometry.output_size):
        expected = [saved.geometry.batch, saved.geometry.out_channels, *saved.geometry.output_size]
        raise refuse(f"grad_output {list(grad_output.shape)}", f"the output's shape, {expected}", "Check the order.")
    if isinstance(saved.kept, winograd.Transformed):
        return winograd.backward(grad_output, saved.kept, saved.geometry, need_input_grad)
    algorithm = IM2COL[choose(saved.geometry, saved.input.dtype)]
    return algorithm.backward(grad_output, saved.input, saved.weight, saved.geometry, need_input_grad, saved.kept)


def _compute(input: Array, weight: Array, bias: Array | None, geometry: Geometry) -> tuple[Array, SavedConv]:
    name = choose(geometry, input.dtype)
    algorithm = winograd if name == "winograd" else IM2COL[name]
    output, kept = algorithm.forward(input, weight, bias, geometry)
    return output, SavedConv(input, weight, geometry, kept)
