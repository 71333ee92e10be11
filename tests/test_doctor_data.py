"""The data doctor's own checks: balance, sizes, hidden copies; the full examination; its page."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from convcraft.config import RunConfig
from convcraft.data.dataset import prepare_training_data
from convcraft.data.image_set import ImageSet
from convcraft.data.preprocess import Preprocess
from convcraft.data.sample import Finding, Sample
from convcraft.doctor.balance import balance_findings, precision_findings
from convcraft.doctor.copies import best_correlation, find_hidden_copies, near_copy_findings
from convcraft.doctor.seen import plain_features
from convcraft.doctor.sizes import size_findings
from convcraft.errors import UserError
from convcraft.report.doctor_sheet import FindingPictures, Picture, render_page, write_page
from convcraft.workflows import doctor_full
from convcraft.workflows.console import make_console
from convcraft.workflows.doctor import Diagnosis, automatic, doctor

CLASSES = ("cat", "dog", "cow")
QUIET = make_console(quiet=True)


def balance(counts: tuple[int, ...], groups: NDArray[np.int64] | None = None) -> list[Finding]:
    targets = np.repeat(np.arange(len(counts)), counts)
    own = np.arange(len(targets)) if groups is None else groups
    return list(balance_findings(targets, own, [f"{number}.png" for number in range(len(targets))], CLASSES))


def test_imbalance_by_degrees() -> None:
    assert balance((50, 40, 30)) == []
    (remark,) = balance((100, 60, 20))
    assert (remark.kind, remark.severity) == ("imbalance", "info")
    (warning,) = balance((300, 60, 20))
    assert warning.severity == "warning"
    assert "cat has 300 train images, cow 20" in warning.message
    assert warning.files[0] == "360.png"


def test_few_images_and_copies_that_count_once() -> None:
    (few,) = balance((20, 20, 8))
    assert few.kind == "too_few"
    assert "cow (8)" in few.message
    groups = np.arange(60)
    groups[40:60] = np.repeat([40, 45, 50, 55], 5)  # twenty cows, of four pictures
    assert {finding.kind for finding in balance((20, 20, 20), groups)} == {"imbalance", "too_few"}
    assert balance((20, 0, 0)) == []


def test_a_small_part_says_little() -> None:
    (finding,) = precision_findings(24, "val")
    assert "72%" in finding.message
    assert list(precision_findings(500, "val")) == []
    assert list(precision_findings(0, "val")) == []


def test_enlarged_and_long_pictures() -> None:
    statistics = {"width": np.array([40.0, 300, 900, 224]), "height": np.array([40.0, 260, 224, 224])}
    names = ["tiny.png", "photo.png", "panorama.png", "square.png"]
    small, long = size_findings(statistics, names, Preprocess(height=224, width=224, channels=3))
    assert (small.files, small.severity) == (("tiny.png",), "warning")
    assert (long.files, long.severity) == (("panorama.png",), "info")
    assert [*size_findings(statistics, names, Preprocess(height=32, width=32, channels=3, resize="pad"))] == []


# --- copies ---


def scenes(count: int, seed: int = 0) -> list[Image.Image]:
    """Coloured pictures with the spectrum of photos, 64 x 64."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(64)) + 0.02
    pictures = []
    for _ in range(count):
        values = np.fft.irfft2(np.fft.rfft2(random.standard_normal((3, 64, 64))) / frequency)
        values = 128 + 50 * (values - values.mean()) / values.std()
        pictures.append(Image.fromarray(np.clip(values, 0, 255).astype(np.uint8).transpose(1, 2, 0)))
    return pictures


def image_set(pictures: list[Image.Image], targets: list[int] | None = None) -> ImageSet:
    samples = [Sample(np.asarray(picture), 0, f"{number}.png") for number, picture in enumerate(pictures)]
    labels = np.zeros(len(samples), np.int64) if targets is None else np.array(targets)
    return ImageSet(
        samples, labels, Preprocess(height=64, width=64, channels=3), np.stack([np.asarray(each) for each in pictures])
    )


def part(picture: Image.Image, share: float) -> Image.Image:
    side = round(64 * share)
    return picture.crop((5, 3, 5 + side, 3 + side)).resize((64, 64), Image.Resampling.BICUBIC)


