"""Structured pruning: channels and blocks that matter least leave a network, until a share of the work is left.

Each part has an importance (`importance.py`) and a price, its multiply-adds. One exchange rate between the two decides
about all layers at once: each group is thinned as far as importance lost minus rate times price saved falls, and a
block goes where that is better than thinning it. The rate rises until no more work is left than was asked for.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convcraft.deploy.compress.groups import ChannelGroup, remove_channels
from convcraft.deploy.compress.importance import Importance
from convcraft.errors import UserError
from convcraft.models.build import num_parameters
from convcraft.models.pruned import Shapes, changed_shapes
from convcraft.models.stages import is_part
from convcraft.models.summary import summarise

SEARCH_STEPS = 60
LOWEST_RATE, HIGHEST_RATE = 1e-12, 1e12


@dataclass(frozen=True)
class Cost:
    """multiply_adds: of convolutions, linear layers and attention for one image (`models.summary`)."""

    multiply_adds: int
    parameters: int

    @classmethod
    def of(cls, model: nn.Module, image_shape: tuple[int, int, int]) -> Cost:
        """image_shape: C, H, W."""
        rows = summarise(model, image_shape[1:], image_shape[0])
        return cls(sum(row.multiply_adds for row in rows), num_parameters(model))

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class Limits:
    """What pruning may do.

    largest_cut: largest share of a group's channels to remove, 0..1.
    multiple: channels that are left come in multiples of so many, in groups of at least twice as many.
    thinning_worth: of a multiply-add saved by thinning, where one saved with a whole block counts 1. Layers that are
        thinned still run and still write maps, so that they save less time than work.
    """

    largest_cut: float = 0.8
    multiple: int = 8
    thinning_worth: float = 0.15

    def allowed(self, units: int) -> NDArray[np.int64]:
        """How many units of a group may be removed, rising from 0."""
        least = max(1, math.ceil(units * (1 - self.largest_cut) - 1e-9))
        kept = np.arange(units, least - 1, -1)
        if units >= 2 * self.multiple:
            kept = kept[(kept % self.multiple == 0) | (kept == units)]
        return units - kept


@dataclass(frozen=True)
class Plan:
    """What to remove: positions of units for each group (none of a group within a block), and blocks."""

    units: tuple[tuple[int, ...], ...]
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class Pruned:
    """network: physically smaller, in evaluation mode. shapes: what `model.pruned` records of it."""

    network: nn.Module
    shapes: Shapes
    before: Cost
    after: Cost
    blocks: tuple[str, ...]


def prune_channels(
    model: nn.Module,
    image_shape: tuple[int, int, int],
    groups: Sequence[ChannelGroup],
    importance: Importance,
    *,
    left: float,
    limits: Limits | None = None,
) -> Pruned:
    """A copy of a network with its least important channels and blocks removed.

    Args:
        model: in evaluation mode, on the CPU; stays as it is.
        image_shape: C, H, W.
        groups: from `find_groups`. importance: of these, and of the blocks that may go.
        left: share of the multiply-adds that may be left, 0..1, both excluded.

    Raises:
        UserError: a share outside 0..1, or one that cannot be reached within the limits.
    """
    if not 0 < left < 1:
        fix = "Half of the work: 0.5."
        raise UserError(f"a share of {left} of the multiply-adds to be left", "a number between 0 and 1", fix)
    limits = limits or Limits()
    prices = _Prices(model, image_shape, groups)
    plan = _cheapest(prices, groups, importance, left, limits)
    network = copy.deepcopy(model).eval()
    for path in plan.blocks:
        network.set_submodule(path, nn.Identity())
    stays = [(group, units) for group, units in zip(groups, plan.units, strict=True) if units]
    remove_channels(network, stays, torch.zeros(1, *image_shape))
    return Pruned(
        network=network,
        shapes=changed_shapes(network, model),
        before=Cost.of(model, image_shape),
        after=Cost.of(network, image_shape),
        blocks=plan.blocks,
    )


class _Prices:
    """What a plan leaves of a network's work, from the sizes of its layers."""

    def __init__(self, model: nn.Module, image_shape: tuple[int, int, int], groups: Sequence[ChannelGroup]) -> None:
        rows = summarise(model, image_shape[1:], image_shape[0])
        self.work: dict[str, int] = {}
        for row in rows:
            self.work[row.name] = self.work.get(row.name, 0) + row.multiply_adds
        self.total = sum(self.work.values())
        self.groups = groups
        self.layers: dict[str, Any] = dict(model.named_modules())

    def of_unit(self, group: ChannelGroup) -> float:
        """Multiply-adds of one unit while all else is there."""
        width = len(group.units)
        makers = sum(self.work.get(path, 0) for path in group.makers)
        readers = sum(
            self.work.get(reader.path, 0) * len(reader.channels) / _inputs(self.layers[reader.path])
            for reader in group.readers
        )
        return (makers + readers) / width

    def of_block(self, path: str) -> int:
        return sum(work for name, work in self.work.items() if is_part(name, (path,)))

    def left(self, plan: Plan) -> float:
        """Multiply-adds that are left: each layer's shrink with the channels that it makes and with those it reads."""
        made, read = dict.fromkeys(self.work, 1.0), dict.fromkeys(self.work, 1.0)
        for group, removed in zip(self.groups, plan.units, strict=True):
            kept = 1 - len(removed) / len(group.units)
            for path in group.makers:
                made[path] = kept
            for reader in group.readers:
                gone = (1 - kept) * len(reader.channels) / _inputs(self.layers[reader.path])
                read[reader.path] = read.get(reader.path, 1.0) - gone
        return sum(work * made[path] * read[path] for path, work in self.work.items() if not is_part(path, plan.blocks))


