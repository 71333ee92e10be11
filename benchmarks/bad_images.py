"""Bar: 500 bad images of every kind; no crash, no hang, each reported by name; bombs refused quickly and cheaply.

    python benchmarks/bad_images.py                     # 500 bad images among 100 good ones, about half a minute
    python benchmarks/bad_images.py --count 2000 --seed 1 --out more.json

Makes a seeded folder of bad and unusual images from drawn pictures (it needs no data set), then

1. decodes file by file in a child process that is watched: a crash or a hang is counted against the file, and the
   walk goes on behind it;
2. compares pixels with what a person would see, computed with NumPy and not by the decoder under test;
3. runs `scan_images` and `findings` over the whole folder in a second child: every refused file must be named;
4. opens each bomb in a fresh process and measures time and extra memory, for Pillow alone as well.

Files whose damage no reader can see (flipped bytes in formats without checksums) are counted as "decoded without
complaint", beside the same count for Pillow alone. Exit code 1 where the bar is missed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import select
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measured_on import hardware, versions
from numpy.typing import NDArray
from PIL import Image

from convcraft.data.images import BadImage, decode_image
from convcraft.data.sample import Sample
from convcraft.data.scan import findings, refuse_if_too_bad, scan_images
from convcraft.errors import UserError

SECONDS_PER_FILE = 20.0  # a file that takes longer counts as a hang
BOMB_MILLISECONDS, BOMB_MEBIBYTES = 100.0, 50.0
Pixels = NDArray[np.uint8]
Rng = np.random.Generator


@dataclass(frozen=True)
class Case:
    """One file of the corpus.

    expect: "decoded" (pixels are compared), "refused", or "either" where the damage cannot be seen with certainty.
    reasons: those of BadImage that are right for it.
    tolerance: largest mean absolute difference of pixel values, for lossy formats.
    """

    name: str
    kind: str
    expect: str
    reasons: tuple[str, ...] = ()
    tolerance: float = 0.0


@dataclass(frozen=True)
class Made:
    """What a maker gives: the file's ending and content, and the upright picture that a person would see."""

    ending: str
    content: bytes
    seen: Pixels | None = None
    tolerance: float = 0.0
    reasons: tuple[str, ...] = ()


# --- pictures ---


def draw(rng: Rng, channels: int = 3) -> Pixels:
    """uint8 [H, W, 3] or [H, W]: a smooth ramp with an ellipse, not square and not symmetric, so that turns show."""
    height, width = (int(side) for side in rng.integers(40, 120, 2))
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    planes = []
    for _ in range(channels):
        ramp = rng.uniform(20, 120) * x + rng.uniform(20, 120) * y
        inside = ((x - rng.uniform(0.2, 0.4)) / 0.2) ** 2 + ((y - rng.uniform(0.5, 0.8)) / 0.15) ** 2 < 1
        planes.append(ramp + rng.uniform(20, 110) * inside)
    picture = np.stack(planes, axis=-1).astype(np.uint8)
    return picture if channels == 3 else picture[:, :, 0]


def encode(picture: Image.Image, image_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, image_format, **options)
    return stream.getvalue()


ENCODINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {"quality": 92, "subsampling": 0}),
    "progressive_jpeg": ("JPEG", {"quality": 92, "subsampling": 0, "progressive": True}),
    "png": ("PNG", {}),
    "gif": ("GIF", {}),
    "webp": ("WEBP", {"quality": 92}),
    "lossless_webp": ("WEBP", {"lossless": True}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "lzw_tiff": ("TIFF", {"compression": "tiff_lzw"}),
    "ppm": ("PPM", {}),
}
LOSSY = {"JPEG": 6.0, "WEBP": 8.0, "GIF": 8.0}


def encoded(rng: Rng, encoding: str) -> tuple[Pixels, bytes, str]:
    image_format, options = ENCODINGS[encoding]
    seen = draw(rng)
    return seen, encode(Image.fromarray(seen), image_format, **options), image_format


