"""Trackers: missing ones are refused, failing ones dropped, resumed ones go on; nothing of them changes the run.

W&B and MLflow are tested for real, offline, where their packages are installed (the `track` extra).
"""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from convcraft.config import RunConfig
from convcraft.errors import UserError
from convcraft.training import trackers as trackers_module
from convcraft.training.metrics_log import MetricsLog, read_metrics
from convcraft.training.trackers import IDS, Trackers, check_trackers, flat, open_trackers
from convcraft.workflows.train import train

QUIET = Console(quiet=True)
SETTINGS = {"optim": {"name": "sgd", "betas": [0.9, 0.99]}, "recipe": None}


class Recorder:
    """Keeps what it is given; fails from a given call on."""

    def __init__(self, good_calls: int = 1000) -> None:
        self.good_calls = good_calls
        self.calls: list[tuple[dict[str, float], int]] = []
        self.closed: list[bool] = []

    def log(self, figures: Mapping[str, float], step: int) -> None:
        if len(self.calls) == self.good_calls:
            raise ConnectionError("the server is gone")
        self.calls.append((dict(figures), step))

    def flush(self) -> None: ...

    def close(self, *, finished: bool) -> None:
        self.closed.append(finished)


def test_settings_are_checked() -> None:
    with pytest.raises(UserError, match="one of tensorboard, wandb, mlflow"):
        RunConfig().changed(training={"trackers": ("tensorbord",)})
    with pytest.raises(UserError, match="stands once"):
        RunConfig().changed(training={"trackers": ("wandb", "wandb")})
    assert RunConfig().training.trackers == ("tensorboard",)
    assert flat(SETTINGS) == {"optim.name": "sgd", "optim.betas": [0.9, 0.99], "recipe": None}


def test_a_missing_package_is_named_with_its_pip_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="wandb, which is not installed") as caught:
        check_trackers(("wandb",))
    assert 'pip install "convcraft[track]"' in str(caught.value)
    config = RunConfig().changed(training={"trackers": ("mlflow",)})
    with pytest.raises(UserError, match="mlflow, which is not installed"):
        train(config, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_records_reach_the_trackers_under_their_event(tmp_path: Path) -> None:
    recorder, log = Recorder(), MetricsLog(tmp_path)
    log.trackers = Trackers({"recorder": recorder}, QUIET)
    record = {"event": "val", "epoch": 1, "step": 7, "loss": 0.5, "accuracy": None}
    log.write(record)
    log.flush()
    log.close()
    assert recorder.calls == [({"val/loss": 0.5}, 7)]
    assert read_metrics(tmp_path) == [record]


def test_a_tracker_that_fails_is_dropped_and_the_others_go_on() -> None:
    said = io.StringIO()
    failing, steady = Recorder(good_calls=1), Recorder()
    with Trackers({"failing": failing, "steady": steady}, Console(file=said, width=200)) as trackers:
        for step in range(4):
            trackers.log({"train/loss": 1.0}, step)
    assert len(failing.calls) == 1
    assert len(steady.calls) == 4
    assert said.getvalue().count("failing failed") == 1
    assert "ConnectionError: the server is gone" in said.getvalue()
    assert (failing.closed, steady.closed) == ([], [True])


def test_trackers_are_closed_when_the_run_fails() -> None:
    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt), Trackers({"recorder": recorder}, QUIET):
        raise KeyboardInterrupt
    assert recorder.closed == [False]


def test_a_tracker_that_does_not_start_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_arguments: object) -> None:
        raise RuntimeError("no key")

    monkeypatch.setattr(trackers_module, "_TensorBoard", refuse)
    with pytest.raises(UserError, match=r"tensorboard does not start \(RuntimeError: no key\)"):
        open_trackers(("tensorboard",), tmp_path, SETTINGS, resumed_step=None, console=QUIET)


def test_damaged_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / IDS).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        open_trackers(("tensorboard",), tmp_path, SETTINGS, resumed_step=3, console=QUIET)


def board_scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_forgets_what_lies_beyond_the_checkpoint(tmp_path: Path) -> None:
    for resumed_step, steps in ((None, range(1, 7)), (3, range(4, 9))):
        with open_trackers(("tensorboard",), tmp_path, SETTINGS, resumed_step=resumed_step, console=QUIET) as trackers:
            for step in steps:
                trackers.log({"train/loss": float(step)}, step)
    assert board_scalars(tmp_path)["train/loss"] == [(step, float(step)) for step in range(1, 9)]
    assert not (tmp_path / IDS).exists()


def test_training_writes_the_same_log_whatever_tracks_it(tmp_path: Path) -> None:
    config = RunConfig().changed(data={"source": "digits"}, training={"epochs": 1, "batch_size": 256})
    plain, tracked = tmp_path / "plain", tmp_path / "tracked"
    train(config.changed(training={"trackers": ()}), plain, console=QUIET)
    result = train(config, tracked, console=QUIET)
    assert not (plain / "tensorboard").exists()
    assert (plain / "metrics.jsonl").read_bytes() == (tracked / "metrics.jsonl").read_bytes()
    scalars = board_scalars(tracked)
    logged = [(r["step"], r["loss"]) for r in read_metrics(tracked) if r["event"] == "val"]
    assert [step for step, _ in scalars["val/loss"]] == [step for step, _ in logged]
    assert [value for _, value in scalars["val/loss"]] == pytest.approx([value for _, value in logged], rel=1e-6)
    assert result.report is not None
    assert scalars["final/accuracy"][0][1] == pytest.approx(result.report.accuracy)


def test_mlflow_offline_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for resumed_step in (None, 2):
        with open_trackers(("mlflow",), tmp_path, SETTINGS, resumed_step=resumed_step, console=QUIET) as trackers:
            for step in (1, 2):
                trackers.log({"train/loss": 0.5 / step}, step + (resumed_step or 0))
    client = mlflow.MlflowClient((tmp_path / "mlflow").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("convcraft").experiment_id])
    assert run.info.run_id == json.loads((tmp_path / IDS).read_text())["mlflow"]
    assert run.info.status == "FINISHED"
    assert run.data.params["optim.name"] == "sgd"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(entry.step, entry.value) for entry in history] == [(1, 0.5), (2, 0.25), (3, 0.5), (4, 0.25)]


def test_wandb_offline_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))  # no key of this machine
    for resumed_step in (None, 2):
        with open_trackers(("wandb",), tmp_path, SETTINGS, resumed_step=resumed_step, console=QUIET) as trackers:
            trackers.log({"train/loss": 0.5}, 1 + (resumed_step or 0))
    run_id = json.loads((tmp_path / IDS).read_text())["wandb"]
    files = list((tmp_path / "wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb"))
    assert 1 <= len(files) <= 2  # a resume within the same second goes on in the same folder
    content = b"".join(file.read_bytes() for file in files)
    assert b"train/loss" in content
    assert b"optim" in content
