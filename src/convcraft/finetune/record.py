"""What a fine-tuning run tried and why it chose, as plain values: finetune.json of the run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convcraft.data.durable_files import read_json, write_json
from convcraft.errors import UserError
from convcraft.finetune.attempts import Attempt
from convcraft.finetune.learning_curve import CurvePoint, LearningCurve, PowerLaw
from convcraft.finetune.pool import Ids

RECORD = "finetune.json"


@dataclass(frozen=True)
class Trial:
    """One candidate. accuracy and its 95 % interval: on `num_judged` images that its networks never saw; None where it
    was not judged on all that choose. outcome: "chosen", or why not."""

    name: str
    method: str
    num_judged: int
    accuracy: float | None
    interval: tuple[float, float] | None
    seconds: float
    trainable_parameters: int
    chosen: bool
    outcome: str

    @classmethod
    def of(cls, attempt: Attempt, targets: Ids, chooses: Ids, *, chosen: bool) -> Trial:
        """As the planner left it; targets: int64 [N] of the pool, chooses: ids of the images that choose."""
        judged = attempt.complete and len(chooses) > 0
        accuracy, interval = attempt.verdicts.accuracy(targets, chooses) if judged else (None, None)
        return cls(
            name=attempt.name,
            method=attempt.method,
            num_judged=len(chooses) if judged else 0,
            accuracy=accuracy,
            interval=interval,
            seconds=attempt.seconds,
            trainable_parameters=attempt.num_trainable,
            chosen=chosen,
            outcome=attempt.outcome,
        )


@dataclass(frozen=True)
class TuningRecord:
    """trials: in the order tried. said: the plan and its reasons, line by line. freeze: what the ledger found.

    learning_curve: whether more labels would help; None where nobody asked.
    """

    trials: tuple[Trial, ...]
    said: tuple[str, ...] = ()
    freeze: str = ""
    learning_curve: LearningCurve | None = None

    def save(self, run: Path) -> None:
        """Write finetune.json, whole or not at all."""
        write_json(run / RECORD, dataclasses.asdict(self))

    @classmethod
    def read(cls, run: Path) -> TuningRecord | None:
        """The record of a run folder; None for a run that was not fine-tuned.

        Raises:
            UserError: a damaged file.
        """
        if not (run / RECORD).exists():
            return None
        values = read_json(run / RECORD)
        try:
            curve = values["learning_curve"]
            return cls(
                trials=tuple(Trial(**_tuples(trial)) for trial in values["trials"]),
                said=tuple(values["said"]),
                freeze=values["freeze"],
                learning_curve=None if curve is None else _read_curve(curve),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{run / RECORD}: {error!r}", "the record of a fine-tuning run", "Restore it.") from error


def _read_curve(values: Mapping[str, Any]) -> LearningCurve:
    plain = _tuples(values)
    points = tuple(CurvePoint(**point) for point in plain["points"])
    fit = None if plain["fit"] is None else PowerLaw(**plain["fit"])
    return LearningCurve(**{**plain, "points": points, "fit": fit})


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists alone."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
