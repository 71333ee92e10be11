"""The same explanation as one picture: a row per image, a column per method."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from convcraft.errors import UserError
from convcraft.report.explanation_content import MADE_BY, ExplainedImage, ExplanationContent, laid_over_grey, overlay
from convcraft.report.plots import INK, MUTED, ORANGE, STYLE
from convcraft.report.text import shorten

CELL_INCHES = 1.75
CAPTION_INCHES = 0.42
LABEL_COLUMNS = 24
DOTS_PER_INCH = 150


def draw_sheet(content: ExplanationContent) -> Figure:
    """The grid, with a colour bar; methods whose check failed carry a warning over their column."""
    columns, rows = 1 + len(content.methods), len(content.images)
    width, height = CELL_INCHES * columns + 0.9, (CELL_INCHES + CAPTION_INCHES) * rows + 0.75
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(width, 4.8), height), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        figure.suptitle(shorten(content.title, int(16 * figure.get_figwidth() / 1.4)), fontsize=10)
        for axes_row, image in zip(grid, content.images, strict=True):
            _draw_row(axes_row, image)
        for axes, note in zip(grid[0, 1:], content.methods, strict=True):
            axes.set_title(f"{note.method}\n{note.warning}", color=ORANGE if note.warning else INK)
        bar = figure.colorbar(ScalarMappable(Normalize(0, 1), laid_over_grey()), ax=list(grid[:, -1]), shrink=0.8)
        bar.set_label("heat, of the map's largest", fontsize=7.5)
        bar.ax.tick_params(labelsize=7.5)
    return figure


def _draw_row(axes_row: list[Axes], image: ExplainedImage) -> None:
    first, *others = axes_row
    grey = image.pixels.shape[-1] == 1
    first.imshow(image.pixels[..., 0] if grey else image.pixels, cmap="gray", vmin=0, vmax=255)
    caption = f"{shorten(image.class_name, LABEL_COLUMNS)} {100 * image.probability:.1f} %"
    first.set_xlabel(f"{caption}\n{shorten(Path(image.name).name, LABEL_COLUMNS)}", fontsize=8)
    for axes, drawn in zip(others, image.heat_maps, strict=True):
        axes.imshow(overlay(image.pixels, drawn.heat))
        axes.set_xlabel(shorten(drawn.layer or "pixels", LABEL_COLUMNS), fontsize=7.5, color=MUTED)
    for axes in axes_row:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=False)


def write_sheet(path: Path, content: ExplanationContent) -> None:
    """Write the PNG with the mark by which a later call knows that it may be replaced.

    Raises:
        UserError: as `refuse_foreign_sheet`.
    """
    refuse_foreign_sheet(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_sheet(content).savefig(path, format="png", dpi=DOTS_PER_INCH, metadata={"Software": MADE_BY})


def refuse_foreign_sheet(path: Path) -> None:
    """Raises UserError where path holds anything but an earlier sheet of ours."""
    if not path.exists():
        return
    try:
        with Image.open(path) as picture:
            ours = picture.format == "PNG" and picture.info.get("Software") == MADE_BY
    except (OSError, ValueError, SyntaxError):
        ours = False
    if not ours:
        fix = "Choose another --out; nothing was overwritten."
        raise UserError(f"{path}, which {MADE_BY} did not write", "a new name or an earlier sheet", fix)
