"""Parts of a network that training leaves as they are, to the bit: parameters, and batch norm's statistics too."""

from __future__ import annotations

import difflib
import hashlib
import types
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from convcraft.errors import UserError


def freeze(model: nn.Module, parts: Sequence[str]) -> tuple[str, ...]:
    """Take parts out of training, for good: call it before the optimiser is built.

    Their parameters get no gradient, and their modules stay in evaluation mode whatever `model.train()` says: a frozen
    batch norm neither moves its statistics nor uses those of the batch, a frozen dropout drops nothing. So a frozen
    part computes the same in training and evaluation.

    Args:
        model: any network.
        parts: module paths ("conv1", "layer1.0"); each with all that is below it.

    Returns:
        the names of the frozen parameters.

    Raises:
        UserError: no such module (the nearest is named), or nothing would be left to train.
    """
    modules = dict(model.named_modules())
    for part in parts:
        if not part or part not in modules:
            near = difflib.get_close_matches(part, [name for name in modules if name], n=1)
            fix = f"Did you mean {near[0]}?" if near else "`convcraft train --summary` lists the layers."
            raise UserError(f"model.freeze names {part!r}", f"a module of {type(model).__name__}", fix)
    frozen = tuple(name for name, _ in model.named_parameters() if is_part(name, parts))
    if frozen and all(name in frozen or not p.requires_grad for name, p in model.named_parameters()):
        raise UserError("model.freeze names every layer", "at least one layer left to train", "Leave a layer out.")
    for part in parts:
        modules[part].requires_grad_(False)
        for module in modules[part].modules():
            module.train = types.MethodType(_stay_in_evaluation, module)
            module.training = False
    return frozen


def _stay_in_evaluation(module: nn.Module, mode: bool = True) -> nn.Module:
    """What `train` is for a frozen module."""
    return nn.Module.train(module, False)


def is_part(name: str, parts: Sequence[str]) -> bool:
    """Whether a tensor of this name lies in one of the parts."""
    return any(name.startswith(f"{part}.") for part in parts)


def tensor_hashes(tensors: Mapping[str, Tensor], parts: Sequence[str]) -> dict[str, str]:
    """SHA-256 of every tensor in these parts, parameters and buffers: of its type, shape and bytes.

    Args:
        tensors: a state dict.
        parts: module paths.
    """
    hashes = {}
    for name, tensor in sorted(tensors.items()):
        if is_part(name, parts):
            plain = tensor.detach().cpu().contiguous()
            head = f"{plain.dtype} {list(plain.shape)} ".encode()
            content = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
            hashes[name] = hashlib.sha256(head + content).hexdigest()
    return hashes
