"""A network as a table: every layer with its output shape, parameters, multiply-adds and receptive field.

Everything is read off one real forward pass, below the modules, where torch runs ATen operations. So functional calls
(additions, `F.pad`, attention's products) count too, and networks need not be traceable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from convcraft.models.build import forward_black
from convcraft.models.receptive_field import Field, field_after, image_field, pixels_seen

WHOLE_NETWORK = "(network)"  # name of the row for what belongs to no single layer, such as a position table


@dataclass(frozen=True)
class LayerRow:
    """One layer in the table of a network.

    parameters: counted where the layer is first used.
    multiply_adds: multiplications of convolutions, linear layers and attention for one image; each comes with one
        addition, so floating point operations are twice as many. Norms, activations and poolings are not counted.
    receptive_field: height, width in pixels of the window that one output element depends on, padding included; None
        where it is not known (after attention).
    whole_image: every output element depends on all pixels (receptive_field is then the image's size).
    """

    name: str  # as in the state dict: layer1.0.conv1
    type: str  # Conv2d
    output_shape: tuple[int, ...]  # of one image, without the batch axis
    parameters: int
    multiply_adds: int = 0
    receptive_field: tuple[int, int] | None = None
    whole_image: bool = False


def summarise(model: nn.Module, image_size: tuple[int, int], in_channels: int) -> list[LayerRow]:
    """The layers in the order in which an image passes them.

    Layers are modules without children; a module with children has a row where it owns parameters or multiplies itself
    (attention). Identities are left out. The model is left as it was.

    Args:
        model: takes images [1, in_channels, *image_size].
    """
    watch = _Watch(model, image_size)
    hooks = [
        hook
        for module in model.modules()
        for hook in (
            module.register_forward_pre_hook(watch.enter),
            module.register_forward_hook(watch.leave),
        )
    ]
    start = model.register_forward_pre_hook(watch.start, prepend=True)
    try:
        with watch:
            forward_black(model, in_channels, image_size)
    finally:
        for hook in (*hooks, start):
            hook.remove()
    return watch.finished_rows()


def features_field(rows: Sequence[LayerRow]) -> tuple[int, int] | None:
    """The receptive field of the last maps [C, H, W], before what pools them to a fixed size."""
    maps = [row for row in rows if len(row.output_shape) == 3 and not row.type.startswith("Adaptive")]
    known = [row.receptive_field for row in maps if not row.whole_image]
    return known[-1] if known else None


@dataclass
class _Call:
    """One use of a module."""

    module: nn.Module
    output: Tensor | None = None
    multiply_adds: int = 0  # its own, without those of its children
    field: Field | None = None


class _Watch(TorchDispatchMode):
    """Sees every operation and knows in which module it runs."""

    def __init__(self, model: nn.Module, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self.image_size = image_size
        self.fields = WeakTensorKeyDictionary()  # tensor -> Field, or None where it is not known
        self.running: list[_Call] = []
        self.done: list[tuple[_Call, tuple[int, ...]]] = []

    def start(self, _model: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.fields[inputs[0]] = image_field(inputs[0])

    def enter(self, module: nn.Module, _inputs: Any) -> None:
        self.running.append(_Call(module))

    def leave(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        call = self.running.pop()
        first = next((leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)
        if first is not None:
            call.field = self.fields.get(first)
            self.done.append((call, tuple(first.shape[1:])))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tracked = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf in self.fields]
        known = bool(tracked) and all(self.fields[tensor] is not None for tensor in tracked)
        output = func(*args, **kwargs)
        if self.running:
            self.running[-1].multiply_adds += count_multiply_adds(func, args, output)
        for leaf in tree_leaves(output) if tracked else ():
            if isinstance(leaf, Tensor):
                self.fields[leaf] = self._field_of(func, args, kwargs, leaf) if known else None
        return output

    def _field_of(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Field | None:
        try:
            return field_after(func, args, kwargs, output, self.fields.get)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            return None  # called in a form that no rule foresees; its field is unknown, the rest of the table is not

    def finished_rows(self) -> list[LayerRow]:
        names = {module: name or WHOLE_NETWORK for name, module in self.model.named_modules()}
        parameters = self._parameters_by_call()
        rows = []
        for number, (call, shape) in enumerate(self.done):
            leaf = not any(call.module.children())
            if (leaf and not isinstance(call.module, nn.Identity)) or parameters[number] or call.multiply_adds:
                size, whole = self._seen(call.field)
                kind = type(call.module).__name__
                rows.append(
                    LayerRow(names[call.module], kind, shape, parameters[number], call.multiply_adds, size, whole)
                )
        return rows

    def _seen(self, field: Field | None) -> tuple[tuple[int, int] | None, bool]:
        if field is None:
            return None, False
        (height, all_rows), (width, all_columns) = (
            pixels_seen(axis, side) for axis, side in zip(field, self.image_size, strict=True)
        )
        return (height, width), all_rows and all_columns

    def _parameters_by_call(self) -> list[int]:
        """Each parameter once: at the first use of its module, or of the nearest one around it that is used."""
        calls = {call.module: number for number, (call, _) in reversed(list(enumerate(self.done)))}
        counts = [0] * len(self.done)
        modules = dict(self.model.named_modules())
        for name, parameter in self.model.named_parameters():
            owner = name.rpartition(".")[0]
            while modules[owner] not in calls and owner:
                owner = owner.rpartition(".")[0]
            counts[calls[modules[owner]]] += parameter.numel()
        return counts


def count_multiply_adds(operation: Any, arguments: tuple[Any, ...], output: Any) -> int:
    """Multiplications of one ATen operation.

    Args:
        operation: an overload such as aten.convolution.default. arguments: what it was called with. output: its result.
    """
    name = operation._schema.name.removeprefix("aten::")
    if name == "convolution":
        images, weight, transposed = arguments[0], arguments[1], arguments[6]
        # weight [out, in / groups, ...]; transposed [in, out / groups, ...]: one kernel per element of one side
        elements: int = images.numel() if transposed else output.numel()
        return elements * math.prod(weight.shape[1:])
    if name in ("mm", "bmm", "addmm", "baddbmm"):
        left = arguments[-2]
        total: int = output.numel() * left.shape[-1]
        return total
    if name.startswith("_scaled_dot_product"):
        query, key, value = arguments[:3]
        pairs = math.prod(query.shape[:-1]) * key.shape[-2]
        return pairs * (query.shape[-1] + value.shape[-1])
    return 0
