"""The sizes of a convolution: what goes in, what comes out, what lies under the kernel; refused where it does not fit.

Letters: B images, C and O input and output maps, H and W rows and columns, oH and oW those of the output, kH and kW
those of the kernel, G groups. All pairs are (rows, columns).
"""

from __future__ import annotations

from dataclasses import dataclass

from convcraft.scratch.checks import Array, Pair, as_pair, check_axes, check_floating, refuse


@dataclass(frozen=True)
class Geometry:
    """One convolution without its numbers."""

    batch: int
    in_channels: int
    out_channels: int
    input_size: Pair
    kernel: Pair
    stride: Pair = (1, 1)
    before: Pair = (0, 0)  # zeros above and to the left
    after: Pair = (0, 0)  # zeros below and to the right
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def reach(self) -> Pair:
        """Pixels from the kernel's first to its last tap: dilation (kernel - 1) + 1."""
        rows, columns = (gap * (side - 1) + 1 for gap, side in zip(self.dilation, self.kernel, strict=True))
        return rows, columns

    @property
    def padded_size(self) -> Pair:
        (height, width), (top, left), (bottom, right) = self.input_size, self.before, self.after
        return height + top + bottom, width + left + right

    @property
    def output_size(self) -> Pair:
        """(H + padding - dilation (kernel - 1) - 1) // stride + 1."""
        rows, columns = (
            (size - reach) // step + 1
            for size, reach, step in zip(self.padded_size, self.reach, self.stride, strict=True)
        )
        return rows, columns

    @property
    def taps(self) -> int:
        """Numbers of the input that one output sums: C / G * kH * kW."""
        return self.in_channels // self.groups * self.kernel[0] * self.kernel[1]

    @property
    def outputs(self) -> int:
        """Numbers that come out: B * O * oH * oW."""
        return self.batch * self.out_channels * self.output_size[0] * self.output_size[1]


KEPT_BYTES = 8 << 20  # columns of a whole batch up to this are kept for backward; ResNet-20's would take 0.8 GB


def keeps_columns(geometry: Geometry, itemsize: int) -> bool:
    """Whether im2col keeps its columns between forward and backward."""
    rows, columns = geometry.output_size
    return geometry.taps * geometry.groups * geometry.batch * rows * columns * itemsize <= KEPT_BYTES


def geometry_of(
    input: Array,
    weight: Array,
    bias: Array | None,
    stride: int | Pair,
    padding: int | Pair | str,
    dilation: int | Pair,
    groups: int,
) -> Geometry:
    """The geometry of a call.

    Raises:
        ValueError: dtypes, shapes, groups or sizes that do not fit together.
    """
    check_floating(input=input, weight=weight, bias=bias)
    check_axes("input", input, "BCHW")
    if weight.ndim != 4:
        raise refuse(f"weight of shape {list(weight.shape)}", "[O, C / groups, kH, kW]", "Add the missing axes.")
    if not isinstance(groups, int) or groups < 1 or len(weight) % groups or input.shape[1] != weight.shape[1] * groups:
        raise refuse(
            f"{input.shape[1]} input maps, {len(weight)} kernels of {weight.shape[1]} maps, groups={groups}",
            "kernels of C / groups maps, and a number of kernels that groups divides",
            "Change groups or the weight.",
        )
    if bias is not None and bias.shape != (len(weight),):
        raise refuse(f"bias of shape {list(bias.shape)}", f"[{len(weight)}]", "Give one number per kernel.")
    steps, gaps = as_pair("stride", stride, 1), as_pair("dilation", dilation, 1)
    kernel: Pair = (weight.shape[2], weight.shape[3])
    before, after = _padding(padding, steps, gaps, kernel)
    size: Pair = (input.shape[2], input.shape[3])
    geometry = Geometry(len(input), input.shape[1], len(weight), size, kernel, steps, before, after, gaps, groups)
    if min(geometry.output_size) < 1 or min(kernel) < 1:
        raise refuse(
            f"a kernel that reaches over {geometry.reach[0]}x{geometry.reach[1]} pixels",
            f"at most the padded input, {geometry.padded_size[0]}x{geometry.padded_size[1]}: the output is "
            "(H + 2 padding - dilation (kernel - 1) - 1) // stride + 1 rows",
            "Use a smaller kernel or dilation, or more padding.",
        )
    return geometry


def _padding(padding: int | Pair | str, stride: Pair, dilation: Pair, kernel: Pair) -> tuple[Pair, Pair]:
    """Zeros before and after. "same" keeps the size; where the number is odd, the further one comes after."""
    if isinstance(padding, str):
        if padding == "valid":
            return (0, 0), (0, 0)
        if padding != "same":
            raise refuse(f"padding={padding!r}", '"valid", "same" or numbers', "Pass one of them.")
        if stride != (1, 1):
            raise refuse(f'padding="same" with stride {stride}', "stride 1", "Give the padding as numbers.")
        rows, columns = (gap * (side - 1) for gap, side in zip(dilation, kernel, strict=True))
        return (rows // 2, columns // 2), (rows - rows // 2, columns - columns // 2)
    pads = as_pair("padding", padding, 0)
    return pads, pads
