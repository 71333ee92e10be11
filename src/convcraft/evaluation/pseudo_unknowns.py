"""Unknown images made from known ones, to choose a score of strangeness without seeing real unknowns.

They are not the unknowns that will come. A score that fails on them is not to be trusted; one that finds them all may
still miss what looks like a class.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from convcraft.errors import UserError
from convcraft.evaluation.ranking import SortedScores

KINDS = ("blank", "pixels", "phase", "patches", "blend")
PATCHES_PER_SIDE = 4

Pixels = NDArray[np.uint8]


def pseudo_unknowns(pixels: Pixels, targets: NDArray[np.int64], seed: int = 0) -> dict[str, Pixels]:
    """One unknown of each kind from every known image: kind -> uint8 [N, H, W, C].

    blank: the image's mean colour. pixels: its pixels shuffled. phase: its spectrum with random phases, a texture of
    the same sharpness. patches: cut in 4 x 4, shuffled. blend: the mean with an image of another class (left out where
    there is one class alone).

    Args:
        pixels: uint8 [N, H, W, C], H and W at least 4.
        targets: int64 [N].

    Raises:
        UserError: no images, or images that are too small to cut.
    """
    if pixels.ndim != 4 or not len(pixels) or min(pixels.shape[1:3]) < PATCHES_PER_SIDE:
        raise UserError(f"pixels {list(pixels.shape)}", "[N, H, W, C], H and W at least 4", "Give decoded images.")
    random = np.random.default_rng(seed)
    made = {
        "blank": np.broadcast_to(pixels.mean(axis=(1, 2), keepdims=True).round().astype(np.uint8), pixels.shape).copy(),
        "pixels": np.stack([_shuffled(image, random) for image in pixels]),
        "phase": np.stack([_other_phase(image, random) for image in pixels]),
        "patches": np.stack([_cut(image, random) for image in pixels]),
    }
    if len(np.unique(targets)) > 1:
        partner = [random.choice(np.flatnonzero(targets != target)) for target in targets]
        made["blend"] = ((pixels.astype(np.uint16) + pixels[partner]) // 2).astype(np.uint8)
    return made


def _shuffled(image: Pixels, random: np.random.Generator) -> Pixels:
    return random.permutation(image.reshape(-1, image.shape[2])).reshape(image.shape)


def _other_phase(image: Pixels, random: np.random.Generator) -> Pixels:
    """The same phases are added to each channel, so that its colours go together; those of white noise keep it real."""
    noise = np.fft.fft2(random.normal(size=image.shape[:2]))
    spectrum = np.fft.fft2(image.astype(np.float64), axes=(0, 1))
    turned = spectrum * (noise / np.maximum(np.abs(noise), 1e-12))[..., None]
    turned[0, 0] = spectrum[0, 0]  # the mean colour
    return np.clip(np.fft.ifft2(turned, axes=(0, 1)).real.round(), 0, 255).astype(np.uint8)


def _cut(image: Pixels, random: np.random.Generator) -> Pixels:
    """Rows and columns that do not divide by 4 stay in place at the end."""
    made = image.copy()
    high, wide = image.shape[0] // PATCHES_PER_SIDE, image.shape[1] // PATCHES_PER_SIDE
    corners = [(row * high, column * wide) for row in range(PATCHES_PER_SIDE) for column in range(PATCHES_PER_SIDE)]
    for (top, left), taken in zip(corners, random.permutation(len(corners)), strict=True):
        from_top, from_left = corners[taken]
        made[top : top + high, left : left + wide] = image[from_top : from_top + high, from_left : from_left + wide]
    return made


def unknown_auroc(known: NDArray[np.floating], unknown: NDArray[np.floating]) -> float:
    """P(an unknown image scores higher than a known one), ties half: 0.5 is guessing.

    Raises:
        UserError: no scores of either.
    """
    if not len(known) or not len(unknown):
        raise UserError(f"{len(known)} known, {len(unknown)} unknown", "at least one of each", "Give scores of both.")
    is_unknown = np.arange(len(known) + len(unknown)) >= len(known)
    found = SortedScores.of(np.concatenate([known, unknown]), is_unknown).auroc()
    assert found is not None
    return found.figure


def choose_score(
    known: Mapping[str, NDArray[np.floating]], unknown: Mapping[str, Mapping[str, NDArray[np.floating]]]
) -> tuple[str, dict[str, dict[str, float]]]:
    """The score of the largest mean AUROC over the kinds of pseudo-unknowns (of equals the first), and all AUROCs.

    Args:
        known: score -> scores [N] of validation images. unknown: score -> kind -> scores [M].
    """
    found = {
        score: {kind: unknown_auroc(known[score], values) for kind, values in unknown[score].items()} for score in known
    }
    return max(found, key=lambda score: float(np.mean(list(found[score].values())))), found
