"""A run finds its data from any working folder, and says when it is judged on images that it learned from."""

from __future__ import annotations

import html
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from convcraft.config import ModelConfig, RunConfig
from convcraft.errors import UserError
from convcraft.finetune.proof import Proof, Spent
from convcraft.finetune.proof_files import ShownProof, save_proof
from convcraft.finetune.record import TuningRecord
from convcraft.models.build import build_model
from convcraft.training.run_folder import read_run
from convcraft.workflows import report
from convcraft.workflows.before import load_before, save_before
from convcraft.workflows.draw_run import draw_run
from convcraft.workflows.evaluate import evaluate
from convcraft.workflows.load_model import load_model
from convcraft.workflows.report import redraw
from convcraft.workflows.test_reads import record_test_read
from convcraft.workflows.train import train


def make_data(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("dark", "light"):
        (root / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 100, (16, 16, 3)) + (0 if name == "dark" else 150)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run, started with a relative path beside its data."""
    make_data(tmp_path / "here" / "shades")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train(settings("shades"), Path("run"), console=Console(quiet=True))
    return tmp_path / "here" / "run"


def settings(source: str) -> RunConfig:
    return RunConfig().changed(
        data={"source": source, "val_fraction": 0.3},
        preprocess={"image_size": (28, 28)},
        training={"epochs": 1, "batch_size": 8, "device": "cpu"},
    )


def test_from_another_folder(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert RunConfig.load(run / "config.yaml").data.source == str(tmp_path / "here" / "shades")
    monkeypatch.chdir(tmp_path)
    quiet = Console(quiet=True)
    result = evaluate(run, console=quiet)
    assert result.data == "shades"
    again = train(RunConfig(), run, resume=True, console=quiet)
    assert again.summary["epochs"] == 1
    train(settings("here/shades"), run, resume=True, console=quiet)  # the same data, said from here
    monkeypatch.chdir(tmp_path / "here")
    train(settings("shades"), run, resume=True, console=quiet)


def test_images_of_the_training_are_noticed_in_other_data(run: Path, tmp_path: Path) -> None:
    seen = np.load(run / "seen_images.npy")
    assert (seen.dtype, len(seen)) == (
        np.uint64,
        sum(read(run / "data.json")["num_images"][p] for p in ("train", "val")),
    )
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "here" / "shades", other)
    for number in range(12):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(other / "dark" / f"{number}.png")
    said = io.StringIO()
    evaluate(run, str(other), console=Console(file=said, width=400))
    (finding,) = read(run / "evaluation.json")["findings"]
    num_test_light = read(run / "data.json")["class_counts"]["test"][1]
    assert f"{12 - num_test_light} of 24 images are, pixel for pixel," in finding["message"]
    assert f"warning: {finding['message']}" in said.getvalue()
    (run / "seen_images.npy").unlink()  # a run of an older version
    evaluate(run, str(other), console=Console(quiet=True))
    assert read(run / "evaluation.json")["findings"] == []


def read(path: Path) -> dict:  # type: ignore[type-arg]
    return json.loads(path.read_text(encoding="utf-8"))


def keep_before(run: Path, network: nn.Module, name: str = "lenet5") -> str:
    return save_before(
        run, network, ModelConfig(name=name), label="probe", after_label="lora", spent=Spent(1.5, 20.0, 130, 4000)
    )


def other_network(name: str) -> nn.Module:
    """Of another kind than the run's, never trained: before and after need not be the same network."""
    torch.manual_seed(3)
    return build_model(ModelConfig(name=name), num_classes=2, in_channels=3, image_size=(28, 28))


def test_before_is_compared_with_after_on_the_test_images(run: Path) -> None:
    before = other_network("vgg_small")
    sha256 = keep_before(run, before, "vgg_small")
    said = io.StringIO()
    result = evaluate(run, console=Console(file=said, width=400))
    written = read(run / "evaluation.json")
    assert result.proof is not None
    assert written["proof"].pop("before_weights_sha256") == sha256
    assert Proof.from_dict(written["proof"]) == result.proof
    assert result.proof.verdict in said.getvalue()
    assert result.proof.after.num_correct == result.report.num_correct
    assert result.proof.after.log_loss == pytest.approx(result.report.log_loss)
    assert (result.proof.how, result.proof.before.label, result.proof.after.label) == ("test", "probe", "lora")
    assert (result.proof.before.seconds, result.proof.after.trainable_parameters) == (1.5, 4000)
    loaded = load_before(read_run(run))
    assert loaded is not None
    assert not loaded.network.training
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in loaded.network.state_dict().items())
    assert "Before and after, on test" in result.report_file.read_text(encoding="utf-8")


