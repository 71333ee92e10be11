"""Labels of mixed images follow the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from convcraft.config import AugmentConfig
from convcraft.data.augment import Augmenter
from convcraft.data.augment_draws import CUT, CUT_X, CUT_Y
from convcraft.data.augment_mix import _cutmix_boxes
from convcraft.data.draws import uniforms
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


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_cutmix_areas_before_clipping_are_those_of_the_beta_distribution(alpha: float) -> None:
    """A box has the area 1 - share, share from Beta(alpha, alpha) (Yun et al. 2019, section 3.1)."""
    side, count = 2_000_000, 4000  # so large that whole pixels do not show
    draws = torch.from_numpy(uniforms(0, 0, np.arange(count), max(CUT, CUT_X, CUT_Y) + 1))
    draws[:, CUT_X] = draws[:, CUT_Y] = 0.5  # in the middle no box sticks out, so none is clipped
    images = torch.empty(count, 1, side, side, device="meta")  # its size alone matters
    (top, bottom, left, right), shares = _cutmix_boxes(images, draws, AugmentConfig(cutmix_alpha=alpha))
    areas = ((bottom - top) * (right - left)).double().numpy() / side**2
    assert stats.kstest(areas, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    np.testing.assert_allclose(shares.numpy(), 1 - areas, atol=1e-6)
    assert stats.kstest(np.sqrt(areas), stats.beta(alpha, alpha).cdf).pvalue < 1e-6  # the test can fail


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
