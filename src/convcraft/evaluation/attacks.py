"""Attacks by gradients: pixels changed by little, so that the network errs; to train against, and to judge by."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convcraft.data.image_set import ImageSet
from convcraft.data.loader import eval_batches
from convcraft.data.preprocess import Preprocess
from convcraft.evaluation.predictions import evaluating

PGD_STEP = 2.5  # steps together may go this many times epsilon, so that every corner of the box can be reached (Madry)

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Attack:
    """Changes pixels by at most epsilon so that the loss grows, as far as gradients tell.

    fgsm: one step of epsilon (Goodfellow, Shlens, Szegedy 2015, arXiv:1412.6572, section 4). pgd: from a random point
    of the box, `steps` steps, each brought back into it (Madry et al. 2018, arXiv:1706.06083, section 2.1).

    epsilon: of pixels in 0..1.
    preprocess: gives mean and std, by which a pixel's change is divided in what the network sees.
    """

    kind: str
    epsilon: float
    steps: int
    preprocess: Preprocess
    seed: int = 0

    def __call__(self, model: nn.Module, loss: Loss, images: Tensor, targets: Tensor) -> Tensor:
        """Images that the network gets wrong sooner; of pixels from 0 to 1, as far as the given ones are.

        The network is asked in evaluation mode: weights, their gradients, batch norm's statistics and the random state
        stay as they are. The random start follows from the images alone.

        Args:
            images: float32 [B, C, H, W], normalised.
            targets: int64 [B], or float32 [B, K] after mixing.

        Returns:
            float32 [B, C, H, W], normalised.
        """
        epsilon, lowest, highest = self._box(images)
        changed, step = images.detach(), epsilon
        if self.kind == "pgd":
            step = epsilon * (PGD_STEP / self.steps)
            changed = (changed + epsilon * self._random_start(images)).clamp(lowest, highest)
        with evaluating(model), torch.enable_grad():
            for _ in range(1 if self.kind == "fgsm" else self.steps):
                changed.requires_grad_()
                (gradient,) = torch.autograd.grad(loss(model(changed), targets), changed)
                changed = (changed.detach() + step * gradient.sign()).clamp(lowest, highest)
        return changed.detach()

    def _box(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """epsilon [C, 1, 1] as the network sees it, and the least and largest values that are allowed."""
        mean, std = (
            torch.tensor(values, dtype=images.dtype, device=images.device)[:, None, None]
            for values in (self.preprocess.mean, self.preprocess.std)
        )
        epsilon = self.epsilon / std
        # Augmentation and rounding may have left the range of pixels already: nothing is moved by that alone.
        black, white = torch.minimum(images, -mean / std), torch.maximum(images, (1 - mean) / std)
        return epsilon, torch.maximum(images - epsilon, black), torch.minimum(images + epsilon, white)

    def _random_start(self, images: Tensor) -> Tensor:
        """Uniform numbers in -1..1, of the images' shape, a function of the images and the seed."""
        fingerprint = zlib.crc32(images.detach().cpu().contiguous().numpy().tobytes(), self.seed)
        generator = torch.Generator().manual_seed(fingerprint)
        return torch.rand(images.shape, generator=generator).mul_(2).sub_(1).to(images)


def attack_accuracy(
    model: nn.Module, images: ImageSet, *, epsilon: float, steps: int, batch_size: int = 128, num_workers: int = 0
) -> float:
    """Share of images that are still named right when each is attacked by PGD: 0..1.

    An upper bound: a stronger attack may find what this one does not.

    Args:
        epsilon: of pixels in 0..1.
        steps: of PGD; 0 attacks nothing and gives the plain accuracy.
    """
    attack = Attack("pgd", epsilon, steps, images.preprocess)
    device = next(model.parameters()).device
    num_right = 0
    for batch in eval_batches(images, batch_size, num_workers):
        pixels, targets = batch.images.to(device), batch.targets.to(device)
        if steps:
            pixels = attack(model, nn.functional.cross_entropy, pixels, targets)
        with evaluating(model), torch.no_grad():
            num_right += int((model(pixels).argmax(dim=1) == targets).sum())
    return num_right / len(images)
