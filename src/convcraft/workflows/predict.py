"""`convcraft predict`: pictures in, class names and probabilities out, and when not to believe them.

A run needs torch; a bundle does not, so that nothing here imports it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from convcraft.data.given_pictures import open_pictures
from convcraft.data.preprocess import ImageLike
from convcraft.deploy.answering import Answering, answer_pictures
from convcraft.deploy.bundle import is_bundle
from convcraft.deploy.formats.form import Runtime
from convcraft.deploy.frames import frames_of, is_camera, is_video, refuse_absent
from convcraft.deploy.predictor import Predictor
from convcraft.errors import UserError
from convcraft.evaluation.answers import ImagePrediction
from convcraft.workflows.bundle_options import refuse_other_devices

CONFIG = "config.yaml"  # every run folder has one
MANY = 64  # pictures from which measuring the runtime's settings pays


@dataclass(frozen=True, kw_only=True)
class How:
    """How a network is run.

    device: of a run; bundles run on the CPU. threads: of a bundle. batch_size: pictures at once. None: of a bundle what
        was measured, where there are many pictures, and remembered; of a run its own.
    allow_native_code: of a bundle whose maker is trusted. every: of a video's frames, each so many-th.
    """

    device: str = "auto"
    threads: int | None = None
    batch_size: int | None = None
    allow_native_code: bool = False
    every: int = 1


def predict(where: Path, images: Sequence[str], how: How | None = None) -> list[ImagePrediction]:
    """Classify pictures with a run's result weights or with a bundle, on the pixels that the network was judged on.

    Probabilities are calibrated, and answers judged, by the run's trust.json where it has one.

    Args:
        where: a run folder or a bundle.
        images: files, folders (all images below them), video files, "camera:0", or "-" for one encoded picture on
            standard input.

    Raises:
        UserError: no such run, bundle or file, a bundle whose probes fail, a folder without images, or not one readable
            picture.
    """
    answered = Answered(keep=True)
    for answer in predict_each(where, images, how):
        answered.add(answer)
    answered.refuse_unreadable()
    return answered.kept


@dataclass(kw_only=True)
class Answered:
    """What was answered so far; a camera may go on for days.

    keep: whether answers are kept. top: of a kept one, how many classes of its ranking; None: all.
    count, unreadable: pictures. calibrated: of any answer.
    """

    keep: bool = False
    top: int | None = None
    count: int = 0
    unreadable: int = 0
    calibrated: bool = False
    kept: list[ImagePrediction] = field(default_factory=list)
    _first: ImagePrediction | None = None

    def add(self, answer: ImagePrediction) -> None:
        self._first = self._first or answer
        self.count += 1
        self.unreadable += answer.problem is not None
        self.calibrated = self.calibrated or answer.calibrated
        if self.keep:
            self.kept.append(replace(answer, ranking=answer.ranking[: self.top]))

    def refuse_unreadable(self) -> None:
        """Raises UserError where not one picture could be read."""
        if self._first is not None and self.unreadable == self.count:
            fix = "Open it in a picture viewer to see what it is."
            raise UserError(f"{self._first.image}: {self._first.problem}", "a picture that can be decoded", fix)


def predict_each(where: Path, images: Sequence[str], how: How | None = None) -> Iterator[ImagePrediction]:
    """As `predict`, each answer as soon as its batch is through; a camera never ends, and its frames never wait."""
    how = how or How()
    if not is_bundle(where) and not (where / CONFIG).is_file():
        received = f"{where} is no run folder (it has no {CONFIG})"
        raise UserError(received, "a folder made by `convcraft train`, or a bundle", "Check the path.")
    refuse_absent([name for name in images if is_video(name)])
    stills = {name: open_pictures([name]) for name in images if not is_video(name)}
    many = len(stills) < len(images) or sum(map(len, stills.values())) >= MANY
    network = open_network(where, how, many=many)

    def named(names: Iterable[str]) -> Iterator[tuple[str, ImageLike]]:
        for name in names:
            yield from stills[name] if name in stills else frames_of(name, how.every)

    def answers() -> Iterator[ImagePrediction]:
        for live, names in groupby(images, is_camera):
            yield from answer_pictures(network, named(names), 1 if live else None)

    return answers()


def open_network(where: Path, how: How, *, many: bool = False) -> Answering:
    """A run or a bundle, ready to answer.

    Raises:
        UserError: neither of them, or a setting that it cannot follow.
    """
    if is_bundle(where):
        refuse_other_devices(how.device)
        return Predictor.open(
            where,
            runtime=None if how.threads is None else Runtime(how.threads),
            batch_size=how.batch_size,
            measure=many,
            allow_native_code=how.allow_native_code,
        )
    from convcraft.workflows.run_network import RunNetwork

    if how.threads is not None:
        fix = f"Set the environment variable OMP_NUM_THREADS={how.threads} instead, or give a bundle."
        raise UserError(f"--threads {how.threads} for a run", "threads of a bundle", fix)
    network = RunNetwork(where, how.device)
    network.batch_size = how.batch_size or network.batch_size
    return network
