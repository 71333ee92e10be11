"""All algorithms behind one signature, for comparison: `race` them, or compute with one by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from convcraft.scratch.checks import Array, Pair, refuse
from convcraft.scratch.conv_algorithms import direct, fft, im2col_nchw, im2col_nhwc, shifted, sliding_einsum, winograd
from convcraft.scratch.conv_algorithms.operations import Operations
from convcraft.scratch.conv_geometry import Geometry, geometry_of


@dataclass(frozen=True)
class Algorithm:
    """One way to compute a convolution.

    Attributes:
        convolve: ([B, C, H, W], [O, C / G, kH, kW], geometry) -> [B, O, oH, oW].
        supports: None, or why it cannot compute this geometry.
        count_ops: multiplications and additions.
        workspace_bytes: memory beside input, weight and output.
        tolerance: largest error in float32, as a share of the largest output.
    """

    name: str
    convolve: Callable[[Array, Array, Geometry], Array]
    supports: Callable[[Geometry], str | None]
    count_ops: Callable[[Geometry], Operations]
    workspace_bytes: Callable[[Geometry], int]
    tolerance: float = 1e-5


def _winograd(outputs: int, tolerance: float) -> Algorithm:
    return Algorithm(
        f"winograd F({outputs},3)",
        partial(winograd.convolve, outputs=outputs),
        winograd.supports,
        partial(winograd.count_ops, outputs=outputs),
        partial(winograd.workspace_bytes, outputs=outputs),
        tolerance,
    )


ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        *(
            Algorithm(name, module.convolve, module.supports, module.count_ops, module.workspace_bytes)
            for name, module in (
                ("direct", direct),
                ("shifted", shifted),
                ("einsum", sliding_einsum),
                ("im2col NCHW", im2col_nchw),
                ("im2col NHWC", im2col_nhwc),
                ("fft", fft),
            )
        ),
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
