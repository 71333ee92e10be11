"""`convcraft train --lr-range`: which learning rate? A short sweep, a figure, and no run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from convcraft.config import RunConfig
from convcraft.data.dataset import prepare_training_data
from convcraft.data.durable_files import write_json
from convcraft.errors import UserError
from convcraft.report.lr_range_plot import lr_range_plot
from convcraft.training.loop import Trainer
from convcraft.training.lr_range import LrRange, lr_range
from convcraft.workflows.console import data_progress
from convcraft.workflows.train import build_trainer
from convcraft.workflows.weights_card import with_card


@dataclass(frozen=True)
class LrRangeResult:
    """curve: what the test saw. figure, values: the PNG and the JSON file that were written."""

    curve: LrRange
    figure: Path
    values: Path


def find_learning_rate(config: RunConfig, out: Path, *, console: Console) -> LrRangeResult:
    """Run a range test with the data, network and settings of a run that is not started.

    Args:
        config: of the run; its own learning rate matters only where groups of parameters have different ones.
        out: a new or empty folder for lr_range.png and lr_range.json.

    Raises:
        UserError: data or settings that cannot be used, or a folder with something in it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty", "a new or empty folder", "Choose another --out.")
    if config.training.engine != "torch":
        fix = "Leave --lr-range out, or set training.engine to torch."
        raise UserError(f"a range test with training.engine {config.training.engine}", "torch", fix)
    config = with_card(config)
    with data_progress(console) as progress:
        data = prepare_training_data(config.data, config.preprocess, progress)
    with TemporaryDirectory() as scratch:  # a trainer wants a folder for its log; nothing is kept of it
        trainer = build_trainer(Path(scratch), config, data, resume=False, console=console)
        assert isinstance(trainer, Trainer)  # torch's
        try:
            with data_progress(console) as progress:
                curve = lr_range(trainer, progress=lambda done, total: progress(done, total, "range test"))
        finally:
            trainer.log.close()
    out.mkdir(parents=True, exist_ok=True)
    drawn = lr_range_plot(curve.rates, curve.losses, curve.smoothed, curve.steepest, curve.suggestion)
    figure, values = out / "lr_range.png", out / "lr_range.json"
    drawn.savefig(figure, dpi=160)
    write_json(values, curve.to_dict())
    return LrRangeResult(curve, figure, values)
