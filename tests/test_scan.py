"""The scan: every image looked at once, in order, bad ones named, never an error."""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convcraft.data.sample import Sample
from convcraft.data.scan import findings, refuse_if_too_bad, scan_images
from convcraft.errors import UserError

RNG = np.random.default_rng(11)


def random_pixels(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    pixels = RNG.integers(0, 256, (height, width, channels)).astype(np.uint8)
    return pixels if channels == 3 else pixels[:, :, 0]


def encoded(pixels: NDArray[np.uint8], image_format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, image_format, **options)
    return stream.getvalue()


def test_facts_come_in_order_whatever_the_number_of_threads() -> None:
    samples = [
        Sample(encoded(random_pixels(4 + n % 9, 5 + n % 7, 1 if n % 3 else 3)), n % 2, f"{n}.png") for n in range(300)
    ]
    scan = scan_images(samples, num_threads=3)
    assert [(fact.height, fact.width) for fact in scan.facts] == [(4 + n % 9, 5 + n % 7) for n in range(300)]
    assert [fact.channels for fact in scan.facts] == [1 if n % 3 else 3 for n in range(300)]
    assert scan.usable.all()
    again = scan_images(samples, num_threads=1)
    assert again.facts == scan.facts
    assert again.digests == scan.digests
    np.testing.assert_array_equal(again.thumbnails, scan.thumbnails)


def test_thumbnails_are_the_pixels_themselves_or_means_of_boxes() -> None:
    native, grey, large = random_pixels(32, 32), random_pixels(32, 32, 1), random_pixels(64, 96)
    scan = scan_images([Sample(image, 0, "") for image in (native, grey, large, encoded(native), b"")])
    assert scan.thumbnails.shape == (5, 32, 32, 3)
    assert scan.thumbnails.dtype == np.uint8
    np.testing.assert_array_equal(scan.thumbnails[0], native)
    np.testing.assert_array_equal(scan.thumbnails[1], np.repeat(grey[..., None], 3, axis=2))
    means = large.reshape(32, 2, 32, 3, 3).mean(axis=(1, 3))
    assert np.abs(scan.thumbnails[2] - means).max() <= 1
    np.testing.assert_array_equal(scan.thumbnails[3], native)
    assert not scan.thumbnails[4].any()


def test_the_digest_is_of_the_pixels_not_of_the_file(tmp_path: Path) -> None:
    pixels = random_pixels(1200, 1500)  # hashed in more than one strip
    path = tmp_path / "a.png"
    path.write_bytes(encoded(pixels))
    other = pixels.copy()
    other[1199, 1499, 2] ^= 1
    images: list[NDArray[np.uint8] | Path | bytes] = [
        pixels,
        path,
        encoded(pixels, "BMP"),
        encoded(pixels, "TIFF"),
        other,
        pixels.reshape(1500, 1200, 3),
    ]
    digests = scan_images([Sample(image, 0, "") for image in images]).digests
    assert len(set(digests[:4])) == 1
    assert len(set(digests)) == 3
    grey = pixels[:, :, 0]
    assert len(set(scan_images([Sample(grey, 0, ""), Sample(np.ascontiguousarray(grey), 0, "")]).digests)) == 1


def test_the_data_hash_tells_names_labels_and_pixels() -> None:
    pixels = random_pixels(8, 8)
    samples = [Sample(pixels, 0, "a"), Sample(random_pixels(8, 8), 1, "b"), Sample(b"bad", 1, "c")]
    scan = scan_images(samples)
    known = scan.data_hash(samples)
    assert scan_images([Sample(encoded(pixels), 0, "a"), *samples[1:]]).data_hash(samples) == known
    assert scan.data_hash([Sample(pixels, 1, "a"), *samples[1:]]) != known
    assert scan.data_hash([Sample(pixels, 0, "x"), *samples[1:]]) != known
    assert scan_images([Sample(255 - pixels, 0, "a"), *samples[1:]]).data_hash(samples) != known


def test_sizes_and_grey_are_told_of_usable_images_only() -> None:
    samples = [Sample(random_pixels(8, 9, 1), 0, "a"), Sample(random_pixels(8, 9, 1), 0, "b"), Sample(b"", 0, "c")]
    scan = scan_images(samples)
    assert scan.sizes == {(8, 9): 2}
    assert scan.all_grey
    assert not scan_images([*samples, Sample(random_pixels(8, 9), 0, "d")]).all_grey
    assert not scan_images([Sample(b"", 0, "c")]).all_grey


def test_progress_is_told_and_ends_at_the_total() -> None:
    told: list[tuple[int, int]] = []
    scan_images(
        [Sample(random_pixels(4, 4), 0, "")] * 150, progress=lambda done, total, what: told.append((done, total))
    )
    assert told == [(64, 150), (128, 150), (150, 150)]


def test_no_images_are_no_error() -> None:
    scan = scan_images([])
    assert scan.thumbnails.shape == (0, 32, 32, 3)
    assert scan.usable.shape == (0,)
    assert findings(scan, []) == ()


def kinds(samples: list[Sample]) -> dict[str, Any]:
    found = findings(scan_images(samples), samples)
    return {finding.kind: finding for finding in found}


def test_unreadable_images_are_named_with_their_reasons() -> None:
    samples = [
        Sample(random_pixels(4, 4), 0, "good"),
        Sample(b"", 0, "e1"),
        Sample(b"", 1, "e2"),
        Sample(b"PK\x03\x04", 0, "z"),
    ]
    found = findings(scan_images(samples), samples)
    assert [(finding.kind, finding.severity, finding.files) for finding in found] == [
        ("unreadable", "error", ("e1", "e2")),
        ("unreadable", "error", ("z",)),
    ]
    assert "zip archive" in found[1].message


def test_identical_pixels_are_copies_or_contradictions() -> None:
    one, two = random_pixels(8, 8), random_pixels(8, 8)
    samples = [Sample(one, 0, "a"), Sample(encoded(one), 0, "b"), Sample(two, 0, "c"), Sample(two, 1, "d")]
    found = kinds(samples)
    assert found["exact_duplicate"].files == ("a", "b")
    assert found["exact_duplicate"].severity == "info"
    assert found["label_error"].files == ("c", "d")
    assert found["label_error"].severity == "warning"
    assert kinds(samples[:1] + samples[2:3]) == {}


def test_the_few_that_differ_are_odd_and_a_mixed_folder_is_not() -> None:
    same = [Sample(random_pixels(8, 8), 0, f"{n}") for n in range(20)]
    found = kinds([*same, Sample(random_pixels(9, 8), 0, "odd"), Sample(random_pixels(8, 8, 1), 0, "grey")])
    assert found["odd_size"].files == ("odd",)
    assert found["odd_channels"].files == ("grey",)
    assert "odd_size" not in kinds([Sample(random_pixels(5 + n, 9), 0, f"{n}") for n in range(20)])
    assert kinds(same) == {}


def test_mistyped_files_and_animations_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(random_pixels(8, 8)))
    (tmp_path / "b.JPEG").write_bytes(encoded(random_pixels(8, 8), "JPEG"))
    frames = [Image.fromarray(random_pixels(8, 8)) for _ in range(3)]
    frames[0].save(tmp_path / "c.png", save_all=True, append_images=frames[1:])
    samples = [Sample(path, 0, path.name) for path in sorted(tmp_path.iterdir())]
    found = findings(scan_images(samples), samples)
    assert [(finding.kind, finding.files) for finding in found] == [
        ("odd_format", ("a.jpg",)),
        ("odd_format", ("c.png",)),
    ]


