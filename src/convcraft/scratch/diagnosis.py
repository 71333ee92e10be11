"""What a wrong gradient looks like, in words. Every sentence was tried on the numbers before it is said.

Each idea of what went wrong is a function of the right gradient ("its transpose", "its mean over an axis", "what the
first image alone gives"). The idea whose result is what backward gave, up to a constant factor, is the diagnosis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np

from convcraft.scratch.checks import Array

CLOSE = 1e-5  # of the largest number; central differences are good to about 1e-9


@dataclass(frozen=True)
class Evidence:
    """What was there when the gradient was computed."""

    input: Array
    output: Array
    grad_output: Array
    per_image: list[Array] | None = None  # a parameter's gradient from the first and from the last image alone
    earlier: Callable[[], Array] | None = None  # the gradient at the input of the forward before
    diagonal: Callable[[], Array] | None = None  # the input gradient if output i depended on input i alone
    training: bool = True  # the mode of the layer


def diagnose(got: Array, expected: Array, wrong: Array, evidence: Evidence) -> str:
    """One sentence on what `got` is instead of `expected`."""
    if not np.isfinite(got).all():
        return "Not finite: a division by zero, a logarithm of zero, or an overflow."
    if not got.any() and got.shape == expected.shape:
        return "Zero everywhere: backward never sets it (or multiplies by a mask that is all zero)."
    for words, candidate in _ideas(expected, evidence):
        if candidate.shape != got.shape or not candidate.any():
            continue
        factor = _factor(got, candidate)
        if factor is not None and (
            got.size > 1 or _known(factor, evidence) is not None
        ):  # any two numbers have a ratio
            return words + _times(factor, evidence, words)
    if got.shape != expected.shape:
        return f"The shape is {list(got.shape)}, should be {list(expected.shape)}: " + _shape_hint(got, expected)
    return _where(got, expected, wrong, evidence)


def _ideas(expected: Array, evidence: Evidence) -> Iterator[tuple[str, Array]]:
    """(what it would be, the numbers it would give), the likely ones first."""
    yield "", expected
    if evidence.per_image is not None:
        for which, part in zip(("first", "last"), (evidence.per_image[0], evidence.per_image[-1]), strict=True):
            yield f"Only the {which} image counts: the sum over the batch is missing.", part
    spatial = tuple(range(2, expected.ndim))
    if spatial:
        yield "The kernel is turned by 180 degrees (flipped along both axes).", np.flip(expected, spatial)
        for axis in spatial:
            yield f"Flipped along axis {axis}.", np.flip(expected, axis)
    for order in permutations(range(expected.ndim)):
        if order != tuple(range(expected.ndim)):
            yield f"Axes are swapped, {list(order)}: a transpose too many or too few.", expected.transpose(order)
    if evidence.grad_output.shape == expected.shape:
        yield "The gradient passes unchanged: the layer's own derivative is missing.", evidence.grad_output
    for name, factor in (("input", evidence.input), ("output", evidence.output), ("1 - output", 1 - evidence.output)):
        if factor.shape == expected.shape:
            yield f"One factor too many: {name}.", expected * factor
            with np.errstate(divide="ignore", invalid="ignore"):
                yield f"One factor too few: {name}.", np.where(factor == 0, 0, expected / factor)
    if evidence.diagonal is not None and evidence.output.shape == expected.shape:
        yield "Only the own input of each output counts, but every output depends on several.", evidence.diagonal()
        with np.errstate(divide="ignore", invalid="ignore"):
            constant = np.where(evidence.input == 0, 0, evidence.grad_output * evidence.output / evidence.input)
        yield "As if the layer multiplied by a constant: that its factor depends on the input is missing.", constant
    if evidence.earlier is not None:
        yield (
            "It belongs to the earlier forward: what backward needs must be saved in every forward.",
            evidence.earlier(),
        )
    for axis in range(expected.ndim):
        if expected.shape[axis] > 1:
            mean = np.broadcast_to(expected.mean(axis=axis, keepdims=True), expected.shape)
            yield f"The same all along axis {axis}: summed or averaged over an axis that should be kept.", mean
            yield f"Summed over axis {axis}, which should be kept.", expected.sum(axis=axis)
    for shift in product((-1, 0, 1), repeat=len(spatial)):
        if any(shift):
            yield f"Moved by {list(shift)} pixels: padding is cut off at the wrong side.", _moved(expected, shift)
    for axis in range(expected.ndim):
        if expected.shape[axis] > 1:
            for by in (1, -1):
                yield f"Moved by {by} along axis {axis}.", np.roll(expected, by, axis)


def _moved(array: Array, shift: tuple[int, ...]) -> Array:
    """Moved along the last axes; zeros come in."""
    moved = array
    for axis, by in zip(range(2, array.ndim), shift, strict=True):
        moved = np.roll(moved, by, axis)
        if by:
            edge: list[slice | int] = [slice(None)] * array.ndim
            edge[axis] = 0 if by > 0 else -1
            moved[tuple(edge)] = 0
    return moved


def _factor(got: Array, candidate: Array) -> float | None:
    """c with got = c * candidate, or None."""
    scale = float(np.abs(got).max())
    c = float((got * candidate).sum() / np.square(candidate).sum())
    return c if np.abs(got - c * candidate).max() <= CLOSE * scale and c != 0 else None


def _times(factor: float, evidence: Evidence, words: str) -> str:
    """In words, the factor between what was given and the idea."""
    if abs(factor - 1) < CLOSE:
        return ""
    usual = f"All numbers are {factor:.6g} times what they should be: a constant factor is missing or too many."
    return (" " if words else "") + (_known(factor, evidence) or usual)


def _known(factor: float, evidence: Evidence) -> str | None:
    """What a factor is likely to come from."""
    batch, numbers = len(evidence.input), evidence.input.size
    known = {
        -1.0: "The sign is wrong (times -1).",
        2.0: "Twice as large: counted or added twice, or a factor 1/2 forgotten.",
        0.5: "Half as large.",
        float(batch): f"{batch} times too large, the number of images: a mean is treated as a sum.",
        1.0 / batch: f"{batch} times too small, the number of images: divided by it once too often.",
        float(numbers): f"{numbers} times too large, the number of values: a mean is treated as a sum.",
        1.0 / numbers: f"{numbers} times too small, the number of values: divided by it once too often.",
    }
    return next((words for value, words in known.items() if abs(factor - value) <= CLOSE * abs(value)), None)


def _shape_hint(got: Array, expected: Array) -> str:
    if got.ndim < expected.ndim:
        return "an axis was summed away."
    if got.ndim > expected.ndim:
        return "an axis was not summed over (the batch?)."
    return "check which axes are summed."


def _where(got: Array, expected: Array, wrong: Array, evidence: Evidence) -> str:
    """What is common to the wrong elements, where no idea fits all of them."""
    error = got - expected
    if expected.shape == evidence.input.shape and expected.ndim == 4:
        shared = _shared_term(error, evidence.input, evidence.training)
        if shared is not None:
            return shared
    found = _of_error(got, expected, error, wrong, evidence)
    if found is not None:
        return found
    middle = wrong[:, :, 1:-1, 1:-1] if expected.ndim == 4 else wrong
    if expected.ndim == 4 and middle.size >= wrong.size // 8 and not middle.any():
        return "Only at the border of the maps: padding is treated wrongly."
    for axis in range(expected.ndim):
        others = tuple(other for other in range(expected.ndim) if other != axis)
        right = np.logical_not(wrong.any(axis=others)).reshape(-1)
        if right.any() and not right.all():
            places = np.flatnonzero(~right)
            shown = ", ".join(map(str, places[:6])) + (" ..." if len(places) > 6 else "")
            return f"Only at {shown} of axis {axis} ({len(places)} of {len(right)}); the rest is right."
    zeros = wrong & (got == 0)
    if zeros.sum() == wrong.sum():
        return "Zero where it should not be; the rest is right: some contributions are dropped."
    if wrong.shape == evidence.input.shape and not wrong[evidence.input > 0].any():
        return "Only where the input is negative (or 0): that branch is wrong."
    if wrong.shape == evidence.input.shape and not wrong[evidence.input < 0].any():
        return "Only where the input is positive (or 0): that branch is wrong."
    share = float(np.mean(wrong))
    return f"{share:.0%} of the numbers are off, by up to {np.abs(error).max():.3g}; no simple pattern was found."


def _of_error(got: Array, expected: Array, error: Array, wrong: Array, evidence: Evidence) -> str | None:
    """What the error itself looks like."""
    scale = float(np.abs(expected).max())
    if evidence.grad_output.shape == error.shape:
        factor = _factor(error, evidence.grad_output)
        if factor is not None:
            what = "is missing" if factor < 0 else "is too many"
            return f"Off by {abs(factor):.6g} times grad_output: a way that the gradient takes (a shortcut?) {what}."
    at_wrong = error[wrong]
    if at_wrong.size > 1 and np.ptp(at_wrong) <= CLOSE * scale:
        off, images = float(at_wrong[0]), len(evidence.input)
        share = " (1 / number of images)" if abs(abs(off) - 1 / images) < CLOSE else ""
        return f"All {at_wrong.size} wrong numbers are off by {off:.6g}{share}: a constant is forgotten there."
    if np.abs(np.sort(got, axis=None) - np.sort(expected, axis=None)).max() <= CLOSE * scale:
        return "The numbers are right, but in another order: a reshape where a transpose is needed, or the reverse."
    if expected.ndim == 4:
        sums = (got - expected).sum(axis=(2, 3))
        if np.abs(sums).max() <= CLOSE * scale:
            return "The sum over every map is right, but it goes to the wrong pixels."
    return None


def _shared_term(error: Array, input: Array, training: bool) -> str | None:
    """Batch norm's mistakes: per channel the error is a + b * (input - mean)."""
    axes = (0, 2, 3)
    centred = input - input.mean(axis=axes, keepdims=True)
    constant = error.mean(axis=axes, keepdims=True)
    slope = (error * centred).mean(axis=axes, keepdims=True) / np.square(centred).mean(axis=axes, keepdims=True)
    scale = CLOSE * float(np.abs(error).max())
    if np.abs(error - constant - slope * centred).max() > scale:
        return None
    if not training:
        return "The formula of training, though mean and variance are constants in evaluation."
    missing = []
    if np.abs(constant).max() > scale:
        missing.append("the mean")
    if np.abs(slope * centred).max() > scale:
        missing.append("the variance")
    return f"Off by a term that all pixels of a channel share: {' and '.join(missing)} is taken for a constant."
