"""Figures of robustness, from plain arrays: by corruption and severity, over a range; and what images become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from convcraft.data.corruptions import NAMES, check_pixels, corrupt
from convcraft.errors import UserError
from convcraft.report.plots import BLUE, INK, LABEL_COLUMNS, MUTED, ORANGE, RULE, STYLE
from convcraft.report.text import shorten

# One look per line: blue first, then orange, then grey; marks differ too.
LOOKS = ((BLUE, "o", "-"), (ORANGE, "D", "-"), (MUTED, "s", "--"), (INK, "^", ":"))
SHEET_COLUMNS = 4
Interval = tuple[float, float]


def corruption_table(
    names: Sequence[str], severities: Sequence[int], accuracy: NDArray[np.float64], clean: float
) -> Figure:
    """A row per corruption, a column per severity, the mean of each row at the end, in percent.

    The colour is what is lost of the clean accuracy: none where nothing is, full orange where all of it is.

    Args:
        names: of the rows; the worst comes first.
        accuracy: float64 [rows, severities], 0..1.
        clean: accuracy on the images as they are.
    """
    if accuracy.shape != (len(names), len(severities)):
        received = f"accuracies {list(accuracy.shape)}"
        raise UserError(received, f"[{len(names)}, {len(severities)}]", "One row per name, one column per severity.")
    order = np.argsort(accuracy.mean(axis=1), kind="stable")
    cells = np.column_stack([accuracy, accuracy.mean(axis=1)])[order]
    lost = np.clip(1 - cells / clean, 0, 1) if clean > 0 else np.zeros_like(cells)
    rows, columns = cells.shape
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 1.1 + 0.25 * rows), layout="constrained")
        title = f"Accuracy in %, {100 * clean:.1f} on clean images"
        axes = figure.add_subplot(title=title, xlabel="severity")
        colours = np.broadcast_to(matplotlib.colors.to_rgb(ORANGE), (*cells.shape, 3))
        axes.imshow(np.concatenate([colours, lost[..., None]], axis=-1), interpolation="none", aspect="auto")
        for row, column in np.ndindex(cells.shape):
            colour = "#ffffff" if lost[row, column] > 0.6 else INK
            text = f"{100 * cells[row, column]:.1f}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
        axes.hlines(np.arange(rows + 1) - 0.5, -0.5, columns - 0.5, color=RULE, linewidth=0.6)
        axes.vlines(columns - 1.5, -0.5, rows - 0.5, color=MUTED, linewidth=0.8)
        axes.set_xticks(range(columns), [*map(str, severities), "mean"])
        axes.set_yticks(range(rows), [shorten(_spoken(names[row]), LABEL_COLUMNS + 2) for row in order])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return figure


def accuracy_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[Interval]]],
    xlabel: str,
    title: str = "",
    chance: float | None = None,
) -> Figure:
    """Accuracy over what is changed (an angle, a shift, an epsilon), a line per entry, 95 % intervals as bands.

    Args:
        curves: up to four; values, accuracies and intervals by name ("pgd").
        chance: accuracy of guessing, drawn as a thin line.
    """
    if not 0 < len(curves) <= len(LOOKS):
        raise UserError(f"{len(curves)} curves", f"1 to {len(LOOKS)}", "Draw more figures.")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 2.9), layout="constrained")
        axes = figure.add_subplot(title=title, xlabel=xlabel, ylabel="accuracy", ylim=(0, 1.03))
        if chance is not None:
            axes.axhline(chance, color=RULE, linewidth=1.2, zorder=0)
        for (name, (values, accuracy, intervals)), (colour, mark, line) in zip(curves.items(), LOOKS, strict=False):
            low, high = np.asarray(intervals).T
            axes.fill_between(values, low, high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(values, accuracy, line, color=colour, marker=mark, markersize=3.6, linewidth=1.5, label=name)
        axes.xaxis.set_major_locator(MaxNLocator(7))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.grid(axis="y")
        if len(curves) > 1:
            axes.legend(loc="best")
        return figure


def corruption_sheet(image: NDArray[np.uint8], severity: int = 3, seed: int = 0) -> Figure:
    """The image as it is, and under each of the fifteen corruptions.

    Args:
        image: uint8 [H, W, C].
    """
    check_pixels(image[None])
    shown = {"clean": image, **{name: corrupt(image[None], name, severity, seed)[0] for name in NAMES}}
    rows = -(-len(shown) // SHEET_COLUMNS)
    height = 1.5 * image.shape[0] / image.shape[1] + 0.22
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.5 * SHEET_COLUMNS + 0.2, height * rows + 0.2), layout="constrained")
        grid = figure.subplots(rows, SHEET_COLUMNS, squeeze=False)
        for axes, (name, pixels) in zip(grid.ravel(), shown.items(), strict=False):
            grey = pixels.shape[2] == 1
            smooth = "none" if max(pixels.shape[:2]) <= 64 else "antialiased"
            axes.imshow(pixels[..., 0] if grey else pixels, cmap="gray", vmin=0, vmax=255, interpolation=smooth)
            axes.set_title(_spoken(name), fontsize=8, pad=2)
        for axes in grid.ravel():
            axes.set_axis_off()
        return figure


def _spoken(name: str) -> str:
    return name.replace("_", " ").replace("jpeg", "JPEG")
