"""`convcraft evaluate`: the one place that opens the test images."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from torch import nn

from convcraft.data.dataset import open_other_data, open_test_data
from convcraft.data.image_set import ImageSet
from convcraft.data.loader import eval_batches
from convcraft.data.sample import Finding, Progress
from convcraft.evaluation.metrics import Report, classification_report
from convcraft.evaluation.predictions import Predictions, predict_logits
from convcraft.evaluation.probabilities import probabilities_of
from convcraft.training.devices import accelerator_of
from convcraft.training.run_folder import EVALUATION, read_run, read_seen, read_summary, write_json
from convcraft.workflows.console import data_progress
from convcraft.workflows.draw_run import draw_run
from convcraft.workflows.load_model import load_model

EVAL_BATCH_SIZE = 256


@dataclass(frozen=True)
class EvaluateResult:
    """Figures of a run on test images."""

    run: Path
    data: str
    report: Report
    report_file: Path
    seconds: float  # of this command
    train_seconds: float  # of the training before


def evaluate(
    run: Path,
    data: str | None = None,
    *,
    test_split: str | None = None,
    data_dir: str | None = None,
    device: str = "auto",
    console: Console,
) -> EvaluateResult:
    """Judge a run on the test images that training set aside, or on other labelled data.

    Args:
        data: other data than the run's own; matched to the run's classes by name.
        test_split: which split of that data to judge on.

    Raises:
        UserError: no such run, damaged weights, or test images that are not what training set aside.
    """
    started = time.monotonic()
    description = read_run(run)
    summary = read_summary(run)
    model, weights = load_model(description)
    config = description.config.data
    if data_dir is not None:
        config = replace(config, data_dir=data_dir)
    if data is not None:
        config = replace(config, source=data, test_split=test_split, drop_leaks=False, labels_per_class=None)
    expected = description.data["sha256"]["test"] if data is None else None
    with data_progress(console) as progress:
        findings: tuple[Finding, ...] = ()
        if data is None:
            images = open_test_data(config, description.classes, description.preprocess, expected, progress)
        else:
            images, findings = open_other_data(
                config, description.classes, description.preprocess, read_seen(run), progress
            )
        predictions, report = predict_images(
            model,
            images,
            description.classes,
            device,
            progress,
            config.num_workers,
            description.config.training.loss,
        )
    for finding in findings:
        console.print(f"{finding.severity}: {finding.message} {finding.fix}", highlight=False, markup=False)
    name = description.data["name"] if data is None else data
    result = {
        "data": name,
        "weights_sha256": weights.sha256,
        "preprocess_sha256": description.preprocess.hash(),
        "findings": [finding.as_dict() for finding in findings],
        **report.to_dict(),
    }
    write_json(run / EVALUATION, result)
    shown = ("test" if data is None else f"test ({Path(data).name})", images, predictions, report)
    report_file = draw_run(description, model, summary, shown)
    return EvaluateResult(run, name, report, report_file, time.monotonic() - started, summary["train_seconds"])


def predict_images(
    model: nn.Module,
    images: ImageSet,
    classes: tuple[str, ...],
    device: str = "cpu",
    progress: Progress | None = None,
    num_workers: int = 0,
    loss: str = "cross_entropy",
) -> tuple[Predictions, Report]:
    """Probabilities for labelled images in float32, and the figures drawn from them.

    loss: `training.loss` of the run, which says what its logits mean.
    """
    place = accelerator_of(device)
    batches = eval_batches(images, EVAL_BATCH_SIZE, num_workers)
    logits = predict_logits(model.to(place), batches, place, progress, len(images))
    model.cpu()
    predictions = Predictions(classes, probabilities_of(logits, loss), images.targets, images.names)
    return predictions, classification_report(predictions)
