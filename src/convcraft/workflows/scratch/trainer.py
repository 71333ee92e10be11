"""A run that NumPy computes: the same loop, data, plan and run folder as torch's, with `convcraft.scratch` inside."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from convcraft.config import RunConfig
from convcraft.data.cached_maps import CachedMaps
from convcraft.data.image_set import ImageSet
from convcraft.data.loader import Batch, Ids, eval_batches
from convcraft.errors import UserError
from convcraft.scratch import parallel
from convcraft.scratch.checks import Array
from convcraft.scratch.halves import Halves, in_halves
from convcraft.scratch.module import Module
from convcraft.scratch.optim import Optimizer, clip_grad_norm
from convcraft.tasks.classification import Classification
from convcraft.training.allocator import keep_freed_memory
from convcraft.training.base_trainer import (
    BaseTrainer,
    as_saved,
    common_parts,
    find_checkpoint,
    go_on_from,
    report_non_finite,
)
from convcraft.training.checkpoint import DamagedCheckpoint, Tensors
from convcraft.training.profile import Stopwatch
from convcraft.training.state import Tally
from convcraft.workflows.scratch.loss import NumpyLoss, num_correct
from convcraft.workflows.scratch.networks import check_network, held_modules, numpy_network
from convcraft.workflows.scratch.optimizer import check_optimizer, load_memory, memory_tensors, numpy_optimizer


@dataclass(kw_only=True)
class NumpyTrainer(BaseTrainer):
    """Build with `prepare_numpy_trainer`, then `training.loop.fit`.

    Attributes:
        model: the torch twin: it gave the start values, and judges and draws the finished run.
        network: what learns.
        passes: what batches go through while it learns: the network, by halves of the batch where it can be.
        held: modules of frozen parts, which stay in evaluation mode.
        average: moving average of the weights, a network of its own; None without.
        loss: of training, with smoothing and class weights.
        rng: what dropout draws from.
    """

    model: nn.Module
    network: Module
    passes: Halves | Module
    held: list[Module]
    optimizer: Optimizer
    average: Module | None
    loss: NumpyLoss
    rng: np.random.Generator

    def start_epoch(self) -> None:
        self.network.train()
        for module in self.held:
            module.training = False

    def put_learning_rate(self, learning_rate: float) -> None:
        for group in self.optimizer.groups:
            group["learning_rate"] = learning_rate

    def learn(self, batches: Iterator[Batch], passes: Sequence[Ids]) -> Tally:
        """batch -> logits -> loss -> backward, once per pass, then step.

        A pass counts by its share of the step's images, so 4 passes of 16 give the gradient of one pass of 64.
        """
        tally, watch = Tally(), self.watch
        step_images = sum(len(ids) for ids in passes)
        self.network.zero_grad()
        for _ in passes:
            batch = next(batches)
            watch.lap("data")
            images, targets = self._arrays(batch)
            logits = self.passes(images)  # [B, K]
            loss = self.loss(logits, targets)
            tally.add(loss, num_correct(logits, targets), len(images))
            if not math.isfinite(tally.loss_sum):
                report_non_finite(self, batch, loss)
            watch.lap("forward")
            share = np.float32(len(images) / step_images)
            self.passes.backward(self.loss.backward() * share)
            watch.lap("backward")
        if self.config.training.gradient_clip_norm is not None:
            trained = [parameter for group in self.optimizer.groups for parameter in group["parameters"]]
            clip_grad_norm(trained, self.config.training.gradient_clip_norm)
        self.optimizer.step()
        watch.lap("optimizer")
        if self.average is not None:
            blend(self.average, self.network, self.config.training.ema_decay or 0.0, self.state.step)
            watch.lap("average")
        return tally

    def validate(self, images: ImageSet | CachedMaps) -> tuple[float, float]:
        """No smoothing or class weights, so that settings can be compared."""
        network, tally = self.average or self.network, Tally()
        loss = NumpyLoss(Classification(self.task.num_classes, loss_name=self.task.loss_name))
        network.eval()
        for batch in eval_batches(images, self.config.training.eval_batch_size, self.config.data.num_workers):
            pixels, targets = self._arrays(batch)
            logits = network(pixels)
            tally.add(loss(logits, targets), num_correct(logits, targets), len(targets))
        return tally.loss, tally.accuracy

    def capture(self) -> tuple[dict[str, Tensors], dict[str, Any]]:
        tensors = {"model": tensors_of(self.network), "optimizer": memory_tensors(self.optimizer)}
        if self.average is not None:
            tensors["ema"] = tensors_of(self.average)
        return tensors, {"random": {"dropout": self.rng.bit_generator.state}}

    def restore(self, tensors: Mapping[str, Tensors], content: Mapping[str, Any]) -> None:
        load_tensors(self.network, tensors["model"])
        load_memory(self.optimizer, tensors["optimizer"])
        if self.average is not None:
            load_tensors(self.average, tensors["ema"])
        try:
            self.rng.bit_generator.state = content["random"]["dropout"]
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedCheckpoint(f"random state of another kind ({error})") from error

    def torch_network(self) -> nn.Module:
        return self.model

    @property
    def placement(self) -> tuple[str, str]:
        return "cpu", "32-true"

    def own_facts(self) -> dict[str, Any]:
        return {"engine": "numpy"}

    def _arrays(self, batch: Batch) -> tuple[Array, Array]:
        """The batch in NumPy: the same memory, channels last or first as `training.channels_last` wants it."""
        images = batch.images.numpy()  # float32 [B, C, H, W]
        return images if self.config.training.channels_last else np.ascontiguousarray(images), batch.targets.numpy()


def check_numpy(config: RunConfig) -> None:
    """Refuse every setting that the NumPy engine does not have; none is ignored.

    Raises:
        UserError: the first of them, and what to do.
    """
    training = config.training
    check_network(config.model)
    check_optimizer(config.optim)
    refused = {
        "training.precision": (training.precision, ("auto", "32-true"), "float32"),
        "training.compile": (training.compile, ("off", "auto"), "no compiler"),
        "training.device": (training.device, ("auto", "cpu"), "the CPU"),
        "finetune.method": (config.finetune.method, ("none",), "training; `convcraft finetune` computes in torch"),
    }
    for name, (value, allowed, expected) in refused.items():
        if value not in allowed:
            fix = f"Set {name} to {allowed[0]}, or train with torch: convcraft train."
            raise UserError(f"{name} {value} in NumPy", expected, fix)


def prepare_numpy_trainer(
    run: Path,
    config: RunConfig,
    train: ImageSet,
    val: ImageSet | None,
    task: Classification,
    model: nn.Module,
    facts: dict[str, Any],
    *,
    resume: bool,
    console: Console,
    profile: bool = False,
) -> NumpyTrainer:
    """As `training.loop.prepare_trainer`: all parts, with resume as the newest whole checkpoint has them.

    Args:
        model: the torch network with its start values and frozen parts; it is not trained.

    Raises:
        UserError: nothing to resume from.
    """
    keep_freed_memory()
    facts = as_saved(facts)
    checkpoint = find_checkpoint(run, facts, console) if resume else None
    rng = np.random.default_rng(config.training.seed)
    network = numpy_network(config.model, model, rng)
    trainer = NumpyTrainer(
        **common_parts(run, config, train, val, task, facts, checkpoint),
        model=model,
        network=network,
        passes=in_halves(network),
        held=held_modules(network, model),
        optimizer=numpy_optimizer(config.optim, network),
        average=copy.deepcopy(network).eval() if config.training.ema_decay is not None else None,
        loss=NumpyLoss(task),
        rng=rng,
    )
    if checkpoint is not None:
        go_on_from(trainer, checkpoint)
    if profile:
        trainer.watch = Stopwatch(None, checkpoint.state.get("profile") if checkpoint else None)
    return trainer


def blend(average: Module, network: Module, decay: float, step: int) -> None:
    """average += (1 - decay) (network - average), batch norm's statistics too; as `training.ema`, with its warm-up."""
    share = np.float32(1 - min(decay, (1 + step) / (10 + step)))
    for mean, current in zip(stored(average), stored(network), strict=True):
        if np.issubdtype(mean.data.dtype, np.floating):
            mean.data += share * (current.data - mean.data)
        else:
            mean.data = current.data.copy()


