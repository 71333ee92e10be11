"""`convcraft scratch trace`: the optimisers of the NumPy engine, step by step, on losses of two weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.report.optimizer_plot import OptimizerPath, SurfaceMap, optimizer_plot
from convcraft.scratch.module import Parameter
from convcraft.scratch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from convcraft.workflows.scratch.surfaces import BEALE, BOWL, Surface

Array = NDArray[np.float64]
Terms = dict[str, Array]  # numbers of a formula by their letters, each [2]


@dataclass(frozen=True)
class Rule:
    """An optimiser to watch.

    formula: lines to compute by hand; their letters are the names of the terms. terms: from the weights before the
    step, the gradient, what the optimiser remembers after the step, its settings and the step's number, what stands
    left of each = sign.
    """

    name: str
    formula: tuple[str, ...]
    build: Callable[[Sequence[Parameter], dict[str, Any]], Optimizer]
    terms: Callable[[Array, Array, dict[str, Any], dict[str, Any], int], Terms]


@dataclass(frozen=True)
class Step:
    """One step. before, after: the weights (x, y); loss: at `before`; gradient: there; terms: the formula's numbers."""

    number: int
    before: Array
    loss: float
    gradient: Array
    terms: Terms
    after: Array

    def to_dict(self) -> dict[str, Any]:
        numbers = {"w": self.before, "g": self.gradient, **self.terms, "w_next": self.after}
        return {"step": self.number, "loss": self.loss, **{name: value.tolist() for name, value in numbers.items()}}


@dataclass(frozen=True)
class Trace:
    """What one optimiser did on one surface."""

    surface: Surface
    rule: Rule
    settings: dict[str, Any]
    steps: tuple[Step, ...]

    @property
    def path(self) -> Array:
        """Weights before every step and after the last: [steps + 1, 2]."""
        return np.stack([step.before for step in self.steps] + [self.steps[-1].after])

    @property
    def losses(self) -> Array:
        """The loss along the path: [steps + 1]."""
        x, y = self.path.T
        return self.surface.loss(x, y)

    def to_dict(self, num_steps: int) -> dict[str, Any]:
        """The first steps with all their numbers, the whole path and its losses."""
        settings = {name: list(value) if isinstance(value, tuple) else value for name, value in self.settings.items()}
        return {
            "surface": self.surface.name,
            "optimizer": self.rule.name,
            "settings": settings,
            "formula": list(self.rule.formula),
            "steps": [step.to_dict() for step in self.steps[:num_steps]],
            "path": self.path.tolist(),
            "losses": self.losses.tolist(),
        }


def _sgd(settings_names: tuple[str, ...]) -> Callable[[Sequence[Parameter], dict[str, Any]], Optimizer]:
    return lambda parameters, settings: SGD(parameters, **{name: settings[name] for name in settings_names})


def _plain_terms(w: Array, g: Array, memory: dict[str, Any], settings: dict[str, Any], t: int) -> Terms:
    return {}


def _momentum_terms(w: Array, g: Array, memory: dict[str, Any], settings: dict[str, Any], t: int) -> Terms:
    return {"v": memory["velocity"].copy()}


def _nesterov_terms(w: Array, g: Array, memory: dict[str, Any], settings: dict[str, Any], t: int) -> Terms:
    velocity = memory["velocity"].copy()
    return {"v": velocity, "d": g + settings["momentum"] * velocity}


def _rmsprop_terms(w: Array, g: Array, memory: dict[str, Any], settings: dict[str, Any], t: int) -> Terms:
    square = memory["square"].copy()
    return {"s": square, "d": g / (np.sqrt(square) + settings["eps"])}


def _adam_terms(w: Array, g: Array, memory: dict[str, Any], settings: dict[str, Any], t: int) -> Terms:
    beta1, beta2 = settings["betas"]
    mean, square = memory["mean"].copy(), memory["square"].copy()
    mean_hat, square_hat = mean / (1 - beta1**t), square / (1 - beta2**t)
    direction = mean_hat / (np.sqrt(square_hat) + settings["eps"])
    return {"m": mean, "s": square, "m^": mean_hat, "s^": square_hat, "d": direction}


def _adamw_terms(w: Array, g: Array, memory: dict[str, Any], settings: dict[str, Any], t: int) -> Terms:
    return {
        **_adam_terms(w, g, memory, settings, t),
        "u": w * (1 - settings["learning_rate"] * settings["weight_decay"]),
    }


