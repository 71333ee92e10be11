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
INT8_EPOCHS, INT8_LEARNING_RATE = 4, 1e-4  # of one that only learns to be rounded
INT8_FROM = 0.5  # of the epochs, where something else makes the network smaller first
INT8_PRECISION = "32-true"  # bfloat16 has 8 bits itself, and would round once more what is rounded
WARM_UP_SHARE = 0.05  # of the epochs


def choose_compression(
    source: Path,
    *,
    prune: float | None = None,
    into: str | None = None,
    sparsity: float | None = None,
    int8: bool = False,
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
        sparsity: share of the weights that become zero; may go with either. int8: weights and maps are
            rounded as int8 exports round them; may go with all. distil: the source teaches.
        *_settings: fields of the sections; None leaves a field. assignments: "section.field=value", applied last.

    Raises:
        UserError: a source that is not finished, nothing asked for, or things that exclude each other.
    """
    run = read_run(source)
    read_summary(source)
    _refuse(run, prune, into, sparsity, int8, distil)
    fresh = into is not None
    alone = int8 and prune is None and not fresh and sparsity is None
    epochs, learning_rate = EPOCHS, LEARNING_RATE
    if fresh:
        epochs, learning_rate = FRESH_EPOCHS, FRESH_LEARNING_RATE
    elif alone:
        epochs, learning_rate = INT8_EPOCHS, INT8_LEARNING_RATE
    asked_epochs = (training_settings or {}).get("epochs")
    epochs = epochs if asked_epochs is None else asked_epochs
    if int8 and epochs == 0:
        fix = "Leave out --epochs 0; int8 without training is convcraft export RUN --format onnx:int8."
        raise UserError("--int8 with --epochs 0", "epochs in which the network learns to be rounded", fix)
    was = run.config
    config = dataclasses.replace(
        was,
        recipe=None,
        preprocess=_as_asked(run.preprocess),
        model=ModelConfig(name=into) if into else dataclasses.replace(was.model, weights=None, freeze=()),
        optim=OptimConfig(learning_rate=learning_rate),
        schedule=ScheduleConfig(warmup_epochs=WARM_UP_SHARE * max(epochs, 0)),
        training=dataclasses.replace(
            was.training,
            epochs=epochs,
            select="last",
            engine="torch",
            ema_decay=None,
            early_stopping_epochs=None,
            precision=INT8_PRECISION if int8 else was.training.precision,
            compile="off" if int8 else was.training.compile,
        ),
        finetune=FinetuneConfig(),
        compress=CompressConfig(
            source=str(source.expanduser().absolute()),
            weights=None if fresh else was.first_weights,
            prune=prune,
            sparsity=sparsity,
            int8=int8,
            int8_from=INT8_FROM if int8 and not alone else 0.0,
            distil=distil or fresh,
        ),
    )
    return _changed(config, data_dir, optim_settings, training_settings, compress_settings, assignments)


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
    return _changed(config, data_dir, optim_settings, training_settings, compress_settings, assignments)


def _changed(
    config: RunConfig,
    data_dir: str | None,
    optim: dict[str, Any] | None,
    training: dict[str, Any] | None,
    compress: dict[str, Any] | None,
    assignments: Sequence[str],
) -> RunConfig:
    """What was asked for beside the kind of compression."""
    config = config.changed(data={"data_dir": data_dir}, optim=optim, training=training, compress=compress)
    return assign(config, assignments)


def _refuse(
    run: RunDescription, prune: float | None, into: str | None, sparsity: float | None, int8: bool, distil: bool
) -> None:
    if prune is None and into is None and sparsity is None and not int8:
        fix = "Add --prune 0.5, --into NETWORK, --sparsity 0.8 or --int8."
        raise UserError("nothing that makes the run smaller", "--prune, --into, --sparsity or --int8", fix)
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
