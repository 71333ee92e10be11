"""Claim: NumPy's best convolution is quicker than torch's on 3x3 kernels; which algorithm wins depends on the shape.

    python benchmarks/scratch_convolutions.py [--rounds 7] [--threads 2] [--figure docs/assets/scratch-convolutions.png]
    python benchmarks/scratch_convolutions.py --threads 1 --result scratch_convolutions_1_thread
    python benchmarks/scratch_convolutions.py --result scratch_convolutions_1_thread --page docs/scratch-convolutions.md

1. Every algorithm of convcraft.scratch on a grid of shapes, forward, float32: milliseconds, multiplications, workspace,
   and the largest error against float64 as a share of the largest output. The direct loop computes a corner of one
   image; its time is scaled up.
2. Forward and backward (input, weight and bias) of what the engine chooses, beside torch in its default NCHW layout.
   Bar: 56x56, 64 to 64 channels, 3x3, 8 images: at least 1.3 times as fast as torch.

Sides take turns, round by round, in one process; both keep freed memory and have the same threads. Ratios are those of
the medians; the best round of each side stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot
from measured_on import RESULTS, hardware, stolen_seconds, versions, write_result

from convcraft.report.plots import BLUE, INK, MUTED, ORANGE, STYLE
from convcraft.scratch import parallel
from convcraft.scratch.conv_algorithms.catalogue import ALGORITHMS
from convcraft.scratch.conv_algorithms.choose import choose
from convcraft.scratch.conv_geometry import Geometry, geometry_of
from convcraft.scratch.convolution import conv2d_backward, conv2d_forward
from convcraft.training.allocator import keep_freed_memory

BAR = 1.3
GRID = (  # images, C, H, W, O, kernel, stride, padding
    (64, 1, 28, 28, 6, 5, 1, 2),
    (64, 6, 14, 14, 16, 5, 1, 0),
    (64, 1, 28, 28, 32, 3, 1, 0),
    (64, 32, 13, 13, 64, 3, 1, 0),
    (8, 16, 32, 32, 16, 3, 1, 1),
    (8, 64, 32, 32, 64, 3, 1, 1),
    (8, 16, 32, 32, 16, 11, 1, 5),
    (8, 32, 16, 16, 32, 3, 1, 1),
    (8, 64, 8, 8, 64, 3, 1, 1),
    (8, 64, 56, 56, 64, 3, 1, 1),
    (8, 64, 56, 56, 128, 1, 2, 0),
    (1, 64, 56, 56, 64, 3, 1, 1),
)
SHOWN = (GRID[4], GRID[5], GRID[6], GRID[9])  # columns of the page's table
BAR_SHAPE = (8, 64, 56, 56, 64, 3, 1, 1)
MARKS = (  # told apart by shape as well as by colour
    ("o", MUTED),
    ("s", "#8a4b9f"),
    ("D", "#2a9fd4"),
    ("^", BLUE),
    ("v", "#00795a"),
    ("P", "#d98a1f"),
    ("X", ORANGE),
)
DIRECT_CORNER = 6  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--result", default="scratch_convolutions", help="name of the result file")
    parser.add_argument("--figure", type=Path, help="draw the forward times there")
    parser.add_argument("--page", type=Path, help="only write the committed result into this page, and its figure")
    options = parser.parse_args()
    if options.page is not None:
        shapes = json.loads((RESULTS / f"{options.result}.json").read_text("utf-8"))["shapes"]
        write_tables(shapes, options.page)
        if options.figure is not None:
            draw(shapes, options.figure)
        return
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    parallel.use_threads(options.threads)
    parallel.set_blas_threads(1)
    stolen = stolen_seconds()
    shapes = [measure(shape, options.rounds) for shape in GRID]
    bar = next(found["training"]["ratio"] for found in shapes if tuple(found["shape"]) == BAR_SHAPE)
    print(f"forward and backward on {BAR_SHAPE}: {bar:.2f} times torch (bar {BAR})")
    write_result(
        options.result,
        {
            "claim": f"the engine's 3x3 convolution, 56x56, 64 to 64 channels, >= {BAR} times torch's speed",
            "bar": {"found": bar, "least": BAR, "met": bar >= BAR},
            "shape_names": ["images", "C", "H", "W", "O", "kernel", "stride", "padding"],
            "shapes": shapes,
            "rounds": options.rounds,
            "threads": options.threads,
            "stolen_cpu_seconds": round(stolen_seconds() - stolen, 1),
            "hardware": hardware(),
            "versions": versions("convcraft", "numpy", "torch"),
        },
    )
    if options.figure is not None:
        draw(shapes, options.figure)


def measure(shape: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """All algorithms, the engine and torch on one shape."""
    images, channels, height, width, outputs, kernel, stride, padding = shape
    rng = np.random.default_rng(0)
    input = rng.standard_normal((images, channels, height, width)).astype(np.float32)
    weight = (rng.standard_normal((outputs, channels, kernel, kernel)) / kernel / channels**0.5).astype(np.float32)
    geometry = geometry_of(input, weight, None, stride, padding, 1, 1)
    tensors = torch.from_numpy(input), torch.from_numpy(weight)
    exact = torch.conv2d(*(tensor.double() for tensor in tensors), None, stride, padding).numpy()

    sides: dict[str, Callable[[], Any]] = {"torch NCHW": lambda: torch.conv2d(*tensors, None, stride, padding)}
    for name, algorithm in ALGORITHMS.items():
        if name != "direct" and algorithm.supports(geometry) is None:
            sides[name] = lambda algorithm=algorithm: algorithm.convolve(input, weight, geometry)
    seconds = interleaved(sides, rounds)
    rows: dict[str, Any] = {}
    for name, algorithm in ALGORITHMS.items():
        if name == "direct":
            rows[name] = direct_row(input, weight, geometry)
        elif name in seconds:
            error = float(np.abs(sides[name]() - exact).max() / np.abs(exact).max())
            rows[name] = {**described(seconds[name]), "error": error, **costs(algorithm, geometry)}
        else:
            rows[name] = {"reason": algorithm.supports(geometry)}
    with torch.no_grad():
        error = float((sides["torch NCHW"]().numpy() - exact).__abs__().max() / np.abs(exact).max())
    rows["torch NCHW"] = {**described(seconds["torch NCHW"]), "error": error}
    training = train_row(input, weight, stride, padding, rounds)
    print(shape, choose(geometry, np.float32), f"training {training['ratio']:.2f}x", flush=True)
    return {"shape": list(shape), "chosen": choose(geometry, np.float32), "forward": rows, "training": training}


def train_row(input: Any, weight: Any, stride: int, padding: int, rounds: int) -> dict[str, Any]:
    """Forward and backward of the engine beside torch's, with gradients of input, weight and bias."""
    bias = np.zeros(len(weight), np.float32)
    tensors = [torch.from_numpy(array).requires_grad_() for array in (input, weight, bias)]
    output, _ = conv2d_forward(input, weight, bias, stride, padding)
    grads = laid_out_as(np.random.default_rng(1).standard_normal(output.shape), output)
    torch_grads = torch.from_numpy(np.ascontiguousarray(grads))

    def ours() -> None:
        _, saved = conv2d_forward(input, weight, bias, stride, padding)
        conv2d_backward(grads, saved)

    def theirs() -> None:
        for tensor in tensors:
            tensor.grad = None
        torch.conv2d(*tensors, stride, padding).backward(torch_grads)

    seconds = interleaved({"ours": ours, "torch": theirs}, rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        **{name: described(values) for name, values in seconds.items()},
        "ratio": medians["torch"] / medians["ours"],
        "ratio_of_best": min(seconds["torch"]) / min(seconds["ours"]),
    }


