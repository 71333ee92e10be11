"""The same training over several seeds, each in a run folder of its own; what is finished is not done again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from convcraft.config import RunConfig
from convcraft.data.download import content_hash
from convcraft.data.durable_files import read_json
from convcraft.errors import UserError
from convcraft.statistics import Spread, mean_and_spread
from convcraft.training.checkpoint import CHECKPOINTS, saved_checkpoints
from convcraft.training.run_folder import EVALUATION, SUMMARY, read_summary
from convcraft.workflows.evaluate import evaluate
from convcraft.workflows.train import train

SHOWN_DIGITS = 12  # of a SHA-256, in names and messages


def name_by_content(weights: Path) -> str:
    """A weights file's name with the start of its SHA-256: two files of one name get two names.

    Returns:
        e.g. "mnist_model-0123456789ab".
    """
    return f"{weights.stem}-{content_hash(weights)[:SHOWN_DIGITS]}"


@dataclass(frozen=True)
class SeedRun:
    """One finished training, judged on its test images."""

    seed: int
    run: Path
    accuracy: float
    interval: tuple[float, float]
    epochs: int
    train_seconds: float
    new: bool  # False where it was found finished

    def to_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "run": str(self.run), "interval": list(self.interval)}


def train_over_seeds(config: RunConfig, seeds: int, out: Path, console: Console) -> list[SeedRun]:
    """Train and evaluate once per seed 0, 1, 2 ..., in out/run-0, out/run-1 ...

    A run that was stopped goes on; one that is finished is read.

    Raises:
        UserError: a folder there holds a run with other settings.
        Interrupted: a signal came; the state is saved.
    """
    return [finish_run(config.changed(training={"seed": seed}), out / f"run-{seed}", console) for seed in range(seeds)]


def finish_run(config: RunConfig, run: Path, console: Console) -> SeedRun:
    """One run, trained and evaluated as far as that is still to do.

    Raises:
        UserError: the folder holds a run with other settings, or from other starting weights in a file of this name.
        Interrupted: a signal came; the state is saved.
    """
    asked = run.with_name(
        f"{run.name}.yaml"
    )  # as asked: the run's own config.yaml may hold what its weights' card adds
    if asked.exists() and RunConfig.load(asked) != config:
        fix = "Choose another --out, or repeat the options that it was made with."
        raise UserError(f"{run} was made with other settings", f"the settings in {asked}", fix)
    weights = None if config.model.weights is None else Path(config.model.weights).expanduser()
    start = content_hash(weights) if weights is not None and weights.is_file() else None
    noted = run.with_name(f"{run.name}.weights.sha256")
    if start is not None and noted.exists() and noted.read_text(encoding="ascii").strip() != start:
        found = f"{config.model.weights} with SHA-256 {start[:SHOWN_DIGITS]}..."
        expected = f"the weights that {run} started from ({noted.read_text(encoding='ascii')[:SHOWN_DIGITS]}...)"
        raise UserError(found, expected, f"Choose another --out, or delete {run} and {noted} to train from these.")
    run.parent.mkdir(parents=True, exist_ok=True)
    config.save(asked)
    if start is not None:
        noted.write_text(f"{start}\n", encoding="ascii")
    new = not ((run / SUMMARY).exists() and (run / EVALUATION).exists())
    if not (run / SUMMARY).exists():
        started = run.is_dir() and bool(saved_checkpoints(run / CHECKPOINTS))
        train(RunConfig() if started else config, run, resume=run.exists(), console=console)
    if not (run / EVALUATION).exists():
        device, where = config.training.device, config.data.data_dir
        evaluate(run, device=device, data_dir=where, console=console)
    figures, summary = read_json(run / EVALUATION), read_summary(run)
    low, high = figures["interval"]
    return SeedRun(
        seed=config.training.seed,
        run=run,
        accuracy=figures["accuracy"],
        interval=(low, high),
        epochs=summary["epochs"],
        train_seconds=summary["train_seconds"],
        new=new,
    )


def accuracy_spread(runs: list[SeedRun]) -> Spread:
    """Mean and spread of the test accuracies."""
    return mean_and_spread([run.accuracy for run in runs])
