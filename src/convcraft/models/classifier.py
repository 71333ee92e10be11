"""The layer that classifies: found by `get_classifier()`, as our networks and timm's have it, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import nn

from convcraft.errors import UserError


def classifiers(model: nn.Module) -> dict[str, nn.Module]:
    """Module path -> module of what classifies: one, or two where a network has two heads.

    Raises:
        UserError: a network that names none, or whose head is empty.
    """
    get_classifier = cast("Callable[[], Any] | None", getattr(model, "get_classifier", None))
    given = get_classifier() if get_classifier is not None else None
    wanted = list(given) if isinstance(given, (tuple, list)) else [given]
    found = {name: module for name, module in model.named_modules() if name and any(module is w for w in wanted)}
    if not any(True for module in found.values() for _ in module.parameters()):
        expected = "a network whose get_classifier() gives a layer with weights"
        raise UserError(f"{type(model).__name__} has no classifier", expected, "Choose a network that classifies.")
    return found


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Module paths of what classifies; raises as `classifiers`."""
    return tuple(classifiers(model))


def only_classifier(model: nn.Module) -> tuple[str, nn.Module]:
    """Module path and module of the one layer whose outputs are the logits.

    Raises:
        UserError: the network has none, or several heads.
    """
    (name, module), *others = classifiers(model).items()
    if others:
        received = f"{type(model).__name__} with {1 + len(others)} heads"
        raise UserError(received, "one layer that classifies", "Choose a network with one head.")
    return name, module


def linear_classifier(model: nn.Module) -> tuple[str, nn.Linear]:
    """`only_classifier` where it is a linear layer, so that a probe can stand in for it.

    Raises:
        UserError: it is another layer, or there is none or several.
    """
    name, module = only_classifier(model)
    if not isinstance(module, nn.Linear):
        received = f"{type(model).__name__} ends with {type(module).__name__}"
        raise UserError(received, "one linear layer that classifies", "Choose a network that ends in one.")
    return name, module
