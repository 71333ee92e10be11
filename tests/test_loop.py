"""The loop: accumulation, exact resume, early stopping, guards. On a small synthetic problem, for real."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import get_worker_info

from convcraft.config import RunConfig
from convcraft.data.image_set import ImageSet
from convcraft.data.preprocess import Preprocess
from convcraft.data.sample import Sample
from convcraft.errors import UserError
from convcraft.models.build import build_model
from convcraft.tasks.classification import Classification, balanced_weights
from convcraft.training import loop
from convcraft.training.checkpoint import CHECKPOINTS, load_newest, saved_checkpoints
from convcraft.training.loop import Trainer, fit, prepare_trainer
from convcraft.training.metrics_log import read_metrics
from convcraft.training.random_state import seed_all
from convcraft.training.run_folder import exclusive
from convcraft.training.stops import Interrupted, NonFinite

QUIET = Console(quiet=True)
CONTRACT = Preprocess(
    height=8,
    width=8,
    channels=1,
    resize="stretch",
    interpolation="bilinear",
    crop_fraction=1.0,
    mean=(0.4,),
    std=(0.3,),
)


def images(num: int, seed: int = 0) -> ImageSet:
    """Bars: class 0 vertical, 1 horizontal, 2 both; noisy enough that a network must learn."""
    draw = np.random.default_rng(seed)
    samples = []
    for index in range(num):
        target = index % 3
        pixels = draw.integers(0, 60, (8, 8))
        if target != 1:
            pixels[:, draw.integers(8)] += 190
        if target != 0:
            pixels[draw.integers(8)] += 190
        samples.append(Sample(pixels.clip(0, 255).astype(np.uint8), target, f"bars#{index}"))
    return ImageSet.build(samples, CONTRACT, 1 << 30)


TRAIN, VAL = images(150), images(60, seed=1)

BASE = RunConfig().changed(
    model={"name": "lenet5", "dropout": 0.2},
    augment={"shift_fraction": 0.1},
    training={"epochs": 3, "batch_size": 16, "log_every_steps": 3, "checkpoint_seconds": 0.0},
)


def trainer_for(run: Path, config: RunConfig, *, resume: bool = False, train: ImageSet = TRAIN) -> Trainer:
    run.mkdir(exist_ok=True, parents=True)
    seed_all(config.training.seed)
    model = build_model(config.model, num_classes=3, in_channels=1, image_size=(8, 8))
    weights = balanced_weights(train.targets, 3) if config.training.class_weights == "balanced" else None
    task = Classification(3, config.training.label_smoothing, weights)
    val = None if config.data.final else VAL
    return prepare_trainer(
        run, config, train, val, task, model, {"classes": ("v", "h", "b")}, resume=resume, console=QUIET
    )


def train(run: Path, config: RunConfig, *, resume: bool = False, train: ImageSet = TRAIN) -> Trainer:
    trainer = trainer_for(run, config, resume=resume, train=train)
    fit(trainer, QUIET)
    return trainer


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.result_model.state_dict().items()}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def test_it_learns(tmp_path: Path) -> None:
    network = {"name": "vgg_small", "args": {"widths": [8, 16], "pooling": "max"}, "dropout": 0.0}
    trainer = train(tmp_path, BASE.changed(model=network, optim={"learning_rate": 1e-2}, training={"epochs": 12}))
    assert trainer.state.best_accuracy is not None
    assert trainer.state.best_accuracy > 0.85  # chance is 1/3


def test_four_passes_of_16_equal_one_of_64(tmp_path: Path) -> None:
    config = BASE.changed(
        model={"name": "lenet5", "dropout": 0.0},
        augment={"shift_fraction": 0.0},
        optim={"name": "sgd", "learning_rate": 0.05},
    )
    common = {"epochs": 2, "class_weights": "balanced", "precision": "32-true"}
    uneven = ImageSet.build(list(TRAIN.samples[:128]) + list(TRAIN.samples[0:20:3]), CONTRACT, 1 << 30)
    one = train(tmp_path / "one", config.changed(training={**common, "batch_size": 64}), train=uneven)
    four = train(
        tmp_path / "four", config.changed(training={**common, "batch_size": 16, "accumulation_steps": 4}), train=uneven
    )
    assert one.state.step == four.state.step
    for name, tensor in weights_of(one).items():
        torch.testing.assert_close(tensor, weights_of(four)[name], rtol=0, atol=1e-5)


@contextmanager
def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> Iterator[None]:
    """As if a signal came during the given step."""

    class Countdown:
        left = steps

        def __bool__(self) -> bool:
            self.left -= 1
            return self.left <= 0

    @contextmanager
    def fake() -> Iterator[Countdown]:
        yield Countdown()

    with monkeypatch.context() as patch:
        patch.setattr(loop, "catch_stop_signals", fake)
        yield


RESUME_CASES = {
    "adamw, dropout": BASE,
    "sgd, plateau, early stopping": BASE.changed(
        optim={"name": "sgd"},
        schedule={"name": "plateau", "plateau_patience_epochs": 0},
        training={"early_stopping_epochs": 2},
    ),
    "ema, accumulation, clipping": BASE.changed(
        training={"ema_decay": 0.9, "accumulation_steps": 2, "gradient_clip_norm": 0.5, "label_smoothing": 0.1}
    ),
    "batch norm, mixup, channels last": BASE.changed(
        model={"name": "vgg_small", "args": {"widths": [4, 8]}},
        augment={"mixup_alpha": 0.3, "erasing_probability": 0.3},
    ),
    "muon, batch norm, channels last": BASE.changed(
        model={"name": "vgg_small", "args": {"widths": [4, 8]}},
        optim={"name": "muon", "learning_rate": 0.02, "other_learning_rate": 2e-3, "muon_scale": "relative"},
    ),
    "rmsprop, final": replace(
        BASE, data=replace(BASE.data, final=True), training=replace(BASE.training, select="last")
    ).changed(optim={"name": "rmsprop", "learning_rate": 1e-3}),
}


@pytest.mark.parametrize("case", RESUME_CASES)
@pytest.mark.parametrize("steps", [7, 10])  # inside an epoch, at an epoch's last step
def test_resume_is_exact(case: str, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RESUME_CASES[case]
    whole = train(tmp_path / "whole", config)
    with stop_after(monkeypatch, steps), pytest.raises(Interrupted, match="--resume"):
        train(tmp_path / "parts", config)
    with stop_after(monkeypatch, 3), pytest.raises(Interrupted):
        train(tmp_path / "parts", config, resume=True)
    resumed = train(tmp_path / "parts", config, resume=True)
    assert_same(weights_of(whole), weights_of(resumed))
    assert_same(dict(whole.model.state_dict()), dict(resumed.model.state_dict()))
    assert (tmp_path / "whole/metrics.jsonl").read_bytes() == (tmp_path / "parts/metrics.jsonl").read_bytes()
    before, after = whole.state.to_dict(), resumed.state.to_dict()
    before.pop("train_seconds"), after.pop("train_seconds")
    assert before == after


def test_resume_in_streaming_with_another_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streamed = replace(TRAIN, pixels=None)
    config = BASE.changed(training={"epochs": 2}, data={"num_workers": 2})
    whole = train(tmp_path / "whole", config)
    with stop_after(monkeypatch, 5), pytest.raises(Interrupted):
        train(tmp_path / "parts", config, train=streamed)
    resumed = train(tmp_path / "parts", config.changed(data={"num_workers": 1}), resume=True, train=streamed)
    assert_same(weights_of(whole), weights_of(resumed))


@dataclass(frozen=True)
class FatalOnce(ImageSet):
    """A streamed set whose worker process is killed while it decodes, as the system does when memory runs out."""

    marker: Path = Path()

    def pixels_of(self, ids: np.ndarray) -> np.ndarray:
        if 77 in ids and get_worker_info() is not None and self.marker.exists():
            self.marker.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().pixels_of(ids)


def test_a_dead_data_worker_saves_and_resumes_exactly(tmp_path: Path) -> None:
    config = BASE.changed(model={"name": "vgg_small", "args": {"widths": [4, 8]}}, training={"accumulation_steps": 2})
    whole = train(tmp_path / "whole", config)
    marker = tmp_path / "marker"
    marker.touch()
    fatal = FatalOnce(TRAIN.samples, TRAIN.targets, TRAIN.preprocess, None, marker=marker)
    with pytest.raises(Interrupted, match="died"):
        train(tmp_path / "parts", config, train=fatal)
    assert not marker.exists()
    resume = bool(saved_checkpoints(tmp_path / "parts" / CHECKPOINTS))  # it may have died before the first step ended
    resumed = train(tmp_path / "parts", config, train=fatal, resume=resume)
    assert_same(weights_of(whole), weights_of(resumed))
    assert (tmp_path / "whole/metrics.jsonl").read_bytes() == (tmp_path / "parts/metrics.jsonl").read_bytes()


def test_a_damaged_newest_checkpoint_costs_steps_not_exactness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tmp_path / "whole", BASE)
    with stop_after(monkeypatch, 14), pytest.raises(Interrupted):
        train(tmp_path / "parts", BASE)
    newest = saved_checkpoints(tmp_path / "parts" / CHECKPOINTS)[0]
    (newest / "model.safetensors").write_bytes(b"broken")
    resumed = train(tmp_path / "parts", BASE, resume=True)
    assert_same(weights_of(whole), weights_of(resumed))
    assert (tmp_path / "whole/metrics.jsonl").read_bytes() == (tmp_path / "parts/metrics.jsonl").read_bytes()


def test_same_seed_same_run_other_seed_other_run(tmp_path: Path) -> None:
    first, second = train(tmp_path / "a", BASE), train(tmp_path / "b", BASE)
    other = train(tmp_path / "c", BASE.changed(training={"seed": 1}))
    assert_same(weights_of(first), weights_of(second))
    assert not torch.equal(weights_of(first)["c1.weight"], weights_of(other)["c1.weight"])


def test_early_stopping_stops_at_patience_and_keeps_the_best(tmp_path: Path) -> None:
    config = BASE.changed(optim={"learning_rate": 1e-12}, training={"epochs": 30, "early_stopping_epochs": 3})
    config = config.changed(
        model={"dropout": 0.0}, schedule={"name": "constant"}, optim={"name": "sgd", "weight_decay": 0.0}
    )
    trainer = train(tmp_path, config)  # nothing is learned: the first epoch stays the best or nearly so
    assert trainer.state.epoch < 30
    accuracies = [record["accuracy"] for record in read_metrics(tmp_path) if record["event"] == "val"]
    losses = [record["loss"] for record in read_metrics(tmp_path) if record["event"] == "val"]
    best = max(range(len(accuracies)), key=lambda i: (accuracies[i], -losses[i]))
    assert trainer.state.epoch == best + 1 + 3
    assert trainer.state.best_checkpoint is not None
    assert trainer.state.best_checkpoint.endswith(f"epoch-{best + 1:04d}")
    assert (tmp_path / CHECKPOINTS / trainer.state.best_checkpoint).is_dir()


def test_logged_learning_rate_equals_the_plan(tmp_path: Path) -> None:
    config = BASE.changed(schedule={"name": "one_cycle"}, training={"log_every_steps": 1})
    trainer = train(tmp_path, config)
    logged = [record["learning_rate"] for record in read_metrics(tmp_path) if record["event"] == "train"]
    planned = [
        config.optim.learning_rate * loop.factor_at(config.schedule, step, trainer.total_steps, trainer.steps_per_epoch)
        for step in range(trainer.total_steps)
    ]
    assert logged == planned


def test_exploding_loss_stops_and_names_the_batch(tmp_path: Path) -> None:
    config = BASE.changed(optim={"name": "sgd", "learning_rate": 1e30}, model={"args": {"activation": "relu"}})
    with pytest.raises(NonFinite):
        train(tmp_path, config)
    for folder in saved_checkpoints(tmp_path / CHECKPOINTS):
        tensors = load_newest(tmp_path / CHECKPOINTS)[0].tensors["model"]
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values()), folder
    if (tmp_path / "non_finite.json").exists():
        report = json.loads((tmp_path / "non_finite.json").read_text())
        assert report["images"]
        assert all(name.startswith("bars#") for name in report["images"])


def test_non_finite_weights_are_never_saved(tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path, BASE)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(NonFinite):
        fit(trainer, QUIET)
    assert saved_checkpoints(tmp_path / CHECKPOINTS) == []
    assert json.loads((tmp_path / "non_finite.json").read_text())["loss"] == "nan"


def test_bfloat16_computes_in_16_bits_and_keeps_32_bit_weights(tmp_path: Path) -> None:
    seen: list[torch.dtype] = []
    trainer = trainer_for(tmp_path, BASE.changed(training={"precision": "bf16-mixed"}))
    convolution = next(module for module in trainer.model.modules() if isinstance(module, torch.nn.Conv2d))
    convolution.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    fit(trainer, QUIET)
    assert torch.bfloat16 in seen  # training
    assert torch.float32 in seen  # validation
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert trainer.state.best_loss is not None
    assert trainer.state.best_loss < 1.2


def test_one_process_per_run_folder(tmp_path: Path) -> None:
    with exclusive(tmp_path), pytest.raises(UserError, match="in use"), exclusive(tmp_path):
        pass
    with exclusive(tmp_path):
        pass


def test_zero_epochs_keep_the_starting_weights(tmp_path: Path) -> None:
    seed_all(0)
    start = build_model(BASE.model, num_classes=3, in_channels=1, image_size=(8, 8)).state_dict()
    trainer = train(tmp_path, BASE.changed(training={"epochs": 0}))
    assert_same(weights_of(trainer), dict(start))


def test_signals_save_and_leave(tmp_path: Path) -> None:
    """A real SIGTERM to this process in the middle of the loop."""
    trainer = trainer_for(tmp_path, BASE.changed(training={"epochs": 1000, "checkpoint_seconds": 1000.0}))
    original: Callable[..., float] = loop.set_learning_rate

    def set_and_kill(inner: Trainer) -> float:
        if inner.state.step == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(inner)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "set_learning_rate", set_and_kill)
        with pytest.raises(Interrupted):
            fit(trainer, QUIET)
    assert saved_checkpoints(tmp_path / CHECKPOINTS)[0].name.startswith("step-00000021")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
