"""The curves of a training: loss, accuracy, learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convcraft.report import html, plots
from convcraft.report.html import Section, element
from convcraft.report.run_content import SPLIT_NAMES, DataFacts, ReportContent
from convcraft.report.text import count

CURVES = (  # key in the records, title, scale, what a reader who cannot see it is told
    ("loss", "Loss", "wide", "Training and validation loss over the optimiser steps"),
    ("accuracy", "Accuracy", "percent", "Training and validation accuracy over the optimiser steps"),
    ("learning_rate", "Learning rate", "plain", "Learning rate over the optimiser steps"),
)


def curves_section(content: ReportContent) -> Section | None:
    measured = _training_images(content.data)
    figures = []
    for key, title, scale, alt in CURVES:
        events = {"train": "train"} if key == "learning_rate" else {"train": "train", "val": "validation"}
        series = {name: _points(content.records, event, key) for event, name in events.items()}
        series = {name: points for name, points in series.items() if np.isfinite(points[1]).any()}
        if series:
            figure = plots.training_curve(series, title, scale)
            figures.append(html.plot(figure, alt, _caption(key, series, measured)))
    if not figures:
        return None
    return Section("training", "Training", "训练过程", element("div", *figures, class_="figures"))


def _training_images(data: DataFacts | None) -> dict[str, str]:
    """How many images stand behind each curve, in words."""
    counts = {split: int(sum(numbers)) for split, numbers in data.class_counts.items()} if data else {}
    return {name: f" ({count(counts[split], 'image')})" for split, name in SPLIT_NAMES.items() if split in counts}


def _caption(key: str, series: Mapping[str, plots.Points], measured: Mapping[str, str]) -> str:
    if key == "learning_rate":
        return "As used by the optimiser at each step."
    words = {
        "train": "Train: batches as they were trained on, while the weights moved",
        "validation": "Validation: the whole split",
    }
    return ". ".join(words[name] + measured.get(name, "") for name in series) + "."


def _points(records: Sequence[Mapping[str, Any]], event: str, key: str) -> plots.Points:
    """Steps and values of one curve; a value that is missing or no number leaves a gap, not a crash."""
    chosen = [record for record in records if record.get("event") == event and key in record and "step" in record]
    values = [record[key] if isinstance(record[key], (int, float)) else float("nan") for record in chosen]
    return [record["step"] for record in chosen], values
