"""A classifier that reads several depths of a network: pooled outputs of chosen layers beside its usual input.

    images [B, C, H, W] -> network, whose layers are tapped -> columns [B, D] -> selected [B, F] -> logits [B, K]

Early layers hold what the last one has thrown away, which helps where the new images differ from those of the
pretraining. Evci et al. 2022, "Head2Toe: Utilizing Intermediate Representations for Better Transfer Learning", arXiv
2201.03529. Which columns are worth reading is found by `convcraft.finetune.layer_selection`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.models.classifier import linear_classifier
from convcraft.models.initialise import initialise_classifier

LOW_PRECISION = (torch.float16, torch.bfloat16)


class LayerTaps:
    """Collects the pooled outputs of some layers whenever their network runs.

    Args:
        network: gets a hook at each of the layers; `remove` takes them away.
        layers: module paths ("layer1.0"), each called once per image.

    Raises:
        UserError: no such layer, or the same one twice.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str]) -> None:
        modules = dict(network.named_modules())
        channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"  # timm's mark of such networks
        if len(set(layers)) < len(layers):
            raise UserError(f"tapped layers {', '.join(layers)}", "every layer once", "Remove the repetition.")
        for layer in layers:
            if not layer or layer not in modules:
                received = f"tapped layer {layer!r}"
                fix = "`convcraft train --summary` lists the layers."
                raise UserError(received, f"a module of {type(network).__name__}", fix)
        self._taps = [_Tap(layer, channels_last) for layer in layers]
        self._handles = [modules[tap.layer].register_forward_hook(tap) for tap in self._taps]

    def take(self) -> list[Tensor]:
        """What the last run left, and forget it: one float tensor [B, D_l] per layer, in the order they were named.

        Raises:
            UserError: a layer that did not run, ran more than once, or gives nothing that can be pooled.
        """
        try:
            return [tap.pooled() for tap in self._taps]
        finally:
            self.clear()

    def clear(self) -> None:
        """Forget what an interrupted run left."""
        for tap in self._taps:
            tap.outputs = []

    def remove(self) -> None:
        """Take the hooks off the network."""
        for handle in self._handles:
            handle.remove()


class _Tap:
    """A hook that keeps a layer's outputs. An object, not a closure: a deep copy of the network gets its own."""

    def __init__(self, layer: str, channels_last: bool) -> None:
        self.layer, self.channels_last = layer, channels_last
        self.outputs: list[Tensor] = []

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.outputs.append(output)

    def pooled(self) -> Tensor:
        if len(self.outputs) != 1:
            received = f"tapped layer {self.layer} ran {len(self.outputs)} times for one batch"
            raise UserError(received, "a layer that runs once", "Tap another layer.")
        return pool(self.outputs[0], self.layer, channels_last=self.channels_last)


def pool(output: Tensor, layer: str, *, channels_last: bool = False) -> Tensor:
    """Mean over all places: [B, C] of maps [B, C, H, W] (channels_last: [B, H, W, C]), tokens [B, T, C], units [B, C].

    Raises:
        UserError: an output of another kind.
    """
    dims = {2: (), 3: (1,), 4: (1, 2) if channels_last else (2, 3)}
    if not isinstance(output, Tensor) or output.dim() not in dims or not output.is_floating_point():
        got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        expected = "maps [B, C, H, W], tokens [B, T, C] or units [B, C]"
        raise UserError(f"tapped layer {layer} returns {got}", expected, "Tap another layer.")
    wide = output.float() if output.dtype in LOW_PRECISION else output  # a sum over a large map would lose its tail
    return wide.mean(dims[output.dim()]) if dims[output.dim()] else wide


class LayerHead(nn.Module):
    """A network whose last linear layer is replaced by one that reads selected columns of several depths.

    The network's own names stay, below `network.`; its old classifier is gone. Columns are numbered through: those of
    the tapped layers in their order, then those of the classifier's usual input.

    Args:
        network: with `get_classifier()`, as ours and timm's have; its other weights stay as they are. It becomes part
            of this one.
        tapped_layers: module paths of the network.
        num_features: F, how many columns the classifier reads.
        num_classes: K, outputs.

    Raises:
        UserError: no such layer, or a network without one last linear layer.
    """

    selected: Tensor

    def __init__(self, network: nn.Module, tapped_layers: Sequence[str], num_features: int, num_classes: int) -> None:
        super().__init__()
        old_classifier, _ = linear_classifier(network)
        classifier, selected = nn.Linear(num_features, num_classes), torch.arange(num_features)
        if old_classifier in tapped_layers:
            fix = "Leave it out: what it reads is read anyway."
            raise UserError(f"tapped layer {old_classifier!r}, the classifier itself", "a layer before it", fix)
        self.taps = LayerTaps(network, tapped_layers)
        network.set_submodule(old_classifier, nn.Identity())  # nothing can fail from here: it ends where that began
        self.network = network
        self.num_classes = num_classes
        self.register_buffer("selected", selected)
        self.classifier = classifier
        initialise_classifier(self.classifier)

    def columns(self, images: Tensor) -> Tensor:
        """images: float32 [B, C, H, W], normalised. Returns all columns, float [B, D]."""
        self.taps.clear()
        try:
            last: Tensor = self.network(images)
            return torch.cat([*self.taps.take(), last.flatten(1)], dim=1)
        finally:
            self.taps.clear()  # a pass that stopped half-way would keep its maps, and its graph, in memory

    def forward_features(self, images: Tensor) -> Tensor:
        """images: float32 [B, C, H, W], normalised. Returns the selected columns, float [B, F]."""
        return self.columns(images).index_select(1, self.selected)

    def forward_head(self, features: Tensor) -> Tensor:
        """features: what `forward_features` gave. Returns logits [B, K]."""
        logits: Tensor = self.classifier(features)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """images: float32 [B, C, H, W], normalised. Returns logits [B, K]."""
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Linear:
        """The last layer: linear, one output per class."""
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by a fresh one with `num_classes` outputs; all else stays, the selection too."""
        old = self.classifier
        self.classifier = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        initialise_classifier(self.classifier)
        self.num_classes = num_classes
