"""Pooling: a window slides over each map, and its largest number or its mean comes out.

Letters: B images, C maps, H and W rows and columns, oH and oW those of the output. A *tap* is one of the kernel's
positions: tap (i, j) of all windows together is a strided view of the padded maps, so a pooling of k x k is k * k
operations on whole arrays and no loop over pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from convcraft.scratch.checks import Array, Pair, as_pair, check_axes, check_floating, refuse
from convcraft.scratch.parallel import images_per_chunk, over_images


@dataclass(frozen=True)
class Windows:
    """Where the windows of a pooling lie. All pairs are (rows, columns)."""

    input_size: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    ceil_mode: bool

    @property
    def output_size(self) -> Pair:
        rows, columns = (self._length(axis) for axis in (0, 1))
        return rows, columns

    def _length(self, axis: int) -> int:
        """(H + 2 padding - dilation (kernel - 1) - 1) / stride + 1, rounded down, or up with ceil_mode."""
        size, step = self.input_size[axis], self.stride[axis]
        room = size + 2 * self.padding[axis] - self.dilation[axis] * (self.kernel[axis] - 1) - 1
        length = (-(-room // step) if self.ceil_mode else room // step) + 1
        if self.ceil_mode and (length - 1) * step >= size + self.padding[axis]:
            length -= 1  # a window that would begin behind the input and its front padding is left out
        if length < 1:
            received = f"maps of {self.input_size[0]}x{self.input_size[1]} and a window of {self.kernel}"
            raise refuse(received, "a window that fits into the padded maps", "Use a smaller kernel or larger maps.")
        return length

    @property
    def padded_size(self) -> Pair:
        """As far as the last window reaches, and at least the whole input with its front padding."""
        rows, columns = (
            max(pad + size, (length - 1) * step + gap * (side - 1) + 1)
            for size, length, step, gap, side, pad in zip(
                self.input_size, self.output_size, self.stride, self.dilation, self.kernel, self.padding, strict=True
            )
        )
        return rows, columns

    def frame(self, like: Array, value: float) -> Array:
        """Padded maps full of `value`; images, maps and order in memory are those of `like`."""
        return full_like(like, (*like.shape[:2], *self.padded_size), value)

    def chunk(self, maps: Array) -> int:
        """Images to work on at a time, so that their input and output stay in the cache."""
        return images_per_chunk(2 * maps[0].nbytes) if len(maps) else 1

    def pad(self, maps: Array, value: float) -> Array:
        """[B, C, H, W] with `value` around; the maps themselves where no window reaches over the border."""
        if self.padded_size == self.input_size:
            return maps
        padded = self.frame(maps, value)  # np.pad would bring channels-last memory into another order
        self.inner(padded)[...] = maps
        return padded

    def inner(self, padded: Array) -> Array:
        """The view without what `pad` added."""
        top, left = self.padding
        return padded[:, :, top : top + self.input_size[0], left : left + self.input_size[1]]

    def taps(self, padded: Array) -> Iterator[Array]:
        """For each position in the kernel, row by row: that pixel of all windows, a view [B, C, oH, oW]."""
        (rows, columns), (down, right) = self.output_size, self.stride
        for i in range(0, self.kernel[0] * self.dilation[0], self.dilation[0]):
            for j in range(0, self.kernel[1] * self.dilation[1], self.dilation[1]):
                yield padded[:, :, i : i + rows * down : down, j : j + columns * right : right]


def full_like(maps: Array, shape: tuple[int, ...], value: float) -> Array:
    """Filled maps of another size, whose axes lie in memory in the order of those of `maps`."""
    order = sorted(range(maps.ndim), key=lambda axis: -maps.strides[axis])  # outermost first
    memory = np.full([shape[axis] for axis in order], value, maps.dtype)
    return memory.transpose(np.argsort(order))


def max_pool2d(
    input: Array,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Array:
    """The largest number of each window.

    Args:
        input: [B, C, H, W], or one image [C, H, W].
        kernel_size, padding, dilation: pixels, one number or (rows, columns); padding never wins (it is -inf).
        stride: None means kernel_size, so that windows lie side by side.
        ceil_mode: a last window may reach over the border.
        return_indices: not supported.

    Returns:
        [B, C, oH, oW] with oH = (H + 2 padding - dilation (kernel - 1) - 1) // stride + 1.

    Raises:
        ValueError: windows that do not fit, padding of more than half a window, return_indices.
    """
    if return_indices:
        raise refuse("return_indices=True", "False", "max_pool2d_backward finds the winners itself.")
    if _one_image(input):
        return max_pool2d(input[None], kernel_size, stride, padding, dilation, ceil_mode)[0]
    return max_pool2d_forward(input, kernel_size, stride, padding, dilation, ceil_mode)[0]


@dataclass(frozen=True)
class SavedMaxPool:
    windows: Windows
    padded: Array  # the padded input
    output: Array


def max_pool2d_forward(
    input: Array,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    ceil_mode: bool = False,
) -> tuple[Array, SavedMaxPool]:
    """`max_pool2d`, and what backward needs."""
    windows = _windows(input, kernel_size, stride, padding, dilation, ceil_mode)
    padded = windows.pad(input, -np.inf)
    output = full_like(input, (*input.shape[:2], *windows.output_size), -np.inf)

    def some(images: slice) -> None:
        for tap in windows.taps(padded[images]):
            np.maximum(output[images], tap, out=output[images])

    over_images(some, len(input), windows.chunk(input))
    return output, SavedMaxPool(windows, padded, output)


def max_pool2d_backward(grad_output: Array, saved: SavedMaxPool) -> Array:
    """The whole gradient of a window goes to the pixel that won it; windows that overlap add up there.

    Of equal pixels the first wins, row by row, as in torch: a window's gradient is given once. A NaN beats every
    number, and of several the last wins. (Of a window that begins over the border and holds nothing but -inf the
    padding wins, where torch names the first pixel.)
    """
    windows, grad_padded = saved.windows, saved.windows.frame(grad_output, 0.0)

    def some(images: slice) -> None:
        output, grads = saved.output[images], grad_output[images]
        waiting = np.ones_like(output, dtype=bool)  # windows whose gradient is not yet given
        taps = list(zip(windows.taps(saved.padded[images]), windows.taps(grad_padded[images]), strict=True))
        for tap, grad_tap in taps:
            won = tap == output
            won &= waiting
            waiting ^= won
            grad_tap += grads * won
        for tap, grad_tap in reversed(taps) if waiting.any() else ():  # NaN equals nothing
            won = np.isnan(tap) & waiting
            waiting ^= won
            grad_tap += grads * won

    over_images(some, len(grad_output), windows.chunk(saved.padded))
    return windows.inner(grad_padded)


def avg_pool2d(
    input: Array,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """The mean of each window.

    Args:
        input: [B, C, H, W], or one image [C, H, W].
        kernel_size, stride, padding, ceil_mode: as for `max_pool2d`; padding is 0.
        count_include_pad: whether zeros of the padding count in the mean (torch: yes, Keras: no).
        divisor_override: divide every sum by this number instead.

    Returns:
        [B, C, oH, oW].
    """
    settings = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    if _one_image(input):
        return avg_pool2d(input[None], *settings)[0]
    return avg_pool2d_forward(input, *settings)[0]


@dataclass(frozen=True)
class SavedAvgPool:
    windows: Windows
    counts: Array  # [oH, oW]: what the sum of each window was divided by


def avg_pool2d_forward(
    input: Array,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> tuple[Array, SavedAvgPool]:
    """`avg_pool2d`, and what backward needs."""
    windows = _windows(input, kernel_size, stride, padding, 1, ceil_mode)
    if divisor_override is not None and divisor_override < 1:
        raise refuse(f"divisor_override={divisor_override}", "a whole number of at least 1", "Leave it out.")
    padded = windows.pad(input, 0.0)
    sums = full_like(input, (*input.shape[:2], *windows.output_size), 0.0)

    def some(images: slice) -> None:
        for tap in windows.taps(padded[images]):
            sums[images] += tap

    over_images(some, len(input), windows.chunk(input))
    rows, columns = (_counted(windows, axis, count_include_pad) for axis in (0, 1))
    counts = np.outer(rows, columns) if divisor_override is None else np.full(windows.output_size, divisor_override)
    counts = counts.astype(input.dtype)
    sums /= counts
    return sums, SavedAvgPool(windows, counts)


def avg_pool2d_backward(grad_output: Array, saved: SavedAvgPool) -> Array:
    """Each pixel of a window gets its share, gradient / count; windows that overlap add up."""
    grad_padded = saved.windows.frame(grad_output, 0.0)

    def some(images: slice) -> None:
        shares = grad_output[images] / saved.counts
        for tap in saved.windows.taps(grad_padded[images]):
            tap += shares

    over_images(some, len(grad_output), saved.windows.chunk(grad_padded))
    return saved.windows.inner(grad_padded)


def adaptive_avg_pool2d(input: Array, output_size: int | Pair) -> Array:
    """Means over as many windows as the output is to have, whatever the size of the input.

    Output row i covers the input rows from floor(i H / oH) to ceil((i + 1) H / oH): windows differ in size by at most
    one, and overlap where oH does not divide H.

    Args:
        input: [B, C, H, W], or one image [C, H, W].
        output_size: oH, oW; 1 is global average pooling.

    Returns:
        [B, C, oH, oW].
    """
    if _one_image(input):
        return adaptive_avg_pool2d(input[None], output_size)[0]
    check_floating(input=input)
    check_axes("input", input, "BCHW")
    rows, columns = (_spans(size, number) for size, number in zip(input.shape[2:], _out(output_size), strict=True))
    output = full_like(input, (*input.shape[:2], len(rows), len(columns)), 0.0)
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            output[:, :, i, j] = input[:, :, top:bottom, left:right].mean(axis=(2, 3))
    return output


def adaptive_avg_pool2d_backward(grad_output: Array, input_size: Pair) -> Array:
    """Each pixel gets its share of every window that covers it.

    Args:
        grad_output: [B, C, oH, oW].
        input_size: H, W.
    """
    grad_input = full_like(grad_output, (*grad_output.shape[:2], *input_size), 0.0)
    rows, columns = (_spans(size, number) for size, number in zip(input_size, grad_output.shape[2:], strict=True))
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            count = grad_output.dtype.type((bottom - top) * (right - left))
            grad_input[:, :, top:bottom, left:right] += grad_output[:, :, i, j, None, None] / count
    return grad_input


def _one_image(input: Array) -> bool:
    """[C, H, W], which functions take as torch's do; layers want the batch axis."""
    return isinstance(input, np.ndarray) and input.ndim == 3


