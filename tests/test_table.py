"""CSV and Parquet tables: columns found or named, labels in the right order, clear words where something is missing."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from convcraft.config import DataConfig
from convcraft.data.sample import ALL
from convcraft.data.table import find_tables, read_table, read_tables
from convcraft.errors import UserError

CONFIG = DataConfig()


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (4, 4), value).save(stream, "PNG")
    return stream.getvalue()


def write_csv(folder: Path, text: str, name: str = "table.csv") -> Path:
    for number in range(4):
        (folder / f"{number}.png").write_bytes(png(number))
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def write_parquet(path: Path, columns: dict[str, object], names: list[str] | None = None) -> Path:
    table = pyarrow.table(columns)
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, path)
    return path


def test_csv_of_names(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "file_name,Label\n0.png,class 10\n1.png,class 9\n2.png,NA\n")
    source = read_table(path, CONFIG)
    assert source.classes == ("class 9", "class 10", "NA")  # "NA" is a name, not a gap
    assert [s.target for s in source.splits[ALL]] == [1, 0, 2]
    assert [s.source for s in source.splits[ALL]] == ["table.csv#0", "table.csv#1", "table.csv#2"]
    assert source.splits[ALL][0].image == tmp_path / "0.png"


def test_numbers_keep_numeric_order(tmp_path: Path) -> None:
    path = write_csv(tmp_path, f"path;label\n{tmp_path / '0.png'};10\n1.png;-1\n2.png;9\n")  # semicolons, absolute path
    source = read_table(path, CONFIG)
    assert source.classes == ("-1", "9", "10")
    assert Path(str(source.splits[ALL][0].image)) == tmp_path / "0.png"
    padded = read_table(write_csv(tmp_path, "path,label\n0.png,007\n1.png,10\n"), CONFIG)
    assert padded.classes == ("007", "10")


def test_split_column_and_names_beside_numbers(tmp_path: Path) -> None:
    text = "image\tlabel\tclass_name\tsplit\n0.png\t1\tdog\tTrain\n1.png\t0\tcat\ttrain\n2.png\t1\tdog\tvalidation\n"
    source = read_table(write_csv(tmp_path, text, "t.tsv"), CONFIG)
    assert source.classes == ("cat", "dog")
    assert {name: [s.target for s in part] for name, part in source.splits.items()} == {"train": [1, 0], "val": [1]}
    with pytest.raises(UserError, match="names found: Train, holdout, train"):
        read_table(write_csv(tmp_path, text.replace("validation", "holdout"), "t.tsv"), CONFIG)


def test_missing_columns_are_listed(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "picture,kind\n0.png,a\n1.png,b\n")
    with pytest.raises(UserError) as caught:
        read_table(path, CONFIG)
    assert "picture, kind" in caught.value.received
    assert "--image-column" in caught.value.fix
    with pytest.raises(UserError, match="label-column"):
        read_table(path, DataConfig(image_column="picture"))
    source = read_table(path, DataConfig(image_column="picture", label_column="kind"))
    assert source.classes == ("a", "b")


def test_rows_without_a_label(tmp_path: Path) -> None:
    rows = "".join(f"{number % 4}.png,{number % 2}\n" for number in range(200))
    source = read_table(write_csv(tmp_path, "path,label\n0.png,\n" + rows), CONFIG)
    assert len(source.splits[ALL]) == 200
    assert source.findings[0].files == ("table.csv#0",)
    many = write_csv(tmp_path, "path,label\n0.png,\n1.png,\n" + rows[:200])
    with pytest.raises(UserError, match=r"2 of \d+ rows have no label: table.csv#0, table.csv#1"):
        read_table(many, CONFIG)
    assert read_table(many, DataConfig(allow_bad=True)).findings[0].files == ("table.csv#0", "table.csv#1")


def test_missing_files(tmp_path: Path) -> None:
    some = read_table(write_csv(tmp_path, "path,label\n0.png,a\ngone.png,b\n"), CONFIG)
    assert len(some.splits[ALL]) == 2  # the scan names the missing one
    with pytest.raises(UserError, match="none of the 2 files"):
        read_table(write_csv(tmp_path, "path,label\ngone.png,a\nlost.png,b\n"), CONFIG)
    with pytest.raises(UserError, match="local files"):
        read_table(write_csv(tmp_path, "path,label\nhttp://example.org/a.png,a\n1.png,b\n"), CONFIG)


@pytest.mark.parametrize("content", [b"", b"path,label\n", b"\xff\xfe\x00bad", b'path,label\n"0.png,a\n'])
def test_unreadable_csv(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(UserError):
        read_table(path, CONFIG)


def test_hugging_face_parquet(tmp_path: Path) -> None:
    images = [{"bytes": png(n), "path": None} for n in range(3)]
    path = write_parquet(tmp_path / "x.parquet", {"image": images, "label": [2, 0, 2]}, ["zebra", "ant", "bee"])
    source = read_table(path, CONFIG)
    assert source.classes == ("zebra", "ant", "bee")  # the order of the metadata, a class without images included
    assert [s.target for s in source.splits[ALL]] == [2, 0, 2]
    assert source.splits[ALL][1].image == png(1)
    path = write_parquet(tmp_path / "x.parquet", {"image": images, "label": [2, 0, 3]}, ["zebra", "ant", "bee"])
    with pytest.raises(UserError, match=r"labels \[3\]"):
        read_table(path, CONFIG)


def test_parquet_of_bytes_paths_and_gaps(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    images = [{"bytes": None, "path": "a.png"}, {"bytes": b"", "path": None}]
    source = read_table(write_parquet(tmp_path / "x.parquet", {"img": images, "label": [0.0, 1.0]}), CONFIG)
    assert source.classes == ("0", "1")
    assert source.splits[ALL][0].image == tmp_path / "a.png"
    assert source.splits[ALL][1].image == b""  # the scan reports it
    source = read_table(write_parquet(tmp_path / "y.parquet", {"image": [png(0), png(1)], "y": ["b", "a"]}), CONFIG)
    assert [s.target for s in source.splits[ALL]] == [1, 0]


@pytest.mark.parametrize("labels", [[0.5, 1.0], [[1], [2]], [0, 0]], ids=["fraction", "lists", "one class"])
def test_labels_that_are_none(tmp_path: Path, labels: list[object]) -> None:
    path = write_parquet(tmp_path / "x.parquet", {"image": [png(0), png(1)], "label": labels})
    with pytest.raises(UserError):
        read_table(path, CONFIG)


def test_image_column_of_a_wrong_type_and_no_parquet(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="type int64"):
        read_table(write_parquet(tmp_path / "x.parquet", {"image": [1, 2], "label": [0, 1]}), CONFIG)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(UserError, match="cannot be read"):
        read_table(tmp_path / "x.parquet", CONFIG)


def test_parts_of_splits(tmp_path: Path) -> None:
    for part in range(2):
        columns = {"image": [png(part), png(9)], "label": [part, 1 - part]}
        write_parquet(tmp_path / f"train-{part:05}-of-00002.parquet", columns)
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", {"image": [png(3)], "label": [1]})
    tables = find_tables(tmp_path)
    assert list(tables) == ["train", "val"]
    source = read_tables(tables, "set", CONFIG)
    assert [s.source for s in source.splits["train"]] == [
        f"train-{part:05}-of-00002.parquet#{row}" for part in range(2) for row in range(2)
    ]
    (tmp_path / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(UserError, match="missing"):
        find_tables(tmp_path)


def test_a_large_csv_keeps_row_numbers(tmp_path: Path) -> None:
    write_csv(tmp_path, "")
    frame = pandas.DataFrame({"path": [f"{n % 4}.png" for n in range(5000)], "label": [n % 7 for n in range(5000)]})
    frame.to_csv(tmp_path / "big.csv", index=False)
    samples = read_table(tmp_path / "big.csv", CONFIG).splits[ALL]
    assert samples[4321].source == "big.csv#4321"
    assert samples[4321].target == 4321 % 7
