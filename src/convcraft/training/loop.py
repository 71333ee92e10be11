"""The training loop: batch -> logits -> loss -> backward -> step, in the open.

Fabric places tensors and sets precision; everything else that happens to the weights is written here. A run that was
stopped at any moment goes on as if it had not been: the same weights and the same log, bit for bit on the CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from rich.console import Console
from torch import Tensor, nn

from convcraft.config import RunConfig
from convcraft.data.cached_maps import CachedMaps
from convcraft.data.image_set import ImageSet
from convcraft.data.loader import Batch, EpochPlan, Ids, eval_batches, is_dead_worker, train_batches
from convcraft.tasks.classification import Classification
from convcraft.training import gradient_scaling, optimizer_state, random_state
from convcraft.training.base_trainer import (
    BaseTrainer,
    as_saved,
    common_parts,
    find_checkpoint,
    go_on_from,
    report_non_finite,
)
from convcraft.training.checkpoint import CHECKPOINTS, Checkpoint, Tensors, folder_name, save_checkpoint
from convcraft.training.compiled import network_for
from convcraft.training.devices import build_fabric
from convcraft.training.ema import WeightAverage
from convcraft.training.hooks import TuningHooks
from convcraft.training.interrupt import StopRequest, catch_stop_signals
from convcraft.training.metrics_log import log_is_due
from convcraft.training.optim import build_optimizer
from convcraft.training.profile import Stopwatch
from convcraft.training.progress import TrainingProgress
from convcraft.training.schedules import factor_at
from convcraft.training.state import Tally
from convcraft.training.stops import Interrupted, NonFinite


@dataclass(kw_only=True)
class Trainer(BaseTrainer):
    """A run that torch computes. Build with `prepare_trainer`, then `fit`.

    model is the plain network; network and optimizer are the same objects as Fabric wraps them, network compiled where
    the settings ask for it.
    """

    fabric: Fabric
    model: nn.Module
    network: _FabricModule
    optimizer: _FabricOptimizer
    average: WeightAverage | None
    hooks: TuningHooks = field(default_factory=TuningHooks)
    rate_factors: Mapping[str, float] = field(default_factory=dict)  # parameter name -> multiple of the run's rate

    @property
    def result_model(self) -> nn.Module:
        """The network that is validated and kept: the moving average where there is one."""
        return self.average.model if self.average is not None else self.model

    def start_epoch(self) -> None:
        self.network.train()
        if self.hooks.before_epoch is not None:
            self.hooks.before_epoch(self.state.epoch)

    def put_learning_rate(self, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("rate_factor", 1.0)

    def learn(self, batches: Iterator[Batch], passes: Sequence[Ids]) -> Tally:
        tally = accumulate_gradients(self, batches, passes)
        if self.hooks.before_step is not None:
            self.hooks.before_step()
        take_step(self.fabric, self.optimizer, self.config.training.gradient_clip_norm)
        if self.hooks.after_step is not None:
            self.hooks.after_step(self.state.step + 1)
        self.watch.lap("optimizer")
        if self.average is not None:
            self.average.update(self.state.step)
            self.watch.lap("average")
        return tally

    @torch.no_grad()
    def validate(self, images: ImageSet | CachedMaps) -> tuple[float, float]:
        """In float32; no smoothing or class weights, so that settings can be compared."""
        model, tally = self.result_model, Tally()
        plain = Classification(self.task.num_classes, loss_name=self.task.loss_name)
        was_training = model.training
        model.eval()
        for batch in eval_batches(images, self.config.training.eval_batch_size, self.config.data.num_workers):
            pixels, targets = self.fabric.to_device((batch.images, batch.targets))
            logits = model(pixels)
            tally.add(plain.loss(logits, targets).item(), int(plain.num_correct(logits, targets)), len(targets))
        model.train(was_training)
        return tally.loss, tally.accuracy

    def capture(self) -> tuple[dict[str, Tensors], dict[str, Any]]:
        tensors: dict[str, Tensors] = {
            "model": dict(self.model.state_dict()),
            "optimizer": optimizer_state.to_tensors(self.optimizer.optimizer),
        }
        if self.average is not None:
            tensors["ema"] = dict(self.average.model.state_dict())
        return tensors, {
            "random": random_state.capture(),
            "gradient_scaler": gradient_scaling.state_of(self.fabric),
        }

    def restore(self, tensors: Mapping[str, Tensors], content: Mapping[str, Any]) -> None:
        self.model.load_state_dict(tensors["model"])  # copies in place: the memory layout stays
        optimizer_state.load_tensors(self.optimizer.optimizer, tensors["optimizer"])
        if self.average is not None:
            self.average.model.load_state_dict(tensors["ema"])
        random_state.restore(content["random"])
        gradient_scaling.load_state(self.fabric, content.get("gradient_scaler"))

    def torch_network(self) -> nn.Module:
        return self.model.cpu()

    @property
    def placement(self) -> tuple[str, str]:
        return self.fabric.device.type, self.fabric._precision.precision


def prepare_trainer(
    run: Path,
    config: RunConfig,
    train: ImageSet | CachedMaps,
    val: ImageSet | CachedMaps | None,
    task: Classification,
    model: nn.Module,
    facts: dict[str, Any],
    *,
    resume: bool,
    console: Console,
    profile: bool = False,
    hooks: TuningHooks | None = None,
    rate_factors: Mapping[str, float] | None = None,
) -> Trainer:
    """Put the parts together and, with resume, bring back the newest whole checkpoint.

    With profile, the loop books its time by part. hooks and rate_factors (parameter name -> multiple of the run's
    learning rate) are what a fine-tuning method adds.

    Raises:
        UserError: nothing to resume from.
    """
    facts = as_saved(facts)
    checkpoint = find_checkpoint(run, facts, console) if resume else None
    fabric = build_fabric(config.training)
    if config.training.channels_last:
        model = model.to(memory_format=torch.channels_last)
    num_passes = -(-len(train) // config.training.batch_size) * config.training.epochs
    called = network_for(model, config.training.compile, num_passes, fabric.device.type)
    network, optimizer = fabric.setup(called, build_optimizer(config.optim, model, rate_factors))
    decay = config.training.ema_decay
    hooks = hooks or TuningHooks()
    trainer = Trainer(
        **common_parts(run, config, train, val, task, facts, checkpoint),
        fabric=fabric,
        model=model,
        network=network,
        optimizer=optimizer,
        average=WeightAverage(model, decay) if decay is not None else None,
        hooks=hooks,
        rate_factors=rate_factors or {},
    )
    if hooks.loss is not None:  # known mistakes are recognised by the task's own loss
        trainer.loss_watch = None
    if checkpoint is not None:
        go_on_from(trainer, checkpoint)
    if profile:
        trainer.watch = Stopwatch(fabric.device, checkpoint.state.get("profile") if checkpoint else None)
    return trainer


def fit(trainer: BaseTrainer, console: Console) -> None:
    """Train to the end of the plan.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the state is saved.
        NonFinite: the loss or the weights blew up; the last good checkpoint stands.
    """
    state = trainer.state
    bar = TrainingProgress(console, trainer.total_steps, state.step, trainer.config.training.epochs)
    try:
        with catch_stop_signals() as stop, bar:
            clock = _Clock(state.train_seconds)
            trainer.watch.start()
            state.finished = state.finished or trainer.config.training.epochs == 0
            while not state.finished:
                epoch_tally = train_epoch(trainer, bar, stop, clock)
                finish_epoch(trainer, bar, epoch_tally, clock)
            save(trainer, clock)
            trainer.watch.lap("other")
    except RuntimeError as error:
        if not is_dead_worker(error):
            raise
        # Nothing is saved: the step that was under way has moved batch-norm statistics and random state already.
        raise Interrupted(
            f"a process that decodes images died ({error}); the last checkpoint stands", trainer.run
        ) from error
    finally:
        trainer.log.close()


def train_epoch(trainer: BaseTrainer, bar: TrainingProgress, stop: StopRequest, clock: _Clock) -> Tally:
    """The steps that are left of the running epoch; returns their tally."""
    config, state, watch = trainer.config, trainer.state, trainer.watch
    training, accumulation = config.training, config.training.accumulation_steps
    plan = EpochPlan.draw(training.seed, state.epoch, len(trainer.train), training.batch_size, accumulation)
    passes_left = plan.passes_from(state.step_in_epoch)
    batches = train_batches(trainer.train, trainer.augmenter, passes_left, state.epoch, config.data.num_workers)
    epoch_tally = Tally()
    trainer.start_epoch()
    watch.lap("other")
    for passes in plan.steps[state.step_in_epoch :]:
        learning_rate = set_learning_rate(trainer)
        step_tally = trainer.learn(batches, passes)
        state.step += 1
        state.step_in_epoch += 1
        state.recent.merge(step_tally)
        epoch_tally.merge(step_tally)
        bar.step(state.step, state.epoch, state.recent)
        due = log_is_due(state.step, training.log_every_steps, training.log_schedule)
        if due or state.step == trainer.total_steps:
            bar.warn(log_train(trainer, learning_rate))
        watch.lap("logging")
        if stop:
            save(trainer, clock)
            raise Interrupted(f"stopped at step {state.step} of {trainer.total_steps}; the state is saved", trainer.run)
        if clock.since_save() >= training.checkpoint_seconds:
            save(trainer, clock)
    return epoch_tally


def accumulate_gradients(trainer: Trainer, batches: Iterator[Batch], passes: Sequence[Ids]) -> Tally:
    """Forward and backward for the passes of one optimiser step.

    A pass counts by its share of the step's images, so 4 passes of 16 give the gradient of one pass of 64.
    """
    tally = Tally()
    step_images = sum(len(ids) for ids in passes)
    watch = trainer.watch
    for _ in passes:
        batch = next(batches)
        watch.lap("data")
        images, targets = trainer.fabric.to_device((batch.images, batch.targets))
        watch.lap("transfer")
        if trainer.hooks.perturb is not None:
            images = trainer.hooks.perturb(images, targets)
        logits: Tensor = trainer.network(images)  # [B, K]
        own_loss = trainer.hooks.loss
        loss = trainer.task.loss(logits, targets) if own_loss is None else own_loss(images, logits, targets)
        tally.add(loss.item(), int(trainer.task.num_correct(logits, targets)), len(images))
        if not math.isfinite(tally.loss_sum):
            report_non_finite(trainer, batch, loss.item())
        watch.lap("forward")
        trainer.fabric.backward(loss * (len(images) / step_images))
        watch.lap("backward")
    return tally


def take_step(fabric: Fabric, optimizer: _FabricOptimizer, gradient_clip_norm: float | None) -> None:
    """Move the weights by their gradients, cut to gradient_clip_norm where there is one, and drop the gradients."""
    if gradient_clip_norm is not None:
        gradient_scaling.clip_gradients(fabric, optimizer.optimizer, gradient_clip_norm)
    optimizer.step()
    gradient_scaling.check_scale(fabric)
    optimizer.zero_grad(set_to_none=True)


def set_learning_rate(trainer: BaseTrainer) -> float:
    """The schedule's rate for the coming step, put into the optimiser."""
    schedule, state = trainer.config.schedule, trainer.state
    factor = factor_at(schedule, state.step, trainer.total_steps, trainer.steps_per_epoch) * state.plateau.factor
    learning_rate = trainer.config.optim.learning_rate * factor
    trainer.put_learning_rate(learning_rate)
    return learning_rate


