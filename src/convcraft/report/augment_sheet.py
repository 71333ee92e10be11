"""One picture of what random changes make of a few images: a row per kind, a column per image."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from convcraft.errors import UserError
from convcraft.report.text import shorten

INK, MUTED, RULE, PAGE = "#1c2025", "#626a73", "#d9dce0", "#ffffff"
CELL_PIXELS, LARGEST_CELL_PIXELS = 96, 144  # small images are enlarged to the first, photos reduced to the second
MARGIN, GAP, TITLE_PIXELS = 24, 8, 232
HEADING_PIXELS, LINE_PIXELS, CAPTION_PIXELS = 48, 16, 14
MADE_BY = "convcraft doctor"


@dataclass(frozen=True)
class SheetRow:
    """One row.

    title, setting: what the row shows, and the settings that made it.
    images: uint8 [N, H, W, C].
    captions: up to two lines under each image (mixed labels), or none.
    is_on: whether the configuration has it on; the others are drawn with a pale title.
    """

    title: str
    setting: str
    images: NDArray[np.uint8]
    captions: tuple[tuple[str, ...], ...] = field(default=())
    is_on: bool = True


def draw_sheet(heading: str, columns: Sequence[str], rows: Sequence[SheetRow]) -> Image.Image:
    """The sheet: RGB, as large as its rows need.

    Args:
        columns: a name over each column (the class of its image).
        rows: at least one; all with as many images of one size as there are columns.
    """
    cell_height, cell_width = _cell_size(*rows[0].images.shape[1:3])
    width = 2 * MARGIN + TITLE_PIXELS + len(columns) * (cell_width + GAP)
    top = MARGIN + HEADING_PIXELS
    tops = [top]
    for row in rows:
        tops.append(tops[-1] + cell_height + GAP + (2 * CAPTION_PIXELS + 4 if row.captions else 0))
    sheet = Image.new("RGB", (width, tops[-1] + MARGIN - GAP), PAGE)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN - 4), _readable(heading, width // 9), INK, _font(17))
    for column, name in enumerate(columns):
        where = (_left(column, cell_width) + cell_width / 2, top - 6)
        pen.text(where, _readable(name, cell_width // 8), MUTED, _font(13), anchor="ms")
    for row, row_top in zip(rows, tops, strict=False):
        _draw_row(sheet, pen, row, row_top, (cell_width, cell_height))
    return sheet


def _draw_row(sheet: Image.Image, pen: ImageDraw.ImageDraw, row: SheetRow, top: int, cell: tuple[int, int]) -> None:
    lines = textwrap.wrap(row.setting, 32)[:4]
    middle = top + (cell[1] - LINE_PIXELS * len(lines)) / 2  # title above, settings below, centred together
    pen.text((MARGIN, middle), row.title, INK if row.is_on else MUTED, _font(16), anchor="lm")
    for number, line in enumerate(lines, start=1):
        pen.text((MARGIN, middle + 4 + LINE_PIXELS * number), line, MUTED, _font(13), anchor="lm")
    for column, pixels in enumerate(row.images):
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
        filter_ = Image.Resampling.NEAREST if cell[0] >= picture.width else Image.Resampling.LANCZOS
        left = _left(column, cell[0])
        sheet.paste(picture.resize(cell, filter_), (left, top))
        for number, line in enumerate(row.captions[column] if row.captions else (), start=1):
            where = (left + cell[0] / 2, top + cell[1] + CAPTION_PIXELS * number - 1)
            pen.text(where, _readable(line, cell[0] // 7), MUTED, _font(12), anchor="ms")


def _left(column: int, cell_width: int) -> int:
    return MARGIN + TITLE_PIXELS + column * (cell_width + GAP)


def _cell_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of a cell: a whole multiple of a small image, a photo at most 144 pixels."""
    longer = max(height, width)
    if longer > LARGEST_CELL_PIXELS:
        scale = LARGEST_CELL_PIXELS / longer
        return max(1, round(height * scale)), max(1, round(width * scale))
    factor = max(1, -(-CELL_PIXELS // longer))
    return height * factor, width * factor


def _readable(text: str, columns: int) -> str:
    """What the built-in font has letters for: other scripts become one dot per sign."""
    return shorten("".join(sign if sign.isascii() or sign in "…±×·" else "·" for sign in text), columns)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


# --- as a file ---


def refuse_foreign_file(path: Path) -> None:
    """Raises UserError unless path is free, or holds an earlier sheet that may be replaced."""
    if path.suffix.lower() != ".png":
        raise UserError(f"--out {path}", "a file name that ends in .png", "Name it doctor-preview.png.")
    if not path.exists():
        return
    fix = "Choose another --out; nothing was overwritten."
    try:
        with Image.open(path) as picture:
            ours = picture.format == "PNG" and picture.info.get("Software") == MADE_BY
    except (OSError, ValueError, SyntaxError):
        ours = False
    if not ours:
        raise UserError(f"{path} exists and is no sheet of ours", "a free name, or an earlier sheet", fix)


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write the PNG with the mark by which a later call knows that it may be replaced."""
    note = PngInfo()
    note.add_text("Software", MADE_BY)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG", pnginfo=note)
