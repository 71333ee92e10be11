"""`convcraft doctor`: what may be wrong with data and settings, before the first step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from convcraft.config import RunConfig
from convcraft.data.augment_checks import augmentation_findings
from convcraft.data.dataset import TrainingData, prepare_training_data
from convcraft.data.sample import Finding, worst_first
from convcraft.doctor.balance import balance_findings
from convcraft.doctor.copies import near_copy_findings
from convcraft.doctor.preflight import preflight
from convcraft.doctor.shift import prior_findings
from convcraft.errors import UserError
from convcraft.models.weights import load_weights
from convcraft.tasks.classification import Classification
from convcraft.training.freeze import freeze
from convcraft.workflows.console import data_progress
from convcraft.workflows.examined import examined_config, with_statistics
from convcraft.workflows.load_model import build_network
from convcraft.workflows.weights_card import card_of, with_card


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found.

    findings: worst first.
    preview, page: the sheet and the page that were drawn, or None.
    notes: what was looked with and at, in sentences; what was seen of the test images is one of them.
    """

    data: str
    findings: tuple[Finding, ...]
    preview: Path | None
    seconds: float
    page: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def has_error(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)

    def count(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.findings)


# A check looks at the configuration and at what the data room knows, and says what a person should know.
Check = Callable[[RunConfig, TrainingData], Iterable[Finding]]


def what_the_data_room_found(_config: RunConfig, data: TrainingData) -> Iterable[Finding]:
    """Unreadable files, exact copies, leaks between splits, odd sizes and channels, empty classes."""
    return data.findings


def what_the_labels_show(_config: RunConfig, data: TrainingData) -> Iterable[Finding]:
    """Imbalance, classes of few images, other class shares in validation. No picture is opened."""
    groups = data.groups if len(data.groups) else np.arange(len(data.train))
    found = [*balance_findings(data.train.targets, groups, data.train.names, data.classes)]
    if data.val is not None:
        found += prior_findings(data.train.targets, data.val.targets, data.classes)
    return found


def what_harms_augmentation(config: RunConfig, data: TrainingData) -> Iterable[Finding]:
    return augmentation_findings(config.augment, data.preprocess, data.classes)


def which_images_are_copies(_config: RunConfig, data: TrainingData) -> Iterable[Finding]:
    """Near copies among the train images."""
    return near_copy_findings(data.train, data.groups, data.classes)


def what_preflight_found(config: RunConfig, data: TrainingData) -> Iterable[Finding]:
    """Build the network as training would, and examine it with one batch."""
    torch.manual_seed(config.training.seed)
    card = None
    try:
        model = build_network(config.model, data.classes, data.preprocess)
        if config.model.weights is not None:
            card = card_of(config)
            load_weights(model, Path(config.model.weights))
        freeze(model, config.model.freeze)
    except UserError as error:
        message = f"training would refuse these settings: {error.received}; expected {error.expected}."
        return (Finding("settings", "error", (), message, error.fix),)
    task = Classification(len(data.classes), config.training.label_smoothing, None, config.training.loss)
    measured = with_statistics(data) if config.preprocess.mean is None else data
    return preflight(model, task, config, measured.train, measured.val, data.classes, card=card)


CHECKS: tuple[Check, ...] = (
    what_the_data_room_found,
    what_the_labels_show,
    which_images_are_copies,
    what_harms_augmentation,
    what_preflight_found,
)


def automatic(config: RunConfig, data: TrainingData) -> tuple[Finding, ...]:
    """What every training says of its data beyond the data room's findings: labels and settings alone are looked at,
    which takes milliseconds. Preflight, which needs the network, is the trainer's to call."""
    return worst_first([*what_the_labels_show(config, data), *what_harms_augmentation(config, data)])


def doctor(
    config: RunConfig,
    *,
    preview: Path | None = None,
    every_kind: bool = False,
    full: bool = False,
    weights: str | None = None,
    model: str | None = None,
    page: Path | None = None,
    console: Console,
) -> Diagnosis:
    """Examine the data of a configuration and the configuration itself; nothing is trained and nothing is changed.

    Args:
        preview: where to draw the sheet of random changes; None draws none.
        every_kind: the sheet shows also the kinds that are off.
        full: look for wrong labels, shift between splits and hidden copies too, which takes a pass of a network over
            all images.
        weights, model: what that network is, as for fine-tuning; None takes what the configuration names, else a
            network that comes with the package where it fits, else plain features of pixels.
        page: where to write the findings with pictures as one HTML file; None writes none.

    Raises:
        UserError: no such data, none of it usable, no such weights, or a file at `preview` or `page` that is no earlier
            one.
    """
    started = time.monotonic()
    _refuse_foreign_files(preview, page)
    if (weights is not None or model is not None) and not full:
        raise UserError("weights without a full examination", "both or neither", "Add --full.")
    config = with_card(config)  # as training does
    with data_progress(console) as progress:
        examined = examined_config(config)
        data = prepare_training_data(examined.data, examined.preprocess, progress)
        found = [finding for check in CHECKS for finding in check(config, data)]
        notes = _seen_of_test(data)
        if full:
            from convcraft.workflows.doctor_full import examine_fully

            more, said = examine_fully(config, data, weights, model, progress)
            found, notes = found + more, notes + said
    findings = worst_first(dict.fromkeys(found))
    if preview is not None:
        from convcraft.report.augment_sheet import save_sheet
        from convcraft.workflows.preview import draw_preview

        save_sheet(draw_preview(config, data, every_kind=every_kind), preview)
    if page is not None:
        from convcraft.workflows.doctor_full import draw_page

        draw_page(page, examined, data, findings, notes)
    return Diagnosis(data.name, findings, preview, time.monotonic() - started, page, notes)


def _seen_of_test(data: TrainingData) -> tuple[str, ...]:
    """What the checks of files alone see of test images: no figure of any network depends on it."""
    count = data.description["num_images"]["test"]
    if not count:
        return ()
    return (
        f"The {count:,} test images were opened to look for damage and for copies across the splits; of their labels, "
        "only those of pictures that are there twice, pixel for pixel, were compared.",
    )


def _refuse_foreign_files(preview: Path | None, page: Path | None) -> None:
    if preview is not None:
        from convcraft.report.augment_sheet import refuse_foreign_file

        refuse_foreign_file(preview)
    if page is not None:
        from convcraft.report.doctor_sheet import refuse_foreign_page

        refuse_foreign_page(page)
