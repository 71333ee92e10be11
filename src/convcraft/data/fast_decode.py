"""JPEG files for training by a quicker way than the contract's: nearly the same pixels, never another decision.

Validation, test and predict use `preprocess` and nothing else. Train pictures are changed at random anyway, so they may
come from quicker code, as long as it shows the same part of the same picture:

- A picture at least twice as large as needed is decoded at 1/2, 1/4 or 1/8 of its size: the inverse DCT then gives one
  pixel for 2 x 2, 4 x 4 or 8 x 8 (Pillow's `draft`, libjpeg's scale_denom). Any other is decoded whole, by the quickest
  of simplejpeg, torchvision and Pillow that is there: all three give the same pixels, and are tested before they are
  used.
- torch resizes uint8 pixels with antialiasing by vector instructions, and only the part that is shown.

What is no plain 8-bit grey or RGB JPEG goes the contract's way, and so does any file at which this code stumbles: then
the contract's code decides whether it can be used, and says why not. docs/images.md has the measured differences.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convcraft.data.containers import check_container, sniff_format
from convcraft.data.images import DEFAULT_LIMITS, opened, orientation_of
from convcraft.data.preprocess import Placement, Preprocess
from convcraft.errors import UserError

if TYPE_CHECKING:
    from convcraft.data.scan import ImageFacts

Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]

_TORCH_MODES = {"bilinear": "bilinear", "bicubic": "bicubic"}  # torch antialiases no other
_LARGEST_FILE_BYTES = 64 << 20  # read at once; larger ones go the contract's way
_SCALES = (8, 4, 2)
_NEAR_ENOUGH_PIXELS = 0.02  # of the picture
_SEARCHED_PIXELS = 16  # how far before the window a better starting point is looked for
_LARGEST_SELF_TEST_DIFFERENCE = 2


def choose_decoder(wanted: str, facts: Sequence[ImageFacts], preprocess: Preprocess, *, streams: bool) -> str:
    """What `ImageSet.train_decoder` becomes: "contract" or "fast".

    "auto" takes the fast way where train pictures are decoded anew in each epoch and most of them gain by it: JPEG
    files of at least twice the pixels that the network gets.

    Args:
        wanted: `data.train_decoder`: "contract", "fast" or "auto".
        facts: of the train pictures.
        streams: whether they are decoded anew in each epoch; what stays in memory is decoded once, by the contract.

    Raises:
        UserError: "fast" is wanted where it does not work.
    """
    if wanted == "fast" and preprocess.interpolation not in _TORCH_MODES:
        raise UserError(
            f"data.train_decoder is 'fast' and preprocess.interpolation {preprocess.interpolation!r}",
            f"with 'fast' an interpolation that torch antialiases: {', '.join(_TORCH_MODES)}",
            "Set data.train_decoder to auto or contract, or choose one of these.",
        )
    if wanted == "contract" or not streams or not facts or preprocess.interpolation not in _TORCH_MODES:
        return "contract"
    enough = 2 * preprocess.height * preprocess.width
    gain = sum(fact.format == "JPEG" and fact.height * fact.width >= enough for fact in facts)
    if wanted == "auto" and 2 * gain < len(facts):
        return "contract"
    if works_here():
        return "fast"
    if wanted == "auto":
        return "contract"
    fix = 'Install torch (pip install "convcraft[train]"), or set data.train_decoder to contract.'
    raise UserError("data.train_decoder is 'fast', which does not work here", "a torch that resizes uint8 images", fix)


def recorded_decoder(name: str) -> str:
    """The decoder with which a run was begun, to go on with: another one would show it other pixels.

    Raises:
        UserError: it does not work here.
    """
    if name == "contract" or (name == "fast" and works_here()):
        return name
    fix = 'Install torch as where it was begun (pip install "convcraft[train]"), or start a new run.'
    raise UserError(f"the run was begun with the decoder {name!r}, which does not work here", "the same decoder", fix)


@functools.cache
def works_here() -> bool:
    """Whether torch is installed and gives, for a drawn picture, the contract's pixels to two grey levels."""
    content = _drawn_jpeg("RGB", height=90, width=130)
    contract = Preprocess(height=64, width=64, channels=3)
    try:
        found = _fast_or_none(content, contract)
    except (ImportError, RuntimeError, AttributeError):  # no torch, or one that resizes in another way
        return False
    difference = 255 if found is None else np.abs(found.astype(int) - contract.pixels(content)).max()
    return int(difference) <= _LARGEST_SELF_TEST_DIFFERENCE


