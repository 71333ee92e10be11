"""The methods by name. A new one is a file of its own and a line here."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.explain.grad_cam import grad_cam
from convcraft.explain.heat_maps import HeatMaps


@dataclass(frozen=True)
class Method:
    """One way to draw heat maps; called like its function.

    description: one line, what a warm pixel means.
    uses_layer: whether it reads a layer's maps; the others look at pixels and refuse a layer.
    """

    function: Callable[..., HeatMaps]
    description: str
    uses_layer: bool

    def __call__(
        self, model: nn.Module, images: Tensor, targets: Tensor, *, layer: str | None = None, **settings: Any
    ) -> HeatMaps:
        """float32 [B, H, W] in 0..1 for images [B, C, H, W] (normalised) and targets int64 [B]."""
        return self.function(model, images, targets, layer=layer, **settings)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "grad-cam": Method(grad_cam, "maps of a layer, weighted by their mean gradients", True),
    }
)


def find_method(name: str) -> Method:
    """
    Raises:
        UserError: there is no such method; close names are listed.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name.lower(), METHODS, n=3)
        fix = f"Did you mean {' or '.join(near)}?" if near else "Choose one of these."
        raise UserError(f"method {name!r}", f"one of {', '.join(METHODS)}", fix)
    return METHODS[name]
