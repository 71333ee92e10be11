"""Slices and gate of an evaluation: RUN/slices.json keeps what the images were sliced by, so that `verify` can judge
the same slices again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from convcraft.data.durable_files import read_json
from convcraft.data.image_set import ImageSet
from convcraft.data.image_statistics import image_facts
from convcraft.data.sample import Progress
from convcraft.data.table_columns import table_columns
from convcraft.errors import UserError
from convcraft.evaluation.gate import JUDGED_ON, Gate, GateResult
from convcraft.evaluation.predictions import Predictions
from convcraft.evaluation.slice_columns import MIN_IMAGES
from convcraft.evaluation.slices import SliceReport, slice_report
from convcraft.statistics import wilson_interval
from convcraft.workflows.evaluate_options import Asked

SLICES = "slices.json"
FACT_DIGITS = 6  # kept of a fact: enough to slice by, and the same on other machines
FACT_TOLERANCE = 1e-4
CHUNK_IMAGES = 256  # between two steps of the progress bar


@dataclass(frozen=True)
class SliceColumns:
    """What N images are sliced by, as plain values for JSON.

    facts: name -> N numbers or None, of the pictures. columns: name -> N cells, of the table. class_groups: by class.
    """

    facts: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    class_groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    min_images: int = MIN_IMAGES

    def to_dict(self) -> dict[str, Any]:
        return {
            "slices_format": 1,
            "min_images": self.min_images,
            "class_groups": {name: list(members) for name, members in self.class_groups.items()},
            "facts": {name: list(values) for name, values in self.facts.items()},
            "columns": {name: list(values) for name, values in self.columns.items()},
        }

    @classmethod
    def load(cls, run: Path) -> SliceColumns:
        """Of RUN/slices.json.

        Raises:
            UserError: missing or damaged.
        """
        saved = read_json(run / SLICES)
        try:
            return cls(saved["facts"], saved["columns"], saved["class_groups"], saved["min_images"])
        except (KeyError, TypeError) as error:
            fix = "Evaluate the run again: convcraft evaluate RUN"
            raise UserError(f"{run / SLICES}: {error}", "the slices that `convcraft evaluate` kept", fix) from error

    def report(self, predictions: Predictions) -> SliceReport:
        """The figures of all slices.

        Raises:
            UserError: columns of another number of images, or classes that the run does not know.
        """
        named = dict(self.columns)
        named.update({name if name not in named else f"{name} (image)": values for name, values in self.facts.items()})
        return slice_report(predictions, named, self.class_groups, self.min_images)

    def differing(self, other: SliceColumns) -> list[str]:
        """Names of the facts and columns that are not the same values, facts within rounding."""
        names = [name for name, values in self.columns.items() if values != other.columns.get(name)]
        return names + [name for name, values in self.facts.items() if not _near(values, other.facts.get(name, ()))]


def slice_columns_of(asked: Asked, images: ImageSet, source: str, progress: Progress | None = None) -> SliceColumns:
    """What the images are sliced by. source: where they were read from (`DataConfig.source`).

    Facts that are the same for all images slice nothing and are left out.

    Raises:
        UserError: a column that the data do not have.
    """
    columns = table_columns(source, asked.slice_columns, images.samples) if asked.slice_columns else {}
    facts: dict[str, list[float | None]] = {}
    if asked.slices_by_facts:
        parts = []
        for start in range(0, len(images), CHUNK_IMAGES):
            parts.append(image_facts(images.samples[start : start + CHUNK_IMAGES]))
            if progress is not None:
                progress(min(start + CHUNK_IMAGES, len(images)), len(images), "looking at images")
        for name in parts[0]:
            values = [_rounded(value) for part in parts for value in part[name].tolist()]
            if len(set(values)) > 1:
                facts[name] = values
    return SliceColumns(facts, columns, asked.class_groups)


def judge_gate(gate: Gate, report: SliceReport) -> GateResult:
    """The gate over all images and over every slice: the least accuracy is asked of both."""
    result = gate.judge(report)
    if gate.min_accuracy is None:
        return result
    low, high = wilson_interval(report.num_correct, report.num_images)
    value = {"estimate": report.accuracy, "pessimistic": low, "optimistic": high}[gate.judged_on]
    passed = value >= gate.min_accuracy
    sentence = (
        f"{'Passed' if passed else 'Failed'}: accuracy of all images at least {100 * gate.min_accuracy:.1f} %, "
        f"{JUDGED_ON[gate.judged_on]} ({100 * value:.1f} %)."
    )
    return GateResult(passed and result.passed, (sentence, *result.sentences))


def _rounded(value: float) -> float | None:
    return float(f"{value:.{FACT_DIGITS}g}") if math.isfinite(value) else None


def _near(values: Sequence[float | None], others: Sequence[float | None]) -> bool:
    if len(values) != len(others):
        return False
    one, other = (np.array([np.nan if value is None else value for value in each], float) for each in (values, others))
    return bool(np.isclose(one, other, rtol=FACT_TOLERANCE, atol=1e-9, equal_nan=True).all())
