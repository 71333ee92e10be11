"""`convcraft train`: data -> network -> run folder with weights, log and report."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from convcraft.config import RunConfig
from convcraft.data.dataset import Recorded, TrainingData, prepare_training_data
from convcraft.data.durable_files import write_json
from convcraft.data.image_set import ImageSet
from convcraft.data.sample import Finding
from convcraft.data.sources import settled
from convcraft.data.spread import spread
from convcraft.doctor.preflight import preflight
from convcraft.doctor.preflight_clock import AUTOMATIC_SECONDS
from convcraft.errors import UserError
from convcraft.evaluation.metrics import Report, classification_report
from convcraft.evaluation.predictions import Predictions
from convcraft.evaluation.probabilities import probabilities_of
from convcraft.models.build import num_parameters
from convcraft.models.cards import Card
from convcraft.models.classifier import classifier_names
from convcraft.models.network import Network
from convcraft.models.output_check import refuse_probabilities
from convcraft.models.stages import is_part
from convcraft.models.weights import load_weights
from convcraft.tasks.classification import Classification, balanced_weights
from convcraft.training.base_trainer import BaseTrainer
from convcraft.training.checkpoint import CHECKPOINTS, saved_checkpoints
from convcraft.training.freeze import freeze
from convcraft.training.loop import fit, prepare_trainer
from convcraft.training.profile import HINTS, NUMPY_HINTS, Profile
from convcraft.training.random_state import seed_all
from convcraft.training.run_folder import (
    CLASSES,
    CONFIG,
    DATA,
    PREPROCESS,
    SEEN,
    SUMMARY,
    ResultWeights,
    exclusive,
    load_result,
    read_run,
)
from convcraft.training.trackers import IDS, check_trackers, open_trackers
from convcraft.workflows.console import data_progress
from convcraft.workflows.doctor import automatic
from convcraft.workflows.draw_run import Shown, draw_run
from convcraft.workflows.load_model import build_network
from convcraft.workflows.network_outputs import outputs_of
from convcraft.workflows.scratch.trainer import check_numpy, numpy_threads, prepare_numpy_trainer
from convcraft.workflows.strangeness import cheap
from convcraft.workflows.trust_of_run import trust_from_validation
from convcraft.workflows.weights_card import card_of, with_card

LEFT_BY_A_FAILED_START = {"run.lock", "metrics.jsonl", "tensorboard", "wandb", "mlflow", IDS}


@dataclass(frozen=True)
class TrainResult:
    """What a finished run came to. report and its figures are of validation; None where everything was trained on."""

    run: Path
    report: Report | None
    summary: dict[str, Any]
    seconds: float  # the whole command
    train_seconds: float  # the loop, summed over resumes


def train(
    config: RunConfig,
    run: Path,
    *,
    resume: bool = False,
    profile: bool = False,
    threads: int | None = None,
    console: Console,
) -> TrainResult:
    """Train a network as configured, into a run folder.

    With resume, a run that was stopped at any moment goes on to the same weights and log (bit for bit on the CPU); the
    folder's own config.yaml counts, and `config` may only repeat it. With profile, the summary says where the time
    went; the result is the same. threads is for training.engine numpy: how many chunks of images it works on at a
    time; None: as many as torch would have threads.

    Raises:
        UserError: data, settings or folder that cannot be used.
        Interrupted: a signal came; the state is saved.
        NonFinite: the loss blew up.
    """
    started = time.monotonic()
    config = settle_config(with_card(whole_paths(config)), run, resume)
    check_trackers(config.training.trackers)
    in_numpy = config.training.engine == "numpy"
    if in_numpy:
        check_numpy(config)
    run.mkdir(parents=True, exist_ok=True)
    with exclusive(run), numpy_threads(threads or torch.get_num_threads()) if in_numpy else nullcontext():
        going_on = resume and bool(saved_checkpoints(run / CHECKPOINTS))
        recorded = recorded_start(run) if going_on else None
        with data_progress(console) as progress:
            data = prepare_training_data(config.data, config.preprocess, progress, recorded=recorded)
        announce(data, config, console)
        trainer = build_trainer(run, config, data, resume=going_on, console=console, profile=profile)
        resumed_step = trainer.state.step if going_on else None
        with open_trackers(
            config.training.trackers, run, config.to_dict(), resumed_step=resumed_step, console=console
        ) as trackers:
            trainer.log.trackers = trackers
            if not going_on:  # else the folder describes itself, and the trainer has found the data unchanged
                describe_run(run, config, data)
            fit(trainer, console)
            result = finish_run(run, trainer, data, started)
            trackers.log(_final_figures(result), trainer.state.step)
        return result


def settle_config(config: RunConfig, run: Path, resume: bool) -> RunConfig:
    """The configuration to follow, and a folder that may be written to."""
    if not resume:
        if run.exists() and (
            not run.is_dir() or any(path.name not in LEFT_BY_A_FAILED_START for path in run.iterdir())
        ):
            fix = "Choose another --out, or add --resume to go on with that run."
            raise UserError(f"{run} exists and is not empty", "a new or empty folder", fix)
        return config
    if not (run / CONFIG).exists():
        if run.is_dir() and saved_checkpoints(run / CHECKPOINTS):
            raise UserError(f"{run} has checkpoints but no {CONFIG}", "a complete run folder", "Restore that file.")
        return config  # stopped before anything was written
    saved = RunConfig.load(run / CONFIG)
    if config not in (whole_paths(saved), RunConfig()):
        changed = ", ".join(_differences(saved.to_dict(), config.to_dict()))
        fix = "Leave these settings out with --resume, or start a new run."
        raise UserError(f"other settings than the run was started with ({changed})", "the run's own settings", fix)
    return saved


def recorded_start(run: Path) -> Recorded:
    """What the run's first start settled; runs that name no decoder are older than the choice."""
    description = read_run(run)
    return Recorded(description.preprocess.version, description.data.get("train_decoder", "contract"))


