"""The further figures of an evaluation: slices and gate, trust, views, an ensemble.

Each is computed from what the run folder keeps (slices.json, more_predictions.npz, trust.json), by the same function
when `evaluate` publishes it and when `verify` computes it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.data.durable_files import replace_durably, write_json
from convcraft.evaluation.gate import Gate, GateResult
from convcraft.evaluation.npz_files import damaged, load_npz, npz_bytes
from convcraft.evaluation.predictions import Predictions
from convcraft.evaluation.slices import SliceReport
from convcraft.evaluation.trust import Trust, load_trust
from convcraft.training.run_folder import RunDescription
from convcraft.workflows.evaluate_members import EnsembleFigures, MembersMade, ensemble_figures
from convcraft.workflows.evaluate_options import Asked
from convcraft.workflows.evaluate_slices import SLICES, SliceColumns, judge_gate
from convcraft.workflows.evaluate_views import ViewFigures, ViewsMade, view_figures
from convcraft.workflows.trust_report import TrustReport, trust_report

MORE_PREDICTIONS = "more_predictions.npz"


@dataclass(frozen=True, eq=False)
class MoreInputs:
    """What further figures are computed from; None where it was not asked for, or the run has none.

    unknown_scores: float64 [N], strangeness of the images by the run's trust.
    """

    slices: SliceColumns | None = None
    gate: Gate | None = None
    trust: Trust | None = None
    unknown_scores: NDArray[np.float64] | None = None
    views: ViewsMade | None = None
    members: MembersMade | None = None

    def save(self, run: Path) -> None:
        """Write what `load` reads, and remove what an earlier evaluation left."""
        if self.slices is None:
            (run / SLICES).unlink(missing_ok=True)
        else:
            write_json(run / SLICES, self.slices.to_dict())
        arrays = self._arrays()
        if not arrays:
            (run / MORE_PREDICTIONS).unlink(missing_ok=True)
            return
        replace_durably(run / MORE_PREDICTIONS, npz_bytes(arrays))

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {}
        if self.unknown_scores is not None:
            arrays["unknown_scores"] = self.unknown_scores
        if self.views is not None:
            arrays["views"] = self.views.probabilities
            arrays["views_tried"] = np.array(self.views.tried)
            arrays["views_names"] = np.array(self.views.names, np.str_)
            arrays["views_notes"] = np.array(self.views.notes, np.str_)
        if self.members is not None:
            arrays["members_labels"] = np.array(self.members.labels, np.str_)
            arrays["members_test"] = self.members.test
            arrays["members_validation"] = self.members.validation
            arrays["members_validation_targets"] = self.members.validation_targets
        return arrays

    @classmethod
    def load(cls, run: RunDescription, published: Mapping[str, Any]) -> MoreInputs:
        """What stands behind published figures (evaluation.json).

        Raises:
            UserError: a file that they need is missing or damaged.
        """
        if published.get("asked") is None:  # of an older version, which had no further figures
            return cls()
        asked, folder = Asked.from_dict(published["asked"]), run.folder
        arrays = load_npz(folder / MORE_PREDICTIONS) if (folder / MORE_PREDICTIONS).exists() else {}
        trusted = published.get("trust") is not None
        weights, preprocess = published["weights_sha256"], published["preprocess_sha256"]
        try:
            return cls(
                slices=SliceColumns.load(folder) if asked.has_slices else None,
                gate=asked.gate,
                trust=load_trust(folder, weights, preprocess) if trusted else None,
                unknown_scores=arrays.get("unknown_scores"),
                views=_views(arrays) if asked.views else None,
                members=_members(arrays) if asked.members else None,
            )
        except KeyError as error:
            raise damaged(folder / MORE_PREDICTIONS, error) from error

    def judge(self, predictions: Predictions) -> More:
        """The figures."""
        slices = None if self.slices is None else self.slices.report(predictions)
        trust = None
        if self.trust is not None:
            trust = trust_report(self.trust, predictions, unknown_scores=self.unknown_scores)
        return More(
            slices=slices,
            gate=None if self.gate is None or slices is None else judge_gate(self.gate, slices),
            trust=trust,
            views=None if self.views is None else view_figures(self.views, predictions),
            ensemble=None if self.members is None else ensemble_figures(self.members, predictions),
        )


@dataclass(frozen=True, eq=False)
class More:
    """Further figures; None where they were not asked for."""

    slices: SliceReport | None = None
    gate: GateResult | None = None
    trust: TrustReport | None = None
    views: ViewFigures | None = None
    ensemble: EnsembleFigures | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in evaluation.json."""
        parts = {name: getattr(self, name) for name in ("slices", "gate", "trust", "views", "ensemble")}
        return {name: None if part is None else part.to_dict() for name, part in parts.items()}

    @property
    def lines(self) -> tuple[tuple[str, str], ...]:
        """(what, sentence) for standard output."""
        said: list[tuple[str, str]] = []
        if self.trust is not None:
            said.append(("trust", self.trust.sentence))
        if self.slices is not None:
            worst = self.slices.worst
            few = f"no slice has {self.slices.min_images} images with as many in the rest"
            said.append(("slices", few if worst is None else worst.sentence))
        if self.gate is not None:
            said += [("gate", sentence) for sentence in self.gate.sentences]
        if self.views is not None:
            said.append(("views", self.views.sentence))
        if self.ensemble is not None:
            said.append(("ensemble", self.ensemble.sentence))
        return tuple(said)


def _views(arrays: Mapping[str, NDArray[Any]]) -> ViewsMade:
    names, notes = (tuple(arrays[name].tolist()) for name in ("views_names", "views_notes"))
    return ViewsMade(names, notes, arrays["views"], bool(arrays["views_tried"]))


def _members(arrays: Mapping[str, NDArray[Any]]) -> MembersMade:
    return MembersMade(
        tuple(arrays["members_labels"].tolist()),
        arrays["members_test"],
        arrays["members_validation"],
        arrays["members_validation_targets"],
    )
