"""A gate: is every slice good enough to go on? For scripts that stop with exit code 1."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from convcraft.errors import UserError
from convcraft.evaluation.slices import SIGNIFICANCE, SliceReport, SliceResult
from convcraft.evaluation.two_proportions import newcombe_interval
from convcraft.statistics import wilson_interval

JUDGED_ON = {
    "estimate": "as measured",
    "pessimistic": "at the worse end of the interval",
    "optimistic": "even at the better end of the interval",
}


@dataclass(frozen=True)
class GateResult:
    """passed, with one sentence per threshold and one per slice that fails it."""

    passed: bool
    sentences: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """For the process: 0 passed, 1 failed."""
        return 0 if self.passed else 1

    def to_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, "exit_code": self.exit_code, "sentences": list(self.sentences)}


@dataclass(frozen=True)
class Gate:
    """Thresholds that every slice with enough images must meet.

    min_accuracy: of any slice, 0..1. max_gap: accuracy of the rest minus accuracy of the slice, 0..1, of any slice.
    judged_on: "estimate" takes the figures as measured, "pessimistic" the worse end of each slice's interval (95 %):
    what passes is shown to be good, few images fail. "optimistic" takes the better end, of intervals widened for the
    number of slices (Bonferroni): what fails is shown to be bad, few images pass.

    Raises:
        UserError: no threshold, one outside 0..1, or an unknown bound.
    """

    min_accuracy: float | None = None
    max_gap: float | None = None
    judged_on: str = "estimate"

    def __post_init__(self) -> None:
        given = [value for value in (self.min_accuracy, self.max_gap) if value is not None]
        if not given or not all(0 <= value <= 1 for value in given):
            raise UserError(f"thresholds {given}", "min_accuracy or max_gap, 0..1", "80 % is 0.8.")
        if self.judged_on not in JUDGED_ON:
            raise UserError(f"judged_on {self.judged_on!r}", "one of " + ", ".join(JUDGED_ON), "Choose one of these.")

    def judge(self, report: SliceReport) -> GateResult:
        """Hold all slices against the thresholds; fails where no slice has enough images to be judged."""
        judged = [entry for entry in report.slices if entry.is_judged]
        if not judged:
            few = f"no slice has {report.min_images} images, with as many in the rest: nothing can be judged"
            return GateResult(False, (f"Failed: {few}.",))
        confidence = 1 - SIGNIFICANCE / (len(judged) if self.judged_on == "optimistic" else 1)
        sentences, passed = [], True
        if self.min_accuracy is not None:
            figures = [(self._accuracy(entry, confidence), entry) for entry in judged]
            failing = [(value, entry) for value, entry in figures if value < self.min_accuracy]
            sentences += self._sentences("accuracy", "at least", self.min_accuracy, failing, min, figures)
            passed = passed and not failing
        if self.max_gap is not None:
            figures = [(self._gap(entry, confidence), entry) for entry in judged]
            failing = [(value, entry) for value, entry in figures if value > self.max_gap]
            sentences += self._sentences("gap to the rest", "at most", self.max_gap, failing, max, figures)
            passed = passed and not failing
        if left_out := len(report.slices) - len(judged):
            sentences.append(f"Not judged, too few images: {left_out} of {len(report.slices)} slices.")
        return GateResult(passed, tuple(sentences))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def _accuracy(self, entry: SliceResult, confidence: float) -> float:
        low, high = wilson_interval(entry.num_correct, entry.num_images, confidence)
        return {"estimate": entry.accuracy, "pessimistic": low, "optimistic": high}[self.judged_on]

    def _gap(self, entry: SliceResult, confidence: float) -> float:
        counts = entry.rest_correct, entry.rest_images, entry.num_correct, entry.num_images
        low, high = newcombe_interval(*counts, confidence)
        measured = entry.rest_correct / entry.rest_images - entry.accuracy
        return {"estimate": measured, "pessimistic": high, "optimistic": low}[self.judged_on]

    def _sentences(
        self,
        what: str,
        side: str,
        threshold: float,
        failing: list[tuple[float, SliceResult]],
        worst: Any,
        figures: list[tuple[float, SliceResult]],
    ) -> list[str]:
        asked = f"{what} {side} {100 * threshold:.1f} %, {JUDGED_ON[self.judged_on]}"
        if not failing:
            value, entry = worst(figures, key=lambda each: each[0])
            return [f"Passed: {asked}, in all {len(figures)} slices (nearest: {entry.name}, {100 * value:.1f} %)."]
        return [
            f"Failed: {asked}: {len(failing)} of {len(figures)} slices do not meet it.",
            *(
                f"{entry.name}: {100 * value:.1f} % ({entry.num_correct:,} of {entry.num_images:,} right)."
                for value, entry in failing
            ),
        ]
