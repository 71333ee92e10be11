"""`convcraft predict`: pictures in, class names and probabilities out, and when not to believe them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from convcraft.data.given_pictures import open_pictures, read_pictures
from convcraft.errors import UserError
from convcraft.evaluation.answers import ImagePrediction, answers_of
from convcraft.evaluation.outputs import Outputs
from convcraft.evaluation.trust import load_trust
from convcraft.training.devices import accelerator_of
from convcraft.training.run_folder import read_run
from convcraft.workflows.load_model import load_model
from convcraft.workflows.strangeness import as_features, maybe_inputs

BATCH_SIZE = 64


def predict(run: Path, images: Sequence[str], *, device: str = "auto") -> list[ImagePrediction]:
    """Classify pictures with a run's result weights, on the pixels that the run was judged on.

    Probabilities are calibrated, and answers judged, by the run's trust.json where it has one.

    Args:
        images: files, folders (all images below them) or "-" for one encoded picture on standard input.

    Raises:
        UserError: no such run or file, a folder without images, not one readable picture, or a trust.json of other
            weights.
    """
    description = read_run(run)
    named = open_pictures(images)
    model, weights = load_model(description)
    trust = load_trust(run, weights.sha256, description.preprocess.hash())
    place = accelerator_of(device)
    model.to(place)
    answers: list[ImagePrediction] = []
    for start in range(0, len(named), BATCH_SIZE):
        part = named[start : start + BATCH_SIZE]
        pixels, problems = read_pictures(part, description.preprocess)
        readable: Iterator[ImagePrediction] = iter(())
        if len(pixels):
            with torch.inference_mode(), maybe_inputs(model, trust is not None and trust.needs_features) as kept:
                logits = model(torch.from_numpy(description.preprocess.normalise(pixels)).to(place))
            outputs = Outputs(logits.float().cpu().numpy(), as_features(kept))
            names = [name for (name, _), problem in zip(part, problems, strict=True) if problem is None]
            readable = iter(answers_of(names, outputs, trust, description.classes, description.config.training.loss))
        for (name, _), problem in zip(part, problems, strict=True):
            answers.append(next(readable) if problem is None else ImagePrediction(name, (), problem))
    if all(answer.problem is not None for answer in answers):
        first = answers[0]
        fix = "Open it in a picture viewer to see what it is."
        raise UserError(f"{first.image}: {first.problem}", "a picture that can be decoded", fix)
    return answers