def laid_out_as(values: Any, like: Any) -> Any:
    """The same numbers in the order in memory that the next layer's backward would give them."""
    laid_out = np.empty_like(like)
    laid_out[...] = values
    return laid_out


def interleaved(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side, A B C A B C ..., after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def described(seconds: list[float]) -> dict[str, float]:
    return {"milliseconds": 1e3 * statistics.median(seconds), "best_milliseconds": 1e3 * min(seconds)}


def costs(algorithm: Any, geometry: Geometry) -> dict[str, int]:
    operations = algorithm.count_ops(geometry)
    return {
        "multiplications": operations.multiplications,
        "additions": operations.additions,
        "workspace_bytes": algorithm.workspace_bytes(geometry),
    }


def direct_row(input: Any, weight: Any, geometry: Geometry) -> dict[str, Any]:
    """The loop over a corner of one image, scaled to the whole."""
    side = DIRECT_CORNER + geometry.kernel[0] - 1
    corner, kernels = input[:1, :, :side, :side], weight[:4]
    small = geometry_of(corner, kernels, None, 1, 0, 1, 1)
    direct = ALGORITHMS["direct"]
    started = time.perf_counter()
    output = direct.convolve(corner, kernels, small)
    seconds = (time.perf_counter() - started) * geometry.outputs / small.outputs
    exact = torch.conv2d(*(torch.from_numpy(array).double() for array in (corner, kernels))).numpy()
    error = float(np.abs(output - exact).max() / np.abs(exact).max())
    return {"milliseconds": 1e3 * seconds, "scaled": True, "error": error, **costs(direct, geometry)}


def write_tables(shapes: list[dict[str, Any]], page: Path) -> None:
    """The tables of a result between the markers of docs/scratch-convolutions.md."""
    text = page.read_text(encoding="utf-8")
    for name, rows in (("forward", forward_table(shapes)), ("training", training_table(shapes))):
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n" + "\n".join(rows) + f"\n{end}{rest.split(end)[1]}"
    page.write_text(text, encoding="utf-8")


def forward_table(shapes: list[dict[str, Any]]) -> list[str]:
    """Milliseconds of every algorithm, and its largest error over the shapes."""
    columns = [found for found in shapes if tuple(found["shape"]) in SHOWN]
    rows = ["| algorithm | " + " | ".join(label(found["shape"]) for found in columns) + " | largest error |"]
    rows.append("|---" * (len(columns) + 2) + "|")
    for name in (*ALGORITHMS, "torch NCHW"):
        cells = [found["forward"][name].get("milliseconds") for found in columns]
        times = ["-" if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}" for value in cells]
        errors = [found["forward"][name].get("error", 0.0) for found in shapes]
        rows.append(f"| {name} | " + " | ".join(times) + f" | {max(errors):.1e} |")
    return rows


def training_table(shapes: list[dict[str, Any]]) -> list[str]:
    """Forward and backward of what the rule chose, beside torch."""
    rows = ["| shape | chosen | ours, ms | torch, ms | speed |", "|---|---|---|---|---|"]
    for found in shapes:
        ours, theirs = (found["training"][side]["milliseconds"] for side in ("ours", "torch"))
        ratio = f"{found['training']['ratio']:.2f}"
        rows.append(f"| {label(found['shape'])} | {found['chosen']} | {ours:.1f} | {theirs:.1f} | {ratio} |")
    return rows


def label(shape: Any) -> str:
    images, channels, height, width, outputs, kernel, stride, _ = shape
    text = f"{images} of {channels}x{height}x{width} to {outputs}, {kernel}x{kernel}"
    return text + (f", stride {stride}" if stride > 1 else "")


def draw(shapes: list[dict[str, Any]], file: Path) -> None:
    """Forward speed of each algorithm as a multiple of torch's, shape by shape."""
    names = [name for name in ALGORITHMS if name != "direct"]
    matplotlib.rcParams.update(STYLE)
    figure, axes = pyplot.subplots(figsize=(9, 5.2), layout="constrained")
    for name, (marker, colour) in zip(names, MARKS, strict=True):
        points = [
            (row, found["forward"]["torch NCHW"]["milliseconds"] / found["forward"][name]["milliseconds"])
            for row, found in enumerate(shapes)
            if "milliseconds" in found["forward"][name]
        ]
        axes.plot([x for _, x in points], [y for y, _ in points], marker, color=colour, label=name, markersize=7)
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(left=0.05)
    axes.set_xticks([0.1, 0.2, 0.5, 1, 2], ["0.1", "0.2", "0.5", "1", "2"])
    axes.minorticks_off()
    axes.set_xlabel("forward speed as a multiple of torch (NCHW); below 0.05 is left out")
    axes.set_yticks(range(len(shapes)), [label(found["shape"]) for found in shapes])
    axes.invert_yaxis()
    axes.grid(axis="both")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
