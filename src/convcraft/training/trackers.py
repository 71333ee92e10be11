"""Figures of a run for TensorBoard, Weights & Biases and MLflow, beside `metrics.jsonl`, which stays the truth.

Nothing here may change a run: a tracker that cannot start is refused before the first step, and one that fails later
is dropped with a warning. Nothing leaves the machine unless the tracker's own environment variables say so.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console

from convcraft.errors import UserError

IDS = "trackers.json"  # in the run folder: the name under which each tracker knows the run, for resumes
PROJECT = "convcraft"
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}  # setting -> module
INSTALL = {"tensorboard": "convcraft[train]", "wandb": "convcraft[track]", "mlflow": "convcraft[track]"}


class Tracker(Protocol):
    """One program that collects figures."""

    def log(self, figures: Mapping[str, float], step: int) -> None: ...

    def flush(self) -> None: ...

    def close(self, *, finished: bool) -> None: ...


class Trackers:
    """All trackers of a run; use it as a context, which closes them however the run ends."""

    def __init__(self, trackers: Mapping[str, Tracker], console: Console) -> None:
        self._trackers = dict(trackers)
        self._console = console

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Numbers under names such as train/loss, at an optimiser step."""
        self._each(lambda tracker: tracker.log(figures, step))

    def flush(self) -> None:
        self._each(lambda tracker: tracker.flush())

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._each(lambda tracker: tracker.close(finished=kind is None))
        self._trackers.clear()

    def _each(self, action: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                action(tracker)
            except Exception as error:  # whatever a foreign program raises must not end the training
                del self._trackers[name]
                message = f"{name} failed and gets no more figures ({type(error).__name__}: {error}); training goes on"
                self._console.print(message, style="yellow", highlight=False, markup=False)


def check_trackers(names: tuple[str, ...]) -> None:
    """Raises UserError where the package of a tracker is not installed; costs no import."""
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            fix = f'pip install "{INSTALL[name]}", or take {name} out of training.trackers.'
            raise UserError(f"training.trackers names {name}, which is not installed", "an installed package", fix)


def open_trackers(
    names: tuple[str, ...], run: Path, config: dict[str, Any], *, resumed_step: int | None, console: Console
) -> Trackers:
    """Start the trackers of a run, or go on with them.

    Args:
        names: `training.trackers`.
        run: the run folder; what stays on this machine is written there.
        config: all settings, shown beside the figures.
        resumed_step: the step of the checkpoint that a resumed run goes on from; None for a new run.

    Raises:
        UserError: a package is missing, or the tracker does not start (no key, no server).
    """
    check_trackers(names)
    ids = _known_ids(run) if resumed_step is not None else {}
    opened: dict[str, Tracker] = {}
    for name in names:
        try:
            if name == "tensorboard":
                opened[name] = _TensorBoard(run, config, resumed_step)
            elif name == "wandb":
                ids.setdefault("wandb", secrets.token_hex(4))
                opened[name] = _Wandb(run, config, ids["wandb"])
            else:
                opened[name] = _Mlflow(run, config, ids)
        except Exception as error:
            for started in opened.values():
                started.close(finished=False)
            fix = f"Set it up as its own manual says, or take {name} out of training.trackers."
            received = f"{name} does not start ({type(error).__name__}: {error})"
            raise UserError(received, "a running tracker", fix) from error
    if ids:
        (run / IDS).write_text(json.dumps(ids, indent=1) + "\n", encoding="utf-8")
    return Trackers(opened, console)


def _known_ids(run: Path) -> dict[str, str]:
    path = run / IDS
    if not path.exists():
        return {}
    try:
        ids: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        fix = "Remove it: the trackers will begin new runs."
        raise UserError(f"{path} is damaged ({error})", "a JSON file", fix) from error
    return ids


def flat(config: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Nested settings under dotted names: optim.learning_rate."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}": value}
    return found


class _TensorBoard:
    """Event files in RUN/tensorboard."""

    def __init__(self, run: Path, config: dict[str, Any], resumed_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # purge_step makes TensorBoard forget what an interrupted run wrote beyond the checkpoint.
        purge = resumed_step + 1 if resumed_step is not None else None
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=purge)
        if resumed_step is None:
            rows = "\n".join(f"| {name} | {value} |" for name, value in flat(config).items())
            self._board.add_text("config", f"| setting | value |\n|---|---|\n{rows}", 0)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        self._board.flush()

    def close(self, *, finished: bool) -> None:
        self._board.close()


class _Wandb:
    """RUN/wandb, to be sent later by `wandb sync`, unless WANDB_MODE says otherwise."""

    def __init__(self, run: Path, config: dict[str, Any], run_id: str) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        settings = wandb.Settings(console="off", disable_git=True, save_code=False, silent=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=run_id,
            resume="allow",
            mode=os.environ.get("WANDB_MODE", "offline"),
            dir=run,
            config=config,
            reinit="create_new",  # else a run that is open in this process would be handed back
            settings=settings,
        )
        self._run.define_metric("*", step_metric="step")

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log({**figures, "step": step})

    def flush(self) -> None:
        """wandb writes through a process of its own, at once."""

    def close(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class _Mlflow:
    """Files in RUN/mlflow, unless MLFLOW_TRACKING_URI names another place."""

    def __init__(self, run: Path, config: dict[str, Any], ids: dict[str, str]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        place = os.environ.get("MLFLOW_TRACKING_URI")
        if place is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            place = (run / "mlflow").absolute().as_uri()
        import mlflow

        self._client = mlflow.MlflowClient(place)
        if "mlflow" not in ids:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            experiment = self._client.get_experiment_by_name(name)
            experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(name)
            ids["mlflow"] = self._client.create_run(experiment_id, run_name=run.name).info.run_id
            for key, value in flat(config).items():
                self._client.log_param(ids["mlflow"], key, value)
        self._id = ids["mlflow"]
        self._client.update_run(self._id, status="RUNNING")

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._client.log_metric(self._id, name, value, step=step)

    def flush(self) -> None:
        """Every call has written already."""

    def close(self, *, finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")
