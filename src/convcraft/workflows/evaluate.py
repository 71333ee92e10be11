"""`convcraft evaluate`: the one place that opens the test images."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from torch import nn

from convcraft.data.dataset import open_other_data, open_test_data
from convcraft.data.durable_files import replace_durably, write_json
from convcraft.data.image_set import ImageSet
from convcraft.data.sample import Finding, Progress
from convcraft.evaluation.metrics import Report, classification_report
from convcraft.evaluation.outputs import Outputs
from convcraft.evaluation.predictions import Predictions
from convcraft.evaluation.probabilities import probabilities_of
from convcraft.evaluation.saved_predictions import SavedPredictions
from convcraft.finetune.proof import Proof, prove
from convcraft.training.run_folder import EVALUATION, PREDICTIONS, RunDescription, read_run, read_seen, read_summary
from convcraft.workflows.before import Before, load_before
from convcraft.workflows.console import data_progress
from convcraft.workflows.draw_run import Shown, draw_run
from convcraft.workflows.evaluate_held_out import held_out_images
from convcraft.workflows.evaluate_members import (
    MembersMade,
    in_preprocessing_of,
    labels_of,
    open_members,
    validation_said,
)
from convcraft.workflows.evaluate_more import More, MoreInputs
from convcraft.workflows.evaluate_options import Asked
from convcraft.workflows.evaluate_robustness import ROBUSTNESS, Robustness, kept_robustness, measure_robustness
from convcraft.workflows.evaluate_slices import slice_columns_of
from convcraft.workflows.evaluate_views import make_views
from convcraft.workflows.load_model import load_model
from convcraft.workflows.network_outputs import as_features, logits_of, maybe_inputs
from convcraft.workflows.seal import seal
from convcraft.workflows.test_reads import TestReads, record_test_read
from convcraft.workflows.trust_of_run import find_trust


@dataclass(frozen=True)
class EvaluateResult:
    """Figures of a run on test images.

    proof: before against after on them; None where the run was not fine-tuned.
    void: why the figures say too much; empty where nothing speaks against them.
    more: slices, gate, trust, views and ensemble. robustness: of a sample of the images.
    """

    run: Path
    data: str
    report: Report
    report_file: Path
    seconds: float  # of this command
    train_seconds: float  # of the training before
    test_reads: TestReads
    proof: Proof | None = None
    void: tuple[str, ...] = ()
    more: More = field(default_factory=More)
    robustness: Robustness | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain values for scripts."""
        return {
            **self.report.to_dict(),
            **self.more.to_dict(),
            "run": str(self.run),
            "seconds": self.seconds,
            "train_seconds": self.train_seconds,
            "data": self.data,
            "report": str(self.report_file),
            "test_reads": self.test_reads.number,
            "void": list(self.void),
            "proof": None if self.proof is None else self.proof.to_dict(),
            "robustness": None if self.robustness is None else self.robustness.to_dict(),
        }

    @property
    def lines(self) -> tuple[tuple[str, str], ...]:
        """(what, sentence) of the further figures and the page, for standard output."""
        withstood = () if self.robustness is None else self.robustness.sentences
        return (
            *self.more.lines,
            *(("robustness", sentence) for sentence in withstood),
            ("report", str(self.report_file)),
        )


