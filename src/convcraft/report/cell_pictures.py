"""The images behind each cell of the confusion matrix, as many with a picture as the page has room for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convcraft.evaluation.predictions import Predictions
from convcraft.evaluation.proper_scores import cross_entropies, labelled_targets
from convcraft.report.html import encoded
from convcraft.report.text import printable

PAGE_BYTES = 5_000_000  # of all pictures of images on a page, as they are written (base64)
NAMES_BYTES = 1_500_000  # of file names and figures
PICTURE_PIXELS = 112  # longest side in a cell
PICTURES_PER_CELL = 24
NAMES_PER_CELL = 60
MOST_PICTURES = 1_200  # each has to be decoded: seconds for photos on a disk
AT_ONCE = 64

Pixels = Callable[[NDArray[np.int64]], NDArray[np.uint8]]


@dataclass(frozen=True)
class CellImage:
    """One image of a cell. confidence: of the predicted class, 0..1. picture: its place among `Cells.pictures`, the id
    of an <img> that stands on the page already, or None."""

    name: str
    confidence: float
    picture: int | str | None


@dataclass(frozen=True)
class Cells:
    """Images by cell (true class, predicted class), worst loss first; pictures: files in base64 (PNG or JPEG).

    A cell may name fewer images than it holds: the confusion matrix has the counts.
    """

    images: dict[tuple[int, int], tuple[CellImage, ...]]
    pictures: tuple[str, ...]
    small: bool

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.pictures))


def cells_of(
    predictions: Predictions, pixels_of: Pixels, already: dict[int, str], budget_bytes: int = PAGE_BYTES
) -> Cells:
    """Pictures for the images of largest loss until the budget is spent; the others keep their names.

    Mistakes come first by themselves: a wrong image of K classes has a loss above log 2, most right ones less.

    Args:
        pixels_of: uint8 [n, H, W, C] of rows int64 [n].
        already: row -> id of the <img> on the page that shows it.
        budget_bytes: for base64.

    Raises:
        UserError: images without targets, or a file that can no longer be read.
    """
    targets, labels = labelled_targets(predictions), predictions.labels
    losses = cross_entropies(predictions.probabilities, targets)
    order = np.lexsort((np.arange(len(targets)), -losses, labels == targets))
    confidence = predictions.confidence
    members: dict[tuple[int, int], list[int]] = {}
    named_bytes = 0
    wanted: list[int] = []
    for row in order.tolist():
        own = members.setdefault((int(targets[row]), int(labels[row])), [])
        cost = len(predictions.names[row].encode("utf-8", "replace")) + 16
        if len(own) >= NAMES_PER_CELL or named_bytes + cost > NAMES_BYTES:
            continue
        if len(own) < PICTURES_PER_CELL and row not in already and len(wanted) < MOST_PICTURES:
            wanted.append(row)
        own.append(row)
        named_bytes += cost
    pictures, place, small = _pictures(wanted, pixels_of, budget_bytes)
    shown: dict[int, int | str] = {**place, **already}
    images = {
        cell: tuple(
            CellImage(printable(predictions.names[row]), float(confidence[row]), shown.get(row)) for row in rows
        )
        for cell, rows in members.items()
    }
    return Cells(images, tuple(pictures), small)


def _pictures(wanted: list[int], pixels_of: Pixels, budget_bytes: int) -> tuple[list[str], dict[int, int | str], bool]:
    """Files in base64, where each row's stands among them, and whether the images are small enough to be enlarged."""
    pictures: list[str] = []
    place: dict[int, int | str] = {}
    small, spent = True, 0
    for start in range(0, len(wanted), AT_ONCE):
        rows = wanted[start : start + AT_ONCE]
        for row, pixels in zip(rows, pixels_of(np.array(rows, np.int64)), strict=True):
            small = max(pixels.shape[:2]) <= PICTURE_PIXELS
            data = encoded(pixels, PICTURE_PIXELS)[1]
            if spent + len(data) > budget_bytes:
                return pictures, place, small
            place[row] = len(pictures)
            pictures.append(data)
            spent += len(data)
    return pictures, place, small
