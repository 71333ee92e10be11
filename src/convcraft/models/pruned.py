"""A network with fewer channels than its name stands for: layers cut to recorded sizes, blocks left out.

Pruning changes sizes and nothing else, so a few whole numbers beside the network's name rebuild it; the weights then
load strictly. They stand in the settings of a run as `model.pruned`:

    layer1.0.conv1: [8, 16]     convolution or linear layer: channels out and in
    layer1.0.bn1: [8]           norm: channels
    layer1.3: []                block left out: its input goes on as it is
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from convcraft.errors import UserError
from convcraft.models.stages import is_part

Shapes = dict[str, list[int]]


class CannotRecord(Exception):
    """A layer was changed in a way that `model.pruned` has no words for; the message names it."""


def apply_shapes(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Cut the layers of a freshly built network to the recorded sizes; what is kept are the first start values.

    Args:
        model: of full size; changed in place.
        shapes: module path -> [out, in], [channels], or [] for a block to leave out.

    Raises:
        UserError: a path that the network does not have, a layer that has no such size, or a size larger than it has.
    """
    for path, sizes in sorted(shapes.items(), key=lambda item: bool(item[1])):  # blocks first: what is in them goes too
        try:
            module = model.get_submodule(path)
        except AttributeError as error:
            near = difflib.get_close_matches(path, [name for name, _ in model.named_modules()], n=1)
            fix = f"Did you mean {near[0]}?" if near else "Restore the settings that pruning wrote."
            raise UserError(f"model.pruned names {path!r}", f"a layer of {type(model).__name__}", fix) from error
        if not sizes:
            model.set_submodule(path, nn.Identity())
            continue
        own = sizes_of(module)
        if own is None or len(own) != len(sizes) or not all(1 <= n <= most for n, most in zip(sizes, own, strict=True)):
            received = f"model.pruned gives {path} the size {list(sizes)}"
            expected = f"at least 1 and at most {own}" if own else "a convolution, a linear layer or a norm"
            raise UserError(received, expected, "Restore the settings that pruning wrote.")
        _resize(module, list(sizes))


def changed_shapes(model: nn.Module, full: nn.Module) -> Shapes:
    """What `apply_shapes` needs to make of `full` a network of the sizes of `model`.

    Raises:
        CannotRecord: a tensor differs in size that belongs to no layer whose sizes can be recorded.
    """
    shapes: Shapes = {}
    now = dict(model.named_modules())
    for path, module in full.named_modules():
        if is_part(path, [left_out for left_out, sizes in shapes.items() if not sizes]):
            continue
        if isinstance(now.get(path), nn.Identity) and not isinstance(module, nn.Identity):
            shapes[path] = []
            continue
        were, are = sizes_of(module), sizes_of(now[path])
        if are is not None and were != are:
            shapes[path] = are
        elif are is None and _own_sizes(module) != _own_sizes(now[path]):
            raise CannotRecord(f"{path} ({type(module).__name__})")
    return shapes


def joined_shapes(earlier: Mapping[str, Sequence[int]], later: Mapping[str, Sequence[int]]) -> Shapes:
    """What two prunings together made of a network; of layers within a block that is gone, nothing is left to say."""
    both = {path: list(sizes) for path, sizes in {**earlier, **later}.items()}
    gone = [path for path, sizes in both.items() if not sizes]
    return {path: sizes for path, sizes in both.items() if path in gone or not is_part(path, gone)}


def sizes_of(module: nn.Module) -> list[int] | None:
    """[out, in] of a convolution or linear layer, [channels] of a norm; None of all else."""
    if isinstance(module, nn.Conv2d):
        return [module.out_channels, module.in_channels]
    if isinstance(module, nn.Linear):
        return [module.out_features, module.in_features]
    if isinstance(module, _BatchNorm):
        return [module.num_features]
    return None


def _own_sizes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in _own_tensors(module)}


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _resize(module: Any, sizes: list[int]) -> None:
    if isinstance(module, nn.Conv2d):
        if 1 < module.groups == module.in_channels:  # depthwise: a kernel for each channel
            module.groups = sizes[1]
        module.out_channels, module.in_channels = sizes
        wanted = [sizes[0], sizes[1] // module.groups]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = sizes
        wanted = sizes
    else:
        (module.num_features,) = wanted = sizes
    for name, tensor in list(_own_tensors(module)):
        if tensor.ndim == 0:  # a counter
            continue
        cut = tensor.detach()[tuple(slice(size) for size in wanted[: tensor.ndim])].clone()
        if isinstance(tensor, nn.Parameter):
            setattr(module, name, nn.Parameter(cut, requires_grad=tensor.requires_grad))
        else:
            setattr(module, name, cut)


def same_outputs(model: nn.Module, other: nn.Module, images: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether two networks in evaluation mode answer alike but for rounding.

    tolerance: as a share of the largest logit.
    """
    with torch.no_grad():
        one, two = model.eval()(images), other.eval()(images)
    return bool((one - two).abs().max() <= tolerance * one.abs().max().clamp_min(1e-6))
