"""What a frozen network sees in images, computed once: the input of its classifier, and pooled maps of other layers.

A classifier on these features learns in seconds what training the head of the network would learn in many epochs,
because each image goes through the network once (and once more per augmented view) instead of once per epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convcraft.data.augment import Augmenter
from convcraft.data.image_set import ImageSet
from convcraft.data.loader import batch_size_for
from convcraft.data.sample import Progress
from convcraft.errors import UserError
from convcraft.finetune.feature_cache import (
    FeatureCache,
    context_hash,
    image_identities,
    make_room,
    variation_hash,
    view_key,
)
from convcraft.finetune.map_warp import MapWarp
from convcraft.finetune.tapped_network import TappedNetwork
from convcraft.training.allocator import keep_freed_memory
from convcraft.training.devices import accelerator_of, precision_of

BATCH_PIXELS = 16 * 224 * 224  # per forward pass: larger ones were not faster on a CPU
LARGEST_BATCH = 512
BATCHES_PER_CHUNK = 4  # rows are kept chunk by chunk: a kill loses at most so much work

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Features:
    """N images, each as evaluation sees it (index 0) and in V augmented views (1..V).

    last: float32 [V+1, N, D], what the network's classifier gets.
    tapped: layer name -> float32 [V+1, N, D_l], its pooled output.
    num_computed: rows that went through the network; the others came from the cache.
    warped: float32 [W, N, D], what the classifier gets of the image's last maps, each time changed otherwise. Put
        behind the image's own row they are views for `fit_probe`.
    """

    last: NDArray[np.float32]
    tapped: dict[str, NDArray[np.float32]]
    num_computed: int
    warped: NDArray[np.float32]

    @property
    def num_views(self) -> int:
        return len(self.last) - 1

    def subset(self, ids: Ids) -> Features:
        """These images, in this order."""
        tapped = {name: values[:, ids] for name, values in self.tapped.items()}
        return Features(self.last[:, ids], tapped, self.num_computed, self.warped[:, ids])


def extract_features(
    model: nn.Module,
    images: ImageSet,
    *,
    taps: Sequence[str] = (),
    views: int = 0,
    augmenter: Augmenter | None = None,
    cache_dir: Path | None = None,
    device: str = "cpu",
    precision: str = "auto",
    pool_side: int = 1,
    warp: MapWarp | None = None,
    num_warped: int = 0,
    progress: Progress | None = None,
) -> Features:
    """Send images through a copy of the network in evaluation mode; the network itself is not touched.

    Args:
        model: offers `get_classifier()` (our networks and timm's do).
        taps: modules whose outputs are wanted as well: maps [B, C, H, W] are averaged over H and W, tokens [B, T, C]
            over T.
        views: V; view v is what `augmenter` makes of the image in "epoch" v, so it depends on (seed, v, the image's
            number in the set) alone.
        augmenter: needed for views; must not mix images.
        cache_dir: `feature_cache.features_dir()` or another folder; None remembers nothing. What lies there stays
            below `feature_cache.LARGEST_CACHE_BYTES`; what was used longest ago goes first.
        device: auto, cpu, cuda or mps.
        precision: 32-true, bf16-mixed, or auto: the image itself in float32, as evaluation computes it, its views in
            bfloat16 where the hardware multiplies in it (half the time, and views are noisy by intent).
        pool_side: tapped maps are averaged over a grid of so many by so many cells; 1 is the whole map.
        warp, num_warped: what becomes of the image's last maps before the network's own head pools them, and how often:
            views made after the network instead of before it, at next to no cost.

    Raises:
        InOnePiece: `warp`, and a network that cannot be parted before its head.
        UserError: a network without classifier, an unknown layer, views without an augmenter or with one that mixes.
    """
    _check(images, views, augmenter)
    place = accelerator_of(device)
    network = TappedNetwork(model, tuple(taps), pool_side, place, images.preprocess, warp, num_warped)
    plain = "32-true" if precision == "auto" else precision_of(precision, place)
    precisions = [plain, *[precision_of(precision, place)] * views]
    facts: dict[str, Any] = {"place": place, "pool_side": pool_side, "taps": list(taps)}
    context = None if cache_dir is None else cache_dir / context_hash(model, images.preprocess, facts)
    rows, num_computed = _compute(_Work(network, images, augmenter, precisions), context, progress)
    width, ends = sum(network.widths), np.cumsum(network.widths)[:-1]
    parts = np.split(np.stack([view[:, :width] for view in rows]), ends, axis=2)
    warped = rows[0][:, width:].reshape(len(images), num_warped, network.widths[0]).swapaxes(0, 1)
    return Features(parts[0], dict(zip(taps, parts[1:], strict=True)), num_computed, warped)


def _check(images: ImageSet, views: int, augmenter: Augmenter | None) -> None:
    if not len(images):
        raise UserError("no images", "at least one", "Check that the split is not empty.")
    if views and augmenter is None:
        raise UserError(f"{views} views and no augmenter", "an augmenter", "Pass augmenter=, or views=0.")
    if views and augmenter is not None and (augmenter.config.mixup_alpha or augmenter.config.cutmix_alpha):
        fix = "Set augment.mixup_alpha and augment.cutmix_alpha to 0."
        raise UserError("views in which images are mixed", "one label per view", fix)


@dataclass(frozen=True)
class _Work:
    """precisions: of each view, the image itself first, whose rows hold its warped maps as well."""

    network: TappedNetwork
    images: ImageSet
    augmenter: Augmenter | None
    precisions: Sequence[str]

    @property
    def batch_size(self) -> int:
        return batch_size_for(self.images.preprocess, LARGEST_BATCH, BATCH_PIXELS)

    def rows(self, pixels: NDArray[np.uint8], ids: Ids, view: int) -> NDArray[np.float32]:
        """Rows float32 [n, width] of a chunk's images in one view. pixels: uint8 [n, H, W, C]."""
        starts = range(0, len(ids), self.batch_size)
        return np.concatenate(
            [self._batch(pixels[s : s + self.batch_size], ids[s : s + self.batch_size], view) for s in starts]
        )

    def _batch(self, pixels: NDArray[np.uint8], ids: Ids, view: int) -> NDArray[np.float32]:
        if view:
            assert self.augmenter is not None
            targets = torch.from_numpy(self.images.targets[ids])
            images = self.augmenter(torch.from_numpy(pixels), targets, ids, view)[0]
        else:
            images = torch.from_numpy(self.images.preprocess.normalise(pixels))
        return self.network(images, ids, self.precisions[view], warped=view == 0)

    @property
    def widths(self) -> list[int]:
        """Numbers per row, by view."""
        return [sum(self.network.widths if view else self.network.all_widths) for view in range(len(self.precisions))]

    def chunks(self, wanted: Ids) -> Iterator[tuple[Ids, NDArray[np.uint8]]]:
        """(ids, pixels) of the wanted images; the next chunk is decoded while this one is computed."""
        size = self.batch_size * BATCHES_PER_CHUNK
        chunks = [wanted[start : start + size] for start in range(0, len(wanted), size)]
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(self.images.pixels_of, chunks[0]) if chunks else None
            for number, ids in enumerate(chunks):
                assert pending is not None
                pixels = pending.result()
                if number + 1 < len(chunks):
                    pending = pool.submit(self.images.pixels_of, chunks[number + 1])
                yield ids, pixels


class _Memory:
    """The cached rows of one extraction, by view and image."""

    def __init__(self, context: Path, work: _Work) -> None:
        identities, warp = image_identities(work.images), work.network.warp
        self.keys, self.caches = [], []
        for view, (precision, width) in enumerate(zip(work.precisions, work.widths, strict=True)):
            numbered = view > 0 or warp is not None  # then an image's number in the set matters
            name = f"{view}-{precision}"
            if view:
                assert work.augmenter is not None
                name += f"-{variation_hash(work.augmenter.config, work.augmenter.seed)[:32]}"
            elif warp is not None:
                name += f"-{variation_hash(warp, work.network.num_warped)[:32]}"
            self.caches.append(FeatureCache(context / name, width))
            keys = [view_key(identity, view, index) for index, identity in enumerate(identities)]
            self.keys.append(keys if numbered else identities)
        self.writes = make_room(context.parent, sum(work.widths) * len(identities) * 4)

    def fill(self, rows: Sequence[NDArray[np.float32]], missing: NDArray[np.bool_]) -> None:
        """Put what is known into rows, V+1 times [N, width], and clear its marks in missing [V+1, N]."""
        for view, (cache, keys) in enumerate(zip(self.caches, self.keys, strict=True)):
            known = cache.find(keys)
            for index, key in enumerate(keys):
                if key in known:
                    rows[view][index] = known[key]
                    missing[view, index] = False

    def add(self, view: int, ids: Ids, rows: NDArray[np.float32]) -> None:
        if self.writes:
            self.caches[view].add([self.keys[view][index] for index in ids], rows)


def _compute(work: _Work, context: Path | None, progress: Progress | None) -> tuple[list[NDArray[np.float32]], int]:
    """Rows float32 [N, width] of each view, and how many went through the network. context: where rows are kept."""
    if work.network.place == "cpu":
        keep_freed_memory()
    memory = None if context is None else _Memory(context, work)
    rows = [np.empty((len(work.images), width), np.float32) for width in work.widths]
    missing = np.ones((len(rows), len(work.images)), np.bool_)
    if memory is not None:
        memory.fill(rows, missing)
    num_computed = int(missing.sum())
    done = 0
    for ids, pixels in work.chunks(np.flatnonzero(missing.any(axis=0))):
        for view in range(len(work.precisions)):
            here = missing[view, ids]
            if not here.any():
                continue
            chosen = ids[here]
            rows[view][chosen] = work.rows(pixels[here], chosen, view)
            if memory is not None:
                memory.add(view, chosen, rows[view][chosen])
            done += len(chosen)
            if progress is not None:
                progress(done, num_computed, "extracting features")
    return rows, num_computed
