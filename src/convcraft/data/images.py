"""One picture in, upright grey or RGB pixels out, or a clear word on why not: the only place that decodes images."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, WebPImagePlugin

from convcraft.data.containers import DEFAULT_LIMITS, BadImage, ImageLimits, check_container, sniff_format

__all__ = [
    "DEFAULT_LIMITS",
    "BadImage",
    "Decoded",
    "ImageLimits",
    "decode",
    "decode_image",
    "opened",
    "orientation_of",
    "upright_grey_or_rgb",
]

# Importing these registers their readers. Pillow would otherwise import all its plugins at the first TIFF or WebP.
_REGISTERED = (TiffImagePlugin, WebPImagePlugin)

_READ_WHOLE_BYTES = 1 << 20  # files up to this size are read at once; larger ones as the decoder asks
_ORIENTATION_TAG = 0x0112
_EXIF_KEYS = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
# EXIF 2.3, tag 274: what must be done to see the picture upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture and what its file was.

    image: mode "L" or "RGB", upright.
    format: Pillow's name of the format by the file's bytes ("JPEG"), or "array".
    has_more_frames: whether frames after the first were left out.
    """

    image: Image.Image
    format: str
    has_more_frames: bool


def decode_image(image: Path | bytes | NDArray[np.uint8], limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """The picture as people see it: mode "L" or "RGB", turned upright, first frame only.

    Transparent parts become white, 16 bits per channel are scaled to 8, CMYK becomes RGB as Pillow converts it, a
    palette becomes grey where all its colours in use are grey. Files first pass the checks of `containers`.

    Args:
        image: a file, an encoded image, or uint8 pixels [H, W], [H, W, 1] or [H, W, 3].
        limits: what is refused before decoding.

    Raises:
        BadImage: for everything that cannot be used, whatever the decoder thought of it.
    """
    return decode(image, limits).image


def decode(image: Path | bytes | NDArray[np.uint8], limits: ImageLimits = DEFAULT_LIMITS) -> Decoded:
    """As `decode_image`, with the format and whether frames were left out."""
    if isinstance(image, np.ndarray):
        return Decoded(_from_array(image, limits), "array", False)
    try:
        with opened(image, limits) as (stream, size_bytes):
            image_format = sniff_format(stream.read(512))
            has_more_frames = check_container(stream, size_bytes, image_format, limits)
            stream.seek(0)
            return Decoded(_pillow_pixels(stream, image_format, limits), image_format, has_more_frames)
    except OSError as error:  # a failing disk, a network share that went away
        raise BadImage("missing", f"cannot be read ({_words(error)})") from error


def _from_array(pixels: NDArray[np.uint8], limits: ImageLimits) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3)):
        shape = " x ".join(str(side) for side in pixels.shape)
        raise BadImage("unsupported_pixels", f"is an array {shape} of {pixels.dtype}, not uint8 [H, W] or [H, W, 3]")
    limits.check_size(pixels.shape[1], pixels.shape[0])
    mode = "L" if pixels.ndim == 2 or pixels.shape[2] == 1 else "RGB"
    # What Image.fromarray does in the end, at half its price, which shows where there are 60,000 arrays.
    return Image.frombuffer(mode, pixels.shape[1::-1], np.ascontiguousarray(pixels), "raw", mode, 0, 1)


@contextlib.contextmanager
def opened(image: Path | bytes, limits: ImageLimits) -> Iterator[tuple[BinaryIO, int]]:
    """A seekable stream and its length in bytes; BadImage where there is no regular file of an allowed length."""
    if isinstance(image, bytes):
        _check_file_size(len(image), limits)
        yield io.BytesIO(image), len(image)
        return
    with _open_regular(image) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        _check_file_size(size_bytes, limits)
        if size_bytes <= _READ_WHOLE_BYTES:
            content = file.read(_READ_WHOLE_BYTES)  # no more, even if the file has grown or never ends
            yield io.BytesIO(content), len(content)
        else:
            yield file, size_bytes


def _check_file_size(size_bytes: int, limits: ImageLimits) -> None:
    if size_bytes > limits.max_file_bytes:
        raise BadImage("file_too_large", f"{size_bytes:,} bytes: over the limit of {limits.max_file_bytes:,}")


