"""Multinomial logistic regression on a fixed set of features: quick enough to be fitted a hundred times over.

Two steps make it so. The features are turned into their principal axes once: with fewer rows than columns that leaves
as many columns as rows, and every fit costs O(N^2 K) per step whatever the network's width. And each fit is scaled by a
bound of the loss's curvature along these axes, which L-BFGS then takes for round.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.optimize import minimize

from convcraft.finetune.blas_threads import threads_for

SMALLEST_AXIS = 1e-12  # of the largest eigenvalue: float32 features hold nothing below
LARGEST_EXACT = 1 << 26  # rows x columns x classes; what is larger is fitted in float32, in half the time

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Axes:
    """Standardised features in their principal axes.

    rows: float64 [M, r], r at most min(M, D).
    to_weight: float64 [D, r]: coefficients on the axes -> coefficients on the features as they came.
    mean: float64 [D] of the features.
    """

    rows: Floats
    to_weight: Floats
    mean: Floats

    @classmethod
    def of(cls, features: NDArray[np.float32]) -> Axes:
        """Standardise and turn.

        The turn keeps lengths, so a penalty on the coefficients means the same before and after. Neither step looks
        at labels.

        Args:
            features: float32 [M, D].
        """
        mean, std = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
        # A column that does not vary says nothing: it becomes 0 instead of rounding errors blown up.
        scale = np.where(std > 1e-6 * np.maximum(np.abs(mean), std.max(initial=0.0)), std, np.inf)
        standard = (features - mean) / scale
        if standard.shape[0] <= standard.shape[1]:
            values, left = _largest_axes(standard @ standard.T)
            rows = left * np.sqrt(values)
            directions = standard.T @ (left / np.sqrt(values))
        else:
            _, directions = _largest_axes(standard.T @ standard)
            rows = standard @ directions
        return cls(rows, directions / scale[:, None], mean)

    def linear(self, weight: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """Weight [K, r] and bias [K] on the axes as weight [K, D] and bias [K] on the features."""
        on_features = weight @ self.to_weight.T
        return on_features, bias - on_features @ self.mean


def _largest_axes(gram: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues float64 [r] and eigenvectors [n, r] of a symmetric matrix, without those that are rounding."""
    with threads_for(gram.size):  # a second thread makes eigenvectors of a thousand rows slower, not faster
        values, vectors = eigh(gram, driver="evd", overwrite_a=True, check_finite=False)
    kept = values > SMALLEST_AXIS * max(values[-1], 1e-300)
    return values[kept], vectors[:, kept]


@dataclass(frozen=True)
class LogisticRegression:
    """Multinomial logistic regression on fixed rows, to be fitted with one penalty and choice of rows after another.

    design: [r+1, M], the rows as columns with a last line of ones; float64, or float32 for half the time.
    targets: int64 [M]; every class 0..K-1 must occur.
    """

    design: NDArray
    targets: NDArray[np.int64]
    num_classes: int

    @classmethod
    def on(
        cls, rows: Floats, targets: NDArray[np.int64], num_classes: int, *, exact: bool = True
    ) -> LogisticRegression:
        """rows: float64 [M, r]; quickest where its columns are nearly orthogonal. exact: where that is not too much."""
        dtype = np.float64 if exact and rows.size * num_classes <= LARGEST_EXACT else np.float32
        return cls(np.vstack([rows.T, np.ones(len(rows))]).astype(dtype), targets, num_classes)

    def fit(self, row_weights: Floats, penalty: float, start: Floats | None = None, tolerance: float = 1e-5) -> Floats:
        """The coefficients float64 [K, r+1], the bias last, that minimise

            sum_i row_weights_i * cross_entropy_i + penalty / 2 * |coefficients without bias|^2

        which is scikit-learn's LogisticRegression(C=1 / penalty).

        Args:
            row_weights: float64 [M]; 0 leaves a row out. Every class needs a row above 0.
            start: coefficients to go on from.
            tolerance: largest entry of the gradient at the end, in directions scaled to a curvature of about 1.
        """
        first = None if start is None else start[None]
        return self.fit_folds(row_weights[None], penalty, first, tolerance)[0]

    def fit_folds(self, row_weights: Floats, penalty: float, start: Floats | None, tolerance: float) -> Floats:
        """The coefficients float64 [F, K, r+1] of `fit` for each of F weightings of the rows, found together.

        One product of all of them with the rows costs little more than one of a single fold, where rows are few.

        Args:
            row_weights: float64 [F, M].
            start: float64 [F, K, r+1].
        """
        penalties = np.append(np.full(len(self.design) - 1, penalty), 0.0)
        weights = row_weights.astype(self.design.dtype)[:, None, :]
        # With equal probabilities the curvature is 1 / K of the weighted square; it falls as the fit gets surer.
        curvature = np.square(self.design) @ weights[:, 0].T / self.num_classes  # [r+1, F]
        scale = 1 / np.sqrt(np.maximum(curvature.T.astype(np.float64) + penalties, 1e-12))[:, None, :]
        shape = (len(weights), self.num_classes, len(self.design))

        def loss_and_gradient(scaled: Floats) -> tuple[float, Floats]:
            coefficients = scaled.reshape(shape) * scale
            loss, gradient = self._loss_and_gradient(coefficients, weights)
            pull = coefficients * penalties
            return loss + 0.5 * float(np.vdot(pull, coefficients)), ((gradient + pull) * scale).ravel()

        first = np.zeros(shape) if start is None else start
        options = {"maxiter": 1000, "maxcor": 20, "gtol": tolerance, "ftol": 1e-15}
        with threads_for(self.design.size * self.num_classes):
            found = minimize(loss_and_gradient, (first / scale).ravel(), jac=True, method="L-BFGS-B", options=options)
        return found.x.reshape(shape) * scale

    def logits(self, coefficients: Floats) -> NDArray:
        """[..., K, M] of all rows, those left out of the fit too; coefficients: float64 [..., K, r+1]."""
        rows = coefficients.reshape(-1, len(self.design)).astype(self.design.dtype)
        return (rows @ self.design).reshape(*coefficients.shape[:-1], self.design.shape[1])

    def _loss_and_gradient(self, coefficients: Floats, weights: NDArray) -> tuple[float, Floats]:
        """Of coefficients [F, K, r+1] under weights [F, 1, M]: the sum of the losses, and float64 [F, K, r+1]."""
        logits = self.logits(coefficients)
        logits -= logits.max(axis=1, keepdims=True)
        folds, everyone = np.arange(len(weights))[:, None], np.arange(len(self.targets))
        of_target = logits[folds, self.targets, everyone]
        powers = np.exp(logits, out=logits)
        totals = powers.sum(axis=1)
        loss = np.vdot(weights[:, 0], np.log(totals) - of_target)
        powers *= weights / totals[:, None]
        powers[folds, self.targets, everyone] -= weights[:, 0]  # (softmax - one-hot) * weight, [F, K, M]
        gradient = powers.reshape(-1, powers.shape[-1]) @ self.design.T
        return float(loss), gradient.reshape(coefficients.shape).astype(np.float64)