def stored(network: Module) -> list[Any]:
    """Parameters, then buffers."""
    return [item for kind in (network.named_parameters(), network.named_buffers()) for _, item in kind]


def tensors_of(network: Module) -> Tensors:
    """The weights as torch tensors under torch's names."""
    return {name: torch.from_numpy(array) for name, array in network.state_dict().items()}


def load_tensors(network: Module, tensors: Tensors) -> None:
    network.load_state_dict({name: tensor.numpy() for name, tensor in tensors.items()})


@contextmanager
def numpy_threads(number: int) -> Iterator[None]:
    """Within the block, NumPy works on so many chunks of images at a time, and torch, which augments, has as many
    threads. BLAS has one for each chunk whatever the number, so that the weights do not depend on it.

    NumPy's warnings of overflow are kept quiet: the loop stops at the first loss that is not finite, and says so.
    """
    torch_before, blas_before = torch.get_num_threads(), parallel.blas_threads()
    torch.set_num_threads(number)
    parallel.set_blas_threads(1)
    parallel.use_threads(number)
    try:
        with warnings.catch_warnings():  # np.errstate would not reach the threads
            warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"convcraft\.scratch")
            yield
    finally:
        parallel.use_threads(1)
        if blas_before is not None:
            parallel.set_blas_threads(blas_before)
        torch.set_num_threads(torch_before)
