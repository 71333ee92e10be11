"""`convcraft predict`: pictures in, class names and probabilities out, and when not to believe them.

A run needs torch; a bundle does not, so that nothing here imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from convcraft.data.given_pictures import open_pictures
from convcraft.deploy.answering import Answering, answer_pictures
from convcraft.deploy.bundle import is_bundle
from convcraft.deploy.formats.form import Runtime
from convcraft.deploy.predictor import Predictor
from convcraft.errors import UserError
from convcraft.evaluation.answers import ImagePrediction


def predict(
    where: Path, images: Sequence[str], *, device: str = "auto", allow_native_code: bool = False
) -> list[ImagePrediction]:
    """Classify pictures with a run's result weights or with a bundle, on the pixels that the network was judged on.

    Probabilities are calibrated, and answers judged, by the run's trust.json where it has one.

    Args:
        where: a run folder or a bundle.
        images: files, folders (all images below them) or "-" for one encoded picture on standard input.

    Raises:
        UserError: no such run, bundle or file, a bundle whose probes fail, a folder without images, or not one readable
            picture.
    """
    named = open_pictures(images)
    answers = list(answer_pictures(open_network(where, device, allow_native_code=allow_native_code), named))
    refuse_unreadable(answers)
    return answers


def open_network(
    where: Path, device: str = "auto", runtime: Runtime | None = None, *, allow_native_code: bool = False
) -> Answering:
    """A run or a bundle, ready to answer."""
    if is_bundle(where):
        return Predictor.open(where, runtime=runtime, allow_native_code=allow_native_code)
    from convcraft.workflows.run_network import RunNetwork

    return RunNetwork(where, device)


def refuse_unreadable(answers: Sequence[ImagePrediction]) -> None:
    """Raises UserError where not one picture could be read."""
    if answers and all(answer.problem is not None for answer in answers):
        first = answers[0]
        fix = "Open it in a picture viewer to see what it is."
        raise UserError(f"{first.image}: {first.problem}", "a picture that can be decoded", fix)
