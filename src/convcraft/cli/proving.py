"""Commands that hold figures against what they were made from, and runs against each other: verify, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convcraft.cli.options import (
    EXIT_CHECK_FAILED,
    DataDir,
    Debug,
    Device,
    Json,
    NativeCode,
    Quiet,
    RunOrBundle,
    Seed,
)
from convcraft.cli.printing import print_json


def verify(
    run: RunOrBundle,
    no_data: Annotated[
        bool, typer.Option("--no-data", help="Take the saved predictions as they are; quick, and needs no images.")
    ] = False,
    all_: Annotated[
        bool, typer.Option("--all", help="Measure robustness and predict views again as well; slow.")
    ] = False,
    native_code: NativeCode = False,
    data_dir: DataDir = None,
    seed: Seed = None,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compute a run's published figures again, or send a bundle's probes through; one changed byte is found.

    Ends with 1 where anything does not hold. Examples: convcraft verify runs/mnist
    convcraft verify runs/mnist/bundles/mnist-onnx-float32.zip
    """
    from convcraft.deploy.bundle import is_bundle

    if is_bundle(run):
        from convcraft.workflows.bundle_options import refuse_options_of_runs, refuse_other_devices
        from convcraft.workflows.verify_bundle import verify_bundle

        refuse_other_devices(device)
        of_runs = {"--no-data": no_data, "--all": all_, "--data-dir": data_dir is not None}
        refuse_options_of_runs(of_runs, "Leave it out: a bundle is checked by its own probes, all of them.")
        result = verify_bundle(run, allow_native_code=native_code)
    else:
        from convcraft.workflows.console import make_console
        from convcraft.workflows.verify import verify as run_verify

        console = make_console(quiet)
        result = run_verify(
            run, data_dir=data_dir, device=device, with_data=not no_data, everything=all_, console=console
        )
    for check in result.checks:
        print(f"{check.outcome:<8} {check.what:<20} {check.detail}")
    if result.passed and result.kind == "bundle":
        print(f"verified     {run}: it is what was exported, and answers here as its source did")
    elif result.complete:
        print(f"verified     {run}: every published figure is what its weights, data and code give")
    elif result.passed:
        print(f"verified     {run}, as far as could be checked here: see what was skipped")
    else:
        print(f"not verified {run}")
    if json_:
        print_json(result.to_dict())
    if not result.passed:
        raise typer.Exit(EXIT_CHECK_FAILED)


def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="A run that was evaluated.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="Another, evaluated on the same images.")],
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Say whether one run is better than another, image by image, on the test images that both were judged on.

    Example: convcraft compare runs/small runs/large
    """
    from convcraft.workflows.compare import compare as run_compare

    result = run_compare(first, second)
    agreement = result.agreement
    for reason in result.void:
        print(f"void         {reason}")
    for label, accuracy, (low, high) in zip(agreement.labels, agreement.accuracies, agreement.intervals, strict=True):
        print(f"accuracy     {accuracy:.2%}  (95 % interval {low:.2%} to {high:.2%})  {label}")
    low, high = agreement.difference_interval
    print(
        f"difference   {100 * agreement.difference:+.2f} points  (95 % interval {100 * low:+.2f} to {100 * high:+.2f})"
    )
    print(f"images       {agreement.num_images:,} of {result.data}")
    print(agreement.verdict)
    if json_:
        print_json(result.to_dict())
