"""From settings to image sets: what training may see, what stays closed, what is recorded."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from convcraft.config import DataConfig, PreprocessConfig
from convcraft.data.dataset import TrainingData, open_other_data, open_test_data, prepare_training_data
from convcraft.errors import UserError

CLASSES = ("1", "2", "10")


def photo(seed: int) -> Image.Image:
    """Smooth colour noise: each seed another picture, as photos are, not merely other noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(4))


def tree(root: Path, splits: tuple[str, ...], per_class: int) -> Path:
    for number, split in enumerate(splits):
        for position, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(per_class):
                photo(10_000 * number + 1000 * position + index).save(folder / f"{index}.png")
    return root


@pytest.fixture
def unsplit(tmp_path: Path) -> DataConfig:
    return DataConfig(source=str(tree(tmp_path / "data", ("",), 20)), val_fraction=0.2)


@pytest.fixture
def split(tmp_path: Path) -> DataConfig:
    return DataConfig(source=str(tree(tmp_path / "data", ("train", "test"), 10)), val_fraction=0.2)


def prepare(config: DataConfig, **wanted: object) -> TrainingData:
    settings = {"image_size": (24, 24), **wanted}
    return prepare_training_data(config, PreprocessConfig(**settings))  # type: ignore[arg-type]


def test_parts_are_disjoint_stratified_and_stay_so(unsplit: DataConfig) -> None:
    data = prepare(unsplit)
    assert data.val is not None
    test = open_test_data(unsplit, data.classes, data.preprocess, data.description["sha256"]["test"])
    names = [set(part.names) for part in (data.train, data.val, test)]
    assert [len(part) for part in names] == [39, 9, 12]
    assert len(set.union(*names)) == 60
    assert data.description["class_counts"] == {"train": [13] * 3, "val": [3] * 3, "test": [4] * 3}
    assert prepare(unsplit).description == data.description
    assert data.classes == CLASSES


