"""Which blocks of a network can be left out whole: those whose shortcut passes their input on.

Without its inner channels a residual block is its shortcut, so a block is the most that can be removed of one. On
processors with wide vectors a block less saves far more time than the same multiplications taken from many layers.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from convcraft.models.build import MISFITS
from convcraft.models.stages import is_part


def removable_blocks(model: nn.Module, images: Tensor) -> tuple[str, ...]:
    """Paths of the blocks that pass on their input, or its positive part, when all their weights are zero and the input
    is as it comes there; of nested ones the innermost.

    Args:
        model: in evaluation mode; stays as it is.
        images: float32 [B, C, H, W], normalised.
    """
    blocks = {
        path: block
        for path, block in model.named_modules()
        if path and sum(isinstance(part, nn.Conv2d) for part in block.modules()) > 1
    }
    found: list[str] = []
    for path, (given, made) in _inputs_and_outputs(model, blocks, images).items():
        holds_one = any(is_part(inner, (path,)) for inner in found)  # inner blocks end before those around them
        if given.shape == made.shape and not holds_one and _passes_on(blocks[path], given):
            found.append(path)
    return tuple(path for path in found if _runs_without(model, path, images))


def _inputs_and_outputs(
    model: nn.Module, blocks: dict[str, nn.Module], images: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Of the blocks that take one tensor and give one, and run once."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    runs: dict[str, int] = dict.fromkeys(blocks, 0)

    def note(path: str, inputs: tuple[object, ...], output: object) -> None:
        runs[path] += 1
        if len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            seen[path] = inputs[0].clone(), output

    handles = [
        block.register_forward_hook(lambda _, inputs, output, path=path: note(path, inputs, output))
        for path, block in blocks.items()
    ]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return {path: tensors for path, tensors in seen.items() if runs[path] == 1}


@torch.no_grad()
def _runs_without(model: nn.Module, path: str, images: Tensor) -> bool:
    """Whether nothing else asks for the block, as classifiers do that read several layers."""
    block = model.get_submodule(path)
    model.set_submodule(path, nn.Identity())
    try:
        model(images)
    except MISFITS:
        return False
    finally:
        model.set_submodule(path, block)
    return True


@torch.no_grad()
def _passes_on(block: nn.Module, given: Tensor) -> bool:
    silent = copy.deepcopy(block).eval()
    for parameter in silent.parameters():
        parameter.zero_()
    for module in silent.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.running_mean.zero_()
    made = silent(given.clone())
    return bool(torch.equal(made, given) or torch.equal(made, given.relu()))
