"""Copies among the labelled images: those that the data room has found, and those that it does not look for.

The search before every run (`data.copy_search`) finds pictures re-encoded, resized or cropped by a tenth. Mirrored
pictures and small parts of pictures need more than hashes: here features propose pairs and pixels confirm them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy.signal import fftconvolve

from convcraft.data.copy_search import DISTINCT_CORRELATION, neighbourhood_likeness
from convcraft.data.frequencies import SIDE_PIXELS as THUMBNAIL_SIDE_PIXELS
from convcraft.data.frequencies import grey_of
from convcraft.data.image_set import ImageSet
from convcraft.data.sample import Finding, Progress
from convcraft.data.scan_arrays import thumbnails_of
from convcraft.data.spread import spread

NEIGHBOURS = 3  # of each image, proposed by features
MOST_PAIRS = 300  # looked at by pixels, the most similar first; a pair takes some 10 ms
SIDE_PIXELS = 64
COARSE_SIDE_PIXELS = 32
COARSE_CORRELATION = 0.85  # at half that side, which takes a quarter of the time; below, a pair is given up
SCALES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)  # of a part's side to the whole's
DETAIL_CORRELATION = 0.80  # of the pictures less their blur: of CIFAR-10, like seas reach 0.76, copies mostly 0.85
BLUR_PIXELS = 2
MIN_DEVIATION = 8.0  # grey levels within the part: a piece of sky correlates with every sky
MIN_DETAIL = 1.4
SAMPLED_IMAGES = 500  # stand for the set in the question whether its images are alike
FILES_NAMED = 200
ROWS_AT_ONCE = 1024

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


def near_copy_findings(images: ImageSet, groups: Ids, classes: Sequence[str]) -> Iterator[Finding]:
    """Near copies within the labelled images; those that are equal in every pixel are the scan's to tell.

    Args:
        groups: int64 [N], equal for near copies.
    """
    pairs = _near_pairs(images, groups)
    same = [pair for pair in pairs if images.targets[pair[0]] == images.targets[pair[1]]]
    if same:
        first, second = (images.samples[index].source for index in same[0])
        message = f"{len(same):,} images are near copies of others of their class, such as {second} of {first}."
        fix = "Nothing, if that is meant: copies are kept in one split. They count as one image."
        yield Finding("near_duplicate", "info", _files(same, images), message, fix)
    other = [pair for pair in pairs if images.targets[pair[0]] != images.targets[pair[1]]]
    if other:
        one, two = other[0]
        message = (
            f"{len(other):,} near copies have different labels, such as {images.samples[one].source} "
            f"({classes[images.targets[one]]}) and {images.samples[two].source} ({classes[images.targets[two]]})."
        )
        yield Finding("label_error", "warning", _files(other, images), message, "Give both the right label.")


def _near_pairs(images: ImageSet, groups: Ids) -> list[tuple[int, int]]:
    """(first of a group, other member) where their pixels differ."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    later = np.flatnonzero(first[inverse] != np.arange(len(groups)))
    pairs = []
    for index in later.tolist():
        origin = int(first[inverse[index]])
        one, two = images.pixels_of(np.array([origin, index]))
        if not np.array_equal(one, two):
            pairs.append((origin, index))
    return pairs


