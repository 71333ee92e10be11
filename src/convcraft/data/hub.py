"""Data sets of the Hugging Face Hub, or saved by its library `datasets`: hub:OWNER/NAME[:CONFIG][@REVISION].

The library fetches, keeps and checks the files (`HF_HOME`, `HF_HUB_OFFLINE` and its other variables work as always);
here columns become labelled images. Which column holds images and which labels follows from their types, Image and
ClassLabel. Encoded images stay in the library's Arrow files, which are mapped, not read: a set may be larger than
memory. No code of a data set is ever run: the library no longer does, and is not asked to. A row may name a file
instead of holding an image, but only one of the data set's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convcraft.config import DataConfig
from convcraft.data.natural_sort import natural_sorted
from convcraft.data.sample import ALL, Finding, Progress, Sample, Source, StoredSample
from convcraft.data.splits import canonical_split
from convcraft.data.table import BAD_SHARE, IMAGE_COLUMNS, LABEL_COLUMNS, ROWS_NAMED
from convcraft.data.trusted_files import TrustedFiles
from convcraft.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

PREFIX = "hub:"
PARQUET_REVISION = "refs/convert/parquet"  # where the Hub keeps what it made of sets that need code
_ADDRESS = re.compile(r"(?P<name>[\w.-]+/[\w.-]+|[\w.-]+)(:(?P<config>[^:@]+))?(@(?P<revision>[^@]+))?")


@dataclass(frozen=True)
class HubAddress:
    """What hub:OWNER/NAME[:CONFIG][@REVISION] names; or a folder on this disk."""

    name: str
    config: str | None = None
    revision: str | None = None
    folder: Path | None = None

    @classmethod
    def parse(cls, text: str) -> HubAddress:
        """
        Raises:
            UserError: neither a folder nor such an address.
        """
        rest = text[len(PREFIX) :]
        folder = Path(rest).expanduser()
        if rest and folder.is_dir():
            return cls(folder.resolve().name, folder=folder)
        match = _ADDRESS.fullmatch(rest)
        if match is None:
            fix = "Write for example hub:OWNER/NAME, hub:OWNER/NAME:CONFIG or hub:OWNER/NAME@main."
            raise UserError(text, "hub:OWNER/NAME, or hub: and an existing folder", fix)
        return cls(match["name"], match["config"], match["revision"])


def is_saved_dataset(folder: Path) -> bool:
    """Whether `datasets` saved a data set in this folder (save_to_disk): splits, or one set without."""
    one_set = ("state.json", "dataset_info.json")
    return (folder / "dataset_dict.json").is_file() or all((folder / name).is_file() for name in one_set)


def open_hub(text: str, config: DataConfig, progress: Progress | None = None) -> Source:
    """The labelled images of a Hub data set.

    Args:
        text: hub:OWNER/NAME[:CONFIG][@REVISION], or hub:FOLDER for one that lies on this disk.
        config: image_column and label_column where the types leave a choice; allow_bad.

    Raises:
        UserError: the extra is not installed, the set cannot be had, or has no images with labels.
    """
    address = HubAddress.parse(text)
    if progress is not None:
        progress(0, 0, f"loading {address.name}")
    parts = _load(address)
    return _read(address.name, parts, config, _own_files(address))


def _load(address: HubAddress) -> dict[str, Dataset]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        fix = "Install it: pip install 'convcraft[hub]'."
        raise UserError(f"{error.name} is not installed", "the extra that reads Hub data sets", fix) from error
    datasets.disable_progress_bars()
    try:
        if address.folder is not None and is_saved_dataset(address.folder):
            loaded = datasets.load_from_disk(str(address.folder))
        else:
            where = str(address.folder or address.name)
            loaded = datasets.load_dataset(where, name=address.config, revision=address.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError, *_connection_errors()) as error:
        raise _not_to_be_had(address, error) from error
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise _needs_code(address) from error
    return dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {ALL: loaded}


def _connection_errors() -> tuple[type[Exception], ...]:
    """What the library of the Hub raises beside OSError where a connection breaks."""
    from huggingface_hub import utils

    httpx = getattr(utils, "httpx", None)  # versions before it used requests, whose errors are OSErrors
    return () if httpx is None else (httpx.HTTPError,)


def _needs_code(address: HubAddress) -> UserError:
    fetched = f"{PREFIX}{address.name}@{PARQUET_REVISION}"
    if address.folder is not None:
        fix = f"Fetch the set's revision {PARQUET_REVISION} instead, which the Hub makes of most such sets."
    else:
        fix = f"Try {fetched}: the Hub makes Parquet files of most such sets."
    return UserError(f"{address.name} needs its own code to be read, which is never run", "a set of data files", fix)


def _own_files(address: HubAddress) -> TrustedFiles:
    """The set's folder, or else the caches into which the library fetches and unpacks sets."""
    import datasets
    import huggingface_hub

    fetched = [datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH]
    caches = [Path(place).absolute() for place in (*fetched, huggingface_hub.constants.HF_HUB_CACHE)]
    if address.folder is None:
        return TrustedFiles(caches, own=False)
    return TrustedFiles([address.folder, *caches], own=True)


