"""`convcraft scratch`: networks in NumPy alone, to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convcraft.cli.options import (
    EXIT_CHECK_FAILED,
    DataDir,
    Debug,
    Json,
    LabelsPerClass,
    Quiet,
    Seed,
    Set,
    TestSplit,
    no_data,
)
from convcraft.cli.printing import print_json, print_profile, print_trained
from convcraft.errors import UserError

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


@scratch_app.command("train")
def scratch_train(
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="A folder, CSV, Parquet or IDX files, hub:OWNER/NAME, or a named set."),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="See `convcraft recipes`; default scratch-lenet5.")] = None,
    config: Annotated[Path | None, typer.Option(help="A config.yaml, such as another run's.")] = None,
    model: Annotated[
        str | None, typer.Option(help="lenet5, seed_cnn, keras_cnn, resnet20_cifar, alexnet, vgg11, resnet18 ...")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="A .safetensors file with starting weights.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/NAME, NAME-2 ...")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out where it was stopped.")] = False,
    epochs: Annotated[int | None, typer.Option(help="Passes over the train images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per forward pass.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Height and width in pixels that images are brought to.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Chunks of images worked on at a time; default: all cores.")
    ] = None,
    test_split: TestSplit = None,
    labels_per_class: LabelsPerClass = None,
    profile: Annotated[bool, typer.Option("--profile", help="Say at the end where the time went.")] = False,
    data_dir: DataDir = None,
    set_: Set = None,
    seed: Seed = None,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a network in NumPy; the run folder is that of `convcraft train`, and evaluate, predict and report take it.

    Settings that the NumPy engine does not have are refused. Examples: convcraft scratch train mnist --out runs/scratch
    convcraft scratch train digits --model seed_cnn --epochs 5
    """
    from convcraft.workflows.choose_config import choose_config, new_run_folder
    from convcraft.workflows.console import make_console
    from convcraft.workflows.scratch.train import DEFAULT_RECIPE, train_in_numpy

    if data is None and recipe is None and config is None and not resume:
        raise no_data("what to train on")
    if resume and out is None:
        raise UserError("--resume without --out", "the folder of the run to go on with", "Add --out RUN.")
    if data is not None and recipe is None and config is None:
        recipe = DEFAULT_RECIPE
    chosen = choose_config(
        data,
        recipe,
        config,
        data_settings={"data_dir": data_dir, "test_split": test_split, "labels_per_class": labels_per_class},
        preprocess_settings={"image_size": None if image_size is None else (image_size, image_size)},
        model_settings={"name": model, "weights": weights},
        optim_settings={"learning_rate": learning_rate},
        training_settings={
            "epochs": epochs,
            "batch_size": batch_size,
            "seed": seed,
            "engine": None if data is None and recipe is None and config is None else "numpy",
        },
        assignments=set_ or (),
    )
    run = out or new_run_folder(chosen)
    result = train_in_numpy(chosen, run, resume=resume, profile=profile, threads=threads, console=make_console(quiet))
    if profile:
        print_profile(result.summary["profile"], quiet)
    print_trained(result, json_, profile)


@scratch_app.command("trace")
def scratch_trace(
    out: Annotated[Path, typer.Option(help="The picture, a PNG file.")] = Path("optimizers.png"),
    steps: Annotated[int, typer.Option(min=1, help="Steps of each optimiser to print in numbers.")] = 3,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Six optimisers step by step on two losses of two weights: a picture, and the first steps in numbers.

    Every number of each formula is printed, so that a step can be computed again by hand. Nothing is trained.
    Example: convcraft scratch trace --steps 5 --out optimizers.png
    """
    from convcraft.workflows.scratch.trace import draw, table_lines, trace_all

    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}", "a file that ends in .png", "Name it optimizers.png, for example.")
    traces = trace_all()
    draw(traces, out)
    if not quiet:
        print("\n".join(table_lines(traces, steps)))
    print(f"\npicture      {out}")
    if json_:
        print_json({"picture": str(out), "traces": [each.to_dict(steps) for each in traces]})
