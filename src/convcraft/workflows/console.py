"""Standard error as people see it: messages, and a bar for long work on data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from convcraft.data.sample import Progress as ProgressCall


def make_console(quiet: bool = False) -> Console:
    """Where progress, tables and warnings go; standard output stays for results."""
    return Console(stderr=True, quiet=quiet)


@contextmanager
def data_progress(console: Console) -> Iterator[ProgressCall]:
    """A bar per piece of work (downloading, checking, decoding), each with the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"))
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        tasks: dict[str, TaskID] = {}

        def show(done: int, total: int, what: str) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total or None)
            bar.update(tasks[what], completed=done, total=total or None)

        yield show
