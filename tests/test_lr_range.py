"""The range test reads its curve rightly and leaves a run exactly as it was."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_run import BASE, QUIET, TRAIN, files_of, stop_after, trainer_for

from convcraft.config import RunConfig
from convcraft.errors import UserError
from convcraft.report.lr_range_plot import lr_range_plot
from convcraft.training import lr_range as lr_range_module
from convcraft.training.loop import Trainer, fit
from convcraft.training.lr_range import LrRange, lr_range, read_curve
from convcraft.training.stops import Interrupted

CONFIG = BASE
CASES = {
    "adamw, dropout": CONFIG,
    "sgd, batch norm, accumulation, clipping": CONFIG.changed(
        model={"name": "vgg_small", "args": {"widths": [4, 8]}},
        optim={"name": "sgd", "learning_rate": 0.05},
        training={"accumulation_steps": 2, "gradient_clip_norm": 0.5},
    ),
    "rmsprop, ema": CONFIG.changed(optim={"name": "rmsprop", "learning_rate": 1e-3}, training={"ema_decay": 0.9}),
    "muon, mixup": CONFIG.changed(
        model={"name": "vgg_small", "args": {"widths": [4, 8]}},
        optim={"name": "muon", "learning_rate": 0.02, "other_learning_rate": 2e-3},
        augment={"mixup_alpha": 0.3},
    ),
}


def everything(trainer: Trainer) -> dict[str, Any]:
    """All that a range test could touch, as values that compare by their bits."""
    tensors = {
        **{f"model/{name}": tensor for name, tensor in trainer.model.state_dict().items()},
        **{f"gradient/{name}": p.grad for name, p in trainer.model.named_parameters() if p.grad is not None},
    }
    if trainer.average is not None:
        tensors |= {f"average/{name}": tensor for name, tensor in trainer.average.model.state_dict().items()}
    optimizer = copy.deepcopy(trainer.optimizer.optimizer.state_dict())
    for index, state in optimizer["state"].items():
        tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in state.items()}
    return {
        "tensors": {name: (t.dtype, t.stride(), t.detach().numpy().tobytes()) for name, t in tensors.items()},
        "groups": optimizer["param_groups"],
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": np.random.get_state()[1].tobytes(),  # type: ignore[index, union-attr]  # noqa: NPY002
        "python": random.getstate(),
        "modes": [module.training for module in trainer.model.modules()],
        "state": trainer.state.to_dict(),
        "log": trainer.log.flush(),
        "files": sorted(path.name for path in trainer.run.iterdir()),
    }


@pytest.mark.parametrize("case", CASES)
def test_a_run_with_range_tests_before_and_amid_is_the_same_to_the_byte(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CASES[case]
    fit(trainer_for(tmp_path / "plain", config), QUIET)
    trainer = trainer_for(tmp_path / "tested", config)
    before = everything(trainer)
    curve = lr_range(trainer, num_steps=20)
    assert everything(trainer) == before
    assert len(curve.losses) >= 10
    with stop_after(monkeypatch, 3), pytest.raises(Interrupted):
        fit(trainer, QUIET)
    trainer = trainer_for(tmp_path / "tested", config, resume=True)
    before = everything(trainer)
    assert before["groups"]
    lr_range(trainer, num_steps=12)
    assert everything(trainer) == before
    fit(trainer, QUIET)
    assert files_of(tmp_path / "plain") == files_of(tmp_path / "tested")


def test_streamed_data_give_the_same_curve(tmp_path: Path) -> None:
    in_memory = lr_range(trainer_for(tmp_path / "a", CONFIG), num_steps=12)
    streamed = lr_range(trainer_for(tmp_path / "b", CONFIG, train=replace(TRAIN, pixels=None)), num_steps=12)
    assert in_memory == streamed


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_test_leaves_no_trace(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_for(tmp_path, CONFIG)
    before = everything(trainer)
    original = lr_range_module._train_step
    done = 0

    def fails_at_the_fifth(*args: Any) -> float:
        nonlocal done
        done += 1
        random.random(), np.random.random()  # noqa: NPY002 - as a user's own layer may
        if done == 5:
            raise error
        return original(*args)

    monkeypatch.setattr(lr_range_module, "_train_step", fails_at_the_fifth)
    with pytest.raises(error):
        lr_range(trainer)
    assert everything(trainer) == before


def test_a_blow_up_ends_it_and_leaves_no_trace(tmp_path: Path) -> None:
    config = CONFIG.changed(optim={"name": "sgd"}, model={"args": {"activation": "relu"}, "dropout": 0.0})
    trainer = trainer_for(tmp_path, config)
    before = everything(trainer)
    curve = lr_range(trainer, start=1e-4, end=1e12, num_steps=60)
    assert curve.ending in ("diverged", "not finite")
    assert len(curve.losses) < 60
    assert curve.minimum < 1e3
    assert everything(trainer) == before


def test_rates_of_groups_keep_their_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, ...]] = []
    original = lr_range_module._train_step

    def noting(trainer: Trainer, fabric: Any, network: Any, optimizer: Any, batches: Any) -> float:
        seen.append(tuple(group["lr"] for group in optimizer.param_groups))
        return original(trainer, fabric, network, optimizer, batches)

    monkeypatch.setattr(lr_range_module, "_train_step", noting)
    curve = lr_range(trainer_for(tmp_path, CASES["muon, mixup"]), start=1e-3, end=1e-1, num_steps=11)
    expected = np.geomspace(1e-3, 1e-1, 11)
    assert [rates[0] for rates in seen] == pytest.approx(expected)
    assert curve.rates == pytest.approx(expected)
    assert all(rates[1:] == pytest.approx([rates[0] / 10] * (len(rates) - 1)) for rates in seen)


def test_the_first_losses_are_those_of_plain_training(tmp_path: Path) -> None:
    """With one rate all through, the test is training: the same losses as the loop logs."""
    config = CONFIG.changed(
        schedule={"name": "constant"}, optim={"learning_rate": 1e-3}, training={"log_every_steps": 1}
    )
    trainer = trainer_for(tmp_path, config)
    curve = lr_range(trainer, start=1e-3, end=1e-3 * (1 + 1e-12), num_steps=15)
    fit(trainer, QUIET)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = [record["loss"] for record in records if record["event"] == "train"]
    assert curve.losses == pytest.approx(logged[:15], rel=1e-6)


def synthetic_curve() -> LrRange:
    """Level to 1e-5, falling fastest at 1e-3, least at 1e-2, then blowing up."""
    rates = np.geomspace(1e-7, 1.0, 141)
    x = np.log10(rates)
    losses = 2.3 - 1.5 / (1 + np.exp(-4 * (x + 3))) + np.where(x > -2, 40 * (x + 2) ** 2, 0.0)
    noise = np.random.default_rng(0).normal(0, 0.02, len(rates))
    return read_curve(rates, list(losses + noise), "diverged")


def test_a_known_curve_is_read_rightly() -> None:
    curve = synthetic_curve()
    assert np.log10(curve.steepest) == pytest.approx(-3, abs=0.25)
    assert np.log10(curve.minimum) == pytest.approx(-2, abs=0.25)
    assert curve.suggestion == curve.minimum / 10
    assert curve.fell
    assert max(curve.smoothed) < 2.5  # the blow-up is cut off


def test_a_level_curve_is_no_suggestion() -> None:
    rates = np.geomspace(1e-7, 1.0, 50)
    assert not read_curve(rates, [2.3] * 50, "end of range").fell


def test_a_loss_that_starts_infinite_is_refused() -> None:
    with pytest.raises(UserError, match="not finite"):
        read_curve(np.geomspace(1, 10, 3), [1.0, 2.0, 3.0], "not finite")


@pytest.mark.parametrize("wrong", [{"start": 0.0}, {"start": 1.0, "end": 0.1}, {"num_steps": 2}])
def test_ranges_that_make_no_test_are_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="range test"):
        lr_range(trainer_for(tmp_path, RunConfig()), **wrong)


def test_the_figure_shows_both_readings(tmp_path: Path) -> None:
    curve = synthetic_curve()
    figure = lr_range_plot(curve.rates, curve.losses, curve.smoothed, curve.steepest, curve.suggestion)
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    upright = [line.get_xdata()[0] for line in axes.lines[2:]]  # type: ignore[index]
    assert upright == [curve.steepest, curve.suggestion]
    figure.savefig(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_command_line_writes_curve_and_starts_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from convcraft.cli.app import _run

    out = tmp_path / "range"
    assert _run(["train", "digits", "--lr-range", "--out", str(out), "--json", "--quiet", "--device", "cpu"]) == 0
    values = json.loads(capsys.readouterr().out.splitlines()[-1])["lr_range"]
    assert {path.name for path in out.iterdir()} == {"lr_range.png", "lr_range.json"}
    assert values["fell"]
    assert 1e-6 < values["suggestion"] < 1
    assert json.loads((out / "lr_range.json").read_text())["losses"] == values["losses"]
    assert _run(["train", "digits", "--lr-range", "--out", str(out), "--quiet"]) == 2
