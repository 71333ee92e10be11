"""Where a run's time goes: one stopwatch that is always running and books every lap under one name.

The loop calls `lap(part)` at the end of each piece of work: the time since the last lap was spent on it. So all laps
add up to the whole, and what has no name of its own is "other". Without --profile a `NoStopwatch` takes the calls and
does nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

# Name and meaning, in the order of a step.
PARTS = {
    "data": "waiting for batches: decoding, augmenting",
    "transfer": "batches from host memory to the device",
    "forward": "network, loss, score",
    "backward": "gradients",
    "optimizer": "clipping, learning rate, step",
    "average": "moving average of the weights",
    "logging": "log lines, progress bar",
    "validation": "validation images through the network",
    "checkpoints": "writing and flushing",
    "other": "what is left: order of the epoch, bookkeeping",
}

HINTS = {
    "data": (
        "Where images are streamed from disk, more --set data.num_workers (up to the number of cores) or more "
        "--set data.memory_megabytes, so that they stay in memory; where they are in memory, fewer or cheaper changes "
        "(rotation and scale cost most)."
    ),
    "transfer": "Fewer, larger batches (--batch-size).",
    "forward": "--set training.precision=bf16-mixed where the hardware computes in it; smaller images or a smaller "
    "network; in long runs on a GPU --set training.compile=on.",
    "backward": "--set training.precision=bf16-mixed where the hardware computes in it; smaller images or a smaller "
    "network; in long runs on a GPU --set training.compile=on.",
    "optimizer": "A larger --batch-size: fewer steps for the same images.",
    "average": "A larger --batch-size: fewer steps for the same images.",
    "logging": "A larger --set training.log_every_steps.",
    "validation": "A smaller --set data.val_fraction; larger --set training.eval_batch_size.",
    "checkpoints": "A larger --set training.checkpoint_seconds; a quicker disk.",
    "other": "Nothing that a setting moves.",
}


IN_NUMPY = "More --threads, up to the number of cores; a smaller network or smaller images; torch: convcraft train."
NUMPY_HINTS = HINTS | {"forward": IN_NUMPY, "backward": IN_NUMPY}


class NoStopwatch:
    """Takes the loop's calls and does nothing."""

    def start(self) -> None:
        """The loop begins."""

    def lap(self, part: str) -> None:
        """The time since the last call was spent on `part`."""

    def seconds(self) -> dict[str, float]:
        """Seconds by part; empty where nothing was measured."""
        return {}


class Stopwatch(NoStopwatch):
    """Books time by part.

    Args:
        device: where the network computes. A GPU works behind the program's back; each lap waits for it, which makes
            a profiled run a little slower and its figures true.
        seconds_before: of the part of the run before a resume.
        clock: seconds from any start (for tests).
    """

    def __init__(
        self,
        device: torch.device | None = None,
        seconds_before: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._cuda = device if device is not None and device.type == "cuda" else None
        self._seconds = dict.fromkeys(PARTS, 0.0) | dict(seconds_before or {})
        self._clock = clock
        self._last = clock()

    def start(self) -> None:
        self._last = self._clock()

    def lap(self, part: str) -> None:
        if self._cuda is not None:
            torch.cuda.synchronize(self._cuda)
        now = self._clock()
        self._seconds[part] += now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        return dict(self._seconds)


@dataclass(frozen=True)
class Profile:
    """seconds: by part, in the order of a step; their sum is all the time that was measured. hints: by part."""

    seconds: Mapping[str, float]
    hints: Mapping[str, str] = field(default_factory=lambda: HINTS)

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def shares(self) -> dict[str, float]:
        """Share of each part, summing to 1; all 0 where nothing took any time."""
        total = self.total_seconds
        return {part: seconds / total if total else 0.0 for part, seconds in self.seconds.items()}

    @property
    def largest(self) -> str:
        """The part that took longest."""
        return max(self.seconds, key=lambda part: self.seconds[part])

    @property
    def hint(self) -> str:
        """What to try first, in a sentence."""
        return f"{self.largest} takes most, {self.shares[self.largest]:.0%}. To try: {self.hints[self.largest]}"

    def percentages(self) -> dict[str, float]:
        """Shares as percentages with one decimal that add up to exactly 100 (largest remainders)."""
        tenths = {part: share * 1000 for part, share in self.shares.items()}
        rounded = {part: int(value) for part, value in tenths.items()}
        missing = (1000 if self.total_seconds else 0) - sum(rounded.values())
        for part in sorted(tenths, key=lambda name: rounded[name] - tenths[name])[:missing]:
            rounded[part] += 1
        return {part: value / 10 for part, value in rounded.items()}

    def to_dict(self) -> dict[str, Any]:
        return {
            "total_seconds": self.total_seconds,
            "seconds": dict(self.seconds),
            "percent": self.percentages(),
            "largest": self.largest,
            "hint": self.hint,
        }
