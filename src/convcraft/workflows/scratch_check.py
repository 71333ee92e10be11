"""`convcraft scratch check`: the layers of a file of yours, or of the engine, against differences and torch."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from convcraft.errors import UserError
from convcraft.scratch import layers, losses, optim
from convcraft.scratch.checks import Array
from convcraft.scratch.gradcheck import GradientReport, check_gradients, check_loss
from convcraft.scratch.losses import Loss
from convcraft.scratch.module import Module
from convcraft.scratch.optim import Optimizer
from convcraft.scratch.optimizer_check import OptimizerReport, check_optimizer

TORCH_TOLERANCE = 1e-10  # float64
BASES = (Module, Loss, Optimizer)


@dataclass(frozen=True)
class Example:
    """How a layer of this name is built and what it is tried on; torch's twin takes the same arguments."""

    arguments: tuple[Any, ...]
    settings: dict[str, Any]
    shape: tuple[int, ...]


EXAMPLES: dict[str, Example] = {
    "Conv2d": Example((2, 3, 3), {"stride": 2, "padding": 1}, (2, 2, 6, 5)),
    "Linear": Example((4, 3), {}, (3, 4)),
    "BatchNorm2d": Example((3,), {}, (3, 3, 3, 2)),
    "LocalResponseNorm": Example((3,), {"alpha": 0.5}, (2, 5, 2, 3)),
    "ReLU": Example((), {}, (3, 4)),
    "LeakyReLU": Example((0.2,), {}, (3, 4)),
    "Sigmoid": Example((), {}, (3, 4)),
    "Tanh": Example((), {}, (3, 4)),
    "Softmax": Example((1,), {}, (3, 4)),
    "LogSoftmax": Example((1,), {}, (3, 4)),
    "MaxPool2d": Example((3,), {"stride": 2, "padding": 1}, (2, 2, 6, 5)),
    "AvgPool2d": Example((2,), {}, (2, 2, 6, 5)),
    "AdaptiveAvgPool2d": Example(((2, 3),), {}, (2, 2, 6, 5)),
    "Flatten": Example((), {}, (3, 2, 2, 2)),
    "Identity": Example((), {}, (3, 4)),
    "Dropout": Example((0.3,), {}, (5, 6)),  # torch draws other numbers
    "PadShortcut": Example((2, 3), {}, (2, 3, 5, 4)),  # torch has none
}
NO_TWIN = ("Dropout", "PadShortcut")
DEFAULT_SHAPES = ((3, 4), (2, 3, 6, 5))


@dataclass(frozen=True)
class Checked:
    """What was found about one class.

    Attributes:
        torch_gap: largest difference of output and gradients to torch's layer of the same name, or None.
    """

    report: GradientReport | OptimizerReport
    torch_gap: float | None = None

    @property
    def name(self) -> str:
        return self.report.layer if isinstance(self.report, GradientReport) else self.report.optimizer

    @property
    def passed(self) -> bool:
        return self.report.passed and (self.torch_gap is None or self.torch_gap <= TORCH_TOLERANCE)

    def lines(self) -> list[str]:
        found = self.report.lines() if isinstance(self.report, GradientReport) else [self.report.line()]
        if self.torch_gap is not None:
            agrees = self.torch_gap <= TORCH_TOLERANCE
            verdict = "right  " if agrees else "WRONG  "
            found.append(f"{'torch':<12} {verdict} (largest difference {self.torch_gap:.1e}, in float64)")
        return found

    def to_dict(self) -> dict[str, Any]:
        return {**self.report.to_dict(), "passed": self.passed, "torch_gap": self.torch_gap}


def check_file(file: Path | None, only: str | None = None) -> tuple[Checked, ...]:
    """Check every layer, loss and optimiser that a Python file defines; without a file, those of the engine.

    The file is run. A class is built with the arguments of our layer of the same name, else with none; `examples()` in
    the file, returning [(layer, input), ...], says it for layers that need more.

    Raises:
        UserError: a file that cannot be run, one without layers, a class that cannot be built, an unknown `only`.
    """
    modules = (layers, losses, optim) if file is None else (_load(file),)
    found = [entry for module in modules for entry in _entries(module)]
    where = "the engine" if file is None else str(file)
    if only is not None:
        names = [_class_of(subject).__name__ for subject, _ in found]
        found = [entry for entry in found if _class_of(entry[0]).__name__ == only]
        if not found:
            raise UserError(f"--layer {only}", "one of " + ", ".join(names), "Check the name.")
    if not found:
        fix = "Derive a class from convcraft.scratch.module.Module and give it forward and backward."
        raise UserError(f"{where} defines no layer, loss or optimiser", "at least one", fix)
    return tuple(_check(subject, input, where) for subject, input in found)


def _entries(module: ModuleType) -> Iterator[tuple[Any, Array | None]]:
    """(layer or class, input or None) for everything in a module that can be checked."""
    examples = list(module.examples()) if hasattr(module, "examples") else []
    yield from examples
    shown = {type(layer) for layer, _ in examples}
    for kind in vars(module).values():
        own = inspect.isclass(kind) and kind.__module__ == module.__name__
        if own and issubclass(kind, BASES) and kind not in shown and not _is_base(kind):
            yield kind, None


