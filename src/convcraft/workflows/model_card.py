"""The model card that travels with a bundle, by what is known of the run; nothing is made up.

Source: Mitchell et al., "Model cards for model reporting", 2019, arXiv:1810.03993.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from convcraft.data.durable_files import read_json
from convcraft.evaluation.trust import Trust
from convcraft.training.run_folder import EVALUATION, RunDescription
from convcraft.workflows.weights_card import card_of

NAMED_CLASSES = 20
UNKNOWN = "unknown: nobody has stated it"


def model_card(run: RunDescription, trust: Trust | None) -> str:
    """Markdown."""
    return "\n".join(_lines(run, trust)) + "\n"


def _lines(run: RunDescription, trust: Trust | None) -> Iterator[str]:
    path = run.folder / EVALUATION
    report = read_json(path) if path.exists() else None
    preprocess = run.preprocess
    yield f"# {run.folder.resolve().name}"
    yield ""
    yield "## Use"
    yield ""
    yield f"Tells apart {len(run.classes)} classes in images like those of {run.data['name']}: {_named(run.classes)}."
    unknown = "Every picture gets one of these classes, also one that shows none of them"
    yield f"{unknown}{'.' if trust is None else '; `predict` says where an answer should not be relied on.'}"
    yield "Decisions about people, safety or health need more than this card."
    yield ""
    yield "## What was measured"
    yield ""
    yield from _measured(report)
    yield ""
    yield "## Data and weights"
    yield ""
    listed = run.data["sha256"]["train"][:16]
    yield f"- Data: {run.data['name']} (SHA-256 of its train list {listed}...); its licence is {UNKNOWN}."
    yield from _weights(run)
    yield ""
    yield "## Input"
    yield ""
    kind = "grey" if preprocess.channels == 1 else "RGB"
    yield f"{preprocess.height} x {preprocess.width} pixels, {kind}; {preprocess.resize}, {preprocess.interpolation}."
    yield "preprocess.json is the whole of it; `predict` does it by itself."


def _named(classes: tuple[str, ...]) -> str:
    more = len(classes) - NAMED_CLASSES
    return ", ".join(classes[:NAMED_CLASSES]) + (f" and {more} more" if more > 0 else "")


def _measured(report: dict[str, Any] | None) -> Iterator[str]:
    if report is None:
        yield "Nothing: how good it is is unknown. `convcraft evaluate RUN` measures it."
        return
    low, high = report["interval"]
    yield (
        f"- Accuracy {report['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}) on {report['num_images']:,} "
        f"test images of {report['data']}, of the run's own network."
    )
    for reason in report.get("void", ()):
        yield f"- Void: {reason}"


def _weights(run: RunDescription) -> Iterator[str]:
    if run.config.first_weights is None:
        yield "- Weights: trained from random numbers; none of others are in it."
        return
    card = card_of(run.config)
    source = None if card is None else card.source or card.origin or None
    yield f"- Weights began as: {source or UNKNOWN}."
    yield f"- Licence of these weights: {(card.license if card is not None else None) or UNKNOWN}."
