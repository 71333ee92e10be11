"""Pseudo-unknowns keep what they promise of an image, and the score that finds them is chosen."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from convcraft.errors import UserError
from convcraft.evaluation.pseudo_unknowns import KINDS, choose_score, pseudo_unknowns, unknown_auroc


def test_auroc_is_that_of_scikit_learn_with_ties() -> None:
    random = np.random.default_rng(0)
    known, unknown = random.integers(0, 9, 80).astype(float), random.integers(3, 12, 50).astype(float)
    expected = roc_auc_score([0] * 80 + [1] * 50, np.concatenate([known, unknown]))
    assert unknown_auroc(known, unknown) == pytest.approx(expected, abs=1e-12)


def test_pseudo_unknowns_keep_what_they_promise() -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (6, 18, 16, 3), dtype=np.uint8)
    targets = np.array([0, 0, 1, 1, 2, 2])
    made = pseudo_unknowns(pixels, targets)
    assert set(made) == set(KINDS)
    assert all(values.shape == pixels.shape and values.dtype == np.uint8 for values in made.values())
    assert all((values == pseudo_unknowns(pixels, targets)[kind]).all() for kind, values in made.items())
    assert np.abs(made["blank"].astype(float) - pixels.mean(axis=(1, 2), keepdims=True)).max() <= 0.5
    for kind in ("pixels", "patches"):  # the same pixels, elsewhere
        assert (made[kind] != pixels).any()
        for before, after in zip(pixels, made[kind], strict=True):
            assert (np.sort(after.reshape(-1, 3), axis=0) == np.sort(before.reshape(-1, 3), axis=0)).all()
    assert (made["patches"][:, 16:] == pixels[:, 16:]).all()
    blended = [
        [index for index in range(6) if ((pixels[row].astype(int) + pixels[index]) // 2 == made["blend"][row]).all()]
        for row in range(6)
    ]
    assert all(len(found) == 1 and targets[found[0]] != targets[row] for row, found in enumerate(blended))


def test_phase_keeps_mean_and_spectrum() -> None:
    rows, columns = np.mgrid[:16, :16]
    smooth = (128 + 40 * np.sin(rows / 3) * np.cos(columns / 4)).astype(np.uint8)
    image = np.repeat(smooth[None, :, :, None], 3, axis=3)
    made = pseudo_unknowns(image, np.array([0]))
    assert set(made) == set(KINDS) - {"blend"}  # one class alone
    found = made["phase"][0].astype(float)
    assert found.mean() == pytest.approx(image.mean(), abs=0.6)
    assert np.ptp(found, axis=2).max() <= 1  # grey stays grey
    before, after = (np.abs(np.fft.fft2(values)) for values in (smooth.astype(float), found[..., 0]))
    assert np.corrcoef(before.ravel()[1:], after.ravel()[1:])[0, 1] > 0.99
    assert np.abs(found[..., 0] - smooth).mean() > 5


def test_the_score_that_finds_pseudo_unknowns_is_chosen() -> None:
    random = np.random.default_rng(0)
    known = {"energy": random.normal(size=100), "mahalanobis": random.normal(size=100)}
    unknown = {
        "energy": {"blank": random.normal(1, size=90), "blend": random.normal(0, size=90)},
        "mahalanobis": {"blank": random.normal(2, size=90), "blend": random.normal(1, size=90)},
    }
    score, table = choose_score(known, unknown)
    assert score == "mahalanobis"
    assert table["energy"]["blank"] == unknown_auroc(known["energy"], unknown["energy"]["blank"])


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match="0 known"):
        unknown_auroc(np.zeros(0), np.zeros(2))
    with pytest.raises(UserError, match="pixels"):
        pseudo_unknowns(np.zeros((1, 3, 9, 3), np.uint8), np.array([0]))
