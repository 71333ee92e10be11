"""Labels of mixed images follow the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from convcraft.config import AugmentConfig
from convcraft.data.augment import Augmenter
from convcraft.data.preprocess import Preprocess

NUM = 256
CONTRACT = Preprocess(height=20, width=28, channels=1, resize="stretch")
TARGETS = torch.arange(NUM)  # each image is a class of its own, so that a label names its image


def mixed(epoch: int = 0, **settings: float) -> tuple[Tensor, Tensor]:
    """Flat images, each with its own number / 255 as level."""
    levels = torch.arange(NUM, dtype=torch.uint8)[:, None, None, None].expand(NUM, 20, 28, 1)
    config = AugmentConfig(**settings)  # type: ignore[arg-type]
    return Augmenter(config, CONTRACT, NUM, 0)(levels, TARGETS, np.arange(NUM), epoch)


BOTH = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}


@pytest.mark.parametrize("settings", [{"mixup_alpha": 0.8}, {"cutmix_alpha": 1.0}, BOTH], ids="+".join)
def test_labels_add_up_to_one_and_name_the_pixels(settings: dict[str, float]) -> None:
    images, targets = mixed(**settings)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(NUM))
    assert ((targets > 0).sum(dim=1) <= 2).all()
    # The mean level of an image is that of its parts, weighted by its label: true area, true shares.
    levels = TARGETS.float() / 255
    torch.testing.assert_close(images.mean(dim=(1, 2, 3)), targets @ levels, rtol=0, atol=1e-5)


def test_cutmix_pastes_one_rectangle_of_the_neighbour() -> None:
    images, targets = mixed(cutmix_alpha=1.0)
    levels = TARGETS.float() / 255
    for index in range(NUM):
        pasted = (images[index, 0] - levels[index - 1]).abs() < 1e-6
        kept = (images[index, 0] - levels[index]).abs() < 1e-6
        assert (pasted ^ kept).all()
        rows, cols = pasted.any(dim=1), pasted.any(dim=0)
        assert pasted.sum() == rows.sum() * cols.sum()
        assert targets[index, index].item() == pytest.approx(kept.float().mean().item(), abs=1e-6)


def test_cutmix_shares_before_clipping_are_those_of_the_beta_distribution() -> None:
    """Boxes that touch no border have a side of sqrt(1 - share): uniform shares for alpha 1 (Yun et al., eq. 2)."""
    from convcraft.data.augment_draws import CUT
    from convcraft.data.augment_mix import _beta
    from convcraft.data.draws import uniforms

    draws = torch.from_numpy(uniforms(0, 0, np.arange(5000), CUT + 1))[:, CUT]
    for alpha in (0.2, 1.0, 3.0):
        assert stats.kstest(_beta(draws, alpha).numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_both_on_take_one_of_the_two_for_each_image() -> None:
    both, both_targets = mixed(**BOTH)
    mixup, mixup_targets = mixed(mixup_alpha=0.8)
    cutmix, cutmix_targets = mixed(cutmix_alpha=1.0)
    as_mixup = [torch.equal(a, b) for a, b in zip(both, mixup, strict=True)]
    as_cutmix = [torch.equal(a, b) for a, b in zip(both, cutmix, strict=True)]
    assert all(left or right for left, right in zip(as_mixup, as_cutmix, strict=True))
    assert 0.4 * NUM < sum(as_mixup) < 0.6 * NUM + sum(a and b for a, b in zip(as_mixup, as_cutmix, strict=True))
    expected = torch.where(torch.tensor(as_mixup)[:, None], mixup_targets, cutmix_targets)
    torch.testing.assert_close(both_targets, expected)
