"""Near copies: the same picture again, re-encoded, resized or slightly cropped.

Cheap hashes cannot tell copies from look-alikes: at distance 4, a 64-bit perceptual hash gives 41 % of the MNIST images
a "neighbour". So the work is done in two steps on the 32 x 32 thumbnails of the scan:

1. Propose. Each thumbnail becomes 63 numbers (its low frequencies), and pairs whose numbers correlate are candidates.
2. Confirm. Candidates are compared pixel by pixel (the correlation of up to 24 x 24 frequencies), also after halving
   the resolution of either and after cutting 5 to 10 % off either; brightness, contrast and colour must agree.

How much agreement is enough depends on how alike the images of a set are. An image to which the nearest hundredth of
the others correlates little ("distinct": most photos) is confirmed at LOOSE_CORRELATION; where all images look alike
(digits), only at STRICT_CORRELATION of finer detail, and crops are not looked for. The thresholds were chosen on
measurements: see docs/data.md and benchmarks/near_copies.py.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.data.sample import Finding, Progress, Sample
from convcraft.data.splits import Splits

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

SIDE_PIXELS = 32
MIN_DEVIATION = 2.0  # grey levels; thumbnails that vary less show nothing to compare, only equal digests join them

REFERENCES = 2000  # images that stand for the whole set in the question how alike its images are
MIN_RANK = 10  # in small sets, so many of the most alike are passed over: among them are an image's own copies
DISTINCT_CORRELATION = 0.45  # distinct: only a hundredth of the references correlates above this
LOOSE_CORRELATION = 0.90  # of 16 x 16 frequencies, between distinct images
STRICT_CORRELATION = 0.965  # of 24 x 24 frequencies, between all others
CROP_CORRELATION = 0.92  # of 16 x 16 frequencies, between distinct images of which one is cropped

PROPOSED_CORRELATION = 0.95  # of 8 x 8 frequencies
PROPOSED_CORRELATION_DISTINCT = 0.60  # low, because crops move everything
PROPOSED_CORRELATION_CROPPED = 0.90  # after one of nine coarse crops

MAX_MEAN_DIFFERENCE = 24.0  # grey levels between the means of two copies
MAX_CONTRAST_RATIO = 1.6
MAX_COLOUR_DIFFERENCE = 12.0  # levels of Cb and Cr, mean over 4 x 4 fields

COMPARE_ALL_UP_TO = 150_000  # images; every pair is looked at, which takes time N^2 (60,000: about 8 s on 2 cores)
COMPARE_CROPS_UP_TO = 12_000  # images; every pair is looked at after each of nine coarse crops too
PAIRS_AT_ONCE = 200_000
IMAGES_AT_ONCE = 1024
ROWS_AT_ONCE = 1024
COLUMNS_AT_ONCE = 8192

# Beyond COMPARE_ALL_UP_TO: tables of random hyperplanes (Charikar 2002). Two vectors at correlation 0.95 lie on the
# same side of a hyperplane 90 % of the time: they share a bucket in 18 % of the tables, so in one of 24 with 99 %.
HASH_TABLES = 24
HASH_BITS = 16
BUCKET_NEIGHBOURS = 48  # of a large bucket, each image meets so many


def copy_groups(
    thumbnails: NDArray[np.uint8], digests: Sequence[str], *, progress: Progress | None = None
) -> NDArray[np.int64]:
    """Which images are copies of each other.

    Args:
        thumbnails: uint8 [N, 32, 32, 3], as `scan_images` makes them.
        digests: N strings, equal for equal pictures; "" for an image that cannot be used and belongs to no group.
        progress: called as progress(images compared, images, what).

    Returns:
        int64 [N]: for each image the smallest index of its group, so its own where it has no copy.
    """
    count = len(thumbnails)
    if thumbnails.shape[1:] != (SIDE_PIXELS, SIDE_PIXELS, 3) or len(digests) != count:
        raise ValueError(f"thumbnails {thumbnails.shape} and {len(digests)} digests do not go together")
    usable = np.array([bool(digest) for digest in digests], np.bool_)
    pairs = _equal_neighbours(np.asarray(digests, dtype=np.str_), np.flatnonzero(usable))
    distinct_pixels = np.setdiff1d(np.flatnonzero(usable), pairs[:, 1])
    grey = _grey(thumbnails)
    shown = distinct_pixels[_deviation(grey, distinct_pixels) >= MIN_DEVIATION]
    same_thumbnail = _equal_neighbours(_pixel_keys(thumbnails), shown)
    compared = np.setdiff1d(shown, same_thumbnail[:, 1])
    search = _Search(thumbnails, grey, compared, progress)
    return _joined(count, np.concatenate([pairs, same_thumbnail, search.confirmed_pairs()]))


def cross_copies(groups: NDArray[np.int64], train: Ints, held_out: Ints) -> Ints:
    """int64 [P, 2]: each held-out image that has a copy in train, with the first such train image."""
    train = np.sort(train)
    keys, first = np.unique(groups[train], return_index=True)
    if not len(keys):
        return np.empty((0, 2), np.int64)
    position = np.minimum(np.searchsorted(keys, groups[held_out]), len(keys) - 1)
    leaked = keys[position] == groups[held_out]
    return np.stack([train[first[position[leaked]]], held_out[leaked]], axis=1)


def leaked_train_indices(groups: NDArray[np.int64], splits: Splits) -> Ints:
    """Train images that have a copy in val or test: what --drop-leaks leaves out."""
    held_out = np.concatenate([splits.val, splits.test])
    return splits.train[np.isin(groups[splits.train], groups[held_out])]


def leak_findings(groups: NDArray[np.int64], splits: Splits, samples: Sequence[Sample]) -> tuple[Finding, ...]:
    """One finding for each of test and val that shares pictures with train."""
    findings = []
    for name, part in (("test", splits.test), ("val", splits.val)):
        pairs = cross_copies(groups, splits.train, part)
        if not len(pairs):
            continue
        train_count = int(np.isin(groups[splits.train], groups[part]).sum())
        files = tuple(samples[index].source for train_index, own in pairs for index in (own, train_index))
        message = (
            f"{len(pairs)} of {len(part)} {name} images have copies or near copies in train "
            f"({train_count} train images), such as {files[0]} and {files[1]}: {name} results come out too good."
        )
        fix = "Pass --drop-leaks to train without these copies; the splits themselves are left as they are."
        findings.append(Finding("leak", "warning", files, message, fix))
    return tuple(findings)


# Frequencies and what is done to images before ------------------------------------------------------------------


@cache
def _cosines(frequencies: int) -> Floats:
    """The first rows of the orthonormal DCT-II of 32 values: float32 [frequencies, 32]."""
    angles = np.pi * (np.arange(SIDE_PIXELS) + 0.5) * np.arange(frequencies)[:, None] / SIDE_PIXELS
    rows = np.cos(angles) * np.sqrt(2 / SIDE_PIXELS)
    rows[0] /= np.sqrt(2)
    return rows.astype(np.float32)


@cache
def _half_resolution() -> Floats:
    """The matrix [32, 32] that averages 32 values to 16 and interpolates back to 32."""
    down = np.kron(np.eye(SIDE_PIXELS // 2), np.full((1, 2), 0.5))
    positions = (np.arange(SIDE_PIXELS) + 0.5) / 2 - 0.5
    return (_interpolation(SIDE_PIXELS // 2, positions) @ down).astype(np.float32)


def _crop(scale: float, offset: float) -> Floats:
    """The matrix [32, 32] that stretches the window [offset, offset + scale] of 0..1 over 32 values."""
    positions = ((np.arange(SIDE_PIXELS) + 0.5) * scale + offset * SIDE_PIXELS) - 0.5
    return _interpolation(SIDE_PIXELS, positions).astype(np.float32)


def _interpolation(length: int, positions: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """The matrix [len(positions), length] of linear interpolation between `length` values, held at the ends."""
    positions = np.clip(positions, 0, length - 1)
    return np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(length)))


@cache
def _places(frequencies: int, scale: float, steps: int) -> tuple[Floats, ...]:
    """Transforms of one axis to frequencies after a crop of `scale`, at places from one end to the other."""
    return tuple(_cosines(frequencies) @ _crop(scale, offset) for offset in np.linspace(0, 1 - scale, steps))


def _coarse_crops() -> Iterator[tuple[Floats, Floats]]:
    """(rows, columns) transforms to 8 x 8 frequencies after cropping to 92.5 %, at nine places."""
    places = _places(8, 0.925, 3)
    return itertools.product(places, places)


def _frequencies(grey: NDArray[np.uint8], rows: Floats, columns: Floats, power: float) -> Floats:
    """Unit vectors float32 [N, K * K - 1] of the frequencies of grey [N, 32, 32], without the mean.

    Each is weighted with its frequency to `power`: pictures have little energy in fine detail (about 1 / frequency),
    and without the weight their coarse light and dark alone would decide.
    """
    count = len(rows)
    axis = np.arange(count)
    weights = (np.hypot(axis[:, None], axis) ** power).astype(np.float32).ravel()[1:]
    vectors = np.empty((len(grey), count * count - 1), np.float32)
    for start in range(0, len(grey), IMAGES_AT_ONCE):
        some = grey[start : start + IMAGES_AT_ONCE]
        # Two large products and a transposition: several times faster than one small product per image.
        half = (some.reshape(-1, SIDE_PIXELS).astype(np.float32) @ columns.T).reshape(-1, SIDE_PIXELS, count)
        values = np.ascontiguousarray(half.transpose(0, 2, 1)).reshape(-1, SIDE_PIXELS) @ rows.T
        values = values.reshape(len(some), count * count)[:, 1:] * weights
        values /= np.maximum(np.sqrt(np.einsum("nk,nk->n", values, values)), 1e-6)[:, None]
        vectors[start : start + IMAGES_AT_ONCE] = values
    return vectors


def _grey(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma (ITU-R BT.601) in 256ths, rounded: uint8 [N, 32, 32]."""
    grey = np.empty(thumbnails.shape[:3], np.uint8)
    for start in range(0, len(grey), ROWS_AT_ONCE):
        red, green, blue = np.moveaxis(thumbnails[start : start + ROWS_AT_ONCE].astype(np.uint16), 3, 0)
        grey[start : start + ROWS_AT_ONCE] = (77 * red + 150 * green + 29 * blue + 128) >> 8
    return grey


