"""The preprocessing contract: the same pixels whatever the picture comes from, equal to plain code and to timm."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convcraft.config import PreprocessConfig
from convcraft.data.preprocess import Preprocess, measure_mean_std, native_size, resolve
from convcraft.errors import UserError

RNG = np.random.default_rng(3)


def photo(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    """A smooth picture with some noise, different in each channel and direction."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    planes = [100 * x + 60 * y + 50 * np.sin(9 * (x + c) * (y + 1)) for c in range(channels)]
    noisy = np.stack(planes, axis=-1) + np.random.default_rng(height * width).normal(40, 12, (height, width, channels))
    picture = noisy.clip(0, 255).astype(np.uint8)
    return picture if channels == 3 else picture[:, :, 0]


def preprocess(height: int = 32, width: int = 32, channels: int = 3, **values: Any) -> Preprocess:
    return Preprocess(height=height, width=width, channels=channels, **values)


def png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


# --- pixels ---


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
def test_file_bytes_array_and_image_give_the_same_bits(tmp_path: Path, resize: str, channels: int) -> None:
    pixels = photo(57, 83)
    (tmp_path / "a.png").write_bytes(png(pixels))
    steps = preprocess(24, 31, channels, resize=resize)
    expected = steps.pixels(pixels)
    assert expected.shape == (24, 31, channels)
    for image in (tmp_path / "a.png", png(pixels), Image.fromarray(pixels)):
        np.testing.assert_array_equal(steps.pixels(image), expected)


def triangle_resize(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float64]:
    """Bilinear with antialiasing, as plainly as can be: each output pixel a weighted mean of its surroundings."""

    def weights(size_in: int, size_out: int) -> NDArray[np.float64]:
        scale = size_in / size_out
        reach = max(scale, 1.0)
        centres = (np.arange(size_out) + 0.5) * scale
        distance = np.abs(np.arange(size_in) + 0.5 - centres[:, None])
        share = np.maximum(0.0, 1.0 - distance / reach)
        return share / share.sum(axis=1, keepdims=True)

    down, across = weights(pixels.shape[0], height), weights(pixels.shape[1], width)
    return np.einsum("ih,hwc,jw->ijc", down, pixels.astype(np.float64), across)


@pytest.mark.parametrize(("height", "width"), [(57, 83), (200, 90), (16, 16), (1, 40), (40, 1), (1, 1), (3, 700)])
def test_stretch_equals_plain_code(height: int, width: int) -> None:
    pixels = photo(height, width)
    result = preprocess(24, 31, resize="stretch").pixels(pixels)
    # Pillow rounds after each of its two passes: one grey level at most.
    assert np.abs(result - triangle_resize(pixels, 24, 31)).max() <= 1.01


@pytest.mark.parametrize(("height", "width", "fraction"), [(57, 83, 1.0), (200, 90, 0.875), (20, 20, 0.9), (1, 9, 1.0)])
def test_crop_equals_plain_code(height: int, width: int, fraction: float) -> None:
    pixels = photo(height, width)
    shorter = int(24 / fraction)
    scaled_height = shorter if height <= width else int(shorter * height / width)
    scaled_width = shorter if width <= height else int(shorter * width / height)
    top, left = round((scaled_height - 24) / 2), round((scaled_width - 24) / 2)
    expected = triangle_resize(pixels, scaled_height, scaled_width)[top : top + 24, left : left + 24]
    result = preprocess(24, 24, crop_fraction=fraction).pixels(pixels)
    assert np.abs(result - expected).max() <= 1.01


def test_pad_keeps_the_whole_picture_and_fills_with_black() -> None:
    pixels = photo(40, 80)
    result = preprocess(32, 32, resize="pad").pixels(pixels)
    assert np.abs(result[8:24] - triangle_resize(pixels, 16, 32)).max() <= 1.01
    assert not result[:8].any()
    assert not result[24:].any()
    assert preprocess(32, 32, resize="pad").pixels(photo(1, 200)).any()


