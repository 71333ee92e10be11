"""`convcraft predict`: pictures in, class names and probabilities out, and when not to believe them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from convcraft.errors import UserError
from convcraft.evaluation.probabilities import probabilities_of
from convcraft.evaluation.reject import Reason
from convcraft.training.devices import accelerator_of
from convcraft.training.run_folder import RunDescription, read_run
from convcraft.workflows.given_pictures import open_pictures, read_pictures
from convcraft.workflows.load_model import load_model
from convcraft.workflows.strangeness import Outputs, as_features, maybe_inputs
from convcraft.workflows.trust import Judged, Trust, load_trust

BATCH_SIZE = 64
NAMED_CLASSES = 5  # of an ambiguous answer
UNCALIBRATED = (
    "Probabilities are not calibrated: the run has no trust.json, because no labelled images were left to check them "
    "on or because an older convcraft made it. How often such an answer is right may be quite another share."
)


@dataclass(frozen=True)
class ImagePrediction:
    """The answer for one picture: classes by falling probability, or why the picture could not be read.

    ranking: (class, probability); empty with a problem.
    calibrated: the run has a trust.json, so that probabilities, possible and reason are by it.
    possible: the conformal set, classes by falling probability; None where the run has no sets.
    reason: why the answer should not be relied on; None where nothing speaks against it, or nothing is known.
    """

    image: str
    ranking: tuple[tuple[str, float], ...]
    problem: str | None = None
    calibrated: bool = False
    possible: tuple[str, ...] | None = None
    reason: Reason | None = None

    @property
    def explanation(self) -> str | None:
        """The reason in words."""
        if self.reason == "unknown":
            return "unknown: unlike the images that the network was checked on; it may be of none of its classes"
        if self.reason == "low confidence":
            return "low confidence: no class fits as well as it should"
        if self.reason is None:
            return None
        names = self.possible or ()
        if len(names) < 2:
            return "ambiguous: two classes are nearly as likely"
        named, more = names[:NAMED_CLASSES], len(names) - NAMED_CLASSES
        listed = f"{', '.join(named)} or {more} more" if more > 0 else f"{', '.join(named[:-1])} or {named[-1]}"
        return f"ambiguous: may be {listed}"

    def to_dict(self, top: int) -> dict[str, Any]:
        """Plain values for scripts; set and reject are None where the run gives no such judgement."""
        if self.problem is not None:
            return {"image": self.image, "problem": self.problem}
        label, probability = self.ranking[0]
        return {
            "image": self.image,
            "label": label,
            "probability": probability,
            "probabilities": dict(self.ranking[:top]),
            "set": None if self.possible is None else list(self.possible),
            "reject": self.reason is not None if self.calibrated else None,
            "reason": self.reason,
            "explanation": self.explanation,
        }


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
            readable = iter(_answers(names, outputs, trust, description))
        for (name, _), problem in zip(part, problems, strict=True):
            answers.append(next(readable) if problem is None else ImagePrediction(name, (), problem))
    if all(answer.problem is not None for answer in answers):
        first = answers[0]
        fix = "Open it in a picture viewer to see what it is."
        raise UserError(f"{first.image}: {first.problem}", "a picture that can be decoded", fix)
    return answers


def _answers(names: Sequence[str], outputs: Outputs, trust: Trust | None, run: RunDescription) -> list[ImagePrediction]:
    """One per row of the outputs."""
    own = probabilities_of(outputs.logits, run.config.training.loss)
    judged = Judged(own, None, [None] * len(own)) if trust is None else trust.judge(outputs)
    orders = np.argsort(-own, axis=1, kind="stable")  # calibration never changes it, but may round small ones to 0
    answers = []
    for index, name in enumerate(names):
        ranking = _rank(judged.probabilities[index], orders[index], run.classes)
        possible = None
        if judged.sets is not None:
            inside = {run.classes[position] for position in np.flatnonzero(judged.sets[index])}
            possible = tuple(label for label, _ in ranking if label in inside)
        answers.append(
            ImagePrediction(
                name, ranking, calibrated=trust is not None, possible=possible, reason=judged.reasons[index]
            )
        )
    return answers


def _rank(
    probabilities: NDArray[np.float32], order: NDArray[np.int64], classes: tuple[str, ...]
) -> tuple[tuple[str, float], ...]:
    return tuple((classes[index], float(probabilities[index])) for index in order)
