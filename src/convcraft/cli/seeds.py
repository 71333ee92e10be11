"""`convcraft seeds`: the five articles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convcraft.cli.options import DataDir, Debug, Device, Json, Quiet
from convcraft.cli.printing import print_json

seeds_app = typer.Typer(help="The five articles' systems: as written, with what is wrong in them, and repaired.")


@seeds_app.command("list")
def seeds_list(json_: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """What each article builds and claims, how many defects it has as written, and what its repair was measured at."""
    from convcraft.workflows.seeds.show import list_lines, list_seeds

    rows = list_seeds()
    print("\n".join(list_lines(rows)))
    if json_:
        print_json({"seeds": rows})


@seeds_app.command("run")
def seeds_run(
    seed_id: Annotated[str, typer.Argument(metavar="ID", help="000, 001, 002, 003 or 004.")],
    seeds: Annotated[int, typer.Option(min=1, help="Trainings with different seeds.")] = 3,
    epochs: Annotated[int | None, typer.Option(help="Passes over the train images, instead of the recipe's.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed, one epoch, few images: shows that it works.")
    ] = False,
    weights: Annotated[
        Path | None, typer.Option(help="000 and 003: ImageNet weights (.safetensors); 004: a Keras file to judge.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where run folders, pictures and listings go.")] = Path("runs/seeds"),
    data_dir: DataDir = None,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run an article's system: what fails as written and why, then the repaired one beside the article's claim.

    What is finished in --out is not done again. Examples: convcraft seeds run 002
    convcraft seeds run 001 --quick
    """
    from convcraft.workflows.console import make_console
    from convcraft.workflows.seeds.options import RunOptions
    from convcraft.workflows.seeds.run import examine_seed, repair_seed
    from convcraft.workflows.seeds.show import examination_lines, repair_lines

    options = RunOptions(out, seeds, epochs, quick, data_dir, weights, None if device == "auto" else device)
    examined = examine_seed(seed_id)
    print("\n".join(examination_lines(examined)), flush=True)
    repair = repair_seed(seed_id, options, make_console(quiet))
    print("\n".join(repair_lines(repair)))
    if json_:
        print_json({"seed": seed_id, "as_written": examined.to_dict(), "repaired": repair.to_dict()})
