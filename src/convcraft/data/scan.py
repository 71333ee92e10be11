"""One look at every image before anything is learned from it: what it is, what is unusable, what is there twice."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convcraft.data.images import BadImage, decode
from convcraft.data.sample import Finding, Progress, Sample, worst_first
from convcraft.data.scan_arrays import pixel_digests, runs_of_one_shape, stacked, thumbnails_of
from convcraft.errors import UserError

THUMBNAIL_SIDE_PIXELS = 32
MAX_BAD_FRACTION = 0.01
_SAMPLES_PER_TASK = 64
_HASHED_ROWS_BYTES = 4 << 20
_NAMED_FILES = 10

# Endings that people use for each format; anything else is reported (and read by its content all the same).
_ENDINGS = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"},
    "PNG": {".png", ".apng"},
    "WEBP": {".webp"},
    "BMP": {".bmp", ".dib"},
    "GIF": {".gif"},
    "TIFF": {".tif", ".tiff"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm"},
}


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What one image is, once upright.

    channels: 1 (grey) or 3 (RGB).
    format: "JPEG", "PNG", ... by content, "array", or "" where it cannot be used.
    problem: why it cannot be used, in words; None where it can.
    reason: the same in one word (`containers.REASONS`), or "".
    has_more_frames: an animation or a document of several pages, of which only the first was read.
    """

    width: int
    height: int
    channels: int
    format: str
    problem: str | None
    reason: str = ""
    has_more_frames: bool = False


@dataclass(frozen=True)
class Scan:
    """Facts of all samples, in their order.

    facts: one per sample.
    usable: bool [N].
    thumbnails: uint8 [N, 32, 32, 3]; each pixel the mean of its box; zeros where the image cannot be used.
    digests: SHA-256 of mode, size and pixels; equal for equal pictures however they were stored; "" where unusable.
    notes: what happened while scanning that a person should know.
    """

    facts: tuple[ImageFacts, ...]
    usable: NDArray[np.bool_]
    thumbnails: NDArray[np.uint8]
    digests: tuple[str, ...]
    notes: tuple[Finding, ...] = ()

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """How often each (height, width) occurs among the usable images."""
        return Counter((fact.height, fact.width) for fact in self.facts if fact.problem is None)

    @property
    def all_grey(self) -> bool:
        """Whether there are usable images and none of them has colour channels."""
        return {fact.channels for fact in self.facts if fact.problem is None} == {1}

    def data_hash(self, samples: Sequence[Sample], part: NDArray[np.int64] | None = None) -> str:
        """SHA-256 over name, class and pixels of the images of a part, in its order; None takes all usable ones.

        The same data give the same hash, moved or re-encoded or not.
        """
        hasher = hashlib.sha256()
        for index in np.flatnonzero(self.usable) if part is None else part:
            sample = samples[int(index)]
            hasher.update(f"{sample.source}\0{sample.target}\0{self.digests[index]}\n".encode(errors="surrogateescape"))
        return hasher.hexdigest()


@dataclass(frozen=True, slots=True)
class _Look:
    facts: ImageFacts
    digest: str


def scan_images(samples: Sequence[Sample], *, progress: Progress | None = None, num_threads: int | None = None) -> Scan:
    """Decodes every image once and notes what it is; a bad image becomes a fact, never an error.

    Args:
        samples: as a source gave them.
        progress: told after every 64 images.
        num_threads: None takes one per core, at most 8 (each may hold one large decoded image).
    """
    number = len(samples)
    thumbnails = np.zeros((number, THUMBNAIL_SIDE_PIXELS, THUMBNAIL_SIDE_PIXELS, 3), dtype=np.uint8)
    facts: list[ImageFacts] = []
    digests: list[str] = []

    def look_at_some(start: int) -> list[_Look]:
        stop = min(start + _SAMPLES_PER_TASK, number)
        looks: list[_Look] = []
        for first, end in runs_of_one_shape(samples, start, stop):
            if end - first == 1:
                looks.append(_look(samples[first], thumbnails[first]))
            else:
                looks += _look_at_arrays(samples[first:end], thumbnails[first:end])
        return looks

    # What Pillow would warn of (odd EXIF, odd palettes) is a finding or harmless, and would be printed once per file.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for looks in _in_order(look_at_some, range(0, number, _SAMPLES_PER_TASK), _threads_for(samples, num_threads)):
            for look in looks:
                facts.append(look.facts)
                digests.append(look.digest)
            if progress is not None:
                progress(len(facts), number, "looking at images")
    usable = np.array([fact.problem is None for fact in facts], dtype=np.bool_)
    return Scan(tuple(facts), usable, thumbnails, tuple(digests))


def _threads_for(samples: Sequence[Sample], num_threads: int | None) -> int:
    if num_threads is not None:
        return num_threads
    if samples and samples[0].is_array:
        return 1  # nothing to decode: threads would only wait for Python's lock (measured: twice as slow)
    return min(8, os.cpu_count() or 1)