def test_a_network_against_itself_gains_and_loses_nothing(run: Path) -> None:
    keep_before(run, load_model(read_run(run))[0])
    proof = evaluate(run, console=Console(quiet=True)).proof
    assert proof is not None
    assert (proof.gained, proof.lost, proof.p_value, proof.log_loss_difference) == ((), (), 1.0, 0.0)


def test_without_a_network_before_there_is_no_comparison(run: Path) -> None:
    assert load_before(read_run(run)) is None
    result = evaluate(run, console=Console(quiet=True))
    assert result.proof is None
    assert "proof" not in read(run / "evaluation.json")
    assert "Before and after" not in result.report_file.read_text(encoding="utf-8")


def test_a_damaged_network_before_is_refused_before_the_test_images_are_opened(run: Path) -> None:
    keep_before(run, other_network("lenet5"))
    weights = run / "checkpoints" / "before" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"oops")
    with pytest.raises(UserError, match="as it was before"):
        evaluate(run, console=Console(quiet=True))
    assert not (run / "test_reads.jsonl").exists()
    keep_before(run, other_network("vgg_small"), "lenet5")  # weights of another network than its settings name
    with pytest.raises(UserError, match="as it was before"):
        evaluate(run, console=Console(quiet=True))


def test_every_opening_of_the_test_images_is_counted(run: Path, tmp_path: Path) -> None:
    quiet = Console(quiet=True)
    first = evaluate(run, console=quiet)
    assert (first.test_reads.number, read(run / "evaluation.json")["test_reads"]) == (1, 1)
    assert "These test images were opened once by this run." in first.report_file.read_text(encoding="utf-8")
    other = make_data(tmp_path / "other")
    assert evaluate(run, str(other), console=quiet).test_reads.number == 1  # other images
    again = evaluate(run, console=quiet)
    assert again.test_reads.number == 2
    assert again.test_reads.first == first.test_reads.first
    assert "opened 2 times by this run, first on" in again.report_file.read_text(encoding="utf-8")
    entries = [json.loads(line) for line in (run / "test_reads.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["event"] for entry in entries] == ["opened", "sealed"] * 3
    entries = entries[::2]
    assert [entry["weights_sha256"] for entry in entries] == [read(run / "summary.json")["weights_sha256"]] * 3
    assert entries[0]["images"] == read(run / "data.json")["sha256"]["test"]
    assert {"time", "version"} <= set(entries[0])


def test_an_opening_that_a_crash_cut_short_in_the_log_still_counts(tmp_path: Path) -> None:
    record_test_read(tmp_path, "a", "w")
    log = tmp_path / "test_reads.jsonl"
    log.write_bytes(log.read_bytes() + b'{"time": "2026-0')
    assert record_test_read(tmp_path, "b", "w").number == 2
    assert record_test_read(tmp_path, "a", "w").number == 3
    assert len(log.read_text(encoding="utf-8").splitlines()) == 4


@pytest.mark.parametrize(("how", "shows_validation"), [("cross-fitted", False), ("part", True)])
def test_a_page_drawn_again_judges_no_images_that_were_learned_from(
    run: Path, how: str, shows_validation: bool
) -> None:
    quiet = Console(quiet=True)
    keep_before(run, other_network("vgg_small"), "vgg_small")
    proof = evaluate(run, console=quiet).proof
    assert proof is not None
    (run / "evaluation.json").unlink()
    pixels = np.zeros((len(proof.gained) + len(proof.lost), 28, 28, 3), np.uint8)
    save_proof(run, ShownProof(replace(proof, how=how), pixels[: len(proof.gained)], pixels[len(proof.gained) :]))
    TuningRecord(()).save(run)
    page = redraw(run, console=quiet).read_text(encoding="utf-8")
    assert ("Accuracy · validation" in page) == shows_validation
    assert proof.verdict in html.unescape(page)  # of the comparison that the run keeps
    assert "Before and after, on test" not in page


@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_a_page_drawn_again_knows_what_the_logits_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    quiet, drawn = Console(quiet=True), []
    config = settings(str(make_data(tmp_path / "shades"))).changed(training={"loss": loss})
    trained = train(config, tmp_path / "run", console=quiet)
    assert trained.report is not None

    def keep(*arguments: Any) -> Path:
        drawn.append(arguments[-1])
        return draw_run(*arguments)

    monkeypatch.setattr(report, "draw_run", keep)
    redraw(tmp_path / "run", console=quiet)
    [shown] = drawn
    assert shown.report.log_loss == pytest.approx(trained.report.log_loss, rel=1e-4)
    assert shown.report.brier == pytest.approx(trained.report.brier, rel=1e-4)
