"""The pull to the start, and attacks: what they do to weights and images, and that they leave training alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from small_run import BASE, CONTRACT, QUIET, TRAIN, VAL, files_of, stop_after
from torch import Tensor, nn

from convcraft.config import FinetuneConfig, RunConfig
from convcraft.data.cached_maps import CachedMaps
from convcraft.data.image_set import ImageSet
from convcraft.data.loader import eval_batches
from convcraft.data.preprocess import Preprocess
from convcraft.data.sample import Sample
from convcraft.errors import UserError
from convcraft.evaluation.attacks import Attack, attack_accuracy
from convcraft.finetune.robust import attack_hook, pull_to_start
from convcraft.models.build import build_model
from convcraft.tasks.classification import Classification
from convcraft.training.freeze import freeze, tensor_hashes
from convcraft.training.hooks import TuningHooks
from convcraft.training.loop import Interrupted, Trainer, fit, prepare_trainer
from convcraft.training.random_state import capture, seed_all

RGB = Preprocess(height=8, width=8, channels=3, resize="stretch", mean=(0.2, 0.5, 0.6), std=(0.1, 0.25, 0.5))
TASK = Classification(3)


def rgb_images(num: int = 6) -> Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (num, 8, 8, 3), dtype=np.uint8)
    pixels[0] = 0
    pixels[1] = 255
    return torch.from_numpy(RGB.normalise(pixels))


def rgb_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8 * 36, 3)
    )


def as_pixels(images: Tensor) -> Tensor:
    """Back to 0..1."""
    return images * torch.tensor(RGB.std)[:, None, None] + torch.tensor(RGB.mean)[:, None, None]


@torch.no_grad()
def loss_of(model: nn.Module, images: Tensor, targets: Tensor) -> float:
    return float(TASK.loss(model(images), targets))


# --- attacks ---


@pytest.mark.parametrize(("kind", "steps"), [("fgsm", 1), ("pgd", 1), ("pgd", 5)])
def test_pixels_move_by_at_most_epsilon_and_stay_pixels(kind: str, steps: int) -> None:
    images, targets, model = rgb_images(), torch.tensor([0, 1, 2, 0, 1, 2]), rgb_network()
    epsilon = 0.03
    changed = Attack(kind, epsilon, steps, RGB)(model, TASK.loss, images, targets)
    moved = as_pixels(changed) - as_pixels(images)
    assert float(moved.abs().max()) <= epsilon + 1e-6
    assert float(as_pixels(changed).min()) >= -1e-6
    assert float(as_pixels(changed).max()) <= 1 + 1e-6
    for channel in range(3):  # each by the same share of its pixels' range, whatever its std
        assert float(moved[2:, channel].abs().max()) == pytest.approx(epsilon, rel=1e-3)
    assert float(moved[0].min()) >= 0
    assert float(moved[1].max()) <= 0
    model.eval()
    assert loss_of(model, changed, targets) > loss_of(model, images, targets)


def test_fgsm_is_one_step_along_the_sign_of_the_gradient() -> None:
    images, targets, model = rgb_images()[2:], torch.tensor([2, 0, 1, 2]), rgb_network().eval()
    followed = images.clone().requires_grad_()
    TASK.loss(model(followed), targets).backward()
    expected = as_pixels(images) + 0.01 * followed.grad.sign()
    changed = Attack("fgsm", 0.01, 9, RGB)(model, TASK.loss, images, targets)
    torch.testing.assert_close(as_pixels(changed), expected.clamp(0, 1), atol=1e-6, rtol=0)


def test_more_steps_do_more_harm_than_a_random_start() -> None:
    images, targets, model = rgb_images(64), torch.arange(64) % 3, rgb_network().eval()
    losses = []
    for steps in (1, 3, 20):
        changed = Attack("pgd", 0.03, steps, RGB)(model, TASK.loss, images, targets)
        losses.append(loss_of(model, changed, targets))
    fgsm = loss_of(model, Attack("fgsm", 0.03, 1, RGB)(model, TASK.loss, images, targets), targets)
    assert losses[-1] >= fgsm > loss_of(model, images, targets)
    assert losses[-1] > losses[0]


def test_mixed_targets_are_attacked_too() -> None:
    images, model = rgb_images(), rgb_network()
    mixed = torch.softmax(torch.randn(6, 3), dim=1)
    changed = Attack("pgd", 0.03, 3, RGB)(model, TASK.loss, images, mixed)
    model.eval()
    assert loss_of(model, changed, mixed) > loss_of(model, images, mixed)


def test_an_attack_touches_nothing_of_the_training() -> None:
    images, targets, model = rgb_images(), torch.tensor([0, 1, 2, 0, 1, 2]), rgb_network()
    model[0].requires_grad_(False)
    model.train()
    model[1].eval()  # frozen by hand
    TASK.loss(model(images), targets).backward()
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    before, flags, random = tensor_hashes_of(model), [m.training for m in model.modules()], capture()
    original = images.clone()
    changed = Attack("pgd", 0.03, 3, RGB, seed=3)(model, TASK.loss, images, targets)
    assert torch.equal(images, original)
    assert not images.requires_grad
    assert not changed.requires_grad
    assert before == tensor_hashes_of(model)
    assert flags == [m.training for m in model.modules()]
    assert capture() == random
    for name, parameter in model.named_parameters():
        kept = gradients[name]
        assert (parameter.grad is None) if kept is None else torch.equal(parameter.grad, kept)


def tensor_hashes_of(model: nn.Module) -> dict[str, str]:
    return tensor_hashes(model.state_dict(), [name for name, _ in model.named_children()])


def test_the_random_start_follows_from_images_and_seed() -> None:
    images, targets, model = rgb_images(), torch.tensor([0, 1, 2, 0, 1, 2]), rgb_network()
    attacks = [Attack("pgd", 0.03, 1, RGB, seed) for seed in (0, 0, 1)]
    first, again, other = (attack(model, TASK.loss, images, targets) for attack in attacks)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_values_beyond_the_pixels_range_are_not_pulled_in() -> None:
    """Augmentation may leave the range; the attack adds epsilon and no more."""
    images, targets, model = rgb_images() * 1.5, torch.tensor([0, 1, 2, 0, 1, 2]), rgb_network()
    changed = Attack("pgd", 0.02, 3, RGB)(model, TASK.loss, images, targets)
    assert float((as_pixels(changed) - as_pixels(images)).abs().max()) <= 0.02 + 1e-6


def digits() -> tuple[ImageSet, ImageSet]:
    bunch = load_digits()
    pixels = (bunch.images * (255 / 16)).astype(np.uint8)
    samples = [Sample(p, int(t), f"{i}") for i, (p, t) in enumerate(zip(pixels, bunch.target, strict=True))]
    contract = Preprocess(height=8, width=8, channels=1, resize="stretch", mean=(0.3,), std=(0.37,))
    return (ImageSet.build(part, contract, 1 << 30) for part in (samples[:1200], samples[1200:]))


class DigitNetwork(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip


def trained_on_digits(run: Path, train: ImageSet, attack: str) -> nn.Module:
    config = RunConfig().changed(
        augment={"shift_fraction": 0.0},
        optim={"learning_rate": 5e-3},
        training={"epochs": 6, "batch_size": 64, "device": "cpu", "precision": "32-true", "trackers": ()},
    )
    run.mkdir()
    seed_all(0)
    model, task = DigitNetwork(), Classification(10)
    settings = FinetuneConfig(attack=attack, attack_epsilon=0.15, attack_steps=3)
    hooks = TuningHooks(perturb=attack_hook(model, task, train, settings, seed=0))
    trainer = prepare_trainer(run, config, train, None, task, model, {}, resume=False, console=QUIET, hooks=hooks)
    fit(trainer, QUIET)
    return model


def test_adversarial_training_raises_accuracy_under_attack(tmp_path: Path) -> None:
    train, test = digits()
    plain = trained_on_digits(tmp_path / "plain", train, "none")
    robust = trained_on_digits(tmp_path / "robust", train, "pgd")
    attacked = {"epsilon": 0.15, "steps": 10}
    assert attack_accuracy(plain, test, epsilon=0.15, steps=0) > 0.85
    assert attack_accuracy(robust, test, epsilon=0.15, steps=0) > 0.80
    before, after = attack_accuracy(plain, test, **attacked), attack_accuracy(robust, test, **attacked)
    assert after > before + 0.15, (before, after)


def test_accuracy_under_no_attack_is_the_plain_accuracy() -> None:
    _, test = digits()
    torch.manual_seed(0)
    model = DigitNetwork().train()
    batch = next(iter(eval_batches(test, len(test))))
    expected = float((model(batch.images).argmax(1) == batch.targets).float().mean())
    assert attack_accuracy(model, test, epsilon=0.1, steps=0) == pytest.approx(expected)
    assert attack_accuracy(model, test, epsilon=0.0, steps=2) == pytest.approx(expected)
    assert model.training


def test_cached_maps_cannot_be_attacked() -> None:
    maps = CachedMaps(torch.zeros(1, 3, 4), np.zeros(3, np.int64), [], CONTRACT, np.arange(3))
    model = nn.Linear(4, 3)
    with pytest.raises(UserError, match="attack pgd"):
        attack_hook(model, TASK, maps, FinetuneConfig(attack="pgd"), seed=0)
    assert attack_hook(model, TASK, maps, FinetuneConfig(attack="none"), seed=0) is None


# --- the pull to the start ---


def trainer_with(run: Path, finetune: FinetuneConfig, *, resume: bool = False, l2_sp: float = 0.0) -> Trainer:
    """The small run, fine-tuning: the first layer frozen, everything else from "pretrained" weights but the head."""
    run.mkdir(exist_ok=True, parents=True)
    config = BASE.changed(optim={"name": "sgd", "learning_rate": 0.05, "weight_decay": 0.0})
    seed_all(0)
    model = build_model(config.model, num_classes=3, in_channels=1, image_size=(8, 8))
    freeze(model, ["c1"])
    pull = pull_to_start(model, l2_sp, fresh=("output.weight", "output.bias")) if l2_sp else None
    hooks = TuningHooks(None, attack_hook(model, TASK, TRAIN, finetune, seed=0), pull)
    return prepare_trainer(run, config, TRAIN, VAL, TASK, model, {}, resume=resume, console=QUIET, hooks=hooks)


def distance(trainer: Trainer, start: dict[str, Tensor], name: str) -> float:
    return float((trainer.model.state_dict()[name] - start[name]).norm())


def test_the_pull_keeps_weights_near_their_start(tmp_path: Path) -> None:
    trainers = {}
    for strength in (0.0, 0.5):
        trainers[strength] = trainer_with(tmp_path / str(strength), FinetuneConfig(), l2_sp=strength)
        start = {name: tensor.clone() for name, tensor in trainers[strength].model.state_dict().items()}
        fit(trainers[strength], QUIET)
    for name in ("c3.weight", "c5.weight", "f6.weight"):
        assert distance(trainers[0.5], start, name) < 0.8 * distance(trainers[0.0], start, name)
    assert distance(trainers[0.5], start, "c3.weight") > 0
    assert distance(trainers[0.5], start, "c1.weight") == 0


def test_the_pulls_gradient_is_the_papers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3))
    model[0].requires_grad_(False)
    pull = pull_to_start(model, 0.3, fresh=("2.weight", "2.bias"), fresh_decay=0.02)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    inputs, targets = torch.randn(8, 4), torch.randint(3, (8,))
    nn.functional.cross_entropy(model(inputs), targets).backward()
    pull()
    received = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    now = dict(model.named_parameters())
    penalty = sum((now[name] - start[name]).square().sum() for name in ("1.weight", "1.bias")) * 0.3 / 2
    penalty = penalty + now["2.weight"].square().sum() * 0.02 / 2
    (nn.functional.cross_entropy(model(inputs), targets) + penalty).backward()
    assert received.keys() == {"1.weight", "1.bias", "2.weight", "2.bias"}
    for name, gradient in received.items():
        torch.testing.assert_close(gradient, now[name].grad)


def test_scaled_gradients_are_refused() -> None:
    with pytest.raises(UserError, match="16-mixed"):
        pull_to_start(nn.Linear(2, 2), 0.1, precision="16-mixed")


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_a_run_with_attack_and_pull_goes_on_exactly(
    attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = FinetuneConfig(attack=attack, attack_epsilon=0.05, attack_steps=2)
    fit(trainer_with(tmp_path / "whole", settings, l2_sp=0.1), QUIET)
    with stop_after(monkeypatch, 7), pytest.raises(Interrupted):
        fit(trainer_with(tmp_path / "parts", settings, l2_sp=0.1), QUIET)
    fit(trainer_with(tmp_path / "parts", settings, resume=True, l2_sp=0.1), QUIET)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "parts")
    fit(trainer_with(tmp_path / "other", FinetuneConfig(), l2_sp=0.1), QUIET)
    assert files_of(tmp_path / "other") != files_of(tmp_path / "whole")
