"""`torch.compile` for the training passes: whether it is worth it, whether it can be, and the network that uses it.

Only the training passes are compiled. Validation, checkpoints and the moving average use the plain network, which
shares its parameters with the compiled one, so that files and names are the same either way.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convcraft.errors import UserError

# `auto` on CUDA: the longest time that compiling took to be earned back where it was (docs/training.md). On the CPU
# compiled networks were slower as often as quicker, and no setting tells which; `auto` leaves them alone there.
PAYS_FROM_PASSES = 5_000
COMPILERS = ("g++", "clang++", "cl")


def network_for(model: nn.Module, choice: str, num_passes: int, device_type: str) -> nn.Module:
    """What the training passes go through.

    Args:
        model: the plain network, which must not be replaced afterwards.
        choice: the setting `training.compile`.
        num_passes: forward passes of the whole run, also of what is done already: a resumed run must decide alike.
        device_type: "cpu", "cuda" or "mps".

    Returns:
        The model itself, or its compiled twin.

    Raises:
        UserError: "on" where it cannot be compiled.
    """
    worth_it = device_type == "cuda" and num_passes >= PAYS_FROM_PASSES
    if choice == "off" or (choice == "auto" and not worth_it):
        return model
    missing = what_is_missing(device_type)
    if missing is None:
        return CompiledNetwork(model)
    if choice == "auto":
        return model
    fix = "Install it (Debian, Ubuntu: apt install g++ python3-dev), or set training.compile to off."
    raise UserError(f"training.compile is on, but there is no {missing}", "what torch.compile builds with", fix)


def what_is_missing(device_type: str) -> str | None:
    """What torch.compile would need and this machine lacks; None where all is there."""
    if device_type == "mps":
        return "support for this device in torch.compile that we rely on"
    if device_type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "package triton"
        return None if any(map(shutil.which, ("cc", "gcc", "clang"))) or os.environ.get("CC") else "C compiler"
    named = os.environ.get("CXX")
    if not any(map(shutil.which, (named,) if named else COMPILERS)):
        return f"C++ compiler ({named or ' or '.join(COMPILERS)})"
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    return None if header.exists() else "Python.h (the headers of this Python)"


class CompiledNetwork(nn.Module):
    """Calls the compiled form of a network; parameters, buffers and mode are the network's own.

    Batches of an epoch have two sizes that differ by one. The number of images is left open, so that both run the
    same compiled code.
    """

    _compiled: Callable[[Tensor], Tensor]

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.plain = model
        compiled: Any = torch.compile(model)
        object.__setattr__(self, "_compiled", compiled)  # no submodule: its parameters would be listed twice

    def forward(self, images: Tensor) -> Tensor:
        """images: float [B, C, H, W]. Returns logits float [B, K]."""
        torch._dynamo.maybe_mark_dynamic(images, 0)
        return self._compiled(images)
