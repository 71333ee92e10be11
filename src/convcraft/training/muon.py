"""Muon: momentum whose matrices are made orthogonal before they move the hidden layers.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks", kellerjordan.github.io/posts/muon. A
gradient's momentum is dominated by few directions; with all its singular values near 1, a step moves every direction
equally far. Made for matrices: a convolution's weight [out, in, kh, kw] counts as [out, in * kh * kw]. The first layer,
the classifier, biases, norms and grouped convolutions are moved by an ordinary optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from convcraft.models.classifier import classifiers

# p(s) = a s + b s^3 + c s^5 with the steepest rise at 0 that still keeps singular values in about 0.7..1.2 (Jordan).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5

# The root mean square of AdamW's updates, which the "rms" scale matches (Liu et al. 2025, arXiv:2502.16982).
ADAM_RMS = 0.2


class Muon(torch.optim.Optimizer):
    """Moves hidden weights by Muon and everything else by `others`, as one optimiser.

    Args:
        hidden: weights of two and more axes, [out, ...]; see `hidden_weights`.
        others: an optimiser of all other parameters. Its groups follow Muon's own in `param_groups`, and its state is
            part of this one's, so schedules and checkpoints need not know of it.
        lr: learning rate of the hidden weights, in the unit that `scale` gives it.
        momentum: share of the old momentum that is kept; 0..1, 1 excluded.
        nesterov: look one step ahead.
        weight_decay: decoupled, as AdamW's; without effect where scale is "relative".
        scale: "rms": updates are as large as AdamW's, so its rates and weight decay fit. "relative": weights are kept
            at norm sqrt(out) and an update's norm is lr times that (for out <= inputs), so every step turns a layer by
            about lr radians (as airbench94 does, Jordan 2024, arXiv:2404.00498); only for networks with a norm behind
            every hidden layer, whose outputs do not depend on the weights' length.
    """

    def __init__(
        self,
        hidden: Iterable[Tensor],
        others: torch.optim.Optimizer,
        *,
        lr: float,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        scale: str = "rms",
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay, "scale": scale}
        super().__init__(hidden, defaults)
        self.others = others
        self.param_groups += others.param_groups
        self._share_state()

    def _share_state(self) -> None:
        """One state and the same group objects for both optimisers."""
        self.others.state = self.state
        self.others.param_groups = self.param_groups[1:]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)  # replaces state and groups
        self._share_state()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None:
                self._move(parameter, self.param_groups[0])
        self.others.step()
        return loss

    def _move(self, weight: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        gradient, momentum = weight.grad, state["momentum"]
        assert gradient is not None
        momentum.mul_(group["momentum"]).add_(gradient)
        direction = gradient.add(momentum, alpha=group["momentum"]) if group["nesterov"] else momentum
        matrix = direction.reshape(len(direction), -1)  # [out, in * kh * kw]
        update = orthogonalize(matrix).view(weight.shape)
        if group["scale"] == "relative":
            weight.mul_(len(weight) ** 0.5 / (weight.norm() + 1e-7))
            weight.add_(update, alpha=-group["lr"])
        else:
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(update, alpha=-group["lr"] * ADAM_RMS * max(matrix.shape) ** 0.5)


def orthogonalize(matrix: Tensor, steps: int = STEPS) -> Tensor:
    """The nearest orthogonal matrix, roughly: same singular vectors, singular values near 1.

    Newton-Schulz iteration X <- (a + b A + c A^2) X with A = X X^T. It is run on A alone, which is square in the
    smaller side: A <- P A P with P = a + b A + c A^2, and the product of all P is applied to the matrix once. In exact
    arithmetic that is the same; for convolutions (nine times as wide as high) it takes 0.4 of the operations, and in
    float32 on a CPU it is a little quicker than the plain form in bfloat16, without its rounding.

    Args:
        matrix: float [m, n].
        steps: rounds of the iteration.

    Returns:
        float [m, n]; singular values in 0.6..1.3 where the matrix's own are above 0.003 of its Frobenius norm.
    """
    a, b, c = COEFFICIENTS
    wide = matrix / (matrix.norm() + 1e-7)  # all singular values at most 1, where the iteration converges
    wide = wide if wide.shape[0] <= wide.shape[1] else wide.T
    gram, product = wide @ wide.T, None
    for step in range(steps):
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal().add_(a)
        product = polynomial if product is None else product @ polynomial
        if step + 1 < steps:
            gram = polynomial @ gram @ polynomial
    result = wide if product is None else product @ wide
    return result if matrix.shape[0] <= matrix.shape[1] else result.T


def hidden_weights(model: nn.Module, *, trained: bool = True) -> list[Tensor]:
    """Weights for Muon: linear and ungrouped 2-d convolution layers but the first and the classifier.

    A grouped convolution's filters see different inputs, so the rows of its weight are no matrix of one map.

    Args:
        trained: those that are trained, or those that are frozen.
    """
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    outer = {id(parameter) for layer in [*layers[:1], *_classifiers(model, layers)] for parameter in layer.parameters()}
    weights: dict[int, Tensor] = {
        id(layer.weight): layer.weight
        for layer in layers
        if layer.weight.requires_grad == trained and id(layer.weight) not in outer and getattr(layer, "groups", 1) == 1
    }
    return list(weights.values())


def _classifiers(model: nn.Module, layers: list[nn.Linear | nn.Conv2d]) -> list[nn.Module]:
    """Ours and timm's networks name theirs (timm sometimes two); of others the last layer is taken."""
    if not hasattr(model, "get_classifier"):
        return list(layers[-1:])
    return list(classifiers(model).values())
