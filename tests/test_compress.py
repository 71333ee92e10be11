"""`convcraft compress`: a run becomes a smaller run that every later command takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_run import QUIET, stop_after
from torch import nn

from convcraft.cli.app import main
from convcraft.config import RunConfig
from convcraft.deploy.compress.sparse_storage import unpack
from convcraft.deploy.compress.timing import milliseconds_per_image
from convcraft.errors import UserError
from convcraft.training.run_folder import read_run, read_summary
from convcraft.training.stops import Interrupted
from convcraft.workflows import compress as compress_workflow
from convcraft.workflows.before import load_before
from convcraft.workflows.compress import compress
from convcraft.workflows.compress_result import Compared
from convcraft.workflows.compress_settings import choose_compression, repeat_compression
from convcraft.workflows.evaluate import evaluate
from convcraft.workflows.load_model import load_model
from convcraft.workflows.train import train
from convcraft.workflows.verify import verify

pytest.importorskip("torch_pruning")


FEW = {"source": "digits", "test_fraction": 0.6}


def trained(run: Path, network: str, epochs: int) -> Path:
    training = {"epochs": epochs, "batch_size": 64, "device": "cpu", "precision": "32-true"}
    train(RunConfig().changed(data=FEW, model={"name": network}, training=training), run, console=QUIET)
    return run


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("source") / "run", "lenet5", 4)


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("residual") / "run", "resnet20_cifar", 2)


@pytest.fixture(autouse=True)
def _quick_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are measured, but with few rounds."""

    def few(*arguments: object, **_: object) -> dict[str, dict[int, float]]:
        return milliseconds_per_image(*arguments, rounds=2)  # type: ignore[arg-type]

    monkeypatch.setattr("convcraft.workflows.compress_result.milliseconds_per_image", few)


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(read_run(run))[0].state_dict())


def test_a_pruned_run_is_a_complete_run(residual: Path, tmp_path: Path) -> None:
    source = residual
    run = tmp_path / "pruned"
    before = (source / "config.yaml").read_bytes()
    config = choose_compression(source, prune=0.5, distil=True, training_settings={"epochs": 2})
    result = compress(config, run, console=QUIET)
    was, now = result.compared.before, result.compared.after
    assert now.multiply_adds <= 0.5 * was.multiply_adds
    assert now.parameters < was.parameters
    assert now.file_bytes < was.file_bytes
    assert set(now.milliseconds) == {1, 16}
    assert result.report is not None
    assert now.accuracy == result.report.accuracy
    assert result.compared.gate is not None
    assert (source / "config.yaml").read_bytes() == before

    smaller, full = load_model(read_run(run))[0], load_model(read_run(source))[0]
    assert sum(p.numel() for p in smaller.parameters()) == now.parameters < sum(p.numel() for p in full.parameters())
    assert json.loads((run / "compression.json").read_text()) == json.loads(json.dumps(result.compared.to_dict()))
    assert not (run / "test_reads.jsonl").exists()
    assert (run / "trust.json").exists()
    assert "convcraft compress --config" in (run / "report.html").read_text()

    evaluated = evaluate(run, console=QUIET)
    assert evaluated.proof is not None
    assert evaluated.proof.before.label == "resnet20_cifar as it was"
    assert evaluated.proof.after.label == "resnet20_cifar, pruned, distilled"
    assert evaluated.proof.before.num_correct == evaluate(source, console=QUIET).report.num_correct
    assert verify(run, console=QUIET).passed


@pytest.mark.slow
def test_a_pruned_run_can_be_pruned_again(residual: Path, tmp_path: Path) -> None:
    left = []
    for number, source in enumerate((residual, tmp_path / "0")):
        config = choose_compression(source, prune=0.4, training_settings={"epochs": 0})
        left.append(compress(config, tmp_path / str(number), console=QUIET).compared)
    assert left[1].before.multiply_adds == left[0].after.multiply_adds
    assert left[1].after.multiply_adds <= 0.6 * left[1].before.multiply_adds
    assert load_before(read_run(tmp_path / "1")) is not None


