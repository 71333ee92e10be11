"""Options that commands share, and the exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convcraft.errors import UserError

EXIT_CHECK_FAILED, EXIT_BAD_INPUT, EXIT_STOPPED, EXIT_INTERRUPTED = 1, 2, 75, 130

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no messages; errors and results only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same machine: same result.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
DataDir = Annotated[str | None, typer.Option(help="Where named sets (mnist, cifar10) are looked for first.")]
ImageColumn = Annotated[str | None, typer.Option(help="CSV/Parquet: the column of paths or bytes.")]
LabelColumn = Annotated[str | None, typer.Option(help="CSV/Parquet: the column of labels.")]
TestSplit = Annotated[str | None, typer.Option(help="The split of DATA that serves as test, e.g. val.")]
SliceColumns = Annotated[
    list[str] | None,
    typer.Option("--slice-column", help="Judge by a column of the CSV/Parquet table, e.g. camera; may be repeated."),
]
ClassGroups = Annotated[
    list[str] | None,
    typer.Option("--class-group", metavar="NAME=A,B", help="Judge a group of classes; may be repeated."),
]
LabelsPerClass = Annotated[int | None, typer.Option(help="Use only so many labelled train images per class.")]
DropLeaks = Annotated[bool, typer.Option("--drop-leaks", help="Remove train images with a near copy in val or test.")]
AllowBad = Annotated[bool, typer.Option("--allow-bad", help="Go on although over 1 % of the files are bad.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any setting, e.g. --set optim.name=sgd")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `convcraft train` made.")]
RunOrBundle = Annotated[
    Path,
    typer.Argument(metavar="RUN|BUNDLE", help="A folder that `convcraft train` made, or what `export` made of it."),
]
NativeCode = Annotated[
    bool, typer.Option("--allow-native-code", help="Run machine code of a bundle whose maker you trust.")
]


def no_data(expected: str) -> UserError:
    return UserError(
        "no DATA", expected, "Name a folder, a file, hub:OWNER/NAME, or a set such as digits, mnist, cifar10."
    )
