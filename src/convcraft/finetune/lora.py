"""Low-rank adapters: a layer keeps its weights and learns a change of low rank beside them.

Hu et al. 2021, "LoRA: low-rank adaptation of large language models", arXiv:2106.09685: W + B A with A [r, in] and
B [out, r]. For a convolution A is one of the same kernel, stride and padding with r outputs, B a 1x1 convolution. B
starts at zero, so that an adapted network answers as the pretrained one to the bit. Where we deviate: no factor
alpha / r on the change (the learning rate does its work), and no adapter is larger than the layer that it adapts.

A grouped convolution is adapted group by group. In a depthwise one every group has a single filter, of which no change
of lower rank exists: such layers are skipped by name.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.models.classifier import classifier_names
from convcraft.models.stages import is_part

ADAPTER = "lora"  # the adapter's name in its layer: conv1.lora.down.weight beside conv1.weight
PLAIN_LAYERS = ("Conv2d", "Conv2dSame", "Linear")  # their output is linear in their weight; Conv2dSame is timm's
START_SLOPE = 5**0.5  # torch's own start values of convolutions and linear layers


@dataclass(frozen=True)
class Adapted:
    """One layer that gets an adapter.

    rank: of its change; over all groups together.
    num_parameters, layer_parameters: of the adapter, and of the layer's weight.
    """

    name: str
    rank: int
    num_parameters: int
    layer_parameters: int


@dataclass(frozen=True)
class LoraPlan:
    """Which layers are adapted, and what that costs; `str(plan)` is for people.

    skipped: (layer, reason).
    num_head_parameters: of the classifier, which is trained whole.
    num_model_parameters: of the network without adapters.
    """

    adapted: tuple[Adapted, ...]
    skipped: tuple[tuple[str, str], ...]
    num_head_parameters: int
    num_model_parameters: int

    @property
    def num_trainable(self) -> int:
        return self.num_head_parameters + sum(layer.num_parameters for layer in self.adapted)

    @property
    def fraction(self) -> float:
        """Trained numbers as a share of the network's own."""
        return self.num_trainable / self.num_model_parameters

    def __str__(self) -> str:
        ranks = sorted({layer.rank for layer in self.adapted})
        rank = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
        text = (
            f"{len(self.adapted)} layers adapted with {rank}, {self.num_trainable:,} trained parameters with the "
            f"classifier, {self.fraction:.1%} of the network's {self.num_model_parameters:,}"
        )
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.skipped:
            by_reason.setdefault(reason, []).append(name)
        return text + "".join(f"; skipped {', '.join(names)}: {reason}" for reason, names in by_reason.items())