def _drawn_jpeg(mode: str, height: int, width: int) -> bytes:
    y, x = np.mgrid[0:height, 0:width]
    drawn = np.stack([x + y, 2 * x, 255 - 2 * y], axis=-1).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(drawn).convert(mode).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def fast_pixels(image: Path | bytes | Pixels, preprocess: Preprocess) -> Pixels:
    """The picture at its final size, as `Preprocess.pixels`, by the quickest way that fits the file.

    Returns: uint8 [H, W, C], C-contiguous.
    Raises: BadImage, where the contract's code raises it.
    """
    if not isinstance(image, np.ndarray) and preprocess.interpolation in _TORCH_MODES:
        try:
            pixels = _fast_or_none(image, preprocess)
        except Exception:  # whatever a decoder or a parser runs into: the contract's code has the word on this file
            pixels = None
        if pixels is not None:
            return pixels
    return preprocess.pixels(image)


def _fast_or_none(image: Path | bytes, preprocess: Preprocess) -> Pixels | None:
    """As `fast_pixels`, or None for files that are not of the plain kind."""
    content = _plain_jpeg(image)
    if content is None:
        return None
    picture = Image.open(io.BytesIO(content), formats=("JPEG",))  # reads the header alone
    DEFAULT_LIMITS.check_size(*picture.size)
    if picture.mode != "RGB" and not (picture.mode == "L" and preprocess.channels == 1):
        return None
    if picture.mode == "RGB" and preprocess.channels == 1:
        return None
    turn = _Turn(orientation_of(picture), *picture.size)
    place = preprocess.placement(*turn.upright_size)
    box = turn.stored_box(place.box)
    width, height = turn.stored_size(place.width, place.height)
    pixels, scale = _decode(content, picture, (box[2] - box[0]) / width, (box[3] - box[1]) / height)
    box = (box[0] / scale, box[1] / scale, box[2] / scale, box[3] / scale)
    resized = turn.upright(_resize(pixels, box, width, height, _TORCH_MODES[preprocess.interpolation]))
    return _on_canvas(resized, place, preprocess)


def _plain_jpeg(image: Path | bytes) -> bytes | None:
    """The bytes of a whole JPEG file within the limits; None for other formats. Raises BadImage as the contract."""
    with opened(image, DEFAULT_LIMITS) as (stream, size_bytes):
        image_format = sniff_format(stream.read(512))
        if image_format != "JPEG" or size_bytes > _LARGEST_FILE_BYTES:
            return None
        check_container(stream, size_bytes, image_format, DEFAULT_LIMITS)
        stream.seek(0)
        return stream.read(size_bytes)