def good(encoding: str) -> Callable[[Rng], Made]:
    def make(rng: Rng) -> Made:
        seen, content, image_format = encoded(rng, encoding)
        lossless = encoding == "lossless_webp"
        return Made(image_format.lower(), content, seen, 0.0 if lossless else LOSSY.get(image_format, 0.0))

    return make


# --- damage ---


def cut(encoding: str) -> Callable[[Rng], Made]:
    def make(rng: Rng) -> Made:
        _, content, image_format = encoded(rng, encoding)
        if rng.random() < 0.3:  # only the end is missing: the hardest to see
            length = len(content) - int(rng.integers(1, 17))
        else:
            length = int(len(content) * rng.uniform(0.02, 0.98))
        return Made(image_format.lower(), content[:length], reasons=("truncated", "damaged", "not_an_image"))

    return make


def flipped(encoding: str) -> Callable[[Rng], Made]:
    """One to eight bytes changed anywhere, the header included."""

    def make(rng: Rng) -> Made:
        _, content, image_format = encoded(rng, encoding)
        damaged = bytearray(content)
        for at in rng.choice(len(damaged), int(rng.integers(1, 9)), replace=False):
            damaged[at] ^= int(rng.integers(1, 256))
        return Made(image_format.lower(), bytes(damaged))

    return make


def flipped_png(rng: Rng) -> Made:
    made = flipped("png")(rng)
    reasons = ("damaged", "truncated", "not_an_image", "too_many_pixels", "too_long", "metadata_too_large")
    return Made(made.ending, made.content, reasons=reasons)


# --- not images at all ---


def _zip_archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("inner.txt", "not a picture")
    return stream.getvalue()


def other(ending: str, content: bytes, *reasons: str) -> Callable[[Rng], Made]:
    return lambda rng: Made(ending, content, reasons=reasons)


def noise(rng: Rng) -> Made:
    return Made("jpg", b"\x07" + rng.bytes(int(rng.integers(1, 5000))), reasons=("not_an_image",))


# --- unusual, but images ---


def cmyk(rng: Rng) -> Made:
    seen = draw(rng)
    return Made("jpg", encode(Image.fromarray(seen).convert("CMYK"), "JPEG", quality=95, subsampling=0), seen, 6.0)


def sixteen_bit(image_format: str) -> Callable[[Rng], Made]:
    def make(rng: Rng) -> Made:
        seen = draw(rng, 1)
        return Made(image_format.lower(), encode(Image.fromarray(seen.astype(np.uint16) * 257), image_format), seen)

    return make


def float_tiff(rng: Rng) -> Made:
    seen = draw(rng, 1)
    return Made("tif", encode(Image.fromarray((seen / 255.0).astype(np.float32)), "TIFF"), seen)


def palette(rng: Rng, grey: bool = False) -> Made:
    colours = rng.integers(0, 256, (16, 3)).astype(np.uint8)
    if grey:
        colours = np.repeat(colours[:, :1], 3, axis=1)
    indices = draw(rng, 1) % 16
    image = Image.fromarray(indices, mode="L").copy()
    image.putpalette(colours.tobytes())
    seen = colours[indices]
    return Made("png", encode(image, "PNG"), seen[:, :, 0] if grey else seen)


def alpha(rng: Rng) -> Made:
    picture = draw(rng)
    opacity = np.resize(draw(rng, 1), picture.shape[:2])
    share = opacity[:, :, None] / 255.0
    seen = np.rint(picture * share + 255.0 * (1 - share)).astype(np.uint8)
    return Made("png", encode(Image.fromarray(np.dstack([picture, opacity])), "PNG"), seen, 1.0)


def bilevel(rng: Rng) -> Made:
    seen = ((draw(rng, 1) > 80) * 255).astype(np.uint8)
    return Made("png", encode(Image.fromarray(seen).convert("1"), "PNG"), seen)


def animated(image_format: str) -> Callable[[Rng], Made]:
    def make(rng: Rng) -> Made:
        seen = draw(rng)
        others = [Image.fromarray(255 - seen), Image.fromarray(seen[::-1].copy())]
        options: dict[str, Any] = {"lossless": True} if image_format == "WEBP" else {}
        content = encode(Image.fromarray(seen), image_format, save_all=True, append_images=others, **options)
        return Made(image_format.lower(), content, seen, LOSSY["GIF"] if image_format == "GIF" else 0.0)

    return make


