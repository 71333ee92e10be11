"""From what a person typed as DATA to a `Source`: a path is looked at, a name is looked up."""

from __future__ import annotations

import difflib
from pathlib import Path

from convcraft.config import DataConfig
from convcraft.data.folder import read_folder
from convcraft.data.idx import find_idx_files, read_idx_folder
from convcraft.data.named import NAMED_SETS, open_named
from convcraft.data.sample import Progress, Source
from convcraft.data.table import TABLE_ENDINGS, find_tables, is_table, read_table, read_tables
from convcraft.errors import UserError


def open_source(config: DataConfig, *, progress: Progress | None = None) -> Source:
    """The labelled images that `config.source` means, not yet decoded.

    The name of a named set comes before a folder of the same name in the working folder: write ./mnist for that.
    A folder is read as tables named train, val, test where it holds such, else as IDX files, else as class folders.

    Raises:
        UserError: neither a path nor a known name, or what is there cannot be read.
    """
    named = NAMED_SETS.get(config.source.casefold())
    if named is not None:
        return open_named(named, config, progress)
    path = Path(config.source).expanduser()
    if path.is_dir():
        return _open_folder(path, config, progress)
    if path.is_file():
        if is_table(path):
            return read_table(path, config, progress)
        raise UserError(
            f"{path} is a file",
            f"a folder, or a table ending in {', '.join(TABLE_ENDINGS)}",
            "Give the folder that the images of all classes lie in, or a table of them.",
        )
    raise _unknown(config.source)


def _open_folder(path: Path, config: DataConfig, progress: Progress | None) -> Source:
    if tables := find_tables(path):
        return read_tables(tables, path.resolve().name, config, progress)
    if find_idx_files(path):
        return read_idx_folder(path)
    return read_folder(path, progress)


def _unknown(text: str) -> UserError:
    names = ", ".join(NAMED_SETS)
    near = difflib.get_close_matches(text.casefold(), NAMED_SETS, n=1)
    if not near:
        parent = Path(text).expanduser().parent
        siblings = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
        near = [str(Path(text).parent / name) for name in difflib.get_close_matches(Path(text).name, siblings, n=1)]
    fix = f"Did you mean {near[0]}?" if near else "Check the path."
    return UserError(f"no file, folder or data set {text!r}", f"a path, or one of {names}", fix)