class LowRank(nn.Module):
    """What is added to a layer's output: up(down(x)), zero at the start.

    Args:
        layer: the layer that it is for; its kernel, stride and padding are taken over.
        rank: channels between down and up, a multiple of the layer's groups.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, rank: int) -> None:
        super().__init__()
        place: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        self.down = _narrowed(layer, rank)
        self.up: nn.Conv2d | nn.Linear
        if isinstance(layer, nn.Conv2d):
            self.up = nn.Conv2d(rank, layer.out_channels, kernel_size=1, groups=layer.groups, bias=False, **place)
        else:
            self.up = nn.Linear(rank, layer.out_features, bias=False, **place)
        nn.init.kaiming_uniform_(self.down.weight, a=START_SLOPE)
        nn.init.zeros_(self.up.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        change: Tensor = self.up(self.down(inputs))
        return change

    @torch.no_grad()
    def weight_change(self) -> Tensor:
        """The same change as one of the layer's weight; float64, in that weight's shape."""
        down, up = self.down.weight.double(), self.up.weight.double()
        groups = self.up.groups if isinstance(self.up, nn.Conv2d) else 1
        down_rows = down.reshape(groups, len(down) // groups, -1)  # [G, r, in * kh * kw]
        up_rows = up.reshape(groups, len(up) // groups, -1)  # [G, out, r]
        return (up_rows @ down_rows).reshape(len(up), *down.shape[1:])


def plan_lora(model: nn.Module, rank: int, budget_fraction: float | None = None) -> LoraPlan:
    """Choose the layers to adapt and their ranks; changes nothing.

    Args:
        model: without adapters; its classifier is left out, because it is trained whole.
        rank: wanted; lower where an adapter would be larger than its layer, or the budget would be passed.
        budget_fraction: adapters and classifier together hold at most this share of the network's parameters. First
            the rank is lowered, then layers are left out, from the input on.

    Raises:
        UserError: no layer can be adapted, or the classifier alone passes the budget.
    """
    candidates, skipped = _candidates(model)
    heads = classifier_names(model)
    head = sum(p.numel() for name, p in model.named_parameters() if is_part(name, heads))
    whole = LoraPlan((), tuple(skipped), head, sum(parameter.numel() for parameter in model.parameters()))
    if not candidates:
        fix = "Choose --method norm, bias, last or full."
        raise UserError("lora, but no layer can be adapted", "a convolution or linear layer below the classifier", fix)
    most = whole.num_model_parameters if budget_fraction is None else budget_fraction * whole.num_model_parameters
    if budget_fraction is not None and head >= most:
        received = f"a budget of {budget_fraction:.2%} of the parameters, which the classifier alone ({head:,}) passes"
        raise UserError(received, "room for adapters", "Raise the budget.")
    for lower in range(rank, 0, -1) if budget_fraction is not None else (rank,):
        plan = replace(whole, adapted=tuple(_adapted(name, layer, lower) for name, layer in candidates.items()))
        if budget_fraction is None or plan.num_trainable <= most:
            return plan
    return _within(plan, most)


def adapt(model: nn.Module, plan: LoraPlan) -> None:
    """Put the planned adapters in place; the network answers as before, to the bit, until they have learned."""
    for chosen in plan.adapted:
        layer = model.get_submodule(chosen.name)
        assert _is_plain(layer)
        layer.add_module(ADAPTER, LowRank(layer, chosen.rank))
        layer.register_forward_hook(_add_change)


def merge(model: nn.Module) -> None:
    """Move every adapter's change into its layer's weight, in place: a plain network with its first names.

    Summed in float64 and rounded once; logits change by rounding alone.
    """
    for name, adapter in adapters_of(model):
        layer = model.get_submodule(name)
        assert _is_plain(layer)
        with torch.no_grad():
            layer.weight.copy_(layer.weight.double() + adapter.weight_change())
        del layer._modules[ADAPTER]
        for key in [key for key, hook in layer._forward_hooks.items() if hook is _add_change]:
            del layer._forward_hooks[key]


def adapters_of(model: nn.Module) -> list[tuple[str, LowRank]]:
    """(path of the adapted layer, its adapter)."""
    return [(name.rpartition(".")[0], module) for name, module in model.named_modules() if isinstance(module, LowRank)]


def _add_change(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """Forward hook of an adapted layer."""
    adapter: LowRank = layer.get_submodule(ADAPTER)  # type: ignore[assignment]
    change: Tensor = adapter(args[0])
    return output + change


def _candidates(model: nn.Module) -> tuple[dict[str, nn.Conv2d | nn.Linear], list[tuple[str, str]]]:
    """Layers that can be adapted, and those that multiply but cannot, with the reason."""
    heads = classifier_names(model)
    fused = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    found: dict[str, nn.Conv2d | nn.Linear] = {}
    skipped = []
    for name, layer in _layers_that_multiply(model):
        if name in heads or is_part(name, heads):
            continue
        reason = "its attention reads the weights past the layer" if is_part(name, fused) else _obstacle(layer)
        if reason is None and _is_plain(layer):
            found[name] = layer
        else:
            skipped.append((name, reason or ""))
    return found, skipped


def _layers_that_multiply(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    kinds = (nn.Linear, nn.modules.conv._ConvNd, nn.Bilinear)
    return ((name, module) for name, module in model.named_modules() if isinstance(module, kinds))


def _obstacle(layer: nn.Module) -> str | None:
    """Why this layer cannot be adapted, or None."""
    if not _is_plain(layer):
        return f"{type(layer).__name__} is no plain convolution or linear layer"
    if not layer.weight.requires_grad:
        return "it is frozen by the settings or by the network itself"
    if largest_rank(layer) == 0:
        depthwise = isinstance(layer, nn.Conv2d) and layer.groups > 1
        return f"{'a depthwise layer: ' if depthwise else ''}any adapter would be larger than the layer"
    return None


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Conv2d | nn.Linear]:
    return isinstance(layer, (nn.Conv2d, nn.Linear)) and type(layer).__name__ in PLAIN_LAYERS


def largest_rank(layer: nn.Conv2d | nn.Linear) -> int:
    """The highest rank, over all groups together, at which an adapter is no larger than the layer; 0 for none."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return groups * (layer.weight.numel() // _numbers_per_rank(layer))


def _numbers_per_rank(layer: nn.Conv2d | nn.Linear) -> int:
    """Parameters of an adapter of rank 1 (1 in every group)."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return groups * layer.weight[0].numel() + len(layer.weight)


def _adapted(name: str, layer: nn.Conv2d | nn.Linear, rank: int) -> Adapted:
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    per_group = min(max(rank // groups, 1), largest_rank(layer) // groups)
    return Adapted(name, per_group * groups, per_group * _numbers_per_rank(layer), layer.weight.numel())


def _within(plan: LoraPlan, most: float) -> LoraPlan:
    """Leave out layers from the input on until the rest fits."""
    kept, left_out = list(plan.adapted), list(plan.skipped)
    while kept and replace(plan, adapted=tuple(kept)).num_trainable > most:
        left_out.append((kept.pop(0).name, "beyond the parameter budget"))
    if not kept:
        raise UserError("a budget that no adapter fits into", "room for the smallest adapter", "Raise the budget.")
    return replace(plan, adapted=tuple(kept), skipped=tuple(left_out))


def _narrowed(layer: nn.Conv2d | nn.Linear, rank: int) -> nn.Conv2d | nn.Linear:
    """A layer of the same kind, kernel, stride and padding with `rank` outputs and no bias."""
    narrow = copy.deepcopy(layer)
    narrow.weight = nn.Parameter(layer.weight.new_empty(rank, *layer.weight.shape[1:]))
    narrow.bias = None
    if isinstance(narrow, nn.Conv2d):
        narrow.out_channels = rank
    else:
        narrow.out_features = rank
    return narrow
