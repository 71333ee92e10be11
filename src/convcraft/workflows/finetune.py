"""`convcraft finetune`: a pretrained network and labelled images -> the best network for the time, with proof."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from convcraft.config import RunConfig
from convcraft.data.dataset import TrainingData, prepare_training_data
from convcraft.data.durable_files import read_json
from convcraft.errors import UserError
from convcraft.finetune.planner import Budget
from convcraft.training.run_folder import CONFIG, DATA, PREPROCESS, SUMMARY, exclusive
from convcraft.training.stops import Interrupted
from convcraft.workflows.console import data_progress
from convcraft.workflows.finetune_delivery import FinetuneResult, deliver
from convcraft.workflows.finetune_search import Tuning
from convcraft.workflows.pretrained_start import settle_start
from convcraft.workflows.train import (
    announce,
    describe_run,
    preflight_in_time,
    recorded_start,
    settle_config,
    task_of,
    tell,
    whole_paths,
)

LOSSES = ("cross_entropy", "nll")  # both read logits by softmax, as probes do


def finetune(config: RunConfig, run: Path, *, resume: bool = False, console: Console) -> FinetuneResult:
    """Fine-tune a pretrained network as configured, into a run folder that evaluate, predict and report take.

    With resume, a run that was stopped goes on: rounds that were finished are not repeated, a training that was stopped
    continues to the same weights, and what the planner settled stays settled.

    Raises:
        UserError: data, weights, settings or folder that cannot be used.
        Interrupted: a signal came; the state is saved.
        NonFinite: the loss blew up, and there was no other candidate to go on with.
    """
    budget = Budget(config.finetune.budget_seconds)
    config = _repeated(config, run) if resume else config
    budget.seconds = config.finetune.budget_seconds
    _check(config)
    start = settle_start(whole_paths(config), console)
    config = settle_config(start.config, run, resume)
    run.mkdir(parents=True, exist_ok=True)
    with exclusive(run):
        going_on = resume and (run / DATA).exists() and (run / PREPROCESS).exists()
        recorded = recorded_start(run) if going_on else None
        with data_progress(console) as progress:
            data = prepare_training_data(config.data, config.preprocess, progress, recorded=recorded)
        if going_on:
            _refuse_other_data(run, data)
        announce(data, config, console)
        network = start.network(data.classes, data.preprocess, console)
        task = task_of(config, data.train, len(data.classes))
        tell(preflight_in_time(network.model, task, config, data, start.card), console)
        describe_run(run, config, data)
        try:
            tuning = Tuning(config, run, data, network, task, budget, console)
            return deliver(tuning, tuning.attempts())
        except Interrupted as stopped:
            raise Interrupted(stopped.why, run, "finetune") from stopped


def _repeated(config: RunConfig, run: Path) -> RunConfig:
    """The run's own settings, where --resume comes with no others.

    Raises:
        UserError: the run is finished.
    """
    if (run / SUMMARY).exists():
        raise UserError(f"{run} is finished", "a run that was stopped", f"Judge it: convcraft evaluate {run}")
    if config != RunConfig():
        return config
    if not (run / CONFIG).exists():
        fix = "Give the command that started it, with --resume."
        raise UserError(f"{run} has no {CONFIG} yet", "a run that had begun", fix)
    return RunConfig.load(run / CONFIG)


def _check(config: RunConfig) -> None:
    if config.finetune.method == "none":
        fix = "Set finetune.method, or use --method."
        raise UserError("finetune.method none", "a method of fine-tuning, such as auto", fix)
    if config.training.engine != "torch":
        fix = "Leave training.engine as torch; NumPy trains alone: convcraft scratch train."
        raise UserError(f"training.engine {config.training.engine} in fine-tuning", "torch", fix)
    if config.training.loss not in LOSSES:
        fix = "Leave training.loss as cross_entropy."
        raise UserError(f"training.loss {config.training.loss} in fine-tuning", " or ".join(LOSSES), fix)


def _refuse_other_data(run: Path, data: TrainingData) -> None:
    """Rounds that were finished judged other images than those that are there now."""
    if read_json(run / DATA)["sha256"] != data.description["sha256"]:
        fix = "Bring back the data as it was, or start a new run."
        raise UserError("other images or labels than this run began with", "the same data", fix)
