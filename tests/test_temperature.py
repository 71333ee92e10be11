"""A planted temperature is found again, few images move it little, and the log-loss never rises."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.metrics import log_loss

from convcraft.errors import UserError
from convcraft.evaluation.probabilities import probabilities_of
from convcraft.evaluation.temperature import HIGHEST, LOSSES, LOWEST, Temperature, fit_temperature, log_probabilities

Case = tuple[NDArray[np.float32], NDArray[np.int64]]


def planted(temperature: float, num_images: int, num_classes: int = 5, seed: int = 0) -> Case:
    """Logits that are right after division by `temperature`: targets are drawn from softmax(logits / temperature)."""
    random = np.random.default_rng(seed)
    true = random.normal(scale=2.0, size=(num_images, num_classes))
    targets = (true + random.gumbel(size=true.shape)).argmax(axis=1)
    return (true * temperature).astype(np.float32), targets


@pytest.mark.parametrize("temperature", [0.2, 0.7, 1.0, 2.5, 8.0])
def test_a_planted_temperature_is_found(temperature: float) -> None:
    found = fit_temperature(*planted(temperature, 20_000))
    assert found.value == pytest.approx(temperature, rel=0.03)
    assert found.calibration_error_after < 0.012
    assert found.num_images == 20_000
    assert found.note == ""


@pytest.mark.parametrize("loss", LOSSES)
def test_without_belief_it_is_the_plain_maximum_of_likelihood(loss: str) -> None:
    logits, targets = planted(3.0, 400)
    logits = logits / 4 if loss == "mse" else logits
    log_p = np.log(np.clip(probabilities_of(logits, loss).astype(np.float64), 1e-38, 1))

    def objective(x: float) -> float:
        return -float(log_softmax(log_p / np.exp(x), axis=1)[np.arange(400), targets].mean())

    expected = np.exp(minimize_scalar(objective, bounds=(-3, 3), method="bounded", options={"xatol": 1e-10}).x)
    assert fit_temperature(logits, targets, loss, believed_images=0).value == pytest.approx(expected, rel=1e-4)


def test_figures_are_those_of_scikit_learn_before_and_after() -> None:
    logits, targets = planted(2.0, 500)
    found = fit_temperature(logits, targets)
    before = probabilities_of(logits).astype(np.float64)
    after = found.probabilities(logits).astype(np.float64)
    assert found.log_loss_before == pytest.approx(log_loss(targets, before / before.sum(1, keepdims=True)), abs=1e-6)
    assert found.log_loss_after == pytest.approx(log_loss(targets, after / after.sum(1, keepdims=True)), abs=1e-6)
    assert found.calibration_error_after < found.calibration_error_before


def test_known_answer_by_hand() -> None:
    """Logits (2, 0) right 3 times of 4: softmax(2 / T) is 3/4 where 2 / T = log 3."""
    logits, targets = np.tile([[2.0, 0.0]], (4, 1)), np.array([0, 0, 0, 1])
    assert fit_temperature(logits, targets, believed_images=0).value == pytest.approx(2 / np.log(3), rel=1e-9)


def test_belief_counts_as_images_on_which_the_network_is_calibrated() -> None:
    """With 4 believed images beside the 4 the wanted accuracy is the mean of 3/4 and of the network's own word."""
    logits, targets = np.tile([[2.0, 0.0]], (4, 1)), np.array([0, 0, 0, 1])
    wanted = (3 / 4 + 1 / (1 + np.exp(-2.0))) / 2
    expected = 2 / np.log(wanted / (1 - wanted))
    assert fit_temperature(logits, targets, believed_images=4).value == pytest.approx(expected, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_images=st.integers(1, 30),
    scale=st.sampled_from([1e-6, 0.1, 1.0, 30.0, 1e4]),
    loss=st.sampled_from(LOSSES),
)
def test_log_loss_never_rises_and_no_label_changes(seed: int, num_images: int, scale: float, loss: str) -> None:
    random = np.random.default_rng(seed)
    logits = (scale * random.normal(size=(num_images, 4))).astype(np.float32)
    found = fit_temperature(logits, random.integers(0, 4, num_images), loss)
    assert LOWEST <= found.value <= HIGHEST
    assert found.log_loss_after <= found.log_loss_before * (1 + 1e-9) + 1e-12
    rows = found.probabilities(logits)
    assert np.isfinite(rows).all()
    assert np.abs(rows.sum(axis=1) - 1).max() < 1e-5
    log_p = log_probabilities(logits, loss)
    chosen = np.take_along_axis(log_p, rows.argmax(axis=1)[:, None], axis=1)[:, 0]
    assert np.allclose(chosen, log_p.max(axis=1), rtol=0, atol=1e-6 * found.value)


