"""Is a backward right? Asked of any layer or loss, ours or yours, and answered with the element and the likely cause.

    report = check_gradients(MyLayer(), input)       # input: float64 [B, ...], a few numbers are enough
    print("\n".join(report.lines()))

The derivative is measured: every number is moved a little up and down and the change of the output is seen, (f(x + h) -
f(x - h)) / 2h, in float64. That is slow and sure; backward must give the same. Where it does not, `diagnosis` says what
the wrong numbers look like.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from convcraft.scratch.checks import Array, refuse
from convcraft.scratch.diagnosis import Evidence, diagnose
from convcraft.scratch.losses import Loss
from convcraft.scratch.module import Module

STEP = 1e-5  # h: rounding grows as it shrinks, curvature as it grows
TOLERANCE = 1e-6  # of the largest gradient, or 1
KINK = 1e-3  # one-sided slopes that differ by more have a corner between them


@dataclass(frozen=True)
class ArrayCheck:
    """One gradient: what backward gave, what was measured, and what is wrong with it."""

    name: str
    got: Array
    expected: Array
    wrong: Array  # bool, shape of expected; all True where the shapes differ
    diagnosis: str | None  # None where nothing is wrong
    skipped: int = 0  # numbers at a corner, which have no derivative

    @property
    def worst(self) -> tuple[int, ...]:
        """Index of the element that is furthest off."""
        error = np.abs(self.got - self.expected) if self.got.shape == self.expected.shape else self.wrong
        return tuple(int(i) for i in np.unravel_index(int(np.argmax(error)), error.shape))

    def line(self) -> str:
        if self.diagnosis is None:
            corners = f", {self.skipped} at a corner, without a derivative" if self.skipped else ""
            return f"{self.name:<12} right   ({self.expected.size} numbers{corners})"
        counted = f"{int(self.wrong.sum())} of {self.wrong.size} numbers"
        if self.got.shape != self.expected.shape:
            return f"{self.name:<12} WRONG   {self.diagnosis}"
        index = self.worst
        values = f"[{', '.join(map(str, index))}] is {self.got[index]:.6g}, should be {self.expected[index]:.6g}"
        return f"{self.name:<12} WRONG   {counted}; {values}. {self.diagnosis}"


@dataclass
class GradientReport:
    """All gradients of a layer, and where it breaks the rules that layers keep."""

    layer: str
    checks: list[ArrayCheck] = field(default_factory=list)
    broken_rules: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.broken_rules and all(check.diagnosis is None for check in self.checks)

    def lines(self) -> list[str]:
        return [check.line() for check in self.checks] + [f"rule         BROKEN  {rule}" for rule in self.broken_rules]

    def to_dict(self) -> dict[str, Any]:
        arrays = [
            {
                "name": check.name,
                "wrong": int(check.wrong.sum()),
                "numbers": int(check.wrong.size),
                "skipped": check.skipped,
                "worst": list(check.worst),
                "diagnosis": check.diagnosis,
            }
            for check in self.checks
        ]
        return {"layer": self.layer, "passed": self.passed, "arrays": arrays, "broken_rules": self.broken_rules}


def numeric_gradient(function: Callable[[], float], array: Array, step: float = STEP) -> Array:
    """Central differences of function() with respect to every number of `array`, which is moved and put back."""
    return _differences(function, array, step)[0]


def check_gradients(layer: Module, input: Array, seed: int = 0) -> GradientReport:
    """Compare backward with central differences, for the input and every parameter, and try the rules of layers.

    The layer itself is left as it is; a copy is examined, in the mode (training or evaluation) that it is in.

    Args:
        layer: any `Module`.
        input: numbers that it takes, at least two images, so that a missing sum over the batch shows.

    Raises:
        ValueError: forward fails on this input.
    """
    layer, input = copy.deepcopy(layer).astype(np.float64), np.array(input, np.float64)
    report = GradientReport(type(layer).__name__)
    repeat, earlier, untouched = _Repeatable(layer), np.roll(input, 1, axis=0) + 0.5, input.copy()
    before = layer.state_dict()
    try:
        repeat(earlier)  # backward must not remember it
        output = np.array(repeat(input))
        again = np.array(repeat(untouched.copy()))
    except Exception as error:
        fix = "Pass an input of the shape that it takes."
        raise refuse(f"{report.layer} on an input {list(input.shape)}: {error}", "a forward that runs", fix) from error
    report.broken_rules += _forward_rules(layer, before, input, untouched, output, again)
    if report.broken_rules:
        return report
    weights = np.random.default_rng(seed).standard_normal(output.shape)  # L = sum of output * weights
    layer.zero_grad()
    repeat(input)
    given = weights.copy()
    try:
        returned = layer.backward(given)
    except Exception as error:
        report.broken_rules.append(f"backward stops with {type(error).__name__}: {error}")
        return report
    if not isinstance(returned, np.ndarray):
        words = f"backward returns {type(returned).__name__}: it must return dL/d(input), an array"
        report.broken_rules.append(words)
        return report
    grad_input = returned.copy()
    if not np.array_equal(input, untouched):
        report.broken_rules.append("backward writes into the input, which other layers may still need")
        return report
    if not np.array_equal(given, weights):
        report.broken_rules.append("backward writes into its argument, which others may still need: copy it first")
    gradients = {name: parameter.grad.copy() for name, parameter in layer.named_parameters()}
    needs_input = not (grad_input.size == 0 and input.size > 0 and hasattr(layer, "need_input_grad"))

    def loss() -> float:
        return float((repeat(input) * weights).sum())

    def earlier_loss() -> float:
        return float((repeat(earlier) * weights).sum())

    def loss_of(image: int) -> float:
        return float((repeat(input) * weights)[image].sum())

    if needs_input:
        evidence = Evidence(
            input,
            output,
            weights,
            earlier=partial(numeric_gradient, earlier_loss, earlier),
            diagonal=lambda: _diagonal(repeat, input) * weights,
            training=layer.training,
        )
        report.checks.append(_compare("input", grad_input, loss, input, evidence))
    for name, parameter in layer.named_parameters():
        per_image = _per_image(loss_of, parameter.data, len(output)) if output.ndim > 1 else None
        of_earlier = partial(numeric_gradient, earlier_loss, parameter.data)
        evidence = Evidence(input, output, weights, per_image, of_earlier)
        report.checks.append(_compare(name, gradients[name], loss, parameter.data, evidence))
    report.broken_rules += _rules(layer, repeat, input, weights)
    return report


def check_loss(loss: Loss, input: Array, target: Array) -> GradientReport:
    """The same for a loss: backward() after a call against central differences of the call."""
    loss, input = copy.deepcopy(loss), np.array(input, np.float64)
    report = GradientReport(type(loss).__name__)
    loss(input, target)
    got = np.array(loss.backward())
    evidence = Evidence(input, np.asarray(loss(input, target)), np.ones(()))
    report.checks.append(_compare("input", got, lambda: float(np.sum(loss(input, target))), input, evidence))
    return report


def _compare(name: str, got: Array, function: Callable[[], float], array: Array, evidence: Evidence) -> ArrayCheck:
    expected, kinks = _differences(function, array, STEP)
    if got.shape != expected.shape:
        wrong = np.ones(expected.shape, bool)
        return ArrayCheck(name, got, expected, wrong, diagnose(got, expected, wrong, evidence))
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    wrong = ~(np.abs(got - expected) <= TOLERANCE * scale) & ~kinks
    if kinks.all() and kinks.size:
        words = "Nothing could be tested: every number lies at a corner. Try it on other numbers."
        return ArrayCheck(name, got, expected, np.ones(expected.shape, bool), words)
    diagnosis = diagnose(got, expected, wrong, evidence) if wrong.any() else None
    return ArrayCheck(name, got, expected, wrong, diagnosis, int(kinks.sum()))


def _differences(function: Callable[[], float], array: Array, step: float) -> tuple[Array, Array]:
    """Central differences, and where the slopes to both sides differ (a corner, where no derivative exists)."""
    gradient, kinks = np.zeros(array.shape), np.zeros(array.shape, bool)
    here = function()
    for index in np.ndindex(*array.shape):
        before = array[index]
        array[index] = before + step
        above = function()
        array[index] = before - step
        below = function()
        array[index] = before
        gradient[index] = (above - below) / (2 * step)
        turn = abs((above - here) - (here - below)) / step  # by how much the slopes to both sides differ
        kinks[index] = turn > KINK * max(1.0, abs(float(gradient[index])))
    return gradient, kinks


def _diagonal(function: Callable[[Array], Array], input: Array) -> Array:
    """d(output i) / d(input i) for every i, where both have one shape."""
    diagonal = np.zeros(input.shape)
    for index in np.ndindex(*input.shape):
        before = input[index]
        input[index] = before + STEP
        above = function(input)[index]
        input[index] = before - STEP
        diagonal[index] = (above - function(input)[index]) / (2 * STEP)
        input[index] = before
    return diagonal


def _per_image(loss_of: Callable[[int], float], array: Array, num_images: int) -> list[Array]:
    """The part of each image in a parameter's gradient (the first and the last are enough to know a missing sum)."""
    return [numeric_gradient(partial(loss_of, image), array) for image in sorted({0, num_images - 1})]


