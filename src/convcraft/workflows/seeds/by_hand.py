"""Seed 002, extended: convolution by hand beside the frameworks', its formula beside its code, and its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.config import DataConfig
from convcraft.data.named import NAMED_SETS, read_digits, search_places
from convcraft.data.sample import Source
from convcraft.errors import UserError
from convcraft.report.seed_pictures import response_picture
from convcraft.scratch.convolution import true_convolution
from convcraft.workflows.seeds.convolution_formula import written_formula
from convcraft.workflows.seeds.frameworks import FRAMEWORKS, SETTINGS, compare, gap, installed, words
from convcraft.workflows.seeds.seed_002 import written_conv2d

# The article names no kernels but their sizes, 3x3 and 5x5; these are classic ones of those sizes.
EDGES = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=np.float64)  # Sobel: left to right, dark to bright
BLOB = np.array(  # Laplacian of Gaussian: bright spots
    [[0, 0, -1, 0, 0], [0, -1, -2, -1, 0], [-1, -2, 16, -2, -1], [0, -1, -2, -1, 0], [0, 0, -1, 0, 0]], dtype=np.float64
)
MATRIX = np.array(  # a bright square on dark ground: every response can be worked out on paper
    [[0, 0, 0, 0, 0, 0, 0]] + [[0, 0, 1, 1, 1, 0, 0]] * 3 + [[0, 0, 0, 0, 0, 0, 0]] * 3, dtype=np.float64
)


def demonstrate(out: Path, data_dir: str | None) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """Compare and draw; returns the facts and the pictures' files."""
    rng = np.random.default_rng(0)
    image, kernel = rng.standard_normal((28, 28)), rng.standard_normal((3, 3))
    written, formula = written_conv2d(image, kernel), written_formula(image, kernel)
    facts: dict[str, Any] = {
        "as written against its formula": gap(written, formula),
        "as written with the kernel turned by 180 degrees against its formula": gap(
            written_conv2d(image, kernel[::-1, ::-1]), formula
        ),
        "the engine's true convolution against the formula": gap(
            true_convolution(image[None], kernel[None, None])[0], formula
        ),
    }
    here = installed()
    for name, convolution in here.items():
        theirs = convolution(image[None, None], kernel[None, None])
        assert theirs is not None
        facts[f"as written against {name}"] = gap(written, theirs[0, 0])
    for settings in SETTINGS:
        facts |= {
            f"extended against {name}: {words(settings)}": found
            for name, convolution in here.items()
            if (found := compare(convolution, settings)) is not None
        }
    missing = [name for name in FRAMEWORKS if name not in here]
    if missing:
        facts["not installed, so not compared"] = ", ".join(missing)
    digit, origin = _real_digit(data_dir)
    facts["digit in the pictures"] = origin
    files = []
    for name, pixels, taps in (
        ("matrix-3x3", MATRIX, EDGES),
        ("matrix-5x5", MATRIX, BLOB),
        ("digit-3x3", digit, EDGES),
        ("digit-5x5", digit, BLOB),
    ):
        path = out / f"{name}.png"
        response_picture(pixels, taps, written_conv2d(pixels, taps)).savefig(path, dpi=150)
        files.append(path)
    return facts, tuple(files)


def _real_digit(data_dir: str | None) -> tuple[NDArray[np.float64], str]:
    """A scanned digit, 0..1: MNIST's first training image where MNIST lies on this machine, else scikit-learn's."""
    source = _mnist_here(data_dir)
    name = "MNIST" if source is not None else "scikit-learn's digits"
    source = source or read_digits()
    sample = next(iter(source.splits.values()))[0]
    pixels = np.asarray(sample.image, dtype=np.float64) / 255
    return pixels, f"{name}: a {source.classes[sample.target]} of {pixels.shape[0]}x{pixels.shape[1]} pixels"


def _mnist_here(data_dir: str | None) -> Source | None:
    """MNIST where it lies on this machine; a picture is not worth a download."""
    config, named = DataConfig(source="mnist", data_dir=data_dir), NAMED_SETS["mnist"]
    for place in search_places("mnist", config):
        try:
            source = named.read(place, config, None) if place.is_dir() else None
        except UserError:
            continue
        if source is not None:
            return source
    return None
