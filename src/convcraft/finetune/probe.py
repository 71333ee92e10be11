"""A linear classifier on cached features, its penalty chosen by cross-validation: minutes of training in a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import nn

from convcraft.errors import UserError
from convcraft.finetune.logistic import Axes, Floats, LogisticRegression
from convcraft.finetune.probe_folds import stratified_folds
from convcraft.models.classifier import linear_classifier

# scikit-learn's 1 / C, on standardised features; from strong to weak, so that each fit starts close to its end.
PENALTIES = tuple(float(value) for value in 10.0 ** np.arange(4.0, -2.1, -0.5))
NUM_FOLDS = 5
LEAST_GAIN = 0.01  # share of the log loss by which a weaker penalty must be better to count as progress
STEPS_WITHOUT_GAIN = 2  # the path ends after so many: the weakest penalties take longest to fit
# Of the gradient of a sum over N images, times sqrt(N), while penalties are compared: far below what parts two of them.
CHOICE_TOLERANCE = 6e-4
FINAL_TOLERANCE = 1e-6

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class PenaltyTried:
    """Cross-validated figures of one penalty."""

    penalty: float
    log_loss: float
    accuracy: float


@dataclass(frozen=True)
class LinearProbe:
    """logits = features @ weight.T + bias.

    weight: float32 [K, D]; bias: float32 [K]; both on features as the network gives them.
    penalty: the one chosen, 0 where none was.
    cv_log_loss, cv_accuracy: of held-out images at that penalty; NaN where nothing could be held out. The best of a
        few penalties, so a little too good.
    held_out_logits: float32 [N, K], each image's by a probe that never saw it; NaN where it was never held out.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    penalty: float
    cv_log_loss: float
    cv_accuracy: float
    penalties_tried: tuple[PenaltyTried, ...] = ()
    held_out_logits: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32), repr=False)

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [..., K] of features float32 [..., D]."""
        return features @ self.weight.T + self.bias


def fit_probe(
    features: NDArray[np.float32],
    targets: Ids,
    num_classes: int,
    *,
    groups: Ids | None = None,
    penalties: Sequence[float] = PENALTIES,
    num_folds: int = NUM_FOLDS,
    folds: Ids | None = None,
    class_weights: NDArray[np.float32] | None = None,
    seed: int = 0,
) -> LinearProbe:
    """Fit with every penalty on folds, choose by held-out log loss, fit again on all images.

    Log loss and not accuracy chooses: it moves with every image, accuracy in steps of one. The least is taken, not the
    strongest penalty within one standard error: that rule buys sparser models, which a dense head has no use for.

    Args:
        features: float32 [N, D], or [V+1, N, D] where index 0 is the image and 1..V are views of it. Views are further
            rows of the same image, in the same fold, each with weight 1 / (V+1); only images themselves are judged.
        targets: int64 [N], 0..K-1. A class without images gets weights of 0 and a bias below all others.
        num_classes: K.
        groups: int64 [N], equal for near copies; they share a fold.
        penalties: falling; see `LogisticRegression.fit`. A single one is taken without being tried.
        folds: int64 [N] as `stratified_folds` gives them, instead of groups, num_folds and seed.
        class_weights: float32 [K], of each image's loss, in fitting and choosing.
        seed: of the folds.

    Raises:
        UserError: shapes that disagree, features that are not finite, targets outside 0..K-1 or of one class alone.
    """
    stacked = checked_rows(features, targets, num_classes)
    problem = _Problem.of(stacked, targets, class_weights)
    tried: list[PenaltyTried] = []
    best_logits = np.full((len(targets), len(problem.classes)), np.nan)
    if folds is None:
        folds = stratified_folds(targets, np.arange(len(targets)) if groups is None else groups, num_folds, seed)
    chosen = float(penalties[0])
    if len(penalties) > 1 and (folds >= 0).any():
        tried, best_logits = _try_penalties(problem, folds, penalties)
        chosen = min(tried, key=lambda each: each.log_loss).penalty
    best = next((each for each in tried if each.penalty == chosen), PenaltyTried(chosen, np.nan, np.nan))
    weight, bias = problem.fit_all(chosen)
    return LinearProbe(
        *whole_head(problem.classes, weight, bias, stacked[0], num_classes),
        chosen,
        best.log_loss,
        best.accuracy,
        tuple(tried),
        all_columns(best_logits, problem.classes, num_classes),
    )


def checked_rows(features: NDArray[np.float32], targets: Ids, num_classes: int) -> NDArray[np.float32]:
    """Features as [V+1, N, D], fit to be learned from.

    Raises:
        UserError: as `fit_probe`.
    """
    stacked = features[None] if features.ndim == 2 else features
    if stacked.ndim != 3 or stacked.shape[1] != len(targets):
        received = f"features {list(features.shape)} for {len(targets)} targets"
        raise UserError(received, "[N, D] or [V+1, N, D]", "Give one row, or V+1 rows, per image.")
    if not np.isfinite(stacked).all():
        raise UserError("features with NaN or infinity", "finite numbers", "Check weights and preprocessing.")
    if len(targets) and not 0 <= targets.min() <= targets.max() < num_classes:
        received = f"targets from {targets.min()} to {targets.max()}"
        raise UserError(received, f"0 to {num_classes - 1}", "Index labels by the run's class list.")
    if len(np.unique(targets)) < 2:
        raise UserError("images of fewer than two classes", "at least two", "Add images of another class.")
    return stacked


@dataclass(frozen=True)
class _Problem:
    """Rows are the N images first and then their views; classes are numbered by those that occur.

    targets: int64 [N]. row_weights: float64 [V+1, N].
    """

    axes: Axes
    regression: LogisticRegression
    targets: Ids
    classes: Ids
    row_weights: Floats

    @classmethod
    def of(cls, stacked: NDArray[np.float32], targets: Ids, class_weights: NDArray[np.float32] | None) -> _Problem:
        num_views, num_images, width = stacked.shape
        classes, own = np.unique(targets, return_inverse=True)
        weights = np.ones(num_images) if class_weights is None else np.asarray(class_weights, np.float64)[targets]
        axes = Axes.of(stacked.reshape(num_views * num_images, width))
        regression = LogisticRegression.on(axes.rows, np.tile(own, num_views), len(classes), exact=False)
        return cls(axes, regression, own, classes, np.tile(weights / num_views, (num_views, 1)))

    def fit_folds(self, held_out: NDArray[np.bool_], penalty: float, start: Floats | None) -> Floats:
        """Coefficients [F, K', r+1], each from all images but those held out, bool [F, N]."""
        weights = (self.row_weights * ~held_out[:, None, :]).reshape(len(held_out), -1)
        return self.regression.fit_folds(weights, penalty, start, CHOICE_TOLERANCE * len(self.targets) ** 0.5)

    def fit_all(self, penalty: float) -> tuple[Floats, Floats]:
        """Weight [K', D] and bias [K'] on the features as they came."""
        exact = LogisticRegression.on(self.axes.rows, self.regression.targets, len(self.classes))
        coefficients = exact.fit(self.row_weights.ravel(), penalty, None, FINAL_TOLERANCE)
        return self.axes.linear(coefficients[:, :-1], coefficients[:, -1])

    def judge(self, logits: Floats, penalty: float) -> PenaltyTried:
        """Figures of held-out logits float64 [N, K']; rows of NaN were not held out."""
        judged = ~np.isnan(logits[:, 0])
        logits, targets = logits[judged], self.targets[judged]
        losses = logsumexp(logits, axis=1) - logits[np.arange(len(targets)), targets]
        accuracy = float((logits.argmax(axis=1) == targets).mean())
        return PenaltyTried(penalty, float(np.average(losses, weights=self.row_weights[0, judged])), accuracy)


def _try_penalties(problem: _Problem, folds: Ids, penalties: Sequence[float]) -> tuple[list[PenaltyTried], Floats]:
    """Figures of each penalty until they gain no more, and the held-out logits [N, K'] of the best."""
    tried: list[PenaltyTried] = []
    best_logits = np.full((len(folds), len(problem.classes)), np.nan)
    held_out = np.stack([folds == fold for fold in np.unique(folds[folds >= 0])])
    coefficients: Floats | None = None
    least, since_gain = np.inf, 0
    for penalty in penalties:
        logits = np.full_like(best_logits, np.nan)
        coefficients = problem.fit_folds(held_out, penalty, coefficients)
        for out, of_fold in zip(held_out, problem.regression.logits(coefficients), strict=True):
            logits[out] = of_fold[:, : len(folds)].T[out]
        tried.append(problem.judge(logits, penalty))
        if tried[-1].log_loss <= min(each.log_loss for each in tried):
            best_logits = logits
        gained = tried[-1].log_loss < least * (1 - LEAST_GAIN)
        least, since_gain = (tried[-1].log_loss, 0) if gained else (least, since_gain + 1)
        # Few images need weak penalties: where nothing was learned yet, standing still is no end.
        if since_gain >= STEPS_WITHOUT_GAIN and least < tried[0].log_loss:
            break
    return tried, best_logits


def whole_head(
    classes: Ids, weight: Floats, bias: Floats, features: NDArray[np.float32], num_classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight [K, D] and bias [K] with a row for the classes without images too.

    Their best bias would be minus infinity; they get what one image among N + 1 would suggest, below the lowest logit.
    """
    whole_weight = np.zeros((num_classes, weight.shape[1]), np.float32)
    whole_weight[classes] = weight
    lowest = (features @ weight.T.astype(np.float32) + bias.astype(np.float32)).min()
    whole_bias = np.full(num_classes, lowest - np.log(len(features) + 1), np.float32)
    whole_bias[classes] = bias
    return whole_weight, whole_bias


def all_columns(logits: Floats, classes: Ids, num_classes: int) -> NDArray[np.float32]:
    """Held-out logits [N, K'] as [N, K]; classes without images get the lowest of each row."""
    lowest = logits.min(axis=1, keepdims=True) - np.log(len(logits) + 1)
    whole = np.repeat(lowest, num_classes, axis=1)
    whole[:, classes] = logits
    return whole.astype(np.float32)


def install(probe: LinearProbe, model: nn.Module) -> None:
    """Make the probe the network's own last layer; its logits are then the probe's.

    Raises:
        UserError: the network's last layer is not linear, or has other inputs or classes.
    """
    _, classifier = linear_classifier(model)
    if classifier.bias is None:
        received = f"a last layer {classifier}"
        raise UserError(received, "a linear layer with bias", "Choose a network that ends in one.")
    if classifier.weight.shape != probe.weight.shape:
        received = f"a probe {list(probe.weight.shape)} for a last layer {list(classifier.weight.shape)}"
        raise UserError(received, "equal shapes", "Fit the probe to features of this network.")
    with torch.no_grad():
        classifier.weight.copy_(torch.from_numpy(probe.weight))
        classifier.bias.copy_(torch.from_numpy(probe.bias))