def test_few_images_that_are_all_right_do_not_sharpen_without_end() -> None:
    logits = np.tile([[2.0, 0.0, 0.0]], (5, 1))
    assert fit_temperature(logits, np.zeros(5, int), believed_images=0).value == LOWEST
    found = fit_temperature(logits, np.zeros(5, int))
    assert 0.5 < found.value < 1
    assert "Only 5 images" in found.note
    assert "All images are right" in found.note
    assert "of one class" in found.note


def test_few_images_that_are_all_wrong_flatten_a_little() -> None:
    found = fit_temperature(np.tile([[2.0, 0.0, 0.0]], (3, 1)), np.array([1, 2, 1]))
    assert 1 < found.value < HIGHEST
    many = fit_temperature(np.tile([[2.0, 0.0, 0.0]], (3000, 1)), np.ones(3000, int))
    assert many.value == HIGHEST
    assert "bound of 20" in many.note
    assert "All images are wrong" in many.note


def test_the_fewer_images_the_nearer_to_one() -> None:
    logits, targets = planted(5.0, 4000)
    distances = [abs(np.log(fit_temperature(logits[:n], targets[:n]).value)) for n in (2, 20, 4000)]
    assert distances[0] < distances[1] < distances[2]


@pytest.mark.parametrize("logits", [np.zeros((6, 3)), np.ones((6, 1)), np.full((6, 2), -7.0)])
def test_logits_that_say_nothing_keep_temperature_one(logits: NDArray[np.float64]) -> None:
    assert fit_temperature(logits, np.zeros(6, int)).value == 1.0


def test_enormous_logits_stay_finite() -> None:
    logits = np.array([[1e30, 0.0], [0.0, 1e30], [1e30, 0.0]], np.float32)
    found = fit_temperature(logits, np.array([0, 1, 1]))
    assert found.value == HIGHEST
    assert np.isfinite(found.probabilities(logits)).all()


def test_temperature_one_gives_the_run_s_own_probabilities() -> None:
    logits = planted(1.0, 50)[0]
    for loss in LOSSES:
        same = Temperature(1.0, loss, 50, 0.0, 0.0, 0.0, 0.0).probabilities(logits)
        assert np.allclose(same, probabilities_of(logits, loss), atol=2e-7)


def test_survives_json_exactly() -> None:
    found = fit_temperature(*planted(2.0, 100))
    assert Temperature.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    with pytest.raises(UserError, match="temperature entries"):
        Temperature.from_dict({"value": 1.0})
    with pytest.raises(UserError, match="temperature nan"):
        Temperature.from_dict({**found.to_dict(), "value": float("nan")})


@pytest.mark.parametrize(
    ("logits", "targets", "loss", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "cross_entropy", "no images"),
        (np.zeros((2, 3)), np.array([0, 3]), "cross_entropy", "targets from 0 to 3"),
        (np.zeros((2, 3)), np.array([0.0, 1.0]), "cross_entropy", "targets float64"),
        (np.array([[0.0, np.nan]]), np.array([0]), "cross_entropy", "NaN"),
        (np.zeros(3), np.array([0]), "cross_entropy", r"logits \[3\]"),
        (np.zeros((2, 3)), np.array([0, 1]), "hinge", "loss 'hinge'"),
    ],
)
def test_bad_input_is_named(logits: NDArray[np.float64], targets: NDArray[np.int64], loss: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_temperature(logits, targets, loss)


def test_applied_without_torch_scikit_learn_or_scipy() -> None:
    imports = "import convcraft.evaluation.temperature, convcraft.evaluation.conformal"
    check = f"import sys; {imports}; print([m for m in ('torch', 'sklearn', 'scipy', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_lowest_of_one_never_raises_confidence() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 4, 400)
    sharp = 6 * np.eye(4)[targets] + rng.normal(size=(400, 4))
    assert fit_temperature(0.2 * sharp, targets).value < 0.5  # not sure enough: it would be sharpened
    assert fit_temperature(0.2 * sharp, targets, lowest=1.0).value == 1.0
    mislabelled = np.where(rng.random(400) < 0.3, (targets + 1) % 4, targets)
    plain = fit_temperature(sharp, mislabelled)
    assert plain.value > 1
    assert fit_temperature(sharp, mislabelled, lowest=1.0).value == pytest.approx(plain.value, rel=1e-9)
