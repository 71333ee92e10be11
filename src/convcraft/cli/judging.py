"""Commands that look at data and at finished runs: evaluate, predict, doctor, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convcraft.cli.options import (
    EXIT_BAD_INPUT,
    EXIT_CHECK_FAILED,
    EXIT_INTERRUPTED,
    ClassGroups,
    DataDir,
    Debug,
    Device,
    ImageColumn,
    Json,
    LabelColumn,
    NativeCode,
    Quiet,
    RunFolder,
    RunOrBundle,
    Seed,
    SliceColumns,
    TestSplit,
    no_data,
)
from convcraft.cli.printing import print_answer, print_classes, print_json, print_report
from convcraft.errors import UserError

if TYPE_CHECKING:
    from convcraft.workflows.evaluate import EvaluateResult
    from convcraft.workflows.evaluate_bundle import BundleEvaluation


def evaluate(
    run: RunOrBundle,
    data: Annotated[str | None, typer.Argument(metavar="DATA", help="Other labelled data than the run's own.")] = None,
    test_split: Annotated[str | None, typer.Option(help="Which split of DATA to judge on.")] = None,
    data_dir: DataDir = None,
    slices: Annotated[
        bool, typer.Option("--slices", help="Judge by size, brightness, contrast, blur and colour of the images.")
    ] = False,
    slice_column: SliceColumns = None,
    class_group: ClassGroups = None,
    fail_under: Annotated[
        float | None, typer.Option(help="End with 1 if all images or any slice are less accurate (0..1).")
    ] = None,
    fail_gap: Annotated[
        float | None, typer.Option(help="End with 1 if any slice falls short of the rest by more (0..1).")
    ] = None,
    judged_on: Annotated[
        str, typer.Option(help="What the gate looks at: estimate, pessimistic or optimistic.")
    ] = "estimate",
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Corrupt, turn, shift, zoom, mirror and attack some of the images.")
    ] = False,
    robustness_images: Annotated[int, typer.Option(help="How many, a stratified sample.")] = 500,
    tta: Annotated[bool, typer.Option("--tta", help="Also the mean over mirrored and shifted images.")] = False,
    with_: Annotated[
        list[Path] | None, typer.Option("--with", metavar="RUN", help="Also the mean with this run; may be repeated.")
    ] = None,
    native_code: NativeCode = False,
    seed: Seed = None,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Judge a run on test images that training never saw, and draw its report; or a bundle on labelled images.

    Ends with 1 where a gate is not passed. Examples: convcraft evaluate runs/mnist
    convcraft evaluate runs/photos --slice-column camera --fail-under 0.9 --fail-gap 0.1
    convcraft evaluate runs/mnist --robustness
    convcraft evaluate photos-onnx-float32.zip new-photos/ --fail-under 0.9
    """
    from convcraft.deploy.bundle import is_bundle
    from convcraft.workflows.console import make_console
    from convcraft.workflows.evaluate_options import Asked, class_groups_of, gate_of

    asked = Asked(
        image_facts=slices,
        slice_columns=tuple(slice_column or ()),
        class_groups=class_groups_of(class_group or ()),
        gate=gate_of(fail_under, fail_gap, judged_on),
        robustness_images=robustness_images if robustness else None,
        views=tta,
        members=tuple(with_ or ()),
    )
    console = make_console(quiet)
    result: EvaluateResult | BundleEvaluation
    if is_bundle(run):
        from convcraft.workflows.bundle_options import refuse_other_devices
        from convcraft.workflows.evaluate_bundle import evaluate_bundle

        refuse_other_devices(device)
        result = evaluate_bundle(
            run,
            data,
            test_split=test_split,
            data_dir=data_dir,
            asked=asked,
            allow_native_code=native_code,
            console=console,
        )
    else:
        from convcraft.workflows.evaluate import evaluate as run_evaluate

        result = run_evaluate(
            run, data, test_split=test_split, data_dir=data_dir, device=device, asked=asked, console=console
        )
    print_report(result.report, f"{result.report.num_images} test images of {result.data}")
    print_classes(result.report, quiet)
    for what, sentence in result.lines:
        print(f"{what:<12} {sentence}")
    if json_:
        print_json(result.to_dict())
    if result.more.gate is not None and not result.more.gate.passed:
        raise typer.Exit(EXIT_CHECK_FAILED)


