"""A frozen network that shows what its classifier gets, and what other layers put out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
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
from convcraft.models.batch_norm_folding import fold_batch_norms
from convcraft.models.classifier import only_classifier

LAST = ""  # stands for the classifier's input among the layers


class InOnePiece(UserError):
    """A network that cannot be parted into the maps it makes and the head that reads them."""

    def __init__(self, model: nn.Module, what: str) -> None:
        expected = "forward_features that gives maps [B, C, H, W], and forward_head"
        super().__init__(f"{type(model).__name__} {what}", expected, "Use views of images for this network.")


class TappedNetwork:
    """A copy of a network in evaluation mode; nothing that happens here can reach the original.

    Args:
        model: offers `get_classifier()`; with warped maps also `forward_features` and `forward_head`.
        taps: names of modules.
        pool_side: tapped maps are averaged over a grid of so many by so many cells.
        place: "cpu", "cuda" or "mps".
        preprocess: of the images that will come.
        warp, num_warped: the network's last maps, changed so many times on their way into its head.

    Attributes:
        widths: numbers per image of the classifier's input and of each tap, in this order.
        all_widths: these, and the classifier's input of each warped map.

    Raises:
        InOnePiece: maps are to be warped and the network gives none.
        UserError: no classifier, or no such layer.
    """

    def __init__(
        self,
        model: nn.Module,
        taps: tuple[str, ...],
        pool_side: int,
        place: str,
        preprocess: Preprocess,
        warp: MapWarp | None = None,
        num_warped: int = 0,
    ) -> None:
        self.layers, self.pool_side, self.place = (LAST, *taps), pool_side, place
        self.warp, self.num_warped = warp, num_warped
        if warp is not None and not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
            raise InOnePiece(model, "in one piece")
        self.model: Any = _frozen_copy(model, place, preprocess, taps)
        self.channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"  # timm's mark of such networks
        self.seen: dict[str, Tensor] = {}
        modules = dict(self.model.named_modules())
        for tap in taps:
            if not tap or tap not in modules:
                raise UserError(f"layer {tap!r}", f"a module of {type(model).__name__}", "Check the layer's name.")
            modules[tap].register_forward_hook(self._keeper(tap))
        only_classifier(self.model)[1].register_forward_pre_hook(self._keep_last)
        image = torch.zeros(1, preprocess.channels, preprocess.height, preprocess.width)
        with _computing(place, "32-true"):
            self.all_widths = [part.shape[1] for part in self._parts(image, np.zeros(1, np.int64), warped=True)]
        self.widths = self.all_widths[: len(self.layers)]

    def __call__(
        self, images: Tensor, ids: NDArray[np.int64], precision: str, warped: bool = False
    ) -> NDArray[np.float32]:
        """What all layers say of images, and of their warped maps where asked for: float32 [B, sum of widths].

        Args:
            images: float32 [B, C, H, W], normalised.
            ids: int64 [B], their numbers in the set, from which each warp follows.
            precision: 32-true, bf16-mixed or 16-mixed.
        """
        with _computing(self.place, precision):
            return torch.cat([part.float() for part in self._parts(images, ids, warped)], dim=1).cpu().numpy()

    def _parts(self, images: Tensor, ids: NDArray[np.int64], warped: bool) -> list[Tensor]:
        images = images.to(self.place).contiguous(memory_format=torch.channels_last)
        if not warped or self.warp is None:
            self.model(images)
            return self._taken()
        maps = self.model.forward_features(images)
        if not isinstance(maps, Tensor) or maps.ndim != 4 or self.channels_last:
            raise InOnePiece(self.model, "whose last maps are no maps")
        self.model.forward_head(maps)
        parts = self._taken()
        for view in range(1, self.num_warped + 1):
            self.model.forward_head(self.warp(maps, ids, view))
            parts.append(self.seen.pop(LAST))
        self.seen.clear()
        return parts

    def _taken(self) -> list[Tensor]:
        """What the layers have put out in the last pass."""
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


def _frozen_copy(model: nn.Module, place: str, preprocess: Preprocess, taps: Collection[str] = ()) -> nn.Module:
    """In evaluation mode, its batch norms folded into convolutions, and channels last: on a CPU a third of the time."""
    shape = (2, preprocess.channels, preprocess.height, preprocess.width)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight = next(model.parameters(), images)
    folded = fold_batch_norms(model, images.to(weight.device, weight.dtype), keep=taps)
    return folded.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]


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
