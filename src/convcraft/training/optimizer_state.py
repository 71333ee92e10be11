"""An optimiser's state as flat named tensors, for safetensors, and back without changing the memory layout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convcraft.training.checkpoint import DamagedCheckpoint


def to_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of parameter i under the names "i/exp_avg", "i/step", ..."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{index}/{name}": torch.as_tensor(value)
        for index, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def load_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put saved tensors back; learning rates stay as they are (the schedule sets them at each step).

    Raises:
        DamagedCheckpoint: state of parameters that the optimiser does not have.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split("/", 1)
        if not index.isdigit() or int(index) >= len(parameters):
            raise DamagedCheckpoint(f"optimizer state {name!r}, but there are {len(parameters)} parameters")
        state.setdefault(int(index), {})[key] = _like(parameters[int(index)], tensor)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _like(parameter: Tensor, saved: Tensor) -> Tensor:
    """The saved tensor in the parameter's memory layout.

    Files hold contiguous tensors; a moment that came back contiguous beside a channels-last parameter would be visited
    in another order by the fused kernels, and their vector and tail code round differently.
    """
    if saved.shape != parameter.shape:  # a step counter
        return saved
    return torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(saved)
