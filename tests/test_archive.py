"""Bundles go to the disk and come back; what is not a plain bundle is refused (hostile ones: test_hostile_models)."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from convcraft.deploy.archive import MAX_FILES, read_files, write_folder, write_zip
from convcraft.errors import UserError

FILES = {
    "bundle.json": b"{}",
    "model.onnx": bytes(range(256)) * 100,
    "empty": b"",
    "probes/0.png": b"\x89PNG",
    "probes/1.png": b"\x89PNG1",
}


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_what_is_written_is_read_back(tmp_path: Path, write) -> None:
    write(tmp_path / "bundle.zip", FILES)
    assert read_files(tmp_path / "bundle.zip") == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["bundle.zip"]  # no draft is left


def test_a_zip_is_the_same_on_every_day_and_in_every_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zip(tmp_path / "a.zip", FILES)
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_zip(tmp_path / "b.zip", dict(reversed(FILES.items())))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_usual_zip_tools_agree(tmp_path: Path) -> None:
    write_zip(tmp_path / "ours.zip", FILES)
    with zipfile.ZipFile(tmp_path / "ours.zip") as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == FILES
    with zipfile.ZipFile(tmp_path / "theirs.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("probes")
        for name, content in FILES.items():
            archive.writestr(name, content)
    assert read_files(tmp_path / "theirs.zip") == FILES


def test_a_zip_that_was_streamed_has_its_sizes_behind_the_files(tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_args: int) -> int:
            raise io.UnsupportedOperation

        tell = seek

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    (tmp_path / "b.zip").write_bytes(pipe.getvalue())
    assert read_files(tmp_path / "b.zip") == FILES


def test_an_older_bundle_is_replaced_whole(tmp_path: Path) -> None:
    for write in (write_folder, write_zip):
        path = tmp_path / write.__name__
        write(path, FILES)
        write(path, {"bundle.json": b"new"})
        assert read_files(path) == {"bundle.json": b"new"}


def test_nothing_else_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    (tmp_path / "thesis.doc").write_bytes(b"years of work")
    (tmp_path / "empty").mkdir()
    for name in ("photos", "thesis.doc"):
        for write in (write_folder, write_zip):
            with pytest.raises(UserError, match="Nothing was written"):
                write(tmp_path / name, FILES)
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"
    assert (tmp_path / "thesis.doc").read_bytes() == b"years of work"
    write_folder(tmp_path / "empty", FILES)
    assert read_files(tmp_path / "empty") == FILES


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_neighbours_stay(tmp_path: Path, write) -> None:
    neighbours = ["b.old", "b.tmp", "b.new", ".b"]
    for name in neighbours:
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.doc").write_bytes(b"years of work")
    for content in (b"{}", b"new"):
        write(tmp_path / "b", {"bundle.json": content})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["b", *neighbours])
    assert all((tmp_path / name / "thesis.doc").read_bytes() == b"years of work" for name in neighbours)
    assert read_files(tmp_path / "b") == {"bundle.json": b"new"}


def test_an_older_bundle_stays_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "b", FILES)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Permission"):
        write_folder(tmp_path / "b", {"bundle.json": b"new"})
    assert read_files(tmp_path / "b") == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_a_full_disk_leaves_the_older_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write) -> None:
    write(tmp_path / "b", FILES)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "b", {"bundle.json": b"new"})
    assert read_files(tmp_path / "b") == FILES


@pytest.mark.parametrize("name", ["../x", "/x", "a/b/c", "a\\b", "C:x", "..", ".", "a.", "", "a//b", "x\n", "é", "a/"])
def test_names_that_could_not_be_read_back_are_not_written(tmp_path: Path, name: str) -> None:
    for write in (write_folder, write_zip):
        with pytest.raises(UserError, match="names of letters"):
            write(tmp_path / "b", {name: b""})
    assert list(tmp_path.iterdir()) == []


def test_the_limits_hold(tmp_path: Path) -> None:
    write_folder(tmp_path / "f", FILES)
    write_zip(tmp_path / "z", FILES)
    total = sum(map(len, FILES.values()))
    assert read_files(tmp_path / "f", max_bytes=total) == FILES
    for name in ("f", "z"):
        with pytest.raises(UserError, match="are allowed"):
            read_files(tmp_path / name, max_bytes=total - 1)
    with pytest.raises(UserError, match=f"at most {MAX_FILES}"):
        write_zip(tmp_path / "many", {str(number): b"" for number in range(MAX_FILES + 1)})


def test_what_is_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_files(tmp_path / "nowhere")
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(UserError, match="neither a folder nor a zip"):
        read_files(tmp_path / "text.zip")
