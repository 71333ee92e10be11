"""The preprocessing contract: what stands between a decoded picture and the numbers that a network sees.

Validation, test, probes, predict and servers all run this code and no other, so a model is never shown other pixels
than those it was judged on. Pillow and NumPy only; every step is exact integer work or one rounding to float32, hence
the same on every machine with the same Pillow. Saved as `preprocess.json` beside the weights.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convcraft.config import INTERPOLATIONS, RESIZES, PreprocessConfig
from convcraft.data.images import decode_image, upright_grey_or_rgb
from convcraft.errors import UserError

# 1 resizes the whole picture, then cuts out the middle. 2 computes the middle alone, which is quicker; about 1 in 100
# of a photo's pixel values differs by one grey level (docs/images.md). Files of both load.
VERSION = 2
VERSIONS = (1, 2)
DEFAULT_SIDE_PIXELS = 224  # what most pretrained networks were trained at
LARGEST_NATIVE_SIDE_PIXELS = 512  # images that all have one size keep it up to here

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Version 1: resizing a very long image before cutting out its middle may need this many pixels; beyond, only the middle
# is made.
_LARGEST_RESIZED_PIXELS = 32 << 20

ImageLike = Path | bytes | NDArray[np.uint8] | Image.Image


@dataclass(frozen=True, slots=True)
class Placement:
    """The box (left, upper, right, lower; pixels of the upright picture, with fractions) becomes width x height pixels.

    Its upper left corner comes to (left, top) of the result; what is not covered is black.
    """

    box: tuple[float, float, float, float]
    width: int
    height: int
    left: int = 0
    top: int = 0


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How any picture becomes the input of one network.

    height, width: pixels of the result.
    channels: 1 (grey, ITU-R 601 luma) or 3 (RGB).
    resize: "stretch" ignores the aspect; "crop" resizes the shorter side to size / crop_fraction (rounded down) and
        cuts out the centre, as torchvision's Resize + CenterCrop and timm's evaluation do (version 1 pixel for pixel,
        version 2 to one grey level); "pad" fits the whole picture in and fills up with black.
    interpolation: "nearest", or "bilinear", "bicubic", "lanczos" with antialiasing (Pillow widens the filter by the
        scale).
    mean, std: per channel, of pixels in 0..1; the network sees (pixel / 255 - mean) / std.
    version: which pixels "crop" gives, see `VERSION`; the other two give the same in both.
    """

    height: int
    width: int
    channels: int
    resize: str = "crop"
    interpolation: str = "bilinear"
    crop_fraction: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    version: int = VERSION

    def __post_init__(self) -> None:
        _check_version(self.version)
        for name in ("height", "width"):
            side = getattr(self, name)
            _check(type(side) is int and 1 <= side <= 4096, name, side, "a whole number of pixels from 1 to 4096")
        _check(type(self.channels) is int and self.channels in (1, 3), "channels", self.channels, "1 (grey) or 3 (RGB)")
        _check(self.resize in RESIZES, "resize", self.resize, "one of " + ", ".join(RESIZES))
        _check(
            self.interpolation in INTERPOLATIONS,
            "interpolation",
            self.interpolation,
            "one of " + ", ".join(INTERPOLATIONS),
        )
        _check(
            _is_number(self.crop_fraction) and 0.1 <= self.crop_fraction <= 1.0,
            "crop_fraction",
            self.crop_fraction,
            "0.1..1",
        )
        for name in ("mean", "std"):
            object.__setattr__(self, name, self._per_channel(name))
        _check(all(value > 0 for value in self.std), "std", self.std, "numbers above 0")

    def _per_channel(self, name: str) -> tuple[float, ...]:
        values = getattr(self, name)
        numbers = isinstance(values, (tuple, list)) and all(_is_number(value) for value in values)
        _check(numbers, name, values, "a list of finite numbers")
        if len(values) == 1:
            values = tuple(values) * self.channels
        _check(len(values) == self.channels, name, values, f"{self.channels} numbers, one per channel")
        return tuple(float(value) for value in values)

    def pixels(self, image: ImageLike) -> NDArray[np.uint8]:
        """The picture at its final size.

        Returns: uint8 [H, W, C], C-contiguous and writable.
        Raises: BadImage, as `decode_image`.
        """
        if isinstance(image, np.ndarray) and self._is_final(image):
            return np.array(image.reshape(self.height, self.width, self.channels))
        decoded = upright_grey_or_rgb(image) if isinstance(image, Image.Image) else decode_image(image)
        mode = "L" if self.channels == 1 else "RGB"
        resized = self._resized(decoded if decoded.mode == mode else decoded.convert(mode))  # convert always copies
        return np.array(resized).reshape(self.height, self.width, self.channels)

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the network sees of these pixels, by one table look-up per value.

        Args:
            pixels: uint8 [..., H, W, C].

        Returns: float32 [..., C, H, W], contiguous: (pixel / 255 - mean) / std in float64, rounded once.
        """
        if pixels.dtype != np.uint8 or pixels.ndim < 3 or pixels.shape[-1] != self.channels:
            raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}; expected uint8 [..., H, W, {self.channels}]")
        *batch, height, width, channels = pixels.shape
        normalised = np.empty((*batch, channels, height, width), dtype=np.float32)
        for channel in range(channels):
            plane = normalised[..., channel, :, :]
            # No index can be out of range: "clip" only spares numpy the buffer that it needs in order to raise.
            np.take(self._table[channel], pixels[..., channel], out=plane, mode="clip")
        return normalised

    def __call__(self, image: ImageLike) -> NDArray[np.float32]:
        """float32 [C, H, W], ready for the network."""
        return self.normalise(self.pixels(image))

    def with_statistics(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Preprocess:
        """The same preprocessing with mean and std as `measure_mean_std` gave them."""
        return dataclasses.replace(self, mean=mean, std=std)

    # --- geometry ---

    def _is_final(self, pixels: NDArray[np.uint8]) -> bool:
        shape = (self.height, self.width, self.channels)
        has_shape = pixels.shape == shape or (self.channels == 1 and pixels.shape == shape[:2])
        return has_shape and pixels.dtype == np.uint8 and self._keeps(self.width, self.height)

    def _keeps(self, width: int, height: int) -> bool:
        """Whether an image of this size passes through untouched."""
        return (width, height) == (self.width, self.height) and (self.resize != "crop" or self.crop_fraction == 1.0)

    def placement(self, width: int, height: int) -> Placement:
        """Which part of an upright picture of this size is shown, how large, and where."""
        if self._keeps(width, height) or self.resize == "stretch":
            return Placement((0.0, 0.0, float(width), float(height)), self.width, self.height)
        if self.resize == "pad":
            return self._fitted(width, height)
        left, top, across, down = self._crop_of(width, height)
        right = min((left + self.width) * across, width)  # the quotient may have been rounded up
        bottom = min((top + self.height) * down, height)
        return Placement((left * across, top * down, right, bottom), self.width, self.height)

    def _resized(self, image: Image.Image) -> Image.Image:
        if self._keeps(*image.size):
            return image
        if self.resize == "crop" and self._cuts_last(*image.size):
            return self._resized_then_cut(image)
        place = self.placement(*image.size)
        resized = image.resize((place.width, place.height), _FILTERS[self.interpolation], box=place.box)
        if resized.size == (self.width, self.height):
            return resized
        canvas = Image.new(image.mode, (self.width, self.height))
        canvas.paste(resized, (place.left, place.top))
        return canvas

    def _cuts_last(self, width: int, height: int) -> bool:
        """Whether "crop" resizes the whole picture first: version 1, where that is not too much for memory."""
        if self.version >= 2 and self.interpolation != "nearest":  # "nearest" could pick other pixels of the picture
            return False
        resized_width, resized_height = self._size_before_crop(width, height)
        return resized_width * resized_height <= _LARGEST_RESIZED_PIXELS

    def _resized_then_cut(self, image: Image.Image) -> Image.Image:
        left, top, _, _ = self._crop_of(*image.size)
        resized = image.resize(self._size_before_crop(*image.size), _FILTERS[self.interpolation])
        return resized.crop((left, top, left + self.width, top + self.height))

    def _crop_of(self, width: int, height: int) -> tuple[int, int, float, float]:
        """Where the centre crop begins in the resized picture (left, top), and picture pixels per resized pixel."""
        resized_width, resized_height = self._size_before_crop(width, height)
        left, top = round((resized_width - self.width) / 2), round((resized_height - self.height) / 2)
        return left, top, width / resized_width, height / resized_height

    def _size_before_crop(self, width: int, height: int) -> tuple[int, int]:
        # Rounding as torchvision's (square) and timm's (not square): so were published weights measured.
        target_height, target_width = (math.floor(side / self.crop_fraction) for side in (self.height, self.width))
        if target_height == target_width:
            longer = int(target_height * max(width, height) / min(width, height))
            return (target_height, longer) if width <= height else (longer, target_height)
        ratio = min(height / target_height, width / target_width)
        return max(round(width / ratio), self.width), max(round(height / ratio), self.height)

    def _fitted(self, image_width: int, image_height: int) -> Placement:
        scale = min(self.height / image_height, self.width / image_width)
        width = min(max(round(image_width * scale), 1), self.width)
        height = min(max(round(image_height * scale), 1), self.height)
        whole = (0.0, 0.0, float(image_width), float(image_height))
        return Placement(whole, width, height, (self.width - width) // 2, (self.height - height) // 2)

    # --- numbers ---

    @functools.cached_property
    def _table(self) -> NDArray[np.float32]:
        """float32 [C, 256]: what each pixel value becomes."""
        values = np.arange(256, dtype=np.float64) / 255.0
        return ((values - np.array(self.mean)[:, None]) / np.array(self.std)[:, None]).astype(np.float32)

    # --- as a file ---

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """Raises UserError for unknown or missing keys, another version, and values out of range."""
        _check(isinstance(values, dict), "the file", values, "a JSON object")
        # A newer version may well have other keys; its number says more than the first of them.
        _check_version(values.get("version"))
        names = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            nearest = difflib.get_close_matches(str(key), names, n=1)
            _check(
                key in names,
                "a key",
                key,
                "one of " + ", ".join(names) + (f" (nearest: {nearest[0]})" if nearest else ""),
            )
        missing = [name for name in names if name not in values]
        _check(not missing, "missing", missing, "every key present: " + ", ".join(names))
        return cls(**values)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Preprocess:
        """Raises UserError where the file is absent, no JSON, or not a preprocessing that this version knows."""
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(
                f"no file {path}", "the preprocessing saved beside the weights", "Give a complete run folder."
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path} is no JSON ({error})", "a saved preprocessing", "Restore it from the run folder."
            ) from None

    def hash(self) -> str:
        """SHA-256 of everything that decides the pixels; equal exactly when the preprocessing is."""
        canonical = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def _check_version(version: object) -> None:
    known = " or ".join(str(number) for number in VERSIONS)
    _check(type(version) is int and version in VERSIONS, "version", version, f"{known}, which this convcraft knows")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise UserError(
            f"preprocessing: {name} is {value!r}", expected, "Correct it, or use the preprocess.json of the run."
        )


def resolve(config: PreprocessConfig, *, sizes: Collection[tuple[int, int]], all_grey: bool) -> Preprocess:
    """Answers with the data what the configuration left open.

    Mean and std stay 0 and 1 where the configuration names none: measure them on train pixels, then `with_statistics`.

    Args:
        sizes: the (height, width) that occur among the usable images.
        all_grey: whether all of them are grey.

    Raises:
        UserError: mean or std do not fit the number of channels.
    """
    height, width = config.image_size or native_size(sizes)
    return Preprocess(
        height=height,
        width=width,
        channels=config.channels or (1 if all_grey else 3),
        resize=config.resize,
        interpolation=config.interpolation,
        crop_fraction=config.crop_fraction,
        mean=config.mean or (0.0,),
        std=config.std or (1.0,),
    )


def native_size(sizes: Collection[tuple[int, int]]) -> tuple[int, int]:
    """(height, width): the one size that all images share, if small enough to train at; else 224 x 224."""
    if len(set(sizes)) == 1:
        (height, width) = next(iter(sizes))
        if max(height, width) <= LARGEST_NATIVE_SIDE_PIXELS:
            return height, width
    return DEFAULT_SIDE_PIXELS, DEFAULT_SIDE_PIXELS


def measure_mean_std(pixels: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel over all pixels, exactly, whatever the order of the images.

    Args:
        pixels: uint8 [N, H, W, C].

    Returns:
        mean and std, each C floats in 0..1; a std below one grey level (a constant channel) is given as 1/255, so that
        dividing by it stays harmless.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.size == 0:
        raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}; expected uint8 [N, H, W, C] with N > 0")
    num_channels = pixels.shape[3]
    counts = np.zeros((num_channels, 256), dtype=np.int64)
    images_per_chunk = max(1, (1 << 22) // pixels[0].size)
    for start in range(0, len(pixels), images_per_chunk):
        for channel in range(num_channels):
            counts[channel] += np.bincount(
                pixels[start : start + images_per_chunk, ..., channel].ravel(), minlength=256
            )
    statistics = [_mean_std_of_counts(channel_counts.tolist()) for channel_counts in counts]
    means, stds = zip(*statistics, strict=True)
    return means, stds


def _mean_std_of_counts(counts: list[int]) -> tuple[float, float]:
    # Python's integers are exact: no order of summation can change the result.
    number = sum(counts)
    total = sum(value * count for value, count in enumerate(counts))
    total_squares = sum(value * value * count for value, count in enumerate(counts))
    variance_times_number_squared = number * total_squares - total * total
    std = math.sqrt(variance_times_number_squared) / number
    return total / number / 255.0, max(std, 1.0) / 255.0