def evaluate(
    run: Path,
    data: str | None = None,
    *,
    test_split: str | None = None,
    data_dir: str | None = None,
    device: str = "auto",
    asked: Asked | None = None,
    console: Console,
) -> EvaluateResult:
    """Judge a run on the test images that training set aside, or on other labelled data.

    A fine-tuned run is compared there, image by image, with the network that it started from. Every opening of the
    test images is counted in the run folder. The predictions are kept and the folder is sealed, so that `verify` can
    compute every figure again.

    Args:
        data: other data than the run's own; matched to the run's classes by name.
        test_split: which split of that data to judge on.
        asked: slices, a gate, robustness, views, an ensemble.

    Raises:
        UserError: no such run, damaged weights, test images that are not what training set aside, or further figures
            that this run or these data cannot give.
    """
    started = time.monotonic()
    asked = asked or Asked()
    description = read_run(run)
    summary = read_summary(run)
    model, weights = load_model(description)
    before = load_before(description)
    wanted = Wanted(data, test_split, data_dir)
    asked.refuse_other_classes(description.classes)
    members = open_members(description, asked.members, own_test=data is None)
    with data_progress(console) as progress:
        trust = find_trust(description, model, weights, progress)
        held_out = held_out_images(description, progress) if asked.needs_held_out else None
        if members:
            validation = validation_said(description, model, members, held_out, device, progress)
        opened = open_wanted(description, wanted, progress)
        theirs = [open_wanted(in_preprocessing_of(member, description), wanted, progress) for member in members]
        columns = None
        if asked.has_slices:
            columns = slice_columns_of(asked, opened.images, data or description.config.data.source, progress)
        test_reads = record_test_read(run, opened.key, weights.sha256)
        for member in members:
            record_test_read(member.run.folder, opened.key, member.weights.sha256)
        with maybe_inputs(model, trust is not None and trust.needs_features) as inputs:
            saved = predict_all(description, opened.images, model, before, device, progress)
        outputs = Outputs(saved.logits, as_features(inputs))
        scores = None if trust is None else trust.unknown_scores(outputs)
        made = MoreInputs(slices=columns, gate=asked.gate, trust=trust, unknown_scores=scores)
        if asked.views:
            views = make_views(description, model, opened.images, held_out, device, progress)
            made = replace(made, views=views)
        if members and held_out is not None:
            pairs = zip(members, theirs, strict=True)
            test = np.stack([member.probabilities(each.images, device, progress) for member, each in pairs])
            labels = labels_of(description, members)
            made = replace(made, members=MembersMade(labels, test, validation, held_out.targets))
        belongs_to = {"weights": weights.sha256, "preprocess": description.preprocess.hash(), "images": opened.key}
        if asked.robustness_images is None:
            robustness = kept_robustness(run, belongs_to)
        else:
            number = asked.robustness_images
            robustness = measure_robustness(description, model, opened.images, number, belongs_to, device, progress)
            write_json(run / ROBUSTNESS, robustness.to_dict())
    judged = figures_of(saved, description, before)
    more = made.judge(judged.predictions)
    findings = tuple(dict.fromkeys(finding for each in (opened, *theirs) for finding in each.findings))
    for finding in findings:
        console.print(f"{finding.severity}: {finding.message} {finding.fix}", highlight=False, markup=False)
    void = void_reasons(findings, test_reads)
    for reason in void:
        console.print(f"void: {reason}", highlight=False, markup=False)
    content = saved.to_bytes()
    result = {
        "data": opened.name,
        "opened": wanted.to_dict(),
        "asked": asked.to_dict(),
        "images": opened.key,
        "predictions_sha256": hashlib.sha256(content).hexdigest(),
        "weights_sha256": weights.sha256,
        "preprocess_sha256": description.preprocess.hash(),
        "test_reads": test_reads.number,
        "void": list(void),
        "findings": [finding.as_dict() for finding in findings],
        **judged.to_dict(),
        **more.to_dict(),
        "robustness": None if robustness is None else robustness.to_dict(),
    }
    proof = judged.proof
    if proof is not None:
        console.print(f"before and after: {proof.verdict}", highlight=False, markup=False)
    replace_durably(run / PREDICTIONS, content)
    made.save(run)
    write_json(run / EVALUATION, result)
    shown = Shown(
        part=opened.part,
        images=opened.images,
        predictions=judged.predictions,
        report=judged.report,
        note=test_reads.sentence,
        proof=proof,
        void=void,
        slices=more.slices,
        robustness=None if robustness is None else robustness.corruptions,
        attacks=None if robustness is None else robustness.attacks,
        curves=() if robustness is None else (*robustness.curves, robustness.flip),
        trust=more.trust,
        features=outputs.features,
    )
    report_file = draw_run(description, model, summary, shown)
    seal(run)
    return EvaluateResult(
        run=run,
        data=opened.name,
        report=judged.report,
        report_file=report_file,
        seconds=time.monotonic() - started,
        train_seconds=summary["train_seconds"],
        test_reads=test_reads,
        proof=proof,
        void=void,
        more=more,
        robustness=robustness,
    )