# What a camera stores for an upright picture, by EXIF orientation.
STORED: dict[int, Callable[[Pixels], Pixels]] = {
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.swapaxes(0, 1),
    6: np.rot90,
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


def exif_rotated(rng: Rng) -> Made:
    orientation = int(rng.integers(2, 9))
    image_format = ("JPEG", "PNG", "WEBP", "TIFF")[int(rng.integers(4))]
    seen = draw(rng)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](seen)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless_or_fine: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 95, "subsampling": 0},
        "WEBP": {"lossless": True},
    }
    options = lossless_or_fine.get(image_format, {})
    content = encode(stored, image_format, exif=exif, **options)
    return Made(image_format.lower(), content, seen, LOSSY["JPEG"] if image_format == "JPEG" else 0.0)


def one_pixel(rng: Rng) -> Made:
    seen = rng.integers(0, 256, (1, 1, 3)).astype(np.uint8)
    return Made("png", encode(Image.fromarray(seen), "PNG"), seen)


def polyglot(rng: Rng) -> Made:
    """A JPEG that is also a zip archive, as some upload tricks and some phones make them."""
    made = good("jpeg")(rng)
    return Made("jpg", made.content + _zip_archive(), made.seen, made.tolerance)


def png_named_jpg(rng: Rng) -> Made:
    made = good("png")(rng)
    return Made("jpg", made.content, made.seen)


# --- bombs ---


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _blank_png(width: int, height: int, *extra_chunks: bytes) -> bytes:
    """A black 8-bit grey PNG, written in strips so that making a bomb needs no memory either."""
    packer = zlib.compressobj(9)
    rows_per_strip = max(1, (1 << 22) // (width + 1))
    parts = []
    for top in range(0, height, rows_per_strip):
        parts.append(packer.compress(bytes(min(rows_per_strip, height - top) * (width + 1))))
    packed = b"".join([*parts, packer.flush()])
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = b"".join([*extra_chunks, png_chunk(b"IDAT", packed), png_chunk(b"IEND", b"")])
    return b"\x89PNG\r\n\x1a\n" + header + body


def blank_png(width: int, height: int, reason: str) -> Callable[[Rng], Made]:
    return lambda rng: Made("png", _blank_png(width, height), reasons=(reason,))


def with_chunk(kind: bytes, content: Callable[[], bytes]) -> Callable[[Rng], Made]:
    return lambda rng: Made("png", _blank_png(64, 64, png_chunk(kind, content())), reasons=("metadata_too_large",))


def _packed(mebibytes: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(b"A" * (1 << 20)) for _ in range(mebibytes)), packer.flush()])


def gif_bomb(rng: Rng) -> Made:
    content = bytearray(encode(Image.new("L", (8, 8)), "GIF"))
    content[6:10] = struct.pack("<HH", 65535, 65535)
    return Made("gif", bytes(content), reasons=("too_many_pixels",))


def bmp_bomb(rng: Rng) -> Made:
    content = bytearray(encode(Image.new("RGB", (8, 8)), "BMP"))
    content[18:26] = struct.pack("<ii", 60000, 60000)
    return Made("bmp", bytes(content), reasons=("too_many_pixels",))


def tiff_bomb(rng: Rng) -> Made:
    content = encode(Image.new("1", (13000, 13000)), "TIFF", compression="group4")
    return Made("tif", content, reasons=("too_many_pixels",))


def jpeg_comments(rng: Rng) -> Made:
    """24 MiB of comment segments before the picture."""
    content = good("jpeg")(rng).content
    comment = b"\xff\xfe" + struct.pack(">H", 65535) + b"A" * 65533
    return Made("jpg", content[:2] + comment * 384 + content[2:], reasons=("metadata_too_large",))


