"""A network as a row of stages from input to classifier: what is frozen, unfrozen and given rates together.

Our networks are cut where their papers cut them: at residual stages, at the poolings of a VGG, at the layers of LeNet.
timm's networks say themselves how they are grouped (`group_matcher`); where one does not, its children are the stages.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import Any

import torch
from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.models.classifier import classifier_names
from convcraft.models.layer_head import LayerHead
from convcraft.models.network import Network

TRUNK = "features"  # the one container that holds all stages of a VGG or AlexNet
POOLINGS = (nn.MaxPool2d, nn.AvgPool2d)
DROPOUTS = (nn.modules.dropout._DropoutNd,)
PASSIVE = (*DROPOUTS, nn.Flatten, nn.Identity)


@dataclass(frozen=True)
class Stage:
    """A part of a network that runs as one piece.

    name: the first of its modules that holds tensors.
    modules: module paths, each with all that is below it; no module is in two stages.
    tensors: names of its parameters and buffers, also of those that lie in no module of their own (a class token).
    """

    name: str
    modules: tuple[str, ...]
    tensors: tuple[str, ...]


def stages_of(model: nn.Module, images: Tensor | None = None) -> tuple[Stage, ...]:
    """The stages in running order; the last is the classifier and the dropout before it.

    Every parameter and buffer is in exactly one stage.

    Args:
        model: offers `get_classifier()` (ours and timm's do).
        images: float32 [B, C, H, W]; where given, they are sent through to prove the running order.

    Raises:
        UserError: no classifier, or, with images, layers that run in another order.
    """
    heads = classifier_names(model)
    ordinals = _ordinals(model, heads)
    layers = _stage_of_layers(model, ordinals, heads)
    stages = tuple(_stage(model, number, ordinals, layers) for number in range(max(ordinals.values()) + 1))
    if images is not None:
        check_running_order(model, stages, images)
    return stages


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, then buffers, also those that no state dict shows."""
    return chain(model.named_parameters(), model.named_buffers())


def check_running_order(model: nn.Module, stages: tuple[Stage, ...], images: Tensor) -> None:
    """Send images through and refuse stages that do not run one after the other.

    Args:
        images: float32 [B, C, H, W], on the network's device; black ones do.

    Raises:
        UserError: names the first layer that runs out of order.
    """
    order = _running_order(model, images)
    stage_of = {name: number for number, stage in enumerate(stages) for name in _layers_below(model, stage)}
    reached = 0
    for layer in order:
        number = stage_of.get(layer, reached)
        if number < reached:
            received = f"{layer} of stage {stages[number].name} runs after stage {stages[reached].name}"
            fix = "Choose --method head, norm, bias, lora or full, or another network."
            raise UserError(received, "stages that run one after the other", fix)
        reached = number


def _ordinals(model: nn.Module, heads: tuple[str, ...]) -> dict[str, int]:
    """Number of its stage for every parameter and buffer, from 0 without gaps; the classifier has the last."""
    groups = _groups(model, heads)
    owners = {_owner(name): number for name, number in groups.items()}
    found = {}
    before = 0
    for name in _tensors_by_module(model):
        if not _in_head(model, name, heads):
            # Buffers go with the parameters of their module; a module that holds buffers alone, with the one before.
            before = found[name] = groups.get(name, owners.get(_owner(name), before))
    numbers = {number: place for place, number in enumerate(sorted(set(found.values())))}
    ordinals = {name: numbers[number] for name, number in found.items()}
    return ordinals | {name: len(numbers) for name, _ in named_tensors(model) if name not in ordinals}


def _in_head(model: nn.Module, name: str, heads: tuple[str, ...]) -> bool:
    """Whether a tensor is the classifier's; a head on many layers also holds which of their columns it reads."""
    return is_part(name, heads) or (isinstance(model, LayerHead) and "." not in name)


def _groups(model: nn.Module, heads: tuple[str, ...]) -> dict[str, int]:
    """Parameter name -> number of its group, rising with the running order."""
    if isinstance(model, LayerHead):
        return {f"network.{name}": number for name, number in _groups(model.network, ()).items()}
    matcher = getattr(model, "group_matcher", None)
    if isinstance(model, Network) or matcher is None:
        return _groups_of_children(model, heads)
    return _groups_of_timm(model, matcher, heads)


def _groups_of_timm(model: nn.Module, matcher: Callable[..., Any], heads: tuple[str, ...]) -> dict[str, int]:
    """timm's coarse groups, and what it leaves over as one more; a group of norms alone joins the one before."""
    from timm.models import group_parameters

    numbers: dict[str, int] = group_parameters(model, matcher(coarse=True), reverse=True)
    parameters = dict(model.named_parameters())
    body = {name: number for name, number in numbers.items() if not is_part(name, heads)}
    wide = {number for name, number in body.items() if parameters[name].ndim >= 2} | {0}
    return {name: max(number for number in wide if number <= own) for name, own in body.items()}


def _groups_of_children(model: nn.Module, heads: tuple[str, ...]) -> dict[str, int]:
    """One group per child that multiplies; norms join the layer before. Containers of stages are opened."""
    groups: dict[str, int] = {}
    number, may_start = -1, True
    for name, module, flat, first in _pieces(model, heads):
        opens = first if flat else _multiplies(module)
        may_start = may_start or opens
        tensors = [f"{name}.{tensor}" for tensor, _ in named_tensors(module)]
        if tensors and (number < 0 or (may_start and _multiplies(module))):
            number, may_start = number + 1, False
        groups |= dict.fromkeys(tensors, max(number, 0))
        may_start = may_start or (flat and isinstance(module, POOLINGS))
    return groups


def _pieces(model: nn.Module, heads: tuple[str, ...]) -> Iterator[tuple[str, nn.Module, bool, bool]]:
    """(path, module, whether it lies in a flat list of layers, whether it is the first there), but the classifier."""
    for name, child in model.named_children():
        if name in heads:
            continue
        holds_head = any(head.startswith(f"{name}.") for head in heads)
        if not (isinstance(child, nn.Sequential) and (name == TRUNK or holds_head)):
            yield name, child, False, False
            continue
        inner = [(f"{name}.{key}", module) for key, module in child.named_children() if f"{name}.{key}" not in heads]
        flat = any(isinstance(module, (nn.Conv2d, nn.Linear)) for _, module in inner)
        for place, (path, module) in enumerate(inner):
            yield path, module, flat, place == 0


def _multiplies(module: nn.Module) -> bool:
    """Whether it has a parameter of two or more axes (a norm has none)."""
    return any(parameter.ndim >= 2 for parameter in module.parameters())


def _stage_of_layers(model: nn.Module, ordinals: Mapping[str, int], heads: tuple[str, ...]) -> dict[str, int]:
    """Number of its stage for every layer (a module that holds tensors itself or has no children).

    A layer without tensors belongs where the block around it does, or else the layer before it; dropout right before
    the classifier belongs to that.
    """
    last = max(ordinals.values())
    reached: dict[str, set[int]] = defaultdict(set)  # module path -> the stages of all tensors below
    for tensor, number in ordinals.items():
        for path in paths_above(tensor):
            reached[path].add(number)
    layers: dict[str, int] = {}
    before = 0
    for name, module in model.named_modules():
        if name and (_own_tensors(module) or not any(True for _ in module.children())):
            around = (reached[path] for path in (name, *paths_above(name)) if path in reached)
            whole = next((numbers for numbers in around if len(numbers) == 1), {before})
            before = layers[name] = next(iter(whole))
    body = takewhile(lambda name: name not in heads and not is_part(name, heads), layers)
    passive = list(takewhile(lambda name: isinstance(model.get_submodule(name), PASSIVE), reversed(list(body))))
    while passive and not isinstance(model.get_submodule(passive[-1]), DROPOUTS):
        passive.pop()
    return layers | dict.fromkeys(passive, last)


def paths_above(name: str) -> Iterator[str]:
    """The module paths around a tensor or module, from the nearest; not the network itself."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _stage(model: nn.Module, number: int, ordinals: Mapping[str, int], layers: Mapping[str, int]) -> Stage:
    tensors = tuple(name for name, _ in named_tensors(model) if ordinals[name] == number)
    below: dict[str, set[int]] = defaultdict(set)  # module path -> the stages of all layers below
    for layer, stage in layers.items():
        for path in (layer, *paths_above(layer)):
            below[path].add(stage)
    modules = tuple(
        name for name, _ in model.named_modules() if below[name] == {number} and below[_owner(name)] != {number}
    )
    holders = (name for name in modules if any(tensor.startswith(f"{name}.") for tensor in tensors))
    return Stage(next(holders, tensors[0]), modules, tensors)


def _running_order(model: nn.Module, images: Tensor) -> list[str]:
    """The layers that hold tensors, in the order in which they first run; modes and random state stay."""
    order: list[str] = []
    modes = {module: module.training for module in model.modules()}
    handles = [
        module.register_forward_pre_hook(lambda _module, _args, name=name: order.append(name))
        for name, module in model.named_modules()
        if name and _own_tensors(module)
    ]
    try:
        for module in modes:
            module.training = False
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return list(dict.fromkeys(order))


def _layers_below(model: nn.Module, stage: Stage) -> Iterator[str]:
    for path in stage.modules:
        for name, _ in model.get_submodule(path).named_modules(prefix=path):
            yield name


def _own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _tensors_by_module(model: nn.Module) -> Iterator[str]:
    """Names of parameters and buffers in the order in which the modules were defined."""
    for path, module in model.named_modules():
        yield from (f"{path}.{name}" if path else name for name, _ in _own_tensors(module))


def _owner(tensor_name: str) -> str:
    return tensor_name.rpartition(".")[0]


def is_part(name: str, parts: Sequence[str]) -> bool:
    """Whether a tensor or module of this name lies in one of the parts (module paths)."""
    return any(name.startswith(f"{part}.") for part in parts)