def _not_to_be_had(address: HubAddress, error: Exception) -> UserError:
    said = str(error).strip().split("\n", 1)[0]
    received = f"{address.name} cannot be loaded: {said}"
    if address.folder is not None:
        expected = "a folder written by save_to_disk, or one with Parquet or image files as on the Hub"
        return UserError(received, expected, f"Check {address.folder}.")
    revision = f" --revision {address.revision}" if address.revision else ""
    command = f"hf download --repo-type dataset {address.name}{revision} --local-dir FOLDER"
    return UserError(
        received,
        "a data set on the Hub and a way to it, or one that was loaded before and is still in the cache of `datasets`",
        f"Check name and connection. Without one here, fetch it elsewhere ({command}), bring FOLDER over and give "
        f"{PREFIX}FOLDER as DATA.",
    )


# From columns to samples ------------------------------------------------------------------------------------------


def _read(name: str, parts: Mapping[str, Dataset], config: DataConfig, own_files: TrustedFiles) -> Source:
    by_split, findings = _by_split(name, parts)
    features = next(iter(by_split.values())).features
    image_column = _image_column(name, features, config.image_column)
    label_column = _label_column(name, features, config.label_column)
    labels = {split: list(part.select_columns([label_column])[:][label_column]) for split, part in by_split.items()}
    classes, index_of = _classes(name, features[label_column], labels)
    if len(classes) < 2:
        raise UserError(f"{name} has one class: {', '.join(classes)}", "at least two classes", "Check the labels.")
    findings += _missing_labels(labels, index_of, config.allow_bad)
    splits = {
        split: _samples(split, part, image_column, [index_of.get(label) for label in labels[split]], own_files)
        for split, part in by_split.items()
    }
    return Source(name, classes, splits, tuple(findings))


def _by_split(name: str, parts: Mapping[str, Dataset]) -> tuple[dict[str, Dataset], list[Finding]]:
    """The parts under our names, in our order; others are left out and reported."""
    if set(parts) == {ALL}:
        return dict(parts), []
    found: dict[str, Dataset] = {}
    unknown: list[str] = []
    for own_name, part in parts.items():
        split = canonical_split(str(own_name))
        if split is None:
            unknown.append(str(own_name))
        elif split in found:
            raise UserError(f"{name} has two splits that mean {split}", f"one split for {split}", "Name a config.")
        else:
            found[split] = part
    if not found:
        expected = "splits named train, validation or test"
        raise UserError(f"{name} has the splits {', '.join(unknown)}", expected, "Save it with such names.")
    findings = []
    if unknown:
        message = f"Splits that are neither train, validation nor test were left out: {', '.join(unknown)}."
        findings.append(Finding("settings", "info", (), message, "Nothing to do, unless one of them is meant."))
    return {split: found[split] for split in ("train", "val", "test") if split in found}, findings


def _image_column(name: str, features: Mapping[str, Any], asked: str | None) -> str:
    from datasets import Image

    found = [column for column, kind in features.items() if isinstance(kind, Image)]
    return _choose(name, features, found, asked, IMAGE_COLUMNS, "image", "Image")


def _label_column(name: str, features: Mapping[str, Any], asked: str | None) -> str:
    from datasets import ClassLabel, Value

    found = [column for column, kind in features.items() if isinstance(kind, ClassLabel)]
    plain = [column for column, kind in features.items() if isinstance(kind, Value)]
    if asked in plain:
        return str(asked)
    if not found:  # labels as plain names or numbers, in a column that is called so
        found = [column for column in plain if column.casefold() in LABEL_COLUMNS]
    return _choose(name, features, found, asked, LABEL_COLUMNS, "label", "ClassLabel")


