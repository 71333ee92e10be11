"""Figures from plain arrays. Each function returns a matplotlib Figure and touches no global state.

Figures are small on purpose: at full width on a phone the smallest text still reads. The colours below stand for
themselves in a file; on the page `report.html` exchanges them for variables that follow the light or dark theme. Blue
and orange stay apart for colour-blind readers, and marks differ too, so that no meaning hangs on colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from convcraft.report.text import shorten

INK, MUTED, RULE, BLUE, ORANGE = "#1c2025", "#626a73", "#d9dce0", "#0b66b1", "#c9511b"
SERIES = {"train": (BLUE, "-", ""), "validation": (ORANGE, "-", "o")}
STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a class may be called "$5"
    "font.size": 9.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}
ANNOTATED_CLASSES = 20  # up to so many classes each cell of the confusion matrix carries its count
LARGEST_GRID = 150  # squares a side of the confusion matrix: three pixels each at its full size
NAMED_CLASSES = 40  # up to so many classes each row carries its name
LABEL_COLUMNS = 16
Points = tuple[Sequence[float], Sequence[float]]  # x, y


def training_curve(series: Mapping[str, Points], title: str, scale: str = "plain") -> Figure:
    """Something over the optimiser steps, one line per entry ("train", "validation"); NaN leaves a gap.

    Args:
        scale: "plain", "percent", or "wide": logarithmic where the values span more than a factor of 30 (losses).
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 2.9), layout="constrained")
        axes = figure.add_subplot(title=title, xlabel="optimiser step")
        for name, (steps, values) in series.items():
            colour, line, mark = SERIES.get(name, (BLUE, "-", ""))
            axes.plot(steps, values, line, color=colour, marker=mark, markersize=3.2, linewidth=1.5, label=name)
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        if scale == "percent":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        elif scale == "wide" and _spans_decades([value for _, values in series.values() for value in values]):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        if len(series) > 1:
            axes.legend(loc="best")
        return figure


