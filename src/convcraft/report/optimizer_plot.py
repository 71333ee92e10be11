"""Paths of optimisers over loss surfaces of two weights: a small map for each, and the loss by step for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from convcraft.report.plots import BLUE, INK, MUTED, ORANGE, STYLE

# Blue and orange are the report's; green, purple, ochre and ink stay apart from them and each other for colour-blind
# readers (after Okabe & Ito), and every line has its own dashes and stands in a map of its own.
LINES = (
    (MUTED, "-"),
    (BLUE, "-"),
    ("#2a9fd6", (0, (5, 1.5))),
    ("#00795c", (0, (1, 1))),
    (ORANGE, "-"),
    ("#8a4b9e", (0, (4, 1.5, 1, 1.5))),
)
MARK_EVERY = 10  # steps
NUM_LEVELS = 14
KEY = "■ start    ● every step    ○ every tenth step    ★ least loss    lines: equal loss"


@dataclass(frozen=True)
class OptimizerPath:
    """name and settings as they are to be read; path float64 [steps + 1, 2], losses float64 [steps + 1]."""

    name: str
    settings: str
    path: NDArray[np.float64]
    losses: NDArray[np.float64]


@dataclass(frozen=True)
class SurfaceMap:
    """A loss over a grid: x [columns], y [rows], loss [rows, columns]; where it is least; and the paths upon it."""

    title: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    loss: NDArray[np.float64]
    minimum: tuple[float, float]
    paths: Sequence[OptimizerPath]


def optimizer_plot(maps: Sequence[SurfaceMap]) -> Figure:
    """One block per surface: on the left a map for each optimiser (at most six), on the right their losses by step."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.5, 5.0 * len(maps)), layout=ConstrainedLayoutEngine(rect=(0, 0.018, 1, 0.982)))
        blocks = figure.subfigures(len(maps), 1, squeeze=False, hspace=0.04)[:, 0]
        for block, surface in zip(blocks, maps, strict=True):
            block.suptitle(surface.title, x=0.01, ha="left", fontsize=11, fontweight="bold")
            left, right = block.subfigures(1, 2, width_ratios=(2.05, 1))
            _draw_maps(left, surface)
            _draw_losses(right, surface)
        figure.text(0.01, 0.003, KEY, fontsize=8, color=MUTED)
        return figure


def _draw_maps(area: SubFigure, surface: SurfaceMap) -> None:
    panels = area.subplots(2, 3, sharex=True, sharey=True).ravel()
    levels = np.geomspace(
        max(float(surface.loss.min()), float(surface.loss.max()) * 2e-5), surface.loss.max(), NUM_LEVELS
    )
    for panel, path, (colour, _) in zip(panels, surface.paths, LINES, strict=False):
        panel.contour(surface.x, surface.y, surface.loss, levels=levels, colors=MUTED, linewidths=0.5, alpha=0.45)
        _draw_path(panel, path, colour)
        panel.plot(
            *surface.minimum, "*", color=INK, markersize=9, markeredgecolor="white", markeredgewidth=0.6, zorder=5
        )
        panel.set_title(path.name, color=colour, fontweight="bold")
        ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
        where = {"transform": panel.transAxes, "ha": "right", "fontsize": 7.5, "color": MUTED, "bbox": ground}
        panel.text(0.98, 0.04, path.settings, **where)
        panel.set(xlim=(surface.x[0], surface.x[-1]), ylim=(surface.y[0], surface.y[-1]))
        panel.tick_params(labelsize=7.5)
    for panel in panels[len(surface.paths) :]:
        panel.set_visible(False)
    for panel in panels[3:]:
        panel.set_xlabel("x")
    for panel in panels[::3]:
        panel.set_ylabel("y")


def _draw_path(panel: Axes, path: OptimizerPath, colour: str) -> None:
    """A line, a point at every step, a ring at every tenth."""
    x, y = path.path.T
    panel.plot(x, y, "-", color=colour, linewidth=1.1, zorder=3)
    panel.plot(x, y, "o", color=colour, markersize=1.8, zorder=3)
    tens = slice(MARK_EVERY, None, MARK_EVERY)
    panel.plot(x[tens], y[tens], "o", markersize=4, markerfacecolor="white", markeredgecolor=colour, zorder=4)
    panel.plot(x[0], y[0], "s", color=INK, markersize=4, zorder=5)


def _draw_losses(area: SubFigure, surface: SurfaceMap) -> None:
    axes = area.subplots()
    axes.set_yscale("log")
    for path, (colour, dashes) in zip(surface.paths, LINES, strict=False):
        axes.plot(path.losses, color=colour, linestyle=dashes, linewidth=1.7, label=path.name)
    smallest = min(float(path.losses.min()) for path in surface.paths)
    axes.set_ylim(bottom=max(smallest, 1e-7))
    axes.set(title="loss by step", xlabel="step")
    axes.yaxis.set_major_locator(LogLocator(numticks=9))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y")
    area.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=3, fontsize=8.5, handlelength=3)
