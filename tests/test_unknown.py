"""Scores of strangeness against scikit-learn and SciPy, and the threshold's false rejects."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save
from scipy.special import logsumexp
from scipy.stats import beta
from sklearn.covariance import ledoit_wolf as sklearn_ledoit_wolf
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from convcraft.errors import UserError
from convcraft.evaluation.unknown import (
    Mahalanobis,
    NearestNeighbours,
    UnknownThreshold,
    energy,
    fit_mahalanobis,
    fit_neighbours,
    fit_threshold,
)

Case = tuple[NDArray[np.float32], NDArray[np.int64]]


def clouds(num_images: int, width: int = 12, seed: int = 0) -> Case:
    """Features of three classes that scatter alike, wide in some directions and narrow in others."""
    random = np.random.default_rng(seed)
    targets = random.integers(0, 3, num_images)
    scatter = (
        np.diag(np.linspace(0.2, 3.0, width)) @ np.linalg.qr(np.random.default_rng(9).normal(size=(width,) * 2))[0]
    )
    means = 4 * np.random.default_rng(8).normal(size=(3, width))
    return (means[targets] + random.normal(size=(num_images, width)) @ scatter).astype(np.float32), targets


def separation(known: NDArray[np.float64], unknown: NDArray[np.float64]) -> float:
    labels = np.arange(len(known) + len(unknown)) >= len(known)
    return float(roc_auc_score(labels, np.concatenate([known, unknown])))


def test_energy_is_that_of_scipy() -> None:
    logits = np.random.default_rng(0).normal(scale=5, size=(50, 7)).astype(np.float32)
    assert energy(logits) == pytest.approx(-logsumexp(logits.astype(float), axis=1), rel=1e-12)
    assert (energy(logits, "nll") == energy(logits)).all()
    assert energy([[3e38, 0.0]]) == pytest.approx([-3e38])
    assert energy([[0.0, 0.0]], "bce") == pytest.approx([-2 * np.log(2)])


def test_small_logits_are_stranger_than_large_ones() -> None:
    assert energy([[0.1, 0.0, 0.0]])[0] > energy([[9.0, 0.0, 0.0]])[0]
    assert energy([[-5.0, -5.0]], "bce")[0] > energy([[5.0, -5.0]], "bce")[0]


def test_energy_of_squared_error_is_refused() -> None:
    with pytest.raises(UserError, match="energy with loss 'mse'"):
        energy([[1.0, 0.0]], "mse")


def test_mahalanobis_is_the_formula_with_scikit_learn_s_covariance() -> None:
    features, targets = clouds(80)
    means = np.stack([features[targets == index].mean(axis=0) for index in range(3)]).astype(float)
    covariance, shrinkage = sklearn_ledoit_wolf(features.astype(float) - means[targets], assume_centered=True)
    found = fit_mahalanobis(features, targets)
    assert found.shrinkage == pytest.approx(shrinkage, rel=1e-6)
    assert 0 < found.shrinkage < 1
    others = clouds(30, seed=1)[0] + 1
    gaps = others[:, None, :] - means
    expected = np.einsum("nkd,de,nke->nk", gaps, np.linalg.inv(covariance), gaps).min(axis=1)
    assert found.score(others) == pytest.approx(expected, rel=1e-4)


def test_relative_mahalanobis_subtracts_the_distance_to_all_images() -> None:
    features, targets = clouds(80)
    centred = features.astype(float) - features.mean(axis=0, dtype=float)
    covariance, _ = sklearn_ledoit_wolf(centred, assume_centered=True)
    others = clouds(30, seed=1)[0]
    gaps = others - features.mean(axis=0, dtype=float)
    far = np.einsum("nd,de,ne->n", gaps, np.linalg.inv(covariance), gaps)
    plain, relative = fit_mahalanobis(features, targets), fit_mahalanobis(features, targets, relative=True)
    assert relative.score(others) == pytest.approx(plain.score(others) - far, rel=1e-3, abs=1e-3)


def test_more_features_than_images_still_has_an_inverse() -> None:
    features, targets = clouds(10, width=40)
    found = fit_mahalanobis(features, targets)
    assert np.isfinite(found.score(features)).all()
    assert found.score(features + 50).min() > found.score(features).max()


def test_features_that_never_change_do_not_matter_but_for_their_change() -> None:
    features, targets = clouds(200)
    dead = np.concatenate([features, np.zeros((200, 5), np.float32)], axis=1)
    found = fit_mahalanobis(dead, targets)
    assert np.isfinite(found.score(dead)).all()
    woken = dead.copy()
    woken[:, -1] = 10
    assert (found.score(woken) > found.score(dead)).all()


def test_a_class_without_images_draws_nothing_near() -> None:
    features, targets = clouds(90)
    assert (
        fit_mahalanobis(features, targets * 2).score(features) == fit_mahalanobis(features, targets).score(features)
    ).all()


def test_neighbours_are_those_of_scikit_learn() -> None:
    features, _ = clouds(300)
    found = fit_neighbours(features, neighbour=7)
    others = clouds(2000, seed=1)[0]
    expected = NearestNeighbors(n_neighbors=7).fit(normalize(features)).kneighbors(normalize(others))[0][:, -1]
    assert found.score(others) == pytest.approx(expected, abs=2e-3)  # float32 cosines: 1e-7 near 1 is 4e-4 of distance


def test_bank_is_a_seeded_sample_and_few_images_have_a_last_neighbour() -> None:
    features, _ = clouds(300)
    first, again, other = (fit_neighbours(features, largest_bank=50, seed=seed) for seed in (0, 0, 1))
    assert first.bank.shape == (50, 12)
    assert (first.bank == again.bank).all()
    assert (first.bank != other.bank).any()
    assert fit_neighbours(features[:3]).neighbour == 3
    assert fit_neighbours(features, neighbour=1).score(features).max() < 2e-3


def test_an_image_without_features_is_as_far_from_all() -> None:
    assert fit_neighbours(clouds(20)[0]).score(np.zeros((1, 12))) == pytest.approx([math.sqrt(2)])


@pytest.mark.parametrize("relative", [False, True])
def test_features_survive_safetensors_exactly(relative: bool) -> None:
    features, targets = clouds(60)
    fitted = fit_mahalanobis(features, targets, relative=relative)
    again = Mahalanobis.from_tensors(load(save(fitted.tensors())))
    assert (again.score(features) == fitted.score(features)).all()
    neighbours = fit_neighbours(features)
    assert (
        NearestNeighbours.from_tensors(load(save(neighbours.tensors()))).score(features) == neighbours.score(features)
    ).all()


def test_far_features_are_stranger_than_fresh_known_ones() -> None:
    features, targets = clouds(600)
    known, far = clouds(300, seed=1)[0], 8 * np.random.default_rng(5).normal(size=(300, 12))
    for fitted in (fit_mahalanobis(features, targets), fit_neighbours(features)):
        assert separation(fitted.score(known), fitted.score(far)) > 0.9


def test_relative_mahalanobis_sees_what_lies_between_the_classes_better() -> None:
    """Unknowns in the cloud of all images and far from each class, along directions in which images scatter widely."""
    random = np.random.default_rng(0)
    width, centres = 40, 6 * np.eye(3, 40)
    targets = random.integers(0, 3, 900)
    features = centres[targets] + random.normal(size=(900, width))
    unknown = centres.mean(axis=0) + random.normal(size=(300, width)) + np.eye(3, 40)[0] * 2
    plain, relative = (fit_mahalanobis(features[:600], targets[:600], relative=flag) for flag in (False, True))
    of_plain = separation(plain.score(features[600:]), plain.score(unknown))
    of_relative = separation(relative.score(features[600:]), relative.score(unknown))
    assert of_relative > of_plain + 0.03 > 0.75


def test_false_rejects_over_many_draws_are_as_promised() -> None:
    """The share above the threshold of n scores is Beta(n + 1 - rank, rank): its mean is at most 5 %."""
    random, shares = np.random.default_rng(0), []
    for _ in range(400):
        found = fit_threshold(random.normal(size=100), "energy")
        shares.append(float(found.unknown(random.normal(size=2000)).mean()))
    theory = beta(101 - 96, 96)
    assert np.mean(shares) == pytest.approx(theory.mean(), abs=3.5 * theory.std() / 20)
    assert np.mean(shares) < 0.053


def test_too_few_images_call_nothing_unknown() -> None:
    found = fit_threshold(np.arange(18.0), "energy")
    assert math.isinf(found.value)
    assert not found.unknown([1e30]).any()
    assert fit_threshold(np.arange(19.0), "energy").value == 18
    assert UnknownThreshold.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found


def test_threshold_survives_json_exactly() -> None:
    found = fit_threshold(np.random.default_rng(0).normal(size=50), "mahalanobis", 0.1)
    assert UnknownThreshold.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    for broken in ({}, {**found.to_dict(), "value": float("nan")}, {**found.to_dict(), "more": 1}):
        with pytest.raises(UserError, match="threshold entries"):
            UnknownThreshold.from_dict(broken)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: energy([[np.nan, 0.0]]), "logits with NaN"),
        (lambda: energy([1.0]), r"logits \[1\]"),
        (lambda: fit_mahalanobis(np.zeros((3, 2)), [0, 1]), "targets int64"),
        (lambda: fit_mahalanobis([[1.0, 2.0], [3.0, 4.0]], [0, 1]), "without any scatter"),
        (lambda: fit_mahalanobis(*clouds(20)).score(np.zeros((1, 5))), r"features \[1, 5\]"),
        (lambda: fit_mahalanobis(*clouds(20)).score(np.full((1, 12), np.inf)), "features with NaN or infinity"),
        (lambda: fit_neighbours(np.zeros((0, 3))), "0 features"),
        (lambda: fit_neighbours(np.ones((3, 3)), neighbour=0), "neighbour 0"),
        (lambda: fit_threshold([1.0, np.nan], "energy"), "scores"),
        (lambda: fit_threshold([1.0], "energy", 0.0), "coverage 1.0"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=message):
        call()
