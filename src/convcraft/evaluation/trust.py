"""How far a run's single predictions can be trusted: calibrated probabilities, sets of classes, when not to answer.

RUN/trust.json, and RUN/trust.safetensors where the score of strangeness is a distance from train images. Both belong to
one file of weights and one preprocessing. What the numbers mean: docs/trust.md.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from convcraft.data.durable_files import json_bytes, read_json, replace_durably
from convcraft.errors import UserError
from convcraft.evaluation.conformal import fit_conformal, halves
from convcraft.evaluation.outputs import Outputs
from convcraft.evaluation.reject import Reason, RejectRule
from convcraft.evaluation.strangeness import Scorer, Strangeness, score_of, scorer_from
from convcraft.evaluation.temperature import LOWEST, Temperature, fit_temperature
from convcraft.evaluation.trust_checks import (
    check_entries,
    check_rule,
    check_scorer,
    check_temperature,
    feature_width,
)
from convcraft.evaluation.unknown import fit_threshold

VERSION = 1
TRUST = "trust.json"
TENSORS = "trust.safetensors"
CROSS_FITTED = "cross-fitted"
NEVER_SURER = 1.0  # the lowest temperature from answers of other networks than the one that is delivered
COVERAGE = 0.9  # of the sets, at least
HIGHER_COVERAGES = (0.95, 0.98, 0.99, 0.995)
ODD = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)  # what entries of other kinds raise
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)  # in place of a probability that float32 rounded to 0
FIT_AGAIN = "Delete trust.json; `convcraft evaluate` fits it again where the run's validation images are still there."


@dataclass(frozen=True, eq=False)
class Judged:
    """What is said of N images. probabilities: float32 [N, K], calibrated. sets: bool [N, K], or None where too few
    images could set a threshold. reasons: why each is not to be trusted, or None."""

    probabilities: NDArray[np.float32]
    sets: NDArray[np.bool_] | None
    reasons: list[Reason | None]


@dataclass(frozen=True, eq=False)
class Trust:
    """What was fitted for one network.

    weights_sha256, preprocess_sha256: of the weights and the preprocessing that it belongs to.
    source: "validation", or "cross-fitted": on predictions of networks that did not see the image, each fitted to most
        of the images, and then used for the one that was fitted to all.
    num_images: that it was fitted on. shared: too few to keep the images of the temperature from those of the sets.
    rule: when not to answer; its `conformal` gives the sets. scorer: of a distance; None for energy or no score.
    aurocs: how the score was chosen (`Strangeness.aurocs`). notes: what to know before trusting it.
    """

    weights_sha256: str
    preprocess_sha256: str
    source: str
    num_images: int
    shared: bool
    temperature: Temperature
    rule: RejectRule
    scorer: Scorer | None
    aurocs: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...]

    @property
    def needs_features(self) -> bool:
        return self.scorer is not None

    @property
    def coverage(self) -> float | None:
        """Promised of the sets."""
        return None if self.rule.conformal is None else self.rule.conformal.coverage

    def judge(self, outputs: Outputs) -> Judged:
        """Calibrate and judge what the network says of images; with features where `needs_features`."""
        return judged_by(self.rule, self.temperature.probabilities(outputs.logits), self.unknown_scores(outputs))

    def unknown_scores(self, outputs: Outputs) -> NDArray[np.float64] | None:
        """Strangeness float64 [N], with features where `needs_features`; None where the rule has no threshold."""
        if self.rule.unknown is None:
            return None
        return score_of(self.rule.unknown.score, self.scorer, outputs, self.temperature.loss)

    def calibrated(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [N, K] of the run's own probabilities [N, K], for whatever loss: the temperature acts on log p."""
        return replace(self.temperature, loss="cross_entropy").probabilities(log_of(probabilities))

    def refuse_others(self, weights_sha256: str, preprocess_sha256: str) -> None:
        """Raises UserError where the weights or the preprocessing are not those that it was fitted for."""
        for what, own, other in (
            ("weights", self.weights_sha256, weights_sha256),
            ("preprocessing", self.preprocess_sha256, preprocess_sha256),
        ):
            if own != other:
                received = f"{TRUST} of other {what} ({own[:12]}, the run has {other[:12]})"
                raise UserError(received, f"one that was fitted for these {what}", FIT_AGAIN)

    def refuse_unfit(self, loss: str, num_classes: int, num_features: int | None) -> None:
        """Of a network that gives logits of `num_classes`, trained by `loss`, and features of this width or none.

        Every trust is fitted with the loss of its run, fine-tuned ones as well: for what logits mean, it has to be the
        same (`calibrated` is for probabilities, and reads no loss).

        Raises:
            UserError: what was fitted is for another loss, another number of classes or other features.
        """
        fits = []
        if self.temperature.loss != loss:
            fits.append((f"a temperature for the loss {self.temperature.loss}", f"the network's loss, {loss}"))
        sets = self.rule.conformal
        if sets is not None and sets.num_classes != num_classes:
            fits.append((f"sets of {sets.num_classes} classes", f"the network's {num_classes}"))
        if self.scorer is not None and feature_width(self.scorer) != num_features:
            given = "which gives none" if num_features is None else f"which gives {num_features}"
            fits.append((f"distances of {feature_width(self.scorer)} features", f"those of the network, {given}"))
        for received, expected in fits:
            raise UserError(f"{TRUST} with {received}", expected, FIT_AGAIN)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the scorer's tensors; numbers come back exactly."""
        return {
            "version": VERSION,
            "weights_sha256": self.weights_sha256,
            "preprocess_sha256": self.preprocess_sha256,
            "source": self.source,
            "num_images": self.num_images,
            "shared": self.shared,
            "temperature": self.temperature.to_dict(),
            "rule": self.rule.to_dict(),
            "aurocs": {name: dict(kinds) for name, kinds in self.aurocs.items()},
            "notes": list(self.notes),
        }


