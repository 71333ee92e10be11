"""Answers of `predict` as a file: CSV, JSON or Parquet by its ending, one row per picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from importlib.util import find_spec
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
    if path.is_dir():
        raise UserError(f"--out {path}, which is a folder", "a file to write", "Name a file inside of it.")
    if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        fix = "Install it with: pip install pyarrow. Or write .csv or .json."
        raise UserError(f"--out {path}, and the package pyarrow is not installed", "what writes Parquet", fix)


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
    """One value per column; a set becomes a JSON list, for class names may hold any character."""
    possible = row.get("set")
    listed = None if possible is None else json.dumps(possible, ensure_ascii=False)
    return {column: row.get(column) for column in COLUMNS} | {"set": listed}


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, COLUMNS)
    writer.writeheader()
    writer.writerows(_cells(row) | {"image": _harmless(row["image"])} for row in rows)
    return stream.getvalue()


def _harmless(name: str) -> str:
    """A file name that a spreadsheet would take for a formula gets an apostrophe; a class keeps its name."""
    return f"'{name}" if name.startswith(FORMULA_STARTS) else name


def _parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist([_cells(row) for row in rows])
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table, stream)
    return stream.getvalue()