def _spans_decades(values: Sequence[float]) -> bool:
    finite = [value for value in values if np.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > 30 * min(finite)


def confusion_matrix(matrix: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Counts, rows true and columns predicted: blue where right, orange where wrong.

    The strength of a cell is the square root of its share of the row, so that the odd mistake is still seen; without
    counts in the cells, mistakes are as strong as the largest of them allows. Where cells would be too small to see,
    each square stands for several classes and shows its strongest cell.

    Args:
        matrix: int64 [K, K]. Names and counts are left out where they would not be legible.
    """
    num_classes = len(classes)
    side = float(np.clip(1.6 + 0.34 * num_classes, 3.4, 6.4))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.add_subplot(xlabel="predicted class", ylabel="true class")
        strength = np.sqrt(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1))
        drawn = strength if num_classes <= ANNOTATED_CLASSES else _squares(strength)
        edges = (-0.5, num_classes - 0.5)
        axes.imshow(_cell_colours(drawn), interpolation="none", extent=(*edges, *edges[::-1]))
        _class_ticks(axes, classes)
        axes.spines[:].set_visible(False)
        if num_classes <= ANNOTATED_CLASSES:
            _annotate(axes, matrix, strength, font_size=float(np.clip(125 / num_classes, 5.5, 10)))
            lines = np.arange(num_classes + 1) - 0.5
            axes.hlines(lines, *edges, color=RULE, linewidth=0.6)
            axes.vlines(lines, *edges, color=RULE, linewidth=0.6)
        else:
            axes.spines[:].set(visible=True, color=RULE)
        return figure


def _squares(strength: NDArray[np.float64]) -> NDArray[np.float64]:
    """[S, S], S up to LARGEST_GRID: mistakes relative to the largest; a square on the diagonal has its mean recall."""
    own = np.diag(strength)
    missed = strength - np.diag(own)
    missed = missed / (missed.max() or 1.0)
    side = -(-len(own) // LARGEST_GRID)  # classes to a square
    starts = np.arange(0, len(own), side)
    squares = np.maximum.reduceat(np.maximum.reduceat(missed, starts, axis=0), starts, axis=1)
    counts = np.diff(np.append(starts, len(own)))
    np.fill_diagonal(squares, np.sqrt(np.add.reduceat(own**2, starts) / counts))
    return np.asarray(squares)


def _cell_colours(strength: NDArray[np.float64]) -> NDArray[np.float64]:
    """RGBA [K, K, 4]; the strength is opacity, so that an empty cell shows the page, light or dark."""
    right, wrong = (matplotlib.colors.to_rgb(colour) for colour in (BLUE, ORANGE))
    diagonal = np.eye(len(strength), dtype=bool)[..., None]
    return np.concatenate([np.where(diagonal, right, wrong), strength[..., None]], axis=-1)


def _class_ticks(axes: Axes, classes: Sequence[str]) -> None:
    num_classes = len(classes)
    axes.tick_params(length=0)
    if num_classes > NAMED_CLASSES:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set(xlabel="predicted class (number)", ylabel="true class (number)")
        return
    names = [shorten(name, LABEL_COLUMNS) for name in classes]
    upright = all(len(name) <= 3 for name in names) and num_classes <= ANNOTATED_CLASSES
    size = float(np.clip(180 / num_classes, 5, 9))
    axes.set_xticks(range(num_classes), names, rotation=0 if upright else 90, fontsize=size)
    axes.set_yticks(range(num_classes), names, fontsize=size)


def _annotate(axes: Axes, matrix: NDArray[np.int64], strength: NDArray[np.float64], font_size: float) -> None:
    for row, column in np.argwhere(matrix > 0):
        # Half-opaque blue or orange is where white begins to read better than ink, on either theme.
        colour = "#ffffff" if strength[row, column] > 0.6 else INK
        text = f"{matrix[row, column]}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=font_size)


def per_class(
    classes: Sequence[str],
    recall: Sequence[float],
    intervals: Sequence[tuple[float, float] | None],
    precision: Sequence[float],
) -> Figure:
    """Recall with its interval (dot and line) and precision (diamond) of each class; NaN leaves the mark out."""
    rows = np.arange(len(classes))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 1.0 + 0.26 * len(classes)), layout="constrained")
        axes = figure.add_subplot()
        for row, interval in zip(rows, intervals, strict=True):
            if interval is not None:
                axes.plot(interval, (row, row), color=BLUE, linewidth=2.4, alpha=0.4, solid_capstyle="butt")
        axes.plot(precision, rows, "D", color=ORANGE, markersize=4, fillstyle="none", label="precision")
        axes.plot(recall, rows, "o", color=BLUE, markersize=5, label="recall, 95 % interval")
        axes.set_yticks(rows, [shorten(name, LABEL_COLUMNS) for name in classes])
        axes.set_ylim(len(classes) - 0.4, -0.6)
        axes.set_xlim(right=1.01)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="both")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
        return figure


def reliability(
    edges: NDArray[np.float64],
    counts: NDArray[np.int64],
    mean_confidence: NDArray[np.float64],
    accuracy: NDArray[np.float64],
    intervals: Sequence[tuple[float, float]] = (),
    title: str = "",
) -> Figure:
    """Accuracy against confidence, and below how many images stand behind each bin.

    Args:
        edges: float64 [bins + 1]; the other three [bins].
        intervals: of each bin's accuracy; none are drawn where it is empty.
    """
    filled = counts > 0
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 4.0), layout="constrained")
        top, bottom = figure.subplots(2, sharex=True, height_ratios=(3, 1))
        top.plot((0, 1), (0, 1), "--", color=MUTED, linewidth=1, label="perfectly calibrated")
        top.bar(edges[:-1][filled], accuracy[filled], np.diff(edges)[filled], align="edge", color=BLUE, alpha=0.3)
        top.plot(
            mean_confidence[filled],
            accuracy[filled],
            "o",
            color=BLUE,
            markersize=4,
            clip_on=False,
            label="accuracy of the bin",
        )
        if intervals:
            low, high = np.asarray(intervals).T[:, filled]
            top.vlines(mean_confidence[filled], low, high, color=BLUE, linewidth=1.4)
        top.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.03), title=title)
        figure.legend(*top.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        bottom.bar(edges[:-1], counts, np.diff(edges), align="edge", color=MUTED, alpha=0.5)
        bottom.set(xlabel="confidence", ylabel="images")
        bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        for axes in (top, bottom):
            axes.grid(axis="y")
        for axis in (top.yaxis, bottom.xaxis):
            axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        return figure