def finish_epoch(trainer: BaseTrainer, bar: TrainingProgress, epoch_tally: Tally, clock: _Clock) -> None:
    """Validate, log, keep what is best, decide whether to go on."""
    config, state = trainer.config, trainer.state
    state.epoch += 1
    state.step_in_epoch = 0
    state.finished = state.epoch == config.training.epochs
    if trainer.val is None:
        bar.epoch(state.epoch, epoch_tally, None, better=False)
        return
    trainer.watch.lap("other")
    loss, accuracy = trainer.validate(trainer.val)
    trainer.watch.lap("validation")
    if not math.isfinite(loss):
        raise NonFinite(f"the validation loss is {loss} after epoch {state.epoch}")
    better = state.record_validation(accuracy, loss)
    if config.schedule.name == "plateau":
        state.plateau.update(config.schedule, loss)
    record = {"event": "val", "epoch": state.epoch, "step": state.step, "loss": loss, "accuracy": accuracy}
    trainer.log.write(record)
    bar.epoch(state.epoch, epoch_tally, (loss, accuracy), better)
    trainer.watch.lap("logging")
    patience = config.training.early_stopping_epochs
    if patience is not None and state.epochs_since_best >= patience:
        state.finished = True
    if better:
        save(trainer, clock)


def log_train(trainer: BaseTrainer, learning_rate: float) -> str | None:
    """One train record: means since the last one; returns what the loss says of a mistake, once."""
    state = trainer.state
    told = None
    if trainer.loss_watch is not None:
        told = trainer.loss_watch.see(state.step, state.recent.loss, state.recent.accuracy)
    trainer.log.write(
        {
            "event": "train",
            "epoch": state.epoch + 1,
            "step": state.step,
            "loss": state.recent.loss,
            "accuracy": state.recent.accuracy,
            "learning_rate": learning_rate,
        }
    )
    state.recent = Tally()
    return told


