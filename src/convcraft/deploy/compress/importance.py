"""What a network loses with a channel, several channels or a block: what pruning goes by.

Each removable part is imagined behind a gate that is open, 1. One forward and backward pass over train images gives the
gradient of every gate: what closing it does to the loss of each image, to first order (Molchanov et al. 2019,
arXiv:1906.10771, with gates where channels are read). Closing several adds up image by image, so that the mean square
of the sum knows which channels replace each other: C^T C / N for the changes C [N, channels] of a group. Channels are
put in order one by one, each time the one that adds least. A block's gate mixes its output with its input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convcraft.deploy.compress.groups import ChannelGroup

Losses = NDArray[np.float64]


class LabelledBatch(Protocol):
    """images: float32 [B, C, H, W], normalised. targets: int64 [B]."""

    @property
    def images(self) -> Tensor: ...
    @property
    def targets(self) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Thinning:
    """How a group is thinned out.

    order: int64 [U], positions of units, the least missed first.
    losses: float64 [U + 1], what is lost without the first 0, 1 ... U of them: mean square of the change of the loss.
    """

    order: NDArray[np.int64]
    losses: Losses


@dataclass(frozen=True)
class Importance:
    """thinning: of each group. blocks: path -> what is lost without the block, in the same measure."""

    thinning: tuple[Thinning, ...]
    blocks: dict[str, float]


def measure_importance(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    blocks: Sequence[str],
    batches: Iterable[LabelledBatch],
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Importance:
    """The importance of channels and blocks for these images.

    Args:
        model: in evaluation mode, on the CPU; its weights stay, its gradients are dropped.
        groups: from `find_groups`. blocks: from `removable_blocks`.
        batches: train images, as evaluation sees them.
        loss: (logits [B, K], targets) -> mean over the batch.
    """
    products = [np.zeros((len(group.units), len(group.units))) for group in groups]
    squares = dict.fromkeys(blocks, 0.0)
    num_images = 0
    with _Gates(model, groups, blocks) as gates:
        for batch in batches:
            gates.clear()
            (loss(model(batch.images), batch.targets) * len(batch.images)).backward()
            model.zero_grad(set_to_none=True)
            num_images += len(batch.images)
            for product, group in zip(products, groups, strict=True):
                changes = gates.of_units(group).double().numpy()
                product += changes.T @ changes
            for path in blocks:
                squares[path] += float(gates.of_block[path].square().sum())
    return Importance(
        tuple(least_missed_first(product / max(num_images, 1)) for product in products),
        {path: total / max(num_images, 1) for path, total in squares.items()},
    )


def least_missed_first(products: Losses) -> Thinning:
    """The greedy order for mean products of the units' changes: float64 [U, U]."""
    single, with_removed = np.diagonal(products), np.zeros(len(products))
    left = np.ones(len(products), bool)
    order, losses = [], [0.0]
    while left.any():
        added = np.where(left, single + 2 * with_removed, np.inf)
        unit = int(added.argmin())
        losses.append(losses[-1] + float(added[unit]))
        order.append(unit)
        left[unit] = False
        with_removed = with_removed + products[unit]
    return Thinning(np.array(order, np.int64), np.array(losses))


class _Gates:
    """Records, within a `with` block, what closing each gate does to the loss of each image."""

    def __init__(self, model: nn.Module, groups: Sequence[ChannelGroup], blocks: Sequence[str]) -> None:
        self.model = model
        self.readers = {reader.path for group in groups for reader in group.readers}
        self.blocks = blocks
        self.handles: list[Any] = []
        self.clear()

    def clear(self) -> None:
        self.of_channel: dict[str, Tensor] = {}  # path of a reader -> [B, channels]
        self.of_block: dict[str, Tensor] = {}  # path -> [B]
        self.given: dict[str, Tensor] = {}

    def of_units(self, group: ChannelGroup) -> Tensor:
        """[B, U]."""
        unit_of = {channel: number for number, unit in enumerate(group.units) for channel in unit}
        any_change = self.of_channel[group.readers[0].path]
        total = any_change.new_zeros(len(any_change), len(group.units))
        for reader in group.readers:
            changes = self.of_channel[reader.path][:, list(reader.channels)]
            total.index_add_(1, torch.tensor([unit_of[of] for of in reader.of]), changes)
        return total

    def __enter__(self) -> _Gates:
        for path in self.readers:
            self.handles.append(self.model.get_submodule(path).register_forward_pre_hook(self._reading(path)))
        for path in self.blocks:
            block = self.model.get_submodule(path)
            self.handles.append(block.register_forward_pre_hook(self._entering(path)))
            self.handles.append(block.register_forward_hook(self._leaving(path)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _reading(self, path: str) -> Callable[[nn.Module, Any], None]:
        def hook(layer: nn.Module, inputs: Any) -> None:
            maps: Tensor = inputs[0]
            channels_last = isinstance(layer, nn.Linear)

            def take(gradient: Tensor) -> None:
                change = maps.detach() * gradient
                change = change if channels_last else change.movedim(1, -1)
                change = change.flatten(1, -2).sum(1) if change.ndim > 2 else change  # [B, channels]
                seen = self.of_channel.get(path)
                self.of_channel[path] = change if seen is None else seen + change

            maps.register_hook(take)

        return hook

    def _entering(self, path: str) -> Callable[[nn.Module, Any], None]:
        def hook(_block: nn.Module, inputs: Any) -> None:
            self.given[path] = inputs[0].detach().clone()  # some blocks write into their input

        return hook

    def _leaving(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_block: nn.Module, _inputs: Any, output: Tensor) -> None:
            change = self.given.pop(path) - output.detach()

            def take(gradient: Tensor) -> None:
                self.of_block[path] = (change * gradient).flatten(1).sum(1)

            output.register_hook(take)

        return hook
