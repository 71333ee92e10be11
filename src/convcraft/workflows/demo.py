"""`convcraft demo`: the whole story on embedded data: train, evaluate, use the network, fine-tune another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from convcraft.config import RunConfig
from convcraft.data.dataset import open_test_data
from convcraft.evaluation.answers import ImagePrediction
from convcraft.recipes.catalogue import load_recipe
from convcraft.training.run_folder import read_run
from convcraft.workflows.evaluate import EvaluateResult, evaluate
from convcraft.workflows.finetune import FinetuneResult, finetune
from convcraft.workflows.predict import How, predict
from convcraft.workflows.train import TrainResult, train

PICTURE = "digit.png"
FINETUNED = "finetuned"  # the second run, in the folder of the first
LABELS = 10  # per class
PICTURE_SCALE = 32  # the 8x8 scan is written enlarged, so that a person can see it


@dataclass(frozen=True)
class DemoResult:
    """What the demo came to."""

    trained: TrainResult
    evaluated: EvaluateResult
    picture: Path
    true_label: str
    prediction: ImagePrediction
    finetuned: FinetuneResult
    finetuned_evaluated: EvaluateResult


def demo(out: Path, *, seed: int = 0, device: str = "auto", console: Console) -> DemoResult:
    """Train on scikit-learn's digits, evaluate on digits that training never saw, read one picture, and fine-tune
    a network that comes with convcraft to ten labels per class.

    Raises:
        UserError: `out` holds something already.
    """
    config = load_recipe("digits").changed(training={"seed": seed, "device": device})
    _say(console, "1/5  A convolutional network learns handwritten digits: 1,797 real scans of 8x8 pixels.")
    trained = train(config, out, console=console)
    _say(console, "2/5  How good is it on digits that it has never seen?")
    evaluated = evaluate(out, device=device, console=console)
    _say(console, "3/5  The report shows curves, confusion matrix, worst mistakes and what the first layer sees.")
    _say(console, "4/5  One more picture, read from a file as yours would be.")
    picture, true_label = _write_picture(out)
    prediction = predict(out, [str(picture)], How(device=device))[0]
    _say(console, f"5/5  {LABELS} labels per class: a network that learned from MNIST is fine-tuned to these digits.")
    finetuned = finetune(_few_labels(seed, device), out / FINETUNED, console=console)
    finetuned_evaluated = evaluate(out / FINETUNED, device=device, console=console)
    return DemoResult(trained, evaluated, picture, true_label, prediction, finetuned, finetuned_evaluated)


def _few_labels(seed: int, device: str) -> RunConfig:
    """The shipped network, all of it trained on a hundred labelled digits."""
    return load_recipe("finetune-grey").changed(
        data={"source": "digits", "labels_per_class": LABELS},
        training={"seed": seed, "device": device, "epochs": 40},
        finetune={"method": "full"},
    )


def _write_picture(run: Path) -> tuple[Path, str]:
    """A test digit as a PNG beside the report; returns its path and true class."""
    description = read_run(run)
    images = open_test_data(
        description.config.data, description.classes, description.preprocess, description.data["sha256"]["test"]
    )
    pixels = images.pixels_of(np.array([0]))[0, :, :, 0]
    path = run / PICTURE
    Image.fromarray(pixels).resize((8 * PICTURE_SCALE, 8 * PICTURE_SCALE), Image.Resampling.NEAREST).save(path)
    return path, description.classes[int(images.targets[0])]


def _say(console: Console, text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]", highlight=False)
