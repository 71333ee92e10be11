"""What a named data set is: its classes, its files with their checksums, and its reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from convcraft.config import DataConfig
from convcraft.data.download import Checksum
from convcraft.data.sample import Progress, Source


@dataclass(frozen=True)
class RemoteFile:
    """A file of a named set: where it is to be had, and what its content must hash to."""

    name: str
    urls: tuple[str, ...]
    checksum: Checksum
    max_bytes: int


@dataclass(frozen=True)
class NamedSet:
    """A data set that can be asked for by name.

    read: the set from a folder, or None where its files are not in it; a UserError where they are not what they say.
    """

    name: str
    title: str  # what it is, whose it is: shown where the sets are listed
    classes: tuple[str, ...]
    files: tuple[RemoteFile, ...]
    read: Callable[[Path, DataConfig, Progress | None], Source | None]
