"""`convcraft scratch`: networks in NumPy alone, to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convcraft.cli.options import EXIT_CHECK_FAILED, Debug, Json, Quiet
from convcraft.cli.printing import print_json

scratch_app = typer.Typer(help="Networks in NumPy alone, to learn from: check a layer of your own, train, trace.")


@scratch_app.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A Python file with your layers; it is run. None: the engine.")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Only the class of this name.")] = None,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Is a backward right? Compare it with central differences, and with torch where torch has the layer.

    Looks at every Module, Loss and Optimizer that the file defines; says which number is wrong and what the mistake
    looks like. Ends with 1 where one is wrong. Example: convcraft scratch check examples/my_layer.py
    """
    from convcraft.workflows.scratch_check import check_file

    checked = check_file(file, layer)
    for each in checked:
        if not (quiet and each.passed):
            print(f"{each.name}: {'right' if each.passed else 'WRONG'}")
            print("\n".join(f"  {line}" for line in each.lines()))
    wrong = [each.name for each in checked if not each.passed]
    print(f"{len(checked) - len(wrong)} of {len(checked)} right" + (f"; wrong: {', '.join(wrong)}" if wrong else ""))
    if json_:
        print_json({"passed": not wrong, "checked": [{"name": each.name, **each.to_dict()} for each in checked]})
    if wrong:
        raise typer.Exit(EXIT_CHECK_FAILED)
