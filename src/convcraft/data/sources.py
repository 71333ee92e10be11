"""From what a person typed as DATA to a `Source`: a path is looked at, a name is looked up."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

from convcraft.config import DataConfig
from convcraft.data.folder import read_folder
from convcraft.data.hub import PREFIX, is_saved_dataset, open_hub
from convcraft.data.idx import find_idx_files, read_idx_folder
from convcraft.data.named import NAMED_SETS, open_named
from convcraft.data.sample import Progress, Source
from convcraft.data.table import TABLE_ENDINGS, find_tables, is_table, read_table, read_tables
from convcraft.errors import UserError


def open_source(config: DataConfig, *, progress: Progress | None = None) -> Source:
    """The labelled images that `config.source` means, not yet decoded.

    The name of a named set comes before a folder of the same name in the working folder: write ./mnist for that.
    hub:OWNER/NAME is a data set of the Hugging Face Hub. A folder is read as what `datasets` saved, or as tables named
    train, val, test, or as IDX files, or else as class folders: the first of these that it holds.

    Raises:
        UserError: neither a path nor a known name, or what is there cannot be read.
    """
    named = NAMED_SETS.get(config.source.casefold())
    if named is not None:
        return open_named(named, config, progress)
    if config.source.startswith(PREFIX):
        return open_hub(config.source, config, progress)
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
    if is_saved_dataset(path):
        return open_hub(f"{PREFIX}{path}", config, progress)
    if tables := find_tables(path):
        return read_tables(tables, path.resolve().name, config, progress)
    if find_idx_files(path):
        return read_idx_folder(path)
    return read_folder(path, progress)


def settled(config: DataConfig) -> DataConfig:
    """The same settings with whole paths, so that they mean the same data from any working folder.

    Names of sets, Hub addresses, and what is not there (its message shall show what was typed) stay as they are.
    """
    data_dir = None if config.data_dir is None else _whole(config.data_dir)
    return replace(config, source=whole_source(config.source), data_dir=data_dir)


def whole_source(source: str) -> str:
    """DATA with a whole path, where it is a path."""
    if source.casefold() in NAMED_SETS:
        return source
    prefix = PREFIX if source.startswith(PREFIX) else ""
    rest = source.removeprefix(prefix)
    return prefix + _whole(rest) if rest else source


def _whole(path: str) -> str:
    """An absolute path, links left as they are; text that is no existing path unchanged."""
    place = Path(path).expanduser()
    return str(place.absolute()) if place.exists() else path


def _unknown(text: str) -> UserError:
    names = "".join(f"\n  {named.name}: {named.title}" for named in NAMED_SETS.values())
    near = difflib.get_close_matches(text.casefold(), NAMED_SETS, n=1)
    if not near:
        parent = Path(text).expanduser().parent
        siblings = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
        near = [str(Path(text).parent / name) for name in difflib.get_close_matches(Path(text).name, siblings, n=1)]
    fix = f"Did you mean {near[0]}?" if near else "Check the path."
    return UserError(f"no file, folder or data set {text!r}", f"a path, hub:OWNER/NAME, or one of{names}", fix)
