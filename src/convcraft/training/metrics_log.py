"""The run's log: one JSON object per line, the same bytes for the same seed, cut to the checkpoint on resume.

No times stand in it: they differ from run to run and live in summary.json.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from convcraft.errors import UserError
from convcraft.training.trackers import Trackers


class MetricsLog:
    """Appends records to metrics.jsonl and hands their figures to the trackers, if there are any.

    Args:
        run: the run folder.
        num_bytes: the length that the log had at the checkpoint that the run goes on from; 0 for a new one.
    """

    def __init__(self, run: Path, num_bytes: int = 0) -> None:
        path = run / "metrics.jsonl"
        path.touch()
        if path.stat().st_size < num_bytes:
            fix = "Restore the file, or start a new run."
            raise UserError(f"{path} has lost lines that were there at the checkpoint", "the whole log", fix)
        os.truncate(path, num_bytes)
        self._file = path.open("ab")
        self.trackers: Trackers | None = None  # opened and closed by whoever runs the training

    def write(self, record: dict[str, Any]) -> None:
        """One record: event ("train" or "val"), epoch, step, and numbers."""
        self._file.write(json.dumps(record).encode() + b"\n")
        if self.trackers is not None:
            named = {
                f"{record['event']}/{name}": value
                for name, value in record.items()
                if name not in ("event", "epoch", "step") and value is not None
            }
            self.trackers.log(named, record["step"])

    def flush(self) -> int:
        """Bring everything to the disk; returns the log's length in bytes, for the checkpoint."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if self.trackers is not None:
            self.trackers.flush()
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


def log_is_due(step: int, every_steps: int, schedule: str) -> bool:
    """Whether a train line is written after a step; a function of the step alone, so resuming changes nothing.

    even: after every `every_steps` steps. gradual: lines stand as far apart as the largest power of ten that the step
    has reached, and never farther than `every_steps`: after steps 1 to 10, then 20, 30 ... 100, 200 ... So the first
    steps, in which most happens, are seen one by one, and long runs still have short logs.

    Args:
        step: optimiser steps done, from 1.
    """
    if schedule == "gradual":
        every_steps = min(every_steps, 10 ** (len(str(step)) - 1))
    return step % every_steps == 0


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All records of a run's log."""
    with (run / "metrics.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
