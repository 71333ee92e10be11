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
from convcraft.explain.grad_cam_plus_plus import grad_cam_plus_plus
from convcraft.explain.guided_backprop import guided_backprop
from convcraft.explain.heat_maps import HeatMaps
from convcraft.explain.integrated_gradients import integrated_gradients
from convcraft.explain.layer_cam import layer_cam
from convcraft.explain.occlusion import occlusion
from convcraft.explain.score_cam import score_cam
from convcraft.explain.smooth_grad import smooth_grad


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
        "grad-cam": Method(grad_cam, "a layer's maps, weighted by their mean gradients", True),
        "grad-cam++": Method(grad_cam_plus_plus, "as grad-cam, with a say for small and repeated objects", True),
        "layer-cam": Method(layer_cam, "a layer's maps, weighted place by place; for early layers too", True),
        "score-cam": Method(score_cam, "a layer's maps, weighted by the score of the image seen through each", True),
        "integrated-gradients": Method(integrated_gradients, "each pixel's part in the score, for or against", False),
        "smooth-grad": Method(smooth_grad, "where a small change of a pixel changes the score, for or against", False),
        "occlusion": Method(occlusion, "where covering a patch costs the score", False),
        "guided-backprop": Method(guided_backprop, "fine lines the score is made of; ReLU networks only", False),
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