def _files(pairs: Sequence[tuple[int, int]], images: ImageSet) -> tuple[str, ...]:
    return tuple(images.samples[index].source for pair in pairs[: FILES_NAMED // 2] for index in pair)


def hidden_copy_findings(
    images: ImageSet, features: Floats, groups: Ids, progress: Progress | None = None
) -> Iterator[Finding]:
    """Mirrored copies, and pictures that are a part of another one."""
    pairs = find_hidden_copies(images, features, groups, progress)
    if not pairs:
        return
    one, two = (images.samples[index].source for index in pairs[0])
    message = f"{len(pairs):,} pairs of images show the same picture mirrored or cut out, such as {one} and {two}."
    fix = "Keep both of a pair in one split, or remove one: results come out too good where they are parted."
    yield Finding("near_duplicate", "warning", _files(pairs, images), message, fix)


def find_hidden_copies(
    images: ImageSet, features: Floats, groups: Ids, progress: Progress | None = None
) -> list[tuple[int, int]]:
    """Pairs that are no near copies yet (other groups) and of which one is the other mirrored, cut out, or both."""
    if len(images) < 2 or _all_alike(images):
        return []
    proposed = _nearest_pairs(features, groups)
    found = []
    for number, pair in enumerate(proposed):
        if _is_hidden_copy(*_pictures(images, pair)):
            found.append(pair)
        if progress is not None:
            progress(number + 1, len(proposed), "comparing pictures")
    return found


def _all_alike(images: ImageSet) -> bool:
    """Whether the images look so much alike (digits) that pixels cannot tell a part of one from another one."""
    drawn = spread(len(images), SAMPLED_IMAGES)
    thumbnails = thumbnails_of(images.pixels_of(drawn), THUMBNAIL_SIDE_PIXELS)
    grey = grey_of(np.broadcast_to(thumbnails, (*thumbnails.shape[:3], 3)))
    return float(np.median(neighbourhood_likeness(grey, np.arange(len(grey))))) >= DISTINCT_CORRELATION


def _nearest_pairs(features: Floats, groups: Ids) -> list[tuple[int, int]]:
    """The pairs of other groups whose standardised features have the highest cosines, each image's nearest ones."""
    columns = features - features.mean(axis=0)
    columns /= np.maximum(columns.std(axis=0), 1e-6)
    columns /= np.maximum(np.linalg.norm(columns, axis=1, keepdims=True), 1e-6)
    scored: dict[tuple[int, int], float] = {}
    for start in range(0, len(columns), ROWS_AT_ONCE):
        cosines = columns[start : start + ROWS_AT_ONCE] @ columns.T
        cosines[groups[start : start + ROWS_AT_ONCE, None] == groups] = -1
        nearest = np.argpartition(cosines, -min(NEIGHBOURS, len(columns)), axis=1)[:, -NEIGHBOURS:]
        for row, others in enumerate(nearest):
            for other in others.tolist():
                pair = (min(start + row, other), max(start + row, other))
                if cosines[row, other] > 0:
                    scored[pair] = float(cosines[row, other])
    return sorted(scored, key=lambda pair: -scored[pair])[:MOST_PAIRS]


def _is_hidden_copy(one: Image.Image, two: Image.Image) -> bool:
    small = (COARSE_SIDE_PIXELS, COARSE_SIDE_PIXELS)
    coarse = best_correlation(one.resize(small, Image.Resampling.BOX), two.resize(small, Image.Resampling.BOX))
    return coarse >= COARSE_CORRELATION and best_correlation(one, two, detail=True) >= DETAIL_CORRELATION


def best_correlation(one: Image.Image, two: Image.Image, *, detail: bool = False) -> float:
    """The highest correlation of either picture, mirrored or not and reduced, with a place of the other: -1..1.

    Both are squares of one size; what is neither mirrored nor smaller than 0.9 is left to the search before every run.

    Args:
        detail: of the pictures without their soft light and dark, in which one sea is like another.
    """
    best = -1.0
    for part, whole in ((one, two), (two, one)):
        target = _channels(whole, detail)
        for mirrored in (False, True):
            turned = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else part
            for scale in SCALES:
                side = round(scale * part.width)
                if mirrored or scale < 0.9:
                    template = _channels(turned.resize((side, side), Image.Resampling.BOX), detail)
                    best = max(best, _best_place(template, target, MIN_DETAIL if detail else MIN_DEVIATION))
    return best


def _channels(picture: Image.Image, detail: bool) -> NDArray[np.float64]:
    """[H, W, C] in grey levels."""
    pixels = np.asarray(picture, np.float64)
    if detail:
        pixels = pixels - np.asarray(picture.filter(ImageFilter.GaussianBlur(BLUR_PIXELS)), np.float64)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _best_place(template: NDArray[np.float64], target: NDArray[np.float64], min_deviation: float) -> float:
    """Highest normalised cross-correlation of [h, h, C] with the windows of [H, H, C] (Lewis 1995), all channels as one
    vector with a mean for each channel. Where there is less to see than min_deviation, nothing is like anything."""
    side = len(template)
    centred = template - template.mean(axis=(0, 1))
    energy, least = (centred**2).sum(), template.size * min_deviation**2
    if energy < least:
        return -1.0
    cross = sum(
        fftconvolve(target[..., channel], centred[::-1, ::-1, channel], mode="valid")
        for channel in range(template.shape[2])
    )
    sums, squares = _window_sums(target, side), _window_sums(target**2, side)
    window_energy = (squares - sums**2 / side**2).sum(axis=2)
    scores = np.where(window_energy >= least, cross / np.sqrt(np.maximum(window_energy, least) * energy), -1.0)
    return float(scores.max())


def _window_sums(values: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Sums over all windows of side x side: [H, W, C] -> [H - side + 1, W - side + 1, C]."""
    sums = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0), (0, 0)))
    return sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]


def _pictures(images: ImageSet, ids: Sequence[int]) -> list[Image.Image]:
    """Images reduced to 64 x 64."""
    pictures = []
    for pixels in images.pixels_of(np.array(ids)):
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        kernel = Image.Resampling.BOX if max(image.size) > SIDE_PIXELS else Image.Resampling.BILINEAR
        pictures.append(image.resize((SIDE_PIXELS, SIDE_PIXELS), kernel))
    return pictures
