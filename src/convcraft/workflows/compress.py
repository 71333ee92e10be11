"""`convcraft compress`: a run -> a smaller run, by pruning, distillation, weights that become zero, or for int8."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from convcraft.config import RunConfig
from convcraft.data.dataset import Recorded, TrainingData, prepare_training_data
from convcraft.data.durable_files import write_json
from convcraft.data.image_set import ImageSet
from convcraft.data.loader import Batch, eval_batches
from convcraft.data.sample import Progress
from convcraft.data.spread import spread
from convcraft.deploy.compress.blocks import removable_blocks
from convcraft.deploy.compress.channels import Limits, Pruned, prune_channels
from convcraft.deploy.compress.distil import teacher_loss
from convcraft.deploy.compress.groups import find_groups
from convcraft.deploy.compress.importance import measure_importance
from convcraft.deploy.compress.int8_training import Int8Training
from convcraft.deploy.compress.weights_pruning import GradualPruning, prunable_weights, set_least_to_zero
from convcraft.errors import UserError
from convcraft.finetune.pool import make_pool
from convcraft.finetune.proof import Spent
from convcraft.models.build import num_parameters
from convcraft.models.pruned import joined_shapes, same_outputs
from convcraft.tasks.classification import Classification
from convcraft.training.checkpoint import CHECKPOINTS, saved_checkpoints
from convcraft.training.hooks import TuningHooks
from convcraft.training.loop import fit, prepare_trainer
from convcraft.training.random_state import seed_all
from convcraft.training.run_folder import RunDescription, exclusive, load_result, read_run, read_summary
from convcraft.training.stops import Interrupted
from convcraft.workflows.before import load_before, save_before
from convcraft.workflows.compress_result import COMPRESSION, CompressResult, compare_sides
from convcraft.workflows.console import data_progress
from convcraft.workflows.declared_groups import declared_groups
from convcraft.workflows.evaluate_options import Asked
from convcraft.workflows.load_model import build_network, load_model
from convcraft.workflows.train import (
    describe_run,
    facts_of,
    finish_run,
    settle_config,
    show_train_images,
    task_of,
    whole_paths,
)

IMPORTANCE_BATCH = 50
CHECK_IMAGES = 4


def compress(config: RunConfig, run: Path, *, resume: bool = False, console: Console) -> CompressResult:
    """Make a smaller run of the one that `config.compress.source` names; see `choose_compression`.

    The new folder is complete: every later command works on it, and `evaluate` compares both networks on the test
    images, which stay closed here.

    Raises:
        UserError: source, data, settings or folder that cannot be used, or a share that cannot be reached.
        Interrupted: a signal came; the state is saved.
        NonFinite: the loss blew up.
    """
    started = time.monotonic()
    config = settle_config(whole_paths(config), run, resume)
    if config.compress.source is None:
        fix = "Name a finished run: convcraft compress RUN --prune 0.5"
        raise UserError("no run to make smaller", "a finished run, or --resume with the --out of a stopped one", fix)
    run.mkdir(parents=True, exist_ok=True)
    with exclusive(run):
        going_on = resume and bool(saved_checkpoints(run / CHECKPOINTS))
        with data_progress(console) as progress:
            if going_on:
                data = _opened(config, read_run(run), progress)
                groups = _groups(config, data)
                network = build_network(config.model, data.classes, data.preprocess)
            else:
                source = read_run(Path(config.compress.source))
                config, data = _data_of(config, source, progress)
                groups = _groups(config, data)
                config, network = _begin(config, source, data, run, console, progress)
                describe_run(run, config, data)
        task = task_of(config, data.train, len(data.classes))
        before = load_before(read_run(run))
        assert before is not None
        int8 = _int8_training(config, network, len(data.train))
        hooks = _hooks(config, network, before.network, task, len(data.train), int8)
        facts = {**facts_of(data), "before_sha256": before.sha256}
        trainer = prepare_trainer(
            run, config, data.train, data.val, task, network, facts, resume=going_on, console=console, hooks=hooks
        )
        try:
            with nullcontext() if int8 is None else int8.rounding():
                fit(trainer, console)
        except Interrupted as stopped:
            raise Interrupted(stopped.why, run, "compress") from stopped
        description = read_run(run)
        network = trainer.torch_network()
        network.load_state_dict(load_result(description).tensors)
        compared = compare_sides(description, before.network.cpu(), network.eval(), data.train, data.val, groups)
        write_json(run / COMPRESSION, compared.to_dict())
        spent = replace(before.spent, after_seconds=trainer.state.train_seconds)
        save_before(run, before.network, before.config, label=before.label, after_label=before.after_label, spent=spent)
        finished = finish_run(run, trainer, data, started)
        return CompressResult(run, compared, finished.report, finished.summary, time.monotonic() - started)


def _data_of(config: RunConfig, source: RunDescription, progress: Progress) -> tuple[RunConfig, TrainingData]:
    """The source's own data; where its network learned from the validation images too, all of them train again."""
    data = _opened(config, source, progress)
    tuned = source.config.finetune.method != "none" and config.data.labels_per_class is None
    if not (tuned and data.val is not None and make_pool(data, source.config).cross_fitted):
        return config, data
    config = config.changed(data={"final": True})
    return config, prepare_training_data(config.data, config.preprocess, progress, recorded=_recorded(source))