RULES = (
    Rule("SGD", ("w_next = w - rate g",), _sgd(("learning_rate",)), _plain_terms),
    Rule(
        "momentum",
        ("v = momentum v + g   (v = g at the first step)", "w_next = w - rate v"),
        _sgd(("learning_rate", "momentum")),
        _momentum_terms,
    ),
    Rule(
        "Nesterov",
        ("v = momentum v + g   (v = g at the first step)", "d = g + momentum v", "w_next = w - rate d"),
        _sgd(("learning_rate", "momentum", "nesterov")),
        _nesterov_terms,
    ),
    Rule(
        "RMSprop",
        ("s = alpha s + (1 - alpha) g²   (s = 0 before)", "d = g / (√s + eps)", "w_next = w - rate d"),
        lambda parameters, settings: RMSprop(parameters, **settings),
        _rmsprop_terms,
    ),
    Rule(
        "Adam",
        (
            "m = beta1 m + (1 - beta1) g,   s = beta2 s + (1 - beta2) g²   (0 before)",
            "m^ = m / (1 - beta1^t),   s^ = s / (1 - beta2^t),   d = m^ / (√s^ + eps)",
            "w_next = w - rate d",
        ),
        lambda parameters, settings: Adam(parameters, **settings),
        _adam_terms,
    ),
    Rule(
        "AdamW",
        (
            "m, s, m^, s^ and d as Adam's",
            "u = w (1 - rate decay)",
            "w_next = u - rate d",
        ),
        lambda parameters, settings: AdamW(parameters, **settings),
        _adamw_terms,
    ),
)
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    BOWL.name: {
        "SGD": {"learning_rate": 0.09},
        "momentum": {"learning_rate": 0.04, "momentum": 0.8},
        "Nesterov": {"learning_rate": 0.04, "momentum": 0.8, "nesterov": True},
        "RMSprop": {"learning_rate": 0.1, "alpha": 0.9, "eps": 1e-8},
        "Adam": {"learning_rate": 0.3, "betas": (0.9, 0.999), "eps": 1e-8},
        "AdamW": {"learning_rate": 0.3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1},
    },
    BEALE.name: {
        "SGD": {"learning_rate": 0.02},
        "momentum": {"learning_rate": 0.01, "momentum": 0.9},
        "Nesterov": {"learning_rate": 0.01, "momentum": 0.9, "nesterov": True},
        "RMSprop": {"learning_rate": 0.05, "alpha": 0.9, "eps": 1e-8},
        "Adam": {"learning_rate": 0.2, "betas": (0.9, 0.999), "eps": 1e-8},
        "AdamW": {"learning_rate": 0.2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1},
    },
}
NUM_STEPS = {BOWL.name: 60, BEALE.name: 150}


def trace(surface: Surface, rule: Rule, settings: dict[str, Any], num_steps: int) -> Trace:
    """Let an optimiser of the engine take steps on a surface, in float64, and write down every number."""
    weights = Parameter(np.array(surface.start))
    optimizer = rule.build([weights], settings)
    steps = []
    for number in range(1, num_steps + 1):
        before = weights.data.copy()
        x, y = before
        weights.grad[:] = surface.gradient(x, y)
        optimizer.step()
        terms = rule.terms(before, weights.grad, optimizer.memory[0], settings, number)
        loss = float(surface.loss(x, y))
        steps.append(Step(number, before, loss, weights.grad.copy(), terms, weights.data.copy()))
    return Trace(surface, rule, settings, tuple(steps))


def trace_all() -> list[Trace]:
    """Every optimiser on both surfaces."""
    return [
        trace(surface, rule, SETTINGS[surface.name][rule.name], NUM_STEPS[surface.name])
        for surface in (BOWL, BEALE)
        for rule in RULES
    ]


GRID = 241  # points per axis of the picture's maps


def draw(traces: Sequence[Trace], file: Path) -> None:
    """The picture, as PNG."""
    surfaces = list(dict.fromkeys(each.surface for each in traces))
    figure = optimizer_plot([_map(surface, [t for t in traces if t.surface is surface]) for surface in surfaces])
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120, pil_kwargs={"optimize": True})


def _map(surface: Surface, traces: Sequence[Trace]) -> SurfaceMap:
    left, right, bottom, top = surface.window
    x, y = np.linspace(left, right, GRID), np.linspace(bottom, top, GRID)
    columns, rows = np.meshgrid(x, y)
    paths = [OptimizerPath(each.rule.name, _short(each.settings), each.path, each.losses) for each in traces]
    title = f"{surface.name}: {surface.formula}"
    return SurfaceMap(title, x, y, surface.loss(columns, rows), surface.minimum, paths)


def _short(settings: dict[str, Any]) -> str:
    """What the picture says of the settings: the rate, and what else sets an optimiser apart."""
    parts = [f"rate {settings['learning_rate']:g}"]
    parts += [f"momentum {settings['momentum']:g}"] if "momentum" in settings else []
    parts += [f"decay {settings['weight_decay']:g}"] if "weight_decay" in settings else []
    return ", ".join(parts)


def table_lines(traces: Sequence[Trace], num_steps: int) -> list[str]:
    """The first steps of each optimiser in numbers, for standard output: to be computed again by hand."""
    lines = []
    for each in traces:
        settings = ", ".join(f"{NAMES.get(name, name)} {value}" for name, value in each.settings.items())
        lines += [
            "",
            f"{each.surface.name}, {each.rule.name}: {settings}",
            *(f"    {line}" for line in each.rule.formula),
        ]
        for step in each.steps[:num_steps]:
            numbers = {"w": step.before, "g": step.gradient, **step.terms, "w_next": step.after}
            lines.append(f"  t = {step.number}   L = {step.loss:.6g}")
            lines += [f"    {name:<6} = ({value[0]: .8g}, {value[1]: .8g})" for name, value in numbers.items()]
    return lines


NAMES = {"learning_rate": "rate", "weight_decay": "decay", "betas": "beta1, beta2 ="}
