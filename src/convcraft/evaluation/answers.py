"""From what a network says of pictures to answers for people: classes, probabilities, and when not to believe them.

NumPy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.evaluation.outputs import Outputs
from convcraft.evaluation.probabilities import probabilities_of
from convcraft.evaluation.reject import Reason
from convcraft.evaluation.trust import Judged, Trust

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


def answers_of(
    names: Sequence[str], outputs: Outputs, trust: Trust | None, classes: tuple[str, ...], loss: str
) -> list[ImagePrediction]:
    """One for each of N pictures.

    Args:
        names: N, of the pictures. outputs: with features where the trust needs them. trust: None: not calibrated.
        classes: K names, in the order of the logits. loss: that the network was trained by.
    """
    own = probabilities_of(outputs.logits, loss)
    judged = Judged(own, None, [None] * len(own)) if trust is None else trust.judge(outputs)
    orders = np.argsort(-own, axis=1, kind="stable")  # calibration never changes it, but may round small ones to 0
    answers = []
    for index, name in enumerate(names):
        ranking = _rank(judged.probabilities[index], orders[index], classes)
        possible = None
        if judged.sets is not None:
            inside = {classes[position] for position in np.flatnonzero(judged.sets[index])}
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