class _Repeatable:
    """A layer's forward whose random draws are the same every time."""

    def __init__(self, layer: Module) -> None:
        self.layer = layer
        generators = [value for module in layer.modules() for value in vars(module).values()]
        self.generators = [value for value in generators if isinstance(value, np.random.Generator)]
        self.states = [copy.deepcopy(generator.bit_generator.state) for generator in self.generators]

    def __call__(self, input: Array) -> Array:
        for generator, state in zip(self.generators, self.states, strict=True):
            generator.bit_generator.state = copy.deepcopy(state)
        return self.layer(input)


def _forward_rules(
    layer: Module, before: dict[str, Array], input: Array, untouched: Array, output: Array, again: Array
) -> list[str]:
    """What forward must not do; where it does, nothing can be measured."""
    if not np.array_equal(input, untouched):
        return ["forward writes into its input, which other layers may still need"]
    moved = [name for name, array in layer.state_dict().items() if not np.array_equal(array, before[name])]
    if moved and not layer.training:
        return [f"forward in evaluation mode changes {', '.join(moved)}"]
    if not np.array_equal(output, again, equal_nan=True):
        return ["forward gives two answers for one input: draw from a np.random.Generator that is an attribute"]
    return []


def _rules(layer: Module, repeat: _Repeatable, input: Array, weights: Array) -> list[str]:
    """What every layer keeps to, and this one does not."""
    broken = []
    layer.zero_grad()
    repeat(input)
    layer.backward(weights.copy())
    once = [parameter.grad.copy() for parameter in layer.parameters()]
    repeat(input)
    layer.backward(weights.copy())
    names = [name for name, _ in layer.named_parameters()]
    for name, parameter, grad in zip(names, layer.parameters(), once, strict=True):
        if grad.any() and np.allclose(parameter.grad, grad):
            broken.append(f"backward overwrites the gradient of {name} instead of adding to it (grad += ...)")
        elif not np.allclose(parameter.grad, 2 * grad):
            broken.append(f"two backwards do not give twice the gradient of {name}: it must be added (grad += ...)")
    state = layer.state_dict()
    mode = [module.training for module in layer.modules()]
    layer.eval()
    repeat(input)
    moved = [name for name, array in layer.state_dict().items() if not np.array_equal(array, state[name])]
    if moved:
        broken.append(f"forward in evaluation mode changes {', '.join(moved)}")
    for module, training in zip(layer.modules(), mode, strict=True):
        module.training = training
    broken += _dtype_rule(layer, input, weights)
    return broken


def _dtype_rule(layer: Module, input: Array, weights: Array) -> list[str]:
    """float32 in, float32 out, both ways."""
    small = copy.deepcopy(layer).astype(np.float32)
    output = small(input.astype(np.float32))
    if output.dtype != np.float32:
        return [f"forward turns float32 into {output.dtype}: a float64 array or NumPy scalar is mixed in"]
    grad = small.backward(weights.astype(np.float32))
    if grad.dtype != np.float32:
        return [f"backward turns float32 into {grad.dtype}: a float64 array or NumPy scalar is mixed in"]
    return []
