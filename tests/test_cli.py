"""The command line as a user meets it: exit codes, messages, JSON, and the main job on real digits."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convcraft.cli.app import _run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished two-epoch run on digits, made by the command line."""
    folder = tmp_path_factory.mktemp("runs") / "größe 照片"
    assert _run(["train", "digits", "--epochs", "2", "--out", str(folder), "--quiet", "--device", "cpu"]) == 0
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = _run(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def last_json(out: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(out.splitlines()[-1])
    return value


def test_a_run_folder_holds_what_it_promises(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert {
        "config.yaml", "classes.json", "preprocess.json", "data.json", "metrics.jsonl", "checkpoints", "report.html",
        "summary.json", "tensorboard",
    } <= names  # fmt: skip
    assert json.loads((run / "classes.json").read_text()) == [str(digit) for digit in range(10)]
    assert list((run / "tensorboard").glob("events*"))


def test_evaluate_gives_the_keys_that_scripts_rely_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "evaluate", str(run), "--json", "--quiet")
    values = last_json(out)
    assert code == 0
    assert values["num_images"] == 359
    assert values["accuracy"] == pytest.approx(values["num_correct"] / 359)
    assert values["interval"][0] < values["accuracy"] < values["interval"][1]
    assert values["accuracy"] > 0.5
    assert len(values["per_class"]) == 10
    assert values["seconds"] > 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Confusion matrix" in page
    assert json.loads((run / "evaluation.json").read_text())["num_correct"] == values["num_correct"]


def test_predict_reads_files_folders_and_standard_input(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.datasets import load_digits

    digits = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    (tmp_path / "more").mkdir()
    for index in (2, 10, 1):
        Image.fromarray(digits[index]).resize((64, 64), 0).save(tmp_path / "more" / f"{index}.png")
    Image.fromarray(digits[0]).convert("RGB").save(tmp_path / "zero.png")
    code, out, _ = call(capsys, "predict", str(run), str(tmp_path / "zero.png"), str(tmp_path / "more"), "--json")
    predictions = last_json(out)["predictions"]
    assert code == 0
    assert [Path(entry["image"]).name for entry in predictions] == ["zero.png", "1.png", "2.png", "10.png"]
    assert all(0 < entry["probability"] <= 1 for entry in predictions)
    assert all(entry["label"] in entry["probabilities"] for entry in predictions)
    data = (tmp_path / "zero.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": io.BytesIO(data)}))
    code, out, _ = call(capsys, "predict", str(run), "-", "--json")
    piped = last_json(out)["predictions"][0]
    assert piped["label"] == predictions[0]["label"]
    assert piped["probability"] == pytest.approx(predictions[0]["probability"], abs=1e-6)


def test_predict_names_the_bad_one_and_answers_the_rest(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"<html>")
    code, out, _ = call(capsys, "predict", str(run), str(tmp_path), "--json")
    entries = {Path(entry["image"]).name: entry for entry in last_json(out)["predictions"]}
    assert code == 2
    assert "label" in entries["good.png"]
    assert "problem" in entries["bad.png"]


def test_predicted_pixels_are_the_evaluated_pixels(run: Path, tmp_path: Path) -> None:
    """The same image through a file, as predict reads it, and through the test set: bit-identical input."""
    from convcraft.data.dataset import open_test_data
    from convcraft.data.loader import eval_batches
    from convcraft.training.run_folder import read_run

    description = read_run(run)
    images = open_test_data(
        description.config.data, description.classes, description.preprocess, description.data["sha256"]["test"]
    )
    batch = next(iter(eval_batches(images, 8)))
    for row in range(8):
        Image.fromarray(np.asarray(images.samples[row].image)).save(tmp_path / "one.png")
        np.testing.assert_array_equal(description.preprocess(tmp_path / "one.png"), batch.images[row].numpy())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "nowhere"], "fashion-mnist"),
        (["train", "digits", "--summary", "--lr-range"], "--summary"),
        (["train", "--out", "run", "--resume", "--summary"], "--summary"),
        (["train", "digits", "--lr-range", "--profile"], "--lr-range"),
        (["train", "digits", "--epochs", "many"], "epochs"),
        (["train", "digits", "--frobnicate"], "--frobnicate"),
        (["train", "digits", "--model", "resnet_18"], "resnet18"),
        (["train", "digits", "--recipe", "digit"], "Did you mean digits"),
        (["train", "digits", "--device", "tpu"], "auto, cpu, cuda, mps"),
        (["train", "digits", "--set", "optim.learningrate=1"], "optim.learning_rate"),
        (["train", "digits", "--resume"], "--out"),
        (["train"], "DATA"),
        (["evaluate", "nowhere"], "no run folder"),
        (["verify", "nowhere"], "no run folder"),
        (["predict", "nowhere", "x.png"], "no run folder"),
        (["predict"], "RUN"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_wrong_use_is_one_clear_message(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *arguments, "--json")
    assert code == 2
    assert says in err
    assert "Traceback" not in err
    assert set(last_json(out)["error"]) == {"received", "expected", "fix"}
    assert not list(tmp_path.rglob("checkpoints"))


def test_a_finished_run_is_not_overwritten(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "summary.json").read_bytes()
    code, _, err = call(capsys, "train", "digits", "--out", str(run))
    assert code == 2
    assert "--resume" in err
    code, _, err = call(capsys, "train", "digits", "--epochs", "5", "--out", str(run), "--resume")
    assert code == 2
    assert "training.epochs" in err
    assert (run / "summary.json").read_bytes() == before


def test_a_missing_picture_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "predict", str(run), "nothing.png")
    assert code == 2
    assert "nothing.png" in err


