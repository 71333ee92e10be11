"""Which channels of a network can be removed together, proven on the network itself.

Removing a channel means removing it from every layer that makes it, carries it or reads it. torch-pruning (Fang et al.
2023, "DepGraph", arXiv:2301.12900) follows a forward pass and names these layers. Some networks mislead it: shortcuts
that pad with zero channels, reshapes with channel numbers in the code, norms over channels. So each group is put to
the test: a copy without half of its channels must answer exactly as a copy in which nothing reads them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convcraft.errors import UserError, first_line
from convcraft.models.build import MISFITS
from convcraft.models.classifier import classifiers
from convcraft.models.pruned import CannotRecord, changed_shapes, same_outputs

EXACT = 1e-9  # of the largest logit, in float64
PROBE_IMAGES = 2


@dataclass(frozen=True)
class Reader:
    """A layer that reads the channels of a group. channels: of its input, in which group channel `of` they are."""

    path: str
    channels: tuple[int, ...]
    of: tuple[int, ...]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are removed from all their layers at once.

    root: path of a layer that makes them. makers: all such layers, norms included.
    units: what can be removed on its own, channels of the root; of layers in groups one channel of each group.
    """

    root: str
    makers: tuple[str, ...]
    readers: tuple[Reader, ...]
    units: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Groups:
    """sound: groups that can be pruned. refused: (root, why) of those that cannot."""

    sound: tuple[ChannelGroup, ...]
    refused: tuple[tuple[str, str], ...]


def find_groups(model: nn.Module, image_shape: tuple[int, int, int]) -> Groups:
    """The groups of a network, each proven; classifier and input channels belong to none.

    Args:
        model: in evaluation mode on the CPU; stays as it is.
        image_shape: C, H, W of its images.

    Raises:
        UserError: no classifier, or a network that cannot be followed at all.
    """
    images = torch.randn(PROBE_IMAGES, *image_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = copy.deepcopy(model).double().eval()
    candidates, refused = _candidates(exact, images)
    sound, faulty = _proven(exact, candidates, images)
    return Groups(tuple(sound), (*refused, *faulty))


def remove_channels(model: nn.Module, removed: Sequence[tuple[ChannelGroup, Sequence[int]]], images: Tensor) -> None:
    """Cut channels out of a network, in place.

    Args:
        removed: groups with the positions of the units to remove; never all of a group.
        images: any that the network takes, of its own type.
    """
    graph = _followed(model, images)
    for group, positions in removed:
        channels = sorted(channel for position in positions for channel in group.units[position])
        if channels:
            root = model.get_submodule(group.root)
            prune = graph.get_pruner_of_module(root).prune_out_channels
            graph.get_pruning_group(root, prune, channels).prune()


def _followed(model: nn.Module, images: Tensor) -> Any:
    """torch-pruning's graph of a network."""
    from torch_pruning import DependencyGraph  # of the extra `compress`

    return DependencyGraph().build_dependency(model, images, verbose=False)


def _candidates(model: nn.Module, images: Tensor) -> tuple[list[ChannelGroup], list[tuple[str, str]]]:
    fixed = list(classifiers(model).values())
    try:
        graph = _followed(model, images)
        found = list(graph.get_all_groups(ignored_layers=fixed, root_module_types=(nn.Conv2d, nn.Linear)))
    except (*MISFITS, NotImplementedError) as error:
        fix = "Use --sparsity or --into, which work with any network."
        raise UserError(
            f"{type(model).__name__} cannot be followed: {error}", "a network of plain layers", fix
        ) from error
    names = {module: name for name, module in model.named_modules()}
    groups: list[ChannelGroup] = []
    refused: list[tuple[str, str]] = []
    for each in found:
        group = _described(graph, each, names)
        if isinstance(group, str):
            refused.append((names[each[0].dep.target.module], group))
        else:
            groups.append(group)
    return groups, refused


def _described(graph: Any, found: Any, names: dict[nn.Module, str]) -> ChannelGroup | str:
    """A group of torch-pruning in our words; a sentence where it cannot be pruned."""
    root = found[0].dep.target.module
    makers, readers, parts = [], [], 1
    for item in found:
        module = item.dep.target.module
        if isinstance(module, nn.Parameter):
            return "a parameter outside of layers belongs to it"
        if module not in names:  # an operation without weights
            continue
        if graph.is_out_channel_pruning_fn(item.dep.handler):
            makers.append(names[module])
        else:
            if any(place is None for place in item.root_idxs):
                return f"what {names[module]} reads cannot be told"
            readers.append(Reader(names[module], tuple(item.idxs), tuple(item.root_idxs)))
        if isinstance(module, nn.Conv2d) and 1 < module.groups < max(module.in_channels, module.out_channels):
            parts = max(parts, module.groups)
    channels = graph.get_out_channels(root)
    if not readers:
        return "nothing reads it"
    if channels % parts:
        return f"{channels} channels in {parts} groups"
    width = channels // parts
    units = tuple(tuple(place + part * width for part in range(parts)) for place in range(width))
    return ChannelGroup(names[root], tuple(makers), tuple(readers), units)


def _proven(
    model: nn.Module, groups: Sequence[ChannelGroup], images: Tensor
) -> tuple[list[ChannelGroup], list[tuple[str, str]]]:
    """Groups that pass the test together are sound; of those that do not, each half is tried."""
    why = _fault(model, groups, images)
    if why is None:
        return list(groups), []
    if len(groups) == 1:
        return [], [(groups[0].root, why)]
    middle = len(groups) // 2
    (first, faults), (second, more) = (_proven(model, half, images) for half in (groups[:middle], groups[middle:]))
    return first + second, faults + more


def _fault(model: nn.Module, groups: Sequence[ChannelGroup], images: Tensor) -> str | None:
    """Why half of the channels of these groups cannot be removed; None where they can."""
    if any(len(group.units) == 1 for group in groups):
        return "one channel only"
    removed = [(group, range(0, len(group.units), 2)) for group in groups]
    pruned, silenced = copy.deepcopy(model), copy.deepcopy(model)
    try:
        remove_channels(pruned, removed, images)
        changed_shapes(pruned, model)
        for group, positions in removed:
            _silence(silenced, group, positions)
        if same_outputs(silenced, pruned, images, EXACT):
            return None
        return "other layers depend on these channels in a way that cannot be followed"
    except (*MISFITS, CannotRecord) as error:
        return first_line(error)


@torch.no_grad()
def _silence(model: nn.Module, group: ChannelGroup, positions: Sequence[int]) -> None:
    """Let nothing read these channels: the weights on them become zero."""
    gone = {channel for position in positions for channel in group.units[position]}
    for reader in group.readers:
        layer: Any = model.get_submodule(reader.path)
        for channel, of in zip(reader.channels, reader.of, strict=True):
            if of not in gone:
                continue
            if isinstance(layer, nn.Conv2d) and layer.groups > 1:
                wide, high = layer.in_channels // layer.groups, layer.out_channels // layer.groups
                part, place = divmod(channel, wide)
                layer.weight[part * high : (part + 1) * high, place] = 0
            else:
                layer.weight[:, channel] = 0