def _windows(
    input: Array,
    kernel_size: int | Pair,
    stride: int | Pair | None,
    padding: int | Pair,
    dilation: int | Pair,
    ceil_mode: bool,
) -> Windows:
    check_floating(input=input)
    check_axes("input", input, "BCHW")
    kernel = as_pair("kernel_size", kernel_size, 1)
    steps = kernel if stride is None else as_pair("stride", stride, 1)
    pads = as_pair("padding", padding, 0)
    if any(2 * pad > side for pad, side in zip(pads, kernel, strict=True)):
        raise refuse(f"padding {pads} for a window of {kernel}", "at most half a window", "Use less padding.")
    size: Pair = (input.shape[2], input.shape[3])
    windows = Windows(size, kernel, steps, pads, as_pair("dilation", dilation, 1), bool(ceil_mode))
    assert min(windows.output_size) > 0  # refuses windows that do not fit
    return windows


def _counted(windows: Windows, axis: int, count_padding: bool) -> Array:
    """How many rows (or columns) of each window count in the mean."""
    size, pad = windows.input_size[axis], windows.padding[axis]
    starts = np.arange(windows.output_size[axis]) * windows.stride[axis] - pad
    ends = np.minimum(starts + windows.kernel[axis], size + pad)
    return ends - starts if count_padding else np.minimum(ends, size) - np.maximum(starts, 0)


def _spans(size: int, number: int) -> list[Pair]:
    return [(i * size // number, -(-(i + 1) * size // number)) for i in range(number)]


def _out(output_size: int | Pair) -> Pair:
    return as_pair("output_size", output_size, 1)
