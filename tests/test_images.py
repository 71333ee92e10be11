"""Decoding: every kind of picture as a person sees it, everything else refused by name."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile

from convcraft.data.containers import sniff_format
from convcraft.data.images import BadImage, ImageLimits, decode, decode_image

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (13, 21, 3)).astype(np.uint8)
GREY = RNG.integers(0, 256, (13, 21)).astype(np.uint8)


def encode(image: Image.Image | NDArray[Any], image_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(stream, image_format, **options)
    return stream.getvalue()


def reason_of(image: Path | bytes | NDArray[Any], limits: ImageLimits | None = None) -> str:
    with pytest.raises(BadImage) as caught:
        decode_image(image, limits) if limits else decode_image(image)
    assert str(caught.value)
    return caught.value.reason


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(chunk: bytes) -> bytes:
    """A sound PNG with one more chunk behind its header."""
    content = encode(GREY, "PNG")
    return content[:33] + chunk + content[33:]


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("pixels", [RGB, GREY], ids=["rgb", "grey"])
def test_lossless_formats_come_back_exactly(image_format: str, pixels: NDArray[np.uint8]) -> None:
    decoded = decode(encode(pixels, image_format))
    assert decoded.image.mode == ("RGB" if pixels.ndim == 3 else "L")
    assert decoded.format == image_format
    np.testing.assert_array_equal(np.asarray(decoded.image), pixels)


def test_a_file_its_bytes_and_its_array_give_the_same_pixels(tmp_path: Path) -> None:
    content = encode(RGB, "JPEG")
    (tmp_path / "a.jpg").write_bytes(content)
    (tmp_path / "large.jpg").write_bytes(content + bytes(2 << 20))  # over the size that is read at once
    by_pillow = np.asarray(Image.open(io.BytesIO(content)))
    for image in (content, tmp_path / "a.jpg", tmp_path / "large.jpg", by_pillow):
        np.testing.assert_array_equal(np.asarray(decode_image(image)), by_pillow)


# What a camera stores, so that the upright picture comes out: written with NumPy, not with the code under test.
STORED = {
    1: RGB,
    2: RGB[:, ::-1],
    3: RGB[::-1, ::-1],
    4: RGB[::-1],
    5: RGB.swapaxes(0, 1),
    6: np.rot90(RGB, 1),
    7: np.rot90(RGB, 2).swapaxes(0, 1),
    8: np.rot90(RGB, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "WEBP"])
def test_exif_rotation_is_undone_once(orientation: int, image_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if image_format == "WEBP" else {}
    content = encode(np.ascontiguousarray(STORED[orientation]), image_format, exif=exif, **options)
    np.testing.assert_array_equal(np.asarray(decode_image(content)), RGB)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_cost_the_picture() -> None:
    content = encode(RGB, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode_image(content).size == (21, 13)


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(image_format: str) -> None:
    values = np.array([[0, 255, 256, 257, 32768, 65535]], dtype=np.uint16)
    picture = np.asarray(decode_image(encode(values, image_format)))
    np.testing.assert_array_equal(picture, [[0, 0, 1, 1, 128, 255]])
    wide = GREY.astype(np.uint16) * 257
    np.testing.assert_array_equal(np.asarray(decode_image(encode(wide, image_format))), GREY)


def test_float_tiffs_of_0_to_1_are_scaled_and_others_refused() -> None:
    share = (GREY / 255).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(decode_image(encode(share, "TIFF"))), GREY)
    assert reason_of(encode(share * 3, "TIFF")) == "unsupported_pixels"
    share[2, 2] = np.nan
    assert reason_of(encode(share, "TIFF")) == "unsupported_pixels"


def test_palettes_become_rgb_or_grey_by_the_colours_in_use() -> None:
    indices = GREY % 4
    colours = np.array(
        [[9, 9, 9], [200, 200, 200], [0, 0, 0], [77, 77, 77], [255, 0, 0]], dtype=np.uint8
    )  # red is unused
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes())
    decoded = decode_image(encode(image, "PNG"))
    assert decoded.mode == "L"
    np.testing.assert_array_equal(np.asarray(decoded), colours[indices][:, :, 0])
    image.putpalette(colours[[4, 1, 2, 3]].tobytes())
    decoded = decode_image(encode(image, "PNG"))
    assert decoded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(decoded), colours[[4, 1, 2, 3]][indices])


def test_transparency_becomes_white() -> None:
    opacity = np.zeros(GREY.shape, dtype=np.uint8)
    opacity[:, :10] = 255
    seen = decode_image(encode(np.dstack([RGB, opacity]), "PNG"))
    np.testing.assert_array_equal(np.asarray(seen), np.where(opacity[..., None] == 255, RGB, 255))
    seen = decode_image(encode(np.dstack([GREY, opacity]), "PNG"))
    assert seen.mode == "L"
    np.testing.assert_array_equal(np.asarray(seen), np.where(opacity == 255, GREY, 255))
    # One colour named transparent (tRNS), as old tools write it.
    seen = decode_image(encode(GREY, "PNG", transparency=int(GREY[0, 0])))
    np.testing.assert_array_equal(np.asarray(seen), np.where(GREY[0, 0] == GREY, 255, GREY))


def test_bilevel_is_black_and_white() -> None:
    dark = (GREY > 100).astype(np.uint8) * 255
    decoded = decode_image(encode(Image.fromarray(dark).convert("1"), "PNG"))
    assert decoded.mode == "L"
    np.testing.assert_array_equal(np.asarray(decoded), dark)


def test_cmyk_is_not_inverted() -> None:
    red = np.full((16, 16, 3), (250, 10, 10), dtype=np.uint8)
    decoded = np.asarray(decode_image(encode(Image.fromarray(red).convert("CMYK"), "JPEG", quality=95)))
    assert np.abs(decoded.astype(int) - red).max() <= 4


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF", "GIF"])
def test_of_an_animation_the_first_frame_is_used(image_format: str) -> None:
    frames = [Image.fromarray(np.full((9, 9, 3), shade, dtype=np.uint8)) for shade in (10, 130, 250)]
    options = {"lossless": True} if image_format == "WEBP" else {}
    decoded = decode(encode(frames[0], image_format, save_all=True, append_images=frames[1:], **options))
    assert decoded.has_more_frames
    assert set(np.asarray(decoded.image).ravel()) == {10}
    assert not decode(encode(frames[0], image_format, **options)).has_more_frames


def test_one_pixel_is_a_picture_and_a_thread_is_not() -> None:
    assert decode_image(encode(RGB[:1, :1], "PNG")).size == (1, 1)
    assert decode_image(np.zeros((1, 256), dtype=np.uint8)).size == (256, 1)
    assert reason_of(np.zeros((1, 257), dtype=np.uint8)) == "too_long"
    assert reason_of(np.zeros((65535, 1), dtype=np.uint8)) == "too_long"
    assert reason_of(np.zeros((0, 5), dtype=np.uint8)) == "damaged"


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((4, 4, 2), np.uint8), np.zeros((4,), np.uint8), np.zeros((4, 4), np.float32)],
    ids=["two_channels", "one_axis", "floats"],
)
def test_arrays_of_other_kinds_are_refused(pixels: NDArray[Any]) -> None:
    assert reason_of(pixels) == "unsupported_pixels"


@pytest.mark.parametrize("cut_bytes", [1, 2, 5, 12, 40, 100])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_a_cut_file_is_refused_wherever_it_ends(image_format: str, cut_bytes: int) -> None:
    content = encode(RGB, image_format)
    decode_image(content)
    assert reason_of(content[:-cut_bytes]) in ("truncated", "damaged", "not_an_image")


def test_a_cut_file_is_refused_even_where_pillow_was_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for image_format in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"):
        content = encode(np.tile(RGB, (9, 9, 1)), image_format)  # large enough that the cut is in the pixels
        assert reason_of(content[: len(content) * 3 // 4]) == "truncated", image_format


def test_an_end_mark_inside_the_preview_does_not_hide_a_cut() -> None:
    """EXIF previews are JPEGs themselves, with an end mark of their own."""
    preview = encode(RGB, "JPEG")
    content = encode(RGB, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + preview)
    decode_image(content)
    assert reason_of(content[:-30]) == "truncated"


def test_bytes_behind_the_end_do_no_harm() -> None:
    for image_format in ("JPEG", "PNG", "GIF"):
        content = encode(GREY, image_format)
        expected = np.asarray(decode_image(content))
        np.testing.assert_array_equal(np.asarray(decode_image(content + b"PK\x03\x04 more" * 2000)), expected)


def test_each_flipped_bit_of_a_png_is_found() -> None:
    content = encode(GREY, "PNG")
    for at in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[at] ^= 0x10
        with pytest.raises(BadImage):
            decode_image(bytes(damaged))


@pytest.mark.parametrize(
    ("content", "reason", "word"),
    [
        (b"", "empty", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "not_an_image", "HTML"),
        (b"\xef\xbb\xbf  <HTML><body>", "not_an_image", "HTML"),
        ("Größe unbekannt\n".encode(), "not_an_image", "text"),
        (b"PK\x03\x04" + bytes(40), "not_an_image", "zip"),
        (b"%PDF-1.7\n", "not_an_image", "PDF"),
        (bytes(600), "not_an_image", "zero"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not_an_image", "git lfs pull"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unsupported_format", "EPS"),
        (b"<?xml version='1.0'?>\n<svg></svg>", "unsupported_format", "SVG"),
        (b"\0\0\0\x18ftypavif" + bytes(20), "unsupported_format", "AVIF"),
        (b"\0\0\0\x18ftypisom" + bytes(20), "unsupported_format", "video"),
        (bytes(128) + b"DICM" + bytes(20), "unsupported_format", "DICOM"),
        (b"\x01\x02\x03\xff\xfe", "not_an_image", "not an image"),
    ],
)
def test_other_files_are_refused_by_what_they_are(tmp_path: Path, content: bytes, reason: str, word: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(BadImage, match=word) as caught:
        decode_image(path)
    assert caught.value.reason == reason


def test_no_other_decoder_of_pillow_ever_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """EPS would start Ghostscript; a format is chosen by its first bytes and only that reader is asked."""
    asked: list[Any] = []
    opened = Image.open

    def watched(stream: Any, *, formats: Any = None) -> Image.Image:
        asked.append(formats)
        return opened(stream, formats=formats)

    monkeypatch.setattr(Image, "open", watched)
    decode_image(encode(RGB, "GIF"))
    assert asked == [("GIF",)]
    with pytest.raises(BadImage):
        decode_image(encode(RGB, "TGA"))
    with pytest.raises(BadImage):
        decode_image(encode(RGB, "ICO"))
    assert asked == [("GIF",)]


def test_a_png_named_jpg_is_read_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(RGB, "PNG"))
    assert decode(path).format == "PNG"


def test_places_that_are_no_files_neither_hang_nor_crash(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    assert reason_of(tmp_path) == "not_a_file"
    assert reason_of(tmp_path / "pipe.jpg") == "not_a_file"
    assert reason_of(tmp_path / "zero.jpg") == "not_a_file"
    assert reason_of(tmp_path / "dangling.jpg") == "missing"
    assert reason_of(tmp_path / "loop.jpg") == "missing"
    assert reason_of(tmp_path / "absent.jpg") == "missing"
    assert reason_of(tmp_path / ("x" * 5000)) == "missing"
    assert reason_of(tmp_path / "zero\0byte.jpg") == "missing"
    (tmp_path / "good.png").write_bytes(encode(RGB, "PNG"))
    (tmp_path / "link.png").symlink_to("good.png")
    assert decode_image(tmp_path / "link.png").size == (21, 13)


def huge(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 16))
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


BOMBS = {
    "13000x13000": (huge(13000, 13000), "too_many_pixels"),
    "60000x1": (huge(60000, 1), "too_long"),
    "1x65535": (huge(1, 65535), "too_long"),
    "stored_text": (png_with(png_chunk(b"tEXt", b"Comment\0" + bytes(9 << 20))), "metadata_too_large"),
    "packed_text": (png_with(png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(64 << 20)))), "metadata_too_large"),
    "packed_utf8": (
        png_with(png_chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(64 << 20)))),
        "metadata_too_large",
    ),
    "packed_icc": (png_with(png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(64 << 20)))), "metadata_too_large"),
    "webp_icc": (encode(RGB, "WEBP", icc_profile=bytes(9 << 20)), "metadata_too_large"),
    "tiff_icc": (encode(RGB, "TIFF", icc_profile=bytes(9 << 20)), "metadata_too_large"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_quickly(name: str) -> None:
    content, reason = BOMBS[name]
    times = []
    for _ in range(3):  # the best of three: others may be at work on this machine
        started = time.perf_counter()
        assert reason_of(content) == reason
        times.append(time.perf_counter() - started)
    assert min(times) < 0.1


def test_ordinary_metadata_is_no_bomb() -> None:
    options = {"icc_profile": bytes(600_000)}
    assert decode_image(encode(RGB, "PNG", **options)).size == (21, 13)
    assert decode_image(encode(RGB, "JPEG", **options)).size == (21, 13)


def test_limits_can_be_set() -> None:
    limits = ImageLimits(max_pixels=100, max_aspect=2, max_file_bytes=1000)
    assert reason_of(RGB, limits) == "too_many_pixels"
    assert reason_of(np.zeros((3, 9), np.uint8), limits) == "too_long"
    assert reason_of(bytes(1001), limits) == "file_too_large"


def test_a_crash_of_the_decoder_becomes_a_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (
        SyntaxError("odd"),
        struct.error("unpack"),
        IndexError("list"),
        KeyError("k"),
        MemoryError(),
        EOFError(),
    ):

        def fail(*args: Any, _error: Exception = error, **kwargs: Any) -> None:
            raise _error

        monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
        assert reason_of(encode(RGB, "PNG")) in ("damaged", "too_many_pixels")


CONTENTS = {
    image_format: encode(RGB, image_format) for image_format in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
} | {"LZW": encode(RGB, "TIFF", compression="tiff_lzw"), "EXIF": encode(RGB, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0")}


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(CONTENTS)),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=8),
    length=st.integers(0, 4000),
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_ends_in_pixels_or_in_a_bad_image(name: str, changes: list[tuple[int, int]], length: int) -> None:
    damaged = bytearray(CONTENTS[name])
    for at, value in changes:
        damaged[at % len(damaged)] = value
    with contextlib.suppress(BadImage):  # anything else fails the test
        picture = decode_image(bytes(damaged[:length]))
        assert picture.mode in ("L", "RGB")
        assert np.asarray(picture).dtype == np.uint8


@settings(max_examples=200, deadline=None)
@given(
    magic=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"MM\0+", b"BM", b"P6\n"]),
    rest=st.binary(max_size=300),
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_arbitrary_bytes_end_in_a_bad_image(magic: bytes, rest: bytes) -> None:
    with contextlib.suppress(BadImage):  # anything else fails the test
        decode_image(magic + rest)


def test_the_format_is_told_by_the_first_bytes() -> None:
    names = {"JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"}
    assert {sniff_format(encode(RGB, name)[:512]) for name in names} == names


def test_bigtiff_is_read_and_its_offsets_are_not_believed() -> None:
    content = encode(RGB, "TIFF", big_tiff=True)
    np.testing.assert_array_equal(np.asarray(decode_image(content)), RGB)
    assert reason_of(content[:8] + b"\xff" * 8 + content[16:]) == "truncated"


def test_the_size_is_checked_before_anything_else_is_read() -> None:
    content = huge(13000, 13000)
    claims_a_gibibyte = content[:33] + struct.pack(">I", 1 << 30) + content[37:]
    assert reason_of(claims_a_gibibyte) == "too_many_pixels"
