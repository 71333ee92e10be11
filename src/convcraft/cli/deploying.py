"""Commands by which a network leaves the lab: export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from convcraft.cli.options import EXIT_CHECK_FAILED, ClassGroups, Debug, Json, Quiet, RunFolder, SliceColumns
from convcraft.cli.printing import print_gate, print_json, print_trade_off


def export(
    run: RunFolder,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", metavar="NAME[:PRECISION]", help="onnx, openvino:int8, ...; may be repeated."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Of formats that name none: float32, bfloat16, int8; each has its own.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the bundles; default RUN/bundles.")] = None,
    as_folder: Annotated[bool, typer.Option("--as-folder", help="A folder for each bundle instead of a zip.")] = False,
    probes: Annotated[
        str, typer.Option(help="made: drawings; data: images of the run's own, which then travel with the bundle.")
    ] = "made",
    pixels_in: Annotated[
        bool, typer.Option("--pixels-in", help="The network takes uint8 pixels and normalises by itself.")
    ] = False,
    slice_column: SliceColumns = None,
    class_group: ClassGroups = None,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make bundles of a run: the network with its preprocessing, classes, calibration and proof, for `predict`.

    Examples: convcraft export runs/photos
    convcraft export runs/photos --format onnx --format openvino:int8
    convcraft export runs/photos --format onnx:int8 --slice-column camera --class-group insects=ants,bees
    """
    from convcraft.workflows.console import make_console
    from convcraft.workflows.evaluate_options import Asked, class_groups_of
    from convcraft.workflows.export import export as run_export
    from convcraft.workflows.export import parse_variants

    console = make_console(quiet)
    variants = parse_variants(formats or ["onnx"], precision)
    asked = Asked(slice_columns=tuple(slice_column or ()), class_groups=class_groups_of(class_group or ()))
    result = run_export(
        run,
        variants,
        out=out,
        as_zip=not as_folder,
        probes=probes,
        normalises=pixels_in,
        asked=asked,
        console=console,
    )
    for exported in result.exported:
        parity = exported.parity
        print(f"bundle       {exported.path}  ({exported.bundle_bytes / 1e6:.2f} MB)")
        print(
            f"against run  logits differ by {parity.relative_difference:.2g} of their range at most, "
            f"{parity.agreement:.2%} of answers agree ({parity.images})"
        )
        if exported.kept:
            print(f"given back   {len(exported.kept)} sensitive layers compute in float32: {', '.join(exported.kept)}")
        if exported.gate is not None:
            print_gate(exported.gate)
    if result.trade_off is not None:
        print_trade_off(result.trade_off)
        print(f"next         convcraft report {run}  (draws them beside each other)")
    for note in result.notes:
        console.print(note, highlight=False, markup=False)
    for problem in result.problems:
        print(problem, file=sys.stderr)
    if json_:
        print_json(result.to_dict())
    if result.problems:
        raise typer.Exit(EXIT_CHECK_FAILED)
