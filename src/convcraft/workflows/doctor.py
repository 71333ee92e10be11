"""`convcraft doctor`: what may be wrong with data and settings, before the first step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from convcraft.config import RunConfig
from convcraft.data.augment_checks import augmentation_findings
from convcraft.data.dataset import TrainingData, prepare_training_data
from convcraft.data.sample import Finding, worst_first
from convcraft.workflows.console import data_progress


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found.

    findings: worst first.
    preview: the sheet that was drawn, or None.
    """

    data: str
    findings: tuple[Finding, ...]
    preview: Path | None
    seconds: float

    @property
    def has_error(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)

    def count(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.findings)


# A check looks at the configuration and at what the data room knows, and says what a person should know.
Check = Callable[[RunConfig, TrainingData], Iterable[Finding]]


def what_the_data_room_found(_config: RunConfig, data: TrainingData) -> Iterable[Finding]:
    """Unreadable files, copies, leaks between splits, imbalance, odd sizes and channels, empty classes."""
    return data.findings


def what_harms_augmentation(config: RunConfig, data: TrainingData) -> Iterable[Finding]:
    return augmentation_findings(config.augment, data.preprocess, data.classes)


CHECKS: tuple[Check, ...] = (what_the_data_room_found, what_harms_augmentation)


def doctor(config: RunConfig, *, preview: Path | None = None, every_kind: bool = False, console: Console) -> Diagnosis:
    """Examine the data of a configuration and the configuration itself; nothing is trained and nothing is changed.

    Args:
        preview: where to draw the sheet of random changes; None draws none.
        every_kind: the sheet shows also the kinds that are off.

    Raises:
        UserError: no such data, none of it usable, or a file at `preview` that is no earlier sheet.
    """
    started = time.monotonic()
    if preview is not None:
        from convcraft.report.augment_sheet import refuse_foreign_file

        refuse_foreign_file(preview)
    if config.model.weights is not None:
        from convcraft.workflows.train import with_card

        config = with_card(config)  # as training does
    with data_progress(console) as progress:
        # Too many bad files are a finding here, and nothing needs to be held in memory or measured.
        examined = config.changed(data={"allow_bad": True, "memory_megabytes": 0})
        if examined.preprocess.mean is None:
            examined = examined.changed(preprocess={"mean": (0.0,), "std": (1.0,)})
        data = prepare_training_data(examined.data, examined.preprocess, progress)
        found = [finding for check in CHECKS for finding in check(config, data)]
    if preview is not None:
        from convcraft.report.augment_sheet import save_sheet
        from convcraft.workflows.preview import draw_preview

        save_sheet(draw_preview(config, data, every_kind=every_kind), preview)
    return Diagnosis(data.name, worst_first(found), preview, time.monotonic() - started)