def _inputs(layer: Any) -> int:
    number: int = layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features
    return number


def _cheapest(
    prices: _Prices, groups: Sequence[ChannelGroup], importance: Importance, left: float, limits: Limits
) -> Plan:
    """The plan of the lowest exchange rate that leaves no more than the share."""
    choice = _Choice(prices, groups, importance, limits)
    low, high = LOWEST_RATE, HIGHEST_RATE
    most = prices.left(choice.plan_at(high))
    if most > left * prices.total:
        least = most / prices.total
        fix = f"Let more than {least:.2f} be left, or let a smaller network learn from this one: --into."
        raise UserError(f"a share of {left:g} of the multiply-adds to be left", f"at least {least:.2f} here", fix)
    for _ in range(SEARCH_STEPS):
        middle = math.sqrt(low * high)
        if prices.left(choice.plan_at(middle)) <= left * prices.total:
            high = middle
        else:
            low = middle
    return choice.plan_at(high)


class _Choice:
    """What an exchange rate (importance for a network's whole work) decides."""

    def __init__(self, prices: _Prices, groups: Sequence[ChannelGroup], importance: Importance, limits: Limits) -> None:
        self.importance = importance
        self.allowed = [limits.allowed(len(group.units)) for group in groups]
        self.unit_prices = [limits.thinning_worth * prices.of_unit(group) / prices.total for group in groups]
        self.block_prices = {path: prices.of_block(path) / prices.total for path in importance.blocks}
        self.block_of = [
            next((path for path in importance.blocks if is_part(group.root, (path,))), None) for group in groups
        ]

    def plan_at(self, rate: float) -> Plan:
        removed, gain = [], dict.fromkeys(self.block_prices, 0.0)
        for thinning, allowed, price, block in zip(
            self.importance.thinning, self.allowed, self.unit_prices, self.block_of, strict=True
        ):
            costs = thinning.losses[allowed] - rate * price * allowed
            best = int(costs.argmin())
            removed.append(tuple(sorted(thinning.order[: allowed[best]].tolist())))
            if block is not None:
                gain[block] += float(costs[best])
        gone = tuple(
            path
            for path, price in self.block_prices.items()
            if self.importance.blocks[path] - rate * price <= gain[path]
        )
        return Plan(
            tuple(() if block in gone else units for block, units in zip(self.block_of, removed, strict=True)), gone
        )
