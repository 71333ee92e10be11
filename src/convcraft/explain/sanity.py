"""Does a heat map depend on what the network has learned? Its weights are randomised, and the maps must change.

Edge detectors, and some well-known methods, draw convincing outlines of the object whatever the weights are: they show
the image, not the network. Adebayo et al. 2018, "Sanity Checks for Saliency Maps", arXiv 1810.03292, section 3: weights
are randomised layer after layer, from the classifier down to the first layer, and each time the map is compared with
the one of the trained network.

Smooth maps of few cells can be alike for another reason: a method that favours the middle of the image does so with any
weights (Layer-CAM on the last layer of MobileNetV2: 0.68 with random weights, and still 0.50 between different images).
Such a map is no less uninformed, but no outline of the object either.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.explain.deletion import Method
from convcraft.explain.heat_maps import HeatMaps, standing
from convcraft.explain.similarity import rank_correlations, structural_similarities

NUM_DRAWS = 2
# Mean |rank correlation| with random weights throughout, from which on a method fails. On photos of ants and bees
# (MobileNetV2, 8 photos, 3 draws) it was 1.00 of edges and of brightness, which know no weights; 0.61 of guided
# backprop, which Adebayo et al. found wanting; 0.55 where the ranks of edges and of a gradient were added in equal
# parts; 0.31 of gradient x input, 0.21 of Grad-CAM, 0.11 of the gradient. A map of which half is edges must not pass.
MOST_CORRELATION = 0.5

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
BATCH_NORM = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True, eq=False)
class Stage:
    """How like the trained network's maps are those of a network randomised from the classifier down to some layer.

    layer: the last one randomised, seen from the classifier.
    share: of the layers with weights, how many are random: 1 is the whole network.
    correlations: Spearman, float64 [D, B], of D random draws.
    similarities: SSIM, float64 [D, B].
    num_blank: maps, of D * B, that are the same everywhere, so that nothing can be said of them.
    """

    layer: str
    share: float
    correlations: NDArray[np.float64]
    similarities: NDArray[np.float64]
    num_blank: int

    @property
    def correlation(self) -> float:
        """Mean |rank correlation|. A map turned inside out draws the same lines, so the sign does not count."""
        return float(np.abs(self.correlations).mean())

    @property
    def similarity(self) -> float:
        """Mean SSIM."""
        return float(self.similarities.mean())


@dataclass(frozen=True)
class Sanity:
    """From the classifier alone (first stage) to the whole network (last)."""

    stages: tuple[Stage, ...]

    @property
    def passed(self) -> bool:
        """Whether maps of a wholly random network are unlike those of the trained one."""
        return self.stages[-1].correlation < MOST_CORRELATION

    @property
    def verdict(self) -> str:
        return "depends on the weights" if self.passed else "fails"


def randomise_weights(
    method: Method,
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    num_stages: int = 5,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> Sanity:
    """Compare a method's maps of the trained network with those of copies whose weights are more and more random.

    Weights and biases are drawn as in a network that has not been trained (`randomised`). The model itself stays as it
    was, and so does torch's random state, as far as the method leaves both alone.

    Args:
        method: gives heat [B, H, W] of (model, images, targets).
        images: float32 [B, C, H, W], normalised as for the model.
        targets: int64 [B].
        num_stages: how many depths, evenly spaced over the layers; 1 randomises the whole network only. It costs
            num_stages * num_draws calls of the method.
        seed: of the random weights.

    Raises:
        UserError: no layer with weights, a number of stages or draws below 1, or maps that are not finite.
    """
    if num_stages < 1 or num_draws < 1:
        raise UserError(f"{num_stages} stages, {num_draws} draws", "at least one of each", "Pass larger numbers.")
    layers = layers_from_the_end(model, images[:1])
    first = 1 if num_stages > 1 else len(layers)
    depths = sorted({round(depth) for depth in np.linspace(first, len(layers), num_stages)})
    before = _maps(method, model, images, targets)
    stages = []
    for depth in depths:
        chosen = layers[:depth]
        after = [
            _maps(method, randomised(model, chosen, images, seed + draw), images, targets) for draw in range(num_draws)
        ]
        stages.append(
            Stage(
                layer=chosen[-1],
                share=depth / len(layers),
                correlations=np.stack([rank_correlations(before, maps) for maps in after]),
                similarities=np.stack([structural_similarities(before, maps) for maps in after]),
                num_blank=int(sum((np.ptp(maps, axis=(1, 2)) == 0).sum() for maps in after)),
            )
        )
    return Sanity(tuple(stages))


def layers_from_the_end(model: nn.Module, images: Tensor) -> tuple[str, ...]:
    """Names of the modules with parameters of their own, the one that runs last first; unused ones at the end.

    Raises:
        UserError: there are none.
    """
    own = [name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))]
    if not own:
        raise UserError(f"{type(model).__name__} has no weights", "a network that can learn", "Choose another model.")
    modules, ran = dict(model.named_modules()), list[str]()
    handles = [modules[name].register_forward_pre_hook(lambda *_, name=name: ran.append(name)) for name in own]
    try:
        with standing(model), torch.no_grad():
            model(images.to(next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    place = {name: number for number, name in enumerate(ran)}  # of its last run, where there are several
    return tuple(sorted(own, key=lambda name: -place.get(name, -1)))


def randomised(model: nn.Module, layers: Sequence[str], images: Tensor, seed: int) -> nn.Module:
    """A copy, in evaluation mode, in which these layers know nothing; the others keep what they learned.

    Weights are drawn from N(0, 2 / fan_in) (He et al. 2015), biases are 0, norms start at weight 1. Statistics of
    batch norms among the layers are those of the given images, as a fresh network's would be after some batches: with
    the trained ones signals would vanish or explode, and maps would change for that reason alone.

    Args:
        layers: names of modules; of each, its own parameters.
        images: float32 [B, C, H, W].
    """
    model = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(seed)
    modules = dict(model.named_modules())
    with torch.no_grad():
        for layer in layers:
            for name, parameter in modules[layer].named_parameters(recurse=False):
                parameter.copy_(_fresh(modules[layer], name, parameter, generator))
        handles = [
            modules[layer].register_forward_pre_hook(_take_statistics)
            for layer in layers
            if isinstance(modules[layer], BATCH_NORM)
        ]
        if handles:
            model(images.to(next(model.parameters()).device))
        for handle in handles:
            handle.remove()
    return model


def _fresh(module: nn.Module, name: str, parameter: Tensor, generator: torch.Generator) -> Tensor:
    """Start values for one parameter."""
    if isinstance(module, NORMS):
        return torch.full_like(parameter, 1.0 if name == "weight" else 0.0)
    if name == "bias":
        return torch.zeros_like(parameter)
    if parameter.ndim < 2:  # a factor per channel, a learned position: its own values, in another order
        return parameter.flatten()[torch.randperm(parameter.numel(), generator=generator)].view_as(parameter)
    fan_in = parameter[0].numel()
    return torch.randn(parameter.shape, generator=generator).mul_(math.sqrt(2.0 / fan_in)).to(parameter)


def _take_statistics(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """A hook: batch norm's statistics become those of what comes in."""
    assert isinstance(module, BATCH_NORM)
    if module.running_mean is not None and module.running_var is not None:
        dims = [dim for dim in range(inputs[0].ndim) if dim != 1]
        module.running_mean.copy_(inputs[0].mean(dims))
        module.running_var.copy_(inputs[0].var(dims, unbiased=False))


def _maps(method: Method, model: nn.Module, images: Tensor, targets: Tensor) -> HeatMaps:
    heat = method(model, images, targets)
    expected = (len(images), *images.shape[2:])
    if heat.shape != expected or not np.isfinite(heat).all():
        fix = "Check the method, and the network for NaN."
        raise UserError(f"heat of shape {list(heat.shape)}", f"{list(expected)}, finite", fix)
    return heat
