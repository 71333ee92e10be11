"""Weights that become zero during training: which, how many, when, and that they stay zero."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from small_run import BASE, QUIET, TRAIN, VAL, files_of, stop_after
from torch import Tensor, nn

from convcraft.deploy.compress.weights_pruning import (
    GradualPruning,
    prunable_weights,
    set_least_to_zero,
    sparsity_of,
)
from convcraft.models.build import build_model
from convcraft.tasks.classification import Classification
from convcraft.training.hooks import TuningHooks
from convcraft.training.loop import Trainer, fit, prepare_trainer
from convcraft.training.random_state import seed_all
from convcraft.training.stops import Interrupted


def test_the_least_go_first_by_layer_adaptive_magnitude() -> None:
    """By hand (Lee et al. 2021): w^2 over the sum of squares at least as large, over both layers together."""
    one, two = torch.tensor([3.0, -1.0, 2.0]), torch.tensor([[0.1], [0.3]])
    # one: 9/9, 1/14, 4/13; two: 0.01/0.10, 0.09/0.09
    set_least_to_zero([one, two], 0.4)
    assert one.tolist() == [3.0, 0.0, 2.0]
    assert two.tolist() == [[0.0], [pytest.approx(0.3)]]
    set_least_to_zero([one, two], 0.6)
    assert one.tolist() == [3.0, 0.0, 0.0]


def test_no_layer_loses_all_however_small_its_weights_are() -> None:
    torch.manual_seed(0)
    layers = [torch.randn(50) * size for size in (1.0, 1e-3, 1e-6)]
    set_least_to_zero(layers, 0.9)
    assert all(0 < int(layer.count_nonzero()) < 50 for layer in layers)
    assert sparsity_of(layers) == pytest.approx(0.9)


def test_what_is_zero_counts_and_stays() -> None:
    weight = torch.tensor([0.0, 0.0, 5.0, 1.0])
    set_least_to_zero([weight], 0.5)
    assert weight.tolist() == [0.0, 0.0, 5.0, 1.0]
    set_least_to_zero([weight], 0.0)
    assert weight.tolist() == [0.0, 0.0, 5.0, 1.0]


def test_sparsity_rises_along_the_cubic_curve() -> None:
    gradual = GradualPruning([], 0.8, ramp_steps=100)
    assert [gradual.sparsity_at(step) for step in (0, 50, 100, 150)] == [0.0, pytest.approx(0.7), 0.8, 0.8]


def test_norms_and_biases_are_no_part_of_it() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))
    assert [tuple(weight.shape) for weight in prunable_weights(model)] == [(2, 1, 3, 3), (3, 2)]


def trainer_for(run: Path, sparsity: float, resume: bool = False, optimizer: str = "adamw") -> Trainer:
    run.mkdir(exist_ok=True, parents=True)
    seed_all(0)
    config = BASE.changed(training={"epochs": 3, "select": "last"}, optim={"name": optimizer, "learning_rate": 1e-2})
    model = build_model(config.model, num_classes=3, in_channels=1, image_size=(8, 8))
    gradual = GradualPruning(prunable_weights(model), sparsity, ramp_steps=20)
    hooks = TuningHooks(before_step=gradual.before_step, after_step=gradual.after_step)
    task = Classification(3)
    return prepare_trainer(run, config, TRAIN, VAL, task, model, {}, resume=resume, console=QUIET, hooks=hooks)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_zeros_stay_zero_against_momentum(tmp_path: Path, optimizer: str) -> None:
    trainer = trainer_for(tmp_path, 0.7, optimizer=optimizer)
    zero_since: list[list[Tensor]] = []
    after_step = trainer.hooks.after_step
    assert after_step is not None

    def watch(step: int) -> None:
        after_step(step)
        zero_since.append([weight.detach() == 0 for weight in prunable_weights(trainer.model)])

    object.__setattr__(trainer.hooks, "after_step", watch)
    fit(trainer, QUIET)
    assert len(zero_since) == 30
    for earlier, later in pairwise(zero_since):
        assert all(bool((now | ~then).all()) for then, now in zip(earlier, later, strict=True))
    weights = prunable_weights(trainer.model)
    assert sparsity_of(weights) == pytest.approx(0.7, abs=1e-3)
    assert not any(bool(torch.signbit(weight[weight == 0]).any()) for weight in weights)  # 0.0, never -0.0
    trained = [parameter for name, parameter in trainer.model.named_parameters() if name.endswith("bias")]
    assert all(bool((bias != 0).any()) for bias in trained)


def test_a_run_that_was_stopped_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(trainer_for(whole, 0.7), QUIET)
    with stop_after(monkeypatch, 13), pytest.raises(Interrupted):
        fit(trainer_for(parts, 0.7), QUIET)
    fit(trainer_for(parts, 0.7, resume=True), QUIET)
    assert files_of(whole) == files_of(parts)
