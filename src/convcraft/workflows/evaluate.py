"""`convcraft evaluate`: the one place that opens the test images."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
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
from convcraft.finetune.proof import Proof, prove
from convcraft.training.devices import accelerator_of
from convcraft.training.run_folder import EVALUATION, RunDescription, read_run, read_seen, read_summary, write_json
from convcraft.workflows.before import Before, load_before
from convcraft.workflows.console import data_progress
from convcraft.workflows.draw_run import Shown, draw_run
from convcraft.workflows.load_model import load_model
from convcraft.workflows.test_reads import TestReads, record_test_read

EVAL_BATCH_SIZE = 256


@dataclass(frozen=True)
class EvaluateResult:
    """Figures of a run on test images.

    proof: before against after on them; None where the run was not fine-tuned.
    """

    run: Path
    data: str
    report: Report
    report_file: Path
    seconds: float  # of this command
    train_seconds: float  # of the training before
    test_reads: TestReads
    proof: Proof | None = None


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

    A fine-tuned run is compared there, image by image, with the network that it started from. Every opening of the
    test images is counted in the run folder.

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
    before = load_before(description)
    with data_progress(console) as progress:
        opened = _open(description, data, test_split, data_dir, progress)
        test_reads = record_test_read(run, opened.key, weights.sha256)
        predict = partial(
            predict_images,
            images=opened.images,
            classes=description.classes,
            device=device,
            progress=progress,
            num_workers=description.config.data.num_workers,
        )
        predictions, report = predict(model, loss=description.config.training.loss)
        proof = None if before is None else _compare(before, predict(before.network)[0], predictions)
    for finding in opened.findings:
        console.print(f"{finding.severity}: {finding.message} {finding.fix}", highlight=False, markup=False)
    result = {
        "data": opened.name,
        "weights_sha256": weights.sha256,
        "preprocess_sha256": description.preprocess.hash(),
        "test_reads": test_reads.number,
        "findings": [finding.as_dict() for finding in opened.findings],
        **report.to_dict(),
    }
    if before is not None and proof is not None:
        result["proof"] = {"before_weights_sha256": before.sha256, **proof.to_dict()}
        console.print(f"before and after: {proof.verdict}", highlight=False, markup=False)
    write_json(run / EVALUATION, result)
    shown = Shown(opened.part, opened.images, predictions, report, test_reads.sentence, proof)
    report_file = draw_run(description, model, summary, shown)
    seconds = time.monotonic() - started
    return EvaluateResult(run, opened.name, report, report_file, seconds, summary["train_seconds"], test_reads, proof)


@dataclass(frozen=True)
class _Opened:
    """Images to judge on. part: what the report calls them. key: what tells them from others in the count."""

    name: str
    part: str
    key: str
    images: ImageSet
    findings: tuple[Finding, ...] = ()


def _open(
    run: RunDescription, data: str | None, test_split: str | None, data_dir: str | None, progress: Progress
) -> _Opened:
    """The run's own test images, or other labelled data."""
    config = run.config.data
    if data_dir is not None:
        config = replace(config, data_dir=data_dir)
    if data is None:
        expected = run.data["sha256"]["test"]
        images = open_test_data(config, run.classes, run.preprocess, expected, progress)
        return _Opened(run.data["name"], "test", expected, images)
    config = replace(config, source=data, test_split=test_split, drop_leaks=False, labels_per_class=None)
    images, findings = open_other_data(config, run.classes, run.preprocess, read_seen(run.folder), progress)
    key = data if test_split is None else f"{data}#{test_split}"
    return _Opened(data, f"test ({Path(data).name})", key, images, findings)


def _compare(before: Before, were: Predictions, are: Predictions) -> Proof:
    """The network that fine-tuning started from against its result, on the same test images."""
    assert are.targets is not None
    return prove(
        are.classes,
        are.names,
        are.targets,
        were.probabilities,
        are.probabilities,
        how="test",
        spent=before.spent,
        before_label=before.label,
        after_label=before.after_label,
    )


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
