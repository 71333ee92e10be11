"""What training sees: a few train images, first as they are, then under each kind of random change."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from convcraft.config import AugmentConfig, RunConfig
from convcraft.data.augment import Augmenter
from convcraft.data.augment_kinds import COLOUR_ONLY, KINDS, kinds_that_are_on
from convcraft.data.dataset import TrainingData
from convcraft.data.draws import epoch_order
from convcraft.data.image_set import ImageSet
from convcraft.data.preprocess import Preprocess, measure_mean_std
from convcraft.data.spread import spread
from convcraft.report.augment_sheet import SheetRow, draw_sheet

NUM_IMAGES = 8
STATISTICS_IMAGES = 256  # erased places show the mean colour: so many images are enough for that


def draw_preview(config: RunConfig, data: TrainingData, *, every_kind: bool) -> Image.Image:
    """The sheet of a configuration.

    Every row is what epoch 0 of a run with these settings and this seed sees of these images, but for mixing, whose
    partner is the next column here and the next image of the batch there.

    Args:
        every_kind: show also the kinds that are off, at a strength that shows them.
    """
    seed = config.training.seed
    ids = _one_of_each_class(data.train, seed)
    pixels = data.train.pixels_of(ids)
    seen = _Seen(pixels, data.train.targets[ids], ids, _with_mean(data, config), data.classes, seed)
    rows = [SheetRow("as they are", "", pixels)]
    for kind in KINDS:
        useless = kind.name in COLOUR_ONLY and data.preprocess.channels == 1
        if kind.is_on(config.augment):
            alone = kind.alone(config.augment)
            rows.append(seen.row(kind.name, kind.describe(alone), alone))
        elif every_kind and not useless:
            alone = kind.shown(min(data.preprocess.height, data.preprocess.width))
            rows.append(seen.row(f"{kind.name} (off)", kind.describe(alone), alone, is_on=False))
    on = kinds_that_are_on(config.augment)
    rows.append(seen.row("all together", ", ".join(kind.name for kind in on) or "nothing is on", config.augment))
    heading = f"{data.name}, recipe {config.recipe or 'none'}, seed {seed}: what the first epoch sees"
    return draw_sheet(heading, [data.classes[target] for target in seen.targets], rows)


@dataclasses.dataclass(frozen=True)
class _Seen:
    """The images of the sheet. pixels uint8 [N, H, W, C]; targets and ids int64 [N]."""

    pixels: NDArray[np.uint8]
    targets: NDArray[np.int64]
    ids: NDArray[np.int64]
    preprocess: Preprocess
    classes: Sequence[str]
    seed: int

    def row(self, title: str, setting: str, config: AugmentConfig, is_on: bool = True) -> SheetRow:
        augmenter = Augmenter(config, self.preprocess, len(self.classes), self.seed)
        images, targets = augmenter(torch.from_numpy(self.pixels), torch.from_numpy(self.targets), self.ids, 0)
        captions = tuple(self._shares(row) for row in targets) if targets.ndim == 2 else ()
        return SheetRow(title, setting, _as_pixels(images, self.preprocess), captions, is_on)

    def _shares(self, target: Tensor) -> tuple[str, ...]:
        """Such as "70 % ants", "30 % bees"."""
        largest = target.topk(min(2, len(target)))
        pairs: list[Any] = list(zip(largest.values.tolist(), largest.indices.tolist(), strict=True))
        return tuple(f"{share:.0%} {self.classes[index]}" for share, index in pairs if share >= 0.005)


def _one_of_each_class(images: ImageSet, seed: int) -> NDArray[np.int64]:
    """Eight train images: one of each class, then a second of each ..., so that mixed neighbours differ."""
    order = epoch_order(seed, 0, len(images))
    targets = images.targets[order]
    turn = np.zeros(len(order), dtype=np.int64)  # the how-manieth of its class each image is
    for target in np.unique(targets):
        turn[targets == target] = np.arange((targets == target).sum())
    chosen = np.argsort(turn, kind="stable")[:NUM_IMAGES]
    return order[chosen[np.lexsort((targets[chosen], turn[chosen]))]]


def _with_mean(data: TrainingData, config: RunConfig) -> Preprocess:
    """The contract with mean and std: as configured, or measured on some train images."""
    if config.preprocess.mean is not None:
        return data.preprocess
    some = spread(len(data.train), STATISTICS_IMAGES)
    return data.preprocess.with_statistics(*measure_mean_std(data.train.pixels_of(some)))


def _as_pixels(images: Tensor, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Normalised float32 [N, C, H, W] back to uint8 [N, H, W, C]."""
    levels = images.permute(0, 2, 3, 1) * torch.tensor(preprocess.std) + torch.tensor(preprocess.mean)
    return (levels * 255).round().clamp(0, 255).to(torch.uint8).numpy()
