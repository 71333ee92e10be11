"""verify computes every published figure again; whatever is changed in a run, it fails and names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from convcraft.cli.app import main
from convcraft.config import RunConfig
from convcraft.data.durable_files import read_json, write_json
from convcraft.data.sample import Finding
from convcraft.errors import UserError
from convcraft.evaluation.saved_predictions import SavedPredictions
from convcraft.training.run_folder import CONFIG, EVALUATION, PREDICTIONS
from convcraft.workflows.checks import Verification
from convcraft.workflows.evaluate import evaluate, void_reasons
from convcraft.workflows.seal import SEAL, seal
from convcraft.workflows.test_reads import TEST_READS, TestReads, broken_lines, record_test_read
from convcraft.workflows.train import train
from convcraft.workflows.verify import verify

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a run that was evaluated."""
    root = tmp_path_factory.mktemp("verify")
    rng = np.random.default_rng(0)
    for name, least in (("dark", 0), ("light", 120)):
        (root / "data" / name).mkdir(parents=True)
        for number in range(20):
            pixels = (rng.integers(0, 130, (16, 16, 3)) + least).astype(np.uint8)
            Image.fromarray(pixels).save(root / "data" / name / f"{number}.png")
    config = RunConfig().changed(
        data={"source": str(root / "data"), "val_fraction": 0.25, "test_fraction": 0.25},
        preprocess={"image_size": (28, 28)},
        training={"epochs": 1, "batch_size": 8, "device": "cpu"},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        train(config, root / "run", console=QUIET)
        evaluate(root / "run", console=QUIET)
    return root


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, to be changed; the data stay."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


def checked(run: Path, **settings: bool) -> Verification:
    return verify(run, device="cpu", console=QUIET, **settings)


def failing(result: Verification) -> set[str]:
    return {check.file for check in result.checks if check.outcome == "failed"}


def test_an_untouched_run_is_verified_from_its_weights(run: Path) -> None:
    result = checked(run)
    assert result.complete, [check for check in result.checks if check.outcome != "passed"]
    assert {check.what for check in result.checks} >= {"record of openings", "seal", "files", "figures", "predictions"}
    before = (run / TEST_READS).read_bytes()
    assert checked(run).passed
    assert (run / TEST_READS).read_bytes() == before  # nothing was learned, so nothing is counted


def sealed_files(run: Path) -> list[str]:
    return list(read_json(run / SEAL)["files"])


def test_the_seal_holds_all_that_figures_hang_on(run: Path) -> None:
    names = sealed_files(run)
    assert {CONFIG, "classes.json", "preprocess.json", "data.json", "seen_images.npy", "summary.json"} <= set(names)
    assert {EVALUATION, PREDICTIONS, "report.html", "metrics.jsonl"} <= set(names)
    assert any(name.endswith("model.safetensors") for name in names)


def test_one_changed_byte_in_any_file_fails_and_names_it(run: Path) -> None:
    for name in sealed_files(run):
        path = run / name
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert failing(checked(run, with_data=False)) == {name}
        path.unlink()
        assert failing(checked(run, with_data=False)) == {name}
        path.write_bytes(whole)
    assert checked(run, with_data=False).passed


def test_the_seal_and_the_record_cannot_be_changed_either(run: Path) -> None:
    for name in (SEAL, TEST_READS):
        whole = (run / name).read_bytes()
        for place in range(0, len(whole) - 1, 7):
            (run / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert not checked(run, with_data=False).passed, (name, place)
        (run / name).write_bytes(whole)
    lines = (run / TEST_READS).read_bytes().splitlines(keepends=True)
    (run / TEST_READS).write_bytes(b"".join(lines[1:]))  # an opening is taken out
    assert failing(checked(run, with_data=False)) == {TEST_READS}
    (run / TEST_READS).write_bytes(b"".join(lines[:-1]))  # the seal's own line is cut off
    assert failing(checked(run, with_data=False)) == {SEAL}


def sealed_again(run: Path, change: Callable[[Path], None]) -> Verification:
    """Someone changes a run and seals it anew: only computing the figures again can tell."""
    change(run)
    seal(run)
    return checked(run)


def flattered(run: Path) -> None:
    figures = read_json(run / EVALUATION)
    figures["accuracy"] = 0.987
    write_json(run / EVALUATION, figures)


def other_predictions(run: Path) -> None:
    saved = SavedPredictions.load(run / PREDICTIONS)
    forged = replace(saved, logits=np.where(np.eye(2, dtype=bool)[saved.targets], 9.0, 0.0).astype(np.float32))
    (run / PREDICTIONS).write_bytes(forged.to_bytes())


def other_class_names(run: Path) -> None:
    write_json(run / "classes.json", ["light", "dark"])


@pytest.mark.parametrize(
    ("change", "named"),
    [(flattered, EVALUATION), (other_predictions, PREDICTIONS), (other_class_names, EVALUATION)],
)
def test_a_forged_run_is_found_by_computing_again(run: Path, change: Callable[[Path], None], named: str) -> None:
    assert named in failing(sealed_again(run, change))


def test_forged_predictions_with_figures_to_match_are_not_what_the_weights_say(run: Path) -> None:
    import hashlib

    from convcraft.training.run_folder import read_run
    from convcraft.workflows.evaluate import figures_of
    from convcraft.workflows.evaluate_more import MoreInputs

    other_predictions(run)
    saved, published = SavedPredictions.load(run / PREDICTIONS), read_json(run / EVALUATION)
    judged = figures_of(saved, read_run(run), None)
    forged = {
        **published,
        **judged.to_dict(),
        **MoreInputs.load(read_run(run), published).judge(judged.predictions).to_dict(),
        "predictions_sha256": hashlib.sha256(saved.to_bytes()).hexdigest(),
    }
    assert forged["accuracy"] == 1.0
    write_json(run / EVALUATION, forged)
    seal(run)
    assert failing(checked(run)) == {PREDICTIONS}
    assert checked(run, with_data=False).passed  # which is why it is not called complete
    assert not checked(run, with_data=False).complete


def test_changed_test_images_fail_and_missing_ones_are_said_to_be_missing(
    run: Path, made: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(made / "data", tmp_path / "data"))
    config = RunConfig.load(run / CONFIG)
    config.changed(data={"source": str(data)}).save(run / CONFIG)
    seal(run)
    assert checked(run).complete
    for path in sorted(data.rglob("*.png")):
        Image.open(path).rotate(90).save(path)
    assert "data.json" in failing(checked(run))
    shutil.rmtree(data)
    result = checked(run)
    assert result.passed
    assert not result.complete
    assert [check.what for check in result.checks if check.outcome == "skipped"] == ["predictions"]


def test_figures_of_images_that_were_chosen_by_are_void(run: Path) -> None:
    once = TestReads(1, "2026-01-01")
    leak = Finding("leak", "warning", ("a.png",), "3 of 9 images are images that the run was trained on.", "Other.")
    assert void_reasons((), once) == ()
    assert void_reasons((leak,), once) == (leak.message,)
    (reason,) = void_reasons((), TestReads(3, "2026-01-01", other_weights=2))
    assert "2 times with other weights" in reason
    record_test_read(run, read_json(run / "data.json")["sha256"]["test"], "of other weights")
    result = evaluate(run, console=QUIET)
    assert len(result.void) == 1
    assert "void" in result.report_file.read_text(encoding="utf-8").lower()
    verified = checked(run)
    assert failing(verified) == {EVALUATION}
    assert any(check.what == "sealed test" for check in verified.checks)


def test_a_run_that_was_never_evaluated_is_refused(run: Path) -> None:
    (run / EVALUATION).unlink()
    (run / SEAL).unlink()
    with pytest.raises(UserError, match="no evaluation"):
        checked(run)


def test_damaged_predictions_are_refused_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / PREDICTIONS
    saved = SavedPredictions(np.zeros((2, 3), np.float32), np.array([0, 1]), ("a", "b"))
    path.write_bytes(saved.to_bytes())
    assert saved.to_bytes() == SavedPredictions.load(path).to_bytes()
    path.write_bytes(saved.to_bytes()[:-20])
    with pytest.raises(UserError, match="Evaluate the run again"):
        SavedPredictions.load(path)
    path.write_bytes(replace(saved, names=("a",)).to_bytes())
    with pytest.raises(UserError, match="unlike length"):
        SavedPredictions.load(path)


def test_a_cut_line_is_no_forgery_once_another_follows(tmp_path: Path) -> None:
    record_test_read(tmp_path, "a", "w")
    log = tmp_path / TEST_READS
    log.write_bytes(log.read_bytes() + b'{"time": "2026-0')
    assert broken_lines(tmp_path) == [2]
    record_test_read(tmp_path, "a", "w")
    assert broken_lines(tmp_path) == []


def lines_of(capsys: pytest.CaptureFixture[str], command: Sequence[str]) -> tuple[int, list[str]]:
    with pytest.raises(SystemExit) as end:
        main(list(command))
    return int(end.value.code or 0), capsys.readouterr().out.splitlines()


def test_the_command_ends_with_one_where_something_does_not_hold(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = lines_of(capsys, ["verify", str(run), "--device", "cpu", "--quiet", "--json"])
    assert code == 0
    assert json.loads(lines[-1])["complete"] is True
    flattered(run)
    code, lines = lines_of(capsys, ["verify", str(run), "--device", "cpu", "--quiet", "--json"])
    assert code == 1
    assert "not verified" in lines[-2]
    assert [check["file"] for check in json.loads(lines[-1])["checks"] if check["outcome"] == "failed"] == [EVALUATION]
