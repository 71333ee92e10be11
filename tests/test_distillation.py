"""Learning from another network: the loss, what the teacher is shown, and that a stopped run goes on exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_run import BASE, QUIET, TRAIN, VAL, files_of, stop_after
from torch import Tensor, nn

from convcraft.config import RunConfig
from convcraft.deploy.compress.distil import teacher_loss
from convcraft.errors import UserError
from convcraft.models.build import build_model
from convcraft.tasks.classification import Classification
from convcraft.tasks.distillation import distillation_loss, soft_answers_loss
from convcraft.training.hooks import TuningHooks
from convcraft.training.loop import Trainer, fit, prepare_trainer
from convcraft.training.random_state import seed_all
from convcraft.training.stops import Interrupted

TASK = Classification(3)
DISTIL = BASE.changed(compress={"source": "elsewhere", "distil": True, "temperature": 3.0})


def test_the_loss_by_hand() -> None:
    logits, teacher = torch.randn(5, 4), torch.randn(5, 4)
    soft, wanted = (torch.softmax(each / 2.0, dim=1) for each in (logits, teacher))
    by_hand = 4.0 * (wanted * (wanted / soft).log()).sum(1).mean()
    assert float(soft_answers_loss(logits, teacher, 2.0)) == pytest.approx(float(by_hand), rel=1e-5)
    assert float(soft_answers_loss(teacher, teacher, 2.0)) == pytest.approx(0.0, abs=1e-6)


def test_gradients_keep_their_size_at_high_temperatures() -> None:
    """Hinton et al. 2015, equation 4: (logits - teacher's) / K for centred logits."""
    logits = torch.randn(1, 6, requires_grad=True)
    teacher = torch.randn(1, 6, requires_grad=True)
    soft_answers_loss(logits, teacher, 1e3).backward()
    assert logits.grad is not None
    centred = [each - each.mean() for each in (logits.detach(), teacher.detach())]
    assert torch.allclose(logits.grad, (centred[0] - centred[1]) / 6, rtol=1e-2, atol=1e-3)
    assert teacher.grad is None


def test_labels_count_by_the_rest_of_the_weight() -> None:
    logits, teacher, images = torch.randn(5, 3), torch.randn(5, 3), torch.randn(5, 1, 8, 8)
    targets = torch.tensor([0, 1, 2, 1, 0])
    parts = soft_answers_loss(logits, teacher, 2.0), TASK.loss(logits, targets)
    for weight in (0.25, 1.0):
        loss = distillation_loss(lambda _: teacher, TASK.loss, temperature=2.0, weight=weight)
        assert float(loss(images, logits, targets)) == pytest.approx(float(weight * parts[0] + (1 - weight) * parts[1]))


class Watched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 3)
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen.append(images.clone())
        logits: Tensor = self.linear(images.flatten(1))
        return logits


def trainer_for(run: Path, config: RunConfig, teacher: nn.Module, resume: bool = False) -> Trainer:
    run.mkdir(exist_ok=True, parents=True)
    seed_all(0)
    model = build_model(config.model, num_classes=3, in_channels=1, image_size=(8, 8))
    hooks = TuningHooks(loss=teacher_loss(teacher, TASK, config))
    return prepare_trainer(run, config, TRAIN, VAL, TASK, model, {}, resume=resume, console=QUIET, hooks=hooks)


def test_the_teacher_sees_the_same_augmented_images(tmp_path: Path) -> None:
    teacher = Watched()
    before = teacher.linear.weight.detach().clone()
    trainer = trainer_for(tmp_path, DISTIL.changed(training={"precision": "32-true"}), teacher)
    given: list[Tensor] = []
    trainer.model.register_forward_pre_hook(
        lambda module, inputs: given.append(inputs[0].clone()) if module.training else None
    )
    fit(trainer, QUIET)
    assert len(given) == 2 * 10
    assert all(torch.equal(one, two) for one, two in zip(given, teacher.seen, strict=True))
    assert not torch.equal(given[0].sort(0).values, given[10].sort(0).values)  # other shifts in the second epoch
    assert torch.equal(teacher.linear.weight, before)
    assert trainer.loss_watch is None


def test_a_distilling_run_that_was_stopped_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    teacher = Watched()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(trainer_for(whole, DISTIL, teacher), QUIET)
    with stop_after(monkeypatch, 7), pytest.raises(Interrupted):
        fit(trainer_for(parts, DISTIL, teacher), QUIET)
    fit(trainer_for(parts, DISTIL, teacher, resume=True), QUIET)
    assert files_of(whole) == files_of(parts)


def test_a_student_comes_to_agree_with_its_teacher(tmp_path: Path) -> None:
    """By the teacher's answers alone; they are not the labels."""
    torch.manual_seed(2)
    teacher = Watched().eval()
    config = DISTIL.changed(
        compress={"distil_weight": 1.0},
        training={"epochs": 12},
        augment={"shift_fraction": 0.0},
        model={"dropout": 0.0},
    )
    trainer = trainer_for(tmp_path, config, teacher)
    fit(trainer, QUIET)
    images = torch.from_numpy(VAL.preprocess.normalise(VAL.pixels_of(torch.arange(len(VAL)).numpy())))
    with torch.no_grad():
        agreement = (trainer.model.eval()(images).argmax(1) == teacher(images).argmax(1)).float().mean()
    assert agreement > 0.75


@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_logits_that_are_no_softmax_are_refused(loss: str) -> None:
    with pytest.raises(UserError, match=loss):
        teacher_loss(Watched(), TASK, DISTIL.changed(training={"loss": loss}))
