"""Labels and parts: labels outside the head, classes without images, and images that judge what they have trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convcraft.data.image_set import ImageSet
from convcraft.data.sample import Finding
from convcraft.data.spread import spread
from convcraft.doctor.preflight_finding import error, some, warning
from convcraft.doctor.preflight_loss import INDICES, MANY_LABELS, LossKind

SAMPLED_BYTES = 64  # of each image, to find those that may be equal; these are compared whole
SAME_SET = 0.5  # share of one part that stands in another, from which on they are one set
FILES_NAMED = 5


def label_findings(
    kind: LossKind, targets: Tensor, num_classes: int | None, *, trains: bool = True
) -> Iterator[Finding]:
    """Labels of the wrong type, outside the classes, or all the same.

    Args:
        targets: of a batch or of a whole set.
        num_classes: None where only the labels tell.
        trains: they are of train images; else of validation images, which may well be of one class.
    """
    if kind.labels != INDICES or targets.ndim != 1:
        return
    if targets.is_floating_point() or targets.dtype == torch.bool:
        message = f"labels are {str(targets.dtype).removeprefix('torch.')}; {kind.name} takes class indices (int64)."
        yield error(message, "Use targets.long().")
        return
    kept = targets if kind.ignored is None else targets[targets != kind.ignored]
    if len(kept) == 0:
        yield error("there are no labels.", "Check what loads them.")
        return
    least, most = int(kept.min()), int(kept.max())
    if least < 0:
        yield error(f"labels go down to {least}; classes count from 0.", "Number the classes from 0 on.")
    elif num_classes is not None and most >= num_classes:
        from_one = least == 1 and most == num_classes
        fix = "They seem to count from 1: subtract 1." if from_one else f"Make {most + 1} classes, or check the labels."
        yield error(f"labels go up to {most}, outside the {num_classes} classes (0 to {num_classes - 1}).", fix)
    elif least == most and len(kept) >= MANY_LABELS and not trains:
        message = f"all {len(kept)} validation labels are {most}: its figure says nothing of the other classes."
        yield warning(message, "Set images of every class aside for validation.")
    elif least == most and len(kept) >= MANY_LABELS:
        fix = "Shuffle the images, or check what gives the labels."
        yield error(f"all {len(kept)} labels are {most}: there is nothing to tell apart.", fix)


def class_findings(targets: NDArray[np.int64], classes: Sequence[str]) -> Iterator[Finding]:
    """Classes of which no train image shows anything."""
    counts = np.bincount(targets[targets < len(classes)], minlength=len(classes))
    absent = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if absent and len(absent) < len(classes):
        message = f"{len(absent)} of {len(classes)} classes have no train image: {some(absent)}."
        yield warning(message, "Add images, or remove the class: the network can never answer it rightly.")


def overlap_findings(name: str, part: ImageSet, other_name: str, other: ImageSet) -> Iterator[Finding]:
    """Images of one part that stand in another, pixel for pixel, or in the same file.

    Args:
        name: of the part that judges: "validation", "test".
    """
    if part.pixels is not None and other.pixels is not None:
        shared = rows_shared(part.pixels, other.pixels)
    else:
        shared = _files_shared(part, other)
    files = tuple(part.samples[index].source for index in np.flatnonzero(shared)[:FILES_NAMED])
    yield from shared_findings(name, other_name, int(shared.sum()), len(part), files)


def shared_findings(
    name: str, other_name: str, shared: int, count: int, files: tuple[str, ...] = ()
) -> Iterator[Finding]:
    """The verdict on images that two parts share."""
    if not shared:
        return
    harm = "its figure cannot show overfitting" if other_name == "train" else "what is chosen by one is judged by it"
    fix = f"Set images aside for {name} that nothing else uses."
    if shared >= SAME_SET * count:
        message = f"{name} is {other_name}: {shared:,} of its {count:,} images are the same, pixel for pixel: {harm}."
        yield error(message, fix, files)
    else:
        message = f"{shared:,} of {count:,} {name} images are {other_name} images too, pixel for pixel: {harm}."
        yield Finding("leak", "warning", files, message, fix)


def rows_shared(part: NDArray[np.generic], other: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Which rows of one array stand in another, byte for byte: bool [N].

    A few bytes of every row find the candidates, so that large sets cost little; candidates are compared whole.
    """
    if part.shape[1:] != other.shape[1:] or part.dtype != other.dtype:
        return np.zeros(len(part), bool)
    mine, theirs = _keys(part), _keys(other)
    candidates = np.flatnonzero(np.isin(mine, theirs))
    whole = {other[index].tobytes() for index in np.flatnonzero(np.isin(theirs, mine[candidates]))}
    shared = np.zeros(len(part), bool)
    shared[candidates] = [part[index].tobytes() in whole for index in candidates]
    return shared


def _keys(rows: NDArray[np.generic]) -> NDArray[np.void]:
    """Some bytes of each row, spread evenly, as one value."""
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
    places = spread(flat.shape[1], SAMPLED_BYTES)
    chosen = np.ascontiguousarray(flat[:, places])
    return chosen.view(np.dtype((np.void, chosen.shape[1]))).reshape(-1)


def _files_shared(part: ImageSet, other: ImageSet) -> NDArray[np.bool_]:
    """By path alone where images stream: nothing is decoded, and no link followed, which takes long for many files.

    Copies under other names are the data check's work.
    """
    files = {str(sample.file) for sample in other.samples if sample.file is not None}
    own = (sample.file for sample in part.samples)
    return np.array([file is not None and str(file) in files for file in own], bool)
