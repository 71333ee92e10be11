"""What a saved trust must be before it is used: entries of the right kinds, and parts that fit each other.

A bundle's trust may have been written by anybody, and its hashes made to fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from convcraft.evaluation.reject import RejectRule
from convcraft.evaluation.strangeness import Scorer
from convcraft.evaluation.temperature import Temperature
from convcraft.evaluation.unknown import SCORES, Mahalanobis, NearestNeighbours

ENERGY = "energy"


def check_entries(saved: Mapping[str, Any]) -> None:
    """The entries of trust.json beside its rule and temperature.

    Raises:
        TypeError: one of another kind; a missing one is no concern of this check.
    """
    texts = [saved.get(name, "") for name in ("weights_sha256", "preprocess_sha256", "source")]
    notes, aurocs = saved.get("notes", []), saved.get("aurocs", {})
    _need(all(isinstance(text, str) for text in texts), "weights_sha256, preprocess_sha256 or source that is no text")
    _need(isinstance(notes, list) and all(isinstance(note, str) for note in notes), "notes that are no list of texts")
    _need(_is_count(saved.get("num_images", 0)), "num_images that is no count")
    _need(isinstance(saved.get("shared", False), bool), "shared that is neither true nor false")
    _need(
        isinstance(aurocs, dict)
        and all(isinstance(kinds, dict) and all(map(_is_number, kinds.values())) for kinds in aurocs.values()),
        "aurocs that are no numbers by score and kind",
    )


def check_temperature(temperature: Temperature) -> None:
    """
    Raises:
        TypeError: entries that are no numbers, or a note that is no text.
    """
    figures = (
        temperature.value,
        temperature.log_loss_before,
        temperature.log_loss_after,
        temperature.calibration_error_before,
        temperature.calibration_error_after,
    )
    _need(all(map(_is_number, figures)) and _is_count(temperature.num_images), "a temperature without its numbers")
    _need(isinstance(temperature.loss, str) and isinstance(temperature.note, str), "a temperature without its texts")


def check_rule(rule: RejectRule) -> None:
    """
    Raises:
        TypeError: thresholds, counts or names of another kind, or an unknown score.
    """
    sets, unknown = rule.conformal, rule.unknown
    if sets is not None:
        counts = (*sets.num_images, sets.num_classes, sets.seed, sets.free_ranks)
        _need(all(map(_is_count, counts)), "sets with something else for a count")
        _need(isinstance(sets.randomised, bool), "sets of which randomised is neither true nor false")
        _need(_is_number(sets.coverage) and _is_number(sets.penalty), "sets with something else for a number")
    if unknown is not None:
        _need(unknown.score in SCORES, f"score {unknown.score!r}, not one of {', '.join(SCORES)}")
        _need(_is_number(unknown.false_reject) and _is_count(unknown.num_images), "a threshold without its numbers")


def check_scorer(scorer: Scorer | None, score: str) -> None:
    """That a score has the tensors that it is measured by: all but the energy are distances.

    Raises:
        TypeError: none, those of another score, or shapes that do not fit each other.
    """
    if scorer is None or score == ENERGY:
        _need((scorer is None) == (score == ENERGY), f"score {score} {'without' if scorer is None else 'with'} tensors")
        return
    if isinstance(scorer, NearestNeighbours):
        _need(score == "nearest_neighbours" and _is_matrix(scorer.bank), f"tensors that are not those of {score}")
        _need(1 <= scorer.neighbour <= len(scorer.bank), f"neighbour {scorer.neighbour} of {len(scorer.bank)}")
        return
    assert isinstance(scorer, Mahalanobis)
    _need(
        (scorer.background is not None) == (score == "relative_mahalanobis"), f"tensors of another score than {score}"
    )
    _need(_is_matrix(scorer.means), "means that are not [C, D]")
    width = scorer.means.shape[1]
    square = [scorer.whitening] if scorer.background is None else [scorer.whitening, scorer.background[1]]
    _need(all(_is_matrix(values) and values.shape == (width, width) for values in square), "a whitening of other width")
    if scorer.background is not None:
        mean = scorer.background[0]
        _need(mean.shape == (width,) and _is_matrix(mean[None]), "a background of other width")


def feature_width(scorer: Scorer) -> int:
    """D of the features [N, D] that a scorer takes."""
    values = scorer.bank if isinstance(scorer, NearestNeighbours) else scorer.means
    return int(values.shape[1])


def _need(sound: bool, otherwise: str) -> None:
    if not sound:
        raise TypeError(otherwise)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_matrix(values: np.ndarray[Any, Any]) -> bool:
    """Finite float32, two axes, not empty."""
    return values.dtype == np.float32 and values.ndim == 2 and values.size > 0 and bool(np.isfinite(values).all())
