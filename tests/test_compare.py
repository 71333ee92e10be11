"""Two runs on the same images, by the predictions that evaluate saved."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from convcraft.cli.app import main
from convcraft.config import RunConfig
from convcraft.data.durable_files import write_json
from convcraft.data.preprocess import Preprocess
from convcraft.errors import UserError
from convcraft.evaluation.saved_predictions import SavedPredictions
from convcraft.training.run_folder import CLASSES, CONFIG, DATA, EVALUATION, PREDICTIONS, PREPROCESS
from convcraft.workflows.compare import compare

CLASS_NAMES = ("ant", "bee", "cat")
TARGETS = np.arange(90) % 3


def judged(
    run: Path, wrong: range, *, images: str = "set", classes: tuple[str, ...] = CLASS_NAMES, void: tuple[str, ...] = ()
) -> Path:
    """A run folder with saved predictions that are wrong on some images."""
    run.mkdir()
    RunConfig().save(run / CONFIG)
    write_json(run / CLASSES, list(classes))
    preprocess = Preprocess(height=8, width=8, channels=1, mean=(0.0,), std=(1.0,), interpolation="bilinear")
    preprocess.save(run / PREPROCESS)
    write_json(run / DATA, {})
    column = np.array([classes.index(name) for name in CLASS_NAMES])
    called = TARGETS.copy()
    called[wrong] = (called[wrong] + 1) % 3
    logits = 4 * np.eye(len(classes), dtype=np.float32)[column[called]]
    saved = SavedPredictions(logits, column[TARGETS], tuple(f"{number}.png" for number in range(90)))
    content = saved.to_bytes()
    (run / PREDICTIONS).write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    write_json(run / EVALUATION, {"data": "animals", "images": images, "void": void, "predictions_sha256": sha256})
    return run


def test_a_better_run_is_called_better_with_its_margin(tmp_path: Path) -> None:
    found = compare(judged(tmp_path / "old", range(0, 30)), judged(tmp_path / "new", range(25, 33)))
    assert found.agreement.accuracies == (60 / 90, 82 / 90)
    assert found.agreement.better == "new"
    assert found.agreement.difference == pytest.approx(22 / 90)
    assert (len(found.agreement.only_first), len(found.agreement.only_second)) == (3, 25)
    assert "new is better than old by 24.4 points" in found.agreement.verdict


def test_a_run_against_itself_is_no_better(tmp_path: Path) -> None:
    run = judged(tmp_path / "one", range(0, 9))
    found = compare(run, run)
    assert found.agreement.better is None
    assert found.agreement.difference == 0


def test_classes_in_another_order_are_put_in_order(tmp_path: Path) -> None:
    found = compare(
        judged(tmp_path / "one", range(0, 9)), judged(tmp_path / "two", range(0, 9), classes=("cat", "ant", "bee"))
    )
    assert found.agreement.agreement == 1.0
    assert found.agreement.accuracies == (0.9, 0.9)


def test_void_figures_are_named(tmp_path: Path) -> None:
    found = compare(judged(tmp_path / "one", range(3)), judged(tmp_path / "two", range(3), void=("opened before",)))
    assert found.void == ("two: opened before",)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    one = judged(tmp_path / "one", range(3))
    with pytest.raises(UserError, match="with other images"):
        compare(one, judged(tmp_path / "two", range(3), images="other"))
    with pytest.raises(UserError, match="classes only in"):
        compare(one, judged(tmp_path / "three", range(3), classes=("ant", "bee", "cat", "dog")))
    (one / EVALUATION).unlink()
    with pytest.raises(UserError, match="convcraft evaluate"):
        compare(one, one)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(judged(tmp_path / "old", range(0, 30))), str(judged(tmp_path / "new", range(25, 33)))]
    with pytest.raises(SystemExit) as end:
        main(["compare", *runs, "--json"])
    assert not end.value.code
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "difference   +24.44 points  (95 % interval +12.90 to +34.93)" or lines[2].startswith(
        "difference"
    )
    figures = json.loads(lines[-1])
    assert figures["better"] == "new"
    assert figures["runs"] == runs