def save(trainer: BaseTrainer, clock: _Clock) -> None:
    """Write a checkpoint of the present moment, once.

    Raises:
        NonFinite: weights that are not finite numbers are never saved.
    """
    state = trainer.state
    if trainer.saved_name == folder_name(state.step, state.epoch):
        return
    tensors, of_engine = trainer.capture()
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors["model"].values()):
        raise NonFinite(f"weights are not finite after step {state.step}")
    trainer.watch.lap("other")
    state.train_seconds = clock.total()
    content = {
        **state.to_dict(),
        "log_bytes": trainer.log.flush(),
        **of_engine,
        "profile": trainer.watch.seconds(),
        "config": trainer.config.to_dict(),
        **trainer.facts,
    }
    checkpoint = Checkpoint(tensors, content)
    save_checkpoint(trainer.run / CHECKPOINTS, checkpoint, trainer.config.training.keep_checkpoints)
    trainer.saved_name = checkpoint.name
    clock.mark_save()
    trainer.watch.lap("checkpoints")


class _Clock:
    """Wall-clock time in the loop, over all resumes, and since the last checkpoint."""

    def __init__(self, seconds_before: float) -> None:
        self._start = self._saved = time.monotonic()
        self._before = seconds_before

    def total(self) -> float:
        return self._before + time.monotonic() - self._start

    def since_save(self) -> float:
        return time.monotonic() - self._saved

    def mark_save(self) -> None:
        self._saved = time.monotonic()
