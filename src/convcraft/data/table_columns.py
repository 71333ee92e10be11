"""Further columns of a table (camera, place, patient), joined to its images: what results are sliced by.

The tables are read a second time, and only these columns of them: a sample carries the file and the row that it came
from in its name, which is all that joining needs.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convcraft.data.named import NAMED_SETS
from convcraft.data.sample import Sample
from convcraft.data.table import find_tables, is_table, read_text_table
from convcraft.errors import UserError

Values = list[Any]  # numbers, text, truth values; None where a cell is empty


def table_columns(source: str, names: Sequence[str], samples: Sequence[Sample]) -> dict[str, Values]:
    """The values of columns in the order of the samples, one list per name.

    Text columns whose cells are all numbers come as numbers.

    Args:
        source: `DataConfig.source`, a table or a folder of tables, that the samples were read from.

    Raises:
        UserError: the source is no table, a column that some table lacks, or cells that are lists or structures.
    """
    found: dict[str, Values] = {name: [] for name in names}
    places: dict[str, int] = {}  # of "train.csv#7" in the lists
    for path in _tables(source, names):
        columns = _read(path, names)
        for row in range(len(columns[names[0]])):
            places[f"{path.name}#{row}"] = len(places)
        for name in names:
            found[name] += columns[name]
    unknown = next((sample.source for sample in samples if sample.source not in places), None)
    if unknown is not None:  # a data set that `datasets` saved beside tables, which is read instead of them
        raise _no_table(source, names)
    chosen = [places[sample.source] for sample in samples]
    return {name: _as_numbers([values[place] for place in chosen]) for name, values in found.items()}


def _tables(source: str, names: Sequence[str]) -> list[Path]:
    path = Path(source).expanduser()
    if source.casefold() not in NAMED_SETS:
        if path.is_file() and is_table(path):
            return [path]
        if path.is_dir() and (tables := find_tables(path)):
            return [table for part in tables.values() for table in part]
    raise _no_table(source, names)


def _no_table(source: str, names: Sequence[str]) -> UserError:
    return UserError(
        f"column {names[0]!r} of {source}, which is no table",
        "a CSV, TSV or Parquet table, or a folder of them, with that column",
        "Slice by what the images show (--slices) or by classes (--class-group), or write the labels as a table.",
    )


def _read(path: Path, names: Sequence[str]) -> dict[str, Values]:
    if path.suffix.casefold() == ".parquet":
        return _read_parquet(path, names)
    table = read_text_table(path)
    _check_names(path, names, [str(column) for column in table.columns])
    return {name: [cell or None for cell in table[name].tolist()] for name in names}


def _read_parquet(path: Path, names: Sequence[str]) -> dict[str, Values]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        _check_names(path, names, file.schema_arrow.names)
        table = file.read(columns=list(names))
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} cannot be read: {error}", "a Parquet file", "Fetch or write it again.") from error
    for name in names:
        kind = table[name].type
        if pyarrow.types.is_nested(kind) or pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
            raise UserError(f"column {name!r} of {path.name} has the type {kind}", "numbers or text", "Name another.")
    return {name: [_plain(cell) for cell in table[name].to_pylist()] for name in names}


def _plain(cell: Any) -> Any:
    """A cell as JSON can keep it: dates and decimals as text, NaN as nothing."""
    if cell is None or cell != cell:
        return None
    return cell if isinstance(cell, bool | int | float | str) else str(cell)


def _check_names(path: Path, names: Sequence[str], columns: Sequence[str]) -> None:
    for name in names:
        if name not in columns:
            near = difflib.get_close_matches(name.casefold(), {column.casefold(): column for column in columns}, n=1)
            meant = [column for column in columns if near and column.casefold() == near[0]]
            fix = f"Did you mean {meant[0]!r}?" if meant else "Name one of these."
            raise UserError(f"column {name!r} of {path.name}", "one of its columns: " + ", ".join(columns), fix)


def _as_numbers(values: Values) -> Values:
    """Numbers where every cell that is not empty is the text of one (7, 0.5, -1e3); else the cells as they are."""
    if not all(value is None or isinstance(value, str) for value in values):
        return values
    try:
        numbers = [None if value is None else float(value) for value in values]
    except ValueError:
        return values
    return numbers if all(number is None or math.isfinite(number) for number in numbers) else values