def _choose(
    name: str,
    features: Mapping[str, Any],
    found: Sequence[str],
    asked: str | None,
    usual: Sequence[str],
    role: str,
    kind: str,
) -> str:
    if asked is not None and asked in found:
        return asked
    if asked is None and len(found) == 1:
        return found[0]
    by_name = {column.casefold(): column for column in found}
    usually = next((by_name[column] for column in usual if column in by_name), None)
    if asked is None and usually is not None:
        return usually
    columns = ", ".join(f"{column} ({type(feature).__name__})" for column, feature in features.items())
    expected = f"a column {asked!r} of type {kind}" if asked is not None else f"one column of type {kind}"
    fix = f"Name the column with data.{role}_column (--{role}-column)."
    raise UserError(f"{name} has the columns {columns}", expected, fix)


def _classes(name: str, feature: Any, labels: Mapping[str, Sequence[Any]]) -> tuple[tuple[str, ...], dict[Any, int]]:
    """(class names, label -> class index): a ClassLabel's own order; numbers by size, names in natural order."""
    from datasets import ClassLabel

    if isinstance(feature, ClassLabel):
        names = tuple(str(each) for each in feature.names)
        return names, {number: number for number in range(len(names))}
    values = {label for part in labels.values() for label in part if label is not None and label != ""}
    if not all(isinstance(value, (int, str)) for value in values):
        kinds = ", ".join(sorted({type(value).__name__ for value in values}))
        raise UserError(f"{name} has labels of type {kinds}", "whole numbers or names", "Name another label column.")
    if all(isinstance(value, int) for value in values):
        ordered: list[Any] = sorted(values)
    else:
        ordered = natural_sorted(str(value) for value in values)
    return tuple(str(value) for value in ordered), {value: index for index, value in enumerate(ordered)}


def _missing_labels(labels: Mapping[str, Sequence[Any]], index_of: Mapping[Any, int], allow_bad: bool) -> list[Finding]:
    """Report rows without a label (None, or -1 where the library does not know it); stop where they are many."""
    missing = [
        f"{split}#{row}" for split, part in labels.items() for row, one in enumerate(part) if one not in index_of
    ]
    total = sum(len(part) for part in labels.values())
    if not missing:
        return []
    if len(missing) == total or (len(missing) > BAD_SHARE * total and not allow_bad):
        named = ", ".join(missing[:ROWS_NAMED])
        raise UserError(
            f"{len(missing)} of {total} rows have no label: {named}",
            f"a label in every row (up to {BAD_SHARE:.0%} are left out and reported)",
            "Pass --allow-bad to leave them out.",
        )
    message = f"{len(missing)} rows have no label and were left out."
    return [Finding("unreadable", "warning", tuple(missing[:ROWS_NAMED]), message, "Nothing to do.")]


class _EncodedImages(Sequence[bytes]):
    """The encoded images of one column, read from the mapped Arrow file row by row."""

    def __init__(self, rows: Dataset, column: str) -> None:
        self.rows = rows
        self.column = column

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: Any) -> Any:
        value = self.rows[int(row)][self.column]
        return (value or {}).get("bytes") or b""


def _samples(
    split: str, part: Dataset, column: str, targets: Sequence[int | None], own_files: TrustedFiles
) -> list[Sample]:
    """One sample per labelled row: a file where the row names one, else bytes that stay where they are."""
    import pyarrow.compute
    from datasets import Image

    rows = part.select_columns([column]).cast_column(column, Image(decode=False))
    stored = rows.with_format("arrow")[:].column(column)
    no_bytes = pyarrow.compute.is_null(pyarrow.compute.struct_field(stored, "bytes")).to_pylist()
    paths = pyarrow.compute.struct_field(stored, "path").to_pylist()
    images = _EncodedImages(rows, column)
    origin = _origin(part, column)
    samples: list[Sample] = []
    for row, target in enumerate(targets):
        if target is None:
            continue
        shown = f"{split}#{row}"
        if no_bytes[row] and paths[row]:
            samples.append(Sample(own_files.file(paths[row], shown), target, shown))
        else:
            samples.append(StoredSample(images, row, target, shown, f"{origin}#{row}".encode() if origin else b""))
    return samples


def _origin(part: Dataset, column: str) -> str:
    """What changes with the column and when the Arrow files do: names, sizes, times; "" for a data set in memory."""
    files = [Path(entry["filename"]) for entry in part.cache_files]
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return f"{column!r} {part._fingerprint} {stats}" if stats else ""