def mutant_without_antialias(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    rows = (np.arange(height) * pixels.shape[0] / height).astype(int)
    columns = (np.arange(width) * pixels.shape[1] / width).astype(int)
    return pixels[rows][:, columns]


def test_the_comparison_with_plain_code_sees_the_classic_mistakes() -> None:
    """No antialiasing, RGB as BGR, half a pixel off: each is far outside the tolerance used above."""
    pixels = photo(200, 90)
    expected = triangle_resize(pixels, 24, 24)
    sound = preprocess(24, 24, resize="stretch").pixels(pixels).astype(float)
    mutants = {
        "no antialias": mutant_without_antialias(pixels, 24, 24).astype(float),
        "BGR": sound[:, :, ::-1],
        "shifted": np.roll(sound, 1, axis=1),
        "nearest": preprocess(24, 24, resize="stretch", interpolation="nearest").pixels(pixels).astype(float),
    }
    for name, mutant in mutants.items():
        assert np.abs(mutant - expected).max() > 5, name


GOLDEN = {
    (1, "stretch", "nearest"): "35358ec0597a8805",
    (1, "stretch", "bilinear"): "5bf2f85d7c1992dd",
    (1, "crop", "nearest"): "6afde14279317e13",
    (1, "crop", "bilinear"): "db25e6cb9beace77",
    (1, "crop", "bicubic"): "fb569d2189887804",
    (1, "crop", "lanczos"): "b86c338ce79e4280",
    (1, "pad", "bilinear"): "b877b0490847c908",
    (2, "stretch", "nearest"): "35358ec0597a8805",
    (2, "stretch", "bilinear"): "5bf2f85d7c1992dd",
    (2, "crop", "nearest"): "6afde14279317e13",
    (2, "crop", "bilinear"): "db25e6cb9beace77",
    (2, "crop", "bicubic"): "fb569d2189887804",
    (2, "crop", "lanczos"): "b86c338ce79e4280",
    (2, "pad", "bilinear"): "b877b0490847c908",
}


@pytest.mark.parametrize(("version", "resize", "interpolation"), GOLDEN)
def test_pixels_are_those_of_every_release_so_far(version: int, resize: str, interpolation: str) -> None:
    """A change here changes what saved networks see: raise `preprocess.VERSION` if it is meant."""
    y, x = np.mgrid[0:61, 0:97]
    pixels = np.stack([x * 2 + y, x ^ y, (x * y) % 251], axis=-1).astype(
        np.uint8
    )  # no generator, no float: exact anywhere
    steps = preprocess(29, 29, resize=resize, interpolation=interpolation, crop_fraction=0.9, version=version)
    found = hashlib.sha256(steps.pixels(pixels).tobytes()).hexdigest()[:16]
    assert found == GOLDEN[version, resize, interpolation]


@pytest.mark.parametrize(("height", "width"), [(57, 83), (300, 200), (224, 224), (31, 400), (256, 500)])
@pytest.mark.parametrize(
    ("target", "fraction"), [((48, 48), 0.875), ((48, 48), 0.95), ((40, 56), 0.9), ((56, 40), 1.0)]
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crop_equals_the_evaluation_of_timm(
    height: int, width: int, target: tuple[int, int], fraction: float, interpolation: str
) -> None:
    transforms = pytest.importorskip("timm.data.transforms_factory")
    pixels = photo(height, width)
    evaluation = transforms.transforms_imagenet_eval(
        img_size=target, crop_pct=fraction, interpolation=interpolation, normalize=False
    )
    expected = evaluation(Image.fromarray(pixels)).numpy().transpose(1, 2, 0)
    steps = preprocess(*target, crop_fraction=fraction, interpolation=interpolation, version=1)
    np.testing.assert_array_equal(steps.pixels(pixels), expected)
    newer = dataclasses.replace(steps, version=2).pixels(pixels)
    assert np.abs(newer - expected.astype(int)).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(57, 83), (300, 200), (31, 400), (1, 200), (4000, 30), (333, 500)])
def test_version_2_is_version_1_to_one_grey_level(height: int, width: int) -> None:
    pixels = photo(height, width)
    for target, fraction, interpolation in (((48, 48), 0.875, "bilinear"), ((40, 56), 1.0, "bicubic")):
        steps = preprocess(*target, crop_fraction=fraction, interpolation=interpolation)
        assert steps.version == 2
        difference = steps.pixels(pixels) - dataclasses.replace(steps, version=1).pixels(pixels).astype(int)
        assert np.abs(difference).max() <= 1


