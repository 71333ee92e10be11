"""What a person types as DATA leads to the right reader, or to a message that helps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from convcraft.config import DataConfig
from convcraft.data.named import NAMED_SETS
from convcraft.data.sample import ALL
from convcraft.data.sources import open_source, settled
from convcraft.errors import UserError


def opened(path: object) -> tuple[str, list[str], int]:
    source = open_source(DataConfig(source=str(path)))
    return source.name, list(source.splits), sum(map(len, source.splits.values()))


def test_each_kind_of_source(data_dir: Path) -> None:
    assert opened("digits") == ("digits", [ALL], 1797)
    assert opened("Digits") == ("digits", [ALL], 1797)
    assert opened(data_dir / "hymenoptera") == ("hymenoptera", ["train", "val"], 397)
    assert opened(data_dir / "mnist") == ("mnist", ["train", "test"], 70_000)
    assert opened(data_dir / "cifar10") == ("cifar10", ["train", "test"], 60_000)
    assert opened(data_dir / "cifar10" / "test.parquet") == ("test.parquet", [ALL], 10_000)


def test_a_named_set_from_data_dir(data_dir: Path) -> None:
    source = open_source(DataConfig(source="mnist", data_dir=str(data_dir)))
    assert (source.name, len(source.splits["train"])) == ("mnist", 60_000)


def test_hub_layout(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    shutil.copyfile(data_dir / "cifar10" / "test.parquet", tmp_path / "data" / "test-00000-of-00001.parquet")
    assert opened(tmp_path)[1:] == (["test"], 10_000)


@pytest.mark.parametrize(
    ("text", "fix"), [("mnits", "Did you mean mnist?"), ("cifar", "cifar10"), ("qqqq", "Check the path.")]
)
def test_unknown_names(text: str, fix: str) -> None:
    with pytest.raises(UserError) as caught:
        open_source(DataConfig(source=text))
    assert repr(text) in caught.value.received
    for named in NAMED_SETS.values():
        assert f"\n  {named.name}: {named.title}" in caught.value.expected
    assert fix in caught.value.fix


def test_a_mistyped_path_gets_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=r"Did you mean .*photos\?"):
        open_source(DataConfig(source=str(tmp_path / "fotos")))


def test_files_and_folders_of_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        open_source(DataConfig(source=str(tmp_path / "note.txt")))
    with pytest.raises(UserError, match="holds no images"):
        open_source(DataConfig(source=str(tmp_path)))


def test_settled_paths_mean_the_same_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("photos", "sets", "mnist"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    config = settled(DataConfig(source="photos", data_dir="sets"))
    assert (config.source, config.data_dir) == (str(tmp_path / "photos"), str(tmp_path / "sets"))
    assert settled(config) == config
    assert settled(DataConfig(source="./mnist")).source == str(tmp_path / "mnist")
    assert settled(DataConfig(source="hub:photos")).source == f"hub:{tmp_path / 'photos'}"
    for name in ("mnist", "MNIST", "hub:you/birds", "nowhere/photos"):  # names stay names, what is not there as typed
        assert settled(DataConfig(source=name)).source == name
    assert settled(DataConfig(val_fraction=0.3)) == DataConfig(val_fraction=0.3)
