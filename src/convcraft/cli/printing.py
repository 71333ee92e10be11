"""What more than one command prints: figures to standard output, tables to standard error."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console


def print_profile(profile: dict[str, Any], quiet: bool) -> None:
    """Where the time of a run went, on standard error."""
    from rich.table import Table

    from convcraft.training.profile import PARTS

    table = Table("part", "seconds", "share", "what it is")
    for part, percent in profile["percent"].items():
        table.add_row(part, f"{profile['seconds'][part]:.2f}", f"{percent:.1f} %", PARTS[part])
    table.add_row("all", f"{profile['total_seconds']:.2f}", "100.0 %", "the loop, without start and report")
    console = Console(stderr=True, quiet=quiet)
    console.print(table)
    console.print(profile["hint"], highlight=False, markup=False)


def print_answer(answer: Any, top: int) -> None:
    """One line per picture: name, classes, and why not to rely on it."""
    shown = ", ".join(f"{name} {share:.1%}" for name, share in answer.ranking[:top])
    warning = "" if answer.explanation is None else f"\t{answer.explanation}"
    print(f"{answer.image}\t{shown or 'not readable: ' + str(answer.problem)}{warning}", flush=True)


def print_gate(gate: Any) -> None:
    """What the gate says; then each declared group."""
    for sentence in gate.sentences:
        print(f"gate         {sentence}")
    for part in gate.groups:
        right = f"{part.correct_before:,} right before, {part.correct_after:,} after"
        print(f"gate         {part.name}: {part.verdict}; of {part.num_images:,} images {right}")


def print_trade_off(trade_off: Any) -> None:
    """One line per variant; "best" stands before those that no other beats."""
    width = max(len(variant.name) for variant in trade_off.variants)
    for variant, on_front in zip(trade_off.variants, trade_off.front, strict=True):
        worse = f"  worse in {', '.join(variant.worse)}" if variant.worse else ""
        right = f"{variant.accuracy:.2%} right  {variant.agreement:.2%} as trained{worse}"
        print(
            f"{'best' if on_front else '':<5} {variant.name:<{width}} {variant.milliseconds:8.2f} ms  "
            f"{variant.size_bytes / 1e6:8.2f} MB  {right}"
        )


def print_report(report: Any, measured_on: str) -> None:
    low, high = report.interval
    print(
        f"accuracy     {report.accuracy:.2%}  (95 % interval {low:.2%} to {high:.2%}; "
        f"{report.num_correct} of {measured_on})"
    )


def print_trained(result: Any, as_json: bool, profile: bool) -> None:
    """What a training came to: figures of validation, times, what to do next."""
    if result.report is not None:
        print_report(result.report, f"{result.report.num_images} validation images")
    print(f"trained in   {result.train_seconds:.1f} s, whole command {result.seconds:.1f} s")
    print(f"run          {result.run}")
    print(f"next         convcraft evaluate {result.run}")
    if as_json:
        figures = {} if result.report is None else result.report.to_dict()
        print_json(
            {
                "accuracy": None,
                "interval": None,
                "per_class": None,
                **figures,
                "run": str(result.run),
                "seconds": result.seconds,
                "train_seconds": result.train_seconds,
                "weights_sha256": result.summary["weights_sha256"],
                **({"profile": result.summary["profile"]} if profile else {}),
            }
        )


def print_classes(report: Any, quiet: bool) -> None:
    """The per-class table, on standard error."""
    from rich.table import Table

    table = Table("class", "precision", "recall", "F1", "images")
    for entry in report.per_class:
        table.add_row(
            entry.name, f"{entry.precision:.2%}", f"{entry.recall:.2%}", f"{entry.f1:.2%}", f"{entry.support:,}"
        )
    Console(stderr=True, quiet=quiet).print(table)


def print_summary(config: Any, quiet: bool, as_json: bool) -> None:
    """`train --summary`."""
    from convcraft.workflows.console import make_console
    from convcraft.workflows.summary import print_summary, summarise_network

    described = summarise_network(config, console=make_console(quiet))
    print_summary(described)
    if as_json:
        print_json(described.to_dict())


def print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False))
