"""What travels through the data room: one labelled image, and what a source found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALL = "all"  # the split of a source that brings no splits of its own
SEVERITIES = ("error", "warning", "info")  # of findings, worst first

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

    @property
    def file(self) -> Path | None:
        """The file that holds this image and nothing else; None for bytes and arrays. Nothing is read."""
        return self.image if isinstance(self.image, Path) else None

    @property
    def is_array(self) -> bool:
        """Whether the image is already decoded. Nothing is read."""
        return isinstance(self.image, np.ndarray)

    def with_target(self, target: int) -> Sample:
        """The same image under another class number."""
        return Sample(self.image, target, self.source)


class StoredSample(Sample):
    """A sample whose encoded image stays in its file until it is asked for, each time anew.

    For sets that are larger than memory and whose images are no files of their own (Hub data sets in Arrow files).
    """

    __slots__ = ("identity", "row", "stored")

    stored: Sequence[bytes]
    row: int
    identity: bytes

    def __init__(self, stored: Sequence[bytes], row: int, target: int, source: str, identity: bytes = b"") -> None:
        """
        Args:
            stored: gives the encoded bytes of a row.
            row: which of them this is.
            identity: changes when the stored image does; b"" where only its bytes can tell.
        """
        values = {"stored": stored, "row": row, "target": target, "source": source, "identity": identity}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def image(self) -> bytes:  # computed where other samples store it
        return self.stored[self.row]

    @property
    def file(self) -> None:
        return None

    @property
    def is_array(self) -> bool:
        return False

    def with_target(self, target: int) -> StoredSample:
        return StoredSample(self.stored, self.row, target, self.source, self.identity)

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredSample, (self.stored, self.row, self.target, self.source, self.identity)


@dataclass(frozen=True)
class Finding:
    """Something about the data that a person should know (the shape that `doctor` prints)."""

    kind: str  # unreadable, exact_duplicate, near_duplicate, leak, imbalance, odd_size, odd_channels, too_few, settings
    severity: str  # one of SEVERITIES
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


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """By severity; in the order given where that is the same."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


@dataclass(frozen=True)
class Source:
    """What a reader found: classes in natural order, and the samples of each split that the data brings.

    splits has the keys that the data has ("train", "val", "test"), or only ALL where it brings none.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Sequence[Sample]]
    findings: tuple[Finding, ...] = field(default=())
