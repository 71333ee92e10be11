"""An index of a large set of images, so that only what is new is looked at: the second start takes seconds.

The scan decodes every image once, which takes minutes for 100,000 photos. What it finds is kept in one file in the
user's cache, row by row under a key that changes with the image: path, size, times and inode of a file, or the hash of
encoded bytes. A start computes the keys, takes the rows that it knows, scans the rest and writes the file anew. A file
that was changed, added or removed is thus noticed without opening any; a row holds exactly what the scan said.

The file: magic, length and CRC-32 of the header, the header (JSON), then the rows, then the thumbnails.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import mmap
import os
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import PIL
from numpy.typing import NDArray

from convcraft.data.hub import PREFIX
from convcraft.data.sample import Finding, Progress, Sample, StoredSample
from convcraft.data.scan import THUMBNAIL_SIDE_PIXELS, ImageFacts, Scan, scan_images
from convcraft.data.sources import whole_source
from convcraft.data.user_cache import user_cache_dir

WORTH_INDEXING = 1_000  # images; fewer are looked at in seconds
SCANNED_AT_ONCE = 4_096  # after so many images an interrupted scan loses nothing
STALE_DRAFT_SECONDS = 86_400.0
FORGOTTEN_SECONDS = 180 * 86_400.0  # after so long without a start, the index of what is no folder here goes

T = TypeVar("T", bytes, str)

_MAGIC = b"convcraft-index-1\n"
_HEADER = struct.Struct("<QI")  # length and CRC-32
_ROW = np.dtype([("key", "V16"), ("digest", "V32"), ("facts", "<u4")])
_THUMBNAIL_SHAPE = (THUMBNAIL_SIDE_PIXELS, THUMBNAIL_SIDE_PIXELS, 3)
_THUMBNAIL_BYTES = THUMBNAIL_SIDE_PIXELS * THUMBNAIL_SIDE_PIXELS * 3
_NO_DIGEST = bytes(32)
# Why an image cannot be used, where that may change although the file does not.
_PASSING_REASONS = frozenset({"missing", "no_permission", "too_many_pixels"})


@dataclass(frozen=True)
class _Index:
    """What is remembered.

    rows: structured [N]; thumbnails: uint8 [N, 32, 32, 3], mapped from the file.
    facts: what the rows' numbers point to.
    """

    rows: NDArray[np.void]
    facts: tuple[ImageFacts, ...]
    thumbnails: NDArray[np.uint8]

    @classmethod
    def empty(cls) -> _Index:
        return cls(np.empty(0, _ROW), (), np.empty((0, *_THUMBNAIL_SHAPE), np.uint8))


class _Unusable(Exception):
    """An index file that will not do; the text says why."""


def remembered_scan(
    samples: Sequence[Sample], place: str, *, complete: bool = True, progress: Progress | None = None
) -> Scan:
    """`scan_images`, of those images alone that the index of this place does not know yet.

    Args:
        samples: files or encoded bytes; arrays and small sets are scanned as they are.
        place: what was given as DATA; each has its own index, however its path was written.
        complete: whether these are all images of the place, so that others can be forgotten.
        progress: told of the images that have to be looked at.
    """
    if len(samples) < WORTH_INDEXING or samples[0].is_array:
        return scan_images(samples, progress=progress)
    place = whole_source(place)
    here = str(Path.cwd())
    keys = [_key(sample, here) for sample in samples]
    file = index_file(place)
    index, notes = _open_index(file, place)
    row_of = {key: row for row, key in enumerate(_cut(index.rows["key"].tobytes(), 16))}
    known = np.fromiter((row_of.get(key, -1) if key else -1 for key in keys), np.int64, len(keys))
    new = np.flatnonzero(known < 0)
    found = _GrowingScan.of(index, known)
    if len(new):
        others = np.setdiff1d(np.arange(len(index.rows)), known)
        scanned = 0
        try:
            for part in _scans_of_portions([samples[row] for row in new.tolist()], progress):
                found.fill(new[scanned : scanned + len(part.facts)], part)
                scanned += len(part.facts)
        finally:  # also when interrupted: what was looked at need not be looked at again
            have = np.union1d(np.flatnonzero(known >= 0), new[:scanned])
            kept = others[:0] if complete and scanned == len(new) else others
            _save(file, place, _merged(index, kept, found, have, keys))
    return Scan(tuple(found.facts), found.usable, found.thumbnails, tuple(found.digests), notes)


def index_file(place: str) -> Path:
    """Where the index of a place is kept."""
    name = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return user_cache_dir() / "scans" / f"{name}.index"


def _key(sample: Sample, here: str) -> bytes | None:
    """16 bytes that change when the image does; None for a file that is not there.

    Args:
        here: the folder in which relative paths begin, so that they get the key of the whole path.
    """
    if isinstance(sample, StoredSample) and sample.identity:
        return hashlib.blake2b(sample.identity, digest_size=16, person=b"stored").digest()
    image = sample.image
    if isinstance(image, bytes):
        return hashlib.blake2b(image, digest_size=16, person=b"bytes").digest()
    assert isinstance(image, Path)
    path = os.path.join(here, image)  # noqa: PTH118  # as below: quicker, and whole paths stay as they are
    try:
        status = os.stat(path)  # noqa: PTH116  # a third of the time of Path.stat, which counts for 100,000 files
    except (OSError, ValueError):
        return None
    seen = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino} {status.st_dev} {path}"
    return hashlib.blake2b(seen.encode("utf-8", "surrogateescape"), digest_size=16, person=b"file").digest()


@functools.cache
def _code() -> str:
    """SHA-256 over the code of this room and the version of Pillow: other code may see other pixels."""
    hasher = hashlib.sha256(PIL.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        hasher.update(path.read_bytes())
    return hasher.hexdigest()


# Between index and scan -------------------------------------------------------------------------------------------


@dataclass
class _GrowingScan:
    """A scan that grows: what the index knows, with empty places for the images that it does not."""

    facts: list[ImageFacts]
    usable: NDArray[np.bool_]
    thumbnails: NDArray[np.uint8]
    digests: list[str]

    @classmethod
    def of(cls, index: _Index, known: NDArray[np.int64]) -> _GrowingScan:
        if np.array_equal(known, np.arange(len(index.rows))):
            thumbnails, rows = index.thumbnails, index.rows  # nothing is copied
        else:
            thumbnails = np.zeros((len(known), *_THUMBNAIL_SHAPE), np.uint8)
            there = np.flatnonzero(known >= 0)
            thumbnails[there] = index.thumbnails[known[there]]
            rows = np.zeros(len(known), _ROW)
            rows[there] = index.rows[known[there]]
        unseen = ImageFacts(0, 0, 0, "", "not looked at")
        numbers = zip(rows["facts"].tolist(), (known >= 0).tolist(), strict=True)
        facts = [index.facts[number] if there else unseen for number, there in numbers]
        usable = np.fromiter((fact.problem is None for fact in facts), np.bool_, len(facts))
        written = zip(_cut(rows["digest"].tobytes().hex(), 64), usable.tolist(), strict=True)
        return cls(facts, usable, thumbnails, [digest if good else "" for digest, good in written])

    def fill(self, rows: NDArray[np.int64], part: Scan) -> None:
        """Put a scan of some images into their places."""
        for row, fact, digest in zip(rows.tolist(), part.facts, part.digests, strict=True):
            self.facts[row], self.digests[row] = fact, digest
        self.usable[rows] = part.usable
        self.thumbnails[rows] = part.thumbnails


def _scans_of_portions(samples: Sequence[Sample], progress: Progress | None) -> Iterator[Scan]:
    """Scans of one portion after the other, with progress over all of them."""
    total = len(samples)
    for start in range(0, total, SCANNED_AT_ONCE):

        def told(done: int, _total: int, what: str, start: int = start) -> None:
            if progress is not None:
                progress(start + done, total, what)

        yield scan_images(samples[start : start + SCANNED_AT_ONCE], progress=told)


def _merged(
    index: _Index, kept: NDArray[np.int64], found: _GrowingScan, have: NDArray[np.int64], keys: Sequence[bytes | None]
) -> _Index:
    """An index of what was found of some images, and of some rows of the old one."""
    lasting = [row for row in have.tolist() if keys[row] and found.facts[row].reason not in _PASSING_REASONS]
    number_of: dict[ImageFacts, int] = {}
    rows = np.empty(len(lasting) + len(kept), _ROW)
    for place, row in enumerate(lasting):
        digest = bytes.fromhex(found.digests[row]) if found.digests[row] else _NO_DIGEST
        rows[place] = (keys[row], digest, number_of.setdefault(found.facts[row], len(number_of)))
    rows[len(lasting) :] = index.rows[kept]
    for place, number in enumerate(index.rows["facts"][kept].tolist(), len(lasting)):
        rows["facts"][place] = number_of.setdefault(index.facts[number], len(number_of))
    thumbnails = found.thumbnails
    if len(kept) or len(lasting) != len(thumbnails):
        thumbnails = np.concatenate([thumbnails[lasting], index.thumbnails[kept]])
    return _Index(rows, tuple(number_of), thumbnails)


def _cut(text: T, size: int) -> list[T]:
    """A text of equal parts as a list of them."""
    return [text[start : start + size] for start in range(0, len(text), size)]


# The file ---------------------------------------------------------------------------------------------------------


def _open_index(file: Path, place: str) -> tuple[_Index, tuple[Finding, ...]]:
    """What is remembered of a place; of a damaged file nothing, and a word about it."""
    try:
        index = _read(file, place)
        with contextlib.suppress(OSError):
            os.utime(file)  # in use: see _tidy
        return index, ()
    except FileNotFoundError:
        return _Index.empty(), ()
    except _Unusable as why:
        severity = "info" if "version" in str(why) else "warning"
        message = f"The index of the images of {place} {why}: all of them were looked at again."
        return _Index.empty(), (Finding("settings", severity, (), message, "Nothing to do: it was made anew."),)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        message = f"The index of the images of {place} cannot be read ({error}): all of them were looked at again."
        return _Index.empty(), (Finding("settings", "warning", (), message, f"Check {file}."),)


def _read(file: Path, place: str) -> _Index:
    with file.open("rb") as stream:
        header, start = _read_header(stream.read(len(_MAGIC) + _HEADER.size), stream)
        if header["place"] != place:
            raise _Unusable("belongs to other data")
        if header["code"] != _code():
            raise _Unusable("was made by another version of convcraft or Pillow")
        count = int(header["rows"])
        rows_end = start + count * _ROW.itemsize
        if os.fstat(stream.fileno()).st_size != rows_end + count * _THUMBNAIL_BYTES or not count:
            raise _Unusable("is damaged (its length is wrong)")
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    view = memoryview(mapped)
    if zlib.crc32(view[start:rows_end]) != header["rows_crc32"]:
        raise _Unusable("is damaged")
    if zlib.crc32(view[rows_end:]) != header["thumbnails_crc32"]:
        raise _Unusable("is damaged")
    rows = np.frombuffer(mapped, _ROW, count, start)
    thumbnails = np.frombuffer(mapped, np.uint8, count * _THUMBNAIL_BYTES, rows_end).reshape(-1, *_THUMBNAIL_SHAPE)
    facts = tuple(ImageFacts(*fields) for fields in header["facts"])
    if int(rows["facts"].max()) >= len(facts):
        raise _Unusable("is damaged")
    return _Index(rows, facts, thumbnails)


def _read_header(start: bytes, stream: BinaryIO) -> tuple[dict[str, Any], int]:
    """(header, where it ends)."""
    if len(start) < len(_MAGIC) + _HEADER.size or not start.startswith(_MAGIC):
        raise _Unusable("is no index of this version")
    length, crc32 = _HEADER.unpack(start[len(_MAGIC) :])
    text = stream.read(min(length, 1 << 30))
    if len(text) != length or zlib.crc32(text) != crc32:
        raise _Unusable("is damaged")
    return json.loads(text), len(start) + length


def _save(file: Path, place: str, index: _Index) -> None:
    """Write beside its place and rename: another process sees the old file or the new one, never a part."""
    if not len(index.rows):
        return
    draft = file.with_name(f"{file.name}.{os.getpid()}.draft")
    rows, thumbnails = index.rows.tobytes(), np.ascontiguousarray(index.thumbnails).data
    header = json.dumps(
        {
            "place": place,
            "code": _code(),
            "rows": len(index.rows),
            "rows_crc32": zlib.crc32(rows),
            "thumbnails_crc32": zlib.crc32(thumbnails),
            "facts": [astuple(fact) for fact in index.facts],
        }
    ).encode()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as stream:
            for part in (_MAGIC, _HEADER.pack(len(header), zlib.crc32(header)), header, rows, thumbnails):
                stream.write(part)
        draft.replace(file)
        _tidy(file.parent)
    except OSError:  # no room or no right to write: the next start looks at the images again
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def _tidy(folder: Path) -> None:
    """Remove indices of folders that are gone, others that nobody uses, and drafts that a killed process left."""
    for path in folder.iterdir():
        unused_seconds = time.time() - path.stat().st_mtime
        if path.suffix == ".draft" and unused_seconds > STALE_DRAFT_SECONDS:
            path.unlink(missing_ok=True)
        if path.suffix == ".index":
            place = _place_of(path)
            if place is None or _is_gone(place.removeprefix(PREFIX), unused_seconds):
                path.unlink(missing_ok=True)


def _is_gone(place: str, unused_seconds: float) -> bool:
    """Whether a whole path leads nowhere; of names and Hub addresses, whether they were not used for long."""
    if Path(place).is_absolute():
        return not Path(place).exists()
    return unused_seconds > FORGOTTEN_SECONDS


def _place_of(path: Path) -> str | None:
    """What an index file says it is of; None where it is damaged."""
    try:
        with path.open("rb") as stream:
            return str(_read_header(stream.read(len(_MAGIC) + _HEADER.size), stream)[0]["place"])
    except (OSError, ValueError, KeyError, struct.error, _Unusable):
        return None
