"""The run's log: one JSON object per line, the same bytes for the same seed, cut to the checkpoint on resume.

No times stand in it: they differ from run to run and live in summary.json.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from convcraft.errors import UserError


class MetricsLog:
    """Appends records to metrics.jsonl and mirrors them to TensorBoard.

    Args:
        run: the run folder.
        num_bytes: the length that the log had at the checkpoint that the run goes on from; 0 for a new one.
        step: that checkpoint's step.
    """

    def __init__(self, run: Path, num_bytes: int = 0, step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = run / "metrics.jsonl"
        path.touch()
        if path.stat().st_size < num_bytes:
            fix = "Restore the file, or start a new run."
            raise UserError(f"{path} has lost lines that were there at the checkpoint", "the whole log", fix)
        os.truncate(path, num_bytes)
        self._file = path.open("ab")
        # purge_step makes TensorBoard forget what an interrupted run wrote beyond the checkpoint.
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, record: dict[str, Any]) -> None:
        """One record: event ("train" or "val"), epoch, step, and numbers."""
        self._file.write(json.dumps(record).encode() + b"\n")
        for name, value in record.items():
            if name not in ("event", "epoch", "step") and value is not None:
                self._board.add_scalar(f"{record['event']}/{name}", value, record["step"])

    def flush(self) -> int:
        """Bring everything to the disk; returns the log's length in bytes, for the checkpoint."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._board.flush()
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        self._board.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All records of a run's log."""
    with (run / "metrics.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
