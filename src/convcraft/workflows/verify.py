"""`convcraft verify`: is every published figure of a run what its weights, data and code give?"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from convcraft import __version__
from convcraft.data.durable_files import read_json
from convcraft.errors import UserError
from convcraft.evaluation.probabilities import probabilities_of
from convcraft.evaluation.saved_predictions import SavedPredictions
from convcraft.training.run_folder import CONFIG, EVALUATION, PREDICTIONS, RunDescription, read_run
from convcraft.workflows.before import load_before
from convcraft.workflows.checks import FAILED, PASSED, SKIPPED, Check, Verification
from convcraft.workflows.console import data_progress
from convcraft.workflows.evaluate import Wanted, figures_of, open_wanted, predict_all
from convcraft.workflows.evaluate_again import Compared, made_again
from convcraft.workflows.evaluate_more import MoreInputs
from convcraft.workflows.evaluate_robustness import ROBUSTNESS
from convcraft.workflows.load_model import load_model
from convcraft.workflows.seal import SEAL, changed_files, code_sha256, read_seal
from convcraft.workflows.test_reads import TEST_READS, broken_lines

PROBABILITY_TOLERANCE = 1e-4  # other hardware or another number of threads sums in another order
FIGURE_TOLERANCE = 1e-9


def verify(
    run: Path,
    *,
    data_dir: str | None = None,
    device: str = "auto",
    with_data: bool = True,
    everything: bool = False,
    console: Console,
) -> Verification:
    """Compute a run's published figures again, and hold its files against their seal.

    The files first, each by its hash; then the figures from the saved predictions; then, with the data, the predictions
    from the weights. This last step opens the test images, but learns nothing that evaluate has not already written
    down, so that it is not counted as an opening.

    Args:
        with_data: False leaves the predictions as they were saved: quick, and possible where the data are elsewhere.
        data_dir: where the data lie now.
        everything: views and robustness are predicted and measured again too; slow.

    Raises:
        UserError: no run folder, or one that was never evaluated.
    """
    started = time.monotonic()
    if not (run / EVALUATION).exists() and not (run / SEAL).exists():
        if not (run / CONFIG).is_file():
            received = f"{run} is no run folder (it has no {CONFIG})"
            raise UserError(received, "a run that was evaluated, or a bundle", "Check the path.")
        fix = f"Evaluate it first: convcraft evaluate {run}"
        raise UserError(f"{run} has no {EVALUATION}", "a run that `convcraft evaluate` has judged", fix)
    checks = [*_files(run)]
    if all(check.outcome != FAILED for check in checks):
        checks += _figures(run, data_dir, device, with_data, everything, console)
    else:
        checks.append(Check("figures", SKIPPED, "not computed again: files were changed"))
    return Verification(run, tuple(checks), time.monotonic() - started)


# Files --------------------------------------------------------------------------------------------------------------


def _files(run: Path) -> Iterator[Check]:
    if broken := broken_lines(run):
        which = f"line{'s' if len(broken) > 1 else ''} {', '.join(map(str, broken))}"
        yield Check("record of openings", FAILED, f"{TEST_READS}: {which} changed after they were written", TEST_READS)
    else:
        yield Check("record of openings", PASSED, "every line is as it was written")
    try:
        made = read_seal(run)
    except UserError as error:
        yield Check("seal", FAILED, f"{error.received}. {error.fix}", SEAL)
        return
    yield Check("seal", PASSED, f"of {made.time}, convcraft {made.version}")
    changed = list(changed_files(run, made))
    for name, what in changed:
        yield Check("file", FAILED, f"{name} {what}", name)
    if not changed:
        yield Check("files", PASSED, f"all {len(made.files)} are as they were sealed")
    if made.code_sha256 == code_sha256():
        yield Check("code", PASSED, "the package is the one that made the figures")
    else:
        detail = f"made by convcraft {made.version}, computed again by other code (convcraft {__version__})"
        yield Check("code", SKIPPED, detail)


# Figures ------------------------------------------------------------------------------------------------------------


def _figures(
    run: Path, data_dir: str | None, device: str, with_data: bool, everything: bool, console: Console
) -> Iterator[Check]:
    try:
        description, saved = read_run(run), SavedPredictions.load(run / PREDICTIONS)
        published = read_json(run / EVALUATION)
        before = load_before(description)
        model, weights = load_model(description)
        made = MoreInputs.load(description, published)
        judged = figures_of(saved, description, before)
        more = made.judge(judged.predictions)
    except UserError as error:
        yield Check("figures", FAILED, str(error))
        return
    if reasons := published["void"]:
        yield Check("sealed test", FAILED, "void: " + " ".join(reasons), EVALUATION)
    if weights.sha256 != published["weights_sha256"]:
        yield Check("weights", FAILED, f"{weights.file} is not what {EVALUATION} judged", weights.file)
    if hashlib.sha256(saved.to_bytes()).hexdigest() != published["predictions_sha256"]:
        yield Check("predictions", FAILED, f"{PREDICTIONS} is not what {EVALUATION} was computed from", PREDICTIONS)
    computed = json.loads(json.dumps({**judged.to_dict(), **more.to_dict()}))
    differing = [name for name, value in computed.items() if not _same(value, published.get(name))]
    if differing:
        yield Check("figures", FAILED, f"computed otherwise: {', '.join(differing)}", EVALUATION)
    else:
        number = sum(value is not None for value in computed.values())
        yield Check("figures", PASSED, f"{number} computed again from {len(saved.names):,} saved predictions")
    yield from _robustness(run, published)
    if not (everything and with_data):
        yield from _not_again(published)
    if not with_data:
        yield Check("predictions", SKIPPED, "taken as they were saved, without the data")
        return
    wanted = Wanted(**published["opened"])
    wanted = Wanted(wanted.data, wanted.test_split, data_dir or wanted.data_dir)
    try:
        with data_progress(console) as progress:
            opened = open_wanted(description, wanted, progress)
            again = predict_all(description, opened.images, model, before, device, progress)
            yield _compared(saved, again, description)
            source = wanted.data or description.config.data.source
            for found in made_again(
                description,
                model,
                made,
                published,
                opened.images,
                source,
                again,
                everything=everything,
                device=device,
                progress=progress,
            ):
                yield _again(found)
    except UserError as error:
        yield _without_data(error)


def _again(found: Compared) -> Check:
    if found.problem:
        return Check(found.what, FAILED, found.problem, found.file)
    if found.missing:
        return Check(found.what, SKIPPED, f"taken as it was saved: {found.missing}")
    return Check(found.what, PASSED, found.detail)


def _robustness(run: Path, published: dict[str, Any]) -> Iterator[Check]:
    """The file and what is published of it are one and the same."""
    if published.get("robustness") is None:
        return
    if not (run / ROBUSTNESS).exists() or not _same(read_json(run / ROBUSTNESS), published["robustness"]):
        yield Check("robustness", FAILED, f"{EVALUATION} says other than {ROBUSTNESS}", ROBUSTNESS)


def _not_again(published: dict[str, Any]) -> Iterator[Check]:
    """What stands under the seal, and takes long to make again."""
    for name in ("robustness", "views"):
        if published.get(name) is not None:
            yield Check(name, SKIPPED, "sealed, not measured again (verify --all)")


def _without_data(error: UserError) -> Check:
    """Data that are elsewhere are no forgery; test images that have changed are."""
    if "not those that were set aside" in error.received:
        return Check("test images", FAILED, error.received, "data.json")
    return Check("predictions", SKIPPED, f"taken as they were saved: {error.received}")


def _compared(saved: SavedPredictions, again: SavedPredictions, run: RunDescription) -> Check:
    if saved.names != again.names or not np.array_equal(saved.targets, again.targets):
        detail = "other images or labels than the saved predictions are of"
        return Check("predictions", FAILED, detail, PREDICTIONS)
    loss = run.config.training.loss
    parts = [(probabilities_of(saved.logits, loss), probabilities_of(again.logits, loss))]
    if saved.before is not None and again.before is not None:
        parts.append((probabilities_of(saved.before), probabilities_of(again.before)))
    largest = max(float(np.abs(one - other).max()) for one, other in parts)
    if largest > PROBABILITY_TOLERANCE:
        detail = f"the weights give other probabilities, by up to {largest:.2g}"
        return Check("predictions", FAILED, detail, PREDICTIONS)
    detail = f"{len(saved.names):,} computed again from the weights; probabilities within {largest:.1g}"
    return Check("predictions", PASSED, detail)


def _same(computed: Any, published: Any) -> bool:
    """Equal values, numbers within rounding; other hardware may sum in another order."""
    if isinstance(computed, dict) and isinstance(published, dict):
        return computed.keys() == published.keys() and all(_same(computed[key], published[key]) for key in computed)
    if isinstance(computed, list) and isinstance(published, list):
        return len(computed) == len(published) and all(map(_same, computed, published))
    if isinstance(computed, float) or isinstance(published, float):
        both_numbers = all(isinstance(value, (int, float)) for value in (computed, published))
        return both_numbers and bool(np.isclose(computed, published, rtol=FIGURE_TOLERANCE, atol=1e-12, equal_nan=True))
    return bool(computed == published)
