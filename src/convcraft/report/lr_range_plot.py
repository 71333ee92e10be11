"""The curve of a learning-rate range test: loss over rate, with the two usual readings of it."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from convcraft.report.plots import BLUE, INK, MUTED, ORANGE, STYLE


def lr_range_plot(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], steepest: float, suggestion: float
) -> Figure:
    """Loss of every step (dots) and smoothed (line) over the rate, both marked rates as vertical lines.

    Args:
        rates, losses, smoothed: one entry per step, rates rising.
        steepest, suggestion: learning rates.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.4), layout="constrained")
        axes = figure.add_subplot(
            title="Learning-rate range test", xlabel="learning rate (logarithmic)", ylabel="loss of a step"
        )
        axes.set_xscale("log")
        axes.plot(rates, losses, "o", color=MUTED, markersize=2.2, label="each step")
        axes.plot(rates, smoothed, "-", color=BLUE, linewidth=1.6, label="smoothed")
        axes.axvline(steepest, color=ORANGE, linestyle="--", linewidth=1.2, label=f"steepest fall {steepest:.2g}")
        axes.axvline(suggestion, color=INK, linestyle=":", linewidth=1.4, label=f"minimum / 10 {suggestion:.2g}")
        low, high = min(smoothed), max(smoothed)  # single steps may lie far above, where the loss blew up
        margin = 0.08 * (high - low) or 0.1
        axes.set_ylim(low - margin, high + margin)
        axes.grid(axis="y")
        axes.legend(loc="best")
        return figure