def _opened(config: RunConfig, run: RunDescription, progress: Progress) -> TrainingData:
    """
    Raises:
        UserError: the data are gone, or are not what the run was trained on.
    """
    data = prepare_training_data(config.data, config.preprocess, progress, recorded=_recorded(run))
    if data.description["sha256"] != run.data["sha256"] or data.classes != run.classes:
        fix = "Bring back the data as it was, or train a run on what there is now."
        raise UserError(f"other images or labels than {run.folder} was trained on", "the same data", fix)
    return data


def _groups(config: RunConfig, data: TrainingData) -> dict[str, NDArray[np.bool_]]:
    """What the settings declare, of validation images; found before training, so that a wrong name costs nothing.

    Raises:
        UserError: groups that do not fit the data, or no image to judge them on.
    """
    compress = config.compress
    asked = Asked(slice_columns=compress.slice_columns, class_groups=compress.class_groups)
    asked.refuse_other_classes(data.classes)
    if data.val is not None:
        return declared_groups(asked, data.val, config.data.source, data.classes)
    if asked.has_slices:
        fix = "Leave them out, and judge test images: convcraft evaluate RUN --slice-column ... --class-group ..."
        raise UserError("declared groups where all labelled images train", "images that were held back", fix)
    return {}


def _recorded(run: RunDescription) -> Recorded:
    return Recorded(run.preprocess.version, run.data.get("train_decoder", "contract"))


def _begin(
    config: RunConfig, source: RunDescription, data: TrainingData, run: Path, console: Console, progress: Progress
) -> tuple[RunConfig, nn.Module]:
    """Keep the network as it was, and make the one that trains; the settings then have its sizes."""
    was, _ = load_model(source)
    config, network, told = _start(config, source, was, data, progress)
    for sentence in told:
        console.print(sentence, highlight=False, markup=False)
    spent = Spent(
        before_seconds=read_summary(source.folder)["train_seconds"],
        after_seconds=0.0,
        before_trainable_parameters=num_parameters(was),
        after_trainable_parameters=num_parameters(network),
    )
    save_before(
        run,
        was,
        source.config.model,
        label=f"{source.config.model.name} as it was",
        after_label=_label(config),
        spent=spent,
    )
    return config, network


def _label(config: RunConfig) -> str:
    """ "resnet20_cifar, pruned, distilled"."""
    compress = config.compress
    done = {"pruned": compress.prune, "sparse": compress.sparsity}
    done |= {"distilled": compress.distil or None, "trained for int8": compress.int8 or None}
    return ", ".join([config.model.name, *(word for word, value in done.items() if value is not None)])