def judged_by(
    rule: RejectRule, probabilities: NDArray[np.float32], scores: NDArray[np.float64] | None = None
) -> Judged:
    """Of calibrated probabilities."""
    sets = None if rule.conformal is None else rule.conformal.sets(probabilities)
    return Judged(probabilities, sets, rule.reasons(probabilities, scores))


def log_of(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """Finite log p float64 [N, K]: logits of the same softmax, where only probabilities are known."""
    return np.log(np.maximum(probabilities.astype(np.float64), SMALLEST))


def fit_trust(
    logits: ArrayLike,
    targets: NDArray[np.int64],
    *,
    loss: str,
    weights_sha256: str,
    preprocess_sha256: str,
    strangeness: Strangeness | None,
    coverage: float = COVERAGE,
    source: str = "validation",
) -> Trust:
    """Temperature, sets and reject rule from predictions of images that the network did not learn from.

    Sets cover `coverage`, or more where the network is right more often than that: at 90 % each tenth image of a
    network of 99 % would get an empty set and be rejected. The lowest of `HIGHER_COVERAGES` that reaches its accuracy
    (on the half of the images that sets no thresholds) and that the number of images can promise is taken.

    Args:
        logits: [N, K], or `log_of` probabilities where the loss is cross_entropy or nll. targets: int64 [N].
        strangeness: None: no image is called unknown.

    Raises:
        UserError: no images, or arrays that do not fit.
    """
    rows = np.asarray(logits)
    part = halves(len(rows))
    lowest = NEVER_SURER if source == CROSS_FITTED else LOWEST
    temperature = fit_temperature(rows[part.temperature], targets[part.temperature], loss, lowest=lowest)
    accuracy = float((rows[part.temperature].argmax(axis=1) == targets[part.temperature]).mean())
    notes = [temperature.note] if temperature.note else []
    if source == CROSS_FITTED and temperature.value == NEVER_SURER:
        notes.append("Confidence is left as it is: that networks of fewer images were not sure enough proves nothing.")
    level = _promised(coverage, accuracy, len(part.conformal))
    conformal, unknown = None, None
    if level is None:
        notes.append(f"{len(part.conformal)} images are too few to promise a coverage of {coverage:.0%}: no sets.")
    else:
        own = temperature.probabilities(rows[part.conformal])
        conformal = fit_conformal(own, targets[part.conformal], level)
    if strangeness is None:
        notes.append("No score of strangeness: images of no class are not recognised.")
    else:
        unknown = fit_threshold(strangeness.of_validation, strangeness.name)
        if math.isinf(unknown.value):
            notes.append(f"{unknown.num_images} images are too few to say what is strange: nothing is called unknown.")
    return Trust(
        weights_sha256=weights_sha256,
        preprocess_sha256=preprocess_sha256,
        source=source,
        num_images=len(rows),
        shared=part.shared,
        temperature=temperature,
        rule=RejectRule(conformal=conformal, unknown=unknown),
        scorer=None if strangeness is None else strangeness.scorer,
        aurocs={} if strangeness is None else strangeness.aurocs,
        notes=tuple(notes),
    )


def _promised(coverage: float, accuracy: float, num_images: int) -> float | None:
    """The coverage to ask for; None where even the lowest needs more images."""
    levels = [coverage, *(level for level in HIGHER_COVERAGES if level > coverage)]
    possible = [level for level in levels if math.ceil((num_images + 1) * level - 1e-9) <= num_images]
    if not possible:
        return None
    return next((level for level in possible if level >= accuracy), possible[-1])


def trust_files(trust: Trust) -> dict[str, bytes]:
    """trust.json, and trust.safetensors where a distance is measured: what `trust_from_files` reads."""
    tensors = None if trust.scorer is None else save(trust.scorer.tensors())
    sha256 = None if tensors is None else hashlib.sha256(tensors).hexdigest()
    described = {TRUST: json_bytes({**trust.to_dict(), "tensors_sha256": sha256})}
    return described if tensors is None else {TENSORS: tensors, **described}


def save_trust(run: Path, trust: Trust) -> None:
    """Write RUN/trust.json, after the tensors that it names."""
    files = trust_files(trust)
    if TENSORS not in files:
        (run / TENSORS).unlink(missing_ok=True)
    for name, content in files.items():
        replace_durably(run / name, content)


def load_trust(run: Path, weights_sha256: str, preprocess_sha256: str) -> Trust | None:
    """What stands in a run folder for these weights; None where nothing was fitted.

    Raises:
        UserError: a damaged file, another version, other weights or another preprocessing.
    """
    if not (run / TRUST).exists():
        return None
    tensors = run / TENSORS
    try:
        data = tensors.read_bytes() if tensors.exists() else None
    except OSError as error:
        raise UserError(f"{tensors}: {error}", "a complete run folder", FIT_AGAIN) from error
    trust = trust_from_files(read_json(run / TRUST), data, str(run / TRUST))
    trust.refuse_others(weights_sha256, preprocess_sha256)
    return trust


def trust_from_files(saved: Any, tensors: bytes | None, name_of_file: str) -> Trust:
    """The trust of what `save_trust` wrote, wherever its files lie.

    Args:
        saved: trust.json, parsed. tensors: content of trust.safetensors; None where there is no such file.
        name_of_file: that `saved` came from, for messages.

    Raises:
        UserError: damaged content, or another version. Whose weights it belongs to is `refuse_others`'s to check.
    """
    if not isinstance(saved, dict) or saved.get("version") != VERSION:
        received = f"{name_of_file} of version {saved.get('version') if isinstance(saved, dict) else None}"
        raise UserError(received, f"version {VERSION}", f"Update convcraft. Or: {FIT_AGAIN}")
    fields = {key: value for key, value in saved.items() if key not in ("version", "tensors_sha256")}
    try:
        check_entries(saved)
        rule = RejectRule.from_dict(saved["rule"])
        check_rule(rule)
        temperature = Temperature.from_dict(saved["temperature"])
        check_temperature(temperature)
        scorer = _scorer_of(tensors, saved["tensors_sha256"], rule, name_of_file)
        read = {"rule": rule, "temperature": temperature, "scorer": scorer, "notes": tuple(saved["notes"])}
        return Trust(**{**fields, **read})
    except UserError:
        raise
    except ODD as error:
        raise UserError(f"{name_of_file}: {error}", "a complete run folder", FIT_AGAIN) from error


def _scorer_of(tensors: bytes | None, sha256: str | None, rule: RejectRule, name_of_file: str) -> Scorer | None:
    if rule.unknown is None:
        return None
    score = rule.unknown.score
    if sha256 is None:
        check_scorer(None, score)
        return None
    if tensors is None:
        raise UserError(f"{name_of_file} without {TENSORS}", "a complete run folder", FIT_AGAIN)
    if hashlib.sha256(tensors).hexdigest() != sha256:
        received = f"a {TENSORS} that is not what {name_of_file} names"
        raise UserError(received, "the file as it was saved", FIT_AGAIN)
    try:
        scorer = scorer_from(score, load(tensors))
    except SafetensorError as error:
        raise UserError(f"{TENSORS} of {name_of_file}: {error}", "a complete run folder", FIT_AGAIN) from error
    check_scorer(scorer, score)
    return scorer
