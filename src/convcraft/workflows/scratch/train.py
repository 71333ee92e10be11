"""`convcraft scratch train`: `workflows.train` with the NumPy engine."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from convcraft.config import RunConfig
from convcraft.errors import UserError
from convcraft.training.run_folder import CONFIG
from convcraft.training.stops import Interrupted
from convcraft.workflows.train import TrainResult, train

DEFAULT_RECIPE = "scratch-lenet5"  # for any data, where nothing else was asked for


def train_in_numpy(
    config: RunConfig,
    run: Path,
    *,
    resume: bool = False,
    profile: bool = False,
    threads: int | None = None,
    console: Console,
) -> TrainResult:
    """As `workflows.train.train`; with resume, of runs that NumPy began.

    Raises:
        UserError: also where the run to go on with is torch's.
        Interrupted: a signal came; the state is saved.
        NonFinite: the loss blew up.
    """
    if resume and (run / CONFIG).exists():
        began = RunConfig.load(run / CONFIG).training.engine
        if began != "numpy":
            fix = f"Go on with: convcraft train --out {run} --resume"
            raise UserError(f"{run} was begun with {began}", "a run of the NumPy engine", fix)
    try:
        return train(config, run, resume=resume, profile=profile, threads=threads, console=console)
    except Interrupted as stopped:
        raise Interrupted(stopped.why, run, "scratch train") from stopped
