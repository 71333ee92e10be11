"""Trying a candidate: its fits in the rounds of a pool, what they said of the images, and what they cost.

Every round's answers are written down when it ends, so that a run that was stopped does not repeat it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from convcraft.data.durable_files import replace_durably
from convcraft.finetune.judge import Verdicts
from convcraft.finetune.pool import Ids, Pool, Round

Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Fitted:
    """One network that a candidate came to.

    probabilities: ids -> float32 [n, K].
    network: builds the whole network, in evaluation mode, on the CPU.
    model_settings: what ModelConfig must say to build it again.
    freeze: what the ledger found (`FreezeReport.to_dict`).
    epochs: that were trained. notes: layers that the method left alone, and why.
    """

    probabilities: Callable[[Ids], Probabilities]
    network: Callable[[], nn.Module]
    num_trainable: int
    seconds: float
    freeze: Mapping[str, Any]
    model_settings: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 0
    notes: tuple[str, ...] = ()


class Candidate(Protocol):
    """A way from the pretrained network to one for these images.

    variants: names of the networks that one fit gives (a method, and its mixture with the starting weights); the
        candidate's own name first, which is the cheapest or most usual of them.
    """

    @property
    def name(self) -> str: ...

    @property
    def method(self) -> str: ...

    @property
    def variants(self) -> tuple[str, ...]: ...

    @property
    def keeps_rounds(self) -> bool:
        """Whether a fit is so dear that what it said is written down."""

    @property
    def fingerprint(self) -> str:
        """Of everything but the images that decides what a fit says; used where `keeps_rounds`."""

    def fit(self, ids: Ids, place: str) -> dict[str, Fitted]:
        """Learn from these images of the pool alone; place: a name for the fit's folder."""

    def discard(self, place: str) -> None:
        """What the fit said is written down: its folder may go."""


@dataclass
class Attempt:
    """A candidate's variant, judged in the rounds that were run."""

    name: str
    method: str
    candidate: Candidate
    verdicts: Verdicts
    seconds: float = 0.0  # of fitting, over the rounds
    num_trainable: int = 0
    freeze: list[Mapping[str, Any]] = field(default_factory=list)
    outcome: str = ""  # chosen, or why not
    complete: bool = False  # all rounds were run

    @property
    def freeze_passed(self) -> bool:
        return all(report["passed"] for report in self.freeze)


def new_attempts(candidate: Candidate, pool: Pool, num_classes: int) -> list[Attempt]:
    """One for each variant, with nothing judged yet."""
    empty = np.full((len(pool.images), num_classes), np.nan, np.float32)
    return [Attempt(name, candidate.method, candidate, Verdicts(name, empty.copy())) for name in candidate.variants]


def run_round(attempts: list[Attempt], pool: Pool, number: int, run: Path) -> None:
    """Fit one candidate in one round and note what its variants say of the judged images."""
    candidate, this = attempts[0].candidate, pool.rounds[number]
    known = _read(run, candidate, number, this) if candidate.keeps_rounds else None
    said = known or _fit_and_ask(candidate, this, number)
    if known is None and candidate.keeps_rounds:
        _write(run, candidate, number, this, said)
        candidate.discard(f"round-{number}")
    for attempt in attempts:
        attempt.verdicts.probabilities[this.judged] = said[attempt.name].probabilities
        attempt.seconds += said[attempt.name].seconds
        attempt.num_trainable = said[attempt.name].num_trainable
        attempt.freeze.append(said[attempt.name].freeze)
        attempt.complete = number == len(pool.rounds) - 1


@dataclass(frozen=True, eq=False)
class _Said:
    probabilities: Probabilities
    num_trainable: int
    seconds: float
    freeze: Mapping[str, Any]


def _fit_and_ask(candidate: Candidate, this: Round, number: int) -> dict[str, _Said]:
    fitted = candidate.fit(this.fit, f"round-{number}")
    return {
        name: _Said(each.probabilities(this.judged), each.num_trainable, each.seconds, each.freeze)
        for name, each in fitted.items()
    }


def trial_folder(run: Path, candidate: Candidate, place: str) -> Path:
    """Where a candidate's fit works."""
    return run / "trials" / candidate.name.replace(" ", "-") / place


def _record(run: Path, candidate: Candidate, number: int) -> Path:
    return trial_folder(run, candidate, f"round-{number}").with_suffix(".npz")


def _write(run: Path, candidate: Candidate, number: int, this: Round, said: Mapping[str, _Said]) -> None:
    facts = {
        name: {"num_trainable": each.num_trainable, "seconds": each.seconds, "freeze": dict(each.freeze)}
        for name, each in said.items()
    }
    arrays = {f"said/{name}": each.probabilities for name, each in said.items()}
    buffer = io.BytesIO()
    texts = {"facts": np.array(json.dumps(facts)), "fingerprint": np.array(candidate.fingerprint)}
    np.savez(buffer, fit=this.fit, judged=this.judged, **texts, **arrays)  # type: ignore[arg-type]
    path = _record(run, candidate, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_durably(path, buffer.getvalue())


def _read(run: Path, candidate: Candidate, number: int, this: Round) -> dict[str, _Said] | None:
    """What an earlier start of the run noted of this round; None where it did not come so far."""
    path = _record(run, candidate, number)
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as stored:
        same = np.array_equal(stored["fit"], this.fit) and np.array_equal(stored["judged"], this.judged)
        same = same and str(stored["fingerprint"]) == candidate.fingerprint
        facts = json.loads(str(stored["facts"]))
        if not same or set(facts) != set(candidate.variants):
            return None
        return {name: _Said(stored[f"said/{name}"], **entry) for name, entry in facts.items()}
