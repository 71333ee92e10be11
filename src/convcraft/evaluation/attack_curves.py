"""Accuracy under attack over the attack's size, and whether the attack can be believed.

A network may look robust because its gradients tell nothing (masking), not because it is. Signs of it, after Athalye,
Carlini, Wagner 2018 (arXiv:1802.00420, section 3.1) and Carlini et al. 2019 (arXiv:1902.06705): one step does more harm
than many, noise does as much as the attack, and even an attack without limit does not get through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convcraft.data.preprocess import Preprocess
from convcraft.data.sample import Progress
from convcraft.errors import UserError
from convcraft.evaluation.attacks import Attack, Loss
from convcraft.evaluation.judged_images import JudgedImages
from convcraft.evaluation.predictions import evaluating
from convcraft.evaluation.robustness import Curve, Point
from convcraft.statistics import paired_difference_interval

EPSILONS = (0.0, 1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255, 32 / 255)  # 8 / 255 is usual for colour photos
LARGE_EPSILON, LARGE_ACCURACY = 0.5, 0.05  # any image can become grey: nothing is left to be told apart
Right = NDArray[np.bool_]  # [N]


@dataclass(frozen=True)
class AttackReport:
    """Curves over epsilon (L-infinity, of pixels in 0..1): upper bounds, as a stronger attack may find more.

    pgd: an image counts as right where neither loss, cross-entropy nor margin, has led PGD to a mistake.
    pgd_cross_entropy, pgd_margin: right under PGD that climbs this loss alone.
    noise: each value moved up or down by epsilon at random, to compare with.
    at_large_epsilon: accuracy under PGD at LARGE_EPSILON.
    warnings: signs that the attack fails, rather than that the network withstands it; none in a sound measurement.
    """

    fgsm: Curve
    pgd: Curve
    noise: Curve
    at_large_epsilon: Point
    steps: int
    seed: int
    warnings: tuple[str, ...]
    pgd_cross_entropy: Curve
    pgd_margin: Curve

    def to_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "seed": self.seed,
            "fgsm": self.fgsm.to_dict(),
            "pgd": self.pgd.to_dict(),
            "pgd_cross_entropy": self.pgd_cross_entropy.to_dict(),
            "pgd_margin": self.pgd_margin.to_dict(),
            "noise": self.noise.to_dict(),
            "at_large_epsilon": self.at_large_epsilon.to_dict(),
            "warnings": list(self.warnings),
        }


def attack_report(
    model: nn.Module,
    images: JudgedImages,
    preprocess: Preprocess,
    epsilons: Sequence[float] = EPSILONS,
    *,
    steps: int = 20,
    batch_size: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
) -> AttackReport:
    """Accuracy under FGSM, PGD (the worse of two losses) and noise at each epsilon.

    Args:
        model: gives logits; it stays as it is, on its device.
        preprocess: of the network; images have its size.
        epsilons: each in 0..1.
        steps: of PGD.
        seed: of PGD's start and of the noise.
        progress: called after each epsilon; the check at LARGE_EPSILON is the last.
    """
    if not len(epsilons) or not all(0 <= epsilon <= 1 for epsilon in epsilons):
        raise UserError(f"epsilons {tuple(epsilons)}", "numbers in 0..1, at least one", "8 / 255 is usual for photos.")
    if steps < 1:
        raise UserError(f"{steps} steps", "1 or more", "20 is usual.")
    found: dict[str, list[Right]] = {kind: [] for kind in ("fgsm", "pgd_cross_entropy", "pgd_margin", "noise")}

    def right_under(attack: Attack | _Noise, loss: Loss = _cross_entropy) -> Right:
        return _right_under(attack, loss, model, images, preprocess, batch_size)

    for done, epsilon in enumerate(epsilons, start=1):
        pgd = Attack("pgd", epsilon, steps, preprocess, seed)
        found["fgsm"].append(right_under(Attack("fgsm", epsilon, 1, preprocess, seed)))
        found["pgd_cross_entropy"].append(right_under(pgd))
        found["pgd_margin"].append(right_under(pgd, margin_loss))
        found["noise"].append(right_under(_Noise(epsilon, preprocess, seed)))
        if progress is not None:
            progress(done, len(epsilons) + 1, "attacked images")
    found["pgd"] = [a & b for a, b in zip(found["pgd_cross_entropy"], found["pgd_margin"], strict=True)]
    unlimited = Attack("pgd", LARGE_EPSILON, steps, preprocess, seed)
    large = Point.of(LARGE_EPSILON, right_under(unlimited) & right_under(unlimited, margin_loss))
    if progress is not None:
        progress(len(epsilons) + 1, len(epsilons) + 1, "attacked images")

    def curve(kind: str) -> Curve:
        points = tuple(Point.of(epsilon, right) for epsilon, right in zip(epsilons, found[kind], strict=True))
        return Curve(kind, "epsilon of pixels in 0..1", points, len(images), images.num_available)

    return AttackReport(
        fgsm=curve("fgsm"),
        pgd=curve("pgd"),
        noise=curve("noise"),
        at_large_epsilon=large,
        steps=steps,
        seed=seed,
        warnings=masking_warnings(epsilons, found["fgsm"], found["pgd"], found["noise"], large),
        pgd_cross_entropy=curve("pgd_cross_entropy"),
        pgd_margin=curve("pgd_margin"),
    )


def masking_warnings(
    epsilons: Sequence[float], fgsm: Sequence[Right], pgd: Sequence[Right], noise: Sequence[Right], large: Point
) -> tuple[str, ...]:
    """What speaks against the attack; differences count where their 95 % interval leaves 0 out.

    Args:
        fgsm, pgd, noise: for each epsilon, which images are named right under it, bool [N].
        large: accuracy under PGD at LARGE_EPSILON.
    """
    warnings, stronger_than_noise = [], False
    for epsilon, by_fgsm, by_pgd, by_noise in zip(epsilons, fgsm, pgd, noise, strict=True):
        if epsilon == 0:
            continue
        if paired_difference_interval(by_fgsm, by_pgd)[0] > 0:
            shares = f"{by_pgd.mean():.1%} right against {by_fgsm.mean():.1%}"
            warnings.append(f"At epsilon {epsilon:.4g} PGD does less harm than FGSM ({shares}): give it more steps.")
        over_noise = paired_difference_interval(by_pgd, by_noise)
        stronger_than_noise |= over_noise[0] > 0
        if over_noise[1] < 0:
            warnings.append(f"At epsilon {epsilon:.4g} random noise does more harm than PGD: gradients mislead it.")
    if any(epsilon > 0 for epsilon in epsilons) and not stronger_than_noise:
        warnings.append(
            "At no epsilon does PGD do more harm than random noise can: it does no more than random noise of its size. "
            "Gradients tell it nothing, or the epsilons or the images are too few to show it."
        )
    if large.accuracy > LARGE_ACCURACY:
        warnings.append(
            f"At epsilon {large.value:g}, where any image can be made grey, PGD still leaves {large.accuracy:.1%} "
            f"right (up to {LARGE_ACCURACY:.0%} would be sound): gradients are masked."
        )
    return tuple(warnings)


@dataclass(frozen=True)
class _Noise:
    """As `Attack`, but each value moves up or down by chance."""

    epsilon: float
    preprocess: Preprocess
    seed: int

    def __call__(self, model: nn.Module, loss: object, images: Tensor, targets: Tensor) -> Tensor:
        mean, std = (torch.tensor(x, dtype=images.dtype, device=images.device)[:, None, None] for x in self._statistics)
        generator = torch.Generator().manual_seed(self.seed)
        signs = torch.randint(2, images.shape, generator=generator).mul_(2).sub_(1).to(images)
        return torch.minimum(torch.maximum(images + self.epsilon / std * signs, -mean / std), (1 - mean) / std)

    @property
    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.preprocess.mean, self.preprocess.std


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """In float64: in float32 a very sure network's gradient would be rounded to nothing."""
    return nn.functional.cross_entropy(logits.double(), targets)


def margin_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over images of the best wrong logit minus the true one: above 0 where the network errs.

    Its gradient does not vanish however sure the network is, and with steps of a gradient's sign the scale of the
    logits plays no part. The loss f6 of Carlini, Wagner 2017 (arXiv:1608.04644), without its floor.

    Args:
        logits: [B, K]; K at least 2. targets: int64 [B].
    """
    true = logits.gather(1, targets[:, None])[:, 0]
    best_wrong = logits.scatter(1, targets[:, None], -torch.inf).amax(dim=1)
    return (best_wrong - true).sum()


def _right_under(
    attack: Attack | _Noise,
    loss: Loss,
    model: nn.Module,
    images: JudgedImages,
    preprocess: Preprocess,
    batch_size: int,
) -> Right:
    device = next(model.parameters()).device
    right = []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        pixels = torch.from_numpy(preprocess.normalise(images.pixels[part])).to(device)
        targets = torch.from_numpy(images.targets[part]).to(device)
        changed = attack(model, loss, pixels, targets) if attack.epsilon else pixels
        with evaluating(model), torch.inference_mode():
            right.append((model(changed).argmax(dim=1) == targets).cpu().numpy())
    return np.concatenate(right)
