"""Is an optimiser's step right? Five steps of one number beside the plain formula, and the usual mistakes by name.

    print(check_optimizer(MyAdam).line())

The formulas stand here a second time, for one number in plain Python, with a switch for every mistake that people make.
An optimiser whose five steps equal those of a mistake has made it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convcraft.scratch.checks import refuse
from convcraft.scratch.module import Parameter
from convcraft.scratch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

START, RATE = 1.5, 0.05
GRADIENTS = (0.9, -0.4, 0.25, 1.3, -0.7)  # of five steps, given whatever the parameter is
CLOSE = 1e-12

Steps = list[float]
Settings = dict[str, Any]
Mistakes = dict[str, Settings]  # in words -> the switches that make it


def sgd_steps(
    settings: Settings,
    *,
    lookahead: bool = True,
    kept: bool = True,
    first_damped: bool = False,
    decay_sign: float = 1.0,
    rate_inside: bool = False,
    rate_twice: bool = False,
    upwards: bool = False,
) -> Steps:
    """Positions after each step of SGD; the switches are mistakes."""
    rate, momentum, dampening, decay, nesterov = (
        settings[name] for name in ("learning_rate", "momentum", "dampening", "weight_decay", "nesterov")
    )
    position, velocity, steps = START, 0.0, []
    for number, given in enumerate(GRADIENTS):
        gradient = given + decay_sign * decay * position
        new = gradient if number == 0 and not first_damped else (1 - dampening) * gradient
        if rate_inside:
            new *= rate
        velocity = momentum * velocity + new if kept else gradient
        step = gradient + momentum * velocity if nesterov and lookahead else velocity
        if momentum == 0:
            step = gradient
        scale = 1.0 if rate_inside else rate * (rate if rate_twice else 1.0)
        position -= (-1.0 if upwards else 1.0) * scale * step
        steps.append(position)
    return steps


def rmsprop_steps(
    settings: Settings,
    *,
    eps_inside: bool = False,
    root: bool = True,
    squared: bool = True,
    swapped: bool = False,
    decay_sign: float = 1.0,
    upwards: bool = False,
) -> Steps:
    """Positions after each step of RMSprop; the switches are mistakes."""
    rate, alpha, eps, decay, momentum = (
        settings[name] for name in ("learning_rate", "alpha", "eps", "weight_decay", "momentum")
    )
    position, square, velocity, steps = START, 0.0, 0.0, []
    for given in GRADIENTS:
        gradient = given + decay_sign * decay * position
        old, new = (1 - alpha, alpha) if swapped else (alpha, 1 - alpha)
        square = old * square + new * (gradient**2 if squared else abs(gradient))
        size = square if not root else math.sqrt(square + eps) if eps_inside else math.sqrt(square) + eps
        velocity = momentum * velocity + gradient / size
        position -= (-1.0 if upwards else 1.0) * rate * velocity
        steps.append(position)
    return steps


def adam_steps(
    settings: Settings,
    *,
    decoupled: bool = False,
    correct_mean: bool = True,
    correct_square: bool = True,
    first: int = 1,
    eps_inside: bool = False,
    root: bool = True,
    squared: bool = True,
    swapped: bool = False,
    decay_sign: float = 1.0,
    decay_without_rate: bool = False,
    upwards: bool = False,
) -> Steps:
    """Positions after each step of Adam or, decoupled, AdamW; the other switches are mistakes."""
    rate, (beta1, beta2), eps, decay = (settings[name] for name in ("learning_rate", "betas", "eps", "weight_decay"))
    beta1, beta2 = (beta2, beta1) if swapped else (beta1, beta2)
    position, mean, square, steps = START, 0.0, 0.0, []
    for number, given in enumerate(GRADIENTS):
        gradient = given
        if decoupled:
            position *= 1 - decay_sign * (1.0 if decay_without_rate else rate) * decay
        else:
            gradient += decay_sign * decay * position
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * (gradient**2 if squared else abs(gradient))
        step = number + first
        up = mean / (1 - beta1**step) if correct_mean and step else mean
        down = square / (1 - beta2**step) if correct_square and step else square
        size = down if not root else math.sqrt(down + eps) if eps_inside else math.sqrt(down) + eps
        position -= (-1.0 if upwards else 1.0) * rate * up / size
        steps.append(position)
    return steps


@dataclass(frozen=True)
class Rule:
    """An optimiser's formula, settings that show every part of it, and its usual mistakes."""

    steps: Callable[..., Steps]
    settings: tuple[Settings, ...]
    mistakes: Mistakes


