"""What a run's trust is worth, on labelled images that nothing was fitted on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.errors import UserError
from convcraft.evaluation.coverage import coverage_report
from convcraft.evaluation.predictions import Predictions
from convcraft.evaluation.reliability_diagram import reliability_diagram
from convcraft.evaluation.trust import Trust, judged_by, load_trust, log_of
from convcraft.statistics import wilson_interval
from convcraft.training.run_folder import load_result, read_run

Interval = tuple[float, float]
ANSWERED = "answered"


@dataclass(frozen=True)
class CalibrationFigures:
    """error: ECE, 15 bins; error_interval: bootstrap, 95 %. chance_error: mean and 95 % point of the ECE that perfect
    probabilities would show on so many images: below the latter an ECE says nothing. log_loss: in nats."""

    error: float
    error_interval: Interval
    chance_error: Interval
    log_loss: float


@dataclass(frozen=True)
class GroupFigures:
    """Images that were answered, or rejected for one reason. accuracy: of the first class, with Wilson's interval of
    95 %; both None where there are none."""

    reason: str
    num_images: int
    share: float
    accuracy: float | None
    interval: Interval | None


@dataclass(frozen=True)
class TrustReport:
    """Test-side figures of a run's trust.

    source: what it was fitted on: "validation" or "cross-fitted".
    before, after: the network's own probabilities, and the calibrated ones.
    promised, coverage, coverage_interval, mean_set_size, share_single, share_empty: of the conformal sets; None where
        the run has none.
    groups: answered, unknown, low confidence, ambiguous, in this order.
    accuracy: of all images; that of those answered (selective accuracy) stands in the first group.
    unknown_score: None where no image was or could be called unknown.
    """

    source: str
    num_images: int
    temperature: float
    before: CalibrationFigures
    after: CalibrationFigures
    promised: float | None
    coverage: float | None
    coverage_interval: Interval | None
    mean_set_size: float | None
    share_single: float | None
    share_empty: float | None
    unknown_score: str | None
    accuracy: float
    groups: tuple[GroupFigures, ...]
    notes: tuple[str, ...]

    @property
    def answered(self) -> GroupFigures:
        return self.groups[0]

    @property
    def rejected(self) -> GroupFigures:
        """All reasons together."""
        others = [group for group in self.groups[1:] if group.num_images]
        correct = sum(round((group.accuracy or 0.0) * group.num_images) for group in others)
        return _group("rejected", sum(group.num_images for group in others), correct, self.num_images)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "rejected": asdict(self.rejected)}

    @property
    def sentence(self) -> str:
        """The figures in words."""
        kept = self.answered
        said = f"Answers {kept.share:.1%} of the images"
        said += "" if kept.accuracy is None else f" and is right in {kept.accuracy:.1%} of them"
        if self.rejected.accuracy is not None:
            said += f"; of those it would not answer it gets {self.rejected.accuracy:.1%} right"
        said += f". Calibration error {self.before.error:.3f} before, {self.after.error:.3f} after."
        if self.coverage is not None:
            said += f" Sets hold the true class in {self.coverage:.1%} (promised {self.promised:.1%})"
            said += f" and {self.mean_set_size:.2f} classes on average."
        return said


def trust_report(
    run: Path | Trust,
    predictions: Predictions,
    targets: NDArray[np.int64] | None = None,
    *,
    unknown_scores: NDArray[np.float64] | None = None,
) -> TrustReport | None:
    """Judge what was fitted on validation by test images; None where the run has no trust.json.

        trust = find_trust(description, model, weights)      # or the run's path: then trust.json must be there
        outputs = outputs_of(model, images, features=trust.needs_features)
        report = trust_report(trust, predictions, unknown_scores=trust.unknown_scores(outputs))

    Args:
        run: its folder, or its trust.
        predictions: the network's own probabilities, not calibrated ones.
        targets: int64 [N]; those of the predictions where not given.
        unknown_scores: float64 [N], `Trust.unknown_scores` of the same images. Without them no image counts as unknown,
            and a note says so.

    Raises:
        UserError: no labels, arrays that do not fit, or a trust.json of other weights.
    """
    trust = _loaded(run) if isinstance(run, Path) else run
    if trust is None:
        return None
    labels = predictions.targets if targets is None else targets
    if labels is None or len(labels) != len(predictions) or not len(predictions):
        received = f"{len(predictions)} predictions, {'no' if labels is None else len(labels)} targets"
        raise UserError(received, "one class index per image, of at least one", "Give labelled images.")
    rule, notes = trust.rule, list(trust.notes)
    if rule.unknown is not None and unknown_scores is None:
        rule = replace(rule, unknown=None)
        notes.append("Scores of strangeness were not computed here: no image counts as unknown.")
    calibrated = trust.calibrated(predictions.probabilities)
    judged = judged_by(rule, calibrated, unknown_scores if rule.unknown is not None else None)
    correct = predictions.labels == labels
    sets = None if judged.sets is None else coverage_report(judged.sets, labels)
    reasons = np.array([reason or ANSWERED for reason in judged.reasons])
    groups = []
    for name in (ANSWERED, "unknown", "low confidence", "ambiguous"):
        own = reasons == name
        groups.append(_group(name, int(own.sum()), int(correct[own].sum()), len(labels)))
    return TrustReport(
        source=trust.source,
        num_images=len(labels),
        temperature=trust.temperature.value,
        before=_calibration(predictions.probabilities, labels, correct),
        after=_calibration(calibrated, labels, correct),
        promised=trust.coverage,
        coverage=None if sets is None else sets.coverage,
        coverage_interval=None if sets is None else sets.interval,
        mean_set_size=None if sets is None else sets.mean_size,
        share_single=None if sets is None else sets.share_single,
        share_empty=None if sets is None else sets.share_empty,
        unknown_score=None if rule.unknown is None else rule.unknown.score,
        accuracy=float(correct.mean()),
        groups=tuple(groups),
        notes=tuple(notes),
    )


def _loaded(run: Path) -> Trust | None:
    description = read_run(run)
    return load_trust(run, load_result(description).sha256, description.preprocess.hash())


def _calibration(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], correct: NDArray[np.bool_]
) -> CalibrationFigures:
    diagram = reliability_diagram(probabilities.max(axis=1), correct)
    of_target = log_of(probabilities)[np.arange(len(labels)), labels]
    error = diagram.calibration.expected_error
    return CalibrationFigures(error, diagram.error_interval, diagram.chance_error, -float(of_target.mean()))


def _group(reason: str, num_images: int, num_correct: int, of_all: int) -> GroupFigures:
    if not num_images:
        return GroupFigures(reason, 0, 0.0, None, None)
    interval = wilson_interval(num_correct, num_images)
    return GroupFigures(reason, num_images, num_images / of_all, num_correct / num_images, interval)
