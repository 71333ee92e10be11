"""Hub data sets, read without the Hub: what `datasets` writes to a disk, and what it says where there is no way."""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from convcraft.config import DataConfig, PreprocessConfig
from convcraft.data import folder_index
from convcraft.data.dataset import open_test_data, prepare_training_data
from convcraft.data.hub import HubAddress, _EncodedImages, is_saved_dataset, open_hub
from convcraft.data.sample import ALL, Sample, StoredSample
from convcraft.data.scan import scan_images
from convcraft.data.sources import open_source
from convcraft.errors import UserError

datasets = pytest.importorskip("datasets", reason="needs the extra: pip install 'convcraft[hub]'")
NAMES = ["tram", "ant", "bee"]  # not in the order of the alphabet


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and nothing kept in the cache of the person who runs the tests."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pixels_of(row: int) -> np.ndarray:
    coarse = np.random.default_rng(row).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Picture.fromarray(coarse).resize((16, 12), Picture.Resampling.BICUBIC))


def encoded(row: int) -> bytes:
    stream = io.BytesIO()
    Picture.fromarray(pixels_of(row)).save(stream, "PNG")
    return stream.getvalue()


def rows(start: int, stop: int, **more: Any) -> Any:
    """Rows of a picture and of what it shows; columns have names that say nothing."""
    features = {"x": datasets.Image(), "shows": datasets.ClassLabel(names=NAMES), "note": datasets.Value("string")}
    columns = {
        "x": [{"bytes": encoded(row), "path": None} for row in range(start, stop)],
        "shows": [row % 3 for row in range(start, stop)],
        "note": ["n"] * (stop - start),
    }
    columns |= {name: values for name, (values, _) in more.items()}
    features |= {name: feature for name, (_, feature) in more.items()}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    parts = {"train": rows(0, 40), "validation": rows(40, 50), "test": rows(50, 62)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "vehicles")
    return tmp_path / "vehicles"


def test_a_saved_data_set(saved: Path) -> None:
    source = open_source(DataConfig(source=f"hub:{saved}"))
    assert (source.name, source.classes) == ("vehicles", tuple(NAMES))
    assert {split: len(part) for split, part in source.splits.items()} == {"train": 40, "val": 10, "test": 12}
    assert [sample.target for sample in source.splits["val"]] == [row % 3 for row in range(40, 50)]
    assert source.splits["test"][3].source == "test#3"
    scan = scan_images(source.splits["test"])
    arrays = scan_images([type(source.splits["test"][0])([encoded(row)], 0, 0, "") for row in range(50, 62)])
    assert scan.digests == arrays.digests
    assert len(set(scan.digests)) == 12
    # The same folder without the prefix is known by what lies in it.
    assert open_source(DataConfig(source=str(saved))).classes == tuple(NAMES)


def test_images_stay_in_their_file(saved: Path) -> None:
    source = open_hub(f"hub:{saved}", DataConfig())
    sample = source.splits["train"][7]
    assert isinstance(sample, StoredSample)
    assert sample.image == encoded(7)
    assert not hasattr(sample, "__dict__")  # nothing is kept once it was read
    again = pickle.loads(pickle.dumps(sample))  # noqa: S301  # as a data worker gets it
    assert (again.image, again.target, again.source) == (encoded(7), 1, "train#7")
    assert len({part.identity for part in source.splits["train"]}) == 40
    moved = sample.with_target(2)
    assert (moved.target, moved.image) == (2, encoded(7))


def test_parquet_as_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows(0, 20).to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    rows(20, 26).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    source = open_hub(f"hub:{tmp_path}", DataConfig())
    assert (source.classes, list(source.splits)) == (tuple(NAMES), ["train", "test"])
    assert source.splits["test"][5].image == encoded(25)


def test_from_data_to_image_sets(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_index, "WORTH_INDEXING", 10)
    config = DataConfig(source=f"hub:{saved}")
    data = prepare_training_data(config, PreprocessConfig())
    assert (len(data.train), data.val is not None and len(data.val)) == (40, 10)
    np.testing.assert_array_equal(data.train.pixels_of(np.array([3]))[0], pixels_of(3))
    test = open_test_data(config, tuple(sorted(NAMES)), data.preprocess, data.description["sha256"]["test"])
    assert test.targets.tolist() == [sorted(NAMES).index(NAMES[row % 3]) for row in range(50, 62)]
    scanned: list[int] = []
    monkeypatch.setattr(folder_index, "scan_images", lambda samples, **more: scanned.append(len(samples)))
    assert prepare_training_data(config, PreprocessConfig()).description == data.description
    assert scanned == []  # the index knows rows of Arrow files too


def test_images_as_files_of_their_own(tmp_path: Path) -> None:
    for row in range(6):
        folder = tmp_path / "photos" / "train" / NAMES[row % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row}.png").write_bytes(encoded(row))
    source = open_hub(f"hub:{tmp_path / 'photos'}", DataConfig())
    assert source.classes == tuple(sorted(NAMES))
    files = {Path(str(sample.image)).name: source.classes[sample.target] for sample in source.splits["train"]}
    assert files == {f"{row}.png": NAMES[row % 3] for row in range(6)}


