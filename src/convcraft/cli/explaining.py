"""The command that shows what an answer rests on: explain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convcraft.cli.options import Debug, Device, Json, Quiet, RunFolder, Seed
from convcraft.cli.printing import print_json


def explain(
    run: RunFolder,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Files, folders, or - for standard input.")],
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="grad-cam (default) or another of the table in docs/explain.md, or all."),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="For methods that read a layer; default the last with a map.")
    ] = None,
    class_: Annotated[str | None, typer.Option("--class", help="The class to explain; default the answer.")] = None,
    out: Annotated[Path | None, typer.Option(help="A .html page or a .png; default RUN/explanation.html.")] = None,
    neighbours: Annotated[int, typer.Option(min=0, help="How many nearest training images the page shows.")] = 5,
    no_check: Annotated[bool, typer.Option("--no-check", help="Do not test the methods on this network.")] = False,
    seed: Seed = None,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show what an answer rests on: heat maps, near training images, and whether the maps may be believed.

    Each method is checked on this very network; one that fails is shown with a warning. Examples:
    convcraft explain runs/mnist digit.png
    convcraft explain runs/fine photos/ --method all --out why.html
    """
    from convcraft.workflows.console import make_console
    from convcraft.workflows.explain import DEFAULT_METHOD
    from convcraft.workflows.explain import explain as run_explain

    result = run_explain(
        run,
        images,
        methods=method or (DEFAULT_METHOD,),
        layer=layer,
        class_name=class_,
        out=out,
        num_neighbours=neighbours,
        check=not no_check,
        device=device,
        seed=seed or 0,
        console=make_console(quiet),
    )
    for each in result.explanations:
        place = "pixels" if each.layer is None else each.layer
        mark = "" if each.trusted is None else "\ttrusted" if each.trusted else "\tnot trusted"
        print(f"{each.image}\t{each.class_name} {each.probability:.1%}\t{each.method} ({place}){mark}")
    print(f"page         {result.page}")
    if json_:
        print_json(result.to_dict())
