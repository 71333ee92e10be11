"""Temperature scaling: one number, fitted on validation images, that says how far a network's confidence is to go down.

NumPy alone, so that it can be applied where there is no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcraft.errors import UserError
from convcraft.evaluation.probabilities import probabilities_of
from convcraft.evaluation.reliability import calibration

LOWEST, HIGHEST = 0.05, 20.0  # sharper or flatter than 20 times is no calibration
BELIEVED_IMAGES = 5.0  # so many images' worth of belief that the network is calibrated as it is
HALVINGS = 50  # of the search on log T: finds T to 1e-14 of itself
LOSSES = ("cross_entropy", "nll", "bce", "mse")

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Temperature:
    """What probabilities are raised to: p_k^(1/T), divided by their sum. Never changes which class is the first.

    value: T, 0.05..20; above 1 the network was too sure, below 1 not sure enough.
    loss: `training.loss` of the run. cross_entropy, nll: p is the softmax, so that T divides the logits, as in the
        paper. bce: p is each class's sigmoid divided by their sum; T sharpens or flattens that, not the sigmoids.
        mse: p is the distribution nearest to the logits with 1e-3 spread over all classes. T then acts on p; a class
        that the network ruled out has a p of 1e-3 / K, not 0, and may rise with T.
    num_images: that it was fitted on.
    log_loss_before, log_loss_after: mean -log p of the true class on them, in nats; after is never above before.
    calibration_error_before, calibration_error_after: ECE (Guo et al. 2017), 15 bins, on the same images, so that
        `after` flatters a little; the error on other images must be measured on other images.
    note: what to know before trusting it; empty where nothing is odd.
    """

    value: float
    loss: str
    num_images: int
    log_loss_before: float
    log_loss_after: float
    calibration_error_before: float
    calibration_error_after: float
    note: str = ""

    def __post_init__(self) -> None:
        _check_loss(self.loss)
        if not LOWEST <= self.value <= HIGHEST:
            fix = "Fit it again on validation images."
            raise UserError(f"temperature {self.value}", f"a number from {LOWEST} to {HIGHEST}", fix)

    def probabilities(self, logits: ArrayLike) -> NDArray[np.float32]:
        """Calibrated probabilities float32 [N, K] of logits [N, K]."""
        return np.exp(_log_softmax(log_probabilities(logits, self.loss) / self.value)).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Temperature:
        """Of what `to_dict` gave.

        Raises:
            UserError: entries that are missing, unknown or out of range.
        """
        try:
            return cls(**saved)
        except TypeError as error:
            raise UserError(f"temperature entries {sorted(saved)}", "those of to_dict()", "Fit it again.") from error


def fit_temperature(
    logits: ArrayLike,
    targets: ArrayLike,
    loss: str = "cross_entropy",
    believed_images: float = BELIEVED_IMAGES,
    lowest: float = LOWEST,
) -> Temperature:
    """The temperature of the least log-loss on validation images.

    The log-loss is convex in 1/T, so that the sign of its slope, halving by halving of log T, finds the one minimum
    between 0.05 and 20. Few images alone would push T to an end (all right: to 0; all wrong: up). So the network's own
    word counts as `believed_images` further images on which it is calibrated (the conjugate prior of this exponential
    family, with its mode at T = 1): with 5 images T goes about half way, with 1,000 it is left alone.

    Args:
        logits: float32 [N, K] of images that were not trained on.
        targets: int64 [N], 0..K-1.
        loss: that the run was trained by.
        believed_images: 0 gives the plain maximum likelihood of the paper.
        lowest: 1 only ever lowers confidence.

    Raises:
        UserError: no images, shapes that disagree, logits that are not finite, or an unknown loss.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017, arXiv:1706.04599, section 4.2; prior: Diaconis
    and Ylvisaker, "Conjugate priors for exponential families", Annals of Statistics 7 (1979).
    """
    rows, labels = log_probabilities(logits, loss), np.asarray(targets)
    _check_labels(labels, rows)
    if not believed_images >= 0:
        raise UserError(f"believed_images {believed_images}", "a number of at least 0", f"{BELIEVED_IMAGES} is usual.")
    of_target = np.take_along_axis(rows, labels[:, None], axis=1)[:, 0]
    own_word = (np.exp(rows) * rows).sum(axis=1)  # mean of log p under p itself
    weight = len(rows) / (len(rows) + believed_images)
    wanted = float((weight * of_target + (1 - weight) * own_word).mean())

    def slope(log_temperature: float) -> float:
        """Of the objective along 1/T; rises with 1/T, so it falls with log T."""
        return float((np.exp(_log_softmax(rows / np.exp(log_temperature))) * rows).sum(axis=1).mean()) - wanted

    flat = float(np.ptp(rows, axis=1).max()) < 1e-12  # no temperature changes anything
    value = 1.0 if flat else _falling_zero(slope, lowest, HIGHEST)
    return _described(value, rows, labels, loss)


def log_probabilities(logits: ArrayLike, loss: str) -> Rows:
    """log p float64 [N, K], as far as float64 reaches (`probabilities_of` rounds to float32, where 1e-46 is 0).

    Raises:
        UserError: an unknown loss, or logits that are not [N, K] and finite.
    """
    _check_loss(loss)
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 2 or not values.shape[1] or not np.isfinite(values).all():
        received = f"logits {list(values.shape)}{'' if np.isfinite(values).all() else ' with NaN or infinity'}"
        raise UserError(received, "finite numbers [N, K]", "Give the outputs of the network's classifier.")
    if loss == "mse":
        return _log_softmax(np.log(probabilities_of(values, loss).astype(np.float64)))
    return _log_softmax(-np.logaddexp(0.0, -values) if loss == "bce" else values)


def _check_labels(labels: NDArray[Any], rows: Rows) -> None:
    if not len(rows):
        raise UserError("no images", "at least one validation image", "Check that the split is not empty.")
    if labels.shape != (len(rows),) or not np.issubdtype(labels.dtype, np.integer):
        received = f"targets {labels.dtype} {list(labels.shape)}"
        raise UserError(received, f"int64 [{len(rows)}]", "Give one class index per image.")
    if labels.min() < 0 or labels.max() >= rows.shape[1]:
        received = f"targets from {labels.min()} to {labels.max()}"
        raise UserError(received, f"0 to {rows.shape[1] - 1}", "Index the labels by the class list of the run.")


def _check_loss(loss: str) -> None:
    if loss not in LOSSES:
        raise UserError(f"loss {loss!r}", ", ".join(LOSSES), "Give training.loss of the run.")


def _log_softmax(values: Rows) -> Rows:
    shifted = values - values.max(axis=1, keepdims=True, initial=-np.inf)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _falling_zero(slope: Callable[[float], float], low: float, high: float) -> float:
    """low..high where a function that falls with the logarithm passes 0; an end where it does not."""
    ends = low, high
    low, high = float(np.log(low)), float(np.log(high))
    if slope(low) <= 0:
        return ends[0]
    if slope(high) >= 0:
        return ends[1]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if slope(middle) > 0:
            low = middle
        else:
            high = middle
    return float(np.clip(np.exp((low + high) / 2), *ends))


def _described(value: float, rows: Rows, labels: NDArray[Any], loss: str) -> Temperature:
    figures = []
    correct = rows.argmax(axis=1) == labels
    for temperature in (1.0, value):
        tempered = _log_softmax(rows / temperature)
        error = calibration(np.exp(tempered.max(axis=1)).astype(np.float32), correct).expected_error
        figures.append((-float(np.take_along_axis(tempered, labels[:, None], axis=1).mean()), error))
    (loss_before, error_before), (loss_after, error_after) = figures
    return Temperature(
        value, loss, len(rows), loss_before, loss_after, error_before, error_after, _note(value, rows, labels, correct)
    )


def _note(value: float, rows: Rows, labels: NDArray[Any], correct: NDArray[np.bool_]) -> str:
    notes = []
    if len(rows) < 100:
        notes.append(f"Only {len(rows)} images: the temperature is kept near 1.")
    if correct.all() or not correct.any():
        notes.append(f"All images are {'right' if correct.all() else 'wrong'}: they bound the temperature on one side.")
    if value in (LOWEST, HIGHEST):
        notes.append(f"The temperature stands at its bound of {value:g}.")
    if rows.shape[1] > 1 and len(np.unique(labels)) == 1:
        notes.append("All images are of one class: of the others nothing is known.")
    return " ".join(notes)