def bad_and_good(num_bad: int, num_good: int) -> list[Sample]:
    bad = [Sample(b"<html>", 0, f"bad/{n}.jpg") for n in range(num_bad)]
    return [*bad, *(Sample(random_pixels(4, 4), 0, f"good/{n}.png") for n in range(num_good))]


def test_over_one_percent_bad_stops_unless_allowed() -> None:
    samples = bad_and_good(3, 297)
    refuse_if_too_bad(scan_images(samples), samples, allow_bad=False)  # exactly 1 %
    samples = bad_and_good(13, 287)
    scan = scan_images(samples)
    with pytest.raises(UserError, match="--allow-bad") as caught:
        refuse_if_too_bad(scan, samples, allow_bad=False)
    text = str(caught.value)
    assert "13 of 300" in text
    assert "bad/9.jpg: is an HTML page" in text
    assert "bad/10.jpg" not in text
    assert "3 more" in text
    refuse_if_too_bad(scan, samples, allow_bad=True)


def test_where_nothing_is_usable_nothing_is_allowed() -> None:
    for samples in (bad_and_good(2, 0), []):
        with pytest.raises(UserError, match="none of the"):
            refuse_if_too_bad(scan_images(samples), samples, allow_bad=True)


# --- the corpus of bad images, small ---


@pytest.fixture(scope="module")
def bad_images() -> Iterator[ModuleType]:
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "bad_images.py"
    spec = importlib.util.spec_from_file_location("bad_images", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bad_images"] = module  # dataclasses look their module up here
    sys.path.insert(0, str(path.parent))  # as when the script is run: it imports its neighbour measured_on
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(path.parent))
    del sys.modules["bad_images"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_kind_of_bad_image_ends_as_it_should(bad_images: ModuleType, tmp_path: Path) -> None:
    cases = bad_images.make_corpus(tmp_path, 120, seed=5, bombs=False)
    results = [bad_images.look_at(tmp_path, case) for case in cases]
    assert [result for result in results if not result["as_expected"]] == []
    assert {case.expect for case in cases} == {"decoded", "refused", "either"}
    samples = [Sample(tmp_path / "images" / case.name, 0, case.name) for case in cases]
    scan = scan_images(samples)
    refused = {result["name"] for result in results if result["outcome"] == "refused"}
    named = {file for finding in findings(scan, samples) if finding.kind == "unreadable" for file in finding.files}
    assert named == refused
    with pytest.raises(UserError, match="--allow-bad"):
        refuse_if_too_bad(scan, samples, allow_bad=False)


def test_a_bomb_takes_no_time_and_no_memory(bad_images: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    made = bad_images.BOMBS["bomb_png_13000x13000"](RNG)
    (tmp_path / "images" / "bomb.png").write_bytes(made.content)
    answer = bad_images.ask(tmp_path, "bomb", "bomb.png")
    assert answer["outcome"] == "too_many_pixels"
    assert answer["milliseconds"] < bad_images.BOMB_MILLISECONDS
    assert answer["extra_mebibytes"] < bad_images.BOMB_MEBIBYTES
    # The measurement sees what it is meant to see: Pillow alone unpacks it.
    alone = bad_images.ask(tmp_path, "bomb", "bomb.png", "pillow")
    assert alone["extra_mebibytes"] > 2 * bad_images.BOMB_MEBIBYTES