def whole_paths(config: RunConfig) -> RunConfig:
    """The same settings, with whole paths of what is on the disk: a run can be resumed from any folder."""
    weights = config.model.weights
    if weights is not None and Path(weights).expanduser().exists():
        config = config.changed(model={"weights": str(Path(weights).expanduser().absolute())})
    return replace(config, data=settled(config.data))


def _differences(left: dict[str, Any], right: dict[str, Any], where: str = "") -> list[str]:
    """Names of the settings in which two configurations differ."""
    names: list[str] = []
    for key, value in left.items():
        if isinstance(value, dict) and isinstance(right[key], dict) and key != "args":
            names += _differences(value, right[key], f"{where}{key}.")
        elif value != right[key]:
            names.append(f"{where}{key}")
    return names


def announce(data: TrainingData, config: RunConfig, console: Console) -> None:
    """What was found, before the first step."""
    counts = data.description["num_images"]
    where = "in memory" if data.train.pixels is not None else "streamed from disk"
    console.print(
        f"{data.name}: {len(data.classes)} classes, {counts['train']:,} train, {counts['val']:,} val and "
        f"{counts['test']:,} test images ({where}); test stays closed until `convcraft evaluate`",
        highlight=False,
        markup=False,
    )
    for finding in dict.fromkeys([*data.findings, *automatic(config, data)]):
        if finding.severity != "info":
            console.print(f"{finding.severity}: {finding.message} {finding.fix}", highlight=False, markup=False)
    console.print(
        f"network {config.model.name}, recipe {config.recipe or 'none'}, {config.training.engine}",
        highlight=False,
        markup=False,
    )


def describe_run(run: Path, config: RunConfig, data: TrainingData) -> None:
    """Everything but the weights, so that the folder explains itself from the first second; config.yaml comes last."""
    write_json(run / CLASSES, list(data.classes))
    data.preprocess.save(run / PREPROCESS)
    write_json(run / DATA, data.description)
    np.save(run / SEEN, data.seen)
    config.save(run / CONFIG)


def build_trainer(
    run: Path, config: RunConfig, data: TrainingData, *, resume: bool, console: Console, profile: bool = False
) -> BaseTrainer:
    """Network, loss and loop for the data, with weights and random state as the settings want them."""
    training = config.training
    seed_all(training.seed)
    model = build_network(config.model, data.classes, data.preprocess)
    if config.model.weights is not None:
        _start_from(model, Path(config.model.weights), card_of(config), data.classes, console)
    elif not resume:
        show_train_images(model, data)
    freeze(model, config.model.freeze)
    refuse_probabilities(model, data.preprocess.channels, (data.preprocess.height, data.preprocess.width))
    if data.val is None and (training.early_stopping_epochs is not None or config.schedule.name == "plateau"):
        fix = "Set data.val_fraction above 0, or train by a fixed schedule without early stopping."
        raise UserError("early stopping or plateau without a validation part", "validation images to listen to", fix)
    task = task_of(config, data.train, len(data.classes))
    if not resume:
        tell(preflight_in_time(model, task, config, data, card_of(config)), console)
    prepare: Callable[..., BaseTrainer] = prepare_numpy_trainer if training.engine == "numpy" else prepare_trainer
    return prepare(
        run,
        config,
        data.train,
        data.val,
        task,
        model,
        facts_of(data),
        resume=resume,
        console=console,
        profile=profile,
    )


def show_train_images(model: nn.Module, data: TrainingData) -> None:
    """Set those start values of a fresh network that depend on train images; most have none."""
    if isinstance(model, Network) and model.num_start_images:
        some = spread(len(data.train), model.num_start_images)
        model.start_from_images(torch.from_numpy(data.preprocess.normalise(data.train.pixels_of(some))))