def _start(
    config: RunConfig, source: RunDescription, was: nn.Module, data: TrainingData, progress: Progress
) -> tuple[RunConfig, nn.Module, list[str]]:
    """The settings with the network's sizes, the network, and what to tell of it."""
    seed_all(config.training.seed)
    if config.compress.prune is not None:
        pruned = _pruned(config, was, data, progress)
        shapes = joined_shapes(source.config.model.pruned, pruned.shapes)
        config = replace(config, model=replace(config.model, pruned=shapes))
        network = build_network(config.model, data.classes, data.preprocess)
        network.load_state_dict(pruned.network.state_dict())
        if not same_outputs(pruned.network, network, _images(data, CHECK_IMAGES)):
            fix = "Use --into or --sparsity for this network."
            raise UserError(f"{config.model.name} cannot be rebuilt after pruning", "the same network again", fix)
        return config, network, [_told(pruned)]
    if replace(config.model, pruned={}) != replace(source.config.model, pruned={}, weights=None, freeze=()):
        network = build_network(config.model, data.classes, data.preprocess)
        show_train_images(network, data)
        return config, network, []
    network = copy.deepcopy(was)
    if config.training.epochs == 0:  # no step will come that makes weights zero
        set_least_to_zero(prunable_weights(network), config.compress.sparsity or 0.0)
    return config, network, []


def _pruned(config: RunConfig, was: nn.Module, data: TrainingData, progress: Progress) -> Pruned:
    compress, shape = config.compress, (data.preprocess.channels, data.preprocess.height, data.preprocess.width)
    assert compress.prune is not None
    progress(0, 0, "following channels")
    groups = find_groups(was, shape).sound
    blocks = removable_blocks(was, _images(data, CHECK_IMAGES))
    if not groups and not blocks:
        fix = "Use --into or --sparsity for this network."
        raise UserError(f"{config.model.name} has no channels that can be removed", "a network of plain layers", fix)
    some = data.train.subset(spread(len(data.train), compress.importance_images))
    task = task_of(config, data.train, len(data.classes))
    importance = measure_importance(was, groups, blocks, _shown(some, config.data.num_workers, progress), task.loss)
    limits = Limits(compress.largest_cut, compress.channel_multiple, compress.thinning_worth)
    return prune_channels(was, shape, groups, importance, left=1 - compress.prune, limits=limits)


def _shown(images: ImageSet, num_workers: int, progress: Progress) -> Iterator[Batch]:
    """Batches of train images, as evaluation sees them, with a bar."""
    done = 0
    for batch in eval_batches(images, IMPORTANCE_BATCH, num_workers):
        progress(done, len(images), "measuring importance")
        yield batch
        done += len(batch.images)
    progress(done, len(images), "measuring importance")


def _told(pruned: Pruned) -> str:
    before, after = pruned.before, pruned.after
    left = after.multiply_adds / before.multiply_adds
    layers = sum(1 for sizes in pruned.shapes.values() if len(sizes) == 2)
    blocks = f", {len(pruned.blocks)} blocks left out" if pruned.blocks else ""
    return (
        f"pruned: {left:.1%} of the multiply-adds and {after.parameters / before.parameters:.1%} of the parameters "
        f"are left; {layers} layers thinned{blocks}"
    )


def _images(data: TrainingData, count: int) -> Tensor:
    """float32 [n, C, H, W], normalised, as evaluation sees train images."""
    pixels = data.train.pixels_of(np.arange(min(count, len(data.train))))
    return torch.from_numpy(data.preprocess.normalise(pixels))


def _steps(config: RunConfig, num_images: int) -> int:
    training = config.training
    return math.ceil(num_images / (training.batch_size * training.accumulation_steps)) * training.epochs


def _int8_training(config: RunConfig, network: nn.Module, num_images: int) -> Int8Training | None:
    compress, epochs = config.compress, config.training.epochs
    if not compress.int8:
        return None
    return Int8Training(network, epochs, _steps(config, num_images), math.floor(compress.int8_from * epochs))


def _hooks(
    config: RunConfig,
    network: nn.Module,
    teacher: nn.Module,
    task: Classification,
    num_images: int,
    int8: Int8Training | None,
) -> TuningHooks:
    """What distillation, sparsity and int8 add to the loop."""
    compress = config.compress
    loss = teacher_loss(teacher, task, config) if compress.distil else None
    gradual = None
    if compress.sparsity is not None:
        ramp_steps = max(1, round(compress.sparsify_until * _steps(config, num_images)))
        gradual = GradualPruning(prunable_weights(network), compress.sparsity, ramp_steps)
    parts = [part for part in (gradual, int8) if part is not None]

    def after_step(step: int) -> None:
        for part in parts:  # rounding comes last
            part.after_step(step)

    return TuningHooks(
        before_epoch=None if int8 is None else int8.before_epoch,
        before_step=None if gradual is None else gradual.before_step,
        loss=loss,
        after_step=after_step if parts else None,
    )