def _in_order(look_at_some: Callable[[int], list[_Look]], starts: range, num_threads: int) -> Iterator[list[_Look]]:
    if num_threads == 1 or len(starts) <= 1:
        yield from map(look_at_some, starts)
        return
    with ThreadPoolExecutor(num_threads) as pool:
        yield from pool.map(look_at_some, starts)


def _look(sample: Sample, thumbnail: NDArray[np.uint8]) -> _Look:
    """Looks at one sample and writes to thumbnail: uint8 [32, 32, 3]."""
    image = sample.image  # once: stored images are read anew each time
    try:
        decoded = decode(image)
    except BadImage as bad:
        return _Look(ImageFacts(0, 0, 0, "", bad.message, bad.reason), "")
    picture = decoded.image
    thumbnail[...] = _thumbnail(picture)
    facts = ImageFacts(
        width=picture.width,
        height=picture.height,
        channels=1 if picture.mode == "L" else 3,
        format=decoded.format,
        problem=None,
        has_more_frames=decoded.has_more_frames,
    )
    return _Look(facts, _pixel_digest(picture, image))


def _look_at_arrays(samples: Sequence[Sample], thumbnails: NDArray[np.uint8]) -> list[_Look]:
    """Looks at samples that hold arrays of one shape and writes to thumbnails: uint8 [N, 32, 32, 3]."""
    first = _look(samples[0], thumbnails[0])
    if first.facts.problem is not None:  # wrong shape or size: so have all of them
        return [first] * len(samples)
    stack = stacked(samples)
    thumbnails[...] = thumbnails_of(stack, THUMBNAIL_SIDE_PIXELS)
    return [_Look(first.facts, digest) for digest in pixel_digests(stack)]


def _thumbnail(picture: Image.Image) -> NDArray[np.uint8]:
    """uint8 [32, 32, 1 or 3]."""
    side = THUMBNAIL_SIDE_PIXELS
    if picture.size != (side, side):
        picture = picture.resize((side, side), Image.Resampling.BOX)
    # As bytes: half the time of np.asarray, which counts where there are 60,000 of them.
    return np.frombuffer(picture.tobytes(), dtype=np.uint8).reshape(side, side, -1)


