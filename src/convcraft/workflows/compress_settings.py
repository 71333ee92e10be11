"""What `convcraft compress` is asked for, as the settings of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convcraft.config import (
    CompressConfig,
    FinetuneConfig,
    ModelConfig,
    OptimConfig,
    PreprocessConfig,
    RunConfig,
    ScheduleConfig,
)
from convcraft.data.preprocess import Preprocess
from convcraft.deploy.compress.distil import refuse_other_losses
from convcraft.errors import UserError
from convcraft.training.run_folder import RunDescription, read_run, read_summary
from convcraft.workflows.choose_config import assign
from convcraft.workflows.evaluate_options import Asked

EPOCHS, LEARNING_RATE = 10, 1e-3  # of a network that has learned already
FRESH_EPOCHS, FRESH_LEARNING_RATE = 30, 2e-3  # of one that starts from nothing
WARM_UP_SHARE = 0.05  # of the epochs


def choose_compression(
    source: Path,
    *,
    prune: float | None = None,
    into: str | None = None,
    sparsity: float | None = None,
    distil: bool = False,
    data_dir: str | None = None,
    optim_settings: dict[str, Any] | None = None,
    training_settings: dict[str, Any] | None = None,
    compress_settings: dict[str, Any] | None = None,
    assignments: Sequence[str] = (),
) -> RunConfig:
    """The settings of a run that makes another one smaller.

    Data, preprocessing, augmentation, batch size, precision and loss are those of the source; AdamW and a cosine learn
    again. Nothing is selected on validation images: the last weights are the result.

    Args:
        source: a finished run.
        prune: share of the multiply-adds to remove, in channels and blocks. into: another network to learn from it.
        sparsity: share of the weights that become zero; may go with either. distil: the source teaches.
        *_settings: fields of the sections; None leaves a field. assignments: "section.field=value", applied last.

    Raises:
        UserError: a source that is not finished, nothing asked for, or things that exclude each other.
    """
    run = read_run(source)
    read_summary(source)
    _refuse(run, prune, into, sparsity, distil)
    fresh = into is not None
    epochs = (training_settings or {}).get("epochs")
    epochs = epochs if epochs is not None else FRESH_EPOCHS if fresh else EPOCHS
    was = run.config
    config = dataclasses.replace(
        was,
        recipe=None,
        preprocess=_as_asked(run.preprocess),
        model=ModelConfig(name=into) if into else dataclasses.replace(was.model, weights=None, freeze=()),
        optim=OptimConfig(learning_rate=FRESH_LEARNING_RATE if fresh else LEARNING_RATE),
        schedule=ScheduleConfig(warmup_epochs=WARM_UP_SHARE * epochs),
        training=dataclasses.replace(
            was.training, epochs=epochs, select="last", engine="torch", ema_decay=None, early_stopping_epochs=None
        ),
        finetune=FinetuneConfig(),
        compress=CompressConfig(
            source=str(source.expanduser().absolute()), prune=prune, sparsity=sparsity, distil=distil or fresh
        ),
    )
    config = config.changed(
        data={"data_dir": data_dir},
        optim=optim_settings,
        training=training_settings,
        compress=compress_settings,
    )
    return assign(config, assignments)


def gate_settings(asked: Asked) -> dict[str, Any]:
    """What the gate judges beside the classes, as fields of `compress`; None where nothing is named."""
    groups = {name: list(members) for name, members in asked.class_groups.items()}
    return {"slice_columns": asked.slice_columns or None, "class_groups": groups or None}


def repeat_compression(
    file: Path,
    *,
    data_dir: str | None = None,
    optim_settings: dict[str, Any] | None = None,
    training_settings: dict[str, Any] | None = None,
    compress_settings: dict[str, Any] | None = None,
    assignments: Sequence[str] = (),
) -> RunConfig:
    """The settings of a config.yaml that `compress` wrote, with some changed.

    Raises:
        UserError: no such file, or one of a run that was not made smaller.
    """
    config = RunConfig.load(file)
    if config.compress.source is None:
        fix = "Name a finished run and what to do with it: convcraft compress RUN --prune 0.5"
        raise UserError(f"{file} names no run to make smaller", "the config.yaml of a compressed run", fix)
    config = config.changed(
        data={"data_dir": data_dir},
        optim=optim_settings,
        training=training_settings,
        compress=compress_settings,
    )
    return assign(config, assignments)


def _refuse(run: RunDescription, prune: float | None, into: str | None, sparsity: float | None, distil: bool) -> None:
    if prune is None and into is None and sparsity is None:
        fix = "Add --prune 0.5, --into NETWORK or --sparsity 0.8."
        raise UserError("nothing that makes the run smaller", "--prune, --into or --sparsity", fix)
    if prune is not None and into is not None:
        fix = "Leave one out; what --into made can be pruned afterwards."
        raise UserError("--prune and --into", "channels of the run's network, or another network", fix)
    if into is not None and into == run.config.model.name:
        fix = "Name a smaller network, or use --prune."
        raise UserError(f"--into {into}, which the run has already", "another network", fix)
    if distil or into is not None:
        refuse_other_losses(run.config.training.loss)


def _as_asked(preprocess: Preprocess) -> PreprocessConfig:
    """Settings that resolve to this preprocessing, whatever the images are."""
    return PreprocessConfig(
        image_size=(preprocess.height, preprocess.width),
        channels=preprocess.channels,
        resize=preprocess.resize,
        interpolation=preprocess.interpolation,
        crop_fraction=preprocess.crop_fraction,
        mean=preprocess.mean,
        std=preprocess.std,
    )
