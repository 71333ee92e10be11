"""Against overfitting and against attacks: weights pulled towards their start, and images changed for the worst.

The attacks are those of `evaluation.attacks`. Each is a hook of the loop (`training.hooks`) that keeps no state of its
own, so a run that was stopped goes on exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from convcraft.config import FinetuneConfig
from convcraft.data.cached_maps import CachedMaps
from convcraft.data.image_set import ImageSet
from convcraft.errors import UserError
from convcraft.evaluation.attacks import Attack
from convcraft.tasks.classification import Classification


def pull_to_start(
    model: nn.Module,
    strength: float,
    *,
    fresh: Collection[str] = (),
    fresh_decay: float = 0.01,
    precision: str = "32-true",
) -> Callable[[], None]:
    """A `before_step` hook that pulls trained weights back to what they are now, and fresh ones towards zero.

    L2-SP (Li, Grandvalet, Davoine 2018, arXiv:1802.01483, equation 3): strength / 2 * |w - start|^2 for pretrained
    weights, fresh_decay / 2 * |w|^2 for new ones. It takes the place of weight decay: set optim.weight_decay to 0.

    Args:
        model: with its pretrained weights; call before an earlier state of the run is restored.
        fresh: names of parameters that were not pretrained; of these, norms and biases are left alone.

    Raises:
        UserError: float16 gradients, which are scaled when the hook sees them.
    """
    if precision == "16-mixed":
        fix = "Set training.precision to bf16-mixed or 32-true, or finetune.l2_sp to 0."
        raise UserError("finetune.l2_sp with training.precision 16-mixed", "gradients that are not scaled", fix)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    anchors = [(p, p.detach().clone()) for name, p in trained.items() if name not in fresh]
    decayed = [p for name, p in trained.items() if name in fresh and p.ndim >= 2]

    @torch.no_grad()
    def add_pull() -> None:
        for parameter, start in anchors:
            if parameter.grad is not None:
                parameter.grad.add_(parameter - start.to(parameter.device), alpha=strength)
        for parameter in decayed:
            if parameter.grad is not None:
                parameter.grad.add_(parameter, alpha=fresh_decay)

    return add_pull


def attack_hook(
    model: nn.Module, task: Classification, images: ImageSet | CachedMaps, config: FinetuneConfig, seed: int
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The `perturb` hook of adversarial training; None where none is asked for.

    Raises:
        UserError: there are no pixels to attack, because the frozen layers' output is cached.
    """
    if config.attack == "none":
        return None
    if isinstance(images, CachedMaps):
        fix = "Set finetune.attack to none, or choose a method that trains the whole network (full)."
        raise UserError(f"finetune.attack {config.attack} with cached output of frozen layers", "images", fix)
    attack = Attack(config.attack, config.attack_epsilon, config.attack_steps, images.preprocess, seed)
    return lambda batch, targets: attack(model, task.loss, batch, targets)
