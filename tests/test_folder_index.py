"""The index answers exactly as a scan would, looks at what is new alone, and never believes a damaged file."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convcraft.config import DataConfig
from convcraft.data import folder_index
from convcraft.data.folder_index import index_file, remembered_scan
from convcraft.data.sample import Sample
from convcraft.data.scan import Scan, scan_images
from convcraft.data.sources import open_source
from convcraft.data.splits import all_samples

COUNT = 24


def draw(path: Path, seed: int, size: tuple[int, int] = (20, 14)) -> None:
    rng = np.random.default_rng(seed)
    mode = "L" if seed % 3 == 0 else "RGB"
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of two classes, with one damaged file."""
    for number in range(COUNT):
        folder = tmp_path / "images" / ("ants", "bees")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        draw(folder / f"{number}.{'png' if number % 4 else 'jpg'}", number)
    (tmp_path / "images" / "ants" / "broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    return tmp_path / "images"


@pytest.fixture(autouse=True)
def looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A cache of its own, all sets worth an index, and the names of the images that were really looked at."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(folder_index, "WORTH_INDEXING", 1)
    names: list[str] = []

    def noted(samples, **options):  # type: ignore[no-untyped-def]
        names.extend(sample.source for sample in samples)
        return scan_images(samples, **options)

    monkeypatch.setattr(folder_index, "scan_images", noted)
    return names


def samples_of(root: Path) -> list[Sample]:
    return all_samples(open_source(DataConfig(source=str(root))))


def start(root: Path) -> Scan:
    return remembered_scan(samples_of(root), str(root))


def assert_same(scan: Scan, expected: Scan) -> None:
    assert scan.facts == expected.facts
    assert scan.digests == expected.digests
    np.testing.assert_array_equal(scan.usable, expected.usable)
    np.testing.assert_array_equal(scan.thumbnails, expected.thumbnails)


def test_the_second_start_opens_nothing_and_says_the_same(root: Path, looked_at: list[str]) -> None:
    expected = scan_images(samples_of(root))
    assert expected.usable.sum() == COUNT
    assert_same(start(root), expected)
    assert len(looked_at) == COUNT + 1
    looked_at.clear()
    second = start(root)
    assert_same(second, expected)
    assert (looked_at, second.notes) == ([], ())


def test_changed_added_and_removed_files_are_noticed(root: Path, looked_at: list[str]) -> None:
    start(root)
    looked_at.clear()
    changed, removed, added = root / "ants" / "2.png", root / "bees" / "3.png", root / "bees" / "new.png"
    before = changed.stat()
    draw(changed, 999)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a tool that restores times would
    removed.unlink()
    draw(added, 1000)
    (root / "ants" / "broken.jpg").unlink()
    draw(root / "ants" / "broken.jpg", 1001)
    expected = scan_images(samples_of(root))
    assert_same(start(root), expected)
    assert sorted(looked_at) == ["ants/2.png", "ants/broken.jpg", "bees/new.png"]
    looked_at.clear()
    assert_same(start(root), expected)
    assert looked_at == []


def test_the_order_of_the_samples_does_not_matter(root: Path, looked_at: list[str]) -> None:
    start(root)
    looked_at.clear()
    mixed = samples_of(root)
    np.random.default_rng(0).shuffle(mixed)  # type: ignore[arg-type]
    assert_same(remembered_scan(mixed, str(root)), scan_images(mixed))
    assert looked_at == []


def test_a_part_keeps_what_is_known_of_the_rest(root: Path, looked_at: list[str]) -> None:
    samples = samples_of(root)
    remembered_scan(samples[:10], str(root), complete=False)
    remembered_scan(samples[5:15], str(root), complete=False)
    assert len(looked_at) == 15
    remembered_scan(samples, str(root))
    assert len(looked_at) == len(samples)
    draw(root / "ants" / "another.png", 7)
    samples = samples_of(root)
    (place,) = [index for index, sample in enumerate(samples) if sample.source == "ants/another.png"]
    remembered_scan(samples[place : place + 2], str(root), complete=False)
    looked_at.clear()
    assert_same(remembered_scan(samples, str(root)), scan_images(samples))
    assert looked_at == []


def test_encoded_bytes_are_known_by_their_content(root: Path, looked_at: list[str]) -> None:
    samples = [Sample(path.read_bytes(), 0, path.name) for path in sorted(root.rglob("*.png"))]
    expected = scan_images(samples)
    remembered_scan(samples, "table.parquet")
    looked_at.clear()
    assert_same(remembered_scan(samples, "table.parquet"), expected)
    assert looked_at == []
    samples[4] = Sample((root / "ants" / "0.jpg").read_bytes(), 0, "other")
    assert_same(remembered_scan(samples, "table.parquet"), scan_images(samples))
    assert looked_at == ["other"]


@pytest.mark.parametrize("place", ["magic", "header", "row", "thumbnail", "cut", "longer", "empty"])
def test_a_damaged_index_is_told_and_made_anew(root: Path, looked_at: list[str], place: str) -> None:
    expected = start(root)
    file = index_file(str(root))
    content = bytearray(file.read_bytes())
    thumbnails = (COUNT + 1) * 32 * 32 * 3
    where = {"magic": 3, "header": 60, "row": len(content) - thumbnails - 20, "thumbnail": len(content) - 1}
    if place in where:
        content[where[place]] ^= 4
    else:
        content = {"cut": content[:-5], "longer": content + b"x", "empty": bytearray()}[place]
    file.write_bytes(content)
    looked_at.clear()
    scan = start(root)
    assert_same(scan, expected)
    assert len(looked_at) == COUNT + 1
    (note,) = scan.notes
    assert "looked at again" in note.message
    assert start(root).notes == ()
    assert len(looked_at) == COUNT + 1


def test_every_flipped_bit_of_a_row_is_found(root: Path) -> None:
    start(root)
    file = index_file(str(root))
    good = file.read_bytes()
    for position in np.random.default_rng(0).integers(0, len(good), 60).tolist():
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        file.write_bytes(bad)
        index, notes = folder_index._open_index(file, str(root))
        assert (len(index.rows), len(notes)) == (0, 1), position


def test_an_index_of_other_data_or_code_is_not_taken(
    root: Path, looked_at: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start(root)
    index_file(str(root)).rename(index_file("elsewhere"))
    looked_at.clear()
    scan = remembered_scan(samples_of(root), "elsewhere")
    assert "belongs to other data" in scan.notes[0].message
    assert len(looked_at) == COUNT + 1
    start(root)
    looked_at.clear()
    monkeypatch.setattr(folder_index, "_code", lambda: "another version")
    note = start(root).notes[0]
    assert len(looked_at) == COUNT + 1
    assert (note.severity, "another version of convcraft" in note.message) == ("info", True)


def test_an_interrupted_scan_goes_on(root: Path, looked_at: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_index, "SCANNED_AT_ONCE", 8)

    def stop(done: int, total: int, what: str) -> None:
        assert total == COUNT + 1
        if done > 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remembered_scan(samples_of(root), str(root), progress=stop)
    looked_at.clear()
    expected = scan_images(samples_of(root))
    assert_same(start(root), expected)
    assert len(looked_at) == COUNT + 1 - 16


def test_progress_counts_only_what_is_looked_at(root: Path) -> None:
    start(root)
    draw(root / "ants" / "new.png", 50)
    told: list[tuple[int, int]] = []
    remembered_scan(samples_of(root), str(root), progress=lambda done, total, what: told.append((done, total)))
    assert told == [(1, 1)]


def test_a_file_that_is_not_there_is_asked_for_each_time(root: Path, looked_at: list[str]) -> None:
    samples = [*samples_of(root), Sample(root / "gone.png", 0, "gone.png")]
    assert remembered_scan(samples, str(root)).facts[-1].reason == "missing"
    looked_at.clear()
    remembered_scan(samples, str(root))
    assert looked_at == ["gone.png"]
    draw(root / "gone.png", 3)
    assert remembered_scan(samples, str(root)).usable[-1]


def test_arrays_and_small_sets_have_no_index(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remembered_scan([Sample(np.zeros((4, 4), np.uint8), 0, "a")] * 3, "arrays")
    monkeypatch.setattr(folder_index, "WORTH_INDEXING", COUNT + 2)
    start(root)
    assert not index_file("arrays").parent.exists()


def test_without_a_place_to_write_it_goes_on(root: Path, tmp_path: Path, looked_at: list[str]) -> None:
    (tmp_path / "cache").write_text("a file where the cache should be")
    expected = scan_images(samples_of(root))
    assert_same(start(root), expected)
    assert_same(start(root), expected)
    assert len(looked_at) == 2 * (COUNT + 1)


def test_indices_of_folders_that_are_gone_are_removed(root: Path, tmp_path: Path) -> None:
    start(root)
    moved = tmp_path / "moved"
    root.rename(moved)
    start(moved)
    assert [path.name for path in index_file("").parent.iterdir()] == [index_file(str(moved)).name]


def _start_often(root: Path, times: int) -> None:
    folder_index.WORTH_INDEXING = 1
    samples = samples_of(root)
    expected = scan_images(samples)
    for number in range(times):
        part = samples[number % 5 :]
        scan = remembered_scan(part, str(root), complete=False)
        assert scan.digests == expected.digests[number % 5 :]
        assert not scan.notes


def test_two_processes_at_once(root: Path) -> None:
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    workers = [context.Process(target=_start_often, args=(root, 10)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert not list(index_file("").parent.glob("*.draft"))


def test_indices_that_nobody_needs_are_removed(tmp_path: Path, root: Path) -> None:
    for name in ("gone", "kept"):
        (tmp_path / name).mkdir()
    samples = samples_of(root)
    for place in (f"hub:{tmp_path / 'gone'}", f"hub:{tmp_path / 'kept'}", "hub:you/old", "hub:you/new"):
        remembered_scan(samples, place)
    (tmp_path / "gone").rmdir()
    long_ago = 1e9
    os.utime(index_file("hub:you/old"), (long_ago, long_ago))
    os.utime(index_file("hub:you/new"), (long_ago, long_ago))
    remembered_scan(samples, "hub:you/new")  # in use again
    start(root)  # writes, and so tidies
    there = {place: index_file(f"hub:{place}").exists() for place in (tmp_path / "gone", tmp_path / "kept")}
    assert there == {tmp_path / "gone": False, tmp_path / "kept": True}
    assert [index_file(f"hub:you/{name}").exists() for name in ("old", "new")] == [False, True]
