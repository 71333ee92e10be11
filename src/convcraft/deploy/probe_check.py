"""Does a network in its bundle still say what its source said? Its probes are sent through, from file to logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convcraft.data.images import BadImage
from convcraft.deploy.bundle import Bundle
from convcraft.deploy.formats.form import Session
from convcraft.deploy.probes import pixels_sha256
from convcraft.errors import UserError
from convcraft.evaluation.outputs import Outputs

FIX = (
    "Do not use it here: its answers would be others than those it was judged by. Export the run again on this machine."
)


@dataclass(frozen=True)
class ProbeResult:
    """One probe. difference: largest of its logits', as a share of the range of all expected logits. problem: why it
    does not pass, or None."""

    file: str
    expected: str
    got: str
    difference: float
    problem: str | None


def logit_range(expected: NDArray[np.float32]) -> float:
    """Largest minus smallest of all expected logits, never 0: what differences are measured by."""
    return max(float(expected.max()) - float(expected.min()), float(np.finfo(np.float32).tiny))


def pixels_of_probes(bundle: Bundle) -> tuple[NDArray[np.uint8], list[str | None]]:
    """uint8 [P, H, W, C] by the bundle's contract, and what is wrong with each probe's, or None."""
    shape = (bundle.preprocess.height, bundle.preprocess.width, bundle.preprocess.channels)
    pixels, problems = np.zeros((len(bundle.probes), *shape), np.uint8), []
    for index, (entry, content) in enumerate(zip(bundle.manifest.probes, bundle.probes, strict=True)):
        problem = None
        try:
            pixels[index] = bundle.preprocess.pixels(content)
        except BadImage as error:
            problem = str(error)
        if problem is None and pixels_sha256(pixels[index]) != entry.pixels_sha256:
            problem = "other pixels than at export: a decoder or a resize that is not the same"
        problems.append(problem)
    return pixels, problems


def try_probes(bundle: Bundle, session: Session) -> tuple[ProbeResult, ...]:
    """Send every probe through the network, one at a time, as pictures come.

    Raises:
        UserError: the network does not run, or answers in another shape.
    """
    pixels, problems = pixels_of_probes(bundle)
    inputs = pixels if bundle.manifest.normalises else bundle.preprocess.normalise(pixels)
    outputs = [_outputs(bundle, session, inputs[index : index + 1]) for index in range(len(inputs))]
    logits = np.concatenate([output.logits for output in outputs])
    scale, tolerance = logit_range(bundle.expected_logits), bundle.manifest.tolerance
    differences = np.abs(logits.astype(np.float64) - bundle.expected_logits).max(axis=1) / scale
    features = _feature_differences(bundle, outputs)
    results = []
    for index, entry in enumerate(bundle.manifest.probes):
        expected = bundle.classes[int(bundle.expected_logits[index].argmax())]
        got = bundle.classes[int(logits[index].argmax())]
        problem = problems[index]
        if expected != entry.label:
            problem = problem or f"its label is {entry.label}, but the classes make it {expected}"
        elif not differences[index] <= tolerance:  # true for NaN as well
            problem = (
                problem
                or f"logits differ by {differences[index]:.2g} of their range, at most {tolerance:.2g} is allowed"
            )
        elif got != expected and _margin(bundle.expected_logits[index]) > tolerance * scale:
            problem = problem or f"called {got}, expected {expected}"
        elif not features[index] <= tolerance:
            problem = problem or f"features differ by {features[index]:.2g} of their range"
        results.append(ProbeResult(entry.file, entry.label, got, float(differences[index]), problem))
    return tuple(results)


def refuse_failed(bundle: Bundle, results: tuple[ProbeResult, ...]) -> None:
    """Raises UserError where a probe did not pass."""
    failed = [result for result in results if result.problem is not None]
    if failed:
        first = failed[0]
        received = (
            f"{bundle.path}: {len(failed)} of {len(results)} probes fail, the first {first.file}: {first.problem}"
        )
        raise UserError(received, "a network that answers as its source did", FIX)


def _outputs(bundle: Bundle, session: Session, images: NDArray[np.generic]) -> Outputs:
    try:
        outputs = session(images)
    except Exception as error:  # each runtime has exceptions of its own
        received = f"{bundle.path}: {bundle.form.package} cannot run it ({_first_line(error)})"
        raise UserError(received, "a network that takes what its contract gives", FIX) from error
    wanted = (len(images), len(bundle.classes))
    if outputs.logits.shape != wanted:
        received = f"{bundle.path}: logits {list(outputs.logits.shape)}"
        raise UserError(received, f"{list(wanted)}: one per class", FIX)
    if bundle.expected_features is not None and outputs.features is None:
        raise UserError(f"{bundle.path}: a network without features", "those that its trust is based on", FIX)
    return outputs


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _feature_differences(bundle: Bundle, outputs: list[Outputs]) -> NDArray[np.float64]:
    """Float64 [P], as shares of the range of all expected features; 0 where the bundle has none."""
    expected = bundle.expected_features
    if expected is None:
        return np.zeros(len(outputs))
    got = np.concatenate([output.features for output in outputs if output.features is not None])
    if got.shape != expected.shape:
        return np.full(len(outputs), np.inf)
    differences: NDArray[np.float64] = np.abs(got.astype(np.float64) - expected).max(axis=1) / logit_range(expected)
    return differences


def _margin(logits: NDArray[np.float32]) -> float:
    """Of the first class over the second."""
    second, first = np.partition(logits, -2)[-2:]
    return float(first - second)