def _decode(content: bytes, picture: Image.Image, across: float, down: float) -> tuple[Pixels, int]:
    """Decode at the smallest size that is no smaller than the result.

    Args:
        picture: the opened file, not yet loaded.
        across, down: pixels of the file per pixel of the result.

    Returns: uint8 [H, W, C] and by how much it is smaller than the file: 1, 2, 4 or 8.
    """
    width, height = picture.size
    for scale in _SCALES:
        if scale <= min(across, down):
            picture.draft(picture.mode, (width // scale, height // scale))  # the largest scale that gives at least this
            assert picture.size == (-(-width // scale), -(-height // scale)), (picture.size, scale)
            pixels = np.array(picture)  # a copy, for torch wants writable memory
            return pixels.reshape(*pixels.shape[:2], -1), scale
    return _DECODERS[whole_decoder()](content, picture.mode), 1


def _by_simplejpeg(content: bytes, mode: str) -> Pixels:
    import simplejpeg

    pixels: Pixels = simplejpeg.decode_jpeg(content, colorspace="GRAY" if mode == "L" else "RGB")
    return pixels


def _by_torchvision(content: bytes, mode: str) -> Pixels:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = torch.from_numpy(np.frombuffer(bytearray(content), np.uint8))  # torch wants writable memory
    pixels: Pixels = (
        decode_jpeg(encoded, mode=ImageReadMode.GRAY if mode == "L" else ImageReadMode.RGB).permute(1, 2, 0).numpy()
    )
    return pixels


def _by_pillow(content: bytes, mode: str) -> Pixels:
    pixels = np.array(Image.open(io.BytesIO(content), formats=("JPEG",)))
    return pixels.reshape(*pixels.shape[:2], -1)


# Whole pictures, uint8 [H, W, C]; the quickest first. torchvision's is deprecated and will go.
_DECODERS: dict[str, Callable[[bytes, str], Pixels]] = {
    "simplejpeg": _by_simplejpeg,
    "torchvision": _by_torchvision,
    "pillow": _by_pillow,
}


@functools.cache
def whole_decoder() -> str:
    """The first of _DECODERS that is installed and gives exactly Pillow's pixels for two drawn pictures."""
    for name, decode in _DECODERS.items():
        if name == "pillow" or _equals_pillow(decode):
            return name
    raise AssertionError("Pillow is always there")


def _equals_pillow(decode: Callable[[bytes, str], Pixels]) -> bool:
    try:
        for mode in ("RGB", "L"):
            content = _drawn_jpeg(mode, height=61, width=83)
            if not np.array_equal(decode(content, mode), _by_pillow(content, mode)):
                return False
    except (ImportError, RuntimeError, OSError, AttributeError, ValueError):  # not installed, or too old or too new
        return False
    return True


def _resize(pixels: Pixels, box: Box, width: int, height: int, mode: str) -> Pixels:
    """uint8 [height, width, C] of a box of pixels [H, W, C], antialiased.

    torch can start at whole pixels only. So it starts a little before the box, where a pixel of the result begins most
    nearly on a pixel of the picture, and what is too much is cut off.
    """
    import torch

    if (box, width, height) == ((0, 0, pixels.shape[1], pixels.shape[0]), pixels.shape[1], pixels.shape[0]):
        return np.ascontiguousarray(pixels)
    columns = _Span.of(box[0], box[2], width, pixels.shape[1])
    rows = _Span.of(box[1], box[3], height, pixels.shape[0])
    part = torch.from_numpy(pixels[rows.start : rows.stop, columns.start : columns.stop])
    resample = torch.ops.aten._upsample_bilinear2d_aa if mode == "bilinear" else torch.ops.aten._upsample_bicubic2d_aa
    size = [rows.skipped + height, columns.skipped + width]
    batch = part[None].permute(0, 3, 1, 2)  # [1, C, H, W] with strides that torch takes for channels-last, also back
    # What F.interpolate calls; it alone cannot be given both a size and a scale.
    resized = resample(batch, size, False, 1 / rows.scale, 1 / columns.scale)
    return resized[0, :, rows.skipped :, columns.skipped :].permute(1, 2, 0).numpy()


class _Span:
    """Which pixels of one axis are read, and how many pixels of what is made of them are cut off in front.

    start, stop: of the pixels that are read.
    skipped: made and cut off.
    scale: pixels read per pixel made.
    """

    def __init__(self, start: int, stop: int, skipped: int, scale: float) -> None:
        self.start, self.stop, self.skipped, self.scale = start, stop, skipped, scale

    @classmethod
    def of(cls, begin: float, end: float, size_out: int, size_in: int) -> _Span:
        scale = (end - begin) / size_out
        reach = max(scale, 1.0) * 2  # half a bicubic filter: what the border pixels of the result look at
        skipped = math.ceil(reach / scale)
        before = math.floor(begin / scale + 1e-6)  # so many can be made before the box begins
        # Near the border of the picture there may be less room than the filter reaches.
        choices = range(skipped if skipped <= before else 0, min(skipped + _SEARCHED_PIXELS, before) + 1)

        def off(count: int) -> float:
            return abs(begin - count * scale - round(begin - count * scale))

        near = [count for count in choices if off(count) <= _NEAR_ENOUGH_PIXELS]
        skipped = near[0] if near else min(choices, key=off)
        start = max(0, round(begin - skipped * scale))
        return cls(start, min(size_in, math.ceil(end + reach)), skipped, scale)


class _Turn:
    """What an EXIF orientation does to a picture of stored size width x height (EXIF 2.3, tag 274)."""

    def __init__(self, orientation: int, width: int, height: int) -> None:
        known = orientation if orientation in range(1, 9) else 1
        self.swaps = known >= 5  # rows and columns; the mirroring comes after it
        self.mirrors_x, self.mirrors_y = known in (2, 3, 6, 7), known in (3, 4, 7, 8)
        self.upright_size = (height, width) if self.swaps else (width, height)

    def stored_size(self, width: int, height: int) -> tuple[int, int]:
        return (height, width) if self.swaps else (width, height)

    def stored_box(self, box: Box) -> Box:
        left, upper, right, lower = box
        width, height = self.upright_size
        if self.mirrors_x:
            left, right = width - right, width - left
        if self.mirrors_y:
            upper, lower = height - lower, height - upper
        return (upper, left, lower, right) if self.swaps else (left, upper, right, lower)

    def upright(self, pixels: Pixels) -> Pixels:
        """[H, W, C] as stored -> upright."""
        turned = pixels.swapaxes(0, 1) if self.swaps else pixels
        turned = turned[:, ::-1] if self.mirrors_x else turned
        return turned[::-1] if self.mirrors_y else turned


def _on_canvas(pixels: Pixels, place: Placement, preprocess: Preprocess) -> Pixels:
    if pixels.shape[:2] == (preprocess.height, preprocess.width):
        return np.ascontiguousarray(pixels)
    canvas = np.zeros((preprocess.height, preprocess.width, preprocess.channels), np.uint8)
    canvas[place.top : place.top + place.height, place.left : place.left + place.width] = pixels
    return canvas
