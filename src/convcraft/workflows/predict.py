"""`convcraft predict`: pictures in, class names and probabilities out."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from convcraft.data.folder import is_image_name
from convcraft.data.images import BadImage
from convcraft.data.natural_sort import natural_key
from convcraft.data.preprocess import Preprocess
from convcraft.errors import UserError
from convcraft.evaluation.probabilities import probabilities_of
from convcraft.training.devices import accelerator_of
from convcraft.training.run_folder import read_run
from convcraft.workflows.load_model import load_model

BATCH_SIZE = 64
STDIN = "-"


@dataclass(frozen=True)
class ImagePrediction:
    """The answer for one picture: classes by falling probability, or why the picture could not be read."""

    image: str
    ranking: tuple[tuple[str, float], ...]  # (class, probability); empty with a problem
    problem: str | None = None

    def to_dict(self, top: int) -> dict[str, Any]:
        if self.problem is not None:
            return {"image": self.image, "problem": self.problem}
        label, probability = self.ranking[0]
        shown = dict(self.ranking[:top])
        return {"image": self.image, "label": label, "probability": probability, "probabilities": shown}


def predict(run: Path, images: Sequence[str], *, device: str = "auto") -> list[ImagePrediction]:
    """Classify pictures with a run's result weights, on the pixels that the run was judged on.

    Args:
        images: files, folders (all images below them) or "-" for one encoded picture on standard input.

    Raises:
        UserError: no such run or file, a folder without images, or not one readable picture.
    """
    description = read_run(run)
    named = _open_all(images)
    model, _ = load_model(description)
    place = accelerator_of(device)
    model.to(place)
    answers: list[ImagePrediction] = []
    for start in range(0, len(named), BATCH_SIZE):
        part = named[start : start + BATCH_SIZE]
        pixels, problems = _read(part, description.preprocess)
        probabilities = np.zeros((0, len(description.classes)), np.float32)
        if len(pixels):
            with torch.inference_mode():
                logits = model(torch.from_numpy(description.preprocess.normalise(pixels)).to(place))
            probabilities = probabilities_of(logits.float().cpu().numpy(), description.config.training.loss)
        rows = iter(probabilities)
        for (name, _), problem in zip(part, problems, strict=True):
            ranking = () if problem is not None else _rank(next(rows), description.classes)
            answers.append(ImagePrediction(name, ranking, problem))
    if all(answer.problem is not None for answer in answers):
        first = answers[0]
        fix = "Open it in a picture viewer to see what it is."
        raise UserError(f"{first.image}: {first.problem}", "a picture that can be decoded", fix)
    return answers


def _open_all(images: Sequence[str]) -> list[tuple[str, Path | bytes]]:
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


def _read(
    named: Sequence[tuple[str, Path | bytes]], preprocess: Preprocess
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


def _rank(probabilities: NDArray[np.float32], classes: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-probabilities, kind="stable")
    return tuple((classes[index], float(probabilities[index])) for index in order)