def test_the_photos_of_hymenoptera_hardly_change_from_version_1_to_2() -> None:
    folder = Path(os.environ.get("CONVCRAFT_DATA", "none")) / "hymenoptera"
    files = sorted(folder.rglob("*.jpg"))[::20]
    if not files:
        pytest.skip("hymenoptera is not below CONVCRAFT_DATA")
    steps = preprocess(224, 224, crop_fraction=0.875)
    first = dataclasses.replace(steps, version=1)
    differences = np.stack([np.abs(steps.pixels(file) - first.pixels(file).astype(int)) for file in files])
    assert differences.max() <= 1
    assert differences.mean() < 0.05


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_pixels_can_be_used_after_the_file_was_closed(tmp_path: Path, image_format: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    path = tmp_path / "large"  # over the size that is read at once
    Image.fromarray(pixels).save(path, image_format, **({"quality": 100} if image_format == "JPEG" else {}))
    path.write_bytes(path.read_bytes() + bytes(1 << 20))
    steps = preprocess(24, 24)
    seen = np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))
    np.testing.assert_array_equal(steps.pixels(path), steps.pixels(seen))


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    for channels in (1, 3):
        pixels = photo(28, 36, channels)
        result = preprocess(28, 36, channels).pixels(pixels)
        np.testing.assert_array_equal(result, pixels.reshape(28, 36, channels))
        np.testing.assert_array_equal(preprocess(28, 36, channels).pixels(png(pixels)), result)
        result[0, 0] = 7  # a copy of its own, not a view of the caller's array
        assert pixels[0, 0].tolist() != np.broadcast_to(7, pixels[0, 0].shape).tolist()
    zoomed = preprocess(28, 36, 3, crop_fraction=0.8).pixels(pixels)
    assert not np.array_equal(zoomed, pixels)
    by_bytes = preprocess(28, 36, 3, crop_fraction=0.8).pixels(png(pixels))
    np.testing.assert_array_equal(zoomed, by_bytes)


def test_grey_becomes_rgb_and_rgb_becomes_luma() -> None:
    grey = photo(20, 20, 1)
    np.testing.assert_array_equal(preprocess(20, 20, 3).pixels(grey), np.repeat(grey[..., None], 3, axis=2))
    rgb = photo(20, 20)
    luma = rgb @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    assert np.abs(preprocess(20, 20, 1).pixels(rgb)[:, :, 0] - luma).max() <= 0.51


def test_height_and_width_are_not_swapped() -> None:
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:20] = 255  # upper half white
    result = preprocess(10, 30, resize="stretch").pixels(pixels)
    assert result.shape == (10, 30, 3)
    assert result[:4].min() == 255
    assert result[6:].max() == 0


def test_a_very_long_picture_takes_no_more_memory_than_its_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = photo(4, 900)
    steps = preprocess(64, 64, interpolation="bicubic")
    whole = steps.pixels(pixels).astype(int)
    monkeypatch.setattr("convcraft.data.preprocess._LARGEST_RESIZED_PIXELS", 1000)
    assert np.abs(steps.pixels(pixels) - whole).max() <= 1


# --- numbers ---


def test_normalise_is_the_formula_rounded_once() -> None:
    steps = preprocess(2, 2, 3, mean=(0.1, 0.45, 0.9), std=(0.2, 0.25, 3.0))
    pixels = RNG.integers(0, 256, (5, 4, 6, 3)).astype(np.uint8)
    expected = ((pixels / 255.0 - np.array(steps.mean)) / np.array(steps.std)).astype(np.float32).transpose(0, 3, 1, 2)
    result = steps.normalise(pixels)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(steps.normalise(pixels[2]), expected[2])
    np.testing.assert_array_equal(steps.normalise(pixels[None]), expected[None])


def test_calling_is_pixels_then_normalise() -> None:
    steps = preprocess(16, 20, 1, mean=(0.3,), std=(0.2,))
    result = steps(photo(40, 40))
    assert result.shape == (1, 16, 20)
    np.testing.assert_array_equal(result, steps.normalise(steps.pixels(photo(40, 40))))


def test_normalise_refuses_other_pixels() -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        preprocess(2, 2).normalise(np.zeros((2, 2, 3), np.float32))
    with pytest.raises(ValueError, match="expected uint8"):
        preprocess(2, 2).normalise(np.zeros((2, 2, 1), np.uint8))