def test_damaged_weights_are_not_used(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    for file in (broken / "checkpoints").glob("*/*.safetensors"):
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    code, _, err = call(capsys, "evaluate", str(broken))
    assert code == 2
    assert "safetensors" in err


def test_the_last_weights_are_not_replaced_by_older_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    arguments = ["train", "digits", "--model", "lenet5", "--epochs", "2", "--out", str(out), "--quiet"]
    assert _run([*arguments, "--set", "training.select=last"]) == 0
    newest = sorted((out / "checkpoints").glob("step-*"))[-1]
    for file in newest.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    code, _, err = call(capsys, "evaluate", str(out))
    assert code == 2
    assert newest.name in err


def test_a_refused_resume_leaves_the_run_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(10):
            pixels = draw.integers(0, 255, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{index}.png")
    out = tmp_path / "run"
    assert _run(["train", str(tmp_path / "data"), "--model", "lenet5", "--epochs", "1", "--out", str(out), "-q"]) == 0
    before = {name: (out / name).read_bytes() for name in ("classes.json", "preprocess.json", "data.json")}
    (tmp_path / "data" / "dog").rename(tmp_path / "data" / "ant")
    code, _, err = call(capsys, "train", "--out", str(out), "--resume")
    assert code == 2
    assert "classes" in err
    assert {name: (out / name).read_bytes() for name in before} == before


def test_a_failed_start_does_not_block_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    for wrong in (["train", "nowhere"], ["train", "digits", "--model", "nonsense"]):
        assert call(capsys, *wrong, "--out", str(out))[0] == 2
    assert call(capsys, "train", "nowhere", "--out", str(tmp_path / "other"))[0] == 2
    assert not (tmp_path / "other").exists()
    assert _run(["train", "digits", "--model", "lenet5", "--epochs", "1", "--out", str(out), "--quiet"]) == 0


def test_weights_of_other_classes_keep_their_classifier_to_themselves(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(0)
    for name in "abcdefghij":
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(4):
            pixels = draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{index}.png")
    weights = str(data_dir / "weights" / "resnet20_cifar10.safetensors")
    code, _, err = call(
        capsys, "train", str(tmp_path / "data"), "--model", "resnet20_cifar", "--weights", weights, "--epochs", "0",
        "--out", str(tmp_path / "run"),
    )  # fmt: skip
    assert code == 0
    assert "made for other classes" in err


def test_class_order_is_natural_and_other_data_matches_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders 2 and 10: natural order; evaluation data that lacks a class must not shift the labels."""
    draw = np.random.default_rng(0)
    for name, level in (("1", 30), ("2", 120), ("10", 220)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(20):
            pixels = (draw.integers(-25, 25, (8, 8)) + level).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{index}.png")
    out = tmp_path / "run"
    arguments = ["train", str(tmp_path / "data"), "--model", "lenet5", "--epochs", "15", "--out", str(out), "--quiet"]
    assert _run([*arguments, "--batch-size", "8", "--set", "augment.brightness=0", "--set", "augment.contrast=0"]) == 0
    assert json.loads((out / "classes.json").read_text()) == ["1", "2", "10"]
    for name, level in (("2", 120), ("10", 220)):
        (tmp_path / "other" / name).mkdir(parents=True)
        for index in range(5):
            pixels = (draw.integers(-20, 20, (8, 8)) + level).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "other" / name / f"{index}.png")
    code, printed, _ = call(capsys, "evaluate", str(out), str(tmp_path / "other"), "--json", "--quiet")
    values = last_json(printed)
    assert code == 0
    assert values["num_images"] == 10
    assert values["accuracy"] == 1.0
    assert [entry["support"] for entry in values["per_class"]] == [0, 5, 5]


def test_a_signal_saves_and_resume_finishes(tmp_path: Path) -> None:
    """A real process, a real SIGTERM in the middle of training: exit code 75, then exactly the undisturbed weights."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command = [sys.executable, "-m", "convcraft", "train", "digits", "--epochs", "4", "--model", "lenet5", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--out", str(parts)], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (parts / "checkpoints").exists():  # made at the end of the first epoch
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "--resume" in err
    resumed = subprocess.run(
        [*command, "--out", str(parts), "--resume"], env=environment, capture_output=True, text=True
    )
    straight = subprocess.run([*command, "--out", str(whole)], env=environment, capture_output=True, text=True)
    assert last_json(resumed.stdout)["weights_sha256"] == last_json(straight.stdout)["weights_sha256"]
    assert (whole / "metrics.jsonl").read_bytes() == (parts / "metrics.jsonl").read_bytes()


def test_help_needs_no_torch() -> None:
    code = "import sys; import convcraft.cli.app; print('torch' in sys.modules or 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