def test_one_set_without_splits_and_with_plain_labels(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    columns = {"image": [{"bytes": encoded(row), "path": None} for row in range(6)], "label": ["b10", "b9"] * 3}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "set")
    source = open_hub(f"hub:{tmp_path / 'set'}", DataConfig())
    assert source.classes == ("b9", "b10")  # names that no ClassLabel orders come in natural order
    assert list(source.splits) == [ALL]
    assert [sample.target for sample in source.splits[ALL]] == [1, 0] * 3


def test_a_choice_of_labels_is_asked_for(tmp_path: Path) -> None:
    coarse = ([row % 2 for row in range(9)], datasets.ClassLabel(names=["a", "b"]))
    rows(0, 9, kind=coarse).save_to_disk(tmp_path / "set")
    with pytest.raises(UserError, match=r"shows \(ClassLabel\).*kind \(ClassLabel\).*--label-column"):
        open_hub(f"hub:{tmp_path / 'set'}", DataConfig())
    assert open_hub(f"hub:{tmp_path / 'set'}", DataConfig(label_column="kind")).classes == ("a", "b")
    with pytest.raises(UserError, match="--image-column"):
        open_hub(f"hub:{tmp_path / 'set'}", DataConfig(label_column="kind", image_column="note"))


def test_rows_without_a_label_are_left_out_or_stop(tmp_path: Path) -> None:
    part = rows(0, 9)
    labels = [0, 1, 2, -1, 0, 1, 2, None, 0]
    part = part.remove_columns("shows").add_column("shows", labels).cast_column("shows", rows(0, 1).features["shows"])
    part.save_to_disk(tmp_path / "set")
    with pytest.raises(UserError, match="2 of 9 rows have no label: all#3, all#7"):
        open_hub(f"hub:{tmp_path / 'set'}", DataConfig())
    source = open_hub(f"hub:{tmp_path / 'set'}", DataConfig(allow_bad=True))
    assert [sample.source for sample in source.splits[ALL]] == [f"all#{row}" for row in (0, 1, 2, 4, 5, 6, 8)]
    assert source.splits[ALL][3].image == encoded(4)
    assert source.findings[0].files == ("all#3", "all#7")


def test_odd_splits(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": rows(0, 6), "extra": rows(6, 9)}).save_to_disk(tmp_path / "one")
    source = open_hub(f"hub:{tmp_path / 'one'}", DataConfig())
    assert list(source.splits) == ["train"]
    assert "extra" in source.findings[0].message
    datasets.DatasetDict({"dev": rows(0, 6), "valid": rows(6, 9)}).save_to_disk(tmp_path / "two")
    with pytest.raises(UserError, match="two splits that mean val"):
        open_hub(f"hub:{tmp_path / 'two'}", DataConfig())


def test_addresses() -> None:
    assert HubAddress.parse("hub:you/birds") == HubAddress("you/birds")
    assert HubAddress.parse("hub:you/birds@v2") == HubAddress("you/birds", None, "v2")
    assert HubAddress.parse("hub:you/birds:small@main") == HubAddress("you/birds", "small", "main")
    for text in ("hub:", "hub:a/b/c", "hub:a b", "hub:you/birds@"):
        with pytest.raises(UserError, match="hub:OWNER/NAME"):
            HubAddress.parse(text)


def test_offline_the_message_says_what_to_fetch() -> None:
    with pytest.raises(UserError) as caught:
        open_source(DataConfig(source="hub:nobody/nothing@v1"))
    assert "nobody/nothing cannot be loaded" in caught.value.received
    assert "hf download --repo-type dataset nobody/nothing --revision v1 --local-dir FOLDER" in caught.value.fix
    assert "hub:FOLDER" in caught.value.fix


def test_an_empty_folder_and_a_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="nothing cannot be loaded"):
        open_hub(f"hub:{tmp_path / 'nothing'}", DataConfig())
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'convcraft\[hub\]'"):
        open_hub("hub:you/birds", DataConfig())


# --- what a data set of somebody else may not do ---


