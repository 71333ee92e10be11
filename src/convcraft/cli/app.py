"""The command line: parses, calls one public function, prints.

Results go to standard output, everything else to standard error. Exit codes: 0 done; 1 a check or gate said no;
2 wrong use or bad input; 75 stopped by a signal with the state saved.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from convcraft import __version__
from convcraft.cli import compressing, deploying, explaining, judging, learning, proving, tools
from convcraft.cli.options import EXIT_BAD_INPUT, EXIT_CHECK_FAILED, EXIT_INTERRUPTED, EXIT_STOPPED
from convcraft.cli.printing import print_json
from convcraft.cli.scratch import scratch_app
from convcraft.cli.seeds import seeds_app
from convcraft.errors import UserError

# Typer brings its own copy of click's exceptions since 0.29; before that they were click's. Both are this class.
_CommandLineError: Any = typer.BadParameter.__mro__[2]

# Packages that another extra than "train" brings.
EXTRAS = {
    "onnx": "export",
    "onnxscript": "export",
    "openvino": "openvino",
    "nncf": "openvino",
    "torch_pruning": "compress",
    "av": "video",
    "datasets": "hub",
    "h5py": "keras-files",
}

app = typer.Typer(
    name="convcraft",
    help="Labelled images in; a proven, explained, deployable convolutional network out.",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

COMMANDS = (
    learning.demo,
    learning.train,
    learning.finetune,
    compressing.compress,
    judging.evaluate,
    judging.predict,
    explaining.explain,
    judging.doctor,
    judging.report,
    proving.verify,
    proving.compare,
    deploying.export,
    tools.convert,
    tools.recipes,
    tools.bench,
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(scratch_app, name="scratch")
app.add_typer(seeds_app, name="seeds")


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        print(f"convcraft {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(EXIT_BAD_INPUT)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _let_waiting_threads_sleep()
    sys.exit(_run(given))


def _let_waiting_threads_sleep() -> None:
    """Set before torch is loaded, unless the user has set how threads wait.

    torch's threads meet after every operation, and by default spin while they wait. Where another process uses one of
    the cores, they hold up the thread they wait for, and training is many times slower (docs/training.md).
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def _run(given: list[str]) -> int:
    """The exit code of a command; every error becomes one clear message."""
    as_json, debug = "--json" in given, "--debug" in given
    try:
        code: int = app(given, prog_name="convcraft", standalone_mode=False) or 0
        if code == EXIT_INTERRUPTED:  # what typer makes of Ctrl-C where no training loop answers it
            resumable = given[:1] in (["train"], ["finetune"], ["compress"]) or given[:2] == ["scratch", "train"]
            what = "What was saved stays; --resume goes on." if resumable else "This command saved nothing of its own."
            print(f"Stopped. {what}", file=sys.stderr)
        return code
    except typer.Exit as leave:
        return int(leave.exit_code)
    except _CommandLineError as error:
        context = getattr(error, "ctx", None)
        help_line = f"See: {context.command_path} --help" if context is not None else "See: convcraft --help"
        return _fail(UserError(error.format_message(), "a command as --help shows it", help_line), as_json, debug)
    except UserError as error:
        return _fail(error, as_json, debug)
    except ModuleNotFoundError as error:
        return _fail(_missing_extra(error), as_json, debug)
    except OSError as error:
        named = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        fix = "Check that the path exists, may be written to, and that the disk is not full."
        return _fail(UserError(named, "a file that can be read or written", fix), as_json, debug)
    except Exception as error:
        ending = _known_ending(error, given, as_json)
        if ending is None:
            raise
        return ending


def _fail(error: UserError, as_json: bool, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    print(f"Received: {error.received}\nExpected: {error.expected}\nFix:      {error.fix}", file=sys.stderr)
    if as_json:
        print_json({"error": error.as_dict()})
    return EXIT_BAD_INPUT


def _missing_extra(error: ModuleNotFoundError) -> UserError:
    if (error.name or "").startswith("convcraft"):
        raise error
    extra = EXTRAS.get((error.name or "").partition(".")[0], "train")
    fix = f'Install it with: pip install "convcraft[{extra}]"'
    return UserError(f"the package {error.name} is not installed", "what this command needs", fix)


def _known_ending(error: Exception, given: list[str], as_json: bool) -> int | None:
    """Endings that only training has: stopped by a signal, or numbers that blew up."""
    from convcraft.training.stops import Interrupted, NonFinite

    if isinstance(error, Interrupted):
        print(f"\n{error}", file=sys.stderr)
        if as_json:
            print_json({"stopped": {"message": str(error), "run": str(error.run)}})
        return EXIT_STOPPED
    if isinstance(error, NonFinite):
        return _fail(UserError(str(error), "a finite loss", NonFinite.FIX), as_json, False) and EXIT_CHECK_FAILED
    return None
