"""An exported network beside its source, on the same images: how far logits part, how often answers agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.deploy.probe_check import logit_range


@dataclass(frozen=True)
class ClassParity:
    """Of the images of one class: how many, and what share source and export get right."""

    name: str
    support: int
    source: float
    exported: float


@dataclass(frozen=True)
class Parity:
    """
    images: which they were ("500 validation images of photos"). labels of them were known where accuracies are given.
    max_difference: of any logit; relative_difference: as a share of the range of all logits of the source.
    agreement: share of images with the same first class.
    """

    images: str
    num_images: int
    max_difference: float
    relative_difference: float
    agreement: float
    source_accuracy: float | None = None
    exported_accuracy: float | None = None
    per_class: tuple[ClassParity, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare_logits(
    source: NDArray[np.float32],
    exported: NDArray[np.float32],
    images: str,
    targets: NDArray[np.int64] | None = None,
    classes: Sequence[str] = (),
) -> Parity:
    """
    Args:
        source, exported: logits [N, K] of the same images. images: what they are called.
        targets: int64 [N], where they are labelled. classes: K names.
    """
    largest = float(np.abs(exported.astype(np.float64) - source).max())
    before, after = source.argmax(axis=1), exported.argmax(axis=1)
    measured: dict[str, Any] = {}
    if targets is not None:
        measured = {
            "source_accuracy": float((before == targets).mean()),
            "exported_accuracy": float((after == targets).mean()),
            "per_class": tuple(
                ClassParity(
                    name,
                    int(of_class.sum()),
                    float((before[of_class] == label).mean()),
                    float((after[of_class] == label).mean()),
                )
                for label, name in enumerate(classes)
                if (of_class := targets == label).any()
            ),
        }
    return Parity(
        images=images,
        num_images=len(source),
        max_difference=largest,
        relative_difference=largest / logit_range(source),
        agreement=float((before == after).mean()),
        **measured,
    )
