"""The command that makes a smaller run of a run: compress."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from convcraft.cli.options import (
    EXIT_CHECK_FAILED,
    ClassGroups,
    DataDir,
    Debug,
    Device,
    Json,
    Quiet,
    Seed,
    Set,
    SliceColumns,
)
from convcraft.cli.printing import print_gate, print_json
from convcraft.errors import UserError

NAME_A_RUN = "Name a folder that `convcraft train` made."


def compress(
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help="A finished run; it stays as it is.")] = None,
    prune: Annotated[
        float | None, typer.Option(help="Share of the multiply-adds to remove, in channels and blocks: 0.5.")
    ] = None,
    into: Annotated[
        str | None, typer.Option(help="A smaller network that learns from the run: resnet20_cifar, mobilenetv2_100 ...")
    ] = None,
    sparsity: Annotated[float | None, typer.Option(help="Share of the weights that become zero: 0.8.")] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Learn to compute in 8 bits: weights and maps are rounded while it trains.")
    ] = False,
    distil: Annotated[bool, typer.Option("--distil", help="Learn from the run's own answers, too.")] = False,
    target_latency: Annotated[
        float | None, typer.Option(help="Search precisions and pruning until one image takes so many milliseconds.")
    ] = None,
    target_size: Annotated[
        float | None, typer.Option(help="The same, until the model file has so many megabytes (10^6 bytes).")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Accuracy that the search may lose; default 0.01, which is one point.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the new run; default RUN-pruned, -2 ...")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out where it was stopped.")] = False,
    config: Annotated[Path | None, typer.Option(help="A config.yaml of a compressed run, to make it again.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the train images; 0: none.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per forward pass.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    slice_column: SliceColumns = None,
    class_group: ClassGroups = None,
    data_dir: DataDir = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a smaller run of a finished one: fewer channels, another network, weights that are zero or of 8 bits.

    Ends with 1 where the gate finds a class, a group, or the mean, that is worse.
    Examples: convcraft compress runs/photos --prune 0.5 --distil --out runs/photos-half
    convcraft compress runs/photos --into mobilenetv2_100
    convcraft compress runs/photos --sparsity 0.8
    convcraft compress runs/photos --int8
    convcraft compress runs/photos --target-latency 5 --target-size 3
    """
    from convcraft.workflows.evaluate_options import Asked, class_groups_of

    asked = Asked(slice_columns=tuple(slice_column or ()), class_groups=class_groups_of(class_group or ()))
    if target_latency is not None or target_size is not None:
        chosen_by_hand = {
            "--prune": prune,
            "--into": into,
            "--sparsity": sparsity,
            "--int8": int8 or None,
            "--distil": distil or None,
            "--out": out,
            "--resume": resume or None,
            "--config": config,
            "--batch-size": batch_size,
            "--learning-rate": learning_rate,
            "--data-dir": data_dir,
            "--set": set_ or None,
            "--seed": seed,
            "--device": None if device == "auto" else device,
        }
        beside = [option for option, value in chosen_by_hand.items() if value is not None]
        if beside:
            fix = "Leave them out: the search chooses. Or leave out --target-latency and --target-size."
            raise UserError(f"targets with {', '.join(beside)}", "a run, its targets, --epochs and groups", fix)
        if run is None:
            raise UserError("no RUN", "the run to search for", NAME_A_RUN)
        _search(run, target_latency, target_size, max_drop, epochs, asked, json_, quiet)
        return
    if max_drop is not None:
        fix = "Add --target-latency or --target-size, or leave it out: without a search, the gate judges what was lost."
        raise UserError("--max-drop without a target", "a search that it limits", fix)
    from convcraft.config import RunConfig
    from convcraft.workflows.choose_config import first_free
    from convcraft.workflows.compress import compress as run_compress
    from convcraft.workflows.compress_settings import choose_compression, gate_settings, repeat_compression
    from convcraft.workflows.console import make_console

    if run is None and config is None and not resume:
        raise UserError("no RUN", "the run to make smaller", NAME_A_RUN)
    if resume and out is None:
        raise UserError("--resume without --out", "the folder of the run to go on with", "Add --out RUN.")
    wishes = (prune, into, sparsity, int8 or None, distil or None)
    changes: dict[str, Any] = {
        "data_dir": data_dir,
        "optim_settings": {"learning_rate": learning_rate},
        "training_settings": {
            "epochs": epochs,
            "batch_size": batch_size,
            "seed": seed,
            "device": None if device == "auto" else device,
        },
        "compress_settings": gate_settings(asked),
        "assignments": set_ or (),
    }
    if config is not None:
        if run is not None or any(wish is not None for wish in wishes):
            fix = "Leave out RUN, --prune, --into, --sparsity, --int8 and --distil: the file names them."
            raise UserError("--config beside a run or what to do with it", "one of the two", fix)
        chosen = repeat_compression(config, **changes)
        out = out or first_free(config.absolute().parent)
    elif run is not None:
        chosen = choose_compression(run, prune=prune, into=into, sparsity=sparsity, int8=int8, distil=distil, **changes)
        ending = "pruned" if prune is not None else into or ("sparse" if sparsity is not None else "int8")
        out = out or first_free(run.with_name(f"{run.absolute().name}-{ending}"))
    else:
        given = (*wishes, epochs, batch_size, learning_rate, seed, set_, slice_column, class_group)
        if any(value is not None for value in given):
            fix = "Give --out and --resume alone, or the whole command that started the run."
            raise UserError("--resume with further settings", "a run's own settings", fix)
        chosen = RunConfig()
    assert out is not None
    result = run_compress(chosen, out, resume=resume, console=make_console(quiet))
    _print_compared(result.compared)
    gate = result.compared.gate
    if gate is None:
        print("gate         no images were held back: judge both with `evaluate`")
    else:
        print_gate(gate)
    print(f"took         {result.seconds:.1f} s")
    print(f"run          {result.run}")
    print(f"next         convcraft evaluate {result.run}   (test images: both networks, image by image)")
    if json_:
        print_json(result.to_dict())
    if gate is not None and not gate.passed:
        raise typer.Exit(EXIT_CHECK_FAILED)


