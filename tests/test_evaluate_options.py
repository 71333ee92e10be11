"""evaluate with slices, gates, robustness, views and ensembles: through the command line, and held against verify."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from convcraft.cli.app import main
from convcraft.config import RunConfig
from convcraft.data.durable_files import read_json, write_json
from convcraft.data.image_set import ImageSet
from convcraft.data.image_statistics import image_facts
from convcraft.data.preprocess import Preprocess
from convcraft.data.sample import Sample
from convcraft.data.table_columns import table_columns
from convcraft.errors import UserError
from convcraft.evaluation.saved_predictions import SavedPredictions
from convcraft.statistics import paired_difference_interval, wilson_interval
from convcraft.training.run_folder import EVALUATION, PREDICTIONS, RunDescription
from convcraft.workflows.evaluate import evaluate
from convcraft.workflows.evaluate_more import MORE_PREDICTIONS
from convcraft.workflows.evaluate_options import Asked, class_groups_of, gate_of
from convcraft.workflows.evaluate_robustness import ROBUSTNESS, Robustness
from convcraft.workflows.evaluate_slices import SLICES
from convcraft.workflows.evaluate_views import choose_views
from convcraft.workflows.report import redraw
from convcraft.workflows.seal import seal
from convcraft.workflows.test_reads import TEST_READS
from convcraft.workflows.train import train
from convcraft.workflows.verify import Verification, verify

QUIET = Console(quiet=True)
PARTS = {"train": 48, "val": 24, "test": 64}


def write_data(root: Path) -> None:
    """Dark and light pictures. Those of camera B, in the test part alone, are negatives: the network must err there."""
    rng = np.random.default_rng(0)
    rows = []
    for part, number in PARTS.items():
        for index in range(number):
            light, inverted = index % 2, part == "test" and index >= 40
            pixels = rng.integers(0, 100, (20 + index % 3, 20, 3)) + 150 * light
            name = f"{part}{index}.png"
            Image.fromarray((255 - pixels if inverted else pixels).astype(np.uint8)).save(root / name)
            camera = "B" if inverted else "A"
            rows.append((name, ("dark", "light")[light], part, camera, f"{index / 10:.1f}", "" if index % 5 else "x"))
    with (root / "data.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "label", "split", "camera", "hour", "note"), *rows])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table of pictures and two runs on them."""
    root = tmp_path_factory.mktemp("options")
    write_data(root)
    config = RunConfig().changed(
        data={"source": str(root / "data.csv")},
        preprocess={"image_size": (28, 28)},
        model={"name": "lenet5"},
        training={"epochs": 4, "batch_size": 8, "device": "cpu"},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        train(config, root / "run", console=QUIET)
        train(config.changed(training={"seed": 1}), root / "second", console=QUIET)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of the runs, to be changed; the data stay."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(made / "cache"))
    for name in ("run", "second"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path


def command(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, list[str], str]:
    """Exit code, lines of standard output, standard error."""
    with pytest.raises(SystemExit) as end:
        main([*map(str, words), "--device", "cpu", "--quiet", "--json"])
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out.splitlines(), said.err


def checked(run: Path, **settings: bool) -> Verification:
    return verify(run, device="cpu", console=QUIET, **settings)


def failing(run: Path, **settings: bool) -> set[str]:
    return {check.file for check in checked(run, **settings).checks if check.outcome == "failed"}


def not_passed(result: Verification) -> set[str]:
    """The package's own files may be edited while the tests run: that its code differs is no finding here."""
    return {check.what for check in result.checks if check.outcome != "passed"} - {"code"}


def right(run: Path) -> NDArray[np.bool_]:
    saved = SavedPredictions.load(run / PREDICTIONS)
    return np.asarray(saved.logits.argmax(axis=1) == saved.targets)


CAMERA_B = np.arange(PARTS["test"]) >= 40  # the test part keeps the order of the table


# --- slices and gates ---


def test_a_planted_bad_slice_is_found_and_the_gate_ends_with_one(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = root / "run"
    options = ("--slice-column", "camera", "--slice-column", "hour", "--fail-under", "0.9", "--fail-gap", "0.2")
    code, lines, _ = command(capsys, "evaluate", run, *options)
    assert code == 1
    told = json.loads(lines[-1])
    worst = told["slices"]["worst"]["result"]
    assert told["slices"]["worst"]["is_shown"] is True
    assert worst["name"] == "camera = B"
    here, elsewhere = right(run)[CAMERA_B], right(run)[~CAMERA_B]
    assert elsewhere.mean() > 0.9 > 0.1 > here.mean()  # the plant has grown
    assert (worst["num_correct"], worst["num_images"]) == (here.sum(), 24)
    assert told["gate"]["passed"] is False
    failed = [sentence for sentence in told["gate"]["sentences"] if sentence.startswith("Failed")]
    assert len(failed) == 3  # all images, a slice under the threshold, a gap
    assert any("camera = B" in line for line in lines if line.startswith("slices"))
    assert sum(line.startswith("gate") for line in lines) == len(told["gate"]["sentences"])
    published = read_json(run / EVALUATION)
    assert all(published[name] == told[name] for name in ("slices", "gate", "trust"))
    names = [entry["name"] for entry in told["slices"]["slices"]]
    assert names == ["camera = A", "camera = B", "hour = 0 to 2.5", "hour = 2.6 to 6.3"]  # text of numbers is binned
    assert not_passed(checked(run)) == set()


def test_a_gate_that_is_passed_ends_with_zero(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines, _ = command(capsys, "evaluate", root / "run", "--slice-column", "camera", "--fail-gap", "1")
    assert code == 0
    assert json.loads(lines[-1])["gate"]["passed"] is True
    assert next(line for line in lines if line.startswith("gate")).split(maxsplit=1)[1].startswith("Passed")


def test_a_gate_alone_judges_slices_by_what_the_pictures_show(root: Path, made: Path) -> None:
    gate = gate_of(0.1, None, "optimistic")
    result = evaluate(root / "run", device="cpu", asked=Asked(gate=gate), console=QUIET)
    kept = read_json(root / "run" / SLICES)
    pictures = [Sample(made / f"test{index}.png", 0, "") for index in range(PARTS["test"])]
    facts = image_facts(pictures)
    assert set(kept["facts"]) == set(facts) - {"width"}  # the same for all
    np.testing.assert_allclose(kept["facts"]["brightness"], facts["brightness"], rtol=1e-5)
    assert kept["facts"]["height"] == facts["height"].tolist()
    assert result.more.gate is not None
    low, high = wilson_interval(result.report.num_correct, PARTS["test"])
    assert f"({100 * high:.1f} %)" in result.more.gate.sentences[0]
    assert low < result.report.accuracy < high


def test_without_options_nothing_is_sliced_and_old_files_go(root: Path) -> None:
    run = root / "run"
    evaluate(run, device="cpu", asked=Asked(image_facts=True), console=QUIET)
    assert (run / SLICES).exists()
    result = evaluate(run, device="cpu", console=QUIET)
    assert result.more.slices is None
    assert not (run / SLICES).exists()
    assert read_json(run / EVALUATION)["slices"] is None
    assert not_passed(checked(run)) == set()


def test_groups_of_classes_and_columns_that_do_not_exist_are_refused_before_the_test_images_are_opened(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = root / "run"
    code, lines, _ = command(capsys, "evaluate", run, "--slice-column", "Camra")
    assert code == 2
    error = json.loads(lines[-1])["error"]
    assert error["fix"] == "Did you mean 'camera'?"
    assert "hour" in error["expected"]
    code, lines, _ = command(capsys, "evaluate", run, "--class-group", "night=dark,black")
    assert (code, "black" in json.loads(lines[-1])["error"]["received"]) == (2, True)
    assert not (run / TEST_READS).exists()
    code, lines, _ = command(capsys, "evaluate", run, "--class-group", "night=dark")
    assert code == 0
    names = [entry["name"] for entry in json.loads(lines[-1])["slices"]["slices"]]
    assert sorted(names) == ["class group = (no group)", "class group = night"]


@pytest.mark.parametrize("written", ["night", "=dark", "night=", "night= ,"])
def test_class_groups_are_read_strictly(written: str) -> None:
    assert class_groups_of(["a b=x, y", "c=z"]) == {"a b": ("x", "y"), "c": ("z",)}
    with pytest.raises(UserError, match="NAME=CLASS"):
        class_groups_of([written])
    with pytest.raises(UserError, match="twice"):
        class_groups_of(["a=x", "a=y"])


def test_options_that_ask_for_nothing_are_refused() -> None:
    assert gate_of(None, None, "estimate") is None
    with pytest.raises(UserError, match="without a threshold"):
        gate_of(None, None, "pessimistic")
    with pytest.raises(UserError, match=r"0\.\.1"):
        gate_of(90, None, "estimate")
    with pytest.raises(UserError, match="0 images"):
        Asked(robustness_images=0)
    with pytest.raises(UserError, match="each column once"):
        Asked(slice_columns=("a", "a"))
    asked = Asked(True, ("a",), {"b": ("c",)}, gate_of(0.5, 0.1, "pessimistic"), 7, True, (Path("d"),))
    assert Asked.from_dict(json.loads(json.dumps(asked.to_dict()))) == asked


def test_columns_are_joined_by_row_and_typed(made: Path, tmp_path: Path) -> None:
    samples = [Sample(b"", 0, f"data.csv#{row}") for row in (50, 0, 73)]
    columns = table_columns(str(made / "data.csv"), ["hour", "note", "camera"], samples)
    assert columns == {"hour": [0.2, 0.0, 0.1], "note": [None, "x", None], "camera": ["A", "A", "A"]}
    (tmp_path / "data").mkdir()
    for part, start in (("train", 0), ("test", 10)):
        table = pyarrow.table({"image": ["a"] * 2, "n": [start, None], "list": [[1], [2]], "ok": [True, False]})
        pyarrow.parquet.write_table(table, tmp_path / "data" / f"{part}-00000-of-00001.parquet")
    samples = [Sample(b"", 0, f"{part}-00000-of-00001.parquet#{row}") for part, row in (("test", 0), ("train", 1))]
    assert table_columns(str(tmp_path), ["n", "ok"], samples) == {"n": [10, None], "ok": [True, False]}
    with pytest.raises(UserError, match="type list"):
        table_columns(str(tmp_path), ["list"], samples)
    with pytest.raises(UserError, match="no table"):
        table_columns("mnist", ["n"], samples)


# --- what verify makes of it ---


def test_changed_slices_are_found_by_the_seal_and_by_judging_again(root: Path) -> None:
    run = root / "run"
    asked = Asked(slice_columns=("camera",), gate=gate_of(None, 0.5, "estimate"))
    evaluate(run, device="cpu", asked=asked, console=QUIET)
    kept, published = read_json(run / SLICES), read_json(run / EVALUATION)
    swapped = {**kept, "columns": {"camera": list(reversed(kept["columns"]["camera"]))}}
    write_json(run / SLICES, swapped)
    assert failing(run) == {SLICES}
    seal(run)  # sealed anew: the figures are not those of these slices, and the table holds others
    assert failing(run) == {EVALUATION, SLICES}
    write_json(run / SLICES, kept)
    write_json(run / EVALUATION, {**published, "gate": {**published["gate"], "passed": True}})
    seal(run)
    assert failing(run) == {EVALUATION}
    write_json(run / SLICES, {"columns": {}})
    seal(run)
    assert any("slices" in check.detail for check in checked(run).checks if check.outcome == "failed")


def test_a_page_drawn_again_keeps_what_was_asked_for(root: Path) -> None:
    run = root / "run"
    evaluate(run, device="cpu", asked=Asked(slice_columns=("camera",)), console=QUIET)
    before = read_json(run / EVALUATION)
    redraw(run, console=QUIET)
    after = read_json(run / EVALUATION)
    assert after["slices"] == before["slices"]
    assert after["test_reads"] == before["test_reads"] + 1


# --- ensembles ---


def probabilities(run: Path) -> NDArray[np.float64]:
    logits = SavedPredictions.load(run / PREDICTIONS).logits.astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def test_an_ensemble_of_two_runs_is_their_mean(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, second = root / "run", root / "second"
    evaluate(second, device="cpu", console=QUIET)
    code, lines, _ = command(capsys, "evaluate", run, "--with", second)
    assert code == 0
    told = json.loads(lines[-1])["ensemble"]
    targets = SavedPredictions.load(run / PREDICTIONS).targets
    together = (probabilities(run) + probabilities(second)).argmax(axis=1) == targets
    assert told["members"] == ["run", "second"]
    assert told["accuracy"] == pytest.approx(together.mean())
    assert told["test_accuracy"] == pytest.approx({"run": right(run).mean(), "second": right(second).mean()})
    best = max(told["validation_accuracy"], key=lambda name: told["validation_accuracy"][name])
    assert told["best"] == best
    expected = paired_difference_interval(right(root / best), together)
    assert told["interval"] == pytest.approx(list(expected))
    with np.load(run / MORE_PREDICTIONS) as kept:
        assert len(kept["members_validation_targets"]) == PARTS["val"]
    assert sum('"opened"' in line for line in (second / TEST_READS).read_text(encoding="utf-8").splitlines()) == 2
    assert not_passed(checked(run)) == set()
    assert not_passed(checked(second)) == set()
    flattered = read_json(run / EVALUATION)
    flattered["ensemble"]["gain"] = 0.5
    write_json(run / EVALUATION, flattered)
    seal(run)
    assert failing(run) == {EVALUATION}


def test_runs_that_make_no_ensemble_are_refused(root: Path, made: Path, tmp_path: Path) -> None:
    run, second = root / "run", root / "second"
    for members, message in (((run,), "twice"), ((second, second), "twice"), ((tmp_path,), "no run folder")):
        with pytest.raises(UserError, match=message):
            evaluate(run, device="cpu", asked=Asked(members=members), console=QUIET)
    data = read_json(second / "data.json")
    write_json(second / "data.json", {**data, "sha256": {**data["sha256"], "test": "other"}})
    with pytest.raises(UserError, match="other test images"):
        evaluate(run, device="cpu", asked=Asked(members=(second,)), console=QUIET)
    write_json(second / "classes.json", ["dark", "bright"])
    with pytest.raises(UserError, match="bright"):
        evaluate(run, device="cpu", asked=Asked(members=(second,)), console=QUIET)
    assert not (run / TEST_READS).exists()


# --- views ---


def test_views_are_chosen_on_validation_and_judged_on_test(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = root / "run"
    code, lines, _ = command(capsys, "evaluate", run, "--tta")
    assert code == 0
    told = json.loads(lines[-1])["views"]
    with np.load(run / MORE_PREDICTIONS) as kept:
        after = kept["views"].argmax(axis=1) == SavedPredictions.load(run / PREDICTIONS).targets
    assert told["after"] == pytest.approx(after.mean())
    assert told["before"] == pytest.approx(right(run).mean())
    assert told["interval"] == pytest.approx(list(paired_difference_interval(right(run), after)))
    assert [note.split(":")[0] for note in told["notes"]] == ["Mirrored", "Shifted by 1 px"]
    result = checked(run)
    assert result.passed
    assert not_passed(result) == {"views"}  # sealed, not predicted again
    assert not_passed(checked(run, everything=True)) == set()
    with np.load(run / MORE_PREDICTIONS) as kept:
        arrays = dict(kept)
    arrays["views"] = arrays["views"][:, ::-1]
    np.savez_compressed(run / MORE_PREDICTIONS, **arrays)
    assert failing(run) == {MORE_PREDICTIONS}
    seal(run)
    assert EVALUATION in failing(run)


def sided(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Class 1 where the left half is lighter than the right."""
    left, right = pixels[:, :, :4].mean(axis=(1, 2, 3)), pixels[:, :, 4:].mean(axis=(1, 2, 3))
    share = np.where(left > right, 0.9, 0.1)
    return np.stack([1 - share, share], axis=1).astype(np.float32)


@pytest.mark.parametrize("trained_mirrored", [False, True])
def test_a_mirror_that_changes_the_class_is_left_out(root: Path, trained_mirrored: bool) -> None:
    contract = Preprocess(height=8, width=8, channels=1, resize="stretch", mean=(0.5,), std=(0.5,))
    config = RunConfig().changed(augment={"horizontal_flip": trained_mirrored})
    run = RunDescription(root, config, ("right", "left"), contract, {})
    halves = np.zeros((20, 8, 8), np.uint8)
    halves[::2, :, :4], halves[1::2, :, 4:] = 200, 200
    samples = [Sample(pixels, 1 - index % 2, str(index)) for index, pixels in enumerate(halves)]
    held_out = ImageSet.build(samples, contract, 1 << 20)
    views, notes = choose_views(run, sided, held_out)
    assert ("mirrored" in [view.name for view in views]) == trained_mirrored
    assert ("left out" in notes[0]) != trained_mirrored
    assert "1 px up" in [view.name for view in views]
    without, notes = choose_views(run, sided, None)
    assert ("mirrored" in [view.name for view in without]) == trained_mirrored
    assert len(without) == 4 + trained_mirrored
    assert "no validation images" in notes[1]


# --- robustness ---


def test_robustness_is_measured_kept_and_sealed(root: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = root / "run"
    code, lines, _ = command(capsys, "evaluate", run, "--robustness", "--robustness-images", "10")
    assert code == 0
    told = json.loads(lines[-1])["robustness"]
    assert told == read_json(run / ROBUSTNESS) == read_json(run / EVALUATION)["robustness"]
    assert (told["num_images"], told["num_available"]) == (10, PARTS["test"])
    assert len(told["corruptions"]["by_corruption"]) == 15
    assert [curve["name"] for curve in told["curves"]] == ["rotation", "shift_x", "shift_y", "scale"]
    pgd, margin = (
        [point["num_correct"] for point in told["attacks"][name]["points"]] for name in ("pgd", "pgd_margin")
    )
    assert all(one <= other for one, other in zip(pgd, margin, strict=True))
    assert sum(line.startswith("robustness") for line in lines) == 2 + len(told["attacks"]["warnings"])
    assert Robustness.load(run).to_dict() == told  # there and back
    result = checked(run)
    assert result.passed
    assert not_passed(result) == {"robustness"}
    (check,) = [check for check in result.checks if check.what == "robustness"]
    assert check.detail.startswith("sealed, not measured again")
    assert not_passed(checked(run, everything=True)) == set()
    assert evaluate(run, device="cpu", console=QUIET).robustness == Robustness.load(run)  # not measured again
    assert read_json(run / ROBUSTNESS) == told
    changed = {**told, "seconds": 0.0}
    write_json(run / ROBUSTNESS, changed)
    assert failing(run) == {ROBUSTNESS}
    seal(run)
    assert failing(run) == {ROBUSTNESS}  # evaluation.json says otherwise
    evaluate(run, str(made / "data.csv"), test_split="val", device="cpu", console=QUIET)  # of other images
    assert read_json(run / EVALUATION)["robustness"] is None
    assert not_passed(checked(run)) == {"sealed test"}  # void: training was stopped by these images


def test_forged_robustness_is_found_where_all_is_measured_again(root: Path) -> None:
    run = root / "run"
    evaluate(run, device="cpu", asked=Asked(robustness_images=4), console=QUIET)
    forged: dict[str, Any] = read_json(run / ROBUSTNESS)
    for points in [curve["points"] for curve in forged["curves"]]:
        for point in points:
            point["num_correct"] = 0
    write_json(run / ROBUSTNESS, forged)
    write_json(run / EVALUATION, {**read_json(run / EVALUATION), "robustness": forged})
    seal(run)
    assert checked(run).passed  # which is why it is not called complete
    assert not checked(run).complete
    assert failing(run, everything=True) == {ROBUSTNESS}
    damaged = {name: value for name, value in forged.items() if name != "flip"}
    write_json(run / ROBUSTNESS, damaged)
    with pytest.raises(UserError, match="--robustness"):
        Robustness.load(run)


def test_runs_of_older_versions_are_still_verified(root: Path) -> None:
    run = root / "run"
    evaluate(run, device="cpu", console=QUIET)
    newer = {"asked", "slices", "gate", "trust", "views", "ensemble", "robustness"}
    published = {name: value for name, value in read_json(run / EVALUATION).items() if name not in newer}
    (run / MORE_PREDICTIONS).unlink(missing_ok=True)
    write_json(run / EVALUATION, published)
    seal(run)
    assert not_passed(checked(run)) == set()


def test_trust_is_judged_on_the_test_images(root: Path) -> None:
    run = root / "run"
    result = evaluate(run, device="cpu", console=QUIET)
    trust = result.more.trust
    assert trust is not None
    assert trust.accuracy == pytest.approx(result.report.accuracy)
    assert sum(group.num_images for group in trust.groups) == PARTS["test"]
    assert read_json(run / EVALUATION)["trust"]["temperature"] == trust.temperature
    assert ("trust", trust.sentence) in result.lines
