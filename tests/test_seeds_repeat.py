"""Runs over several seeds: done once, gone on with where stopped, never mixed; and freezing by the settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from convcraft.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from convcraft.errors import UserError
from convcraft.training.checkpoint import CHECKPOINTS
from convcraft.training.freeze import tensor_hashes
from convcraft.training.run_folder import EVALUATION, SUMMARY, load_result, read_run
from convcraft.workflows.seeds.fresh_logits import logits_of
from convcraft.workflows.seeds.repeat import accuracy_spread, finish_run, name_by_content, train_over_seeds

pytestmark = pytest.mark.slow  # nearly every test trains twice
QUIET = Console(stderr=True, quiet=True)


def config(epochs: int = 1) -> RunConfig:
    return RunConfig(
        data=DataConfig(source="digits", labels_per_class=2),
        model=ModelConfig(name="resnet20_cifar"),
        training=TrainingConfig(epochs=epochs, batch_size=10, device="cpu", precision="32-true"),
    )


def test_each_seed_is_trained_once(tmp_path: Path) -> None:
    runs = train_over_seeds(config(), 2, tmp_path, QUIET)
    assert [run.seed for run in runs] == [0, 1]
    assert all(run.new for run in runs)
    spread = accuracy_spread(runs)
    assert spread.mean == pytest.approx(sum(run.accuracy for run in runs) / 2)
    hashes = [load_result(read_run(run.run)).sha256 for run in runs]
    assert hashes[0] != hashes[1]
    before = (tmp_path / "run-0" / SUMMARY).stat().st_mtime_ns
    again = train_over_seeds(config(), 2, tmp_path, QUIET)
    assert [(run.accuracy, run.new) for run in again] == [(run.accuracy, False) for run in runs]
    assert (tmp_path / "run-0" / SUMMARY).stat().st_mtime_ns == before


def test_what_is_left_is_done(tmp_path: Path) -> None:
    first = finish_run(config(), tmp_path / "run-0", QUIET)
    (tmp_path / "run-0" / EVALUATION).unlink()
    trained = (tmp_path / "run-0" / SUMMARY).stat().st_mtime_ns
    assert finish_run(config(), tmp_path / "run-0", QUIET).accuracy == first.accuracy
    assert (tmp_path / "run-0" / SUMMARY).stat().st_mtime_ns == trained
    (tmp_path / "run-0" / SUMMARY).unlink()  # as if it had been stopped before its end
    (tmp_path / "run-0" / EVALUATION).unlink()
    assert finish_run(config(), tmp_path / "run-0", QUIET).accuracy == first.accuracy


def test_other_settings_are_refused(tmp_path: Path) -> None:
    finish_run(config(), tmp_path / "run-0", QUIET)
    with pytest.raises(UserError, match="other settings"):
        finish_run(config(epochs=2), tmp_path / "run-0", QUIET)


def test_changed_starting_weights_are_refused(tmp_path: Path) -> None:
    """The file keeps its name, its content changes: the finished run is not taken for one from the new content."""
    start = finish_run(config(), tmp_path / "start", QUIET)
    result = load_result(read_run(start.run))
    weights = tmp_path / "start.safetensors"
    save_file(result.tensors, weights)
    tuned = config().changed(model={"weights": str(weights)})
    assert finish_run(tuned, tmp_path / "tuned", QUIET).new
    assert not finish_run(tuned, tmp_path / "tuned", QUIET).new
    name = name_by_content(weights)
    save_file({key: tensor + tensor for key, tensor in result.tensors.items()}, weights)
    with pytest.raises(UserError, match="started from"):
        finish_run(tuned, tmp_path / "tuned", QUIET)
    assert name_by_content(weights) != name
    assert name.startswith("start-")


def test_frozen_by_the_settings(tmp_path: Path) -> None:
    """`model.freeze` in a run: the frozen tensors, batch norm's statistics too, are those of the starting weights."""
    start = finish_run(config(), tmp_path / "start", QUIET)
    before = load_result(read_run(start.run))
    weights = start.run / CHECKPOINTS / before.checkpoint / before.file
    frozen = ("conv1", "bn1", "layer1")
    tuned = finish_run(config(2).changed(model={"weights": str(weights), "freeze": frozen}), tmp_path / "tuned", QUIET)
    after = load_result(read_run(tuned.run))
    kept = tensor_hashes(before.tensors, frozen)
    assert any("running_var" in name for name in kept)
    assert tensor_hashes(after.tensors, frozen) == kept
    rest = [name for name in before.tensors if name not in kept and not name.endswith("num_batches_tracked")]
    assert not any(torch.equal(before.tensors[name], after.tensors[name]) for name in rest)


def test_logits_of_a_run_are_its_networks(tmp_path: Path) -> None:
    from convcraft.workflows.load_model import load_model

    run = finish_run(config(), tmp_path / "run", QUIET).run
    images = torch.randn(3, 1, 8, 8)
    with torch.inference_mode():
        expected = load_model(read_run(run))[0](images).numpy()
    assert logits_of(run, images.numpy()).tobytes() == expected.tobytes()
