"""All algorithms behind one signature, for comparison: `race` them, or compute with one by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from convcraft.scratch.checks import Array, Pair, refuse
from convcraft.scratch.conv_algorithms import direct, fft, im2col_nchw, im2col_nhwc, shifted, sliding_einsum, winograd
from convcraft.scratch.conv_algorithms.operations import Operations, columns_bytes, dense_operations
from convcraft.scratch.conv_geometry import Geometry, geometry_of


def _everything(geometry: Geometry) -> str | None:
    """No reason against any convolution."""
    return None


@dataclass(frozen=True)
class Algorithm:
    """One way to compute a convolution.

    Attributes:
        convolve: ([B, C, H, W], [O, C / G, kH, kW], geometry) -> [B, O, oH, oW].
        workspace_bytes: memory beside input, weight and output.
        count_ops: multiplications and additions.
        supports: None, or why it cannot compute this geometry.
        tolerance: largest error in float32, as a share of the largest output.
    """

    name: str
    convolve: Callable[[Array, Array, Geometry], Array]
    workspace_bytes: Callable[[Geometry], int]
    count_ops: Callable[[Geometry], Operations] = dense_operations
    supports: Callable[[Geometry], str | None] = _everything
    tolerance: float = 1e-5


def _winograd(outputs: int, tolerance: float) -> Algorithm:
    return Algorithm(
        f"winograd F({outputs},3)",
        partial(winograd.convolve, outputs=outputs),
        partial(winograd.workspace_bytes, outputs=outputs),
        partial(winograd.count_ops, outputs=outputs),
        winograd.supports,
        tolerance,
    )


ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm("direct", direct.convolve, direct.workspace_bytes),
        Algorithm("shifted", shifted.convolve, shifted.workspace_bytes, count_ops=shifted.count_ops),
        Algorithm("einsum", sliding_einsum.convolve, sliding_einsum.workspace_bytes),
        Algorithm("im2col NCHW", im2col_nchw.convolve, columns_bytes),
        Algorithm("im2col NHWC", im2col_nhwc.convolve, columns_bytes),
        Algorithm("fft", fft.convolve, fft.workspace_bytes, count_ops=fft.count_ops),
        _winograd(2, 1e-5),
        _winograd(4, 5e-5),
    )
}


def convolve_with(
    name: str,
    input: Array,
    weight: Array,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Array:
    """`convolution.conv2d` (without bias) by the algorithm of this name.

    Raises:
        ValueError: no such algorithm, or one that cannot compute this convolution, with its reason.
    """
    if name not in ALGORITHMS:
        raise refuse(f"the algorithm {name!r}", "one of " + ", ".join(ALGORITHMS), "Pass one of them.")
    geometry = geometry_of(input, weight, None, stride, padding, dilation, groups)
    reason = ALGORITHMS[name].supports(geometry)
    if reason is not None:
        raise refuse(f"{name} with {reason}", "a convolution that it can compute", "im2col NHWC computes all.")
    return ALGORITHMS[name].convolve(input, weight, geometry)
