"""Fills the report of a run from what training, evaluation and the network have to show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
from convcraft.report.cell_pictures import PAGE_BYTES, cells_of
from convcraft.report.feature_maps import first_layer_maps
from convcraft.report.mistakes_section import bytes_of_mistakes, picture_id
from convcraft.report.run_content import DataFacts, FeatureMaps, ModelCard, ReportContent, Table
from convcraft.report.run_report import write_report
from convcraft.training.metrics_log import read_metrics
from convcraft.training.run_folder import CONFIG, RunDescription
from convcraft.workflows.page_material import heat_of, places_of, reliability_of
from convcraft.workflows.trust_report import TrustReport
from convcraft.workflows.weigh import read_trade_off
from convcraft.workflows.weights_card import card_of

NUM_MISTAKES = 24
LARGEST_MAP, LARGEST_MAP_OF_TRAINING = 2_000, 500  # images on the map of features


@dataclass(frozen=True, eq=False)
class Shown:
    """The images that a page's figures are of, and everything that was measured on them.

    part: which images they are ("test", "validation", "cross-fitted validation").
    note: a sentence about that part. void: why its figures say too much; empty where nothing speaks against them.
    proof: before against after on these images; the comparison that fine-tuning made stands in the run folder.
    curves: accuracy of turned, shifted, zoomed and mirrored images. compared: with other sets of predictions.
    features: float32 [N, D], what the classifier gets of these images, where that is known already.
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
    trust: TrustReport | None = None
    compared: tuple[Agreement, ...] = ()
    features: NDArray[np.float32] | None = None


def draw_run(run: RunDescription, model: nn.Module, summary: dict[str, Any], shown: Shown | None) -> Path:
    """Write report.html.

    Args:
        model: with the result weights, on the CPU.
        summary: of training (summary.json).
        shown: what the figures are of; None: the page has no figures.
    """
    preprocess = run.preprocess
    layers = summarise(model, (preprocess.height, preprocess.width), preprocess.channels)
    comparisons = [kept] if (kept := read_proof(run.folder)) is not None else []
    if shown is not None and shown.proof is not None:
        comparisons.append(with_pictures(shown.proof, shown.images))
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
            trade_off=read_trade_off(run.folder),
            card=_card(run),
            environment=_environment(run, summary),
            config_yaml=(run.folder / CONFIG).read_text(encoding="utf-8"),
            reproduce=(
                f"convcraft {run.config.command} --config {run.folder / CONFIG} --out NEW_RUN",
                f"convcraft evaluate {run.folder}",
            ),
            **({} if shown is None else _measured(run, model, shown)),
        ),
    )


def _measured(run: RunDescription, model: nn.Module, shown: Shown) -> dict[str, Any]:
    """The parts of a page that are about the images shown."""
    images, predictions = shown.images, shown.predictions
    mistakes = top_losses(predictions, NUM_MISTAKES)
    pixels = images.pixels_of(np.array([mistake.index for mistake in mistakes], np.int64))
    trust = None if shown.trust is None else shown.trust.to_dict()
    already = {mistake.index: picture_id(place) for place, mistake in enumerate(mistakes)}
    is_last_word = shown.part == "test"  # after training, time counts for more
    heat = heat_of(model, run.preprocess, pixels, mistakes, images, predictions, checks=is_last_word)
    most = LARGEST_MAP if is_last_word else LARGEST_MAP_OF_TRAINING
    left = PAGE_BYTES - bytes_of_mistakes(pixels)
    return {
        "split": shown.part,
        "split_note": shown.note,
        "void": shown.void,
        "evaluation": shown.report,
        "mistakes": mistakes,
        "mistake_pixels": pixels,
        "heat": heat,
        "cells": cells_of(predictions, images.pixels_of, already, left),
        "reliability": reliability_of(predictions, None if trust is None else trust["temperature"]),
        "trust": trust,
        "slices": shown.slices,
        "robustness": shown.robustness,
        "attacks": shown.attacks,
        "curves": shown.curves,
        "compared": shown.compared,
        "places": places_of(model, images, predictions, run.config.training.seed, most, shown.features),
        "feature_maps": _feature_maps(run, model, images),
    }


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


def _card(run: RunDescription) -> ModelCard:
    preprocess, weights = run.preprocess, card_of(run.config)
    shown = {"mean": "mean of the channels", "std": "standard deviation"}
    values = {words: ", ".join(f"{x:.4g}" for x in getattr(preprocess, name)) for name, words in shown.items()}
    size = f"{preprocess.height} x {preprocess.width}, {'grey' if preprocess.channels == 1 else 'RGB'}"
    rows = [
        ("Preprocessing", f"{size}; {preprocess.resize}, {preprocess.interpolation}, of {preprocess.crop_fraction:g}"),
        *((words.capitalize(), value) for words, value in values.items()),
    ]
    return ModelCard(
        data=run.data["name"],
        from_scratch=run.config.first_weights is None,
        weights_source=None if weights is None else weights.source or weights.origin or None,
        weights_licence=None if weights is None else weights.license,
        preprocessing=rows,
    )


def _environment(run: RunDescription, summary: dict[str, Any]) -> list[tuple[str, object]]:
    """What the result was computed with, and by what it is known again."""
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    return [
        ("Versions", versions),
        ("Hardware", f"{summary['device']}, {summary['cpu_cores']} cores, {summary['threads']} threads"),
        ("Precision", summary["precision"]),
        ("Seed", run.config.training.seed),
        ("Data, SHA-256", run.data["sha256"]),
        ("Preprocessing, SHA-256", run.preprocess.hash()),
        ("Weights, SHA-256", summary["weights_sha256"]),
    ]


def _method(run: RunDescription, summary: dict[str, Any]) -> str:
    """What fine-tuning was asked for, and what it came to."""
    chosen, trained = summary["finetune"]["chosen"], f"{summary['trainable_parameters']:,} parameters trained"
    asked = run.config.finetune.method
    return f"{chosen}; {trained}" if asked == chosen else f"{asked}, which chose: {chosen}; {trained}"