def test_mean_and_std_are_exact_and_independent_of_order() -> None:
    pixels = RNG.integers(0, 256, (700, 32, 32, 3)).astype(np.uint8)  # more than one chunk
    pixels[..., 1] //= 3
    mean, std = measure_mean_std(pixels)
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 1, 2), dtype=np.float64) / 255, rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=(0, 1, 2), dtype=np.float64) / 255, rtol=1e-9)
    assert measure_mean_std(pixels[::-1]) == (mean, std)
    mixed = preprocess(32, 32).with_statistics(mean, std).normalise(pixels)
    np.testing.assert_allclose(mixed.mean(axis=(0, 2, 3), dtype=np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(mixed.std(axis=(0, 2, 3), dtype=np.float64), 1, atol=1e-6)


def test_the_std_of_a_constant_channel_can_be_divided_by() -> None:
    mean, std = measure_mean_std(np.full((3, 4, 4, 1), 51, dtype=np.uint8))
    assert mean == (0.2,)
    assert std == (1 / 255,)


# --- as a file ---


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    steps = preprocess(28, 36, 3, resize="pad", interpolation="bicubic", mean=(0.1, 0.2, 0.3), std=(1 / 3, 0.2, 0.1))
    steps.save(tmp_path / "preprocess.json")
    assert Preprocess.load(tmp_path / "preprocess.json") == steps
    assert Preprocess.load(tmp_path / "preprocess.json").hash() == steps.hash()


def test_the_hash_tells_every_difference() -> None:
    steps = preprocess(mean=(0.5,), std=(0.5,), crop_fraction=0.9)
    changes: list[dict[str, Any]] = [
        {"height": 33},
        {"width": 33},
        {"channels": 1, "mean": (0.5,), "std": (0.5,)},
        {"resize": "pad"},
        {"interpolation": "bicubic"},
        {"crop_fraction": 0.95},
        {"mean": (0.5, 0.5, 0.5000001)},
        {"std": (0.5, 0.5, 0.5000001)},
        {"version": 1},
    ]
    hashes = {dataclasses.replace(steps, **change).hash() for change in changes}
    assert len(hashes | {steps.hash()}) == len(changes) + 1
    # Known for good: the hash goes into bundles and checkpoints.
    assert preprocess(version=1).hash()[:16] == "7a4a042be8a46d38"
    assert preprocess().hash()[:16] == "8187615c1a8eea8c"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"version": 3}, "version"),
        ({"version": True}, "version"),
        ({"heigth": 3}, "nearest: height"),
        ({"height": 0}, "height"),
        ({"height": 5000}, "height"),
        ({"height": 2.5}, "height"),
        ({"width": True}, "width"),
        ({"channels": 4}, "channels"),
        ({"resize": "zoom"}, "stretch, crop, pad"),
        ({"interpolation": "area"}, "bilinear"),
        ({"crop_fraction": 0}, "crop_fraction"),
        ({"crop_fraction": "1"}, "crop_fraction"),
        ({"mean": [0.5, 0.5]}, "one per channel"),
        ({"mean": "abc"}, "mean"),
        ({"std": [0.5, 0.5, 0]}, "above 0"),
        ({"std": [0.5, 0.5, float("nan")]}, "finite"),
    ],
)
def test_a_wrong_file_is_refused_by_what_is_wrong(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    path = tmp_path / "preprocess.json"
    path.write_text(json.dumps(preprocess().as_dict() | change))
    with pytest.raises(UserError, match=word):
        Preprocess.load(path)


def test_a_file_of_version_1_loads_and_gives_its_old_pixels(tmp_path: Path) -> None:
    saved = (
        '{"height": 29, "width": 29, "channels": 3, "resize": "crop", "interpolation": "bilinear", '
        '"crop_fraction": 0.9, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "version": 1}'
    )
    (tmp_path / "preprocess.json").write_text(saved)
    loaded = Preprocess.load(tmp_path / "preprocess.json")
    assert loaded == preprocess(29, 29, crop_fraction=0.9, version=1)
    assert loaded.as_dict()["version"] == 1


def test_an_incomplete_absent_or_broken_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "preprocess.json"
    with pytest.raises(UserError, match="no file"):
        Preprocess.load(path)
    for content in (b"{", b"\xff\xfe", b"[]", b'{"version": 1, "height": 3}'):
        path.write_bytes(content)
        with pytest.raises(UserError):
            Preprocess.load(path)


# --- from the configuration and the data ---


def test_what_the_configuration_leaves_open_the_data_answer() -> None:
    steps = resolve(PreprocessConfig(), sizes={(28, 36)}, all_grey=True)
    assert (steps.height, steps.width, steps.channels) == (28, 36, 1)
    steps = resolve(PreprocessConfig(), sizes={(28, 28), (30, 28)}, all_grey=False)
    assert (steps.height, steps.width, steps.channels) == (224, 224, 3)
    assert native_size([(512, 100)]) == (512, 100)
    assert native_size([(513, 100)]) == (224, 224)


def test_the_configuration_is_stronger_than_the_data() -> None:
    config = PreprocessConfig(
        image_size=(64, 96), channels=3, resize="pad", interpolation="bicubic", mean=(0.5,), std=(0.25,)
    )
    steps = resolve(config, sizes={(28, 28)}, all_grey=True)
    assert (steps.height, steps.width, steps.channels) == (64, 96, 3)
    assert (steps.resize, steps.interpolation) == ("pad", "bicubic")
    assert steps.mean == (0.5, 0.5, 0.5)
    assert steps.std == (0.25, 0.25, 0.25)
    with pytest.raises(UserError, match="one per channel"):
        resolve(PreprocessConfig(channels=1, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)), sizes={(8, 8)}, all_grey=True)


def test_no_torch_is_needed() -> None:
    code = "import sys, convcraft.data.preprocess, convcraft.data.scan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
