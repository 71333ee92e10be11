"""Each change does what its name says, replays by seed, and is off when it is off."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from convcraft.config import AugmentConfig
from convcraft.data.augment import Augmenter
from convcraft.data.augment_draws import NOISE, NUM_DRAWS, POLICY
from convcraft.data.augment_kinds import COLOUR_ONLY, KINDS, Kind, kinds_that_are_on
from convcraft.data.draws import uniforms
from convcraft.data.image_set import ImageSet
from convcraft.data.loader import train_batches
from convcraft.data.preprocess import Preprocess
from convcraft.data.sample import Sample
from convcraft.errors import UserError

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


# --- every kind ---

COLOUR = dataclasses.replace(CONTRACT, height=24, width=20, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
EVERY_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def augment_colour(config: AugmentConfig, ids: np.ndarray, epoch: int = 0, seed: int = 7) -> tuple[Tensor, Tensor]:
    pixels = np.random.default_rng(1).integers(0, 256, (64, 24, 20, 3), dtype=np.uint8)
    return Augmenter(config, COLOUR, 10, seed)(torch.from_numpy(pixels[ids]), TARGETS[ids], ids, epoch)


def everything() -> AugmentConfig:
    settings = {name: value for kind in KINDS if "Mix" not in kind.name for name, value in kind.example.items()}
    return AugmentConfig(**settings)


@EVERY_KIND
def test_each_kind_toggles_and_replays_by_seed(kind: Kind) -> None:
    config = kind.shown(20)
    assert kinds_that_are_on(config) == [kind]
    assert not kind.is_on(AugmentConfig())
    changed, targets = augment_colour(config, IDS)
    plain, _ = augment_colour(AugmentConfig(), IDS)
    assert (changed - plain).abs().max() > 0.01
    again, same_targets = augment_colour(config, IDS)
    assert torch.equal(changed, again)
    assert torch.equal(targets, same_targets)
    for other in (augment_colour(config, IDS, epoch=1)[0], augment_colour(config, IDS, seed=8)[0]):
        assert not torch.equal(changed, other)
    assert changed.dtype == torch.float32
    assert changed.shape == plain.shape
    assert changed.is_contiguous(memory_format=torch.channels_last)


@EVERY_KIND
def test_each_kind_leaves_the_raw_pixels_alone(kind: Kind) -> None:
    pixels = torch.randint(0, 256, (8, 24, 20, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = pixels.clone()
    Augmenter(kind.shown(20), COLOUR, 10, 7)(pixels, TARGETS[:8], IDS[:8], 0)
    assert torch.equal(pixels, before)


@EVERY_KIND
def test_a_kind_is_the_same_in_any_batch(kind: Kind) -> None:
    if "Mix" in kind.name:
        pytest.skip("mixing takes the neighbour in the batch as partner, by definition")
    whole, _ = augment_colour(kind.shown(20), IDS)
    for part in (IDS[:1], IDS[5:8], np.array([63, 2, 17, 40, 41]), IDS[::2]):
        torch.testing.assert_close(augment_colour(kind.shown(20), part)[0], whole[part], rtol=0, atol=0)


@pytest.mark.parametrize("policy", ["none", "trivial_augment", "rand_augment"])
def test_all_kinds_together_are_the_same_in_any_batch(policy: str) -> None:
    config = dataclasses.replace(everything(), policy=policy)
    whole, _ = augment_colour(config, IDS, epoch=3)
    parts = [augment_colour(config, part, epoch=3)[0] for part in np.array_split(IDS, 7)]
    assert torch.equal(torch.cat(parts), whole)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone, _ = augment_colour(everything(), IDS)
        torch.set_num_threads(2)
        assert torch.equal(augment_colour(everything(), IDS)[0], alone)
    finally:
        torch.set_num_threads(before)


def test_switching_a_kind_on_leaves_the_draws_of_another_alone() -> None:
    """Flip and noise-free brightness are told apart from the sign of a half-black image, whatever else is on."""
    pixels = torch.zeros(64, 16, 16, 1, dtype=torch.uint8)
    pixels[:, :, 8:] = 200

    def mirrored(**others: object) -> list[bool]:
        images = augment(pixels, horizontal_flip=True, **others)[:, 0]
        return (images[:, 4:12, :8].mean(dim=(1, 2)) > images[:, 4:12, 8:].mean(dim=(1, 2))).tolist()

    alone = mirrored()
    assert 18 <= sum(alone) <= 46
    assert mirrored(noise_std=0.1) == alone
    assert mirrored(brightness=0.5, contrast=0.3) == alone
    assert mirrored(shear_degrees=10.0, rotation_degrees=10.0) == alone
    assert mirrored(crop_padding_pixels=1, erasing_probability=0.2) == alone


def test_columns_of_draws_never_move() -> None:
    """Numbers that older runs were made with: a column that moves would change what their seed means."""
    from convcraft.data import augment_draws as columns

    assert (columns.FLIP_X, columns.SHIFT_X, columns.ANGLE, columns.CONTRAST) == (0, 2, 6, 9)
    assert (columns.ERASE, columns.ERASE_Y, columns.MIX) == (10, 14, 15)
    assert (columns.SHEAR, columns.CROP_AREA, NOISE, columns.CUT_Y, POLICY) == (16, 17, 23, 27, 32)
    few, many = uniforms(3, 1, IDS, 16), uniforms(3, 1, IDS, NUM_DRAWS)
    assert np.array_equal(few, many[:, :16])


# --- flips, noise, colour ---


def test_alternate_flip_mirrors_every_other_epoch(pixels: torch.Tensor) -> None:
    plain = augment(pixels)
    mirrored = []
    for epoch in range(4):
        images = augment(pixels, epoch, horizontal_flip=True, flip_mode="alternate")
        mirrored.append([torch.equal(a.flip(-1), b) for a, b in zip(plain, images, strict=True)])
        same = [torch.equal(a, b) for a, b in zip(plain, images, strict=True)]
        assert all(m != s for m, s in zip(mirrored[-1], same, strict=True))
    assert 18 <= sum(mirrored[0]) <= 46
    assert mirrored[1] == [not m for m in mirrored[0]]
    assert mirrored[2] == mirrored[0]
    assert mirrored[3] == mirrored[1]


def test_noise_has_the_asked_deviation_and_is_fresh_for_each_pixel() -> None:
    grey = torch.full((64, 16, 16, 1), 128, dtype=torch.uint8)
    noise = augment(grey, noise_std=0.05) - 128 / 255
    assert noise.std().item() == pytest.approx(0.05, rel=0.03)
    assert noise.mean().abs().item() < 0.002
    assert noise.flatten(1).corrcoef().fill_diagonal_(0).abs().max() < 0.35  # no image has another's noise
    assert (noise[:, :, 1:] * noise[:, :, :-1]).mean().abs() < 1e-4  # nor a row that of the next
    assert stats.kstest(noise.flatten().numpy() / 0.05, "norm").statistic < 0.02
    assert augment(torch.zeros_like(grey), noise_std=0.5).min() == 0


def test_saturation_and_hue_are_torchvisions() -> None:
    from torchvision.transforms.v2 import functional

    from convcraft.data.augment_draws import HUE, SATURATION, draw, signed

    pixels = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (32, 24, 20, 3), dtype=np.uint8))
    pixels[0], pixels[1, :, :, 1:] = 90, 0  # one grey image, one pure red
    plain = dataclasses.replace(COLOUR, mean=(0.0,), std=(1.0,))
    for setting, column, function in (
        ("saturation", SATURATION, lambda image, draw: functional.adjust_saturation(image, 1 + 0.9 * draw)),
        ("hue", HUE, lambda image, draw: functional.adjust_hue(image, 0.5 * draw)),
    ):
        config = AugmentConfig(**{setting: 0.9 if setting == "saturation" else 0.5})
        images, _ = Augmenter(config, plain, 10, 7)(pixels, TARGETS[:32], IDS[:32], 0)
        strengths = signed(draw(config, 7, 0, IDS[:32]), column)
        before = pixels.permute(0, 3, 1, 2) / 255
        expected = torch.stack([function(a, float(b)) for a, b in zip(before, strengths, strict=True)])
        torch.testing.assert_close(images, expected, rtol=0, atol=2e-5)


def test_colour_changes_leave_grey_images_alone(pixels: torch.Tensor) -> None:
    settings = {name: value for kind in KINDS if kind.name in COLOUR_ONLY for name, value in kind.example.items()}
    assert set(settings) == {"saturation", "hue"}
    assert torch.equal(augment(pixels, **settings), augment(pixels))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_kind_streams_as_from_memory(num_workers: int) -> None:
    """Worker processes draw the same numbers, noise and policies included."""
    pixels = np.random.default_rng(1).integers(0, 256, (12, 24, 20, 3), dtype=np.uint8)
    samples = [Sample(image, index % 3, str(index)) for index, image in enumerate(pixels)]
    contract = dataclasses.replace(COLOUR, mean=(0.0,), std=(1.0,))
    augmenter = Augmenter(dataclasses.replace(everything(), mixup_alpha=0.4, cutmix_alpha=1.0), contract, 3, 7)
    passes = np.array_split(np.arange(12), 3)
    in_memory, streamed = (ImageSet.build(samples, contract, size) for size in (1 << 30, 0))
    expected = list(train_batches(in_memory, augmenter, passes, 2, 0))
    received = list(train_batches(streamed, augmenter, passes, 2, num_workers))
    for left, right in zip(expected, received, strict=True):
        assert torch.equal(left.images, right.images)
        assert torch.equal(left.targets, right.targets)


@pytest.mark.parametrize(
    "settings",
    [
        {"flip_mode": "always"},
        {"shear_degrees": 90.0},
        {"crop_area_range": (0.5, 1.5)},
        {"crop_area_range": (0.9, 0.5)},
        {"crop_aspect_range": (1.0,)},
        {"hue": 0.6},
        {"noise_std": -0.1},
        {"policy": "auto_augment"},
        {"policy_operations": 9},
        {"policy_strength": 31},
        {"cutmix_alpha": -1.0},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"augment.{next(iter(settings))}"):
        AugmentConfig(**settings)  # type: ignore[arg-type]