def _open_regular(path: Path) -> BinaryIO:
    """Opens a regular file, also through links; a pipe or a device would be read for ever."""
    try:
        _check_regular(path.stat().st_mode)  # before opening: opening alone can already move a device
        # Without O_NONBLOCK, a pipe put there since the check would block.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        file = os.fdopen(os.open(path, flags), "rb")
    except BadImage:
        raise
    except FileNotFoundError:
        what = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        raise BadImage("missing", what) from None
    except PermissionError:
        raise BadImage("no_permission", "may not be read (file permissions)") from None
    except (
        OSError,
        ValueError,
    ) as error:  # a loop of links, a name that is too long or holds a zero byte, a failing disk
        raise BadImage("missing", f"cannot be opened ({_words(error)})") from None
    try:
        _check_regular(os.fstat(file.fileno()).st_mode)
    except BadImage:
        file.close()
        raise
    return file


def _check_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise BadImage("not_a_file", "is a folder")
    if not stat.S_ISREG(mode):
        raise BadImage("not_a_file", "is a pipe, socket or device, not a file")


def _pillow_pixels(stream: BinaryIO, image_format: str, limits: ImageLimits) -> Image.Image:
    try:
        with Image.open(stream, formats=(image_format,)) as picture:
            limits.check_size(*picture.size)
            picture.load()
            return upright_grey_or_rgb(picture)
    except BadImage:
        raise
    except Image.DecompressionBombError:
        raise BadImage("too_many_pixels", f"over the limit of {limits.max_pixels:,} pixels") from None
    except MemoryError:
        raise BadImage("too_many_pixels", "needs more memory than there is") from None
    # Pillow's readers raise whatever their parsing runs into (OSError, SyntaxError, struct.error, zlib.error,
    # IndexError, TypeError ...); each of them means that this file is damaged.
    except Exception as error:
        reason = "truncated" if "truncated" in str(error).lower() else "damaged"
        raise BadImage(reason, f"damaged: the {image_format} decoder says {_words(error)!r}") from error


def _words(error: Exception) -> str:
    text = str(error.strerror if isinstance(error, OSError) and error.strerror else error)
    # Pillow's last words on an unreadable header show the address of a stream object, which tells nobody anything.
    return "cannot identify image file" if "cannot identify" in text else (text or type(error).__name__)


def upright_grey_or_rgb(image: Image.Image) -> Image.Image:
    """The same picture, upright, in mode "L" or "RGB" (see `decode_image` for what happens to other modes)."""
    orientation = orientation_of(image)
    pixels = _grey_or_rgb(image)
    if orientation in _UPRIGHT:
        pixels = pixels.transpose(_UPRIGHT[orientation])
    return pixels


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation 1..8 (or what stands there instead); 1 where there is none."""
    # A TIFF was turned by Pillow when it was loaded, which also took its tag away.
    if not any(key in image.info for key in _EXIF_KEYS):
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # broken EXIF (any error of Pillow's TIFF parser) does not make the pixels unusable
        return 1


def _grey_or_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        return _eight_bits(image)
    if image.has_transparency_data:
        return _on_white(image)
    if mode in ("L", "RGB"):
        return image
    if mode == "1":
        return image.convert("L")
    if mode == "P":
        return image.convert("L" if _palette_is_grey(image) else "RGB")
    if mode in ("RGBX", "CMYK", "YCbCr"):
        return image.convert("RGB")
    raise BadImage(
        "unsupported_pixels", f"has pixels of kind {mode}, which have no agreed way to RGB; convert it to RGB"
    )


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey by scaling (65535 becomes 255), float grey in 0..1 by scaling; other ranges have no agreed white."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        if not 0.0 <= low <= high <= 1.0:
            raise BadImage("unsupported_pixels", f"has float pixels from {low:g} to {high:g}; only 0..1 is understood")
        return Image.fromarray(np.rint(values * 255.0).astype(np.uint8))
    if not 0 <= low <= high <= 65535:
        raise BadImage(
            "unsupported_pixels", f"has whole numbers from {low:.0f} to {high:.0f}; at most 16 bits are understood"
        )
    # The high byte, as Pillow itself takes it of 16-bit RGB: v * 257 >> 8 == v for every 8-bit v.
    return Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8))


def _palette_is_grey(image: Image.Image) -> bool:
    palette = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    used = np.flatnonzero(image.histogram()[: len(palette)])
    colours = palette[used]
    return bool((colours == colours[:, :1]).all())


def _on_white(image: Image.Image) -> Image.Image:
    grey = image.mode in ("L", "LA", "La", "1") or (image.mode == "P" and _palette_is_grey(image))
    with_alpha = image.convert("RGBA")
    white = Image.new("RGBA", with_alpha.size, (255, 255, 255, 255))
    white.alpha_composite(with_alpha)
    return white.convert("L" if grey else "RGB")
