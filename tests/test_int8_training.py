"""Networks that learn to be rounded: where passes round, what stays of it, and what it is worth in int8."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_run import BASE, CONTRACT, QUIET, TRAIN, VAL, files_of, stop_after
from torch import Tensor, nn

from convcraft.config import RunConfig
from convcraft.deploy.compress.int8_answers import Int8Answers
from convcraft.deploy.compress.int8_training import Int8Training, round_weights, straight_through_weights
from convcraft.deploy.compress.rounded_passes import rounded_passes
from convcraft.deploy.compress.rounding import mean_rounding_errors, rounded_weights, weight_steps
from convcraft.deploy.compress.weights_pruning import GradualPruning, prunable_weights, sparsity_of
from convcraft.deploy.export_network import ExportNetwork
from convcraft.deploy.formats.catalogue import find_format
from convcraft.deploy.formats.form import Runtime
from convcraft.errors import UserError
from convcraft.tasks.classification import Classification
from convcraft.training.hooks import TuningHooks
from convcraft.training.loop import Trainer, fit, prepare_trainer
from convcraft.training.random_state import seed_all
from convcraft.training.run_folder import read_run
from convcraft.training.stops import Interrupted
from convcraft.workflows.before import load_before
from convcraft.workflows.compress import compress
from convcraft.workflows.compress_settings import choose_compression
from convcraft.workflows.load_model import load_model
from convcraft.workflows.train import train

EPOCHS, STEPS = 4, 40  # of 150 images in batches of 16


class Residual(nn.Module):
    """A convolution and a depthwise one with batch norms, a sum, a joining and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.second, self.norm2 = nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.head = nn.Linear(24, 3)

    def forward(self, images: Tensor) -> Tensor:
        one = self.norm1(self.first(images)).relu()
        two = self.norm2(self.second(one))
        two += one
        three = self.depthwise(two.relu())
        return self.head(torch.cat([one.mean((2, 3)), three.amax((2, 3))], dim=1))


def test_layers_sums_and_joinings_read_what_they_are_given() -> None:
    network, images = Residual().eval(), torch.randn(2, 1, 8, 8)
    before = copy.deepcopy(network.state_dict())
    read: list[tuple[int, tuple[int, ...]]] = []

    def note(position: int, values: Tensor) -> Tensor:
        read.append((position, tuple(values.shape)))
        return values * 0

    with rounded_passes(network, lambda weight: weight * 0 + 1, note):
        answers = network(images)
        assert torch.equal(network.first.weight, before["first.weight"])
    maps, rows = (2, 12, 8, 8), (2, 12)
    shapes = [(2, 1, 8, 8), maps, maps, maps, maps, rows, rows, (2, 24)]
    assert read == list(enumerate(shapes))
    assert torch.equal(answers, network.head.bias.expand(2, 3))
    assert network.state_dict().keys() == before.keys()
    assert not torch.equal(network(images), answers)
    assert len(read) == len(shapes)


def test_a_pass_that_fails_leaves_the_network_as_it_was() -> None:
    network, images = Residual().eval(), torch.randn(2, 1, 8, 8)
    expected = network(images)

    def fail(position: int, values: Tensor) -> Tensor:
        if position == 3:
            raise RuntimeError("no more")
        return values

    with rounded_passes(network, torch.zeros_like, fail), pytest.raises(RuntimeError, match="no more"):
        network(images)
    assert torch.equal(network(images), expected)


def test_weights_are_rounded_and_their_gradient_passes() -> None:
    weight = torch.randn(5, 3, 3, 3).requires_grad_()
    seen = straight_through_weights(weight)
    torch.testing.assert_close(seen, rounded_weights(weight))
    towards = torch.randn_like(seen)
    (seen * towards).sum().backward()
    assert torch.equal(weight.grad, towards)


def test_zeros_are_no_negative_zeros() -> None:
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -1e-6]]))
    round_weights(layer)
    assert layer.weight.tolist() == [[1.0, 0.0]]
    assert not torch.signbit(layer.weight).any()


