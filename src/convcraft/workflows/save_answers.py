"""Answers of `predict` as a file: CSV, JSON or Parquet by its ending, one row per picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convcraft.data.durable_files import replace_durably
from convcraft.errors import UserError
from convcraft.evaluation.answers import ImagePrediction

ENDINGS = (".csv", ".json", ".parquet")
COLUMNS = ("image", "label", "probability", "set", "reject", "reason", "explanation", "problem")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def refuse_other_endings(path: Path) -> None:
    """Raises UserError where `save_answers` would not know what to write; before the work."""
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"--out {path}", "a name ending in " + ", ".join(ENDINGS), "For example: --out answers.csv")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}", "a folder that exists", f"Make it first: mkdir -p {path.parent}")


def save_answers(path: Path, answers: Sequence[ImagePrediction], top: int) -> None:
    """Replace the file at once. Tables have `COLUMNS`, JSON the probabilities of the `top` classes as well."""
    refuse_other_endings(path)
    rows = [answer.to_dict(top) for answer in answers]
    kind = path.suffix.lower()
    if kind == ".json":
        replace_durably(path, (json.dumps(rows, indent=1, ensure_ascii=False) + "\n").encode())
    elif kind == ".csv":
        replace_durably(path, _csv(rows).encode())
    else:
        replace_durably(path, _parquet(rows))


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    """One value per column; a set becomes its names, joined."""
    possible = row.get("set")
    joined = None if possible is None else "|".join(possible)
    return {column: row.get(column) for column in COLUMNS} | {"set": joined}


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, COLUMNS)
    writer.writeheader()
    writer.writerows({column: _harmless(value) for column, value in _cells(row).items()} for row in rows)
    return stream.getvalue()


def _harmless(value: Any) -> Any:
    """A file name that a spreadsheet would take for a formula gets an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def _parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist([_cells(row) for row in rows])
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table, stream)
    return stream.getvalue()