def _deviation(grey: NDArray[np.uint8], indices: Ints) -> Floats:
    parts = [grey[chunk].astype(np.float32).std(axis=(1, 2)) for chunk in _chunks(indices)]
    return np.concatenate([*parts, np.empty(0, np.float32)])


def _chunks(indices: Ints, size: int = COLUMNS_AT_ONCE) -> Iterator[Ints]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


# Search -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Look:
    """What the comparison of colour and light needs of an image."""

    mean: Floats  # [N]
    deviation: Floats  # [N], at half resolution, so that fine detail lost in resizing does not count
    colour: Floats  # [N, 2 * 16]: Cb and Cr, mean of 4 x 4 fields


class _Search:
    """All confirmed pairs among some thumbnails. Positions here count within `compared`, ordered distinct first."""

    def __init__(
        self, thumbnails: NDArray[np.uint8], grey: NDArray[np.uint8], compared: Ints, progress: Progress | None
    ) -> None:
        self.grey = grey
        self.progress = progress
        alike = _nearest_hundredth(grey, compared)
        self.distinct_count = int((alike < DISTINCT_CORRELATION).sum())
        self.index = compared[np.argsort(alike >= DISTINCT_CORRELATION, kind="stable")]
        self.vectors = _frequencies(grey[self.index], _cosines(8), _cosines(8), 1.0)
        self.look = _look(thumbnails, grey, self.index)

    def confirmed_pairs(self) -> Ints:
        """int64 [P, 2] of indices of images that are copies of each other, just enough to join each group."""
        joined = np.arange(len(self.index))
        for proposed in _gathered(self._proposed_pairs(), PAIRS_AT_ONCE):
            pairs = proposed[joined[proposed[:, 0]] != joined[proposed[:, 1]]]  # others are joined already
            found = pairs[self._confirm(pairs)]
            if len(found):
                joined = _joined(len(self.index), np.concatenate([_to_first(joined), found]))
        return self.index[_to_first(joined)]

    # Propose

    def _proposed_pairs(self) -> Iterator[Ints]:
        count = len(self.index)
        if count > COMPARE_ALL_UP_TO:
            yield from self._pairs_in_buckets()
            return
        yield from self._pairs_of_all()
        if self.distinct_count <= COMPARE_CROPS_UP_TO:
            yield from self._pairs_of_crops()

    def _pairs_of_all(self) -> Iterator[Ints]:
        for row in range(0, len(self.index), ROWS_AT_ONCE):
            rows = self.vectors[row : row + ROWS_AT_ONCE]
            for column in range(row, len(self.index), COLUMNS_AT_ONCE):
                columns = self.vectors[column : column + COLUMNS_AT_ONCE]
                pairs = _above(rows @ columns.T, self._threshold(row, column), row, column)
                yield pairs[pairs[:, 0] < pairs[:, 1]]
            if self.progress is not None:
                self.progress(min(row + ROWS_AT_ONCE, len(self.index)), len(self.index), "looking for near copies")

    def _threshold(self, row: int, column: int) -> float:
        """Low for a tile that may hold a pair of distinct images; `_confirm` sorts out the few others."""
        both_distinct = max(row, column) < self.distinct_count
        return PROPOSED_CORRELATION_DISTINCT if both_distinct else PROPOSED_CORRELATION

    def _pairs_of_crops(self) -> Iterator[Ints]:
        """Each distinct image, cropped in nine ways, against each other one."""
        vectors = self.vectors[: self.distinct_count]
        for row in range(0, self.distinct_count, ROWS_AT_ONCE):
            grey = self.grey[self.index[row : min(row + ROWS_AT_ONCE, self.distinct_count)]]
            for crop in _coarse_crops():
                cropped = _frequencies(grey, *crop, 1.0)
                for column in range(0, self.distinct_count, COLUMNS_AT_ONCE):
                    scores = cropped @ vectors[column : column + COLUMNS_AT_ONCE].T
                    pairs = np.sort(_above(scores, PROPOSED_CORRELATION_CROPPED, row, column), axis=1)
                    yield pairs[pairs[:, 0] < pairs[:, 1]]

    def _pairs_in_buckets(self) -> Iterator[Ints]:
        """Pairs that fall on the same side of all hyperplanes of a table: near-linear in N, misses more crops."""
        random = np.random.default_rng(0)
        place = np.int64(1) << np.arange(HASH_BITS)
        for table in range(HASH_TABLES):
            planes = random.standard_normal((self.vectors.shape[1], HASH_BITS), dtype=np.float32)
            codes = (self.vectors @ planes > 0) @ place
            order = np.argsort(codes, kind="stable")
            ordered = codes[order]
            for step in range(1, BUCKET_NEIGHBOURS + 1):
                same = np.flatnonzero(ordered[step:] == ordered[:-step])
                for chunk in _chunks(same, PAIRS_AT_ONCE):
                    pairs = np.sort(np.stack([order[chunk], order[chunk + step]], axis=1), axis=1)
                    scores = (self.vectors[pairs[:, 0]] * self.vectors[pairs[:, 1]]).sum(axis=1)
                    wanted = np.where(
                        pairs[:, 1] < self.distinct_count, PROPOSED_CORRELATION_DISTINCT, PROPOSED_CORRELATION
                    )
                    yield pairs[scores > wanted]
            if self.progress is not None:
                self.progress(table + 1, HASH_TABLES, "looking for near copies")

    # Confirm

    def _confirm(self, pairs: Ints) -> NDArray[np.bool_]:
        """Which of the proposed pairs are copies: bool [P]."""
        pairs_ok = np.zeros(len(pairs), np.bool_)
        like = np.flatnonzero(self._same_look(pairs))
        distinct = pairs[like, 1] < self.distinct_count  # pairs are in rising order, so this holds for both
        coarse = self._coarse_scores(pairs[like])
        close = coarse >= PROPOSED_CORRELATION_DISTINCT
        strict = like[~distinct & (coarse >= PROPOSED_CORRELATION)]
        pairs_ok[strict] = self._scores(pairs[strict], 24, 1.0) >= STRICT_CORRELATION
        loose = like[distinct & close]
        pairs_ok[loose] = self._scores(pairs[loose], 16, 0.5) >= LOOSE_CORRELATION
        crops = like[distinct & ~pairs_ok[like]]
        cropped, second = self._coarse_crop_scores(pairs[crops])
        promising = (cropped >= PROPOSED_CORRELATION_CROPPED) & _best_of_either(pairs[crops], cropped)
        crops, second = crops[promising], second[promising]
        one, two = pairs[crops].T
        fine = self._fine_crop_scores(np.where(second, two, one), np.where(second, one, two))
        pairs_ok[crops] = fine >= CROP_CORRELATION
        return pairs_ok

    def _same_look(self, pairs: Ints) -> NDArray[np.bool_]:
        one, two = pairs.T
        look = self.look
        ratio = (look.deviation[one] + 1e-3) / (look.deviation[two] + 1e-3)  # stripes one pixel wide halve to 0
        colour = np.concatenate(
            [
                np.abs(look.colour[chunk[:, 0]] - look.colour[chunk[:, 1]]).mean(axis=1)
                for start in range(0, len(pairs), PAIRS_AT_ONCE)
                if len(chunk := pairs[start : start + PAIRS_AT_ONCE])
            ]
            + [np.empty(0, np.float32)]
        )
        return (
            (np.abs(look.mean[one] - look.mean[two]) <= MAX_MEAN_DIFFERENCE)
            & (np.maximum(ratio, 1 / ratio) <= MAX_CONTRAST_RATIO)
            & (colour <= MAX_COLOUR_DIFFERENCE)
        )

    def _coarse_scores(self, pairs: Ints) -> Floats:
        return (self.vectors[pairs[:, 0]] * self.vectors[pairs[:, 1]]).sum(axis=1)

    def _scores(self, pairs: Ints, frequencies: int, power: float) -> Floats:
        """Correlation of each pair, or, if that is higher, with one of the two at half resolution: float32 [P]."""
        cosines = _cosines(frequencies)
        halved = cosines @ _half_resolution()
        scores = np.empty(len(pairs), np.float32)
        for start in range(0, len(pairs), PAIRS_AT_ONCE // 4):
            images, own = np.unique(pairs[start : start + PAIRS_AT_ONCE // 4], return_inverse=True)
            grey = self.grey[self.index[images]]
            sharp = _frequencies(grey, cosines, cosines, power)
            blurred = _frequencies(grey, halved, halved, power)
            for offset in range(0, len(own.reshape(-1, 2)), COLUMNS_AT_ONCE):
                one, two = own.reshape(-1, 2)[offset : offset + COLUMNS_AT_ONCE].T
                best = np.einsum("nk,nk->n", sharp[one], sharp[two])
                best = np.maximum(best, np.einsum("nk,nk->n", blurred[one], sharp[two]))
                best = np.maximum(best, np.einsum("nk,nk->n", sharp[one], blurred[two]))
                scores[start + offset : start + offset + len(best)] = best
        return scores

    def _coarse_crop_scores(self, pairs: Ints) -> tuple[Floats, NDArray[np.bool_]]:
        """(highest correlation of 8 x 8 frequencies after one of nine crops of either image, whether that was a crop of
        the second): float32 [P], bool [P]."""
        scores = np.full((2, len(pairs)), -1, np.float32)
        images, own = np.unique(pairs, return_inverse=True)
        grey = self.grey[self.index[images]]
        for rows, columns in _coarse_crops() if len(pairs) else ():
            cropped = _frequencies(grey, rows, columns, 1.0)
            for side, own_side in enumerate(own.reshape(-1, 2).T):
                for start in range(0, len(pairs), COLUMNS_AT_ONCE):
                    chunk = slice(start, start + COLUMNS_AT_ONCE)
                    whole = self.vectors[pairs[chunk, 1 - side]]
                    score = np.einsum("nk,nk->n", cropped[own_side[chunk]], whole)
                    np.maximum(scores[side, chunk], score, out=scores[side, chunk])
        return scores.max(axis=0), scores[1] > scores[0]

    def _fine_crop_scores(self, cropped: Ints, whole: Ints) -> Floats:
        """Highest correlation of 16 x 16 frequencies after one of 75 crops of the first image: float32 [P]."""
        scores = np.full(len(cropped), -1, np.float32)
        cosines = _cosines(16)
        for start in range(0, len(cropped), ROWS_AT_ONCE):
            chunk = slice(start, start + ROWS_AT_ONCE)
            grey = self.grey[self.index[cropped[chunk]]]
            target = _frequencies(self.grey[self.index[whole[chunk]]], cosines, cosines, 0.5)
            for scale in (0.90, 0.925, 0.95):
                for columns in _places(16, scale, 5):
                    for rows in _places(16, scale, 5):
                        score = np.einsum("nk,nk->n", _frequencies(grey, rows, columns, 0.5), target)
                        np.maximum(scores[chunk], score, out=scores[chunk])
        return scores


def _look(thumbnails: NDArray[np.uint8], grey: NDArray[np.uint8], indices: Ints) -> _Look:
    means, deviations, colours = [], [], []
    for chunk in _chunks(indices, ROWS_AT_ONCE):
        pixels = thumbnails[chunk].astype(np.float32)
        luma = grey[chunk].astype(np.float32)
        means.append(luma.mean(axis=(1, 2)))
        halved = luma.reshape(-1, SIDE_PIXELS // 2, 2, SIDE_PIXELS // 2, 2).mean(axis=(2, 4))
        deviations.append(halved.std(axis=(1, 2)))
        fields = [
            (factor * (pixels[..., channel] - luma)).reshape(-1, 4, 8, 4, 8).mean(axis=(2, 4)).reshape(-1, 16)
            for channel, factor in ((2, 0.564), (0, 0.713))  # Cb and Cr of ITU-R BT.601
        ]
        colours.append(np.concatenate(fields, axis=1))
    empty = np.empty(0, np.float32)
    return _Look(
        np.concatenate([*means, empty]),
        np.concatenate([*deviations, empty]),
        np.concatenate([*colours, np.empty((0, 32), np.float32)]),
    )


def _nearest_hundredth(grey: NDArray[np.uint8], compared: Ints) -> Floats:
    """How alike a set's images are to each one: the correlation that a hundredth of the references exceeds.

    References are drawn by a fixed seed, so the answer is a function of the images and their order.
    """
    random = np.random.default_rng(0)
    rank = max(MIN_RANK, min(REFERENCES, len(compared)) // 100)
    if len(compared) < rank:
        return np.zeros(len(compared), np.float32)
    drawn = np.sort(random.choice(compared, min(REFERENCES, len(compared)), replace=False))
    cosines = _cosines(16)
    references = _frequencies(grey[drawn], cosines, cosines, 0.5)
    parts = []
    for chunk in _chunks(compared, ROWS_AT_ONCE):
        scores = _frequencies(grey[chunk], cosines, cosines, 0.5) @ references.T
        parts.append(np.partition(scores, -rank, axis=1)[:, -rank])
    return np.concatenate(parts)


def _best_of_either(pairs: Ints, scores: Floats) -> NDArray[np.bool_]:
    """Which pairs are the best one of at least one of their two images: bool [P]."""
    best = np.zeros(len(pairs), np.bool_)
    for images in pairs.T:
        order = np.lexsort((-scores, images))
        best[order[np.flatnonzero(np.diff(images[order], prepend=-1))]] = True
    return best


def _above(scores: Floats, threshold: float, first_row: int, first_column: int) -> Ints:
    """int64 [P, 2]: places of a tile of scores that lie above the threshold."""
    places = np.flatnonzero(scores.ravel() > threshold)
    row, column = np.divmod(places, scores.shape[1])
    return np.stack([row + first_row, column + first_column], axis=1)


def _gathered(parts: Iterator[Ints], size: int) -> Iterator[Ints]:
    """The same pairs in portions of at most `size`, each pair once within about as many."""
    waiting: list[Ints] = []
    for part in itertools.chain(parts, [None]):
        if part is not None:
            waiting.append(part)
        if waiting and (part is None or sum(map(len, waiting)) >= size):
            pairs = _once(np.concatenate(waiting))
            waiting = []
            for start in range(0, len(pairs), size):
                yield pairs[start : start + size]


def _once(pairs: Ints) -> Ints:
    """The pairs sorted, each once."""
    keys = np.sort(pairs[:, 0] << 32 | pairs[:, 1])
    keys = keys[np.diff(keys, prepend=-1) != 0]
    return np.stack([keys >> 32, keys & 0xFFFFFFFF], axis=1)


def _equal_neighbours(keys: NDArray[np.generic], indices: Ints) -> Ints:
    """int64 [P, 2]: for all indices with the same key, the first of them with each other one."""
    if not len(indices):
        return np.empty((0, 2), np.int64)
    _, first, inverse = np.unique(keys[indices], return_index=True, return_inverse=True)
    own_first = indices[first[inverse]]
    return np.stack([own_first, indices], axis=1)[own_first != indices]


def _pixel_keys(thumbnails: NDArray[np.uint8]) -> NDArray[np.str_]:
    """A hash of the pixels of each thumbnail."""
    hashes = [hashlib.blake2b(thumbnail.tobytes(), digest_size=16).hexdigest() for thumbnail in thumbnails]
    return np.array(hashes, np.str_)


def _to_first(joined: Ints) -> Ints:
    """int64 [P, 2]: the pairs that join each one with the first of its group."""
    members = np.flatnonzero(joined != np.arange(len(joined)))
    return np.stack([joined[members], members], axis=1)


def _joined(count: int, pairs: Ints) -> Ints:
    """int64 [count]: the smallest index of each one's connected component."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(pairs), np.bool_), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    components, label = connected_components(graph, directed=False)
    smallest = np.full(components, count, np.int64)
    np.minimum.at(smallest, label, np.arange(count))
    return smallest[label]