@pytest.fixture(scope="module")
def uneven() -> Residual:
    """It knows the bars, and answers as before after its channels were scaled apart: what one layer multiplies, the
    next divides. In float32 that changes nothing; a range for all channels then has few steps for most of them."""
    seed_all(0)
    network = Residual()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    images, targets = images_of(TRAIN), torch.from_numpy(TRAIN.targets)
    for _ in range(60):
        nn.functional.cross_entropy(network(images), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    network.eval()
    with torch.no_grad():
        expected = network(images)
        network.norm1.weight *= UNEVEN
        network.norm1.bias *= UNEVEN
        network.second.weight /= UNEVEN[:, None, None]
        network.head.weight[:, :12] /= UNEVEN
        network.norm2.weight *= UNEVEN
        network.norm2.bias *= UNEVEN
        network.depthwise.weight /= UNEVEN[:, None, None, None]
        torch.testing.assert_close(network(images), expected, rtol=1e-3, atol=1e-3)
    return network


UNEVEN = torch.tensor([1.0, 30.0, 0.3, 0.1, 3.0, 10.0, 0.1, 1.0, 30.0, 0.05, 10.0, 0.03])


def images_of(images: object) -> Tensor:
    return torch.from_numpy(CONTRACT.normalise(images.pixels_of(np.arange(len(images)))))  # type: ignore[attr-defined]


def accuracy(answers: Tensor | NDArray[np.float32]) -> float:
    return float((np.asarray(answers).argmax(axis=1) == VAL.targets).mean())


def in_int8(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return Int8Answers(network, CONTRACT, images_of(TRAIN).numpy())(images_of(VAL))


def trainer_for(run: Path, network: nn.Module, *, resume: bool = False, sparsity: float | None = None) -> Trainer:
    run.mkdir(exist_ok=True, parents=True)
    seed_all(0)
    config = BASE.changed(
        training={"epochs": EPOCHS, "select": "last", "precision": "32-true"},
        optim={"name": "adamw", "learning_rate": 1e-3},
        augment={"shift_fraction": 0.0},
    )
    int8 = Int8Training(network, EPOCHS, STEPS)
    gradual = None if sparsity is None else GradualPruning(prunable_weights(network), sparsity, ramp_steps=20)

    def after_step(step: int) -> None:
        if gradual is not None:
            gradual.after_step(step)
        int8.after_step(step)

    hooks = TuningHooks(
        before_epoch=int8.before_epoch,
        before_step=None if gradual is None else gradual.before_step,
        after_step=after_step,
    )
    trainer = prepare_trainer(
        run, config, TRAIN, VAL, Classification(3), network, {}, resume=resume, console=QUIET, hooks=hooks
    )
    with int8.rounding():
        fit(trainer, QUIET)
    return trainer


@pytest.fixture(scope="module")
def learned(uneven: Residual, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return trainer_for(tmp_path_factory.mktemp("int8") / "run", copy.deepcopy(uneven)).model.eval()


def test_what_8_bits_ruin_is_learned_back(uneven: Residual, learned: nn.Module) -> None:
    with torch.no_grad():
        assert accuracy(uneven(images_of(VAL))) == 1.0
    assert accuracy(in_int8(uneven)) < 0.75
    assert accuracy(in_int8(learned)) > 0.95


def test_weights_are_on_the_grid_and_are_not_rounded_again(learned: nn.Module) -> None:
    for weight in prunable_weights(learned):
        steps = weight / weight_steps(weight).reshape(-1, *[1] * (weight.ndim - 1))
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
        torch.testing.assert_close(rounded_weights(weight), weight, rtol=1e-6, atol=0)
    network = ExportNetwork(learned, CONTRACT)  # batch norms folded
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.body.modules())
    for weight in prunable_weights(network):
        torch.testing.assert_close(rounded_weights(weight), weight, rtol=1e-5, atol=0)
    errors = mean_rounding_errors(network, images_of(TRAIN).numpy())
    assert max(float(np.abs(error).max()) for error in errors.values()) < 1e-5


def test_a_negative_factor_of_a_batch_norm_changes_no_integer() -> None:
    network = Residual()
    with torch.no_grad():
        network.norm1.weight.copy_(torch.randn(12))
    round_weights(network)
    for weight in prunable_weights(ExportNetwork(network.eval(), CONTRACT)):
        torch.testing.assert_close(rounded_weights(weight), weight, rtol=1e-5, atol=0)


def test_a_run_that_was_stopped_goes_on_exactly(
    uneven: Residual, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer_for(whole, copy.deepcopy(uneven), sparsity=0.3)
    for steps in (13, 20):  # in the second epoch, and in the last one, where batch norms stand still
        with stop_after(monkeypatch, steps), pytest.raises(Interrupted):
            trainer_for(parts, copy.deepcopy(uneven), resume=steps == 20, sparsity=0.3)
    trainer_for(parts, copy.deepcopy(uneven), resume=True, sparsity=0.3)
    assert files_of(whole) == files_of(parts)


def test_zeros_stay_zero(uneven: Residual, tmp_path: Path) -> None:
    network = trainer_for(tmp_path / "run", copy.deepcopy(uneven), sparsity=0.5).model
    weights = prunable_weights(network)
    assert sparsity_of(weights) >= 0.5
    assert not any(bool(torch.signbit(weight[weight == 0]).any()) for weight in weights)
    for weight in weights:
        torch.testing.assert_close(rounded_weights(weight), weight, rtol=1e-6, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_runtimes_answer_as_it_was_foreseen(name: str, uneven: Residual, learned: nn.Module) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("nncf" if name == "openvino" else "onnxruntime")
    form, images = find_format(name), images_of(VAL).numpy()
    answers = {}
    for which, model in (("before", uneven), ("after", learned)):
        files = form.write(ExportNetwork(model, CONTRACT), images_of(TRAIN).numpy(), "int8")
        answers[which] = form.open(files, "int8", Runtime())(images).logits
    assert accuracy(answers["before"]) < 0.75
    assert accuracy(answers["after"]) > 0.9
    foreseen = {"before": in_int8(uneven).numpy(), "after": in_int8(learned).numpy()}
    agree = {
        which: (answers[which].argmax(axis=1) == foreseen[which].argmax(axis=1)).mean() for which in ("before", "after")
    }
    assert agree["after"] > 0.9
    assert agree["after"] >= agree["before"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("source") / "run"
    training = {"epochs": 1, "batch_size": 64, "device": "cpu", "compile": "auto"}
    data = {"source": "digits", "test_fraction": 0.8}
    train(RunConfig().changed(data=data, model={"name": "lenet5"}, training=training), run, console=QUIET)
    return run


def test_the_command_makes_a_whole_run_of_it(source: Path, tmp_path: Path) -> None:
    config = choose_compression(source, int8=True, training_settings={"epochs": 1})
    assert (config.training.precision, config.training.compile) == ("32-true", "off")
    result = compress(config, tmp_path / "run", console=QUIET)
    written = json.loads((tmp_path / "run" / "compression.json").read_text())
    for side in ("before", "after"):
        assert 0 < written[side]["int8_accuracy"] <= 1
        assert len(written[side]["int8_interval"]) == 2
    network = load_model(read_run(tmp_path / "run"))[0]
    for weight in prunable_weights(network):
        torch.testing.assert_close(rounded_weights(weight), weight, rtol=1e-6, atol=0)
    assert result.report is not None
    before = load_before(read_run(tmp_path / "run"))
    assert before is not None
    assert before.after_label == "lenet5, trained for int8"


def test_what_comes_with_it_comes_first(source: Path) -> None:
    together = choose_compression(source, int8=True, sparsity=0.5)
    assert together.compress.int8_from == 0.5
    assert together.training.epochs > choose_compression(source, int8=True).training.epochs
    assert choose_compression(source, int8=True).compress.int8_from == 0.0
    training = Int8Training(nn.Sequential(nn.Linear(2, 2)), epochs=4, steps=40, first_epoch=2)
    images = torch.randn(3, 2)
    with training.rounding():
        training.before_epoch(1)
        assert torch.equal(training.network(images), training.network[0].forward(images))
        training.before_epoch(2)
        assert not torch.equal(training.network(images), training.network[0].forward(images))


def test_batch_norms_stand_still_in_the_last_quarter() -> None:
    network = Residual()
    training = Int8Training(network, epochs=4, steps=40)
    for epoch, moves in ((0, True), (2, True), (3, False)):
        network.train()
        training.before_epoch(epoch)
        assert network.norm1.training is moves
        assert network.first.training


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"ema_decay": 0.9}, {"select": "best"}, {"compile": "on"}])
def test_results_that_could_not_be_on_the_grid_are_refused(source: Path, settings: dict[str, object]) -> None:
    with pytest.raises(UserError, match="int8"):
        choose_compression(source, int8=True, training_settings=settings)
