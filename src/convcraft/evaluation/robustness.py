"""How accuracy falls as images get worse: the fifteen corruptions, and turned, shifted, zoomed and mirrored images.

Intervals of single figures are Wilson's, of 95 %; that of a mean over corruptions is a bootstrap over the images, as
the same images stand behind all of its parts. Attacks have a module of their own (`attack_curves`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.data.corruptions import NAMES, SEVERITIES, corrupt
from convcraft.data.sample import Progress
from convcraft.errors import UserError
from convcraft.evaluation.judged_images import JudgedImages
from convcraft.evaluation.moves import mirrored, rotated, scaled, shifted
from convcraft.evaluation.predict_function import Pixels, Predict, is_right
from convcraft.statistics import bootstrap_interval, paired_difference_interval, wilson_interval

CHUNK_BYTES = 64 << 20  # of changed pixels held at a time
ROTATION_DEGREES = tuple(range(-90, 91, 10))
SHIFT_SHARES = (-0.4, -0.3, -0.2, -0.15, -0.1, -0.05, 0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
SCALE_FACTORS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 1.75, 2.0)


@dataclass(frozen=True)
class Point:
    """Accuracy at one value of what is changed (a severity, an angle, an epsilon)."""

    value: float
    num_correct: int
    num_images: int

    @classmethod
    def of(cls, value: float, right: NDArray[np.bool_]) -> Point:
        return cls(value, int(right.sum()), len(right))

    @property
    def accuracy(self) -> float:
        return self.num_correct / self.num_images

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.num_correct, self.num_images)

    def to_dict(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "num_correct": self.num_correct,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
        }


@dataclass(frozen=True)
class Curve:
    """Accuracy over a range of values, all on the same images. unit: of the values."""

    name: str
    unit: str
    points: tuple[Point, ...]
    num_images: int
    num_available: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "num_images": self.num_images,
            "num_available": self.num_available,
            "points": [point.to_dict() for point in self.points],
        }


@dataclass(frozen=True)
class CorruptionReport:
    """Accuracy on corrupted images.

    by_corruption: for each name, a point per severity.
    mean_accuracy: over all corruptions and severities; mean_interval: bootstrap over the images.
    No mean corruption error as in the paper: it divides by AlexNet's errors on ImageNet, which other data do not have.
    """

    clean: Point
    by_corruption: dict[str, tuple[Point, ...]]
    mean_accuracy: float
    mean_interval: tuple[float, float]
    num_images: int
    num_available: int
    seed: int

    @property
    def relative_drop(self) -> float | None:
        """Share of the clean accuracy that corruption takes on average; None where there is none to take."""
        return 1 - self.mean_accuracy / self.clean.accuracy if self.clean.num_correct else None

    def mean_of(self, name: str) -> float:
        """Mean accuracy of one corruption over its severities."""
        return float(np.mean([point.accuracy for point in self.by_corruption[name]]))

    @property
    def worst(self) -> str:
        """The corruption with the least mean accuracy; of equals the first."""
        return min(self.by_corruption, key=self.mean_of)

    def to_dict(self) -> dict[str, Any]:
        return {
            "num_images": self.num_images,
            "num_available": self.num_available,
            "seed": self.seed,
            "clean": self.clean.to_dict(),
            "mean_accuracy": self.mean_accuracy,
            "mean_interval": list(self.mean_interval),
            "relative_drop": self.relative_drop,
            "worst": self.worst,
            "by_corruption": {
                name: {"mean_accuracy": self.mean_of(name), "severities": [point.to_dict() for point in points]}
                for name, points in self.by_corruption.items()
            },
        }


def corruption_report(
    predict: Predict,
    images: JudgedImages,
    *,
    names: Sequence[str] = NAMES,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    progress: Progress | None = None,
) -> CorruptionReport:
    """Accuracy under each corruption and severity.

    Args:
        predict: uint8 [N, H, W, C] to probabilities [N, K].
        names, severities: of `data.corruptions`; all where not given.
        seed: of the corruptions' random numbers.
        progress: called after each corruption and severity.
    """
    if not len(names) or not len(severities):
        raise UserError("no corruption", "at least one name and one severity", "Leave them out to take all.")
    cells = [(name, severity) for name in names for severity in severities]
    found: dict[str, list[Point]] = {name: [] for name in names}
    share_right = np.zeros(len(images))  # of each image's corrupted versions
    clean = Point.of(0, _right_after(predict, images, lambda pixels, ids: pixels))
    for done, (name, severity) in enumerate(cells, start=1):
        right = _right_after(predict, images, lambda x, ids, n=name, s=severity: corrupt(x, n, s, seed, ids))  # type: ignore[misc]
        found[name].append(Point.of(severity, right))
        share_right += right / len(cells)
        if progress is not None:
            progress(done, len(cells), "corrupted images")
    return CorruptionReport(
        clean=clean,
        by_corruption={name: tuple(points) for name, points in found.items()},
        mean_accuracy=float(share_right.mean()),
        mean_interval=bootstrap_interval(lambda chosen: float(share_right[chosen].mean()), len(images)),
        num_images=len(images),
        num_available=images.num_available,
        seed=seed,
    )


def _right_after(
    predict: Predict, images: JudgedImages, change: Callable[[Pixels, NDArray[np.int64]], Pixels]
) -> NDArray[np.bool_]:
    """Which images are named right after a change, bool [N]; changed and predicted part by part."""
    size = max(1, CHUNK_BYTES // images.pixels[0].size)
    parts = [slice(start, start + size) for start in range(0, len(images), size)]
    changed = (change(images.pixels[part], images.ids[part]) for part in parts)
    return np.concatenate(
        [is_right(predict, pixels, images.targets[part]) for part, pixels in zip(parts, changed, strict=True)]
    )


def _curve(
    predict: Predict,
    images: JudgedImages,
    name: str,
    unit: str,
    values: Sequence[float],
    change: Callable[[Pixels, float], Pixels],
    progress: Progress | None,
) -> Curve:
    points = []
    for done, value in enumerate(values, start=1):
        right = _right_after(predict, images, lambda pixels, ids, v=value: change(pixels, v))  # type: ignore[misc]
        points.append(Point.of(value, right))
        if progress is not None:
            progress(done, len(values), name)
    return Curve(name, unit, tuple(points), len(images), images.num_available)


def rotation_curve(
    predict: Predict,
    images: JudgedImages,
    degrees: Sequence[float] = ROTATION_DEGREES,
    fill: str = "edge",
    progress: Progress | None = None,
) -> Curve:
    """Accuracy of turned images, counter-clockwise. fill: of the corners, see `moves`."""
    return _curve(predict, images, "rotation", "degrees", degrees, lambda x, v: rotated(x, v, fill), progress)


def shift_curve(
    predict: Predict,
    images: JudgedImages,
    axis: str,
    shares: Sequence[float] = SHIFT_SHARES,
    fill: str = "edge",
    progress: Progress | None = None,
) -> Curve:
    """Accuracy of images moved right (axis "x") or down ("y") by shares of their size, to the nearest whole pixel."""
    if axis not in ("x", "y"):
        raise UserError(f"axis {axis!r}", "x or y", "x moves to the right, y downwards.")
    size = images.pixels.shape[2 if axis == "x" else 1]

    def moved(pixels: Pixels, share: float) -> Pixels:
        by = round(share * size)
        return shifted(pixels, 0, by, fill) if axis == "x" else shifted(pixels, by, 0, fill)

    return _curve(predict, images, f"shift_{axis}", "share of the size", shares, moved, progress)


def scale_curve(
    predict: Predict,
    images: JudgedImages,
    factors: Sequence[float] = SCALE_FACTORS,
    fill: str = "edge",
    progress: Progress | None = None,
) -> Curve:
    """Accuracy of images whose content is enlarged (above 1) or made smaller."""
    return _curve(predict, images, "scale", "factor", factors, lambda x, v: scaled(x, v, fill), progress)


@dataclass(frozen=True)
class FlipReport:
    """Accuracy as the images are, and mirrored; difference (mirrored minus plain) with its paired interval."""

    plain: Point
    mirrored: Point
    difference: float
    interval: tuple[float, float]
    num_available: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "num_images": self.plain.num_images,
            "num_available": self.num_available,
            "plain": self.plain.to_dict(),
            "mirrored": self.mirrored.to_dict(),
            "difference": self.difference,
            "interval": list(self.interval),
        }


def flip_report(predict: Predict, images: JudgedImages) -> FlipReport:
    """What exchanging left and right does. A loss is no fault where a mirrored image is another class (digits)."""
    before = _right_after(predict, images, lambda pixels, ids: pixels)
    after = _right_after(predict, images, lambda pixels, ids: mirrored(pixels))
    difference = float(after.mean() - before.mean())
    interval = paired_difference_interval(before, after)
    return FlipReport(Point.of(0, before), Point.of(1, after), difference, interval, images.num_available)