def profile_bomb(image_format: str) -> Callable[[Rng], Made]:
    def make(rng: Rng) -> Made:
        content = encode(Image.new("RGB", (8, 8)), image_format, icc_profile=bytes(24 << 20))
        return Made(image_format.lower(), content, reasons=("metadata_too_large",))

    return make


BOMBS: dict[str, Callable[[Rng], Made]] = {
    "bomb_png_13000x13000": blank_png(13000, 13000, "too_many_pixels"),
    "bomb_png_60000x1": blank_png(60000, 1, "too_long"),
    "bomb_png_1x65535": blank_png(1, 65535, "too_long"),
    "bomb_png_text_64_mib": with_chunk(b"tEXt", lambda: b"Comment\0" + b"A" * (64 << 20)),
    "bomb_png_packed_text_512_mib": with_chunk(b"zTXt", lambda: b"Comment\0\0" + _packed(512)),
    "bomb_png_packed_utf8_text_512_mib": with_chunk(b"iTXt", lambda: b"Comment\0\1\0\0\0" + _packed(512)),
    "bomb_png_packed_profile_512_mib": with_chunk(b"iCCP", lambda: b"icc\0\0" + _packed(512)),
    "bomb_png_stored_profile_64_mib": with_chunk(b"iCCP", lambda: b"icc\0\0" + zlib.compress(bytes(64 << 20), 0)),
    "bomb_webp_profile_24_mib": profile_bomb("WEBP"),
    "bomb_tiff_profile_24_mib": profile_bomb("TIFF"),
    "bomb_jpeg_comments_24_mib": jpeg_comments,
    "bomb_gif_65535x65535": gif_bomb,
    "bomb_bmp_60000x60000": bmp_bomb,
    "bomb_tiff_13000x13000": tiff_bomb,
}

CUT = tuple(f"cut_{encoding}" for encoding in ENCODINGS)
FLIPPED = tuple(f"flipped_{encoding}" for encoding in ENCODINGS if encoding != "png")

