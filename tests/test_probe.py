"""The probe against scikit-learn, its folds, its choice of a penalty, and its place in a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression as Reference
from torch import nn

from convcraft.config import ModelConfig
from convcraft.errors import UserError
from convcraft.finetune.logistic import Axes, LogisticRegression
from convcraft.finetune.probe import fit_probe, install
from convcraft.finetune.probe_folds import stratified_folds
from convcraft.models.build import build_model


def blobs(num_images: int, width: int, num_classes: int, seed: int = 0, spread: float = 2.0):
    """Features float32 [N, D] around one centre per class, on scales that differ by far; and targets."""
    generator = np.random.default_rng(seed)
    targets = np.arange(num_images) % num_classes
    centres = np.random.default_rng(99).normal(size=(num_classes, width))
    features = centres[targets] + spread * generator.normal(size=(num_images, width))
    return (features * np.logspace(-2, 2, width) + 3.0).astype(np.float32), targets.astype(np.int64)


def standardised(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean, std = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    return (features - mean) / std, mean, std


@pytest.mark.parametrize(
    ("num_images", "width", "num_classes"), [(60, 200, 2), (60, 200, 3), (300, 20, 4), (40, 40, 2)]
)
@pytest.mark.parametrize("penalty", [0.3, 10.0])
def test_same_coefficients_as_scikit_learn(num_images, width, num_classes, penalty):
    features, targets = blobs(num_images, width, num_classes)
    probe = fit_probe(features, targets, num_classes, penalties=(penalty,))
    rows, mean, std = standardised(features)
    reference = Reference(C=1 / penalty, tol=1e-10, max_iter=20_000).fit(rows, targets)
    # scikit-learn fits two classes by one row of coefficients, whose penalty is that of two rows of half the size.
    coefficients, intercept = reference.coef_, reference.intercept_
    if num_classes == 2:
        reference = Reference(C=2 / penalty, tol=1e-10, max_iter=20_000).fit(rows, targets)
        coefficients = np.vstack([-reference.coef_, reference.coef_]) / 2
        intercept = np.append(-reference.intercept_, reference.intercept_) / 2
    weight = coefficients / std
    bias = intercept - weight @ mean
    assert np.allclose(probe.weight * std, coefficients, atol=2e-4 * np.abs(coefficients).max())
    logits = features @ weight.T + bias
    ours = probe.logits(features).astype(np.float64)
    gap = (ours - ours.mean(axis=1, keepdims=True)) - (logits - logits.mean(axis=1, keepdims=True))
    assert np.abs(gap).max() < 5e-3


def test_another_penalty_gives_other_coefficients():
    features, targets = blobs(60, 200, 2)
    one, other = (fit_probe(features, targets, 2, penalties=(penalty,)).weight for penalty in (10.0, 11.0))
    assert np.abs(one - other).max() > 5e-3 * np.abs(one).max()


def test_row_weights_count_as_copies():
    features, targets = blobs(40, 10, 3)
    rows = Axes.of(features).rows
    weights = np.tile([1.0, 3.0], 20)
    weighted = LogisticRegression.on(rows, targets, 3).fit(weights, 1.0)
    copied = np.repeat(np.arange(40), weights.astype(int))
    alike = LogisticRegression.on(rows[copied], targets[copied], 3).fit(np.ones(len(copied)), 1.0)
    assert np.allclose(weighted, alike, atol=1e-5)


def test_equal_views_change_nothing():
    features, targets = blobs(60, 30, 3)
    alone = fit_probe(features, targets, 3, seed=4)
    repeated = fit_probe(np.stack([features] * 3), targets, 3, seed=4)
    assert repeated.penalty == alone.penalty
    assert repeated.cv_log_loss == pytest.approx(alone.cv_log_loss, rel=1e-3)
    assert np.allclose(repeated.weight, alone.weight, atol=1e-3 * np.abs(alone.weight).max())


def test_views_of_a_held_out_image_are_held_out_too():
    """Labels by chance cannot be learned; only a view in another fold could betray them."""
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(80, 400)).astype(np.float32)  # each image is known again by its noise
    targets = generator.integers(0, 2, 80)
    probe = fit_probe(np.stack([noise, noise + 0.01, noise - 0.01]), targets, 2)
    assert probe.cv_accuracy < 0.7
    by_heart = fit_probe(noise, targets, 2, penalties=(0.1,))
    assert (by_heart.logits(noise).argmax(axis=1) == targets).all()  # the noise does tell images apart


def test_near_copies_share_a_fold():
    generator = np.random.default_rng(1)
    originals = generator.normal(size=(40, 400)).astype(np.float32)
    labels = generator.integers(0, 2, 40)
    features, targets, groups = np.repeat(originals, 2, axis=0), np.repeat(labels, 2), np.repeat(np.arange(40), 2)
    assert fit_probe(features, targets, 2).cv_accuracy > 0.75  # the copy in another fold betrays the label
    assert fit_probe(features, targets, 2, groups=groups).cv_accuracy < 0.7


def test_chooses_a_penalty_that_fits_the_noise():
    easy, targets = blobs(200, 50, 2, spread=0.5)
    noisy, _ = blobs(200, 50, 2, spread=15.0)
    assert fit_probe(easy, targets, 2).penalty < fit_probe(noisy, targets, 2).penalty
    probe = fit_probe(noisy, targets, 2)
    assert probe.cv_log_loss == min(each.log_loss for each in probe.penalties_tried)


def test_held_out_figures_are_those_of_the_held_out_logits():
    features, targets = blobs(90, 20, 3, spread=4.0)
    probe = fit_probe(features, targets, 3)
    assert probe.cv_accuracy == pytest.approx((probe.held_out_logits.argmax(axis=1) == targets).mean())
    folds = stratified_folds(targets, np.arange(90), 5, 0)
    learned = folds != 0
    rows = Axes.of(features).rows
    regression = LogisticRegression.on(rows, targets, 3)
    alone = regression.logits(regression.fit(learned.astype(float), probe.penalty))[:, ~learned].T
    assert np.allclose(alone, probe.held_out_logits[~learned], atol=0.02)


def test_classes_that_folds_or_data_lack():
    features, targets = blobs(61, 20, 3)
    targets[:-1] = targets[:-1] % 2
    targets[-1] = 4  # one image of class 4, none of classes 2 and 3
    probe = fit_probe(features, targets, 6, penalties=(1.0, 0.1))
    assert probe.weight.shape == (6, 20)
    assert np.isfinite(probe.weight).all()
    assert np.isfinite(probe.cv_log_loss)
    assert np.isnan(probe.held_out_logits[-1]).all()  # never held out: nothing else tells of its class
    logits = probe.logits(features)
    assert not set(logits.argmax(axis=1).tolist()) & {2, 3, 5}
    assert logits[-1].argmax() == 4


def test_one_image_per_class_takes_the_first_penalty():
    features, targets = blobs(3, 8, 3)
    probe = fit_probe(features, targets, 3)
    assert np.isnan(probe.cv_log_loss)
    assert (probe.logits(features).argmax(axis=1) == targets).all()


def test_constant_columns_get_no_weight():
    features, targets = blobs(50, 10, 2)
    features[:, 3] = 7.0
    assert (fit_probe(features, targets, 2).weight[:, 3] == 0).all()


def test_class_weights_pull_towards_the_rare_class():
    features, targets = blobs(400, 5, 2, spread=6.0)
    rare = (targets == 0) | (np.arange(400) % 20 == 1)
    features, targets = features[rare], targets[rare]
    plain = fit_probe(features, targets, 2, penalties=(1.0,))
    balanced = fit_probe(features, targets, 2, penalties=(1.0,), class_weights=np.float32([0.2, 4.0]))
    assert (balanced.logits(features).argmax(axis=1) == 1).sum() > 2 * (
        plain.logits(features).argmax(axis=1) == 1
    ).sum()


def test_many_classes():
    features, targets = blobs(2000, 64, 200, spread=0.7)
    probe = fit_probe(features, targets, 200, penalties=(1.0, 0.1), num_folds=2)
    assert probe.cv_accuracy > 0.9


def test_digits_as_well_as_scikit_learn():
    images, targets = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, targets = images[order].astype(np.float32), targets[order].astype(np.int64)
    probe = fit_probe(images[:600], targets[:600], 10, num_folds=3)
    ours = (probe.logits(images[600:]).argmax(axis=1) == targets[600:]).mean()
    assert ours > 0.93
    assert probe.cv_accuracy == pytest.approx(ours, abs=0.03)


@pytest.mark.parametrize(
    ("features", "targets", "num_classes", "message"),
    [
        (np.zeros((4, 3), np.float32), np.array([0, 1, 0]), 2, "N, D"),
        (np.full((2, 3), np.nan, np.float32), np.array([0, 1]), 2, "finite"),
        (np.zeros((2, 3), np.float32), np.array([0, 2]), 2, "0 to 1"),
        (np.zeros((2, 3), np.float32), np.array([1, 1]), 2, "two"),
    ],
)
def test_refuses(features, targets, num_classes, message):
    with pytest.raises(UserError, match=message):
        fit_probe(features, targets, num_classes)


@pytest.mark.parametrize("num_folds", [2, 5])
def test_folds_share_classes_out_and_keep_groups(num_folds):
    generator = np.random.default_rng(3)
    groups = np.sort(generator.integers(0, 120, 300))
    targets = (groups * 7 % 3).astype(np.int64)
    folds = stratified_folds(targets, groups, num_folds, seed=1)
    assert all(len(set(folds[groups == group])) == 1 for group in np.unique(groups))
    for label in range(3):
        counts = np.bincount(folds[targets == label], minlength=num_folds)
        assert counts.max() - counts.min() <= 6  # the largest group has about 6 images
    assert not np.array_equal(folds, stratified_folds(targets, groups, num_folds, seed=2))
    assert np.array_equal(folds, stratified_folds(targets, groups, num_folds, seed=1))


# --- in a network ---


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelConfig(name="resnet20_cifar"), num_classes=3, in_channels=1, image_size=(16, 16)).eval()


def test_installed_probe_gives_the_networks_logits():
    network, images = small_network(), torch.randn(12, 1, 16, 16)
    seen: list[torch.Tensor] = []
    handle = network.get_classifier().register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(images)
    handle.remove()
    features = seen[0].numpy()
    probe = fit_probe(features, np.arange(12) % 3, 3, penalties=(1.0,))
    install(probe, network)
    with torch.no_grad():
        logits = network(images).numpy()
    assert np.allclose(logits, probe.logits(features), atol=1e-5)


def test_install_refuses_other_shapes():
    features, targets = blobs(12, 5, 3)
    with pytest.raises(UserError, match="equal shapes"):
        install(fit_probe(features, targets, 3, penalties=(1.0,)), small_network())
    with pytest.raises(UserError, match="has no classifier"):
        install(fit_probe(features, targets, 3, penalties=(1.0,)), nn.Sequential(nn.Linear(5, 3)))
