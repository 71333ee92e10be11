"""When not to answer, and why: one rule per run, stored as JSON beside the weights. NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcraft.errors import UserError
from convcraft.evaluation.conformal import Conformal, checked_rows
from convcraft.evaluation.unknown import UnknownThreshold
from convcraft.statistics import wilson_interval

VERSION = 1
SHARES_KEPT = tuple(share / 20 for share in range(20, 0, -1))  # of the images, that `fit_min_confidence` tries

Reason = Literal["unknown", "low confidence", "ambiguous"]


@dataclass(frozen=True)
class RejectRule:
    """What a prediction must pass. Each part may be left out (0 or None); the first that fails gives the reason.

    unknown: 'unknown': the score of strangeness is above this threshold.
    min_confidence: 'low confidence': the first class has less than this probability, 0..1; also where the conformal set
        is empty, because then no class suits the image as well as it does known images.
    conformal: 'ambiguous': its set holds more than one class.
    min_margin: 'ambiguous': the first class leads the second by less than this, 0..1.
    """

    min_confidence: float = 0.0
    min_margin: float = 0.0
    conformal: Conformal | None = None
    unknown: UnknownThreshold | None = None

    def __post_init__(self) -> None:
        for name in ("min_confidence", "min_margin"):
            if not 0 <= getattr(self, name) <= 1:
                fix = "0 leaves this part out."
                raise UserError(f"{name} {getattr(self, name)}", "a number from 0 to 1", fix)

    def reasons(self, probabilities: ArrayLike, unknown_scores: ArrayLike | None = None) -> list[Reason | None]:
        """Why each prediction is not to be trusted; None where nothing speaks against it.

        Args:
            probabilities: float32 [N, K], calibrated as those that the rule was fitted on.
            unknown_scores: float64 [N], of the score that `unknown` names; exactly where the rule has one.

        Raises:
            UserError: rows that are no probabilities, or scores that are missing, superfluous or not finite.
        """
        rows = checked_rows(probabilities)
        strange = self._strange(len(rows), unknown_scores)
        top = np.sort(rows, axis=1)[:, ::-1]
        weak = top[:, 0] < self.min_confidence
        torn = (top[:, 0] - top[:, 1] < self.min_margin) if rows.shape[1] > 1 else np.zeros(len(rows), bool)
        if self.conformal is not None:
            sizes = self.conformal.sets(rows).sum(axis=1)
            weak, torn = weak | (sizes == 0), torn | (sizes > 1)
        return [_first_reason(*flags) for flags in zip(strange, weak, torn, strict=True)]

    def _strange(self, num_images: int, scores: ArrayLike | None) -> NDArray[np.bool_]:
        if (scores is None) != (self.unknown is None):
            received = "no scores of strangeness" if scores is None else "scores of strangeness without a threshold"
            wanted = "none" if self.unknown is None else f"scores of {self.unknown.score}"
            raise UserError(received, wanted, "Give `unknown_scores` exactly where the rule has `unknown`.")
        if scores is None or self.unknown is None:
            return np.zeros(num_images, bool)
        values = np.asarray(scores, dtype=np.float64)
        if values.shape != (num_images,) or not np.isfinite(values).all():
            received = f"scores {list(values.shape)}{'' if np.isfinite(values).all() else ' with NaN or infinity'}"
            raise UserError(received, f"finite numbers [{num_images}]", "Give one score per image.")
        return self.unknown.unknown(values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; numbers come back exactly."""
        return {
            "version": VERSION,
            "min_confidence": self.min_confidence,
            "min_margin": self.min_margin,
            "conformal": None if self.conformal is None else self.conformal.to_dict(),
            "unknown": None if self.unknown is None else self.unknown.to_dict(),
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> RejectRule:
        """Of what `to_dict` gave.

        Raises:
            UserError: another version, or entries that are missing, unknown or out of range.
        """
        expected = set(cls().to_dict())
        if saved.get("version") != VERSION:
            fix = "Update convcraft, or fit the rule again with this one."
            raise UserError(f"a reject rule of version {saved.get('version')}", f"version {VERSION}", fix)
        if set(saved) != expected:
            raise UserError(f"reject entries {sorted(saved)}", f"{sorted(expected)}", "Fit the rule again.")
        conformal, unknown = saved["conformal"], saved["unknown"]
        return cls(
            min_confidence=_number(saved, "min_confidence"),
            min_margin=_number(saved, "min_margin"),
            conformal=None if conformal is None else Conformal.from_dict(conformal),
            unknown=None if unknown is None else UnknownThreshold.from_dict(unknown),
        )


def _first_reason(strange: bool, weak: bool, torn: bool) -> Reason | None:
    if strange:
        return "unknown"
    if weak:
        return "low confidence"
    return "ambiguous" if torn else None


def _number(saved: Mapping[str, Any], key: str) -> float:
    value = saved[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"{key} {value!r}", "a number from 0 to 1", "Fit the rule again.")
    return float(value)


def fit_min_confidence(
    confidence: NDArray[np.float32], correct: NDArray[np.bool_], accuracy: float, risk: float = 0.05
) -> float:
    """The confidence above which answers are right at least so often, keeping as many images as possible.

    Of 20 thresholds (keeping 100 %, 95 % ... 5 % of the validation images) the lowest whose accuracy is at least that
    by a lower bound that holds for all 20 together, except with probability `risk` (Bonferroni over Wilson's one-sided
    bounds).

    Args:
        confidence: float32 [N], probability of the first class, calibrated. correct: bool [N].
        accuracy: wanted of the answers that are given, 0..1.

    Raises:
        UserError: no threshold reaches it with these images, or arrays that do not fit.

    Source: Geifman and El-Yaniv, "Selective classification for deep neural networks", 2017, arXiv:1705.08500,
    algorithm 1, with a grid in place of the binary search.
    """
    if not len(confidence) or confidence.shape != correct.shape or correct.dtype != bool:
        received = f"confidence {list(confidence.shape)}, correct {correct.dtype} {list(correct.shape)}"
        raise UserError(received, "float [N] and bool [N] of at least one image", "Give labelled images.")
    # One-sided at risk / 20 is the lower end of a two-sided interval at twice that.
    level = 1 - 2 * risk / len(SHARES_KEPT)
    falling = np.sort(confidence)[::-1]
    best = 0.0
    for share in SHARES_KEPT:
        threshold = falling[max(1, round(share * len(falling))) - 1]
        kept = correct[confidence >= threshold]
        bound = wilson_interval(int(kept.sum()), len(kept), level)[0]
        if bound >= accuracy:
            return float(threshold)
        best = max(best, bound)
    fix = f"Ask for at most {best:.3f}, give more validation images, or train a better network."
    raise UserError(f"{len(confidence)} images that prove at most {best:.3f}", f"an accuracy of {accuracy}", fix)