def test_mirrored_and_cut_out_copies_are_found_and_others_are_not() -> None:
    originals = scenes(16)
    pictures = [*originals, ImageOps.mirror(originals[3]), part(originals[7], 0.7), ImageOps.mirror(originals[9])]
    images = image_set(pictures)
    features = plain_features(images)
    # Plain features see a mirrored picture as another one; a network's are nearly the same. Both, as it were:
    features = features + plain_features(image_set([ImageOps.mirror(picture) for picture in pictures]))
    found = find_hidden_copies(images, features, np.arange(19))
    assert {(3, 16), (9, 18)} <= set(found) <= {(3, 16), (7, 17), (9, 18)}
    joined = np.arange(19)
    joined[16] = 3  # known already
    assert (3, 16) not in find_hidden_copies(images, features, joined)


def test_correlation_tells_parts_from_other_pictures() -> None:
    one, two = scenes(2, seed=1)
    assert best_correlation(one, ImageOps.mirror(one)) > 0.99
    assert best_correlation(one, part(one, 0.6)) > 0.93
    assert best_correlation(one, ImageOps.mirror(part(one, 0.7))) > 0.93
    assert best_correlation(one, two) < 0.8
    flat = Image.new("RGB", (64, 64), (90, 90, 90))
    assert best_correlation(flat, flat) == -1.0


def test_where_all_pictures_are_alike_none_is_a_hidden_copy() -> None:
    base = scenes(1)[0]
    random = np.random.default_rng(0)
    alike = [
        Image.fromarray(np.clip(np.asarray(base) + random.normal(0, 20, (64, 64, 3)), 0, 255).astype(np.uint8))
        for _ in range(12)
    ]
    images = image_set([ImageOps.mirror(each) if number % 2 else each for number, each in enumerate(alike)])
    assert find_hidden_copies(images, plain_features(images), np.arange(12)) == []


def test_near_copies_are_told_by_their_labels_and_equal_pixels_are_not() -> None:
    first, second, third = scenes(3)
    stream = io.BytesIO()
    first.save(stream, "JPEG", quality=60)
    images = image_set([first, Image.open(stream).convert("RGB"), second, second, third], [0, 1, 0, 0, 1])
    (finding,) = near_copy_findings(images, np.array([0, 0, 2, 2, 4]), CLASSES)
    assert (finding.kind, finding.severity) == ("label_error", "warning")
    assert "0.png (cat) and 1.png (dog)" in finding.message
    same = image_set([first, Image.open(stream).convert("RGB")])
    (finding,) = near_copy_findings(same, np.array([0, 0]), CLASSES)
    assert (finding.kind, finding.files) == ("near_duplicate", ("0.png", "1.png"))


# --- the full examination ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Discs and squares, 32 x 32; one disc lies among the squares; test pictures are darker."""
    random = np.random.default_rng(0)
    place = tmp_path / "shapes"
    for split, count, light in (("train", 40, 200), ("test", 30, 120)):
        for name in ("disc", "square"):
            (place / split / name).mkdir(parents=True)
            for number in range(count):
                shape(random, name, light).save(place / split / name / f"{number}.png")
    shape(random, "disc", 200).save(place / "train" / "square" / "wrong.png")
    return place


def shape(random: np.random.Generator, name: str, light: int) -> Image.Image:
    rows, columns = np.indices((32, 32))
    y, x = random.integers(14, 18, 2)
    size = random.uniform(7, 10)
    inside = (
        np.hypot(rows - y, columns - x) < size
        if name == "disc"
        else (abs(rows - y) < size * 0.9) & (abs(columns - x) < size * 0.9)
    )
    grey = np.where(inside, light, 40)[..., None] + random.normal(0, 6, (32, 32, 3))
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))


def examined(folder: Path, **options: Any) -> Diagnosis:
    return doctor(RunConfig().changed(data={"source": str(folder)}), full=True, console=QUIET, **options)


