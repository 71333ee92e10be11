"""A run's folder: who may write to it, and which of its weights are the result.

config.yaml  classes.json  preprocess.json  data.json  seen_images.npy  metrics.jsonl  tensorboard/  checkpoints/
summary.json  report.html  run.lock; with validation images: trust.json  [trust.safetensors]
after evaluate: evaluation.json  predictions.npz  test_reads.jsonl  seal.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from convcraft.config import RunConfig
from convcraft.data.durable_files import read_json
from convcraft.data.preprocess import Preprocess
from convcraft.data.sample import Finding
from convcraft.errors import UserError
from convcraft.training.checkpoint import CHECKPOINTS, MANIFEST, DamagedCheckpoint, load_checkpoint, load_newest

CONFIG = "config.yaml"
CLASSES = "classes.json"
PREPROCESS = "preprocess.json"
DATA = "data.json"
SEEN = "seen_images.npy"  # fingerprints of the train and validation images: uint64, sorted
SUMMARY = "summary.json"  # of training; there when the run is finished
EVALUATION = "evaluation.json"  # of the test images; there after `evaluate`
PREDICTIONS = "predictions.npz"  # what its figures were computed from
LOCK = "run.lock"


@contextmanager
def exclusive(run: Path) -> Iterator[None]:
    """Let one process write to a run folder; the lock goes with the process, however it ends.

    A folder in which a refused start has written nothing goes too, so that its name is free again.

    Raises:
        UserError: another process holds it.
    """
    lock = FileLock(run / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        fix = "Wait for it to end, or choose another --out."
        raise UserError(f"{run} is in use by another process", "a folder that no other run writes to", fix) from error
    try:
        yield
    except UserError:
        lock.release()
        if [path.name for path in run.iterdir()] == [LOCK]:
            with suppress(OSError):  # another process has come in between
                (run / LOCK).unlink()
                run.rmdir()
        raise
    finally:
        lock.release()


@dataclass(frozen=True)
class RunDescription:
    """What stands in a run folder beside the weights."""

    folder: Path
    config: RunConfig
    classes: tuple[str, ...]
    preprocess: Preprocess
    data: dict[str, Any]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was noticed about the data when the run began."""
        return tuple(Finding(**{**entry, "files": tuple(entry["files"])}) for entry in self.data["findings"])


def read_run(run: Path) -> RunDescription:
    """Read a run folder.

    Raises:
        UserError: it is not one, or a part of it is missing or unreadable.
    """
    if not (run / CONFIG).is_file():
        received = f"{run} is no run folder (it has no {CONFIG})"
        raise UserError(received, "a folder made by `convcraft train`", "Check the path.")
    return RunDescription(
        folder=run,
        config=RunConfig.load(run / CONFIG),
        classes=tuple(read_json(run / CLASSES)),
        preprocess=Preprocess.load(run / PREPROCESS),
        data=read_json(run / DATA),
    )


def _result_name(run: RunDescription) -> str:
    """The folder of the weights that a run without summary stands for, going by its newest checkpoint.

    Raises:
        DamagedCheckpoint: the newest is damaged: an older one would be another model.
    """
    newest, problems = load_newest(run.folder / CHECKPOINTS)
    if problems:
        raise DamagedCheckpoint(problems[0])
    best: str | None = newest.state["best_checkpoint"]
    return best if run.config.training.select == "best" and best is not None else newest.name


def read_summary(run: Path) -> dict[str, Any]:
    """The training summary of a finished run.

    Raises:
        UserError: the run is not finished.
    """
    if not (run / SUMMARY).exists():
        command = RunConfig.load(run / CONFIG).command
        fix = f"Finish it: convcraft {command} --out {run} --resume"
        raise UserError(f"{run} has no {SUMMARY}", "a finished run", fix)
    summary: dict[str, Any] = read_json(run / SUMMARY)
    return summary


def read_seen(run: Path) -> NDArray[np.uint64] | None:
    """Fingerprints of the images that the run was trained and validated on; None where they are not recorded.

    Raises:
        UserError: the file is damaged.
    """
    path = run / SEEN
    if not path.exists():  # a run of an older version
        return None
    try:
        seen: NDArray[np.uint64] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: {error}", "a complete run folder", "Train again, or restore the file.") from error
    return seen


@dataclass(frozen=True)
class ResultWeights:
    """The weights that a run stands for, and where they come from."""

    tensors: dict[str, Tensor]
    checkpoint: str  # folder name
    file: str  # model.safetensors or ema.safetensors
    sha256: str


def load_result(run: RunDescription) -> ResultWeights:
    """The best weights on validation, or the last (`training.select`); the moving average where there is one.

    Raises:
        UserError: no checkpoint, or the one that is needed is damaged.
    """
    checkpoints = run.folder / CHECKPOINTS
    summary = read_json(run.folder / SUMMARY) if (run.folder / SUMMARY).exists() else None
    fix = "Restore the file, or train again: with the same config.yaml the same weights come out."
    if summary is not None and not (isinstance(summary, dict) and {"checkpoint", "weights_sha256"} <= summary.keys()):
        raise UserError(f"{run.folder / SUMMARY} names no weights", "a summary as training wrote it", fix)
    try:
        name = summary["checkpoint"] if summary is not None else _result_name(run)
        chosen = load_checkpoint(checkpoints / name)
    except DamagedCheckpoint as error:
        raise UserError(f"damaged checkpoint {error}", "the checkpoint as it was saved", fix) from error
    stem = "ema" if "ema" in chosen.tensors else "model"
    file = f"{stem}.safetensors"
    manifest = json.loads((checkpoints / name / MANIFEST).read_bytes())
    sha256 = manifest["files"][file]["sha256"]
    if summary is not None and summary["weights_sha256"] != sha256:
        raise UserError(f"{name}/{file} is not what {SUMMARY} names", "the weights that training ended with", fix)
    return ResultWeights(dict(chosen.tensors[stem]), name, file, sha256)
