"""Pictures that a command was given: files, folders, standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convcraft.data.folder import is_image_name
from convcraft.data.images import BadImage
from convcraft.data.natural_sort import natural_key
from convcraft.data.preprocess import ImageLike, Preprocess
from convcraft.errors import UserError

STDIN = "-"


def open_pictures(images: Sequence[str]) -> list[tuple[str, Path | bytes]]:
    """Names with what to decode; folders become their images in natural order."""
    found: list[tuple[str, Path | bytes]] = []
    for name in images:
        path = Path(name)
        if name == STDIN:
            found.append(("standard input", sys.stdin.buffer.read()))
        elif os.path.isdir(path):  # noqa: PTH112  (Path.is_dir raises where a name is too long)
            inside = [file for file in path.rglob("*") if _is_picture(file, path)]
            if not inside:
                raise UserError(
                    f"folder {_shown(name)} holds no images", "a folder with pictures in it", "Check the path."
                )
            inside.sort(key=lambda file: natural_key(file.as_posix()))
            found += [(_shown(str(file)), file) for file in inside]
        elif os.path.exists(path):  # noqa: PTH110  (Path.exists raises where a name is too long)
            found.append((_shown(name), path))
        else:
            raise UserError(f"no file {_shown(name)}", "a picture, a folder of pictures or -", "Check the path.")
    return found


def _shown(name: str) -> str:
    """A file's name as it can be printed and saved: bytes that are no UTF-8 become the sign for what is unknown."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _is_picture(file: Path, top: Path) -> bool:
    """Whether a file below a folder is meant: an image by its ending, and nothing hidden (.thumbnails, ._1.png)."""
    hidden = any(part.startswith(".") for part in file.relative_to(top).parts)
    return not hidden and is_image_name(file.name) and file.is_file()


def read_pictures(
    named: Sequence[tuple[str, ImageLike]], preprocess: Preprocess
) -> tuple[NDArray[np.uint8], list[str | None]]:
    """The contract's pixels uint8 [B, H, W, C] of the readable ones, and each one's problem or None."""
    pixels: list[NDArray[np.uint8]] = []
    problems: list[str | None] = []
    for _, image in named:
        try:
            pixels.append(preprocess.pixels(image))
            problems.append(None)
        except BadImage as error:
            problems.append(str(error))
    shape = (0, preprocess.height, preprocess.width, preprocess.channels)
    return (np.stack(pixels) if pixels else np.zeros(shape, np.uint8)), problems
