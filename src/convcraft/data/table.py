"""CSV, TSV and Parquet tables of labelled images: a column of paths or of encoded bytes, and a column of labels.

Parquet as written by Hugging Face `datasets` is read as it is: an image column of {bytes, path}, and class names from
the file's metadata. A column named split, or files named train, val(idation) and test, give the splits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convcraft.config import DataConfig
from convcraft.data.natural_sort import natural_key
from convcraft.data.sample import ALL, Finding, Progress, Sample, Source
from convcraft.data.splits import canonical_split
from convcraft.errors import UserError

if TYPE_CHECKING:
    import pandas

TABLE_ENDINGS = (".parquet", ".csv", ".tsv")
# Names that are tried, in this order and in any case, where the settings name no column.
IMAGE_COLUMNS = (
    *("image", "img", "image_path", "file_name", "filename", "filepath", "file_path", "path", "file"),
    *("bytes", "image_bytes"),
)
LABEL_COLUMNS = ("label", "labels", "class", "target", "category", "class_name", "label_name", "y", "fine_label")
NAME_COLUMNS = ("class_name", "label_name")  # names of whole-number labels
SPLIT_COLUMNS = ("split", "subset", "partition")
BAD_SHARE = 0.01  # more rows without a label than this stop, unless data.allow_bad
ROWS_NAMED = 20

_SPLIT_FILE = re.compile(
    r"(?P<split>[A-Za-z]+)(-(?P<part>\d{5})-of-(?P<parts>\d{5}))?\.(parquet|csv|tsv)", re.IGNORECASE
)

Label = int | str | None


@dataclass
class _Rows:
    """The columns of one file that matter, one entry per row."""

    file: Path
    images: list[bytes | str | None]  # encoded bytes, or a path as written
    labels: list[Label]
    splits: list[str | None] | None = None
    class_names: tuple[str, ...] | None = None  # of labels 0, 1, ...: from the metadata
    label_names: list[str | None] | None = None  # the class name in words, row by row


def is_table(path: Path) -> bool:
    """Whether a file name has the ending of a table that can be read."""
    return path.suffix.casefold() in TABLE_ENDINGS


def find_tables(folder: Path) -> dict[str, list[Path]]:
    """{"train": files, ...} of tables named after splits, in a folder or its folder `data` (Hugging Face hub).

    Raises:
        UserError: a part of a split in several files (train-00000-of-00002.parquet) is missing.
    """
    found: dict[str, dict[Path, tuple[int, int]]] = {}
    for place in (folder, folder / "data"):
        if found or not place.is_dir():
            continue
        for path in sorted(place.iterdir(), key=lambda path: path.name):
            match = _SPLIT_FILE.fullmatch(path.name)
            split = canonical_split(match["split"]) if match else None
            if match and split and path.is_file():
                found.setdefault(split, {})[path] = (int(match["part"] or 0), int(match["parts"] or 1))
    for split, files in found.items():
        expected = next(iter(files.values()))[1]
        if sorted(files.values()) != [(part, expected) for part in range(expected)]:
            raise UserError(
                f"{split} in {folder}: {', '.join(path.name for path in files)}",
                f"{expected} files, each part of {split} once" if expected > 1 else f"one table for {split}",
                "Add the missing files, or remove the ones that are too many.",
            )
    return {split: list(found[split]) for split in ("train", "val", "test") if split in found}


def read_table(path: Path, config: DataConfig, progress: Progress | None = None) -> Source:
    """Read one CSV, TSV or Parquet file; a split column, if there is one, gives the splits.

    Raises:
        UserError: see `read_tables`.
    """
    return read_tables({ALL: [path]}, path.name, config, progress)


def read_tables(
    files: Mapping[str, Sequence[Path]], name: str, config: DataConfig, progress: Progress | None = None
) -> Source:
    """Read tables that together make one data set.

    Args:
        files: the tables of each split, or of ALL.
        name: of the source.
        config: image_column and label_column where they are not to be found by name; allow_bad.

    Raises:
        UserError: a column is missing (the message lists those found), no file of a path column exists, labels that
            are no whole numbers or strings, unknown names of splits, or over 1 % of the rows have no label.
    """
    everything = [(split, path) for split, paths in files.items() for path in paths]
    tables: list[tuple[str, _Rows]] = []
    for number, (split, path) in enumerate(everything):
        tables.append((split, _load(path, config)))
        if progress is not None:
            progress(number + 1, len(everything), "reading tables")
    findings = _check_labels([rows for _, rows in tables], config.allow_bad)
    classes, index_of = _class_table([rows for _, rows in tables])
    _check_paths([rows for _, rows in tables])
    splits: dict[str, list[Sample]] = {}
    for split, rows in tables:
        _add_samples(splits, split, rows, index_of)
    ordered = {split: splits[split] for split in ("train", "val", "test", ALL) if split in splits}
    return Source(name, classes, ordered, tuple(findings))


def _add_samples(splits: dict[str, list[Sample]], split: str, rows: _Rows, index_of: Mapping[int | str, int]) -> None:
    folder = rows.file.parent
    for row, (image, label) in enumerate(zip(rows.images, rows.labels, strict=True)):
        if label is None:
            continue
        part = split if rows.splits is None else _split_of_row(rows, row)
        # A row without an image stays, as no bytes at all: the scan reports it by name like any unreadable image.
        content = folder / image if isinstance(image, str) else image or b""
        splits.setdefault(part, []).append(Sample(content, index_of[label], f"{rows.file.name}#{row}"))


def _split_of_row(rows: _Rows, row: int) -> str:
    assert rows.splits is not None
    name = rows.splits[row]
    split = canonical_split(name) if name else None
    if split is None:
        found = sorted({str(each) for each in rows.splits})[:ROWS_NAMED]
        raise UserError(
            f"{rows.file.name}#{row} is of split {name!r}; names found: {', '.join(found)}",
            "train, val or test in every row",
            "Correct the split column, or rename it to have a split made.",
        )
    return split


# Labels -----------------------------------------------------------------------------------------------------------


def _check_labels(tables: Sequence[_Rows], allow_bad: bool) -> list[Finding]:
    """Report rows without a label; stop where they are many."""
    missing = [f"{rows.file.name}#{row}" for rows in tables for row, label in enumerate(rows.labels) if label is None]
    total = sum(len(rows.labels) for rows in tables)
    if not total:
        raise UserError(f"{tables[0].file} has no rows", "at least one labelled image", "Check the file.")
    if not missing:
        return []
    named = ", ".join(missing[:ROWS_NAMED]) + (" ..." if len(missing) > ROWS_NAMED else "")
    if len(missing) == total or (len(missing) > BAD_SHARE * total and not allow_bad):
        raise UserError(
            f"{len(missing)} of {total} rows have no label: {named}",
            f"a label in every row (up to {BAD_SHARE:.0%} are left out and reported)",
            "Fill in the label column, remove the rows, or pass --allow-bad to leave them out.",
        )
    message = f"{len(missing)} rows have no label and were left out."
    return [Finding("unreadable", "warning", tuple(missing[:ROWS_NAMED]), message, "Fill in the label column.")]


def _class_table(tables: Sequence[_Rows]) -> tuple[tuple[str, ...], dict[int | str, int]]:
    """(class names, label -> class index): names of the metadata in their order, whole numbers in numeric order, names
    in natural order."""
    given = next((rows.class_names for rows in tables if rows.class_names), None)
    if any(rows.class_names not in (None, given) for rows in tables):
        raise UserError("the tables' metadata name different classes", "the same classes", "Take tables of one set.")
    labels = {label for rows in tables for label in rows.labels if label is not None}
    numbers = [label for label in labels if isinstance(label, int)]
    if len(numbers) < len(labels):
        if numbers:  # a file of whole numbers beside a file of names: take all as written
            for rows in tables:
                rows.labels = [None if label is None else str(label) for label in rows.labels]
        names = sorted({str(label) for label in labels}, key=natural_key)
        classes: tuple[str, ...] = tuple(names)
        index_of: dict[int | str, int] = {name: index for index, name in enumerate(names)}
    elif given is not None:
        outside = sorted(number for number in numbers if not 0 <= number < len(given))
        if outside:
            expected = f"labels from 0 to {len(given) - 1}, as the metadata name {len(given)} classes"
            raise UserError(f"labels {outside[:ROWS_NAMED]}", expected, "Correct the labels or the metadata.")
        classes, index_of = given, {number: number for number in range(len(given))}
    else:
        ordered = sorted(numbers)
        classes = _names_of_numbers(tables, ordered)
        index_of = {number: index for index, number in enumerate(ordered)}
    if len(classes) < 2:
        raise UserError(f"one class: {', '.join(classes)}", "at least two classes", "Check the label column.")
    return classes, index_of


def _names_of_numbers(tables: Sequence[_Rows], numbers: Sequence[int]) -> tuple[str, ...]:
    """Class names from a column of names beside the numbers, where both agree one to one; else the numbers."""
    pairs = {
        (label, name)
        for rows in tables
        if rows.label_names is not None
        for label, name in zip(rows.labels, rows.label_names, strict=True)
        if label is not None
    }
    names = {number: name for number, name in pairs if name}
    if len(pairs) == len(numbers) == len(set(names.values())):
        return tuple(str(names[number]) for number in numbers)
    return tuple(str(number) for number in numbers)


def _as_labels(values: Iterable[Any], file: Path, column: str, class_names: Sequence[str] | None) -> list[Label]:
    """Whole numbers as int, everything else as str, nothing as None."""
    labels: list[Label] = []
    for row, value in enumerate(values):
        if value is None or value != value or value == "":  # NaN differs from itself
            labels.append(None)
        elif isinstance(value, (bool, str)):
            labels.append(str(value))
        elif isinstance(value, (int, float)) and int(value) == value:
            unlabelled = class_names is not None and value == -1  # what `datasets` writes for "not known"
            labels.append(None if unlabelled else int(value))
        else:
            raise UserError(
                f"{file.name}#{row} has the label {value!r}",
                "one whole number or one name per image",
                f"Correct column {column!r}, or name another with data.label_column (--label-column).",
            )
    return labels


# Images -----------------------------------------------------------------------------------------------------------


def _check_paths(tables: Sequence[_Rows]) -> None:
    """Stop where no path leads to a file; a few missing ones are found, and named, by the scan."""
    for rows in tables:
        paths = [image for image in rows.images if isinstance(image, str)]
        if not paths:
            continue
        address = next((path for path in paths if "://" in path), None)
        if address is not None:
            raise UserError(f"{rows.file.name} names {address}", "paths of local files", "Fetch the images first.")
        if not any((rows.file.parent / path).is_file() for path in paths):
            raise UserError(
                f"none of the {len(paths)} files that {rows.file} names exists, such as {rows.file.parent / paths[0]}",
                "paths relative to the folder of the table, or absolute ones",
                "Move the table, correct the paths, or name another column with data.image_column (--image-column).",
            )


# Files ------------------------------------------------------------------------------------------------------------


def _load(path: Path, config: DataConfig) -> _Rows:
    try:
        return _load_parquet(path, config) if path.suffix.casefold() == ".parquet" else _load_text(path, config)
    except ModuleNotFoundError as error:
        fix = "Install the training extra: pip install 'convcraft[train]'."
        raise UserError(f"{error.name} is not installed", "pandas and pyarrow, to read tables", fix) from error


def read_text_table(path: Path) -> pandas.DataFrame:
    """A CSV or TSV file with every cell as text, "" where it is empty.

    Raises:
        UserError: it cannot be read.
    """
    import pandas

    # As text, with nothing taken for "missing": NA, None and nan are good names of classes.
    options: dict[str, Any] = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig"}
    separator = "\t" if path.suffix.casefold() == ".tsv" else ","
    try:
        table = pandas.read_csv(path, sep=separator, **options)
        if len(table.columns) == 1 and ";" in str(table.columns[0]):
            table = pandas.read_csv(path, sep=";", **options)
    except (OSError, ValueError, pandas.errors.ParserError) as error:
        raise UserError(f"{path} cannot be read: {error}", "a CSV file in UTF-8 with a header", "Check it.") from error
    return table


def _load_text(path: Path, config: DataConfig) -> _Rows:
    table = read_text_table(path)
    columns = [str(column) for column in table.columns]
    image, label = _image_and_label_column(path, columns, config)
    written = table[label].tolist()
    whole = all(value == "" or _is_whole_number(value) for value in written)
    labels = [int(value) if whole and value else value for value in written]
    rows = _Rows(path, [value or None for value in table[image].tolist()], _as_labels(labels, path, label, None))
    split, names = _find(columns, SPLIT_COLUMNS), _find(columns, NAME_COLUMNS)
    rows.splits = table[split].tolist() if split else None
    rows.label_names = table[names].tolist() if names and names != label else None
    return rows


def _is_whole_number(text: str) -> bool:
    """Whether a label is a number written the plain way: 7 and -1 are, 007 and 1e3 are names."""
    return re.fullmatch(r"0|-?[1-9][0-9]{0,17}", text) is not None


def _load_parquet(path: Path, config: DataConfig) -> _Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        schema = file.schema_arrow
        image, label = _image_and_label_column(path, schema.names, config)
        split, names = _find(schema.names, SPLIT_COLUMNS), _find(schema.names, NAME_COLUMNS)
        wanted = list(dict.fromkeys(column for column in (image, label, split, names) if column))
        table = file.read(columns=wanted)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} cannot be read: {error}", "a Parquet file", "Fetch or write it again.") from error
    class_names = _hugging_face_names(schema.metadata, label)
    labels = _as_labels(table[label].to_pylist(), path, label, class_names)
    rows = _Rows(path, _parquet_images(path, image, table[image]), labels, class_names=class_names)
    rows.splits = [None if name is None else str(name) for name in table[split].to_pylist()] if split else None
    rows.label_names = table[names].to_pylist() if names and names != label else None
    return rows


def _parquet_images(path: Path, name: str, column: Any) -> list[bytes | str | None]:
    import pyarrow
    import pyarrow.compute

    kind = column.type
    if pyarrow.types.is_struct(kind):
        fields = {kind.field(index).name for index in range(kind.num_fields)}
        parts = {field: pyarrow.compute.struct_field(column, field) for field in ("bytes", "path") if field in fields}
        if parts and all(_is_bytes_or_text(part.type) for part in parts.values()):
            lists = [part.to_pylist() for part in parts.values()]
            return [next((value for value in values if value), None) for values in zip(*lists, strict=True)]
    elif _is_bytes_or_text(kind):
        return column.to_pylist()
    raise UserError(
        f"column {name!r} of {path.name} has the type {kind}",
        "paths, encoded images as bytes, or {bytes, path}",
        "Name another column with data.image_column (--image-column).",
    )


def _is_bytes_or_text(kind: Any) -> bool:
    import pyarrow

    tests = ("is_binary", "is_large_binary", "is_string", "is_large_string", "is_null")
    return any(getattr(pyarrow.types, test)(kind) for test in tests)


def _hugging_face_names(metadata: Mapping[bytes, bytes] | None, label: str) -> tuple[str, ...] | None:
    """The class names that `datasets` writes into a Parquet file's schema; None where there are none."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _image_and_label_column(path: Path, columns: Sequence[str], config: DataConfig) -> tuple[str, str]:
    image = _column(path, columns, config.image_column, IMAGE_COLUMNS, "image")
    rest = [column for column in columns if column != image]
    return image, _column(path, rest, config.label_column, LABEL_COLUMNS, "label")


def _column(path: Path, columns: Sequence[str], asked: str | None, usual: Sequence[str], role: str) -> str:
    found = (asked if asked in columns else None) if asked is not None else _find(columns, usual)
    if found is None:
        expected = f"a column {asked!r}" if asked is not None else f"a column of {role}s, named {', '.join(usual)}"
        raise UserError(
            f"{path} has the columns {', '.join(columns)}",
            expected,
            f"Name the column with data.{role}_column (--{role}-column).",
        )
    return found


def _find(columns: Sequence[str], usual: Iterable[str]) -> str | None:
    by_name = {column.casefold(): column for column in reversed(columns)}
    return next((by_name[name] for name in usual if name in by_name), None)
