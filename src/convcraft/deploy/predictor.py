"""Answers from a bundle, without torch where its format allows.

predictor = Predictor.open("photos.zip")
for answer in predictor.predict(["ant.jpg", "bee.jpg"]):
    print(answer.ranking[0], answer.explanation)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convcraft.data.preprocess import ImageLike, Preprocess
from convcraft.deploy.answering import answer_pictures
from convcraft.deploy.bundle import Bundle, open_bundle
from convcraft.deploy.formats.form import BATCH_SIZE, Runtime, Session
from convcraft.deploy.machine import package_version
from convcraft.deploy.probe_check import refuse_failed, try_probes
from convcraft.deploy.remembered import recall, remember
from convcraft.deploy.runtime_choice import choose_runtime, remembered_choice
from convcraft.errors import UserError, first_line
from convcraft.evaluation.answers import ImagePrediction
from convcraft.evaluation.outputs import Outputs
from convcraft.evaluation.trust import Trust

PASSED, EXPORTED_HERE = "probes", "made"  # what is remembered of a bundle


class Predictor:
    """A bundle that has proven itself on this machine."""

    def __init__(self, bundle: Bundle, session: Session, batch_size: int = BATCH_SIZE) -> None:
        self.bundle, self.session, self.batch_size = bundle, session, batch_size

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        runtime: Runtime | None = None,
        batch_size: int | None = None,
        measure: bool = False,
        probe_again: bool = False,
        allow_native_code: bool = False,
    ) -> Predictor:
        """Read a bundle, check it, and send its probes through, unless they have passed here before.

        Args:
            runtime, batch_size: None: what was measured here before, else the runtime's own and 16. Where one is given,
                the other is still filled in.
            measure: where nothing was, measure once the probes have passed; a few seconds, for many pictures.
            probe_again: send them through in any case.
            allow_native_code: run machine code that the bundle brings. Only for bundles whose maker you trust; one that
                was exported on this machine needs no word.

        Raises:
            UserError: no bundle, a changed or hostile one, a runtime that is not installed, or probes that fail.
        """
        bundle = open_bundle(Path(path))
        allow_native_code = allow_native_code or recall(bundle, EXPORTED_HERE) is True

        def start(given: Runtime) -> Session:
            return open_session(bundle, given, allow_native_code=allow_native_code)

        choice = remembered_choice(bundle)
        at_once = batch_size or (BATCH_SIZE if choice is None else choice.batch_size)
        session = start(runtime or (Runtime() if choice is None else choice.runtime))
        if probe_again or recall(bundle, PASSED) is not True:
            refuse_failed(bundle, try_probes(bundle, session, at_once))
            remember(bundle, PASSED, True)
        if choice is None and measure and (runtime is None or batch_size is None):
            choice = choose_runtime(bundle, lambda given: _telling(bundle, start(given)))
            at_once = batch_size or choice.batch_size
            session = session if runtime is not None else start(choice.runtime)
        return cls(bundle, _telling(bundle, session), at_once)

    @property
    def preprocess(self) -> Preprocess:
        return self.bundle.preprocess

    @property
    def classes(self) -> tuple[str, ...]:
        return self.bundle.classes

    @property
    def loss(self) -> str:
        return self.bundle.manifest.loss

    @property
    def trust(self) -> Trust | None:
        return self.bundle.trust

    def outputs(self, pixels: NDArray[np.uint8]) -> Outputs:
        """What the network says of pixels uint8 [B, H, W, C] at its size, all at once."""
        return self.session(pixels if self.bundle.manifest.normalises else self.preprocess.normalise(pixels))

    def predict(self, pictures: Sequence[ImageLike | str]) -> list[ImagePrediction]:
        """One answer per picture: a file, its encoded bytes, or pixels uint8 [H, W] or [H, W, 3].

        A picture that cannot be read gets an answer with its problem, and does not disturb the others.
        """
        return list(answer_pictures(self, (_named(picture, at) for at, picture in enumerate(pictures))))


def remember_made(path: Path) -> None:
    """Note that a bundle was exported here, by this user."""
    remember(open_bundle(path), EXPORTED_HERE, True)


def open_session(bundle: Bundle, runtime: Runtime, *, allow_native_code: bool = False) -> Session:
    """Start a bundle's network.

    Raises:
        UserError: machine code that was not allowed, a runtime that is not installed, or one that refuses the file.
    """
    form = bundle.form
    if form.native_code and not allow_native_code:
        received = f"{bundle.path}: format {form.name}, which runs machine code of whoever made it"
        raise UserError(
            received, "your word that you trust its maker", "Add --allow-native-code, or use another format."
        )
    if package_version(form.package) is None:
        extra = "train" if form.package == "torch" else form.package
        fix = f'Install it with: pip install "convcraft[{extra}]"'
        raise UserError(f"{bundle.path}: format {form.name} without {form.package}", f"{form.package}", fix)
    try:
        return form.open(bundle.model, bundle.manifest.precision, runtime)
    except UserError:
        raise
    except Exception as error:  # each runtime has exceptions of its own
        received = f"{bundle.path}: {form.package} refuses its model ({first_line(error)})"
        fix = f"It was made with {form.package} {bundle.manifest.made_with.get(form.package)}; try that version."
        raise UserError(received, "a model that it can load", fix) from error


def _telling(bundle: Bundle, session: Session) -> Session:
    """The session, with a UserError where its runtime fails on the way."""

    def run(inputs: NDArray[np.generic]) -> Outputs:
        try:
            return session(inputs)
        except UserError:
            raise
        except Exception as error:  # each runtime has exceptions of its own
            received = f"{bundle.path}: {bundle.form.package} fails on {len(inputs)} at once ({first_line(error)})"
            fix = "Try --batch-size 1, which needs the least memory."
            raise UserError(received, "a network that takes what its contract gives", fix) from error

    return run


def _named(picture: ImageLike | str, position: int) -> tuple[str, ImageLike]:
    if isinstance(picture, str):
        return picture, Path(picture)
    return (str(picture) if isinstance(picture, Path) else f"picture {position + 1}"), picture