def _search(
    run: Path,
    milliseconds: float | None,
    megabytes: float | None,
    max_drop: float | None,
    epochs: int | None,
    asked: Any,
    as_json: bool,
    quiet: bool,
) -> None:
    """Print all variants, and the one that reaches the targets; end with 1 where none does."""
    from convcraft.cli.printing import print_trade_off
    from convcraft.workflows.console import make_console
    from convcraft.workflows.search_variants import MAX_DROP, Targets, search_variants

    size_bytes = None if megabytes is None else round(1e6 * megabytes)
    targets = Targets(
        milliseconds=milliseconds, size_bytes=size_bytes, max_drop=MAX_DROP if max_drop is None else max_drop
    )
    console = make_console(quiet)
    result = search_variants(run, targets, epochs=epochs, asked=asked, console=console)
    print_trade_off(result.trade_off)
    for note in result.notes:
        console.print(note, highlight=False, markup=False)
    if result.found is not None and result.found == result.trade_off.variants[0]:
        print("found        the run itself: it is quick and small enough as it is")
    elif result.found is not None:
        print(f"found        {result.found.name}: {run.absolute().parent / result.found.place}")
    else:
        print("found        none: no variant reaches the targets without losing more than --max-drop")
    print(f"next         convcraft report {run}  (draws them beside each other)")
    if as_json:
        print_json(result.to_dict())
    if result.found is None:
        raise typer.Exit(EXIT_CHECK_FAILED)


def _print_compared(compared: Any) -> None:
    """Before and after, one line per figure."""
    before, after = compared.before, compared.after
    rows = [
        ("multiply-adds", f"{before.multiply_adds:,}", f"{after.multiply_adds:,}"),
        ("parameters", f"{before.parameters:,}", f"{after.parameters:,}"),
        ("zero weights", f"{before.zeros:.1%}", f"{after.zeros:.1%}"),
        ("file", f"{before.file_bytes:,} bytes", f"{after.file_bytes:,} bytes"),
        ("packed file", f"{before.packed_bytes:,} bytes", f"{after.packed_bytes:,} bytes"),
    ]
    for batch_size, taken in before.milliseconds.items():
        now = after.milliseconds[batch_size]
        rows.append((f"per image, batch {batch_size}", f"{taken:.3g} ms", f"{now:.3g} ms ({taken / now:.2f} x)"))
    if compared.gate is not None:
        rows.append(("accuracy, validation", _accuracy(before), _accuracy(after)))
        if after.int8_accuracy is not None:
            was, now = (_share(side.int8_accuracy, side.int8_interval) for side in (before, after))
            rows.append(("the same in int8", was, now))
        alike = f"{compared.gate.agreement:.2%} of {compared.gate.overall.num_images:,} validation images"
        rows.append(("called alike", "", alike))
    for name, was, now in rows:
        print(f"{name:<20} {was:<34} {now}")


def _accuracy(side: Any) -> str:
    return _share(side.accuracy, side.interval)


def _share(accuracy: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{accuracy:.2%} ({low:.2%} to {high:.2%})"