def test_pruning_alone_changes_no_weight_that_stays(residual: Path, tmp_path: Path) -> None:
    config = choose_compression(residual, prune=0.3, training_settings={"epochs": 0})
    compress(config, tmp_path / "run", console=QUIET)
    full, smaller = weights_of(residual), weights_of(tmp_path / "run")
    assert torch.equal(smaller["conv1.weight"], full["conv1.weight"])
    name = next(name for name in smaller if name.endswith("conv1.weight") and smaller[name].shape != full[name].shape)
    rows = {row.numpy().tobytes() for row in full[name]}
    assert all(row.numpy().tobytes() in rows for row in smaller[name])


def test_a_stopped_run_goes_on_to_the_same_weights(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = choose_compression(source, prune=0.5, sparsity=0.6, distil=True, training_settings={"epochs": 2})
    compress(config, whole, console=QUIET)
    with stop_after(monkeypatch, 13), pytest.raises(Interrupted, match="convcraft compress --out"):
        compress(config, parts, console=QUIET)
    compress(RunConfig(), parts, resume=True, console=QUIET)
    one, two = weights_of(whole), weights_of(parts)
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert (whole / "metrics.jsonl").read_bytes() == (parts / "metrics.jsonl").read_bytes()


def test_stopped_before_the_first_step_it_begins_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = choose_compression(source, prune=0.5, training_settings={"epochs": 1})
    with monkeypatch.context() as patch:

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(compress_workflow, "fit", stop)
        with pytest.raises(KeyboardInterrupt):
            compress(config, tmp_path / "run", console=QUIET)
    result = compress(RunConfig(), tmp_path / "run", resume=True, console=QUIET)
    assert result.compared.after.multiply_adds <= 0.5 * result.compared.before.multiply_adds


def test_weights_become_zero_and_the_sparse_file_holds_them(source: Path, tmp_path: Path) -> None:
    run = tmp_path / "sparse"
    config = choose_compression(source, sparsity=0.8, training_settings={"epochs": 2})
    compared = compress(config, run, console=QUIET).compared
    assert compared.after.zeros == pytest.approx(0.8, abs=1e-3)
    assert compared.before.zeros < 0.01
    assert compared.after.packed_bytes < 0.35 * compared.after.file_bytes
    packed = (run / "sparse.safetensors").read_bytes()
    assert len(packed) == compared.after.packed_bytes
    stored = weights_of(run)
    assert all(torch.equal(tensor, stored[name]) for name, tensor in unpack(packed).items())


def test_without_epochs_weights_become_zero_at_once(source: Path, tmp_path: Path) -> None:
    config = choose_compression(source, sparsity=0.5, training_settings={"epochs": 0})
    assert compress(config, tmp_path / "run", console=QUIET).compared.after.zeros == pytest.approx(0.5, abs=1e-3)


def test_another_network_learns_from_the_run(source: Path, tmp_path: Path) -> None:
    run = tmp_path / "into"
    config = choose_compression(source, into="seed_cnn", training_settings={"epochs": 3})
    assert config.compress.distil
    compared = compress(config, run, console=QUIET).compared
    assert read_run(run).config.model.name == "seed_cnn"
    assert compared.after.accuracy is not None
    assert compared.after.accuracy > 0.2
    before = load_before(read_run(run))
    assert before is not None
    assert before.after_label == "seed_cnn, distilled"


def test_other_data_than_the_source_had_are_refused(source: Path, tmp_path: Path) -> None:
    config = choose_compression(source, prune=0.5).changed(data={"split_seed": 7})
    with pytest.raises(UserError, match="other images or labels"):
        compress(config, tmp_path / "run", console=QUIET)


@pytest.mark.slow
def test_where_all_images_were_learned_from_nothing_is_claimed(tmp_path: Path) -> None:
    """A cross-fitted fine-tuning learns from validation images, too: they can judge nothing that came from it."""
    from convcraft.workflows.finetune import finetune

    settings = RunConfig().changed(
        data={"source": "digits", "test_fraction": 0.85},
        model={"name": "mnist-resnet20"},
        training={"device": "cpu"},
        finetune={"method": "probe", "cross_fit_below": 5000},
    )
    finetune(settings, tmp_path / "tuned", console=QUIET)
    config = choose_compression(tmp_path / "tuned", prune=0.3, training_settings={"epochs": 1})
    result = compress(config, tmp_path / "run", console=QUIET)
    assert result.report is None
    assert result.compared.gate is None
    assert result.compared.after.accuracy is None
    assert read_run(tmp_path / "run").config.data.final
    assert evaluate(tmp_path / "run", console=QUIET).proof is not None


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "--prune, --into, --sparsity or --int8"),
        ({"prune": 0.5, "into": "seed_cnn"}, "--prune and --into"),
        ({"into": "lenet5"}, "another network"),
        ({"prune": 1.5}, "between 0 and 1"),
        ({"sparsity": 0.0}, "between 0 and 1"),
        ({"prune": 0.5, "training_settings": {"epochs": -1}}, "training.epochs is -1"),
    ],
)
def test_wishes_that_make_no_sense_are_refused(source: Path, asked: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        choose_compression(source, **asked)  # type: ignore[arg-type]


def test_a_share_that_cannot_be_reached_says_what_can_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least"):
        compress(choose_compression(source, prune=0.99), tmp_path / "run", console=QUIET)
    assert not list(tmp_path.iterdir())


def test_the_command(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "small"
    command = ["compress", str(source), "--prune", "0.3", "--epochs", "1", "--out", str(out), "--json", "--quiet"]
    with pytest.raises(SystemExit) as left:
        main(command)
    lines = capsys.readouterr().out.splitlines()
    told = json.loads(lines[-1])
    passed = told["compared"]["gate"]["passed"]
    assert left.value.code == (0 if passed else 1)
    assert any(line.startswith("multiply-adds") for line in lines)
    assert any(line.startswith("gate ") for line in lines)
    assert told["run"] == str(out)

    again = tmp_path / "again"
    with pytest.raises(SystemExit):
        main(["compress", "--config", str(out / "config.yaml"), "--out", str(again), "--quiet"])
    assert read_summary(again)["weights_sha256"] == told["weights_sha256"]


def test_the_command_wants_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["compress"], ["compress", "--resume"], ["compress", "nowhere", "--prune", "0.5"]):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 2
    assert "no RUN" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--target-size", "3", "--prune", "0.5"], "targets with --prune"),
        (["run", "--target-size", "3", "--seed", "1", "--batch-size", "8"], "targets with --batch-size, --seed"),
        (["--target-size", "3", "--config", "config.yaml"], "targets with --config"),
        (["--target-latency", "3"], "no RUN"),
        (["run", "--prune", "0.5", "--max-drop", "0.1"], "--max-drop without a target"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["compress", *arguments])
    assert left.value.code == 2
    assert says in capsys.readouterr().err


def test_a_configuration_that_compresses_nothing_is_refused(source: Path) -> None:
    with pytest.raises(UserError, match="names no run"):
        repeat_compression(source / "config.yaml")


def test_networks_are_timed_in_one_layout() -> None:
    contiguous: list[bool] = []

    class Noting(nn.Conv2d):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            contiguous.append(self.weight.is_contiguous())
            return super().forward(images)

    trained = Noting(3, 4, 3).to(memory_format=torch.channels_last)
    milliseconds_per_image({"loaded": Noting(3, 4, 3), "trained": trained}, (3, 8, 8), (1,), rounds=1)
    assert all(contiguous)
    assert not trained.weight.is_contiguous()


def test_networks_take_turns_when_they_are_timed() -> None:
    calls: list[str] = []

    class Named(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            calls.append(self.name)
            return torch.from_numpy(np.linalg.inv(np.eye(60))) * images.mean()

    taken = milliseconds_per_image({"a": Named("a"), "b": Named("b")}, (1, 4, 4), (1,), rounds=3)
    turns = [name for place, name in enumerate(calls) if place == 0 or calls[place - 1] != name]
    assert turns == ["a", "b"] * 4  # warm-up, then three rounds
    assert all(value > 0 for value in (taken["a"][1], taken["b"][1]))
    assert Compared.__annotations__["gate"] == "VariantJudged | None"