def predict(
    run: RunOrBundle,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...", help="Files, folders, videos, camera:0 (Linux only), or - for standard input."
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="How many classes to show for each image.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Also write the answers: .csv, .json or .parquet.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Of a video, each so many-th frame.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Of a bundle; default: measured where it pays.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Pictures at once; default: of a bundle measured where it pays.")
    ] = None,
    native_code: NativeCode = False,
    seed: Seed = None,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Name what pictures show, and say where the answer should not be relied on.

    Examples: convcraft predict runs/mnist digit.png
    cat digit.png | convcraft predict runs/mnist - --json
    convcraft predict photos-onnx-float32.zip photos/ --out answers.csv
    """
    import time

    from convcraft.evaluation.answers import UNCALIBRATED
    from convcraft.workflows.console import make_console
    from convcraft.workflows.predict import Answered, How, predict_each
    from convcraft.workflows.save_answers import refuse_other_endings, save_answers

    if out is not None:
        refuse_other_endings(out)
    console = make_console(quiet)
    how = How(device=device, threads=threads, batch_size=batch_size, allow_native_code=native_code, every=every)
    each = predict_each(run, images, how)
    answered = Answered(keep=json_ or out is not None, top=top)
    started, stopped, late = time.monotonic(), False, None
    try:
        for answer in each:
            answered.add(answer)
            if not json_:
                print_answer(answer, top)
    except KeyboardInterrupt:  # how a camera ends; what was answered is kept
        stopped = True
    except UserError as error:  # damage on the way; what was answered is kept, and then the error is told
        if not answered.count:
            raise
        late = error
    seconds = time.monotonic() - started
    if late is None:
        answered.refuse_unreadable()
    if out is not None:
        save_answers(out, answered.kept, top)
    if json_:
        told = [answer.to_dict(top) for answer in answered.kept]
        print_json({"run": str(run), "calibrated": answered.calibrated, "predictions": told, "seconds": seconds})
    if answered.count > 1:
        pace = f"{answered.count:,} pictures in {seconds:.2f} s: {answered.count / seconds:.1f} per second"
        console.print(pace, highlight=False, markup=False)
    if answered.count and not answered.calibrated:
        console.print(UNCALIBRATED, highlight=False, markup=False)
    if late is not None:
        raise late
    if answered.unreadable:
        raise typer.Exit(EXIT_BAD_INPUT)
    if stopped:
        raise typer.Exit(EXIT_INTERRUPTED)


def doctor(
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="As for train: a folder, table, IDX files or a named set.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="The recipe whose settings are examined; as for train.")] = None,
    config: Annotated[Path | None, typer.Option(help="A config.yaml, such as another run's.")] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Draw what the random changes make of eight train images.")
    ] = False,
    preview_all: Annotated[
        bool, typer.Option("--preview-all", help="The same, with the changes that are off as well.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="The picture; default doctor-preview.png.")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Look for wrong labels, shifted splits and hidden copies as well.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="--full: the pretrained network that looks; as for finetune.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="--full: its weights; as for finetune.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write the findings with pictures as one HTML file.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Height and width in pixels, as for train.")] = None,
    test_split: TestSplit = None,
    data_dir: DataDir = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Any setting, as for train.")] = None,
    seed: Seed = None,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Examine data and settings before training: bad files, copies, leaks, imbalance, harmful random changes.

    Ends with 1 where an error was found. Examples: convcraft doctor photos/
    convcraft doctor photos/ --full --page doctor.html
    convcraft doctor mnist --preview
    """
    from convcraft.workflows.choose_config import choose_config
    from convcraft.workflows.console import make_console
    from convcraft.workflows.doctor import doctor as run_doctor

    if data is None and recipe is None and config is None:
        raise no_data("what to examine")
    draws = preview or preview_all
    if out is not None and not draws:
        raise UserError("--out without --preview", "a picture to write there", "Add --preview, or leave out --out.")
    chosen = choose_config(
        data,
        recipe,
        config,
        data_settings={
            "data_dir": data_dir,
            "image_column": image_column,
            "label_column": label_column,
            "test_split": test_split,
        },
        preprocess_settings={"image_size": None if image_size is None else (image_size, image_size)},
        model_settings={},
        optim_settings={},
        training_settings={"seed": seed},
        assignments=set_ or (),
    )
    sheet = (out or Path("doctor-preview.png")) if draws else None
    diagnosis = run_doctor(
        chosen,
        preview=sheet,
        every_kind=preview_all,
        full=full,
        weights=weights,
        model=model,
        page=page,
        console=make_console(quiet),
    )
    for finding in diagnosis.findings:
        print(f"{finding.severity:<8} {finding.kind:<15} {finding.message} {finding.fix}")
    counts = ", ".join(f"{diagnosis.count(severity)} {severity}" for severity in ("error", "warning", "info"))
    for note in diagnosis.notes:
        print(note)
    print(f"{diagnosis.data}: {counts}")
    if page is not None:
        print(f"page         {page}")
    if sheet is not None:
        print(f"preview      {sheet}")
    if json_:
        print_json(
            {
                "findings": [finding.as_dict() for finding in diagnosis.findings],
                "data": diagnosis.data,
                "preview": None if sheet is None else str(sheet),
                "page": None if page is None else str(page),
                "notes": list(diagnosis.notes),
                "seconds": diagnosis.seconds,
            }
        )
    if diagnosis.has_error:
        raise typer.Exit(EXIT_CHECK_FAILED)


def report(run: RunFolder, json_: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """Draw a run's report again, from its log, its data and its last evaluation.

    Example: convcraft report runs/mnist
    """
    from convcraft.workflows.console import make_console
    from convcraft.workflows.report import redraw

    path = redraw(run, console=make_console(quiet))
    print(f"report       {path}")
    if json_:
        print_json({"run": str(run), "report": str(path)})
