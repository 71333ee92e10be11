"""What a kernel makes of an image: three heat maps side by side."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from convcraft.report.plots import STYLE

LARGEST_WRITTEN = 9  # rows or columns up to which each cell carries its number


def response_picture(
    image: NDArray[np.floating], kernel: NDArray[np.floating], response: NDArray[np.floating]
) -> Figure:
    """Image, kernel and response; purple is negative, orange positive, white 0, and small maps carry their numbers.

    Args:
        image: [H, W].
        kernel: [h, w].
        response: [H', W'], what the kernel made of the image.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 3.0), layout="constrained")
        parts = (("image", image), ("kernel", kernel), ("response", response))
        for axes, (title, values) in zip(figure.subplots(1, 3), parts, strict=True):
            _heat_map(figure, axes, title, values)
        return figure


def _heat_map(figure: Figure, axes: Axes, title: str, values: NDArray[np.floating]) -> None:
    reach = float(np.abs(values).max()) or 1.0
    height, width = values.shape
    shown = axes.imshow(values, cmap="PuOr_r", vmin=-reach, vmax=reach)
    axes.set_title(f"{title}, {height}x{width}")
    axes.set_xticks([])
    axes.set_yticks([])
    figure.colorbar(shown, ax=axes, shrink=0.75)
    if max(height, width) > LARGEST_WRITTEN:
        return
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if abs(value) > 0.6 * reach else "black"
        axes.text(column, row, f"{value:g}", ha="center", va="center", color=colour, fontsize=7)
