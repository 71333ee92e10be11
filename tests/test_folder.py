"""Class-folder trees: every layout is read in one way, or refused with a reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convcraft.data.folder import read_folder
from convcraft.data.sample import ALL
from convcraft.errors import UserError


def plant(root: Path, *names: str) -> Path:
    """Empty files of these names: a reader of trees does not open images."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def sources(root: Path, split: str = ALL) -> list[str]:
    return [sample.source for sample in read_folder(root).splits[split]]


def test_classes_without_splits_in_natural_order(tmp_path: Path) -> None:
    source = read_folder(plant(tmp_path, "10/a.png", "2/b.JPG", "1/deep/er/c.webp", "2/a10.png", "2/a9.png"))
    assert source.classes == ("1", "2", "10")
    assert [(s.source, s.target) for s in source.splits[ALL]] == [
        ("1/deep/er/c.webp", 0),
        ("2/a9.png", 1),
        ("2/a10.png", 1),
        ("2/b.JPG", 1),
        ("10/a.png", 2),
    ]
    assert not source.findings


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "val", "test"), ("train", "val", "test")),
        (("Training", "VALIDATION", "testing"), ("train", "val", "test")),
        (("train", "dev"), ("train", "val")),
        (("valid", "train"), ("train", "val")),
    ],
)
def test_split_folders_and_their_aliases(tmp_path: Path, folders: tuple[str, ...], splits: tuple[str, ...]) -> None:
    for folder in folders:
        plant(tmp_path, f"{folder}/cats/1.jpg", f"{folder}/dogs/1.jpg")
    source = read_folder(tmp_path)
    assert tuple(source.splits) == splits
    assert source.classes == ("cats", "dogs")
    assert [s.source for s in source.splits["train"]] == [
        f"{next(f for f in folders if f.lower().startswith('train'))}/{name}/1.jpg" for name in ("cats", "dogs")
    ]


def test_class_table_is_the_union_and_gaps_are_reported(tmp_path: Path) -> None:
    source = read_folder(plant(tmp_path, "train/a/1.png", "train/c/1.png", "test/a/1.png", "test/b/1.png"))
    assert source.classes == ("a", "b", "c")
    assert [s.target for s in source.splits["test"]] == [0, 1]
    messages = {f.severity: f.message for f in source.findings}
    assert "classes have no image in train: b" in messages["warning"]
    assert "classes have no image in test: c" in messages["info"]


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    source = read_folder(plant(tmp_path, "bus/1.png", "train/1.png", "tram/1.png"))
    assert source.classes == ("bus", "train", "tram")
    assert tuple(source.splits) == (ALL,)


def test_what_is_left_out_is_reported(tmp_path: Path) -> None:
    plant(tmp_path, "a/1.png", "b/1.png", "a/Thumbs.db", "a/.hidden.png", "__MACOSX/a/._1.png", "a/notes.txt", "x.png")
    (tmp_path / "empty").mkdir()
    source = read_folder(tmp_path)
    assert sources(tmp_path) == ["a/1.png", "b/1.png"]
    assert source.classes == ("a", "b")
    named = {name for finding in source.findings for name in finding.files}
    assert named == {"a/Thumbs.db", "a/.hidden.png", "__MACOSX", "a/notes.txt", "x.png", "empty"}
    assert any(f.kind == "too_few" and f.files == ("empty",) for f in source.findings)


def test_loose_images_in_a_split_do_not_make_it_a_class(tmp_path: Path) -> None:
    source = read_folder(plant(tmp_path, "train/a/1.png", "train/b/1.png", "train/loose.png"))
    assert source.classes == ("a", "b")
    assert [f.files for f in source.findings] == [("train/loose.png",)]


@pytest.mark.parametrize(
    ("names", "received"),
    [
        ((), "holds no images"),
        (("notes.txt",), "only .txt"),
        (("1.png", "2.png"), "holds 2 images, but no class folders"),
        (("train/1.png", "val/2.png"), "hold images, but no class folders"),
        (("train/a/1.png", "train/b/1.png", "more/a/1.png"), "split folders (train) and other folders with images"),
        (("train/a/1.png", "val/a/1.png", "validation/a/1.png"), "both mean val"),
        (("a/train/1.png", "a/val/1.png", "b/train/1.png", "b/val/1.png"), "hold split folders (train, val)"),
        (("only/1.png",), "one class folder, only"),
        (("data/train/a/1.png", "data/train/b/1.png"), "one class folder, data"),
    ],
)
def test_unclear_layouts_are_refused(tmp_path: Path, names: tuple[str, ...], received: str) -> None:
    with pytest.raises(UserError) as caught:
        read_folder(plant(tmp_path, *names))
    assert received in caught.value.received
    assert caught.value.expected
    assert caught.value.fix


def test_the_inner_folder_is_suggested(tmp_path: Path) -> None:
    plant(tmp_path, "data/train/a/1.png", "data/train/b/1.png")
    with pytest.raises(UserError) as caught:
        read_folder(tmp_path)
    assert str(tmp_path / "data") in caught.value.fix


def test_links_do_not_hang_and_each_folder_is_read_once(tmp_path: Path) -> None:
    plant(tmp_path, "a/1.png", "b/1.png", "store/2.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "nowhere.png").symlink_to(tmp_path / "gone.png")
    found = sources(tmp_path)
    assert found.count("a/1.png") == 1
    assert "a/nowhere.png" in found  # the scan reports it as unreadable
    assert len(found) < 20


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this platform")
def test_a_pipe_is_never_taken_for_an_image(tmp_path: Path) -> None:
    plant(tmp_path, "a/1.png", "b/1.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    assert sources(tmp_path) == ["a/1.png", "b/1.png"]


def test_order_does_not_depend_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, *(f"{c}/{n}.png" for c in "ab" for n in range(12)))
    expected = sources(tmp_path)
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: sorted(scandir(path), key=lambda e: e.name, reverse=True))
    assert sources(tmp_path) == expected
    assert expected[:3] == ["a/0.png", "a/1.png", "a/2.png"]
    assert expected[10] == "a/10.png"


def test_real_photos(data_dir: Path) -> None:
    source = read_folder(data_dir / "hymenoptera")
    assert source.classes == ("ants", "bees")
    assert {name: len(samples) for name, samples in source.splits.items()} == {"train": 244, "val": 153}
    assert not source.findings
    assert any(s.source == "train/ants/formica.jpeg" for s in source.splits["train"])
