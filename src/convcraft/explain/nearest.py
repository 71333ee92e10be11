"""The training images that the network finds most alike: explanation by example.

Alike means alike to the classifier: what is compared is the classifier's input, by the angle between the two vectors.
Where the neighbours of a mistake have the wrong class and look like it, the label or the data is the reason; where they
look like nothing of the kind, the network is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from convcraft.data.image_set import ImageSet
from convcraft.data.sample import Progress
from convcraft.errors import UserError
from convcraft.finetune.features import extract_features

CHUNK_BYTES = 64 << 20  # of features in float64 at a time, and of distances
DECIMALS = 12  # what rounding leaves of equal vectors' distance is cut off, so that twins tie and are exactly 0 apart

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Neighbour:
    """A training image. distance: 1 - cosine, 0 (same direction) to 2. index: its number in the training set."""

    name: str
    label: str
    distance: float
    index: int


def nearest_images(
    model: nn.Module,
    queries: ImageSet,
    training: ImageSet,
    classes: Sequence[str],
    *,
    num_neighbours: int = 5,
    cache_dir: Path | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[tuple[Neighbour, ...]]:
    """For each query its nearest training images, nearest first. The model stays as it was.

    A query that is a training image finds itself, at distance 0.

    Args:
        model: offers `get_classifier()` (our networks and timm's do).
        classes: K names; targets of the training images count into them.
        num_neighbours: fewer come where there are fewer training images.
        cache_dir: `finetune.feature_cache.features_dir()` or another folder, where features are remembered.

    Raises:
        UserError: a network without classifier, an empty set, or features that are not finite.
    """
    known, asked = (
        extract_features(model, images, cache_dir=cache_dir, device=device, progress=progress).last[0]
        for images in (training, queries)
    )
    indices, distances = nearest(asked, known, num_neighbours)
    names = training.names
    return [
        tuple(
            Neighbour(names[index], classes[training.targets[index]], float(distance), int(index))
            for index, distance in zip(*row, strict=True)
        )
        for row in zip(indices, distances, strict=True)
    ]


def nearest(
    queries: Features, known: Features, num_neighbours: int, *, chunk_bytes: int = CHUNK_BYTES
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The rows of `known` at the smallest cosine distance from each query, by comparing it with all of them.

    Args:
        queries: [Q, D].
        known: [N, D].
        num_neighbours: k; min(k, N) are found.
        chunk_bytes: memory that may be used beside the results, roughly.

    Returns:
        indices int64 and distances float64, both [Q, min(k, N)], nearest first; of equals the first row. A vector of
        zeros has no direction and is at distance 1 of everything.

    Raises:
        UserError: shapes that do not fit, no rows, k below 1, or values that are not finite.

        >>> nearest(np.array([[2.0, 0.0]]), np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), 2)[0]
        array([[1, 2]])
    """
    _check(queries, known, num_neighbours)
    rows = max(1, chunk_bytes // (8 * (known.shape[1] + len(queries))))
    directions = _directions(queries)
    indices = np.empty((len(queries), 0), np.int64)
    distances = np.empty((len(queries), 0))
    for start in range(0, len(known), rows):
        part = _directions(known[start : start + rows])
        here = np.round(np.clip(1 - directions @ part.T, 0, 2), DECIMALS)
        distances = np.concatenate([distances, here], axis=1)
        numbers = np.arange(start, start + len(part))
        indices = np.concatenate([indices, np.broadcast_to(numbers, here.shape)], axis=1)
        order = np.argsort(distances, axis=1, kind="stable")[:, :num_neighbours]  # earlier rows stand first
        indices = np.take_along_axis(indices, order, axis=1)
        distances = np.take_along_axis(distances, order, axis=1)
    return indices, distances


def _directions(vectors: Features) -> NDArray[np.float64]:
    """Each divided by its length, in float64; zeros stay zeros."""
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)


def _check(queries: Features, known: Features, num_neighbours: int) -> None:
    if queries.ndim != 2 or known.ndim != 2 or queries.shape[1] != known.shape[1] or not len(queries) or not len(known):
        received = f"features of shapes {list(queries.shape)} and {list(known.shape)}"
        raise UserError(received, "[Q, D] and [N, D], at least one row each", "Extract both with the same network.")
    if num_neighbours < 1:
        raise UserError(f"{num_neighbours} neighbours", "at least 1", "Pass a larger num_neighbours.")
    if not (np.isfinite(queries).all() and np.isfinite(known).all()):
        raise UserError("features with NaN or infinite values", "finite features", "Check the network's weights.")
