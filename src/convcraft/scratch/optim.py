"""Gradient descent and its variants: how a gradient becomes a step.

Every optimiser is one function of (parameter, gradient, what it remembers of this parameter); the formulas stand
beside each. Names and order of the settings are torch's, `lr` written out. Parameters may come in groups with settings
of their own: [{"parameters": [...], "weight_decay": 0.0}, ...]. Frozen parameters (`trainable` False) do not move.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from convcraft.scratch.checks import Array, refuse
from convcraft.scratch.module import Parameter

Group = dict[str, Any]


class Optimizer:
    """What all share: groups, memory, and the walk over the parameters.

    Attributes:
        groups: one dict per group: "parameters" and the settings; change "learning_rate" there between steps.
        memory: per parameter what the rule remembers (velocity, moments), in the order of the groups.
    """

    def __init__(self, parameters: Sequence[Parameter] | Sequence[Group], **defaults: Any) -> None:
        given = list(parameters)
        groups = given if given and isinstance(given[0], dict) else [{"parameters": given}]
        self.groups: list[Group] = []
        for group in groups:
            assert isinstance(group, dict)
            unknown = set(group) - {"parameters", *defaults}
            if unknown:
                raise refuse(f"the settings {sorted(unknown)}", f"some of {sorted(defaults)}", "Check the names.")
            self.groups.append({**defaults, **group, "parameters": list(group["parameters"])})
        if not any(group["parameters"] for group in self.groups):
            raise refuse("no parameters", "at least one", "Pass network.parameters().")
        self._check()
        self.memory: list[dict[str, Any]] = [{} for group in self.groups for _ in group["parameters"]]

    def step(self) -> None:
        """One step against the gradients that are there; call `zero_grad` before the next backward."""
        number = 0
        for group in self.groups:
            for parameter in group["parameters"]:
                if parameter.trainable:
                    self.update(parameter, self.memory[number], group)
                number += 1

    def update(self, parameter: Parameter, memory: dict[str, Any], settings: Group) -> None:
        """Change `parameter.data` in place by the rule of this optimiser."""
        raise NotImplementedError(f"{type(self).__name__} has no rule")

    def zero_grad(self) -> None:
        for group in self.groups:
            for parameter in group["parameters"]:
                parameter.grad.fill(0)

    def _check(self) -> None:
        for group in self.groups:
            for name in ("learning_rate", "weight_decay", "eps"):
                if group.get(name, 0.0) < 0:
                    raise refuse(f"{name}={group[name]}", "at least 0", f"Pass another {name}.")
            for name in ("momentum", "alpha", "dampening"):
                if not 0.0 <= group.get(name, 0.0) <= 1.0:
                    raise refuse(f"{name}={group[name]}", "0 to 1", f"Pass another {name}.")
            if not all(0.0 <= beta < 1.0 for beta in group.get("betas", ())):
                raise refuse(f"betas={group['betas']}", "two numbers from 0 to less than 1", "(0.9, 0.999) is usual.")
            if group.get("nesterov") and (group["momentum"] <= 0 or group["dampening"] != 0):
                received = f"nesterov with momentum={group['momentum']}, dampening={group['dampening']}"
                raise refuse(received, "a momentum above 0 and no dampening", "momentum=0.9 is usual.")


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (Polyak 1964) or Nesterov's look-ahead (Sutskever et al. 2013).

    g = gradient + weight_decay * w
    v = momentum * v + (1 - dampening) * g        (v = g at the first step)
    w = w - learning_rate * (g + momentum * v if nesterov else v)
    """

    def __init__(
        self,
        parameters: Sequence[Parameter] | Sequence[Group],
        learning_rate: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(
            parameters,
            learning_rate=learning_rate,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
        )

    def update(self, parameter: Parameter, memory: dict[str, Any], settings: Group) -> None:
        gradient = _decayed(parameter, settings)
        momentum = settings["momentum"]
        if momentum:
            if "velocity" not in memory:
                memory["velocity"] = gradient.copy()
            else:
                memory["velocity"] *= momentum
                memory["velocity"] += (1 - settings["dampening"]) * gradient
            velocity = memory["velocity"]
            gradient = gradient + momentum * velocity if settings["nesterov"] else velocity
        parameter.data -= settings["learning_rate"] * gradient


class RMSprop(Optimizer):
    """Each number's step is divided by a running root mean square of its gradient. Hinton 2012, lecture 6e.

    g = gradient + weight_decay * w
    s = alpha * s + (1 - alpha) * g^2
    w = w - learning_rate * g / (sqrt(s) + eps)   (with momentum: v = momentum * v + g / (...); w -= rate * v)
    """

    def __init__(
        self,
        parameters: Sequence[Parameter] | Sequence[Group],
        learning_rate: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
    ) -> None:
        super().__init__(
            parameters,
            learning_rate=learning_rate,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
        )

    def update(self, parameter: Parameter, memory: dict[str, Any], settings: Group) -> None:
        gradient = _decayed(parameter, settings)
        square = _running(memory, "square", np.square(gradient), settings["alpha"])
        step = gradient / (np.sqrt(square) + settings["eps"])
        if settings["momentum"]:
            velocity = memory.setdefault("velocity", np.zeros_like(parameter.data))
            velocity *= settings["momentum"]
            velocity += step
            step = velocity
        parameter.data -= settings["learning_rate"] * step


class Adam(Optimizer):
    """Running means of the gradient and of its square, each corrected for having begun at 0. Kingma & Ba 2015.

        g = gradient + weight_decay * w
        m = beta1 * m + (1 - beta1) * g               mean of the gradient
        s = beta2 * s + (1 - beta2) * g^2             mean of its square
        w = w - learning_rate * (m / (1 - beta1^t)) / (sqrt(s / (1 - beta2^t)) + eps),  t = 1, 2, ...

    Without the two corrections (an article's formula forgets them) both means begin too small, the mean of the square
    by more: the first step is (1 - beta1) / sqrt(1 - beta2) = 3.2 times too long. Keras's eps is 1e-7.
    """

    decoupled = False

    def __init__(
        self,
        parameters: Sequence[Parameter] | Sequence[Group],
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, learning_rate=learning_rate, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, parameter: Parameter, memory: dict[str, Any], settings: Group) -> None:
        rate, (beta1, beta2) = settings["learning_rate"], settings["betas"]
        if self.decoupled:
            parameter.data *= 1 - rate * settings["weight_decay"]
            gradient = parameter.grad
        else:
            gradient = _decayed(parameter, settings)
        memory["step"] = step = memory.get("step", 0) + 1
        mean = _running(memory, "mean", gradient, beta1)
        square = _running(memory, "square", np.square(gradient), beta2)
        root = np.sqrt(square)
        root /= math.sqrt(1 - beta2**step)
        root += settings["eps"]
        parameter.data -= (rate / (1 - beta1**step)) * mean / root


class AdamW(Adam):
    """Adam whose weight decay does not pass through the moments: w is first shrunk by learning_rate * weight_decay.

    Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", arXiv 1711.05101, algorithm 2.
    """

    decoupled = True

    def __init__(
        self,
        parameters: Sequence[Parameter] | Sequence[Group],
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(parameters, learning_rate, betas, eps, weight_decay)


def clip_grad_norm(parameters: Sequence[Parameter], max_norm: float) -> float:
    """Shrink all gradients by one factor so that their common L2 norm is at most `max_norm`; frozen ones do not count.

    Returns:
        the norm before. Pascanu et al. 2013, arXiv 1211.5063; the factor is max_norm / (norm + 1e-6), as in torch.
    """
    if max_norm <= 0:
        raise refuse(f"max_norm={max_norm}", "a number above 0", "1 is usual.")
    grads = [parameter.grad for parameter in parameters if parameter.trainable]
    norm = math.sqrt(sum(float(np.square(grad, dtype=np.float64).sum()) for grad in grads))
    factor = max_norm / (norm + 1e-6)
    for grad in () if factor >= 1 else grads:  # a norm of NaN makes all NaN, as in torch, and is seen at once
        grad *= factor
    return norm


def _decayed(parameter: Parameter, settings: Group) -> Array:
    """The gradient of loss + weight_decay / 2 * |w|^2 (L2 regularisation)."""
    decay = settings["weight_decay"]
    return parameter.grad + decay * parameter.data if decay else parameter.grad


def _running(memory: dict[str, Any], name: str, value: Array, beta: float) -> Array:
    """memory[name] = beta * memory[name] + (1 - beta) * value, from 0."""
    mean = memory.setdefault(name, np.zeros_like(value))
    mean *= beta
    mean += (1 - beta) * value
    return mean
