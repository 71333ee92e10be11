"""`convcraft compress RUN --target-latency ...`: the mildest combination that is quick and small enough.

Tried in this order, each judged and timed beside all others: exports that change nothing, lower precision, then pruning
with training and the same exports of what is left. The first that reaches every target without losing too much, in the
mean or in any class or declared group, ends the search; what was made on the way stays, and the run's page shows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from convcraft.config import RunConfig
from convcraft.deploy.formats.catalogue import find_format
from convcraft.deploy.machine import package_version
from convcraft.errors import UserError
from convcraft.evaluation.trade_off import TradeOff, Variant
from convcraft.training.run_folder import CONFIG, SUMMARY, read_run, read_summary
from convcraft.workflows.compress import compress
from convcraft.workflows.compress_settings import choose_compression, gate_settings
from convcraft.workflows.console import data_progress
from convcraft.workflows.evaluate_options import Asked
from convcraft.workflows.export import ExportAs, export
from convcraft.workflows.export_images import export_images
from convcraft.workflows.weigh import BUNDLES, weigh

EXPORTS = (
    ("onnx", "float32"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("onnx", "int8"),
    ("openvino", "int8"),
)
PRUNED_SHARES = (0.3, 0.5, 0.7)
MAX_DROP = 0.01


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a variant must reach. milliseconds: for one image. size_bytes: of its model files. max_drop: share of the
    judged images that it may get right less often than the run.

    Raises:
        UserError: no target, or one outside of its range.
    """

    milliseconds: float | None = None
    size_bytes: int | None = None
    max_drop: float = MAX_DROP

    def __post_init__(self) -> None:
        given = [value for value in (self.milliseconds, self.size_bytes) if value is not None]
        if not given or not all(value > 0 for value in given):
            fix = "For example: --target-latency 5 --target-size 2.5"
            raise UserError(f"targets {given}", "milliseconds or megabytes above 0", fix)
        if not 0 <= self.max_drop < 1:
            raise UserError(f"max drop {self.max_drop}", "a share from 0 to 1", "One point is 0.01.")

    def missed_by(self, variant: Variant, own: Variant) -> list[str]:
        """What a variant lacks, in words; empty where it will do."""
        missed = []
        if self.milliseconds is not None and variant.milliseconds > self.milliseconds:
            missed.append(f"{variant.milliseconds:.3g} ms")
        if self.size_bytes is not None and variant.size_bytes > self.size_bytes:
            missed.append(f"{variant.size_bytes / 1e6:.3g} MB")
        if own.accuracy - variant.accuracy > self.max_drop + 1e-9:
            missed.append(f"{100 * (own.accuracy - variant.accuracy):.1f} points less right")
        missed += [f"worse in {part}" for part in variant.worse]
        return missed


@dataclass(frozen=True)
class SearchResult:
    """found: the variant that reaches the targets, the most accurate of several; None where none did."""

    run: Path
    targets: Targets
    found: Variant | None
    trade_off: TradeOff
    notes: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        found = (
            None
            if self.found is None
            else next(entry for entry in self.trade_off.to_dict()["variants"] if entry["name"] == self.found.name)
        )
        return {
            "run": str(self.run),
            "found": found,
            "trade_off": self.trade_off.to_dict(),
            "notes": list(self.notes),
            "seconds": self.seconds,
        }


def search_variants(
    run: Path, targets: Targets, *, epochs: int | None = None, asked: Asked | None = None, console: Console
) -> SearchResult:
    """
    Args:
        epochs: of training after each pruning; None: as `compress` takes.
        asked: `slice_columns` and `class_groups` that the gates judge beside the classes.

    Raises:
        UserError: no finished run, or its data are gone: without images nothing can be judged.
    """
    started = time.monotonic()
    read_summary(run)
    description = read_run(run)
    with data_progress(console) as progress:
        judges = export_images(description, progress, asked).judges
    if judges is None:
        fix = "Put the data back where the run found them."
        raise UserError(f"the data of {run} cannot be opened", "images to judge variants on", fix)
    notes: list[str] = []

    def reached() -> tuple[Variant | None, TradeOff]:
        """Weigh all there is; the most accurate variant that reaches the targets."""
        with data_progress(console) as progress:
            trade_off, left_out = weigh(description, judges, progress)
        notes.extend(left_out)
        own = trade_off.variants[0]
        enough = [variant for variant in trade_off.variants if not targets.missed_by(variant, own)]
        return (max(enough, key=lambda variant: variant.accuracy) if enough else None), trade_off

    found, trade_off = reached()
    for step in _steps(run, epochs, asked or Asked(), console):
        if found is not None:
            break
        try:
            step()
        except UserError as error:  # a format that cannot carry this network, a share that cannot be reached
            notes.append(f"{error.received}; expected {error.expected}")
            continue
        found, trade_off = reached()
    return SearchResult(run, targets, found, trade_off, tuple(dict.fromkeys(notes)), time.monotonic() - started)


def _steps(run: Path, epochs: int | None, asked: Asked, console: Console) -> Iterator[Callable[[], Any]]:
    """What to make, the mildest first; things that are there already are not made again."""
    yield from _exports(run, asked, console)
    for share in PRUNED_SHARES:
        pruned = run.with_name(f"{run.absolute().name}-pruned-{round(100 * share)}")
        if not (pruned / SUMMARY).exists():
            yield partial(_prune, run, share, pruned, epochs, asked, console)
        if (pruned / SUMMARY).exists():
            yield from _exports(pruned, asked, console)


def _exports(run: Path, asked: Asked, console: Console) -> Iterator[Callable[[], Any]]:
    for name, precision in EXPORTS:
        form = find_format(name)
        made = run / BUNDLES / f"{run.resolve().name}-{name}-{precision}.zip"
        if package_version(form.package) is not None and not made.exists():
            yield partial(export, run, [ExportAs(form, precision)], asked=asked, weighs=False, console=console)


def _prune(run: Path, share: float, out: Path, epochs: int | None, asked: Asked, console: Console) -> None:
    begun = (out / CONFIG).exists()
    settings = choose_compression(
        run,
        prune=share,
        distil=True,
        training_settings={"epochs": epochs},
        compress_settings=gate_settings(asked),
    )
    compress(RunConfig() if begun else settings, out, resume=begun, console=console)
