"""The NumPy optimiser that the settings name, and its memory to and from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from convcraft.config import OptimConfig
from convcraft.errors import UserError
from convcraft.scratch.module import Module
from convcraft.scratch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

NAMES = ("sgd", "adam", "adamw", "rmsprop")


def check_optimizer(config: OptimConfig) -> None:
    """Raises UserError for an optimiser that the NumPy engine does not have."""
    if config.name not in NAMES:
        fix = "Choose another with --set optim.name=adamw, or train with torch: convcraft train."
        raise UserError(f"optim.name {config.name} in NumPy", "one of " + ", ".join(NAMES), fix)


def numpy_optimizer(config: OptimConfig, network: Module) -> Optimizer:
    """As `training.optim` builds it: weight decay on what multiplies, none on norms and biases."""
    trained = [parameter for parameter in network.parameters() if parameter.trainable]
    groups: list[dict[str, Any]] = [
        {"parameters": [p for p in trained if p.data.ndim >= 2], "weight_decay": config.weight_decay},
        {"parameters": [p for p in trained if p.data.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["parameters"]]
    rate = config.learning_rate
    if config.name == "sgd":
        return SGD(groups, rate, config.momentum, nesterov=config.nesterov)
    if config.name == "rmsprop":
        return RMSprop(groups, rate, eps=config.epsilon, momentum=config.momentum)
    return (AdamW if config.name == "adamw" else Adam)(groups, rate, config.betas, config.epsilon)


def memory_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """What the optimiser remembers of parameter i under the names "i/mean", "i/step", ..."""
    return {
        f"{index}/{name}": torch.tensor(value)  # copied: the arrays change with the next step
        for index, memory in enumerate(optimizer.memory)
        for name, value in memory.items()
    }


def load_memory(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `memory_tensors` gave."""
    for name, tensor in tensors.items():
        index, key = name.split("/", 1)
        optimizer.memory[int(index)][key] = tensor.item() if tensor.ndim == 0 else tensor.numpy().copy()
