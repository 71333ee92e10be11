"""Which files of this machine a data set may name: its own.

A data set that somebody else made can hold any path instead of an image. Only files inside the folders that belong to
the set are opened; links are followed before the check, so none leads out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from convcraft.errors import UserError


class TrustedFiles:
    """The files inside some folders.

    Args:
        folders: the first is where relative paths begin; those that do not exist hold nothing.
        own: whether the first folder is the data set's; else relative paths lead nowhere.
    """

    def __init__(self, folders: Sequence[Path], *, own: bool) -> None:
        self._base = Path(os.path.realpath(folders[0])) if own else None
        self._roots = [Path(os.path.realpath(folder)) for folder in folders]
        self._real: dict[str, str] = {}  # of folders: each is looked up once

    def file(self, named: str, shown: str) -> Path:
        """The file that a row names.

        Args:
            named: the path as written in the data set.
            shown: what the row is called in a message.

        Raises:
            UserError: it lies elsewhere.
        """
        path = self._base / named if self._base is not None else Path(named)
        real = self._resolved(path) if path.is_absolute() and "\0" not in named else None
        if real is None or not any(root in real.parents for root in self._roots):
            inside = " or ".join(str(root) for root in self._roots)
            raise UserError(
                f"{shown} names a file outside of the data set: {named}",
                f"images in the data set itself, or files inside {inside}",
                "Nothing of it was opened. Take such a set from nobody whom you do not trust; save your own with its "
                "images inside (save_to_disk and to_parquet do that), or copy the files into its folder.",
            )
        return path

    def _resolved(self, path: Path) -> Path:
        folder = os.fspath(path.parent)
        real = self._real.get(folder)
        if real is None:
            real = self._real[folder] = os.path.realpath(folder)
        inside = Path(real, path.name)
        return Path(os.path.realpath(inside)) if path.name == ".." or inside.is_symlink() else inside