REFUSED: dict[str, Callable[[Rng], Made]] = {
    **{f"cut_{encoding}": cut(encoding) for encoding in ENCODINGS},
    "flipped_png": flipped_png,
    "empty": other("jpg", b"", "empty"),
    "html_as_jpg": other("jpg", b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>", "not_an_image"),
    "text_as_jpg": other("jpg", "Bitte später noch einmal versuchen.\n".encode(), "not_an_image"),
    "zip_as_jpg": other("jpg", _zip_archive(), "not_an_image"),
    "zeros_as_jpg": other("jpg", bytes(5000), "not_an_image"),
    "lfs_pointer_as_png": other("png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not_an_image"),
    "eps_as_jpg": other("jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "unsupported_format"),
    "svg_as_png": other("png", b'<?xml version="1.0"?><svg width="9" height="9"></svg>', "unsupported_format"),
    "heic_as_jpg": other("jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500), "unsupported_format"),
    "noise_as_jpg": noise,
}
EITHER: dict[str, Callable[[Rng], Made]] = {kind: flipped(kind.removeprefix("flipped_")) for kind in FLIPPED}
UNUSUAL: dict[str, Callable[[Rng], Made]] = {
    "cmyk_jpeg": cmyk,
    "sixteen_bit_png": sixteen_bit("PNG"),
    "sixteen_bit_tiff": sixteen_bit("TIFF"),
    "float_tiff": float_tiff,
    "palette_png": palette,
    "grey_palette_png": lambda rng: palette(rng, grey=True),
    "alpha_png": alpha,
    "bilevel_png": bilevel,
    "apng": animated("PNG"),
    "animated_gif": animated("GIF"),
    "animated_webp": animated("WEBP"),
    "multipage_tiff": animated("TIFF"),
    "exif_rotated": exif_rotated,
    "one_pixel": one_pixel,
    "polyglot_jpeg_zip": polyglot,
    "png_named_jpg": png_named_jpg,
}
GOOD: dict[str, Callable[[Rng], Made]] = {f"good_{encoding}": good(encoding) for encoding in ENCODINGS}

# Things that are no file; the reason expected of each.
PLACES = {
    "link_dangling": "missing",
    "link_loop": "missing",
    "link_to_dev_zero": "not_a_file",
    "link_to_folder": "not_a_file",
    "folder_named_jpg": "not_a_file",
    "fifo": "not_a_file",
    "no_permission": "no_permission",
}


def make_corpus(folder: Path, count: int, seed: int, *, bombs: bool = True) -> list[Case]:
    """Writes `count` bad or unusual images and a fifth as many good ones to `folder`/images.

    The kinds come in turn; of each kind of damage three for two unusual images and one file that is no image.

    What a person would see in each that can be decoded goes to `folder`/seen as .npy.
    """
    images, seen = folder / "images", folder / "seen"
    images.mkdir(parents=True)
    seen.mkdir()
    rng = np.random.default_rng(seed)
    cases = [_write(images, seen, f"0000_{kind}", kind, maker, rng) for kind, maker in BOMBS.items() if bombs]
    cases += [case for kind in PLACES if (case := _place(images, kind)) is not None]
    makers = {**REFUSED, **EITHER, **UNUSUAL}
    kinds = [*makers, *UNUSUAL, *CUT, *FLIPPED, "flipped_png", *CUT, *FLIPPED, "flipped_png"]
    for index in range(count - len(cases)):
        kind = kinds[index % len(kinds)]
        cases.append(_write(images, seen, f"{index:04d}_{kind}", kind, makers[kind], rng))
    for index in range(max(len(GOOD), count // 5)):
        kind = list(GOOD)[index % len(GOOD)]
        cases.append(_write(images, seen, f"{index:04d}_{kind}", kind, GOOD[kind], rng))
    return sorted(cases, key=lambda case: case.name)


def _write(images: Path, seen: Path, stem: str, kind: str, maker: Callable[[Rng], Made], rng: Rng) -> Case:
    made = maker(rng)
    name = f"{stem}.{made.ending}"
    (images / name).write_bytes(made.content)
    if made.seen is not None:
        np.save(seen / f"{name}.npy", made.seen)
        return Case(name, kind, "decoded", tolerance=made.tolerance)
    return Case(name, kind, "either" if kind in EITHER else "refused", made.reasons)


def _place(images: Path, kind: str) -> Case | None:
    path = images / f"0000_{kind}.jpg"
    if kind == "link_dangling":
        path.symlink_to("nowhere.jpg")
    elif kind == "link_loop":
        path.symlink_to(path.name)
    elif kind == "link_to_dev_zero":
        path.symlink_to("/dev/zero")
    elif kind == "link_to_folder":
        path.symlink_to(images, target_is_directory=True)
    elif kind == "folder_named_jpg":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif os.geteuid() == 0:
        return None  # the superuser may read everything
    else:
        path.write_bytes(b"")
        path.chmod(0)
    return Case(path.name, kind, "refused", (PLACES[kind],))


# --- judging one file (in the child) ---


def look_at(folder: Path, case: Case) -> dict[str, Any]:
    """Decodes one file and says whether the outcome is the right one."""
    started = time.perf_counter()
    try:
        picture = np.asarray(decode_image(folder / "images" / case.name))
        outcome, reason, message = "decoded", "", ""
    except BadImage as bad:
        picture, outcome, reason, message = None, "refused", bad.reason, bad.message
    milliseconds = (time.perf_counter() - started) * 1000
    right = case.expect in (outcome, "either")
    if case.expect == "refused":
        right = right and reason in case.reasons
    if case.expect == "decoded" and picture is not None:
        right = _looks_like(picture, np.load(folder / "seen" / f"{case.name}.npy"), case.tolerance)
    pillow = pillow_decodes(folder / "images" / case.name) if case.kind in (*CUT, *FLIPPED, "flipped_png") else None
    return {
        "name": case.name,
        "outcome": outcome,
        "reason": reason,
        "message": message,
        "as_expected": right,
        "milliseconds": milliseconds,
        "pillow_decodes": pillow,
    }


def _looks_like(picture: Pixels, seen: Pixels, tolerance: float) -> bool:
    if picture.shape != seen.shape:
        return False
    return float(np.abs(picture.astype(float) - seen.astype(float)).mean()) <= tolerance


def pillow_decodes(path: Path) -> bool:
    """Whether Pillow alone, as most code calls it, returns pixels."""
    try:
        with Image.open(path) as image:
            image.convert("RGB")
    except Exception:
        return False
    return True


def walk(folder: Path, first: int) -> None:
    """Child: one line of JSON per file, flushed, so that the parent knows where a crash or a hang happened."""
    cases = read_cases(folder)
    for case in cases[first:]:
        print(json.dumps(look_at(folder, case)), flush=True)


def scan_all(folder: Path) -> None:
    """Child: the whole folder as `train` would look at it."""
    cases = read_cases(folder)
    samples = [Sample(folder / "images" / case.name, 0, case.name) for case in cases]
    started = time.perf_counter()
    scan = scan_images(samples)
    seconds = time.perf_counter() - started
    named = {name for finding in findings(scan, samples) if finding.kind == "unreadable" for name in finding.files}
    try:
        refuse_if_too_bad(scan, samples, allow_bad=False)
        stopped = ""
    except UserError as error:
        stopped = str(error)
    usable = [case.name for case, usable in zip(cases, scan.usable, strict=True) if usable]
    print(json.dumps({"seconds": seconds, "named": sorted(named), "usable": usable, "stopped": stopped}))


def bomb(folder: Path, name: str, with_pillow_alone: bool) -> None:
    """Child: time and memory of one file alone, after the decoder is warm."""
    decode_image(encode(Image.new("L", (64, 64)), "PNG"))
    path = folder / "images" / name
    before = peak_mebibytes()
    started = time.perf_counter()
    try:
        if with_pillow_alone:
            outcome = "decoded" if pillow_decodes(path) else "refused"
        else:
            decode_image(path)
            outcome = "decoded"
    except BadImage as bad:
        outcome = bad.reason
    milliseconds = (time.perf_counter() - started) * 1000
    extra = peak_mebibytes() - before
    print(json.dumps({"outcome": outcome, "milliseconds": round(milliseconds, 1), "extra_mebibytes": round(extra, 1)}))


def peak_mebibytes() -> float:
    """Largest resident memory of this process so far (Linux; getrusage would give the parent's peak after a fork)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def read_cases(folder: Path) -> list[Case]:
    return [
        Case(**{**case, "reasons": tuple(case["reasons"])}) for case in json.loads((folder / "cases.json").read_text())
    ]


# --- watching (in the parent) ---


def child(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), "--child", str(folder), *arguments]


def watch_walk(folder: Path, cases: list[Case]) -> list[dict[str, Any]]:
    """One result per case; a child that dies or stands still is started again behind the file that did it."""
    results: list[dict[str, Any]] = []
    while len(results) < len(cases):
        with subprocess.Popen(child(folder, "walk", str(len(results))), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            while len(results) < len(cases):
                ready, _, _ = select.select([process.stdout], [], [], SECONDS_PER_FILE)
                line = process.stdout.readline() if ready else b""
                if not line:
                    what = "crash" if ready else "hang"
                    process.kill()
                    results.append({"name": cases[len(results)].name, "outcome": what, "as_expected": False})
                    break
                results.append(json.loads(line))
    return results


def ask(folder: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(child(folder, *arguments), stdout=subprocess.PIPE, timeout=300, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def summarise(cases: list[Case], results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per kind: how many, how they ended, the longest."""
    kinds: dict[str, list[tuple[Case, dict[str, Any]]]] = defaultdict(list)
    for case, result in zip(cases, results, strict=True):
        kinds[case.kind].append((case, result))
    table = {}
    for kind, members in sorted(kinds.items()):
        outcomes = Counter(result["outcome"] for _, result in members)
        row: dict[str, Any] = {
            "count": len(members),
            "expected": members[0][0].expect,
            "as_expected": sum(result["as_expected"] for _, result in members),
            **{name: outcomes.get(name, 0) for name in ("decoded", "refused", "crash", "hang")},
            "max_milliseconds": round(max(result.get("milliseconds", 0.0) for _, result in members), 1),
        }
        if any(result.get("pillow_decodes") is not None for _, result in members):
            row["pillow_decodes"] = sum(bool(result.get("pillow_decodes")) for _, result in members)
        table[kind] = row
    return table


def measure(folder: Path, count: int, seed: int) -> dict[str, Any]:
    cases = make_corpus(folder, count, seed)
    (folder / "cases.json").write_text(json.dumps([asdict(case) for case in cases]))
    results = watch_walk(folder, cases)
    scanned = ask(folder, "scan")
    bombs = {
        case.kind: {**ask(folder, "bomb", case.name), "pillow_alone": ask(folder, "bomb", case.name, "pillow")}
        for case in cases
        if case.kind in BOMBS
    }
    outcome_of = {result["name"]: result["outcome"] for result in results}
    refused = {name for name, outcome in outcome_of.items() if outcome == "refused"}
    silent = [case for case in cases if case.kind in FLIPPED and outcome_of[case.name] == "decoded"]
    bad = [case for case in cases if case.kind not in GOOD]
    unexpected = [result for result in results if not result["as_expected"]]
    return {
        "bad_images": len(bad),
        "good_images": len(cases) - len(bad),
        "as_expected": len(cases) - len(unexpected),
        "crashes": sum(outcome == "crash" for outcome in outcome_of.values()),
        "hangs": sum(outcome == "hang" for outcome in outcome_of.values()),
        "refused": len(refused),
        "refused_but_not_named_by_scan": sorted(refused - set(scanned["named"])),
        "good_but_named_by_scan": sorted(set(scanned["named"]) - refused),
        "scan_seconds": round(scanned["seconds"], 2),
        "stopped_at_one_percent": "--allow-bad" in scanned["stopped"],
        "flipped_bytes_decoded_without_complaint": len(silent),
        "flipped_bytes_total": sum(case.kind in (*FLIPPED, "flipped_png") for case in cases),
        "cut_total": sum(case.kind in CUT for case in cases),
        "cut_decoded_without_complaint": sum(case.kind in CUT and outcome_of[case.name] == "decoded" for case in cases),
        "cut_decoded_by_pillow_alone": sum(bool(r["pillow_decodes"]) for r in results if r["name"].find("_cut_") > 0),
        "bombs": bombs,
        "unexpected": unexpected,
        "kinds": summarise(cases, results),
    }


def misses(result: dict[str, Any]) -> list[str]:
    """What of the bar is not met."""
    missed = [
        f"{key}: {result[key]}"
        for key in ("crashes", "hangs", "unexpected", "cut_decoded_without_complaint")
        if result[key]
    ]
    missed += [f"not named: {name}" for name in result["refused_but_not_named_by_scan"]]
    if not result["stopped_at_one_percent"]:
        missed.append("the scan did not stop although over 1 % are bad")
    for kind, answer in result["bombs"].items():
        if answer["outcome"] == "decoded":
            missed.append(f"{kind} was decoded")
        if answer["milliseconds"] > BOMB_MILLISECONDS:
            missed.append(f"{kind} took {answer['milliseconds']} ms")
        if answer["extra_mebibytes"] >= BOMB_MEBIBYTES:
            missed.append(f"{kind} took {answer['extra_mebibytes']} MiB")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="bad and unusual images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "bad_images.json")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        folder, task, *rest = arguments.child
        if task == "walk":
            walk(Path(folder), int(rest[0]))
        elif task == "scan":
            scan_all(Path(folder))
        else:
            bomb(Path(folder), rest[0], with_pillow_alone=rest[1:] == ["pillow"])
        return 0
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), arguments.count, arguments.seed)
    missed = misses(result)
    command = f"python benchmarks/bad_images.py --count {arguments.count} --seed {arguments.seed}"
    about = {
        "command": command,
        "hardware": hardware(),
        "versions": versions("pillow", "numpy"),
        "met": not missed,
        "missed": missed,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({**about, **result}, indent=1) + "\n")
    print(json.dumps({**about, **{key: value for key, value in result.items() if key != "kinds"}}, indent=1))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
