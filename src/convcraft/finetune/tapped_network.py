"""A frozen network that shows what its classifier gets, and what other layers put out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from convcraft.data.preprocess import Preprocess
from convcraft.errors import UserError
from convcraft.finetune.map_warp import MapWarp
from convcraft.models.classifier import only_classifier

LAST = ""  # stands for the classifier's input among the layers


class TappedNetwork:
    """A copy of a network in evaluation mode; nothing that happens here can reach the original.

    Args:
        model: offers `get_classifier()`.
        taps: names of modules.
        pool_side: tapped maps are averaged over a grid of so many by so many cells.
        place: "cpu", "cuda" or "mps".
        preprocess: of the images that will come.

    Attributes:
        draws: whether an image's rows depend on its number in the set.
        widths: numbers per image of the classifier's input and of each tap, in this order.
    """

    draws = False

    def __init__(
        self, model: nn.Module, taps: tuple[str, ...], pool_side: int, place: str, preprocess: Preprocess
    ) -> None:
        self.layers, self.pool_side, self.place = (LAST, *taps), pool_side, place
        self.model = _frozen_copy(model, place)
        self.channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"  # timm's mark of such networks
        self.seen: dict[str, Tensor] = {}
        modules = dict(self.model.named_modules())
        for tap in taps:
            if not tap or tap not in modules:
                raise UserError(f"layer {tap!r}", f"a module of {type(model).__name__}", "Check the layer's name.")
            modules[tap].register_forward_hook(self._keeper(tap))
        only_classifier(self.model)[1].register_forward_pre_hook(self._keep_last)
        shape = (1, preprocess.channels, preprocess.height, preprocess.width)
        self.widths = [part.shape[1] for part in self._parts(torch.zeros(shape), "32-true")]

    def __call__(self, images: Tensor, ids: NDArray[np.int64], precision: str) -> NDArray[np.float32]:
        """What all layers say of images: float32 [B, sum of widths].

        Args:
            images: float32 [B, C, H, W], normalised.
            ids: int64 [B], their numbers in the set.
            precision: 32-true, bf16-mixed or 16-mixed.
        """
        return torch.cat([part.float() for part in self._parts(images, precision)], dim=1).cpu().numpy()

    def _parts(self, images: Tensor, precision: str) -> list[Tensor]:
        with _computing(self.place, precision):
            self.model(images.to(self.place).contiguous(memory_format=torch.channels_last))
            missing = [name for name in self.layers if name not in self.seen]
            if missing:
                fix = "Choose layers that an image passes through."
                raise UserError(f"layer {missing[0] or 'classifier'!r} saw nothing", "a layer that is used", fix)
            return [self.seen.pop(name) for name in self.layers]

    def _keep_last(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.seen[LAST] = inputs[0].flatten(1)

    def _keeper(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self.seen[name] = pooled(output, self.pool_side, name, self.channels_last)

        return keep


class WarpedNetwork:
    """A copy of a network that shows what its classifier gets of maps changed on their way.

    Args:
        model: offers `forward_features`, `forward_head` and `get_classifier`.
        num_views: how often each image's maps are changed.
        place, preprocess: as for `TappedNetwork`.
    """

    draws = True

    def __init__(self, model: nn.Module, warp: MapWarp, num_views: int, place: str, preprocess: Preprocess) -> None:
        if not hasattr(model, "forward_features") or not hasattr(model, "forward_head"):
            fix = "Use views of images for this network."
            raise UserError(f"{type(model).__name__} in one piece", "forward_features and forward_head", fix)
        self.warp, self.num_views, self.place = warp, num_views, place
        self.model: Any = _frozen_copy(model, place)
        self.seen: list[Tensor] = []
        _, classifier = only_classifier(self.model)
        classifier.register_forward_pre_hook(lambda _, inputs: self.seen.append(inputs[0].flatten(1)))
        rows = self(torch.zeros(1, preprocess.channels, preprocess.height, preprocess.width), np.zeros(1, np.int64))
        self.widths = [rows.shape[1] // num_views] * num_views

    def __call__(self, images: Tensor, ids: NDArray[np.int64], precision: str = "32-true") -> NDArray[np.float32]:
        """float32 [B, num_views * D]; arguments as for `TappedNetwork`."""
        self.seen.clear()
        with _computing(self.place, precision):
            maps = self.model.forward_features(images.to(self.place).contiguous(memory_format=torch.channels_last))
            if maps.ndim != 4:
                fix = "Use views of images for this network."
                raise UserError(f"{type(self.model).__name__} gives {list(maps.shape)}", "maps [B, C, H, W]", fix)
            for view in range(1, self.num_views + 1):
                self.model.forward_head(self.warp(maps, ids, view))
        return torch.cat([part.float() for part in self.seen], dim=1).cpu().numpy()


def _frozen_copy(model: nn.Module, place: str) -> nn.Module:
    """In evaluation mode and channels last, which convolutions on a CPU compute in half the time."""
    return copy.deepcopy(model).eval().to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]


@contextmanager
def _computing(place: str, precision: str) -> Iterator[None]:
    """Without gradients, in this precision."""
    with torch.inference_mode(), ExitStack() as stack:
        if precision != "32-true":
            dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float16
            stack.enter_context(torch.autocast(place, dtype))
        yield


def pooled(output: Any, pool_side: int, name: str = "", channels_last: bool = False) -> Tensor:
    """A layer's output per image, [B, D]: maps [B, C, H, W] averaged over cells, tokens [B, T, C] over T.

    channels_last: maps are [B, H, W, C].
    """
    if isinstance(output, Tensor) and output.ndim == 4 and channels_last:
        output = output.permute(0, 3, 1, 2)
    if isinstance(output, Tensor) and output.ndim == 4:
        cells = min(pool_side, *output.shape[2:])
        return output.mean((2, 3)) if cells == 1 else adaptive_avg_pool2d(output, cells).flatten(1)
    if isinstance(output, Tensor) and output.ndim in (2, 3):
        return output.mean(1) if output.ndim == 3 else output
    got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise UserError(f"layer {name!r} puts out {got}", "maps [B, C, H, W] or rows [B, D]", "Choose another layer.")
