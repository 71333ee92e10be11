"""Commands that make a network: demo, train, finetune."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from convcraft.cli.options import (
    EXIT_CHECK_FAILED,
    AllowBad,
    DataDir,
    Debug,
    Device,
    DropLeaks,
    ImageColumn,
    Json,
    LabelColumn,
    LabelsPerClass,
    Quiet,
    Seed,
    Set,
    TestSplit,
    no_data,
)
from convcraft.cli.printing import print_json, print_profile, print_report, print_summary, print_trained
from convcraft.errors import UserError


def demo(
    out: Annotated[Path | None, typer.Option(help="Folder for the run; default convcraft-demo, -2 ...")] = None,
    seed: Seed = None,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The whole story in about a minute: learn real digits, judge, read a picture, fine-tune another network.

    Needs no network and no data. Example: convcraft demo
    """
    from convcraft.workflows.choose_config import first_free
    from convcraft.workflows.console import make_console
    from convcraft.workflows.demo import demo as run_demo

    out = out or first_free(Path("convcraft-demo"))
    result = run_demo(out, seed=seed or 0, device=device, console=make_console(quiet))
    report, prediction = result.evaluated.report, result.prediction
    label, probability = prediction.ranking[0]
    print_report(report, f"{report.num_images} test digits that training never saw")
    print(f"picture      {result.picture}: {label} ({probability:.1%} sure; it is a {result.true_label})")
    print(f"report       {result.evaluated.report_file}")
    print(f"trained in   {result.trained.train_seconds:.1f} s")
    few = result.finetuned_evaluated
    print("\nFine-tuned from MNIST, 10 labels per class:")
    print_report(few.report, f"{few.report.num_images} test digits")
    print(f"before/after {few.proof.verdict if few.proof is not None else ''}")
    print(f"report       {few.report_file}")
    print("\nNext:")
    print(f"  open {result.evaluated.report_file} in a browser")
    print(f"  convcraft predict {out} YOUR_PICTURE.png")
    print("  convcraft train PHOTO_FOLDER --out runs/first     (one sub-folder per class)")
    print("  convcraft finetune PHOTO_FOLDER --model resnet18 --budget 10m --out runs/fine")
    if json_:
        print_json(
            {
                **report.to_dict(),
                "run": str(out),
                "seconds": result.trained.seconds + result.evaluated.seconds,
                "train_seconds": result.trained.train_seconds,
                "report": str(result.evaluated.report_file),
                "picture": str(result.picture),
                "predictions": [prediction.to_dict(top=3)],
                "finetuned": {
                    "accuracy": few.report.accuracy,
                    "interval": list(few.report.interval),
                    "seconds": result.finetuned.seconds,
                    "run": str(result.finetuned.run),
                },
            }
        )