def _is_base(kind: type[Any]) -> bool:
    """A class that others are made of: it has no forward or no rule of its own."""
    if issubclass(kind, Optimizer):
        return kind.update is Optimizer.update
    base: type[Any] = Loss if issubclass(kind, Loss) else Module
    return kind.forward is base.forward or kind is layers.Residual


def _check(subject: Any, input: Array | None, where: str) -> Checked:
    kind = _class_of(subject)
    if issubclass(kind, Optimizer):
        try:
            return Checked(check_optimizer(kind))
        except (ValueError, TypeError) as error:
            fix = "Derive it from SGD, RMSprop, Adam or AdamW, with their settings."
            raise UserError(f"{kind.__name__}: {error}", "an optimiser whose formula is known", fix) from error
    name = kind.__name__
    example = EXAMPLES.get(name)
    layer = subject if not inspect.isclass(subject) else _build(kind, example, where)
    if isinstance(layer, Loss):
        return Checked(_check_loss(layer))
    try:
        report = _check_layer(layer, input, example)
    except ValueError as error:
        fix = f"Add to the file: def examples(): return [({name}(...), input), ...], or the attribute input_shape."
        raise UserError(str(error), "a layer and an input that it takes", fix) from error
    twin = None if input is not None or example is None or name in NO_TWIN else _torch_gap(layer, name, example)
    return Checked(report, twin)


def _build(kind: type[Any], example: Example | None, where: str) -> Any:
    arguments, settings = (example.arguments, example.settings) if example is not None else ((), {})
    for given in ((arguments, settings), ((), {})):
        try:
            return kind(*given[0], **given[1])
        except TypeError as error:
            problem = error
    fix = f"Give all arguments a default, or add: def examples(): return [({kind.__name__}(...), input), ...]"
    raise UserError(f"{kind.__name__} of {where} cannot be built: {problem}", "a class without required arguments", fix)


def _check_layer(layer: Module, input: Array | None, example: Example | None) -> GradientReport:
    if input is not None:
        return check_gradients(layer, input)
    own = getattr(layer, "input_shape", None)
    shapes = (tuple(own),) if own is not None else (example.shape,) if example is not None else DEFAULT_SHAPES
    for number, shape in enumerate(shapes):
        try:
            return check_gradients(layer, np.random.default_rng(0).standard_normal(shape))
        except ValueError:
            if number == len(shapes) - 1:
                raise
    raise AssertionError("there is always a shape")


def _check_loss(loss: Loss) -> GradientReport:
    """Class numbers first; a loss that wants numbers of the input's shape gets those."""
    logits = np.random.default_rng(0).standard_normal((3, 4))
    try:
        return check_loss(loss, logits, np.array([2, 0, 1]))
    except ValueError:
        return check_loss(loss, logits, np.random.default_rng(1).random((3, 4)))


def _torch_gap(layer: Module, name: str, example: Example) -> float | None:
    """Largest difference to torch.nn's layer of the same name and arguments; None without torch."""
    try:
        import torch
    except ModuleNotFoundError:
        return None
    twin = getattr(torch.nn, name)(*example.arguments, **example.settings).double()
    layer = layer.astype(np.float64)
    try:
        layer.load_state_dict({key: tensor.numpy() for key, tensor in twin.state_dict().items()})
    except ValueError:  # other parameters than torch's: another layer that has the name
        return None
    numbers = np.random.default_rng(0).standard_normal(example.shape)
    tensor = torch.tensor(numbers, requires_grad=True)
    expected = twin(tensor)
    output = layer(numbers)
    weights = np.random.default_rng(1).standard_normal(tuple(expected.shape))
    expected.backward(torch.tensor(weights))
    layer.zero_grad()
    if output.shape != weights.shape:
        return float("inf")
    pairs = [(output, expected.detach()), (layer.backward(weights), tensor.grad)]
    theirs = dict(twin.named_parameters())
    pairs += [(parameter.grad, theirs[key].grad) for key, parameter in layer.named_parameters()]
    return max(float(np.abs(ours - other.numpy()).max()) for ours, other in pairs if other is not None)


def _load(file: Path) -> ModuleType:
    if not file.is_file():
        raise UserError(f"no file {file}", "a Python file with your layers", "Check the path.")
    spec = importlib.util.spec_from_file_location(f"checked_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file} is no Python file", "a file that ends with .py", "Rename it.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        lines = [item.lineno for item in traceback.extract_tb(error.__traceback__) if item.filename == str(file)]
        at = lines[-1] if lines else getattr(error, "lineno", None)
        place = f", line {at}" if at else ""
        received = f"{file}{place} stops with {type(error).__name__}: {error}"
        raise UserError(received, "a file that runs", "Mend it first.") from error
    return module


def _class_of(subject: Any) -> type[Any]:
    kind: type[Any] = subject if inspect.isclass(subject) else type(subject)
    return kind