def _pixel_digest(picture: Image.Image, image: Path | bytes | NDArray[np.uint8]) -> str:
    hasher = hashlib.sha256(f"{picture.mode} {picture.width} {picture.height}\n".encode())
    if isinstance(image, np.ndarray):
        hasher.update(np.ascontiguousarray(image).data)
        return hasher.hexdigest()
    # In strips, so that a large photo is not held a second time.
    rows = max(1, _HASHED_ROWS_BYTES // (picture.width * len(picture.getbands())))
    if rows >= picture.height:
        hasher.update(picture.tobytes())
        return hasher.hexdigest()
    for top in range(0, picture.height, rows):
        hasher.update(picture.crop((0, top, picture.width, min(top + rows, picture.height))).tobytes())
    return hasher.hexdigest()


# --- what people should know ---


def findings(scan: Scan, samples: Sequence[Sample]) -> tuple[Finding, ...]:
    """All that the scan shows and a person should know, worst first."""
    found = [
        *_unreadable(scan, samples),
        *_duplicates(scan, samples),
        *_mistyped(scan, samples),
        *_more_frames(scan, samples),
        *_odd_sizes(scan, samples),
        *_odd_channels(scan, samples),
    ]
    return worst_first(found)


def _finding(kind: str, severity: str, files: Sequence[str], message: str, fix: str) -> Finding:
    return Finding(kind=kind, severity=severity, files=tuple(files), message=message, fix=fix)


def _unreadable(scan: Scan, samples: Sequence[Sample]) -> Iterator[Finding]:
    """One finding per reason."""
    by_reason: dict[str, list[int]] = defaultdict(list)
    for index in np.flatnonzero(~scan.usable):
        by_reason[scan.facts[index].reason].append(int(index))
    for reason, indices in sorted(by_reason.items()):
        first = samples[indices[0]].source
        message = (
            f"{len(indices)} unusable ({reason.replace('_', ' ')}), e.g. {first}: {scan.facts[indices[0]].problem}"
        )
        files = [samples[index].source for index in indices]
        yield _finding("unreadable", "error", files, message, "Replace or remove these files.")


def _duplicates(scan: Scan, samples: Sequence[Sample]) -> Iterator[Finding]:
    """Identical pixels: harmless within one class, a contradiction where the labels differ."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index in np.flatnonzero(scan.usable):
        groups[scan.digests[index]].append(int(index))
    same: list[list[int]] = []
    for group in groups.values():
        if len(group) < 2:
            continue
        if len({samples[index].target for index in group}) == 1:
            same.append(group)
            continue
        files = [samples[index].source for index in group]
        message = f"identical pixels with different labels: {_named(files)}"
        yield _finding("label_error", "warning", files, message, "Keep one of them, with the right label.")
    if same:
        files = [samples[index].source for group in same for index in group]
        copies = sum(len(group) - 1 for group in same)
        pair = " and ".join(samples[index].source for index in same[0][:2])
        message = f"{copies} exact copies of other images of the same class, e.g. {pair}"
        yield _finding("exact_duplicate", "info", files, message, "Remove the copies, or keep them in one split.")


def _mistyped(scan: Scan, samples: Sequence[Sample]) -> Iterator[Finding]:
    wrong = []
    for fact, sample in zip(scan.facts, samples, strict=True):
        if fact.problem is None and sample.file is not None:
            ending = sample.file.suffix.lower()
            if ending and ending not in _ENDINGS[fact.format]:
                wrong.append((sample.source, fact.format))
    if wrong:
        message = (
            f"{len(wrong)} files are not what they end in (read all the same), e.g. {wrong[0][0]} is {wrong[0][1]}"
        )
        yield _finding(
            "odd_format", "info", [name for name, _ in wrong], message, "Rename them, if other tools shall read them."
        )


def _more_frames(scan: Scan, samples: Sequence[Sample]) -> Iterator[Finding]:
    files = [sample.source for fact, sample in zip(scan.facts, samples, strict=True) if fact.has_more_frames]
    if files:
        message = (
            f"{len(files)} animations or documents of several pages, e.g. {files[0]}: only the first frame is used"
        )
        yield _finding(
            "odd_format", "info", files, message, "Save other frames as images of their own, if they matter."
        )


def _odd_sizes(scan: Scan, samples: Sequence[Sample]) -> Iterator[Finding]:
    """The few that differ where nearly all images share one size."""
    sizes = scan.sizes
    if len(sizes) < 2:
        return
    (usual, count), total = sizes.most_common(1)[0], sizes.total()
    if count < 0.9 * total:
        return  # a folder of photos: every size is as good as the next
    files = _usable_names(scan, samples, lambda fact: (fact.height, fact.width) != usual)
    message = f"{len(files)} of {total} images are not {usual[1]} x {usual[0]} pixels like the others: {_named(files)}"
    yield _finding("odd_size", "warning", files, message, "Look at them: they may be from another source.")


def _odd_channels(scan: Scan, samples: Sequence[Sample]) -> Iterator[Finding]:
    counts = Counter(fact.channels for fact in scan.facts if fact.problem is None)
    if len(counts) < 2:
        return
    odd = min(counts, key=lambda channels: (counts[channels], channels))
    files = _usable_names(scan, samples, lambda fact: fact.channels == odd)
    names = {1: "grey", 3: "RGB"}
    message = f"{len(files)} of {counts.total()} images are {names[odd]}, the others {names[4 - odd]}: {_named(files)}"
    fix = "Nothing, if that is how they should be; all are converted to one kind."
    yield _finding("odd_channels", "info", files, message, fix)


def _usable_names(scan: Scan, samples: Sequence[Sample], odd: Callable[[ImageFacts], bool]) -> list[str]:
    pairs = zip(scan.facts, samples, strict=True)
    return [sample.source for fact, sample in pairs if fact.problem is None and odd(fact)]


def _named(files: Sequence[str]) -> str:
    more = f" and {len(files) - _NAMED_FILES} more" if len(files) > _NAMED_FILES else ""
    return ", ".join(files[:_NAMED_FILES]) + more


def refuse_if_too_bad(
    scan: Scan, samples: Sequence[Sample], *, allow_bad: bool, max_bad_fraction: float = MAX_BAD_FRACTION
) -> None:
    """Stops before training on what is left of a broken data set.

    Raises:
        UserError: no image can be used, or over max_bad_fraction cannot without allow_bad; names the first ten.
    """
    bad = [int(index) for index in np.flatnonzero(~scan.usable)]
    total = len(samples)
    if not scan.usable.any():
        raise UserError(
            f"none of the {total} images can be used{_listed(scan, samples, bad)}",
            "at least one readable JPEG, PNG, WebP, BMP, GIF, TIFF or PPM image",
            "Check that the path is the right one and that the files were copied whole.",
        )
    if allow_bad or len(bad) <= max_bad_fraction * total:
        return
    raise UserError(
        f"{len(bad)} of {total} images ({len(bad) / total:.1%}) cannot be used{_listed(scan, samples, bad)}",
        f"at most {max_bad_fraction:.0%} bad images",
        "Replace or remove them, or go on without them with --allow-bad.",
    )


def _listed(scan: Scan, samples: Sequence[Sample], bad: Sequence[int]) -> str:
    if not bad:
        return ""
    lines = [f"\n  {samples[index].source}: {scan.facts[index].problem}" for index in bad[:_NAMED_FILES]]
    more = f"\n  ... and {len(bad) - _NAMED_FILES} more" if len(bad) > _NAMED_FILES else ""
    return ":" + "".join(lines) + more + "\n"