def write_parquet(folder: Path, paths: list[str]) -> Path:
    """As on the Hub: rows that name files instead of holding images."""
    import pyarrow as pa
    import pyarrow.parquet

    (folder / "data").mkdir(parents=True)
    images = pa.array(
        [{"bytes": None, "path": path} for path in paths], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    table = pa.table({"image": images, "label": pa.array([row % 3 for row in range(len(paths))])})
    described = rows(0, 1).rename_columns({"x": "image", "shows": "label"}).remove_columns("note")
    metadata = described.data.schema.metadata
    pyarrow.parquet.write_table(
        table.replace_schema_metadata(metadata), folder / "data" / "train-00000-of-00001.parquet"
    )
    return folder


def test_rows_may_name_files_of_the_set_alone(tmp_path: Path) -> None:
    photos = tmp_path / "set" / "photos"
    photos.mkdir(parents=True)
    for row in range(6):
        (photos / f"{row}.png").write_bytes(encoded(row))
    named = [str(photos / f"{row}.png") for row in range(3)] + [f"photos/{row}.png" for row in range(3, 6)]
    source = open_hub(f"hub:{write_parquet(tmp_path / 'set', named)}", DataConfig())
    found = scan_images(source.splits["train"])
    assert found.usable.all()
    assert found.digests == scan_images([Sample(encoded(row), 0, "") for row in range(6)]).digests


@pytest.mark.parametrize("how", ["absolute", "up", "up inside", "link", "linked folder", "address", "not there"])
def test_a_file_outside_of_the_set_is_never_opened(tmp_path: Path, how: str) -> None:
    secret = tmp_path / "private" / "passport.png"
    secret.parent.mkdir()
    secret.write_bytes(encoded(0))
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "inside.png").write_bytes(encoded(1))
    (folder / "link.png").symlink_to(secret)
    (folder / "linked").symlink_to(secret.parent)
    named = {
        "absolute": str(secret),
        "up": "../private/passport.png",
        "up inside": str(folder / ".." / "private" / "passport.png"),
        "link": "link.png",
        "linked folder": "linked/passport.png",
        "address": "file://" + str(secret),
        "not there": "/somewhere/else.png",
    }[how]
    write_parquet(folder, ["inside.png", named, "inside.png"])
    if how == "address":  # a strange name, of a file that is not there
        source = open_hub(f"hub:{folder}", DataConfig())
        assert scan_images(source.splits["train"]).usable.tolist() == [True, False, True]
        return
    with pytest.raises(UserError, match=r"train#1 names a file outside of the data set"):
        open_hub(f"hub:{folder}", DataConfig())


def test_a_set_without_a_folder_may_name_files_of_the_librarys_cache(tmp_path: Path) -> None:
    from convcraft.data.hub import _own_files

    own_files = _own_files(HubAddress("you/birds"))
    unpacked = Path(datasets.config.HF_DATASETS_CACHE) / "downloads" / "extracted" / "a" / "1.jpg"
    assert own_files.file(str(unpacked), "train#0") == unpacked
    for path in ("1.jpg", "/etc/passwd", str(tmp_path / "hf-cache-of-another" / "1.jpg"), str(tmp_path / "hf-cache")):
        with pytest.raises(UserError, match="outside of the data set"):
            own_files.file(path, "train#0")


def test_sets_that_need_code_are_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("Dataset scripts are no longer supported, but found birds.py")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UserError, match=r"never run.*hub:you/birds@refs/convert/parquet"):
        open_hub("hub:you/birds", DataConfig())
    parsed = HubAddress.parse("hub:you/birds@refs/convert/parquet")
    assert (parsed.name, parsed.revision) == ("you/birds", "refs/convert/parquet")


def test_a_folder_with_a_script_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / "birds.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match="never run"):
        open_hub(f"hub:{tmp_path / 'birds'}", DataConfig())
    assert not (tmp_path / "ran").exists()


def test_a_broken_connection_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import httpx

    def load(*arguments: Any, **options: Any) -> None:
        raise httpx.ConnectError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UserError, match=r"you/birds cannot be loaded: no route to host.*hf download"):
        open_hub("hub:you/birds", DataConfig())


def test_a_folder_with_a_state_file_of_somebody_else_is_a_folder(tmp_path: Path) -> None:
    for row in range(4):
        folder = tmp_path / "set" / NAMES[row % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row}.png").write_bytes(encoded(row))
    (tmp_path / "set" / "state.json").write_text("{}")
    assert open_source(DataConfig(source=str(tmp_path / "set"))).classes == ("ant", "tram")
    rows(0, 6).save_to_disk(tmp_path / "saved")  # one set without splits
    assert is_saved_dataset(tmp_path / "saved")


# --- what is read ---


def test_two_columns_of_images_have_an_index_row_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_index, "WORTH_INDEXING", 1)
    depth = ([{"bytes": encoded(row + 100), "path": None} for row in range(9)], datasets.Image())
    rows(0, 9, depth=depth).save_to_disk(tmp_path / "set")
    found = {}
    for column in ("x", "depth", "x"):
        config = DataConfig(source=f"hub:{tmp_path / 'set'}", image_column=column)
        samples = open_source(config).splits[ALL]
        found[column] = folder_index.remembered_scan(samples, config.source).digests
        assert found[column] == scan_images(samples).digests
    assert not set(found["x"]) & set(found["depth"])


def test_an_indexed_second_start_reads_no_image(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_index, "WORTH_INDEXING", 1)
    config = DataConfig(source=f"hub:{saved}", memory_megabytes=0)
    wanted = PreprocessConfig(mean=(0.5,), std=(0.5,))
    reads: list[int] = []
    get = _EncodedImages.__getitem__
    monkeypatch.setattr(_EncodedImages, "__getitem__", lambda self, row: reads.append(row) or get(self, row))
    first = prepare_training_data(config, wanted)
    assert len(reads) == 62  # each image once
    reads.clear()
    assert prepare_training_data(config, wanted).description == first.description
    assert reads == []
