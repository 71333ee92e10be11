"""Guided backpropagation: the gradient by the pixels, with every ReLU passing back only what speaks for the class.

Springenberg et al. 2015, "Striving for Simplicity: The All Convolutional Net", arXiv:1412.6806, section 3.4: a ReLU
passes a gradient back where its input was positive (as ever) and the gradient itself is positive.

The rule is about ReLU. It is applied to every ReLU and ReLU6 that runs, a module or a function, in place or not. A
network in which none runs (GELU, SiLU ...) is refused by name: its map would be the plain gradient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from convcraft.errors import UserError
from convcraft.explain.heat_maps import (
    HeatMaps,
    check_request,
    magnitude,
    pixel_gradients,
    refuse_layer,
    scaled,
    standing,
)

RELUS = {
    torch.relu,
    torch.relu_,
    Tensor.relu,
    Tensor.relu_,
    nn.functional.relu,
    nn.functional.relu_,
    nn.functional.relu6,
}
HARDTANHS = {nn.functional.hardtanh, nn.functional.hardtanh_}  # from 0 on they are what nn.ReLU6 calls


def guided_backprop(model: nn.Module, images: Tensor, targets: Tensor, *, layer: str | None = None) -> HeatMaps:
    """Fine lines that the class is recognised by: absolute guided gradients, summed over the channels.

    Args:
        images: float32 [B, C, H, W], normalised.
        targets: int64 [B], the class to explain for each image.
        layer: None; this method looks at pixels.

    Returns:
        float32 [B, H, W] in 0..1.

    Raises:
        UserError: a layer is named, no ReLU runs in this network, or see `heat_maps.pixel_gradients`.
    """
    refuse_layer("guided-backprop", layer)
    return scaled(magnitude(guided_gradients(model, images, targets)))


def guided_gradients(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Signed guided gradients, [B, C, H, W]."""
    check_request(images, targets)
    with standing(model), _GuidedReLUs() as guided:
        gradients = pixel_gradients(model, images, targets)
    if not guided.num_relus:
        found = Counter(type(module).__name__ for module in model.modules() if _is_activation(module))
        names = ", ".join(f"{count} {name}" for name, count in found.most_common()) or "no activation modules"
        fix = "Choose smooth-grad, integrated-gradients or grad-cam; a plain gradient is smooth-grad with noise 0."
        raise UserError(f"guided-backprop on a network without ReLU ({names})", "ReLU activations", fix)
    return gradients


class _GuidedReLUs(TorchFunctionMode):
    """While active, the gradient that comes back to a ReLU's output loses its negative part. Nothing stays behind."""

    def __init__(self) -> None:
        super().__init__()
        self.num_relus = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func in RELUS or (func in HARDTANHS and (args[1] if len(args) > 1 else kwargs.get("min_val")) == 0):
            self.num_relus += 1
            if output.requires_grad:
                output.register_hook(lambda gradient: gradient.relu())
        return output


def _is_activation(module: nn.Module) -> bool:
    """By the file it comes from, torch's or timm's; attention lies there too."""
    kind = type(module)
    return "activation" in kind.__module__ and "Attention" not in kind.__name__