def test_wrong_label_and_shift_are_found_and_drawn(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "doctor.html"
    diagnosis = examined(folder, page=page)
    by_kind = {finding.kind: finding for finding in diagnosis.findings}
    assert "train/square/wrong.png" in by_kind["label_error"].files
    assert "looks like disc" in by_kind["label_error"].message
    shift = next(
        finding for finding in diagnosis.findings if finding.kind == "shift" and "test images" in finding.message
    )
    assert shift.severity == "warning"
    assert "brightness" in shift.message
    assert all(file.startswith("test/") for file in shift.files)
    assert "test images were opened" in diagnosis.notes[0]
    assert "plain features" in diagnosis.notes[1]
    assert "test images were compared with those of train, without their labels" in diagnosis.notes[-1]
    text = page.read_text(encoding="utf-8")
    assert "train/square/wrong.png" in text
    assert text.count("data:image/png;base64,") >= 9


def test_what_was_seen_of_the_test_images_is_said(folder: Path) -> None:
    """Pixels, for copies; and of labels those of copies alone: no other finding knows them."""

    def look() -> Diagnosis:
        return doctor(RunConfig().changed(data={"source": str(folder)}), console=QUIET)

    before = look()
    num_test = len(list((folder / "test").rglob("*.png")))
    assert f"The {num_test} test images were opened" in before.notes[0]
    assert "only those of pictures that are there twice" in before.notes[0]
    discs, squares = folder / "test" / "disc", folder / "test" / "square"
    discs.rename(folder / "test" / "other")
    squares.rename(discs)
    (folder / "test" / "other").rename(squares)
    assert [each.message for each in look().findings] == [each.message for each in before.findings]
    copied = next((folder / "train" / "disc").glob("*.png"))
    (squares / "copy.png").write_bytes(copied.read_bytes())
    named = [each for each in look().findings if each.kind == "label_error"]
    assert [set(each.files) for each in named] == [{f"train/disc/{copied.name}", "test/square/copy.png"}]


def test_test_labels_change_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The full examination says the same when every test label is another one, and hands no test label on."""
    before = examined(folder)
    discs, squares = folder / "test" / "disc", folder / "test" / "square"
    discs.rename(folder / "test" / "other")
    squares.rename(discs)
    (folder / "test" / "other").rename(squares)
    handed_on: list[NDArray[np.int64]] = []
    seen = doctor_full._test_without_labels
    monkeypatch.setattr(
        doctor_full, "_test_without_labels", lambda *given: handed_on.append(seen(*given).targets) or seen(*given)
    )
    after = examined(folder)
    assert not handed_on[0].any()
    keep = [(each.kind, each.severity, each.message.split("AUC")[0]) for each in before.findings]
    assert keep == [(each.kind, each.severity, each.message.split("AUC")[0]) for each in after.findings]


def test_weights_without_a_full_examination_are_wrong_use(folder: Path) -> None:
    with pytest.raises(UserError, match="full"):
        doctor(RunConfig().changed(data={"source": str(folder)}), weights="mnist-lenet5", console=QUIET)


def test_automatic_reads_no_picture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig().changed(data={"source": str(folder)}, augment={"rotation_degrees": 180.0})
    data = prepare_training_data(config.data, config.preprocess)
    monkeypatch.setattr(ImageSet, "pixels_of", None)
    assert automatic(config, data) == ()
    few = RunConfig().changed(data={"source": str(folder), "labels_per_class": 5})
    data = prepare_training_data(few.data, few.preprocess)
    assert [finding.kind for finding in automatic(few, data)] == ["too_few"]


# --- the page ---


def test_page_escapes_and_is_whole(tmp_path: Path) -> None:
    finding = Finding("label_error", "warning", ("<b>.png", "gone.png", "third.png"), "a < b & c", "Look.")
    pictures = (Picture("<b>.png", "<i>", np.zeros((8, 8, 3), np.uint8)), Picture("gone.png", None, None))
    text = render_page("doctor", [("data", "x")], ["One note."], [FindingPictures(finding, pictures)])
    assert "<b>.png" not in text
    assert "a &lt; b &amp; c" in text
    assert "cannot be shown" in text
    assert "Also: third.png" in text
    assert "1 warning." in text
    assert "http" not in text.replace("http-equiv", "")
    assert "Nothing was found." in render_page("doctor", [], [], [])


def test_only_an_earlier_page_is_overwritten(tmp_path: Path) -> None:
    page = tmp_path / "a" / "doctor.html"
    for _ in range(2):
        write_page(page, "title", [], [], [])
    assert not [path for path in page.parent.iterdir() if path != page]
    page.write_text("my own page")
    with pytest.raises(UserError, match="did not write"):
        write_page(page, "title", [], [], [])
    assert page.read_text() == "my own page"
    with pytest.raises(UserError, match="html"):
        write_page(tmp_path / "doctor.txt", "title", [], [], [])
