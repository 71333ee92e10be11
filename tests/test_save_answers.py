"""Answers as files: what they say is what was answered, and what cannot be written is refused before the work."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from convcraft.data.durable_files import replace_durably
from convcraft.errors import UserError
from convcraft.evaluation.answers import ImagePrediction
from convcraft.workflows.save_answers import refuse_other_endings, save_answers

ANSWERS = [
    ImagePrediction("=now.png", (("-1", 0.9), ("a|b", 0.1)), calibrated=True, possible=("-1", "a|b"), reason=None),
    ImagePrediction("-2.png", (("+1", 0.8), ("-1", 0.2)), calibrated=True, possible=("+1",), reason=None),
    ImagePrediction("plain.png", (), "no picture"),
]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_classes_keep_their_names_in_a_table(tmp_path: Path) -> None:
    save_answers(tmp_path / "a.csv", ANSWERS, 2)
    rows = rows_of(tmp_path / "a.csv")
    assert [row["label"] for row in rows] == ["-1", "+1", ""]
    assert json.loads(rows[0]["set"]) == ["-1", "a|b"]
    assert json.loads(rows[1]["set"]) == ["+1"]
    assert rows[2]["set"] == ""


def test_a_file_name_is_no_formula(tmp_path: Path) -> None:
    save_answers(tmp_path / "a.csv", ANSWERS, 2)
    assert [row["image"] for row in rows_of(tmp_path / "a.csv")] == ["'=now.png", "'-2.png", "plain.png"]


def test_parquet_says_the_same(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    save_answers(tmp_path / "a.parquet", ANSWERS, 2)
    rows = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["image"] for row in rows] == ["=now.png", "-2.png", "plain.png"]
    assert json.loads(rows[0]["set"]) == ["-1", "a|b"]


def test_parquet_without_its_package_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refuse_other_endings(Path("a.csv"))
    with pytest.raises(UserError, match="pip install pyarrow"):
        refuse_other_endings(Path("a.parquet"))


def test_a_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(UserError, match="folder"):
        refuse_other_endings(tmp_path / "a.csv")


def test_no_draft_stays_where_a_file_cannot_be_put(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_durably(tmp_path / "a.json", b"{}")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    replace_durably(tmp_path / "b.json", b"{}")
    assert (tmp_path / "b.json").read_bytes() == b"{}"
