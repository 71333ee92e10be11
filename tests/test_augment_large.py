"""Slices of large images give what the tables and masks of small ones give, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from convcraft.config import AugmentConfig
from convcraft.data import augment_large
from convcraft.data.augment import Augmenter
from convcraft.data.preprocess import Preprocess

SETTINGS: dict[str, dict[str, Any]] = {
    "flip": {"horizontal_flip": True},
    "both flips": {"horizontal_flip": True, "vertical_flip": True},
    "padded crop": {"crop_padding_pixels": 9},
    "all moves": {"horizontal_flip": True, "vertical_flip": True, "crop_padding_pixels": 5, "shift_fraction": 0.2},
    "out of sight": {"horizontal_flip": True, "crop_padding_pixels": 512, "shift_fraction": 1.0},
    "erasing": {"erasing_probability": 0.5},
    "MixUp": {"mixup_alpha": 0.8},
    "CutMix": {"cutmix_alpha": 1.0},
    "MixUp and CutMix": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "erasing_probability": 1.0},
}


def augment(pixels: Tensor, settings: dict[str, Any]) -> tuple[Tensor, Tensor]:
    batch, height, width, channels = pixels.shape
    contract = Preprocess(height=height, width=width, channels=channels, mean=(0.4,), std=(0.2,))
    augmenter = Augmenter(AugmentConfig(**settings), contract, 10, seed=3)
    return augmenter(pixels, torch.arange(batch) % 10, np.arange(batch), 0)


def drawn(batch: int, height: int, width: int, channels: int) -> Tensor:
    random = np.random.default_rng(0)
    return torch.from_numpy(random.integers(0, 256, (batch, height, width, channels), dtype=np.uint8))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("shape", [(12, 40, 31, 3), (12, 17, 24, 1), (1, 20, 20, 3)])
def test_slices_give_the_bits_of_the_tables(
    settings: dict[str, Any], shape: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = drawn(*shape)
    before = pixels.clone()
    monkeypatch.setattr(augment_large, "MIN_PIXELS", 1 << 30)
    by_tables, expected_targets = augment(pixels, settings)
    monkeypatch.setattr(augment_large, "MIN_PIXELS", 0)
    by_slices, targets = augment(pixels, settings)
    assert torch.equal(by_slices, by_tables)
    assert torch.equal(targets, expected_targets)
    assert by_slices.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixels, before)


def test_large_images_are_those_from_the_measured_size_on_in_main_memory() -> None:
    assert augment_large.is_large(drawn(1, 48, 48, 1), 48, 48)
    assert not augment_large.is_large(drawn(1, 32, 32, 3), 32, 32)
    assert not augment_large.is_large(torch.empty((1, 224, 224, 3), device="meta"), 224, 224)


def test_move_slices_flips_first_and_counts_the_offset_in_the_unflipped_image() -> None:
    """Against a loop over pixels, written from the rule."""
    pixels = drawn(4, 6, 5, 3)
    flip_rows, flip_cols = torch.tensor([False, True, False, True]), torch.tensor([False, False, True, True])
    rows_off, cols_off = torch.tensor([2, -1, 9, 3]), torch.tensor([-3, 4, 1, -2])
    moved = augment_large.move_slices(pixels, flip_rows, flip_cols, rows_off, cols_off)
    for image in range(4):
        for y in range(6):
            for x in range(5):
                row = (5 - y if flip_rows[image] else y) + int(rows_off[image])
                col = (4 - x if flip_cols[image] else x) + int(cols_off[image])
                inside = 0 <= row < 6 and 0 <= col < 5
                expected = pixels[image, row, col] if inside else torch.zeros(3, dtype=torch.uint8)
                assert torch.equal(moved[image, y, x], expected), (image, y, x)
