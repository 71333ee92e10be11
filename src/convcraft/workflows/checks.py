"""What `convcraft verify` found, of a run or a bundle."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. outcome: passed, failed or skipped. file: the one at fault, "" where there is none.

    detail: what was found, in words.
    """

    what: str
    outcome: str
    detail: str
    file: str = ""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Verification:
    """All checks of a run or a bundle. It stands where none has failed; complete: none was skipped either."""

    subject: Path
    checks: tuple[Check, ...]
    seconds: float
    kind: str = "run"

    @property
    def passed(self) -> bool:
        return all(check.outcome != FAILED for check in self.checks)

    @property
    def complete(self) -> bool:
        return self.passed and all(check.outcome == PASSED for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        return {
            self.kind: str(self.subject),
            "passed": self.passed,
            "complete": self.complete,
            "checks": [check.to_dict() for check in self.checks],
            "seconds": self.seconds,
        }
