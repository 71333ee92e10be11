"""A candidate that trains: a pretrained network, partly frozen, through the training loop, with its freeze ledger.

Each fit is an ordinary training in a folder of its own, so it is resumed where it was stopped, to the bit. Where the
lower layers are frozen for good and see no attack, their output is computed once per image and view, and only the rest
runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from convcraft.config import RunConfig
from convcraft.data.augment import Augmenter
from convcraft.data.cached_maps import CachedMaps
from convcraft.data.image_set import ImageSet
from convcraft.data.loader import Batch, eval_batches
from convcraft.finetune.frozen_maps import MapCache, cache_maps
from convcraft.finetune.interpolate import mean_of_models, renew_statistics, soup, trained_statistics
from convcraft.finetune.ledger import FreezeLedger, FreezeReport
from convcraft.finetune.method_settings import METHOD_SETTINGS
from convcraft.finetune.methods import PreparedMethod, prepare_method
from convcraft.finetune.robust import attack_hook, pull_to_start
from convcraft.finetune.split_network import CannotSplit, split_network
from convcraft.models.classifier import classifier_names
from convcraft.tasks.classification import Classification
from convcraft.training.checkpoint import CHECKPOINTS, load_checkpoint, saved_checkpoints
from convcraft.training.devices import accelerator_of, precision_of
from convcraft.training.freeze import is_part
from convcraft.training.hooks import TuningHooks
from convcraft.training.loop import Trainer, fit, prepare_trainer
from convcraft.training.random_state import seed_all

WORK_FROM_MAPS = ("head", "last")  # methods whose lower layers are frozen from beginning to end
LEDGER_IMAGES = 8  # on which frozen blocks must answer the same in training and evaluation mode
SPLIT_IMAGES = 2  # on which a cut of the network is tried out


@dataclass(frozen=True)
class Lesson:
    """What one fit learns from.

    start: makes the network with its pretrained weights; its new classifier from torch's seeded generator, or a probe.
    val: chooses the epoch; None: a fixed schedule.
    facts: what checkpoints record about their origin.
    """

    config: RunConfig
    task: Classification
    start: Callable[[], nn.Module]
    train: ImageSet
    val: ImageSet | None
    facts: dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """network: whole, merged, in evaluation mode, on the CPU. skipped: (layer, why the method leaves it alone)."""

    network: nn.Module
    num_trainable: int
    freeze: FreezeReport
    seconds: float
    epochs: int
    skipped: tuple[tuple[str, str], ...]


def train_candidate(folder: Path, lesson: Lesson, console: Console) -> Trained:
    """Train by the method that the settings name; go on where an earlier attempt was stopped.

    Raises:
        Interrupted: a signal came; the state is saved.
        NonFinite: the loss blew up.
    """
    num_models = lesson.config.finetune.num_models
    if num_models == 1:
        return _train_one(folder, lesson, console)
    members = []
    for number in range(num_models):
        config = lesson.config.changed(training={"seed": lesson.config.training.seed + number})
        members.append(_train_one(folder / f"model-{number}", replace(lesson, config=config), console))
    seconds = sum(member.seconds for member in members)
    report = FreezeReport.joined([member.freeze for member in members])
    return replace(members[0], network=_mean(lesson, members), freeze=report, seconds=seconds)


def _mean(lesson: Lesson, members: list[Trained]) -> nn.Module:
    """The mean of several networks: of those that make it better on validation, or of all where there is none."""
    network = members[0].network
    states = [{name: tensor.clone() for name, tensor in each.network.state_dict().items()} for each in members]

    def train_batches() -> Iterator[Batch]:
        return eval_batches(lesson.train, lesson.config.training.batch_size, lesson.config.data.num_workers)

    if lesson.val is not None:
        network.load_state_dict(soup(network, states, lesson.val, train_batches=train_batches).state)
        return network
    network.load_state_dict(mean_of_models(states))
    if stale := trained_statistics(states):
        renew_statistics(network, stale, train_batches())
    return network


def _train_one(folder: Path, lesson: Lesson, console: Console) -> Trained:
    config = lesson.config
    folder.mkdir(parents=True, exist_ok=True)
    seed_all(config.training.seed)
    model = lesson.start()
    prepared = prepare_method(
        model,
        config.finetune,
        total_epochs=config.training.epochs,
        budget_fraction=config.finetune.lora_budget,
    )
    ledger = FreezeLedger.record(model, prepared.trainable, prepared.statistics)
    learner, train, val = _learner(folder, model, lesson)
    trainer = prepare_trainer(
        folder,
        config.changed(optim={"weight_decay": 0.0}) if config.finetune.l2_sp else config,  # the pull replaces it
        train,
        val,
        lesson.task,
        learner,
        lesson.facts,
        resume=bool(saved_checkpoints(folder / CHECKPOINTS)),
        console=console,
        hooks=_hooks(learner, train, lesson, prepared),
        rate_factors=prepared.rate_factors,
    )
    fit(trainer, console)
    _take_result(trainer, learner)
    report = ledger.verify(model.cpu(), _first_images(lesson, LEDGER_IMAGES))
    num_trainable = sum(p.numel() for name, p in model.named_parameters() if name in set(prepared.trainable))
    network = prepared.finish(model).eval()
    return Trained(network, num_trainable, report, trainer.state.train_seconds, trainer.state.epoch, prepared.skipped)


def _learner(
    folder: Path, model: nn.Module, lesson: Lesson
) -> tuple[nn.Module, ImageSet | CachedMaps, ImageSet | CachedMaps | None]:
    """What the loop trains, on what: the layers above the frozen ones on cached maps, or all on images."""
    config = lesson.config
    mixes = config.augment.mixup_alpha or config.augment.cutmix_alpha
    if config.finetune.method not in WORK_FROM_MAPS or config.finetune.attack != "none" or mixes:
        return model, lesson.train, lesson.val
    place = accelerator_of(config.training.device)
    model.to(place)
    try:
        lower, upper = split_network(model, _first_images(lesson, SPLIT_IMAGES).to(place))
    except CannotSplit:  # some networks see their lower layers twice; they learn from images, only slower
        return model, lesson.train, lesson.val
    cache = MapCache(
        memory_bytes=config.data.memory_megabytes << 20,
        folder=folder,
        precision=precision_of(config.training.precision, place),
        num_workers=config.data.num_workers,
    )
    preprocess = lesson.train.preprocess
    augmenter = Augmenter(config.augment, preprocess, lesson.task.num_classes, config.training.seed)
    train = cache_maps(lower, lesson.train, augmenter, config.finetune.views, cache)
    plain = replace(cache, precision="32-true", dtype=torch.float32)
    val = None if lesson.val is None else cache_maps(lower, lesson.val, augmenter, 0, plain)
    return upper, train, val


def _first_images(lesson: Lesson, count: int) -> Tensor:
    """float32 [n, C, H, W], normalised, as evaluation sees them."""
    pixels = lesson.train.pixels_of(np.arange(min(count, len(lesson.train))))
    return torch.from_numpy(lesson.train.preprocess.normalise(pixels))


def _hooks(learner: nn.Module, train: ImageSet | CachedMaps, lesson: Lesson, prepared: PreparedMethod) -> TuningHooks:
    """What the method and the settings against overfitting add to the loop."""
    config = lesson.config
    pull = None
    if config.finetune.l2_sp:
        heads = classifier_names(learner)
        fresh = [name for name, _ in learner.named_parameters() if is_part(name, heads)]
        pull = pull_to_start(
            learner,
            config.finetune.l2_sp,
            fresh=() if METHOD_SETTINGS[config.finetune.method].from_probe else fresh,
            fresh_decay=config.optim.weight_decay,
            precision=config.training.precision,
        )
    perturb = attack_hook(learner, lesson.task, train, config.finetune, config.training.seed)
    return TuningHooks(prepared.before_epoch, perturb, pull)


def _take_result(trainer: Trainer, learner: nn.Module) -> None:
    """Put the weights that count into the network: the best on validation or the last, averaged where asked."""
    best = trainer.state.best_checkpoint
    if trainer.config.training.select == "best" and best is not None:
        tensors = load_checkpoint(trainer.run / CHECKPOINTS / best).tensors
        learner.load_state_dict(tensors.get("ema", tensors["model"]))
    elif trainer.average is not None:
        learner.load_state_dict(trainer.average.model.state_dict())