def train(
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="A folder, CSV, Parquet or IDX files, hub:OWNER/NAME, or a named set."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A complete, measured configuration; see `convcraft recipes`.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A config.yaml, such as another run's.")] = None,
    model: Annotated[
        str | None, typer.Option(help="lenet5, seed_cnn, vgg_small, resnet20_cifar ... or any timm name.")
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
    test_split: TestSplit = None,
    labels_per_class: LabelsPerClass = None,
    drop_leaks: DropLeaks = False,
    allow_bad: AllowBad = False,
    final: Annotated[
        bool, typer.Option("--final", help="Train on train and val together; the last weights count.")
    ] = False,
    lr_range: Annotated[
        bool, typer.Option("--lr-range", help="Try learning rates in a short sweep, draw the curve; do not train.")
    ] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Say at the end where the time went.")] = False,
    summary: Annotated[
        bool, typer.Option("--summary", help="Show the network's layers, parameters and multiply-adds; do not train.")
    ] = False,
    data_dir: DataDir = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a network on labelled images.

    Examples: convcraft train mnist --out runs/mnist
    convcraft train photos/ --model resnet18 --image-size 128 --out runs/photos
    convcraft train --out runs/mnist --resume
    """
    from convcraft.workflows.choose_config import choose_config, new_run_folder
    from convcraft.workflows.console import make_console
    from convcraft.workflows.train import train as run_train

    chosen = choose_config(
        data,
        recipe,
        config,
        data_settings={
            "data_dir": data_dir,
            "image_column": image_column,
            "label_column": label_column,
            "test_split": test_split,
            "labels_per_class": labels_per_class,
            "drop_leaks": drop_leaks or None,
            "allow_bad": allow_bad or None,
            "final": final or None,
        },
        preprocess_settings={"image_size": None if image_size is None else (image_size, image_size)},
        model_settings={"name": model, "weights": weights},
        optim_settings={"learning_rate": learning_rate},
        training_settings={
            "epochs": epochs,
            "batch_size": batch_size,
            "seed": seed,
            "device": None if device == "auto" else device,
            "select": "last" if final else None,
        },
        assignments=set_ or (),
    )
    if data is None and recipe is None and config is None and not resume:
        raise no_data("what to train on")
    if summary or lr_range:
        _refuse_beside("--summary" if summary else "--lr-range", resume, profile, summary and lr_range)
    if summary:
        print_summary(chosen, quiet, json_)
        return
    if lr_range:
        _find_learning_rate(chosen, out, quiet, json_)
        return
    if resume and out is None:
        raise UserError("--resume without --out", "the folder of the run to go on with", "Add --out RUN.")
    run = out or new_run_folder(chosen)
    result = run_train(chosen, run, resume=resume, profile=profile, console=make_console(quiet))
    if profile:
        print_profile(result.summary["profile"], quiet)
    print_trained(result, json_, profile)


def finetune(
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="A folder, CSV, Parquet or IDX files, or a named set.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A pretrained network: resnet18, mobilenetv2_100 ... (timm), mnist-resnet20.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Its weights: .safetensors, .pt, .pth, Keras; default: published ones."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="auto, probe, head, last, full, gradual, lp-ft, norm, bias or lora; default auto."),
    ] = None,
    budget: Annotated[str | None, typer.Option(help="auto: time for everything, such as 90s, 10m or 2h.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/NAME-finetuned, -2 ...")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out where it was stopped.")] = False,
    recipe: Annotated[str | None, typer.Option(help="Default finetune, or finetune-grey for grey networks.")] = None,
    config: Annotated[Path | None, typer.Option(help="A config.yaml, such as another run's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the train images, of methods that train.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per forward pass.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate, whatever the method; default: by method.")
    ] = None,
    test_split: TestSplit = None,
    labels_per_class: LabelsPerClass = None,
    drop_leaks: DropLeaks = False,
    allow_bad: AllowBad = False,
    data_dir: DataDir = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """From a pretrained network and labelled images to the best network for the time, with proof.

    Examples: convcraft finetune photos/ --budget 10m --out runs/photos
    convcraft finetune digits --model mnist-resnet20 --labels-per-class 10
    """
    from convcraft.workflows.choose_config import choose_finetune_config, new_run_folder, seconds_of
    from convcraft.workflows.console import make_console
    from convcraft.workflows.finetune import finetune as run_finetune

    if data is None and config is None and not resume:
        raise no_data("what to fine-tune on")
    if resume and out is None:
        raise UserError("--resume without --out", "the folder of the run to go on with", "Add --out RUN.")
    chosen = choose_finetune_config(
        data,
        recipe,
        config,
        data_settings={
            "data_dir": data_dir,
            "image_column": image_column,
            "label_column": label_column,
            "test_split": test_split,
            "labels_per_class": labels_per_class,
            "drop_leaks": drop_leaks or None,
            "allow_bad": allow_bad or None,
        },
        model_settings={"name": model, "weights": weights},
        optim_settings={"learning_rate": learning_rate},
        training_settings={
            "epochs": epochs,
            "batch_size": batch_size,
            "seed": seed,
            "device": None if device == "auto" else device,
        },
        finetune_settings={
            "method": method,
            "budget_seconds": None if budget is None else seconds_of(budget),
            "rate_by_method": None if learning_rate is None else False,
        },
        assignments=set_ or (),
    )
    run = out or new_run_folder(chosen, "-finetuned")
    result = run_finetune(chosen, run, resume=resume, console=make_console(quiet))
    if result.report is not None:
        print_report(result.report, f"{result.report.num_images} {result.judged_on}")
    print(f"chosen       {result.chosen}")
    if result.proof is not None:
        print(f"before/after {result.proof.verdict}")
    print(f"frozen part  {'proven frozen' if result.freeze_passed else 'CHANGED: see the report'}")
    print(f"took         {result.seconds:.1f} s")
    print(f"run          {run}")
    print(f"next         convcraft evaluate {run}")
    if json_:
        print_json(result.to_dict())
    if not result.freeze_passed:
        raise typer.Exit(EXIT_CHECK_FAILED)


def _refuse_beside(option: str, resume: bool, profile: bool, more: object) -> None:
    """--summary and --lr-range start no run and continue none."""
    if resume or profile or more:
        fix = "Leave the other out; --config RUN/config.yaml takes the settings of a run."
        raise UserError(f"{option} beside an option for training", f"{option} with data and settings alone", fix)


def _find_learning_rate(config: Any, out: Path | None, quiet: bool, as_json: bool) -> None:
    """`train --lr-range`: the sweep, the figure and what it suggests."""
    from convcraft.workflows.choose_config import first_free
    from convcraft.workflows.console import make_console
    from convcraft.workflows.lr_range import find_learning_rate

    out = out or first_free(Path("runs", f"{Path(config.data.source).stem or 'run'}-lr-range"))
    result = find_learning_rate(config, out, console=make_console(quiet))
    curve = result.curve
    print(f"minimum / 10   {curve.suggestion:.2g}  (the loss was least at {curve.minimum:.2g}; good for a peak rate)")
    print(f"steepest fall  {curve.steepest:.2g}  (where the loss fell fastest)")
    if not curve.fell:
        print("The loss hardly fell at any rate, so neither figure means much.", file=sys.stderr)
    print(f"curve          {result.figure}")
    print(f"next           convcraft train ... --learning-rate {curve.suggestion:.1g}")
    if as_json:
        files = {"figure": str(result.figure), "values": str(result.values)}
        print_json({"lr_range": {**curve.to_dict(), **files}})
