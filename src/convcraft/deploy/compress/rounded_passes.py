"""Forward passes in which layers see rounded weights, and layers, sums and joinings read rounded maps.

These are the places where the int8 exports round (convcraft.deploy.formats.onnx_int8, NNCF): what a layer gives is
rounded where the next one reads it, and not otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, cat, concat, concatenate, nn
from torch import add as torch_add
from torch.overrides import TorchFunctionMode

SUMS = (torch_add, Tensor.add)  # a + b is Tensor.add, too
SUM_IN_PLACE = Tensor.add_  # and a += b is this
JOININGS = (cat, concat, concatenate)

RoundWeight = Callable[[Tensor], Tensor]
RoundMap = Callable[[int, Tensor], Tensor]


@contextmanager
def rounded_passes(network: nn.Module, weight: RoundWeight, read: RoundMap) -> Iterator[None]:
    """While it lasts, every forward pass of the network rounds.

    Args:
        weight: what a convolution or linear layer computes with, of its weight.
        read: what is read of (position, map): the position counts what was read before it in the same pass.
    """
    passes = _Pass(read)
    with ExitStack() as stack:
        hooks = [network.register_forward_pre_hook(passes.begin)]
        for layer in network.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                hooks.append(layer.register_forward_pre_hook(_replace(weight, passes)))
                hooks.append(layer.register_forward_hook(_put_back, always_call=True))
        hooks.append(network.register_forward_hook(passes.end, always_call=True))
        for hook in hooks:
            stack.callback(hook.remove)
        yield


class _Pass(TorchFunctionMode):
    """One forward pass; sums and joinings are functions and no modules, so that they are caught as they are called."""

    def __init__(self, read: RoundMap) -> None:
        super().__init__()
        self._read = read
        self._position = 0

    def begin(self, *_: Any) -> None:
        self._position = 0
        self.__enter__()

    def end(self, *_: Any) -> None:
        self.__exit__(None, None, None)

    def read(self, values: Tensor) -> Tensor:
        self._position += 1
        return self._read(self._position - 1, values)

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in SUMS and len(args) == 2 and all(_is_map(each) for each in args):
            args = (self.read(args[0]), self.read(args[1]))
        elif func is SUM_IN_PLACE and len(args) == 2 and all(_is_map(each) for each in args):
            args = (args[0].copy_(self.read(args[0])), self.read(args[1]))
        elif func in JOININGS and args and all(_is_map(each) for each in args[0]):
            args = ([self.read(each) for each in args[0]], *args[1:])
        return func(*args, **(kwargs or {}))


def _is_map(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and not isinstance(value, nn.Parameter)
        and value.ndim > 1
        and value.is_floating_point()
    )


def _replace(weight: RoundWeight, passes: _Pass) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # An attribute is found before the parameter of the same name, which stays what optimisers and checkpoints see.
        layer.__dict__["weight"] = weight(layer._parameters["weight"])  # type: ignore[arg-type]
        return (passes.read(inputs[0]), *inputs[1:])

    return hook


def _put_back(layer: nn.Module, *_: Any) -> None:
    layer.__dict__.pop("weight", None)
