"""`convcraft evaluate BUNDLE DATA`: what a bundle is worth on labelled images that it has not learned from.

The bundle answers as it does in `predict`, by its own runtime and precision; figures, slices, gate and trust are those
of a run's evaluation. Nothing is written: a bundle stays as it was exported.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from convcraft.config import DataConfig
from convcraft.data.dataset import open_other_data
from convcraft.data.image_set import ImageSet
from convcraft.data.sample import Progress
from convcraft.deploy.answering import Answering
from convcraft.deploy.predictor import Predictor
from convcraft.errors import UserError
from convcraft.evaluation.metrics import Report, classification_report
from convcraft.evaluation.outputs import Outputs
from convcraft.evaluation.predictions import Predictions
from convcraft.evaluation.probabilities import probabilities_of
from convcraft.workflows.bundle_options import refuse_options_of_runs
from convcraft.workflows.console import data_progress
from convcraft.workflows.evaluate_more import More, MoreInputs
from convcraft.workflows.evaluate_options import Asked
from convcraft.workflows.evaluate_slices import slice_columns_of


@dataclass(frozen=True)
class BundleEvaluation:
    """Figures of a bundle on labelled images. more: slices, gate, trust.

    images_per_second: through the network; where `reads_on_the_way`, images that do not fit in memory are read
        meanwhile.
    """

    bundle: Path
    data: str
    report: Report
    images_per_second: float
    reads_on_the_way: bool
    seconds: float
    more: More = field(default_factory=More)

    @property
    def lines(self) -> tuple[tuple[str, str], ...]:
        """(what, sentence) of the further figures, for standard output."""
        reading = "reading them included" if self.reads_on_the_way else "once they are read"
        return (*self.more.lines, ("speed", f"{self.images_per_second:,.1f} images per second, {reading}"))

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain values for scripts."""
        return {
            **self.report.to_dict(),
            **self.more.to_dict(),
            "bundle": str(self.bundle),
            "data": self.data,
            "images_per_second": self.images_per_second,
            "reads_on_the_way": self.reads_on_the_way,
            "seconds": self.seconds,
        }


def evaluate_bundle(
    bundle: Path,
    data: str | None,
    *,
    test_split: str | None = None,
    data_dir: str | None = None,
    asked: Asked | None = None,
    allow_native_code: bool = False,
    console: Console,
) -> BundleEvaluation:
    """Judge a bundle on labelled data, matched to its classes by name.

    Whether the run has seen these images is not known here: a bundle carries no fingerprints of images.

    Raises:
        UserError: no data, a bundle that is refused, or figures that need the run itself.
    """
    started = time.monotonic()
    asked = asked or Asked()
    if data is None:
        fix = "Name them: convcraft evaluate BUNDLE DATA. A run's own test images: convcraft evaluate RUN"
        raise UserError(f"{bundle} without labelled images", "labelled images to judge it on", fix)
    _refuse_what_needs_the_run(asked)
    config = DataConfig(source=data, test_split=test_split, data_dir=data_dir)
    predictor = Predictor.open(bundle, measure=True, allow_native_code=allow_native_code)
    asked.refuse_other_classes(predictor.classes)
    with data_progress(console) as progress:
        images, findings = open_other_data(config, predictor.classes, predictor.preprocess, None, progress)
        columns = slice_columns_of(asked, images, data, progress) if asked.has_slices else None
        began = time.monotonic()
        outputs = Outputs.joined(list(_outputs(predictor, images, progress)))
        seconds = time.monotonic() - began
    for finding in findings:
        console.print(f"{finding.severity}: {finding.message} {finding.fix}", highlight=False, markup=False)
    predictions = Predictions(
        predictor.classes, probabilities_of(outputs.logits, predictor.loss), images.targets, images.names
    )
    trust = predictor.trust
    scores = None if trust is None else trust.unknown_scores(outputs)
    made = MoreInputs(slices=columns, gate=asked.gate, trust=trust, unknown_scores=scores)
    return BundleEvaluation(
        bundle=bundle,
        data=data,
        report=classification_report(predictions),
        images_per_second=len(images) / max(seconds, 1e-9),
        reads_on_the_way=images.pixels is None,
        seconds=time.monotonic() - started,
        more=made.judge(predictions),
    )


def _refuse_what_needs_the_run(asked: Asked) -> None:
    wanted = {
        "--robustness": asked.robustness_images is not None,
        "--tta": asked.views,
        "--with": bool(asked.members),
    }
    refuse_options_of_runs(wanted, "Leave it out, or evaluate the run that the bundle came from.")


def _outputs(network: Answering, images: ImageSet, progress: Progress) -> Iterator[Outputs]:
    """Batch by batch, with a bar."""
    for start in range(0, len(images), network.batch_size):
        progress(start, len(images), "predicting")
        yield network.outputs(images.pixels_of(np.arange(start, min(start + network.batch_size, len(images)))))
    progress(len(images), len(images), "predicting")
