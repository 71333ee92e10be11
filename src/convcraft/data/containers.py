"""What the bytes of an image file promise, checked before any pixel is decoded.

A decoder alone is not enough: Pillow returns pixels for many files that were cut, reserves memory for whatever size a
header claims, and reads text or colour profiles of any length. The checks here look at the container only: the kind by
its first bytes, the size in pixels, the length of its parts, checksums where there are any (PNG), and its end mark.

Layouts: JPEG ITU-T T.81 annex B; PNG W3C third edition; GIF89a; WebP RFC 9649; BMP (Microsoft, BITMAPINFOHEADER);
TIFF 6.0, BigTIFF.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

CHUNK_BYTES = 1 << 20

# Reasons, one short word or two each; `BadImage.reason` is always one of these.
REASONS = (
    "missing",
    "not_a_file",
    "no_permission",
    "empty",
    "not_an_image",
    "unsupported_format",
    "unsupported_pixels",
    "truncated",
    "damaged",
    "too_many_pixels",
    "too_long",
    "metadata_too_large",
    "file_too_large",
)


class BadImage(ValueError):
    """An image that cannot be used.

    Args:
        reason: one of REASONS, for counting and testing.
        message: what is wrong, in words for people, without the file's name.
    """

    def __init__(self, reason: str, message: str) -> None:
        assert reason in REASONS, reason
        self.reason, self.message = reason, message
        super().__init__(message)


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """How large an image may be; anything larger is refused before it is decoded."""

    max_pixels: int = 89_478_485  # where Pillow begins to warn of bombs: 9,459 x 9,459, about 0.4 GB decoded
    max_aspect: int = 256  # longer side / shorter side
    max_file_bytes: int = 512 << 20
    max_metadata_bytes: int = 8 << 20  # text, EXIF and colour profiles together, unpacked

    def check_size(self, width: int, height: int) -> None:
        """Raises BadImage when a picture of this size must not be decoded."""
        if width < 1 or height < 1:
            raise BadImage("damaged", f"says that it is {width} x {height} pixels")
        # Aspect first: 60000 x 1 is odd because it is a thread, not because it is large.
        if max(width, height) > self.max_aspect * min(width, height):
            raise BadImage("too_long", f"{width} x {height} pixels: one side is over {self.max_aspect} times the other")
        if width * height > self.max_pixels:
            raise BadImage("too_many_pixels", f"{width} x {height} pixels: over the limit of {self.max_pixels:,}")

    def check_metadata(self, num_bytes: int) -> None:
        if num_bytes > self.max_metadata_bytes:
            limit = self.max_metadata_bytes >> 20
            raise BadImage("metadata_too_large", f"over {limit} MiB of text, EXIF or colour profile around the picture")


DEFAULT_LIMITS = ImageLimits()


# --- which kind of file ---

# (magic bytes, Pillow's name) of what is decoded. Anything else is refused, so that no rarely used decoder ever runs
# (Pillow's EPS reader starts Ghostscript).
_PICTURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

# What other files are, by their first bytes, so that the message can say what lies there instead of a picture.
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "not_an_image", "a zip archive"),
    (b"\x1f\x8b", "not_an_image", "a gzip archive"),
    (b"%PDF", "not_an_image", "a PDF document"),
    (b"version https://git-lfs", "not_an_image", "a Git LFS pointer, not the file itself (run `git lfs pull`)"),
    (b"\x93NUMPY", "not_an_image", "a NumPy array"),
    (b"SIMPLE  =", "unsupported_format", "a FITS image"),
    (b"%!PS", "unsupported_format", "an EPS or PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "unsupported_format", "an EPS file"),
    (b"8BPS", "unsupported_format", "a Photoshop document"),
    (b"\0\0\x01\0", "unsupported_format", "an icon (ICO)"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "unsupported_format", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "unsupported_format", "a JPEG 2000 image"),
    (b"\xff\x0a", "unsupported_format", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "unsupported_format", "a JPEG XL image"),
)


def sniff_format(head: bytes) -> str:
    """Pillow's name of the format that a file begins with.

    Args:
        head: the first 512 bytes or more (less where the file is shorter).

    Raises:
        BadImage: it is none of FORMATS; the message names what it looks like.
    """
    if not head:
        raise BadImage("empty", "empty file")
    for magic, name in _PICTURES:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    raise _refusal(head)


def _refusal(head: bytes) -> BadImage:
    accepted = "; convert it to JPEG, PNG, WebP, BMP, GIF, TIFF or PPM"
    for magic, reason, name in _OTHERS:
        if head.startswith(magic):
            return BadImage(reason, f"is {name}" + (accepted if reason == "unsupported_format" else ""))
    if head[4:8] == b"ftyp":
        brand = head[8:12].decode("latin-1")
        kind = "an AVIF or HEIC image" if brand[:2] in ("he", "mi", "av") and brand[:3] != "avc" else "a video"
        return BadImage("unsupported_format", f"is {kind}{accepted}")
    if head[128:132] == b"DICM":
        return BadImage("unsupported_format", "is a DICOM image" + accepted)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return BadImage("not_an_image", "is an HTML page (often an error page saved in place of the picture)")
    if b"<svg" in start and start.startswith((b"<svg", b"<?xml", b"<!")):
        return BadImage("unsupported_format", "is an SVG drawing" + accepted)
    if not head.strip(b"\0"):
        return BadImage("not_an_image", "begins with nothing but zero bytes (often a failed copy)")
    if all(byte in b"\t\n\r\f" or byte >= 32 for byte in start) and _is_text(start):
        return BadImage("not_an_image", "is a text file")
    return BadImage("not_an_image", "is not an image (its first bytes are those of no known format)")


def _is_text(head: bytes) -> bool:
    # The head may end in the middle of a character.
    return any(_decodes(head[: len(head) - cut]) for cut in range(min(4, len(head))))


def _decodes(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


# --- whether the file is whole ---


def check_container(stream: BinaryIO, size_bytes: int, image_format: str, limits: ImageLimits) -> bool:
    """Reads the container's structure, so that cut files and oversized parts are refused.

    Args:
        stream: the whole file, seekable; its position is changed.
        size_bytes: its length.
        image_format: what `sniff_format` found.

    Returns:
        Whether the file holds more than one frame (of which the first is used).

    Raises:
        BadImage: truncated, damaged, metadata_too_large, or too many pixels where the header was read here.
    """
    check = _CHECKS.get(image_format)
    if check is None:  # PPM: Pillow itself refuses files that are too short
        return False
    stream.seek(0)
    return check(stream, size_bytes, limits)


def _read(stream: BinaryIO, num_bytes: int) -> bytes:
    data = stream.read(num_bytes)
    if len(data) != num_bytes:
        raise _cut()
    return data


def _seek(stream: BinaryIO, position: int, size_bytes: int) -> None:
    if position > size_bytes:  # also keeps offsets of 64 bits away from seek, which raises on them
        raise _cut()
    stream.seek(position)


def _cut(where: str = "the file ends in the middle of the picture") -> BadImage:
    return BadImage("truncated", f"cut short: {where}")


def _check_jpeg(stream: BinaryIO, size_bytes: int, limits: ImageLimits) -> bool:
    """Sums up the segments before the picture, then looks for the end mark behind it."""
    position, metadata_bytes = 2, 0
    while True:
        stream.seek(position)
        prefix, marker, length = struct.unpack(">BBH", _read(stream, 4))
        if prefix != 0xFF:  # bytes between segments: decoders skip them, and so does the search for the end
            break
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # segments without a length
            position += 2
            continue
        if marker == 0xD9:
            raise BadImage("damaged", "the JPEG ends before its picture begins")
        position += 2 + max(length, 2)
        if marker == 0xDA:  # start of scan: coded data follows, in which FF D9 cannot occur by chance
            break
        if 0xE0 <= marker <= 0xEF or marker == 0xFE:
            metadata_bytes += length
            limits.check_metadata(metadata_bytes)
    if not _has_bytes_after(stream, position, size_bytes, b"\xff\xd9"):
        raise _cut("the JPEG has no end mark")
    return False


def _has_bytes_after(stream: BinaryIO, start: int, size_bytes: int, mark: bytes) -> bool:
    """Whether `mark` stands anywhere from `start` on; the end is looked at first, where it nearly always is."""
    tail = max(start, size_bytes - 4096)
    stream.seek(tail)
    if mark in stream.read(size_bytes - tail):
        return True
    stream.seek(start)
    before = b""
    while chunk := stream.read(CHUNK_BYTES):
        if mark in before + chunk:
            return True
        before = chunk[1 - len(mark) :]
    return False


def _check_png(stream: BinaryIO, size_bytes: int, limits: ImageLimits) -> bool:
    """Walks all chunks up to IEND: lengths, checksums, and what text and profiles unpack to."""
    stream.seek(8)
    position, metadata_bytes, animated = 8, 0, False
    while True:
        if position + 12 > size_bytes:
            raise _cut("the PNG has no end mark")
        length, kind = struct.unpack(">I4s", _read(stream, 8))
        if not kind.isalpha():
            raise BadImage("damaged", "a PNG chunk has a name that is none")
        if position + 12 + length > size_bytes:
            raise _cut(
                f"the PNG's {kind.decode()} chunk says {length:,} bytes, {size_bytes - position - 12:,} are left"
            )
        if position == 8 and kind != b"IHDR":
            raise BadImage("damaged", "the PNG does not begin with its header")
        if kind[0] & 0x20 and kind != b"fdAT":
            metadata_bytes += length
            limits.check_metadata(metadata_bytes)
        content = _checked_chunk(stream, kind, length)
        if kind == b"IHDR":
            limits.check_size(*struct.unpack(">II", content[:8].ljust(8, b"\0")))
        elif kind in (b"zTXt", b"iTXt", b"iCCP"):
            metadata_bytes += _unpacked_bytes(kind, content)
            limits.check_metadata(metadata_bytes)
        elif kind == b"acTL":
            animated = content[:4] not in (b"\0\0\0\0", b"\0\0\0\1")
        elif kind == b"IEND":
            return animated
        position += 12 + length


def _checked_chunk(stream: BinaryIO, kind: bytes, length: int) -> bytes:
    """Reads a chunk and its checksum. Returns the content of all but pixel chunks, which are not kept."""
    keep = kind not in (b"IDAT", b"fdAT")
    kept, left, checksum = [], length, zlib.crc32(kind)
    while left:
        part = _read(stream, min(left, CHUNK_BYTES))
        checksum = zlib.crc32(part, checksum)
        left -= len(part)
        if keep:
            kept.append(part)
    if struct.unpack(">I", _read(stream, 4))[0] != checksum:
        raise BadImage("damaged", f"the checksum of the PNG's {kind.decode()} chunk is wrong")
    return b"".join(kept)


def _unpacked_bytes(kind: bytes, content: bytes) -> int:
    """How many bytes a packed text or profile chunk unpacks to; over 1 MiB, where Pillow gives up, it is refused."""
    _, _, rest = content.partition(b"\0")
    if kind == b"iTXt":
        if rest[:1] != b"\1":
            return 0  # stored plainly
        rest = rest[2:].split(b"\0", 2)[-1]
    else:
        rest = rest[1:]
    unpacker = zlib.decompressobj()
    try:
        num_bytes = len(unpacker.decompress(rest, CHUNK_BYTES + 1))
    except zlib.error:
        return 0  # broken text does not hurt the picture; Pillow has the last word
    if num_bytes > CHUNK_BYTES:
        raise BadImage("metadata_too_large", f"the PNG's {kind.decode()} chunk unpacks to over 1 MiB")
    return num_bytes


def _check_gif(stream: BinaryIO, size_bytes: int, limits: ImageLimits) -> bool:
    """Walks all blocks up to the trailer, counting frames."""
    header = _read(stream, 13)
    limits.check_size(*struct.unpack("<HH", header[6:10]))
    _skip_colour_table(stream, header[10])
    num_frames = metadata_bytes = 0
    while True:
        introducer = stream.read(1)
        if introducer == b"":
            raise _cut("the GIF has no end mark")
        if introducer == b";":
            return num_frames > 1
        if introducer == b",":
            _skip_colour_table(stream, _read(stream, 9)[8])
            stream.seek(1, 1)
            _skip_blocks(stream)
            num_frames += 1
        elif introducer == b"!":
            stream.seek(1, 1)
            metadata_bytes += _skip_blocks(stream)
            limits.check_metadata(metadata_bytes)
        elif num_frames:
            return num_frames > 1  # decoders stop here as well
        else:
            raise BadImage("damaged", "the GIF has no picture where one should begin")


def _skip_colour_table(stream: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        stream.seek(3 << ((flags & 7) + 1), 1)


def _skip_blocks(stream: BinaryIO) -> int:
    total = 0
    while length := _read(stream, 1)[0]:
        stream.seek(length, 1)
        total += length
    return total


def _check_webp(stream: BinaryIO, size_bytes: int, limits: ImageLimits) -> bool:
    """Compares the RIFF length with the file, then walks the chunks."""
    end = 8 + struct.unpack("<4sI", _read(stream, 8))[1]
    if end > size_bytes:
        raise _cut(f"the WebP says {end:,} bytes, the file has {size_bytes:,}")
    position, metadata_bytes, animated = 12, 0, False
    while position + 8 <= end:
        stream.seek(position)
        kind, length = struct.unpack("<4sI", _read(stream, 8))
        if position + 8 + length > end:
            raise _cut(f"the WebP's {kind.decode('latin-1').strip()} chunk is longer than the file")
        if kind == b"VP8X":
            flags = _read(stream, min(length, 10)).ljust(10, b"\0")
            animated = bool(flags[0] & 2)
            width, height = (1 + int.from_bytes(flags[at : at + 3], "little") for at in (4, 7))
            limits.check_size(width, height)
        elif kind not in (b"VP8 ", b"VP8L", b"ALPH", b"ANMF", b"ANIM"):
            metadata_bytes += length
            limits.check_metadata(metadata_bytes)
        position += 8 + length + (length & 1)
    return animated


def _check_bmp(stream: BinaryIO, size_bytes: int, limits: ImageLimits) -> bool:
    """Compares the rows that the header promises with the file's length."""
    declared, _, pixel_offset, header_bytes = struct.unpack("<IIII", _read(stream, 18)[2:])
    if header_bytes < 40:  # the OS/2 header of 1988
        return False
    width, height, _, bits, compression = struct.unpack("<iiHHI", _read(stream, 16))
    limits.check_size(abs(width), abs(height))
    uncompressed = compression in (0, 3, 6)
    row_bytes = (abs(width) * bits + 31) // 32 * 4
    needed = pixel_offset + row_bytes * abs(height) if uncompressed else declared
    if needed > size_bytes:
        raise _cut(f"the BMP needs {needed:,} bytes, the file has {size_bytes:,}")
    return False


