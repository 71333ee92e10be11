"""What travels through the data room: one labelled image, and what a source found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALL = "all"  # the split of a source that brings no splits of its own

# Called as progress(done, total, what) while something long runs.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image, not yet decoded.

    image: a file, the bytes of an encoded image, or uint8 pixels [H, W] or [H, W, 3].
    target: class index into the source's `classes`.
    source: the name shown to people: a path relative to the data, or "train.parquet#12" for a row.
    """

    image: Path | bytes | NDArray[np.uint8]
    target: int
    source: str


@dataclass(frozen=True)
class Finding:
    """Something about the data that a person should know (the shape that `doctor` prints)."""

    kind: str  # unreadable, exact_duplicate, near_duplicate, leak, imbalance, odd_size, odd_channels, too_few, settings
    severity: str  # info, warning, error
    files: tuple[str, ...]
    message: str
    fix: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "severity": self.severity,
            "files": list(self.files),
            "message": self.message,
            "fix": self.fix,
        }


@dataclass(frozen=True)
class Source:
    """What a reader found: classes in natural order, and the samples of each split that the data brings.

    splits has the keys that the data has ("train", "val", "test"), or only ALL where it brings none.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Sequence[Sample]]
    findings: tuple[Finding, ...] = field(default=())
