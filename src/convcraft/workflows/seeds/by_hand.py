"""Seed 002, extended: convolution by hand beside torch's, its formula beside its code, and the pictures it promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from convcraft.config import DataConfig
from convcraft.data.named import NAMED_SETS, read_digits, search_places
from convcraft.data.sample import Source
from convcraft.errors import UserError
from convcraft.report.seed_pictures import response_picture
from convcraft.workflows.seeds.convolution_by_hand import conv2d, written_formula
from convcraft.workflows.seeds.seed_002 import written_conv2d

# The article names no kernels but their sizes, 3x3 and 5x5; these are classic ones of those sizes.
EDGES = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=np.float64)  # Sobel: left to right, dark to bright
BLOB = np.array(  # Laplacian of Gaussian: bright spots
    [[0, 0, -1, 0, 0], [0, -1, -2, -1, 0], [-1, -2, 16, -2, -1], [0, -1, -2, -1, 0], [0, 0, -1, 0, 0]], dtype=np.float64
)
MATRIX = np.array(  # a bright square on dark ground: every response can be worked out on paper
    [[0, 0, 0, 0, 0, 0, 0]] + [[0, 0, 1, 1, 1, 0, 0]] * 3 + [[0, 0, 0, 0, 0, 0, 0]] * 3, dtype=np.float64
)
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"stride": 2},
    {"padding": 1},
    {"dilation": 2},
    {"groups": 2},
    {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2},
)


def demonstrate(out: Path, data_dir: str | None) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """Compare and draw; returns the facts and the pictures' files."""
    rng = np.random.default_rng(0)
    image, kernel = rng.standard_normal((28, 28)), rng.standard_normal((3, 3))
    written, formula = written_conv2d(image, kernel), written_formula(image, kernel)
    facts: dict[str, Any] = {
        "as written against torch": _gap(written, _torch_conv2d(image[None, None], kernel[None, None])[0, 0]),
        "as written against its formula": _gap(written, formula),
        "as written with the kernel turned by 180 degrees against its formula": _gap(
            written_conv2d(image, kernel[::-1, ::-1]), formula
        ),
    }
    for settings in SETTINGS:
        facts[f"extended against torch: {_words(settings)}"] = _compare(rng, settings)
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


def _compare(rng: np.random.Generator, settings: dict[str, Any]) -> float:
    """Largest difference to torch on a batch of 2 images with 4 channels and 6 kernels."""
    images, bias = rng.standard_normal((2, 4, 13, 12)), rng.standard_normal(6)
    kernels = rng.standard_normal((6, 4 // settings.get("groups", 1), 3, 3))
    return _gap(conv2d(images, kernels, bias, **settings), _torch_conv2d(images, kernels, bias, **settings))


def _torch_conv2d(images: Any, kernels: Any, bias: Any = None, **settings: Any) -> NDArray[np.float64]:
    shift = None if bias is None else torch.from_numpy(bias)
    result: NDArray[np.float64] = torch.conv2d(
        torch.from_numpy(images), torch.from_numpy(kernels), shift, **settings
    ).numpy()
    return result


def _gap(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    assert left.shape == right.shape
    return float(np.abs(left - right).max())


def _words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "plain"


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
