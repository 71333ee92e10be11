"""Does a network in its bundle still say what its source said? Its probes are sent through, from file to logits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from convcraft.data.images import BadImage
from convcraft.deploy.bundle import Bundle
from convcraft.deploy.formats.form import BATCH_SIZE, Session
from convcraft.deploy.probes import pixels_sha256
from convcraft.errors import UserError, first_line
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


def feature_differences(expected: NDArray[np.float32], got: NDArray[np.float32]) -> NDArray[np.float64]:
    """Float64 [P]: how far each row of features [P, D] is off, as a share of twice the expected rows' length (rms).

    Lengths, as scores of strangeness go by distances: of a thousand features, one is always far off in 8 bits. Twice,
    as the classifier averages over features, and logits part less than what they come from.
    """
    length = float(np.sqrt(np.mean(np.sum(expected.astype(np.float64) ** 2, axis=1))))
    apart: NDArray[np.float64] = np.linalg.norm(got.astype(np.float64) - expected, axis=1)
    return apart / max(2 * length, float(np.finfo(np.float32).tiny))


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


def try_probes(bundle: Bundle, session: Session, batch_size: int = BATCH_SIZE) -> tuple[ProbeResult, ...]:
    """Send every probe through the network: one at a time, 16 at a time, and `batch_size` at a time.

    A runtime may compile a network for each batch size; all have to answer as the source did. Batches are filled up
    with the first probes again.

    Args:
        batch_size: that pictures will be sent in.

    Returns:
        One result per probe: of the first size at which it fails, with the largest difference of all sizes.

    Raises:
        UserError: the network does not run, or answers in another shape.
    """
    pixels, problems = pixels_of_probes(bundle)
    inputs = pixels if bundle.manifest.normalises else bundle.preprocess.normalise(pixels)
    found = [
        _results(bundle, _in_batches(bundle, session, inputs, size), problems, size)
        for size in sorted({1, BATCH_SIZE, batch_size})
    ]
    return tuple(_worst(of_probe) for of_probe in zip(*found, strict=True))


def _in_batches(bundle: Bundle, session: Session, inputs: NDArray[np.generic], size: int) -> list[Outputs]:
    """Of the P inputs; every batch has exactly `size`."""
    count = -(-len(inputs) // size) * size
    order = np.arange(count) % len(inputs)
    parts = [_outputs(bundle, session, inputs[order[start : start + size]]) for start in range(0, count, size)]
    if len(inputs) < count:
        kept = size - (count - len(inputs))
        last = parts[-1]
        parts[-1] = Outputs(last.logits[:kept], None if last.features is None else last.features[:kept])
    return parts


def _results(bundle: Bundle, outputs: list[Outputs], problems: list[str | None], size: int) -> list[ProbeResult]:
    logits = np.concatenate([output.logits for output in outputs])
    scale, tolerance = logit_range(bundle.expected_logits), bundle.manifest.tolerance
    differences = np.abs(logits.astype(np.float64) - bundle.expected_logits).max(axis=1) / scale
    features = _feature_differences(bundle, outputs)
    at_once = "" if size == 1 else f", sent {size} at a time"
    results = []
    for index, entry in enumerate(bundle.manifest.probes):
        expected = bundle.classes[int(bundle.expected_logits[index].argmax())]
        got = bundle.classes[int(logits[index].argmax())]
        problem = problems[index]
        if expected != entry.label:
            problem = problem or f"its label is {entry.label}, but the classes make it {expected}"
        elif not differences[index] <= tolerance:  # true for NaN as well
            off = f"logits differ by {differences[index]:.2g} of their range{at_once}"
            problem = problem or f"{off}, at most {tolerance:.2g} is allowed"
        elif got != expected and _margin(bundle.expected_logits[index]) > tolerance * scale:
            problem = problem or f"called {got}{at_once}, expected {expected}"
        elif not features[index] <= tolerance:
            problem = problem or f"features differ by {features[index]:.2g} of twice their length{at_once}"
        results.append(ProbeResult(entry.file, entry.label, got, float(differences[index]), problem))
    return results


def _worst(of_probe: tuple[ProbeResult, ...]) -> ProbeResult:
    shown = next((result for result in of_probe if result.problem is not None), of_probe[0])
    return replace(shown, difference=float(np.max([result.difference for result in of_probe])))


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
        received = f"{bundle.path}: {bundle.form.package} cannot run it ({first_line(error)})"
        raise UserError(received, "a network that takes what its contract gives", FIX) from error
    wanted = (len(images), len(bundle.classes))
    if outputs.logits.shape != wanted:
        received = f"{bundle.path}: logits {list(outputs.logits.shape)}"
        raise UserError(received, f"{list(wanted)}: one per class", FIX)
    if bundle.expected_features is not None and outputs.features is None:
        raise UserError(f"{bundle.path}: a network without features", "those that its trust is based on", FIX)
    return outputs


def _feature_differences(bundle: Bundle, outputs: list[Outputs]) -> NDArray[np.float64]:
    """Float64 [P], as `feature_differences`; 0 where the bundle has none."""
    expected = bundle.expected_features
    if expected is None:
        return np.zeros(len(bundle.expected_logits))
    got = np.concatenate([output.features for output in outputs if output.features is not None])
    return feature_differences(expected, got) if got.shape == expected.shape else np.full(len(expected), np.inf)


def _margin(logits: NDArray[np.float32]) -> float:
    """Of the first class over the second."""
    second, first = np.partition(logits, -2)[-2:]
    return float(first - second)
