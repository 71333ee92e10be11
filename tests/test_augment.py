"""Each change does what its name says, replays by seed, and is off when it is off."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convcraft.config import AugmentConfig
from convcraft.data.augment import Augmenter
from convcraft.data.preprocess import Preprocess

CONTRACT = Preprocess(
    height=16,
    width=16,
    channels=1,
    resize="stretch",
    interpolation="bilinear",
    crop_fraction=1.0,
    mean=(0.0,),
    std=(1.0,),
)
IDS = np.arange(64)
TARGETS = torch.arange(64) % 10


def augment(pixels: torch.Tensor, epoch: int = 0, **settings: object) -> torch.Tensor:
    config = AugmentConfig(**settings)  # type: ignore[arg-type]
    images, _ = Augmenter(config, CONTRACT, 10, seed=7)(pixels, TARGETS[: len(pixels)], IDS[: len(pixels)], epoch)
    return images


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (64, 16, 16, 1), dtype=np.uint8))


ALL = {
    "crop_padding_pixels": 2,
    "horizontal_flip": True,
    "shift_fraction": 0.1,
    "rotation_degrees": 10.0,
    "scale_range": (0.9, 1.1),
    "brightness": 0.2,
    "contrast": 0.2,
    "erasing_probability": 0.5,
}


def test_nothing_switched_on_gives_the_contracts_images(pixels: torch.Tensor) -> None:
    expected = torch.from_numpy(CONTRACT.normalise(pixels.numpy()))
    torch.testing.assert_close(augment(pixels), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_each_change_toggles_and_replays(pixels: torch.Tensor, name: str) -> None:
    changed = augment(pixels, **{name: ALL[name]})
    assert (changed - augment(pixels)).abs().max() > 0.01
    assert torch.equal(changed, augment(pixels, **{name: ALL[name]}))
    assert not torch.equal(changed, augment(pixels, epoch=1, **{name: ALL[name]}))


def test_an_image_changes_alike_in_any_batch(pixels: torch.Tensor) -> None:
    whole = augment(pixels, **ALL)
    augmenter = Augmenter(AugmentConfig(**ALL), CONTRACT, 10, seed=7)  # type: ignore[arg-type]
    order = np.array([9, 3, 40])
    part, _ = augmenter(pixels[order], TARGETS[order], order, 0)
    assert torch.equal(part, whole[order])


def test_flip_mirrors_about_half(pixels: torch.Tensor) -> None:
    plain, flipped = augment(pixels), augment(pixels, horizontal_flip=True)
    mirrored = [bool(torch.equal(a.flip(-1), b)) for a, b in zip(plain, flipped, strict=True)]
    same = [bool(torch.equal(a, b)) for a, b in zip(plain, flipped, strict=True)]
    assert all(m or s for m, s in zip(mirrored, same, strict=True))
    assert 18 <= sum(mirrored) <= 46


def test_shift_moves_whole_pixels_and_fills_with_black() -> None:
    dot = torch.zeros(64, 16, 16, 1, dtype=torch.uint8)
    dot[:, 8, 8] = 255
    moved = augment(dot, shift_fraction=0.125)  # up to 2 pixels
    rows, cols = torch.nonzero(moved[:, 0])[:, 1], torch.nonzero(moved[:, 0])[:, 2]
    assert len(rows) == 64
    assert moved.max() == 1.0
    assert set(rows.tolist()) == set(cols.tolist()) == {6, 7, 8, 9, 10}


@pytest.mark.parametrize("flip", [False, True])
def test_rotation_keeps_shape_and_distance(flip: bool) -> None:
    """A dot off the centre stays at its distance from the centre, flipped or not."""
    dot = torch.zeros(64, 16, 16, 1, dtype=torch.uint8)
    dot[:, 3:5, 7:9] = 255  # 4 pixels above the centre
    turned = augment(dot, rotation_degrees=90.0, horizontal_flip=flip, vertical_flip=flip)[:, 0]
    mass = turned.sum(dim=(1, 2))
    assert mass.min() > 3.0
    axis = torch.arange(16) - 7.5
    y = (turned.sum(dim=2) * axis).sum(dim=1) / mass
    x = (turned.sum(dim=1) * axis).sum(dim=1) / mass
    distance = (x**2 + y**2).sqrt()
    assert (distance - 4.0).abs().max() < 0.3
    assert y.max() > (2 if flip else -1)  # with flips it also ends below


def test_scale_zooms_in() -> None:
    square = torch.zeros(4, 16, 16, 1, dtype=torch.uint8)
    square[:, 6:10, 6:10] = 255
    larger = augment(square, scale_range=(2.0, 2.0))
    assert larger.sum(dim=(1, 2, 3)) == pytest.approx(64, abs=4)  # 4x4 pixels become 8x8


def test_brightness_and_contrast_stay_in_range(pixels: torch.Tensor) -> None:
    images = augment(pixels, brightness=0.9, contrast=0.9)
    assert images.min() >= 0
    assert images.max() <= 1
    flat = torch.full((64, 16, 16, 1), 100, dtype=torch.uint8)
    torch.testing.assert_close(augment(flat, contrast=0.9), augment(flat), rtol=0, atol=1e-5)


def test_erasing_blanks_one_rectangle() -> None:
    white = torch.full((64, 16, 16, 1), 255, dtype=torch.uint8)
    erased = augment(white, erasing_probability=1.0)[:, 0] == 0
    for mask in erased:
        rows, cols = mask.any(dim=1), mask.any(dim=0)
        assert mask.sum() == rows.sum() * cols.sum() > 0
        assert mask.sum() <= 16 * 16 * 0.45
    none = augment(white, erasing_probability=0.0)
    assert (none == 1).all()


def test_mixup_mixes_images_and_targets_by_the_same_share() -> None:
    levels = torch.arange(64, dtype=torch.uint8)[:, None, None, None].expand(64, 16, 16, 1) * 4
    images, targets = Augmenter(AugmentConfig(mixup_alpha=0.4), CONTRACT, 10, 0)(levels, TARGETS, IDS, 0)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(64))
    own = targets[torch.arange(64), TARGETS]
    assert own.min() >= 0.5
    before = levels[:, 0, 0, 0].float() / 255
    expected = own * before + (1 - own) * before.roll(1)
    torch.testing.assert_close(images[:, 0, 0, 0], expected, rtol=0, atol=1e-5)
    assert (own < 0.95).sum() > 5
