"""`convcraft report`: draw a run's page again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from convcraft.data.dataset import Recorded, prepare_training_data
from convcraft.data.durable_files import read_json
from convcraft.finetune.proof_files import read_proof
from convcraft.finetune.record import TuningRecord
from convcraft.training.run_folder import EVALUATION, read_run, read_summary
from convcraft.workflows.console import data_progress
from convcraft.workflows.draw_run import Shown, draw_run
from convcraft.workflows.evaluate import EvaluateResult, Wanted, evaluate, predict_images
from convcraft.workflows.evaluate_options import Asked
from convcraft.workflows.load_model import load_model


def redraw(run: Path, *, console: Console) -> Path:
    """Write report.html anew: with test figures if the run was evaluated before, else with those of validation.

    With neither where the result has learned from the validation images too (a small set, cross-fitted).

    Raises:
        UserError: no finished run there, or its data are gone.
    """
    if (run / EVALUATION).exists():
        return _evaluated_again(run, console).report_file
    description, summary = read_run(run), read_summary(run)
    model, _ = load_model(description)
    if _learned_from_validation(run):
        return draw_run(description, model, summary, None)
    with data_progress(console) as progress:
        recorded = Recorded(description.preprocess.version, train_decoder="contract")  # no train image is drawn
        data = prepare_training_data(
            description.config.data, description.config.preprocess, progress, recorded=recorded
        )
    if data.val is None:
        return draw_run(description, model, summary, None)
    predictions, report = predict_images(model, data.val, data.classes, loss=description.config.training.loss)
    return draw_run(description, model, summary, Shown("validation", data.val, predictions, report))


def _evaluated_again(run: Path, console: Console) -> EvaluateResult:
    """On the images that were judged last, with the slices, views and members of then; robustness is kept as it is."""
    published = read_json(run / EVALUATION)
    on = Wanted(**published.get("opened", {}))
    asked = Asked.from_dict(published["asked"]) if "asked" in published else Asked()
    asked = replace(asked, robustness_images=None)
    return evaluate(run, on.data, test_split=on.test_split, data_dir=on.data_dir, asked=asked, console=console)


def _learned_from_validation(run: Path) -> bool:
    """Whether fine-tuning fitted its result to all labelled images."""
    kept = read_proof(run)
    return TuningRecord.read(run) is not None and (kept is None or kept.proof.how == "cross-fitted")
