"""Every variant of a run side by side: its own network, its bundles, its compressed runs and their bundles.

All are judged on the same images, none of them test images, and timed in turns, so that what else the machine does
meets all alike. RUN/variants.json; the page of the run draws it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from convcraft.config import RunConfig
from convcraft.data.durable_files import read_json, write_json
from convcraft.data.sample import Progress
from convcraft.deploy.bundle import is_bundle
from convcraft.deploy.compress.gate import VariantJudged, judge_variant
from convcraft.deploy.compress.timing import seconds_in_turns
from convcraft.deploy.formats.form import BATCH_SIZE, Runtime
from convcraft.deploy.judges import Judges
from convcraft.deploy.machine import processor_name
from convcraft.deploy.predictor import Predictor
from convcraft.errors import UserError
from convcraft.evaluation.trade_off import TradeOff, Variant
from convcraft.statistics import wilson_interval
from convcraft.training.checkpoint import CHECKPOINTS, MANIFEST
from convcraft.training.run_folder import CONFIG, SUMMARY, RunDescription, load_result, read_run, read_summary
from convcraft.workflows.before import BEFORE
from convcraft.workflows.run_network import RunNetwork

VARIANTS, BUNDLES = "variants.json", "bundles"


@dataclass(frozen=True, eq=False)
class _Candidate:
    """answer: logits [B, K] of pixels uint8 [B, H, W, C]."""

    name: str
    answer: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    size_bytes: int
    command: str
    place: str


def weigh(run: RunDescription, judges: Judges, progress: Progress | None = None) -> tuple[TradeOff, tuple[str, ...]]:
    """Judge and time every variant that lies in a run's folder or beside it, and keep the figures there.

    Args:
        judges: labelled images that are no test images, and groups of them that are judged beside the classes.

    Returns:
        the figures, and sentences about bundles and compressed runs that were left out: damaged, or of another network.
    """
    notes: list[str] = []
    candidates = list(_candidates(run, notes))
    calls = [partial(_answer_one, candidate, judges.pixels) for candidate in candidates]
    seconds = seconds_in_turns(calls, progress=progress)
    own: NDArray[np.int64] | None = None
    variants = []
    for at, (candidate, taken) in enumerate(zip(candidates, seconds, strict=True)):
        if progress is not None:
            progress(at, len(candidates), "judging")
        labels = _labels(candidate, judges.pixels)
        own = labels if own is None else own
        judged = judge_variant(own, labels, judges.targets, judges.groups, classes=run.classes)
        variants.append(_described(candidate, taken, labels, judges.targets, judged))
    threads = f"{torch.get_num_threads()} threads"
    found = TradeOff(tuple(variants), judges.name, f"{processor_name()}, {threads}")
    write_json(run.folder / VARIANTS, found.to_dict())
    return found, tuple(notes)


def read_trade_off(run: Path) -> TradeOff | None:
    """What `weigh` kept; None where it never ran."""
    path = run / VARIANTS
    return TradeOff.from_dict(read_json(path)) if path.exists() else None


def _candidates(run: RunDescription, notes: list[str]) -> Iterator[_Candidate]:
    """The run first."""
    yield _of_run(run, "as trained (torch)")
    yield from _of_bundles(run, "", notes)
    weights_sha256 = load_result(run).sha256
    for folder in _compressed(run.folder, weights_sha256):
        try:
            compressed = read_run(folder)
            read_summary(folder)
            if _source_sha256(folder) != weights_sha256 or compressed.classes != run.classes:
                notes.append(f"{folder.name} was left out: it was made from other weights than {_name(run)} has now")
                continue
            if compressed.preprocess != run.preprocess:
                notes.append(f"{folder.name} was left out: it takes other pixels")
                continue
            yield _of_run(compressed, f"{folder.name} (torch)")
        except UserError as error:
            notes.append(f"{folder.name} was left out: {error.received}")
            continue
        yield from _of_bundles(compressed, f"{folder.name} ", notes)


def _compressed(run: Path, weights_sha256: str) -> Iterator[Path]:
    """Finished runs beside this one that name it as their source, or that keep its weights as those they began with:
    folders may have been moved together."""
    for folder in sorted(run.resolve().parent.iterdir()):
        if not (folder / SUMMARY).is_file() or not (folder / CONFIG).is_file():
            continue
        try:
            source = RunConfig.load(folder / CONFIG).compress.source
        except UserError:  # a run of another version; whether it came from this one cannot be known
            continue
        if source is not None and (Path(source).resolve() == run.resolve() or _source_sha256(folder) == weights_sha256):
            yield folder


def _source_sha256(compressed: Path) -> str | None:
    """Of the weights that a compressed run was made from; None where it does not say."""
    try:
        return str(read_json(compressed / CHECKPOINTS / BEFORE / MANIFEST)["files"]["model.safetensors"]["sha256"])
    except (UserError, KeyError, TypeError):
        return None


def _name(run: RunDescription) -> str:
    return run.folder.resolve().name


def _of_run(run: RunDescription, name: str) -> _Candidate:
    network = RunNetwork(run.folder, "cpu")
    weights = load_result(run)
    size = (run.folder / CHECKPOINTS / weights.checkpoint / weights.file).stat().st_size
    return _Candidate(name, lambda pixels: network.outputs(pixels).logits, size, _command_of(run), _name(run))


def _command_of(run: RunDescription) -> str:
    compress = run.config.compress
    if compress.source is None:
        return f"convcraft {run.config.command} --config {_name(run)}/{CONFIG}"
    asked = {"--prune": compress.prune, "--sparsity": compress.sparsity}
    options = [f"{name} {value:g}" for name, value in asked.items() if value is not None]
    if not options and not compress.int8:
        options.append(f"--into {run.config.model.name}")
    options += ["--int8"] if compress.int8 else []
    options += ["--distil"] if compress.distil else []
    return f"convcraft compress {Path(compress.source).name} {' '.join(options)}"


def _of_bundles(run: RunDescription, prefix: str, notes: list[str]) -> Iterator[_Candidate]:
    weights_sha256 = load_result(run).sha256
    for path in sorted((run.folder / BUNDLES).glob("*")):
        if not is_bundle(path):
            continue
        try:
            predictor = Predictor.open(path, runtime=Runtime(), batch_size=BATCH_SIZE)
        except UserError as error:
            notes.append(f"{path.name} was left out: {error.received}")
            continue
        manifest = predictor.bundle.manifest
        if manifest.weights_sha256 != weights_sha256 or predictor.preprocess != run.preprocess:
            notes.append(f"{path.name} was left out: it is of another network")
            continue
        size = sum(len(content) for content in predictor.bundle.model.values())
        command = f"convcraft export {_name(run)} --format {manifest.format}:{manifest.precision}"
        name = f"{prefix}{manifest.format} {manifest.precision}"
        usual = f"{_name(run)}-{manifest.format}-{manifest.precision}.zip"
        if path.name != usual:  # a folder, or a copy
            name += f" ({path.name})"
        yield _Candidate(name, _logits_of(predictor), size, command, f"{_name(run)}/{BUNDLES}/{path.name}")


def _logits_of(predictor: Predictor) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    return lambda pixels: predictor.outputs(pixels).logits


def _answer_one(candidate: _Candidate, pixels: NDArray[np.uint8], turn: int) -> None:
    candidate.answer(pixels[turn % len(pixels)][None])


def _labels(candidate: _Candidate, pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    starts = range(0, len(pixels), BATCH_SIZE)
    return np.concatenate([candidate.answer(pixels[at : at + BATCH_SIZE]).argmax(axis=1) for at in starts])


def _described(
    candidate: _Candidate,
    seconds: Sequence[float],
    labels: NDArray[np.int64],
    targets: NDArray[np.int64],
    judged: VariantJudged,
) -> Variant:
    quick, middle, slow = 1000 * np.percentile(seconds, [25, 50, 75])
    right = int((labels == targets).sum())
    return Variant(
        name=candidate.name,
        accuracy=right / len(targets),
        interval=wilson_interval(right, len(targets)),
        num_images=len(targets),
        agreement=judged.agreement,
        milliseconds=float(middle),
        quick=float(quick),
        slow=float(slow),
        size_bytes=candidate.size_bytes,
        command=candidate.command,
        place=candidate.place,
        worse=tuple(part.name for part in judged.worse),
    )
