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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from convcraft.data.sample import Finding, Progress, Sample
from convcraft.data.splits import Splits

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

SIDE_PIXELS = 32
MIN_DEVIATION = 2.0  # grey levels; thumbnails that vary less show nothing to compare, only equal digests join them

REFERENCES = 2000  # images that stand for the whole set in the question how alike its images are
DISTINCT_CORRELATION = 0.45  # distinct: only a hundredth of the references correlates above this
LOOSE_CORRELATION = 0.90  # of 16 x 16 frequencies, between distinct images
STRICT_CORRELATION = 0.965  # of 24 x 24 frequencies, between all others
CROP_CORRELATION = 0.92  # of 16 x 16 frequencies, between distinct images of which one is cropped

PROPOSED_CORRELATION = 0.95  # of 8 x 8 frequencies
PROPOSED_CORRELATION_DISTINCT = 0.60  # low, because crops move everything
PROPOSED_CORRELATION_CROPPED = 0.85  # after one of nine coarse crops

MAX_MEAN_DIFFERENCE = 24.0  # grey levels between the means of two copies
MAX_CONTRAST_RATIO = 1.6
MAX_COLOUR_DIFFERENCE = 12.0  # levels of Cb and Cr, mean over 4 x 4 fields

COMPARE_ALL_UP_TO = 150_000  # images; every pair is looked at, which takes time N^2 (60,000: about 8 s on 2 cores)
COMPARE_CROPS_UP_TO = 12_000  # images; every pair is looked at after each of nine coarse crops too
PAIRS_AT_ONCE = 200_000
ROWS_AT_ONCE = 2048
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
    shown = distinct_pixels[_deviation(thumbnails, distinct_pixels) >= MIN_DEVIATION]
    same_thumbnail = _equal_neighbours(_pixel_keys(thumbnails), shown)
    compared = np.setdiff1d(shown, same_thumbnail[:, 1])
    search = _Search(thumbnails, compared, progress)
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
    return (_interpolation(SIDE_PIXELS // 2, np.linspace(-0.25, 15.25, SIDE_PIXELS)) @ down).astype(np.float32)


def _crop(scale: float, offset: float) -> Floats:
    """The matrix [32, 32] that stretches the window [offset, offset + scale] of 0..1 over 32 values."""
    positions = ((np.arange(SIDE_PIXELS) + 0.5) * scale + offset * SIDE_PIXELS) - 0.5
    return _interpolation(SIDE_PIXELS, positions).astype(np.float32)


def _interpolation(length: int, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix [len(positions), length] of linear interpolation between `length` values, held at the ends."""
    positions = np.clip(positions, 0, length - 1)
    return np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(length)))


@cache
def _crops(frequencies: int, scales: tuple[float, ...], steps: int) -> tuple[tuple[Floats, Floats], ...]:
    """(rows, columns) transforms to frequencies after cropping, for all scales and steps x steps places of the crop."""
    cosines = _cosines(frequencies)
    crops = []
    for scale in scales:
        places = [cosines @ _crop(scale, offset) for offset in np.linspace(0, 1 - scale, steps)]
        crops += [(rows, columns) for rows in places for columns in places]
    return tuple(crops)


def _coarse_crops() -> tuple[tuple[Floats, Floats], ...]:
    return _crops(8, (0.925,), 3)


def _fine_crops() -> tuple[tuple[Floats, Floats], ...]:
    return _crops(16, (0.90, 0.925, 0.95), 5)


def _frequencies(luma: Floats, rows: Floats, columns: Floats, power: float) -> Floats:
    """Unit vectors float32 [N, K * K - 1] of the frequencies of luma [N, 32, 32], without the mean.

    Each is weighted with its frequency to `power`: pictures have little energy in fine detail (about 1 / frequency), and
    without the weight their coarse light and dark alone would decide.
    """
    count = len(rows)
    half = (luma.reshape(-1, SIDE_PIXELS) @ columns.T).reshape(-1, SIDE_PIXELS, count)
    values = np.matmul(rows, half).reshape(len(luma), -1)
    axis = np.arange(count)
    values *= (np.hypot(axis[:, None], axis) ** power).astype(np.float32).ravel()
    values = values[:, 1:]
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)


def _luma(thumbnails: NDArray[np.uint8]) -> Floats:
    return thumbnails.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def _deviation(thumbnails: NDArray[np.uint8], indices: Ints) -> Floats:
    parts = [_luma(thumbnails[chunk]).std(axis=(1, 2)) for chunk in _chunks(indices)]
    return np.concatenate([*parts, np.empty(0, np.float32)])


def _chunks(indices: Ints, size: int = COLUMNS_AT_ONCE) -> Iterator[Ints]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


# Search -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Look:
    """What the comparison of colour and light needs of an image."""

    mean: Floats  # [N]
    deviation: Floats  # [N]
    colour: Floats  # [N, 2 * 16]: Cb and Cr, mean of 4 x 4 fields


class _Search:
    """All confirmed pairs among some thumbnails. Positions here count within `compared`, ordered distinct first."""

    def __init__(self, thumbnails: NDArray[np.uint8], compared: Ints, progress: Progress | None) -> None:
        self.thumbnails = thumbnails
        self.progress = progress
        alike = _nearest_hundredth(thumbnails, compared)
        self.distinct_count = int((alike < DISTINCT_CORRELATION).sum())
        self.index = compared[np.argsort(alike >= DISTINCT_CORRELATION, kind="stable")]
        coarse = [
            _frequencies(_luma(thumbnails[chunk]), _cosines(8), _cosines(8), 1.0) for chunk in _chunks(self.index)
        ]
        self.vectors: Floats = np.concatenate([*coarse, np.empty((0, 63), np.float32)])
        self.look = _look(thumbnails, self.index)

    def confirmed_pairs(self) -> Ints:
        """int64 [P, 2] of indices of images. Pairs that are joined through others already are not looked at."""
        found: list[Ints] = [np.empty((0, 2), np.int64)]
        for pairs in _gathered(self._proposed_pairs(), PAIRS_AT_ONCE):
            joined = _joined(len(self.index), np.concatenate(found))
            pairs = pairs[joined[pairs[:, 0]] != joined[pairs[:, 1]]]
            found.append(pairs[self._confirm(pairs)])
        return self.index[np.concatenate(found)]

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
            luma = _luma(self.thumbnails[self.index[row : min(row + ROWS_AT_ONCE, self.distinct_count)]])
            for crop in _coarse_crops():
                cropped = _frequencies(luma, *crop, 1.0)
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
        crops = crops[self._coarse_crop_scores(pairs[crops]) >= PROPOSED_CORRELATION_CROPPED]
        pairs_ok[crops] = self._fine_crop_scores(pairs[crops]) >= CROP_CORRELATION
        return pairs_ok

    def _same_look(self, pairs: Ints) -> NDArray[np.bool_]:
        one, two = pairs.T
        look = self.look
        ratio = look.deviation[one] / look.deviation[two]
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
            luma = _luma(self.thumbnails[self.index[images]])
            sharp = _frequencies(luma, cosines, cosines, power)
            blurred = _frequencies(luma, halved, halved, power)
            for offset in range(0, len(own.reshape(-1, 2)), COLUMNS_AT_ONCE):
                one, two = own.reshape(-1, 2)[offset : offset + COLUMNS_AT_ONCE].T
                best = np.einsum("nk,nk->n", sharp[one], sharp[two])
                best = np.maximum(best, np.einsum("nk,nk->n", blurred[one], sharp[two]))
                best = np.maximum(best, np.einsum("nk,nk->n", sharp[one], blurred[two]))
                scores[start + offset : start + offset + len(best)] = best
        return scores

    def _coarse_crop_scores(self, pairs: Ints) -> Floats:
        """Highest correlation of 8 x 8 frequencies after one of nine crops of either image: float32 [P]."""
        scores = np.full(len(pairs), -1, np.float32)
        if not len(pairs):
            return scores
        images, own = np.unique(pairs, return_inverse=True)
        one, two = own.reshape(-1, 2).T
        luma = _luma(self.thumbnails[self.index[images]])
        for crop in _coarse_crops():
            cropped = _frequencies(luma, *crop, 1.0)
            for first, second, uncropped in ((one, two, pairs[:, 1]), (two, one, pairs[:, 0])):
                del second
                scores = np.maximum(scores, np.einsum("nk,nk->n", cropped[first], self.vectors[uncropped]))
        return scores

    def _fine_crop_scores(self, pairs: Ints) -> Floats:
        """Highest correlation of 16 x 16 frequencies after one of 75 crops of either image: float32 [P]."""
        scores = np.full(len(pairs), -1, np.float32)
        cosines = _cosines(16)
        for start in range(0, len(pairs), ROWS_AT_ONCE):
            chunk = slice(start, start + ROWS_AT_ONCE)
            one, two = (_luma(self.thumbnails[self.index[side]]) for side in pairs[chunk].T)
            for cropped, whole in ((one, two), (two, one)):
                target = _frequencies(whole, cosines, cosines, 0.5)
                for crop in _fine_crops():
                    score = np.einsum("nk,nk->n", _frequencies(cropped, *crop, 0.5), target)
                    scores[chunk] = np.maximum(scores[chunk], score)
        return scores


def _look(thumbnails: NDArray[np.uint8], indices: Ints) -> _Look:
    means, deviations, colours = [], [], []
    for chunk in _chunks(indices):
        pixels = thumbnails[chunk].astype(np.float32)
        luma = _luma(thumbnails[chunk])
        means.append(luma.mean(axis=(1, 2)))
        deviations.append(luma.std(axis=(1, 2)))
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


def _nearest_hundredth(thumbnails: NDArray[np.uint8], compared: Ints) -> Floats:
    """How alike a set's images are to each one: the correlation that a hundredth of the references exceeds.

    References are drawn by a fixed seed, so the answer is a function of the images and their order.
    """
    random = np.random.default_rng(0)
    drawn = np.sort(random.choice(compared, min(REFERENCES, len(compared)), replace=False)) if len(compared) else compared
    cosines = _cosines(16)
    references = _frequencies(_luma(thumbnails[drawn]), cosines, cosines, 0.5)
    rank = max(3, len(drawn) // 100)
    if len(drawn) < rank:
        return np.zeros(len(compared), np.float32)
    parts = []
    for chunk in _chunks(compared, ROWS_AT_ONCE):
        scores = _frequencies(_luma(thumbnails[chunk]), cosines, cosines, 0.5) @ references.T
        parts.append(np.partition(scores, -rank, axis=1)[:, -rank])
    return np.concatenate(parts)


def _above(scores: Floats, threshold: float, first_row: int, first_column: int) -> Ints:
    """int64 [P, 2]: places of a tile of scores that lie above the threshold."""
    places = np.flatnonzero(scores.ravel() > threshold)
    row, column = np.divmod(places, scores.shape[1])
    return np.stack([row + first_row, column + first_column], axis=1)


def _gathered(parts: Iterator[Ints], size: int) -> Iterator[Ints]:
    """The same pairs in portions of about `size`, each pair once within its portion."""
    waiting: list[Ints] = []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) >= size:
            yield np.unique(np.concatenate(waiting), axis=0)
            waiting = []
    if waiting:
        yield np.unique(np.concatenate(waiting), axis=0)


def _equal_neighbours(keys: NDArray[np.generic], indices: Ints) -> Ints:
    """int64 [P, 2]: for all indices with the same key, the first of them with each other one."""
    if not len(indices):
        return np.empty((0, 2), np.int64)
    _, first, inverse = np.unique(keys[indices], return_index=True, return_inverse=True)
    own_first = indices[first[inverse]]
    return np.stack([own_first, indices], axis=1)[own_first != indices]


def _pixel_keys(thumbnails: NDArray[np.uint8]) -> NDArray[np.generic]:
    """One value per thumbnail, equal for equal pixels."""
    flat = np.ascontiguousarray(thumbnails).reshape(len(thumbnails), -1)
    return flat.view(np.dtype((np.void, flat.shape[1]))).ravel()


def _joined(count: int, pairs: Ints) -> Ints:
    """int64 [count]: the smallest index of each one's connected component."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(pairs), np.bool_), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    components, label = connected_components(graph, directed=False)
    smallest = np.full(components, count, np.int64)
    np.minimum.at(smallest, label, np.arange(count))
    return smallest[label]
