"""The operations of the policies against torchvision.transforms.v2, one by one and at every strength."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from convcraft.config import AugmentConfig
from convcraft.data.augment_draws import draw
from convcraft.data.augment_operations import OPERATIONS, apply_operations
from convcraft.data.augment_policy import NUM_STRENGTHS, SIGNED, apply_policy, drawn_operations, strengths

THEIR_NAMES = {"autocontrast": "AutoContrast"} | {
    name: name.title().replace("_", "") for name in OPERATIONS if name != "autocontrast"
}
THEIRS = {"trivial_augment": v2.TrivialAugmentWide(), "rand_augment": v2.RandAugment()}
PLACE = {"shear_x", "shear_y", "rotate"}  # a place exactly between two pixels may be rounded either way
ONE_LEVEL = {"color", "contrast", "sharpness"}  # cut down to whole numbers, so the last bit of a float32 can decide

CONSTANT = 3  # the image of one grey level: each pixel is the mean, so that all of it may be a level apart


def pictures(height: int, width: int, channels: int) -> Tensor:
    """uint8 [31, H, W, C]: full range, half of it pale, one constant."""
    pixels = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (31, height, width, channels), dtype=np.uint8))
    pixels[:15] = pixels[:15] // 3 + 50
    pixels[CONSTANT] = 77
    return pixels


@pytest.mark.parametrize("shape", [(32, 32, 3), (20, 36, 1), (41, 27, 3)], ids=str)
@pytest.mark.parametrize("policy", THEIRS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_torchvisions_at_every_strength(name: str, policy: str, shape: tuple[int, int, int]) -> None:
    height, width, _ = shape
    position, theirs = OPERATIONS.index(name), THEIRS[policy]
    magnitudes_of, signed = theirs._AUGMENTATION_SPACE[THEIR_NAMES[name]]
    assert bool(SIGNED[position]) == signed
    magnitudes = strengths(policy, height, width)[position]
    if (expected := magnitudes_of(NUM_STRENGTHS, height, width)) is not None:
        assert torch.equal(magnitudes, expected.to(torch.float64))
    pixels = pictures(*shape)
    for sign in (1, -1) if signed else (1,):
        ours = apply_operations(pixels, torch.full((31,), position), magnitudes * sign)
        images = [
            theirs._apply_image_or_video_transform(
                image.permute(2, 0, 1), THEIR_NAMES[name], float(magnitude) * sign, "nearest", {torch.Tensor: None}
            )
            for image, magnitude in zip(pixels, magnitudes, strict=True)
        ]
        apart = (ours.int() - torch.stack(images).permute(0, 2, 3, 1).int()).abs()
        if name in PLACE:
            assert (apart > 0).float().mean() < 0.005
        elif name in ONE_LEVEL:
            assert apart.max() <= 1
            assert (apart[torch.arange(31) != CONSTANT] > 0).float().mean() < 0.005
        else:
            assert apart.max() == 0


def test_operations_of_a_mixed_batch_are_those_of_each_image_alone() -> None:
    pixels = pictures(24, 24, 3).repeat(2, 1, 1, 1)
    operations = torch.arange(62) % len(OPERATIONS)
    magnitudes = strengths("trivial_augment", 24, 24)[operations, torch.arange(62) % NUM_STRENGTHS]
    together = apply_operations(pixels, operations, magnitudes)
    for index in range(62):
        part = slice(index, index + 1)
        assert torch.equal(apply_operations(pixels[part], operations[part], magnitudes[part]), together[part])


def test_trivial_augment_draws_one_operation_of_any_strength() -> None:
    config = AugmentConfig(policy="trivial_augment")
    ((operations, magnitudes),) = drawn_operations(draw(config, 0, 0, np.arange(28_000)), config, 32, 32)
    counts = torch.bincount(operations, minlength=14)
    assert (counts - 2000).abs().max() < 250
    turned = magnitudes[operations == OPERATIONS.index("rotate")]
    assert len(turned.unique()) == 61  # 30 strengths either way, and none
    assert (turned < 0).float().mean().item() == pytest.approx(30 / 62, abs=0.05)
    assert magnitudes[operations == OPERATIONS.index("posterize")].unique().tolist() == [2, 3, 4, 5, 6, 7, 8]


def test_rand_augment_draws_several_operations_of_the_set_strength() -> None:
    config = AugmentConfig(policy="rand_augment", policy_operations=3, policy_strength=10)
    drawn = drawn_operations(draw(config, 0, 0, np.arange(2000)), config, 32, 32)
    assert len(drawn) == 3
    for operations, magnitudes in drawn:
        assert set(magnitudes[operations == OPERATIONS.index("rotate")].tolist()) == {-10.0, 10.0}
    first, second = drawn[0][0], drawn[1][0]
    assert (first == second).float().mean().item() == pytest.approx(1 / 14, abs=0.03)
    more = drawn_operations(draw(config, 0, 0, np.arange(2000)), AugmentConfig(policy="rand_augment"), 32, 32)
    assert torch.equal(more[0][0], first)


def test_a_policy_applies_its_operations_one_after_the_other() -> None:
    config = AugmentConfig(policy="rand_augment", policy_operations=2, policy_strength=15)
    pixels = pictures(24, 24, 3)
    draws = draw(config, 0, 0, np.arange(31))
    (first, strength), (second, other) = drawn_operations(draws, config, 24, 24)
    expected = apply_operations(apply_operations(pixels, first, strength), second, other)
    assert torch.equal(apply_policy(pixels, draws, config), expected)