_TIFF_TYPE_BYTES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_TIFF_STRIP_TAGS = {273: 279, 324: 325}  # offsets of strips or tiles: their lengths


def _check_tiff(stream: BinaryIO, size_bytes: int, limits: ImageLimits) -> bool:
    """Reads the first directory: size in pixels, length of entries, and whether all strips or tiles lie in the file."""
    head = _read(stream, 8)
    order = "<" if head[:2] == b"II" else ">"
    big = 43 in (head[2], head[3])
    count_code, entry_code, value_code = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    directory_offset = struct.unpack(order + "Q", _read(stream, 8)) if big else struct.unpack(order + "I", head[4:])
    _seek(stream, directory_offset[0], size_bytes)
    num_entries = struct.unpack(order + count_code, _read(stream, struct.calcsize(count_code)))[0]
    if num_entries > 4096:
        raise BadImage("damaged", f"the TIFF's directory says {num_entries:,} entries")
    entry_bytes = struct.calcsize(order + entry_code)
    directory = _read(stream, num_entries * entry_bytes)
    next_offset = stream.read(struct.calcsize(value_code))
    entries: dict[int, _TiffEntry] = {}
    metadata_bytes = 0
    for at in range(0, len(directory), entry_bytes):
        tag, kind, count, value = struct.unpack_from(order + entry_code, directory, at)
        entries[tag] = _TiffEntry(kind, count, value)
        if tag not in (273, 279, 324, 325):
            metadata_bytes += count * _TIFF_TYPE_BYTES.get(kind, 1)
    limits.check_metadata(metadata_bytes)

    def values(tag: int) -> tuple[int, ...]:
        return entries[tag].read(stream, order, value_code, size_bytes) if tag in entries else ()

    if (width := values(256)) and (height := values(257)):
        limits.check_size(width[0], height[0])
    for offsets, lengths in _TIFF_STRIP_TAGS.items():
        ends = [start + length for start, length in zip(values(offsets), values(lengths), strict=False)]
        if ends and max(ends) > size_bytes:
            raise _cut(f"the TIFF's pixels end at byte {max(ends):,}, the file has {size_bytes:,}")
    return bool(next_offset.strip(b"\0"))


@dataclass(frozen=True, slots=True)
class _TiffEntry:
    kind: int
    count: int
    value: bytes

    def read(self, stream: BinaryIO, order: str, value_code: str, size_bytes: int) -> tuple[int, ...]:
        """The entry's whole numbers, or none where it is of another type."""
        code = {3: "H", 4: "I", 16: "Q"}.get(self.kind)
        if code is None:
            return ()
        num_bytes = self.count * struct.calcsize(code)
        if num_bytes > size_bytes:
            raise _cut("a TIFF entry is longer than the file")
        if num_bytes <= len(self.value):
            return struct.unpack_from(f"{order}{self.count}{code}", self.value)
        _seek(stream, struct.unpack(order + value_code, self.value)[0], size_bytes)
        return struct.unpack(f"{order}{self.count}{code}", _read(stream, num_bytes))


_CHECKS: dict[str, Callable[[BinaryIO, int, ImageLimits], bool]] = {
    "JPEG": _check_jpeg,
    "PNG": _check_png,
    "GIF": _check_gif,
    "WEBP": _check_webp,
    "BMP": _check_bmp,
    "TIFF": _check_tiff,
}