UPWARDS: Mistakes = {"It goes up the slope: the step must be subtracted.": {"upwards": True}}
DECAY: Mistakes = {
    "Weight decay has the wrong sign: it must pull towards 0.": {"decay_sign": -1.0},
    "Weight decay is left out.": {"decay_sign": 0.0},
}
SQUARES: Mistakes = {
    "The square of the gradient is not taken.": {"squared": False},
    "The root is missing: the step is divided by the mean square itself.": {"root": False},
    "eps stands inside the root; it belongs behind it.": {"eps_inside": True},
}
ADAM_MISTAKES: Mistakes = {
    "Bias correction is missing: both means begin at 0 and are too small at first.": {
        "correct_mean": False,
        "correct_square": False,
    },
    "Bias correction of the mean is missing.": {"correct_mean": False},
    "Bias correction of the mean square is missing.": {"correct_square": False},
    "Steps are counted from 0 in the bias correction; the first is 1.": {"first": 0},
    "Steps are counted from 2 in the bias correction; the first is 1.": {"first": 2},
    "beta1 and beta2 are swapped.": {"swapped": True},
    **SQUARES,
    **DECAY,
    **UPWARDS,
}
RULES: dict[type[Optimizer], Rule] = {
    AdamW: Rule(
        lambda settings, **switches: adam_steps(settings, **{"decoupled": True, **switches}),
        ({"learning_rate": RATE, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1},),
        {
            "Weight decay passes through the moments, as in Adam with L2; AdamW shrinks the weight itself.": {
                "decoupled": False
            },
            "Weight decay is not multiplied by the learning rate.": {"decay_without_rate": True},
            **ADAM_MISTAKES,
        },
    ),
    Adam: Rule(
        adam_steps,
        ({"learning_rate": RATE, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1},),
        {"Weight decay shrinks the weight itself, as in AdamW.": {"decoupled": True}, **ADAM_MISTAKES},
    ),
    RMSprop: Rule(
        rmsprop_steps,
        tuple(
            {"learning_rate": RATE, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1, "momentum": momentum}
            for momentum in (0.5, 0.0)
        ),
        {"alpha and 1 - alpha are swapped.": {"swapped": True}, **SQUARES, **DECAY, **UPWARDS},
    ),
    SGD: Rule(
        sgd_steps,
        tuple(
            {
                "learning_rate": RATE,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": 0.1,
                "nesterov": nesterov,
            }
            for momentum, dampening, nesterov in ((0.9, 0.0, True), (0.9, 0.2, False), (0.0, 0.0, False))
        ),
        {
            "Nesterov without looking ahead: it is plain momentum.": {"lookahead": False},
            "The velocity is overwritten instead of kept: momentum has no effect.": {"kept": False},
            "Dampening is applied to the first step as well; there the velocity is the gradient itself.": {
                "first_damped": True
            },
            "The learning rate is applied twice.": {"rate_twice": True},
            "The learning rate is multiplied into the velocity; a later change of it then comes late.": {
                "rate_inside": True
            },
            **DECAY,
            **UPWARDS,
        },
    ),
}


@dataclass(frozen=True)
class OptimizerReport:
    """Five steps of an optimiser beside the formula's."""

    optimizer: str
    got: tuple[float, ...]
    expected: tuple[float, ...]
    diagnosis: str | None

    @property
    def passed(self) -> bool:
        return self.diagnosis is None

    def line(self) -> str:
        if self.diagnosis is None:
            return f"{self.optimizer:<12} right   (five steps)"
        far = [not math.isclose(a, b, abs_tol=CLOSE) for a, b in zip(self.got, self.expected, strict=True)]
        step = far.index(True)
        values = f"after step {step + 1} it is at {self.got[step]:.6g}, should be at {self.expected[step]:.6g}"
        return f"{self.optimizer:<12} WRONG   {values}. {self.diagnosis}"

    def to_dict(self) -> dict[str, Any]:
        found = {"optimizer": self.optimizer, "passed": self.passed, "diagnosis": self.diagnosis}
        return {**found, "got": list(self.got), "expected": list(self.expected)}


def check_optimizer(kind: type[Optimizer]) -> OptimizerReport:
    """Five steps of `kind`, a subclass of SGD, RMSprop, Adam or AdamW, beside the formula of that class.

    Raises:
        ValueError: a subclass of none of them, whose formula is not known here.
    """
    base = next((base for base in RULES if issubclass(kind, base)), None)
    if base is None:
        known = ", ".join(rule.__name__ for rule in RULES)
        raise refuse(f"{kind.__name__}, of unknown formula", f"a subclass of {known}", "Derive it from one of them.")
    rule = RULES[base]
    for settings in rule.settings:
        got, expected = _five_steps(kind, settings), rule.steps(settings)
        if not _equal(got, expected):
            return OptimizerReport(kind.__name__, tuple(got), tuple(expected), _named(got, rule, settings))
    return OptimizerReport(kind.__name__, tuple(got), tuple(expected), None)


def _named(got: Sequence[float], rule: Rule, settings: Settings) -> str:
    if not all(math.isfinite(value) for value in got):
        return "Not finite: a division by zero or a root of a negative number."
    for words, switches in rule.mistakes.items():
        try:
            wrong = rule.steps(settings, **switches)
        except ZeroDivisionError:
            continue
        if _equal(got, wrong):
            return words
    if all(value == START for value in got):
        return "The parameter does not move: change parameter.data in place."
    return "No usual mistake gives these numbers; compare the first step with the formula by hand."


def _five_steps(kind: type[Optimizer], settings: Settings) -> Steps:
    parameter = Parameter(np.array([START]))
    optimizer = kind([parameter], **settings)
    positions = []
    for gradient in GRADIENTS:
        parameter.grad[:] = gradient
        with np.errstate(divide="ignore", invalid="ignore"):
            optimizer.step()
        positions.append(float(parameter.data[0]))
    return positions


def _equal(left: Sequence[float], right: Sequence[float]) -> bool:
    return all(math.isclose(a, b, rel_tol=0, abs_tol=CLOSE) for a, b in zip(left, right, strict=True))
