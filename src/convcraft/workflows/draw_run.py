"""Fills the report of a run from what training, evaluation and the network have to show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from convcraft.data.image_set import ImageSet
from convcraft.evaluation.agreement import Agreement
from convcraft.evaluation.attack_curves import AttackReport
from convcraft.evaluation.metrics import Report, top_losses
from convcraft.evaluation.predictions import Predictions
from convcraft.evaluation.robustness import CorruptionReport, Curve, FlipReport
from convcraft.evaluation.slices import SliceReport
from convcraft.finetune.proof import Proof
from convcraft.finetune.proof_files import read_proof, with_pictures
from convcraft.finetune.record import TuningRecord
from convcraft.models.build import num_parameters
from convcraft.models.summary import summarise
from convcraft.report.feature_maps import first_layer_maps
from convcraft.report.run_report import DataFacts, FeatureMaps, ReportContent, Table, write_report
from convcraft.training.metrics_log import read_metrics
from convcraft.training.run_folder import CONFIG, RunDescription

NUM_MISTAKES = 24


class TrustFigures(Protocol):
    """What is said of single predictions: temperature, sets of classes, rejected images."""

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True, eq=False)
class Shown:
    """The images that a page's figures are of, and everything that was measured on them.

    part: which images they are ("test", "validation", "cross-fitted validation").
    note: a sentence about that part. void: why its figures say too much; empty where nothing speaks against them.
    proof: before against after on these images; the comparison that fine-tuning made stands in the run folder.
    curves: accuracy of turned, shifted, zoomed and mirrored images. compared: with other sets of predictions.
    """

    part: str
    images: ImageSet
    predictions: Predictions
    report: Report
    note: str = ""
    proof: Proof | None = None
    void: tuple[str, ...] = ()
    slices: SliceReport | None = None
    robustness: CorruptionReport | None = None
    attacks: AttackReport | None = None
    curves: tuple[Curve | FlipReport, ...] = ()
    trust: TrustFigures | None = None
    compared: tuple[Agreement, ...] = ()


def draw_run(run: RunDescription, model: nn.Module, summary: dict[str, Any], shown: Shown | None) -> Path:
    """Write report.html.

    Args:
        model: with the result weights, on the CPU.
        summary: of training (summary.json).
        shown: what the figures are of; None: the page has no figures.
    """
    preprocess = run.preprocess
    command = "train" if run.config.finetune.method == "none" else "finetune"
    layers = summarise(model, (preprocess.height, preprocess.width), preprocess.channels)
    content: dict[str, Any] = {}
    comparisons = [kept] if (kept := read_proof(run.folder)) is not None else []
    if shown is not None:
        images = shown.images
        mistakes = top_losses(shown.predictions, NUM_MISTAKES)
        pixels = [images.pixels_of(np.array([mistake.index]))[0] for mistake in mistakes]
        if shown.proof is not None:
            comparisons.append(with_pictures(shown.proof, images))
        content = {
            "split": shown.part,
            "split_note": shown.note,
            "evaluation": shown.report,
            "mistakes": mistakes,
            "mistake_pixels": pixels,
            "feature_maps": _feature_maps(run, model, images),
        }
    return write_report(
        run.folder,
        ReportContent(
            title=f"{run.config.model.name} on {run.data['name']}",
            summary=_summary_rows(run, model, summary),
            data=DataFacts(run.classes, run.data["class_counts"], run.findings),
            model=Table(
                ("layer", "type", "output", "parameters"),
                [(row.name, row.type, " x ".join(map(str, row.output_shape)), f"{row.parameters:,}") for row in layers],
            ),
            comparisons=comparisons,
            tuning=TuningRecord.read(run.folder),
            records=read_metrics(run.folder),
            config_yaml=(run.folder / CONFIG).read_text(encoding="utf-8"),
            reproduce=(
                f"convcraft {command} --config {run.folder / CONFIG} --out NEW_RUN",
                f"convcraft evaluate {run.folder}",
            ),
            **content,
        ),
    )


def _feature_maps(run: RunDescription, model: nn.Module, images: ImageSet) -> FeatureMaps:
    """What the first convolution makes of the first image."""
    pixels = images.pixels_of(np.array([0]))
    layer, maps = first_layer_maps(model, torch.from_numpy(run.preprocess.normalise(pixels)))
    return FeatureMaps(pixels[0], maps, layer, run.classes[int(images.targets[0])])


def _summary_rows(run: RunDescription, model: nn.Module, summary: dict[str, Any]) -> list[tuple[str, object]]:
    preprocess, training = run.preprocess, run.config.training
    return [
        ("Data", run.data["name"]),
        ("Network", run.config.model.name),
        ("Parameters", f"{num_parameters(model):,}"),
        ("Input", f"{preprocess.height} x {preprocess.width} pixels, {'grey' if preprocess.channels == 1 else 'RGB'}"),
        ("Recipe", run.config.recipe or "none"),
        *([("Method", _method(run, summary))] if "finetune" in summary else []),
        ("Epochs", f"{summary['epochs']} of {training.epochs}"),
        ("Training time", f"{summary['train_seconds']:.1f} s on {summary['device']}, {summary['precision']}"),
        ("Seed", training.seed),
        ("Weights", f"{summary['checkpoint']}/{summary['weights_file']}, SHA-256 {summary['weights_sha256'][:16]}..."),
    ]


def _method(run: RunDescription, summary: dict[str, Any]) -> str:
    """What fine-tuning was asked for, and what it came to."""
    chosen, trained = summary["finetune"]["chosen"], f"{summary['trainable_parameters']:,} parameters trained"
    asked = run.config.finetune.method
    return f"{chosen}; {trained}" if asked == chosen else f"{asked}, which chose: {chosen}; {trained}"
