"""`convcraft evaluate --robustness`: RUN/robustness.json, what a network withstands on a sample of the test images."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from convcraft.data.durable_files import read_json
from convcraft.data.image_set import ImageSet
from convcraft.data.loader import batch_size_for
from convcraft.data.sample import Progress
from convcraft.errors import UserError
from convcraft.evaluation.attack_curves import AttackReport, attack_report
from convcraft.evaluation.judged_images import JudgedImages
from convcraft.evaluation.predict_function import predict_function
from convcraft.evaluation.robustness import (
    CorruptionReport,
    Curve,
    FlipReport,
    Point,
    corruption_report,
    flip_report,
    rotation_curve,
    scale_curve,
    shift_curve,
)
from convcraft.training.devices import accelerator_of
from convcraft.training.run_folder import RunDescription

ROBUSTNESS = "robustness.json"
USUAL_EPSILON = 8 / 255  # of the one line of text


@dataclass(frozen=True)
class Robustness:
    """corruptions, curves and attacks, all on the same images. belongs_to: hashes of weights, pixels and images."""

    corruptions: CorruptionReport
    curves: tuple[Curve, ...]
    flip: FlipReport
    attacks: AttackReport
    belongs_to: Mapping[str, str]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "num_images": self.corruptions.num_images,
            "num_available": self.corruptions.num_available,
            "belongs_to": dict(self.belongs_to),
            "corruptions": self.corruptions.to_dict(),
            "curves": [curve.to_dict() for curve in self.curves],
            "flip": self.flip.to_dict(),
            "attacks": self.attacks.to_dict(),
            "seconds": self.seconds,
        }

    @classmethod
    def load(cls, run: Path) -> Robustness:
        """Of RUN/robustness.json.

        Raises:
            UserError: missing or damaged.
        """
        saved = read_json(run / ROBUSTNESS)
        try:
            return cls(
                corruptions=_corruptions(saved["corruptions"]),
                curves=tuple(map(_curve, saved["curves"])),
                flip=_flip(saved["flip"]),
                attacks=_attacks(saved["attacks"]),
                belongs_to=saved["belongs_to"],
                seconds=saved["seconds"],
            )
        except (KeyError, TypeError) as error:
            fix = "Measure it again: convcraft evaluate RUN --robustness"
            raise UserError(f"{run / ROBUSTNESS}: {error}", "what `convcraft evaluate` has measured", fix) from error

    @property
    def sentences(self) -> tuple[str, ...]:
        """Corruptions and moves; attacks, with what speaks against their figures."""
        found, attacks = self.corruptions, self.attacks
        curves = {curve.name: curve for curve in self.curves}
        lowest = min(curves["rotation"].points, key=lambda point: (abs(abs(point.value) - 30), point.accuracy))
        usual = min(attacks.pgd.points, key=lambda point: abs(point.value - USUAL_EPSILON))
        size = f"{found.num_images:,} of {found.num_available:,} images"
        return (
            f"{found.clean.accuracy:.1%} plain, {found.mean_accuracy:.1%} corrupted (least: "
            f"{found.worst.replace('_', ' ')} {found.mean_of(found.worst):.1%}), {lowest.accuracy:.1%} turned by 30 "
            f"degrees, {self.flip.mirrored.accuracy:.1%} mirrored; {size}",
            f"{usual.accuracy:.1%} under attack (PGD, epsilon {255 * usual.value:.0f}/255); an upper bound",
            *(f"doubtful: {warning}" for warning in attacks.warnings),
        )


def measure_robustness(
    run: RunDescription,
    model: nn.Module,
    images: ImageSet,
    num_images: int,
    belongs_to: Mapping[str, str],
    device: str = "cpu",
    progress: Progress | None = None,
) -> Robustness:
    """All corruptions, moves and attacks on a stratified sample. The model ends on the CPU."""
    started = time.monotonic()
    judged = JudgedImages.of_set(images, num_images)
    model.to(accelerator_of(device))
    size = batch_size_for(run.preprocess)
    predict = predict_function(model, run.preprocess, run.config.training.loss, size)
    corruptions = corruption_report(predict, judged, progress=progress)
    curves = (
        rotation_curve(predict, judged, progress=progress),
        shift_curve(predict, judged, "x", progress=progress),
        shift_curve(predict, judged, "y", progress=progress),
        scale_curve(predict, judged, progress=progress),
    )
    flip = flip_report(predict, judged)
    attacks = attack_report(model, judged, run.preprocess, batch_size=max(1, size // 2), progress=progress)
    model.cpu()
    return Robustness(corruptions, curves, flip, attacks, belongs_to, time.monotonic() - started)


def kept_robustness(run: Path, belongs_to: Mapping[str, str]) -> Robustness | None:
    """What was measured before, where it is of these weights, pixels and images."""
    if not (run / ROBUSTNESS).exists():
        return None
    kept = Robustness.load(run)
    return kept if kept.belongs_to == belongs_to else None


# From plain values ----------------------------------------------------------------------------------------------------


def _point(saved: Mapping[str, Any], num_images: int) -> Point:
    return Point(saved["value"], saved["num_correct"], num_images)


def _curve(saved: Mapping[str, Any]) -> Curve:
    points = tuple(_point(point, saved["num_images"]) for point in saved["points"])
    return Curve(saved["name"], saved["unit"], points, saved["num_images"], saved["num_available"])


def _flip(saved: Mapping[str, Any]) -> FlipReport:
    plain, mirrored = (_point(saved[name], saved["num_images"]) for name in ("plain", "mirrored"))
    return FlipReport(plain, mirrored, saved["difference"], tuple(saved["interval"]), saved["num_available"])


def _corruptions(saved: Mapping[str, Any]) -> CorruptionReport:
    number = saved["num_images"]
    return CorruptionReport(
        clean=_point(saved["clean"], number),
        by_corruption={
            name: tuple(_point(point, number) for point in entry["severities"])
            for name, entry in saved["by_corruption"].items()
        },
        mean_accuracy=saved["mean_accuracy"],
        mean_interval=tuple(saved["mean_interval"]),
        num_images=number,
        num_available=saved["num_available"],
        seed=saved["seed"],
    )


def _attacks(saved: Mapping[str, Any]) -> AttackReport:
    curves = {name: _curve(saved[name]) for name in ("fgsm", "pgd", "noise", "pgd_cross_entropy", "pgd_margin")}
    large = _point(saved["at_large_epsilon"], curves["pgd"].num_images)
    return AttackReport(
        **curves, at_large_epsilon=large, steps=saved["steps"], seed=saved["seed"], warnings=tuple(saved["warnings"])
    )