def test_mean_and_std_are_of_the_train_pixels(unsplit: DataConfig) -> None:
    data = prepare(unsplit)
    assert data.train.pixels is not None
    values = data.train.pixels.reshape(-1, 3) / 255
    np.testing.assert_allclose(data.preprocess.mean, values.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(data.preprocess.std, values.std(axis=0), atol=1e-6)
    images = data.preprocess.normalise(data.train.pixels)
    assert abs(images.mean()) < 1e-3
    assert abs(images.std() - 1) < 1e-3


def test_streaming_and_memory_describe_the_same_data(unsplit: DataConfig) -> None:
    memory, streamed = prepare(unsplit), prepare(replace(unsplit, memory_megabytes=0))
    assert memory.train.pixels is not None
    assert streamed.train.pixels is None
    assert streamed.preprocess == memory.preprocess
    assert streamed.description == memory.description
    ids = np.array([5, 0, 17])
    np.testing.assert_array_equal(memory.train.pixels_of(ids), streamed.train.pixels_of(ids))


def test_changed_test_images_are_noticed(unsplit: DataConfig) -> None:
    data = prepare(unsplit)
    expected = data.description["sha256"]["test"]
    test = open_test_data(unsplit, data.classes, data.preprocess, expected)
    photo(999).save(Path(unsplit.source) / test.names[0])
    with pytest.raises(UserError, match="not those that were set aside"):
        open_test_data(unsplit, data.classes, data.preprocess, expected)


def test_leaks_in_brought_splits_are_reported_and_dropped_on_request(split: DataConfig) -> None:
    root = Path(split.source)
    photo(0).save(stream := io.BytesIO(), "JPEG", quality=70)
    (root / "test" / "1" / "copy.jpg").write_bytes(stream.getvalue())  # train/1/0.png again, re-encoded
    data = prepare(split)
    leaks = [finding for finding in data.findings if finding.kind == "leak"]
    assert len(leaks) == 1
    assert set(leaks[0].files) == {"test/1/copy.jpg", "train/1/0.png"}
    assert data.val is not None
    assert "train/1/0.png" in {*data.train.names, *data.val.names}  # brought splits stay as they are
    dropped = prepare(replace(split, drop_leaks=True))
    assert dropped.val is not None
    assert "train/1/0.png" not in {*dropped.train.names, *dropped.val.names}
    (note,) = [finding for finding in dropped.findings if finding.kind == "leak"]
    assert note.severity == "info"
    assert "1 train images" in note.message
    assert dropped.description["sha256"]["test"] == data.description["sha256"]["test"]


def test_copies_never_straddle_splits_that_we_make(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", ("",), 12)
    for name in CLASSES:  # each picture again, re-encoded
        for file in sorted((root / name).glob("*.png")):
            Image.open(file).save(file.with_suffix(".jpg"), quality=80)
    config = DataConfig(source=str(root), val_fraction=0.3, test_fraction=0.3)
    data = prepare(config)
    assert data.val is not None
    test = open_test_data(config, data.classes, data.preprocess, data.description["sha256"]["test"])
    parts = [{name.rsplit(".", 1)[0] for name in part.names} for part in (data.train, data.val, test)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_val_serves_as_test_when_asked(tmp_path: Path) -> None:
    config = DataConfig(source=str(tree(tmp_path / "data", ("train", "val"), 10)), test_split="val")
    data = prepare(config)
    test = open_test_data(config, data.classes, data.preprocess, data.description["sha256"]["test"])
    assert {name.split("/")[0] for name in test.names} == {"val"}
    assert {name.split("/")[0] for name in data.train.names} == {"train"}


def test_bad_images_are_named_and_over_one_percent_stop(unsplit: DataConfig) -> None:
    for index in range(3):
        (Path(unsplit.source) / "1" / f"broken-{index}.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(UserError, match=r"broken-0\.jpg"):
        prepare(unsplit)
    data = prepare(replace(unsplit, allow_bad=True))
    (finding,) = [finding for finding in data.findings if finding.kind == "unreadable"]
    assert {Path(name).name for name in finding.files} == {f"broken-{index}.jpg" for index in range(3)}
    assert not any("broken" in name for name in data.train.names)


def test_nothing_is_split_off_other_data(unsplit: DataConfig, tmp_path: Path) -> None:
    data = prepare(unsplit)
    other = replace(unsplit, source=str(tree(tmp_path / "other", ("train", "val"), 3)))
    with pytest.raises(UserError, match="train, val"):
        open_test_data(other, data.classes, data.preprocess)
    val = open_test_data(replace(other, test_split="val"), data.classes, data.preprocess)
    assert {name.split("/")[0] for name in val.names} == {"val"}
    assert len(val) == 9


def test_one_bad_test_image_that_training_accepted_does_not_stop_evaluate(split: DataConfig) -> None:
    (Path(split.source) / "test" / "1" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    accepted = replace(split, allow_bad=True)
    data = prepare(accepted)
    test = open_test_data(split, data.classes, data.preprocess, data.description["sha256"]["test"])
    assert len(test) == 30


def test_other_data_is_matched_by_class_name(unsplit: DataConfig, tmp_path: Path) -> None:
    data = prepare(unsplit)
    other = tmp_path / "other"
    for name in ("10", "2"):
        (other / name).mkdir(parents=True)
        photo(77).save(other / name / "0.png")
        photo(78).save(other / name / "1.png")
    test = open_test_data(replace(unsplit, source=str(other)), data.classes, data.preprocess)
    assert {(Path(name).parent.name, int(target)) for name, target in zip(test.names, test.targets, strict=True)} == {
        ("2", 1),
        ("10", 2),
    }
    (other / "3").mkdir()
    photo(79).save(other / "3" / "0.png")
    with pytest.raises(UserError, match="classes 3 that the run was not trained on"):
        open_test_data(replace(unsplit, source=str(other)), data.classes, data.preprocess)


def test_images_that_training_saw_are_known_again(unsplit: DataConfig, tmp_path: Path) -> None:
    data = prepare(unsplit)
    assert data.val is not None
    assert len(data.seen) == len(data.train) + len(data.val)
    root, other = Path(unsplit.source), tmp_path / "other"
    for name in CLASSES:
        (other / name).mkdir(parents=True)
        photo(5000 + int(name)).save(other / name / "new.png")
    unseen = open_other_data(replace(unsplit, source=str(other)), data.classes, data.preprocess, data.seen)
    assert unseen[1] == ()
    Image.open(root / data.train.names[0]).save(other / "1" / "again.bmp")  # same pixels, in another file format
    shutil.copyfile(root / data.val.names[0], other / "2" / "copied.png")
    test = open_test_data(unsplit, data.classes, data.preprocess, data.description["sha256"]["test"])
    shutil.copyfile(root / test.names[0], other / "10" / "kept back.png")  # test images were not seen
    config = replace(unsplit, source=str(other))
    images, (finding,) = open_other_data(config, data.classes, data.preprocess, data.seen)
    assert len(images) == 6
    assert (finding.kind, finding.severity) == ("leak", "warning")
    assert "2 of 6 images" in finding.message
    assert set(finding.files) == {"1/again.bmp", "2/copied.png"}
    assert open_other_data(config, data.classes, data.preprocess)[1] == ()  # an older run recorded nothing
