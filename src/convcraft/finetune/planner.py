"""Spending a budget: probes first, then what can still win, and a reason for every step.

The order is from cheap to dear. A dearer candidate first shows itself in one round: where it is clearly behind, or the
budget does not hold its other rounds and the final fit, it goes no further. The choice is made by images that the
networks never saw, and a dearer candidate must be better to displace a cheaper one, so the result is never worse than
the probe by what was measured.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from convcraft.data.durable_files import replace_durably
from convcraft.errors import UserError
from convcraft.finetune.attempts import Attempt, Candidate, new_attempts, run_round
from convcraft.finetune.judge import choose, is_hopeless
from convcraft.finetune.pool import Ids, Pool
from convcraft.training.stops import NonFinite

FEWEST_EPOCHS, LEAST_SHARE = 3, 0.5  # a method that the budget gives fewer, or less of its epochs, is not tried
RESERVE = 0.85  # share of what is left of a budget that estimates may fill: estimates err

Say = Callable[[str], None]


class Trainable(Candidate, Protocol):
    """A candidate whose cost depends on how many epochs it is given."""

    @property
    def epochs(self) -> int: ...

    def epoch_seconds(self, num_images: int) -> float:
        """An estimate, before anything was run."""

    def with_epochs(self, epochs: int) -> Trainable:
        """The same with another number of epochs."""


@dataclass
class Budget:
    """Wall-clock time; seconds None is without end. earlier: spent by earlier starts of the same run."""

    seconds: float | None
    started: float = field(default_factory=time.monotonic)
    earlier: float = 0.0

    @property
    def spent(self) -> float:
        return self.earlier + time.monotonic() - self.started

    @property
    def left(self) -> float:
        return np.inf if self.seconds is None else self.seconds - self.spent


class Diary:
    """What a search has settled and spent, on the disk, so that a run that goes on does as it had begun."""

    def __init__(self, run: Path) -> None:
        self._path = run / "trials" / "search.json"
        known = json.loads(self._path.read_text(encoding="utf-8")) if self._path.is_file() else {}
        self.spent_seconds: float = known.get("spent_seconds", 0.0)
        self.epochs: dict[str, int] = known.get("epochs", {})

    def write(self, budget: Budget) -> None:
        self.spent_seconds = budget.spent
        self._path.parent.mkdir(parents=True, exist_ok=True)
        content = {"spent_seconds": self.spent_seconds, "epochs": self.epochs}
        replace_durably(self._path, json.dumps(content).encode())


@dataclass(frozen=True)
class Search:
    """What a planner works with."""

    pool: Pool
    num_classes: int
    run: Path
    budget: Budget
    diary: Diary
    say: Say

    @property
    def targets(self) -> Ids:
        return self.pool.images.targets

    @property
    def images_fitted(self) -> int:
        """Images that all rounds and the final fit of a candidate learn from, each time counted."""
        final = len(self.pool.images) if self.pool.cross_fitted else 0
        return sum(len(each.fit) for each in self.pool.rounds) + final

    def accuracy(self, attempt: Attempt) -> str:
        share, (low, high) = attempt.verdicts.accuracy(self.targets, self.pool.chooses)
        return f"{share:.2%} (95 % interval {low:.2%} to {high:.2%})"


def try_fully(search: Search, candidate: Candidate) -> list[Attempt]:
    """All rounds of one candidate."""
    attempts = new_attempts(candidate, search.pool, search.num_classes)
    for number in range(len(search.pool.rounds)):
        run_round(attempts, search.pool, number, search.run)
        search.diary.write(search.budget)
    for attempt in attempts:
        search.say(f"{attempt.name}: {search.accuracy(attempt)}, {attempt.seconds:.1f} s")
    return attempts


def best_of(search: Search, attempts: Sequence[Attempt]) -> Attempt:
    """The choice among those that ran all rounds, cheapest first."""
    complete = [attempt for attempt in attempts if attempt.complete]
    chosen = choose([attempt.verdicts for attempt in complete], search.targets, search.pool.chooses)
    return next(attempt for attempt in complete if attempt.verdicts is chosen)


def plan(search: Search, probes: Sequence[Candidate], trained: Sequence[Trainable]) -> list[Attempt]:
    """Try what can win within the budget; returns every attempt, with its outcome in words.

    The first probe is what all others are compared with, and its errors are errors. Any other candidate that fails is
    given up, and the rest go on.
    """
    attempts = try_fully(search, probes[0])
    for probe in probes[1:]:
        if search.budget.left <= 0:
            search.say(f"{probe.name}: not tried; the budget is spent")
        else:
            attempts += _try_or_give_up(search, probe, lambda probe=probe: try_fully(search, probe))  # type: ignore[misc]
    for candidate in trained:
        best = best_of(search, attempts)
        if reason := _nothing_left(search, best):
            search.say(f"stopped: {reason}")
            return attempts
        attempts += _try_or_give_up(
            search,
            candidate,
            lambda candidate=candidate, best=best: _try_within_budget(search, candidate, best),  # type: ignore[misc]
        )
    return attempts


def _try_or_give_up(search: Search, candidate: Candidate, attempt: Callable[[], list[Attempt]]) -> list[Attempt]:
    try:
        return attempt()
    except (UserError, NonFinite) as error:
        reason = error.received if isinstance(error, UserError) else str(error)
        return _give_up(search, new_attempts(candidate, search.pool, search.num_classes), reason)


def _nothing_left(search: Search, best: Attempt) -> str | None:
    """Why no further candidate could be shown to be better."""
    wrong = int((~best.verdicts.correct(search.targets, search.pool.chooses)).sum())
    if wrong <= 1:
        return f"{best.name} has {wrong} of {len(search.pool.chooses)} images wrong; there is nothing more to gain"
    return None


def _try_within_budget(search: Search, candidate: Trainable, best: Attempt) -> list[Attempt]:
    epoch_seconds = candidate.epoch_seconds(search.images_fitted)
    epochs = search.diary.epochs.get(candidate.name)  # settled by an earlier start of this run
    if epochs is None:
        affordable = int(min(search.budget.left * RESERVE / epoch_seconds, candidate.epochs))
        needed = max(FEWEST_EPOCHS, LEAST_SHARE * candidate.epochs)
        if affordable < min(needed, candidate.epochs):
            search.say(
                f"{candidate.name}: not tried; {needed:.0f} epochs in all rounds would take about "
                f"{needed * epoch_seconds:.0f} s, and {max(search.budget.left, 0):.0f} s of the budget are left"
            )
            return []
        epochs = search.diary.epochs[candidate.name] = affordable
        search.diary.write(search.budget)
    candidate = candidate.with_epochs(epochs)
    search.say(
        f"{candidate.name}: {candidate.epochs} epochs in each of {len(search.pool.rounds)} rounds, about "
        f"{epoch_seconds * candidate.epochs:.0f} s in all"
    )
    return _run_while_it_can_win(search, candidate, best)


def _run_while_it_can_win(search: Search, candidate: Trainable, best: Attempt) -> list[Attempt]:
    pool = search.pool
    attempts = new_attempts(candidate, pool, search.num_classes)
    for number, this in enumerate(pool.rounds):
        begun = time.monotonic()
        run_round(attempts, pool, number, search.run)
        search.diary.write(search.budget)
        seconds = max(time.monotonic() - begun, attempts[0].seconds / (number + 1))
        judged = np.concatenate([each.judged for each in pool.rounds[: number + 1]])
        judged = np.intersect1d(judged, pool.chooses)
        if all(is_hopeless(attempt.verdicts, best.verdicts, search.targets, judged) for attempt in attempts):
            return _give_up(search, attempts, f"clearly behind {best.name} after round {number + 1}")
        images_left = search.images_fitted - sum(len(each.fit) for each in pool.rounds[: number + 1])
        needed = seconds * images_left / len(this.fit)
        if number + 1 < len(pool.rounds) and needed > search.budget.left:
            return _give_up(search, attempts, f"what is left of it would take {needed:.0f} s, more than the budget has")
    for attempt in attempts:
        search.say(f"{attempt.name}: {search.accuracy(attempt)}, {attempt.seconds:.1f} s")
    return attempts


def _give_up(search: Search, attempts: list[Attempt], reason: str) -> list[Attempt]:
    for attempt in attempts:
        attempt.complete = False
        attempt.outcome = reason
    search.say(f"{attempts[0].name}: given up, {reason}")
    return attempts


def name_outcomes(search: Search, attempts: Sequence[Attempt], chosen: Attempt) -> None:
    """Say of each attempt why it was or was not taken."""
    right = int(chosen.verdicts.correct(search.targets, search.pool.chooses).sum())
    for attempt in attempts:
        if attempt is chosen:
            attempt.outcome = "chosen"
        elif attempt.complete:
            more = int(attempt.verdicts.correct(search.targets, search.pool.chooses).sum()) - right
            attempt.outcome = f"{more:+d} images right beside the chosen one, at {attempt.seconds:.1f} s"
