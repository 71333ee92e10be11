"""Commands beside the way of a run: convert, recipes, bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convcraft.cli.options import Debug, Json, Quiet
from convcraft.cli.printing import print_json


def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=".pt, .pth, .th, .bin, .ckpt, or a Keras file.")],
    out: Annotated[Path | None, typer.Option(help="The new file; default: the same name with .safetensors.")] = None,
    model: Annotated[str | None, typer.Option(help="Keras files: the network that they become, e.g. resnet50.")] = None,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Weights in another format -> a .safetensors file, which holds numbers and nothing that runs.

    Example: convcraft convert old.pth --out old.safetensors
    """
    from convcraft.config import ModelConfig
    from convcraft.workflows.convert import convert as run_convert

    result = run_convert(file, out, model=None if model is None else ModelConfig(name=model))
    print(result)
    if json_:
        print_json({"out": str(result.out), "tensors": result.num_tensors, "bytes": result.num_bytes})


def recipes(json_: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """List the recipes: complete configurations, each with its measured result in its header."""
    from convcraft.recipes.catalogue import describe_recipe, recipe_names

    names = recipe_names()
    for name in names:
        print(f"{name:<14} {describe_recipe(name)}")
    if json_:
        print_json({"recipes": {name: describe_recipe(name) for name in names}})


def bench(
    name: Annotated[str | None, typer.Argument(help="A script of benchmarks/, without .py; none lists them.")] = None,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure a claim again: run a script of the source tree's benchmarks/ folder.

    Example: convcraft bench mnist
    """
    from convcraft.workflows.bench import list_benchmarks, run_benchmark

    if name is None:
        names = list_benchmarks()
        print("\n".join(names))
        if json_:
            print_json({"benchmarks": names})
        return
    raise typer.Exit(run_benchmark(name))