def facts_of(data: TrainingData) -> dict[str, Any]:
    """What a checkpoint records about its origin."""
    return {
        "classes": list(data.classes),
        "data_sha256": data.description["sha256"],
        "preprocess": data.preprocess.as_dict(),
        "versions": library_versions(),
    }


def task_of(config: RunConfig, images: ImageSet, num_classes: int) -> Classification:
    """What the settings mean by a good answer."""
    training = config.training
    weights = balanced_weights(images.targets, num_classes) if training.class_weights == "balanced" else None
    return Classification(num_classes, training.label_smoothing, weights, training.loss)


def preflight_in_time(
    model: nn.Module, task: Classification, config: RunConfig, data: TrainingData, card: Card | None
) -> tuple[Finding, ...]:
    """The preflight before every run, which nobody asked for."""
    return preflight(model, task, config, data.train, data.val, data.classes, card=card, seconds=AUTOMATIC_SECONDS)


def tell(findings: Sequence[Finding], console: Console) -> None:
    """Print warnings; stop at an error.

    Raises:
        UserError: the first error.
    """
    for finding in findings:
        if finding.severity == "error":
            raise UserError(finding.message, "a network, data and settings that can learn", finding.fix)
        if finding.severity == "warning":
            console.print(f"warning: {finding.message} {finding.fix}", highlight=False, markup=False)


def _start_from(model: nn.Module, path: Path, card: Card | None, classes: tuple[str, ...], console: Console) -> None:
    """Load starting weights; a classifier that its card made for other classes is not taken over."""
    heads = classifier_names(model)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items() if is_part(name, heads)}
    report = load_weights(model, path)
    console.print(str(report), highlight=False, markup=False)
    if card is not None and card.label_names is not None and card.label_names != classes and not report.remade:
        model.load_state_dict(fresh, strict=False)
        console.print("its classifier was made for other classes and starts afresh", highlight=False, markup=False)


def finish_run(run: Path, trainer: BaseTrainer, data: TrainingData, started: float) -> TrainResult:
    """Take the result's weights, judge them on validation, write trust, summary and report.

    started: of the command, by `time.monotonic`.
    """
    description = read_run(run)
    weights = load_result(description)
    model = trainer.torch_network()
    model.load_state_dict(weights.tensors)
    summary = _summarise(trainer, weights, num_parameters(model))
    booked = trainer.watch.seconds()
    if booked:
        hints = NUMPY_HINTS if trainer.config.training.engine == "numpy" else HINTS
        summary["profile"] = Profile(booked, hints).to_dict()
    shown, report = None, None
    if data.val is not None:
        outputs = outputs_of(model, data.val, features=cheap(data.preprocess))
        probabilities = probabilities_of(outputs.logits, trainer.config.training.loss)
        predictions = Predictions(data.classes, probabilities, data.val.targets, data.val.names)
        report = classification_report(predictions)
        trust_from_validation(description, model, weights.sha256, data.train, data.val, outputs)
        shown = Shown("validation", data.val, predictions, report)
        summary["validation"] = report.to_dict()
    write_json(run / SUMMARY, summary)
    draw_run(description, model, summary, shown)
    return TrainResult(run, report, summary, time.monotonic() - started, trainer.state.train_seconds)


def _final_figures(result: TrainResult) -> dict[str, float]:
    """What a tracker shows of a finished run, of the weights that were kept."""
    figures = {"final/train_seconds": result.train_seconds, "final/parameters": result.summary["parameters"]}
    if result.report is not None:
        report = result.report
        figures |= {"final/accuracy": report.accuracy, "final/macro_f1": report.macro_f1}
        figures |= {"final/log_loss": report.log_loss, "final/calibration_error": report.calibration.expected_error}
    return figures


def _summarise(trainer: BaseTrainer, weights: ResultWeights, parameters: int) -> dict[str, Any]:
    state = trainer.state
    return {
        "epochs": state.epoch,
        "steps": state.step,
        "train_seconds": state.train_seconds,
        "parameters": parameters,
        "checkpoint": weights.checkpoint,
        "weights_file": weights.file,
        "weights_sha256": weights.sha256,
        **machine_facts(*trainer.placement),
        **trainer.own_facts(),
    }


def machine_facts(device_type: str, precision: str) -> dict[str, Any]:
    """What a result was computed on and with."""
    name = f"{platform.processor() or platform.machine()} CPU"
    return {
        "device": torch.cuda.get_device_name() if device_type == "cuda" else name,
        "threads": torch.get_num_threads(),
        "cpu_cores": os.cpu_count(),
        "precision": precision,
        "versions": library_versions(),
    }


def library_versions() -> dict[str, str]:
    """Of what decides about the numbers."""
    return {name: version(name) for name in ("torch", "numpy", "convcraft")}
