"""Batches for the loop: from memory by index, or streamed through worker processes; the same either way.

Where the frozen layers' output is cached, batches hold that instead of images, and the loop need not know.

An epoch is planned before it starts. The plan is a function of (seed, epoch) alone, so that going on in the middle of
an epoch needs a step number and nothing else.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from convcraft.data.augment import Augmenter
from convcraft.data.cached_maps import CachedMaps
from convcraft.data.draws import epoch_order
from convcraft.data.image_set import ImageSet
from convcraft.data.preprocess import Preprocess
from convcraft.errors import UserError, first_line

SIGNAL_SECONDS = 0.5
EVAL_PIXELS = 32 * 224 * 224  # of a batch that is only judged

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """images float32 [B, C, H, W], normalised; targets int64 [B], or float32 [B, K] after mixing; ids int64 [B].

    From `CachedMaps`, images are what the trained layers take: float32 [B, ...].
    """

    images: Tensor
    targets: Tensor
    ids: Ids


@dataclass(frozen=True)
class EpochPlan:
    """The optimiser steps of one epoch: for each step, the ids of each of its forward passes."""

    steps: Sequence[Sequence[Ids]]

    @classmethod
    def draw(cls, seed: int, epoch: int, num_samples: int, batch_size: int, accumulation_steps: int) -> EpochPlan:
        """Shuffle and share out: every sample once, batches of nearly equal size, none left over tiny.

        (A last batch of one image would break batch norm, and dropping it would lose samples.)
        """
        order = epoch_order(seed, epoch, num_samples)
        num_steps = -(-num_samples // (batch_size * accumulation_steps))
        steps = []
        for step_ids in np.array_split(order, num_steps):
            num_passes = -(-len(step_ids) // batch_size)
            steps.append(np.array_split(step_ids, num_passes))
        return cls(steps)

    def passes_from(self, step: int) -> list[Ids]:
        """The forward passes that are left when `step` optimiser steps are done."""
        return [ids for passes in self.steps[step:] for ids in passes]


def train_batches(
    images: ImageSet | CachedMaps, augmenter: Augmenter, passes: Sequence[Ids], epoch: int, num_workers: int
) -> Iterator[Batch]:
    """Augmented batches of the given ids, in that order."""
    if isinstance(images, CachedMaps):
        return _cached_batches(images, passes, [images.views(augmenter.seed, epoch, ids) for ids in passes])
    return _batches(_TrainPasses(images, augmenter, passes, epoch), num_workers if images.pixels is None else 0)


def batch_size_for(preprocess: Preprocess, at_most: int = 256, pixels: int = EVAL_PIXELS) -> int:
    """How many images go through a network at a time. pixels: of a batch, at most, where one image has fewer."""
    return max(1, min(at_most, pixels // (preprocess.height * preprocess.width)))


def eval_batches(images: ImageSet | CachedMaps, batch_size: int, num_workers: int = 0) -> Iterator[Batch]:
    """All images in order, exactly as the preprocessing contract gives them.

    Args:
        batch_size: at most; of large images fewer, since maps of many take gigabytes and are computed no faster.
    """
    if isinstance(images, ImageSet):
        batch_size = batch_size_for(images.preprocess, batch_size)
    passes = [np.arange(start, min(start + batch_size, len(images))) for start in range(0, len(images), batch_size)]
    if isinstance(images, CachedMaps):
        return _cached_batches(images, passes, [None] * len(passes))
    return _batches(_EvalPasses(images, passes), num_workers if images.pixels is None else 0)


def _cached_batches(images: CachedMaps, passes: Sequence[Ids], views: Sequence[Ids | None]) -> Iterator[Batch]:
    """No workers: there is nothing to decode."""
    for ids, chosen in zip(passes, views, strict=True):
        yield Batch(images.maps_of(ids, chosen), torch.from_numpy(images.targets[ids]), ids)


class _TrainPasses(Dataset["Batch | UserError"]):
    """Forward pass number -> augmented batch. Worker processes hold a copy each.

    An error is handed over as a value: torch would raise it again as a RuntimeError with the worker's traceback in it.
    """

    def __init__(self, images: ImageSet, augmenter: Augmenter, passes: Sequence[Ids], epoch: int) -> None:
        self.images, self.augmenter, self.passes, self.epoch = images, augmenter, passes, epoch

    def __len__(self) -> int:
        return len(self.passes)

    def __getitem__(self, number: int) -> Batch | UserError:
        ids = self.passes[number]
        try:
            pixels = torch.from_numpy(self.images.train_pixels_of(ids))
        except UserError as error:
            return error
        targets = torch.from_numpy(self.images.targets[ids])
        return Batch(*self.augmenter(pixels, targets, ids, self.epoch), ids)


class _EvalPasses(Dataset["Batch | UserError"]):
    def __init__(self, images: ImageSet, passes: Sequence[Ids]) -> None:
        self.images, self.passes = images, passes

    def __len__(self) -> int:
        return len(self.passes)

    def __getitem__(self, number: int) -> Batch | UserError:
        ids = self.passes[number]
        try:
            pixels = self.images.pixels_of(ids)
        except UserError as error:
            return error
        normalised = self.images.preprocess.normalise(pixels)  # float32 [B, C, H, W]
        return Batch(torch.from_numpy(normalised), torch.from_numpy(self.images.targets[ids]), ids)


def _batches(passes: _TrainPasses | _EvalPasses, num_workers: int) -> Iterator[Batch]:
    source: Iterable[Batch | UserError] = (passes[number] for number in range(len(passes)))
    if num_workers > 0:
        source = DataLoader(
            passes,
            batch_size=None,
            shuffle=False,
            num_workers=num_workers,
            prefetch_factor=2,
            worker_init_fn=_leave_signals_to_the_loop,
            generator=torch.Generator(),  # else it draws from the generator that dropout draws from
        )
    try:
        for batch in source:
            if isinstance(batch, UserError):
                raise batch
            yield batch
    except (ConnectionError, EOFError) as error:  # it died while it handed a batch over
        time.sleep(SIGNAL_SECONDS)  # the signal of its death comes too, and torch raises its own error here, not later
        raise DeadWorker(f"a batch broke off: {first_line(error)}") from error


class DeadWorker(RuntimeError):
    """A process that decodes images died: for want of memory, by a signal, by a broken library."""


def is_dead_worker(error: RuntimeError) -> bool:
    """torch raises a RuntimeError of its own for it, wherever the program is when the signal comes."""
    return isinstance(error, DeadWorker) or "DataLoader worker (pid" in str(error)


def _leave_signals_to_the_loop(_worker: int) -> None:
    """Ctrl-C reaches every process of the terminal; only the loop may answer it, workers end when they are told to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