def void_reasons(findings: Sequence[Finding], reads: TestReads) -> tuple[str, ...]:
    """Why a figure says too much: a choice has touched the test images."""
    reasons = [finding.message for finding in findings if finding.kind == "leak"]
    if reads.other_weights:
        times = "once" if reads.other_weights == 1 else f"{reads.other_weights:,} times"
        reasons.append(
            f"These test images were opened {times} with other weights of this run before, so that these weights may "
            "have been chosen by them."
        )
    return tuple(reasons)


@dataclass(frozen=True)
class Wanted:
    """What `evaluate` was asked to judge on; nothing of it: the run's own test images."""

    data: str | None = None
    test_split: str | None = None
    data_dir: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        return asdict(self)


@dataclass(frozen=True)
class Judged:
    """Every figure of saved predictions. before_sha256: weights of the network before fine-tuning."""

    predictions: Predictions
    report: Report
    proof: Proof | None = None
    before_sha256: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in evaluation.json."""
        figures = self.report.to_dict()
        if self.proof is not None:
            figures["proof"] = {"before_weights_sha256": self.before_sha256, **self.proof.to_dict()}
        return figures


def figures_of(saved: SavedPredictions, run: RunDescription, before: Before | None) -> Judged:
    """The figures of predictions: the same ones give the same figures, whenever they are computed."""
    predictions = saved.predictions(run.classes, run.config.training.loss)
    report = classification_report(predictions)
    were = saved.predictions_before(run.classes)
    if before is None or were is None:
        return Judged(predictions, report)
    return Judged(predictions, report, _compare(before, were, predictions), before.sha256)


def predict_all(
    run: RunDescription,
    images: ImageSet,
    model: nn.Module,
    before: Before | None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> SavedPredictions:
    """What the run's network, and the one before fine-tuning, say of labelled images."""
    workers = run.config.data.num_workers
    logits = logits_of(model, images, device, progress, workers)
    were = None if before is None else logits_of(before.network, images, device, progress, workers)
    return SavedPredictions(logits, images.targets, images.names, were)


@dataclass(frozen=True)
class Opened:
    """Images to judge on. part: what the report calls them. key: what tells them from others in the count."""

    name: str
    part: str
    key: str
    images: ImageSet
    findings: tuple[Finding, ...] = ()


def open_wanted(run: RunDescription, wanted: Wanted, progress: Progress) -> Opened:
    """The run's own test images, or other labelled data.

    Raises:
        UserError: no such data, or test images that are not what training set aside.
    """
    config, data, test_split = run.config.data, wanted.data, wanted.test_split
    if wanted.data_dir is not None:
        config = replace(config, data_dir=wanted.data_dir)
    if data is None:
        expected = run.data["sha256"]["test"]
        images = open_test_data(config, run.classes, run.preprocess, expected, progress)
        return Opened(run.data["name"], "test", expected, images)
    config = replace(config, source=data, test_split=test_split, drop_leaks=False, labels_per_class=None)
    images, findings = open_other_data(config, run.classes, run.preprocess, read_seen(run.folder), progress)
    key = data if test_split is None else f"{data}#{test_split}"
    return Opened(data, f"test ({Path(data).name})", key, images, findings)


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
    logits = logits_of(model, images, device, progress, num_workers)
    predictions = Predictions(classes, probabilities_of(logits, loss), images.targets, images.names)
    return predictions, classification_report(predictions)
