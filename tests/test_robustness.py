"""Robustness: figures of predictors whose answers are known by hand, and attacks on small networks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

from convcraft.data.corruptions import NAMES, corrupt
from convcraft.data.image_set import ImageSet
from convcraft.data.preprocess import Preprocess
from convcraft.data.sample import Sample
from convcraft.errors import UserError
from convcraft.evaluation import robustness
from convcraft.evaluation.attack_curves import LARGE_EPSILON, attack_report, margin_loss, masking_warnings
from convcraft.evaluation.judged_images import JudgedImages, stratified_sample
from convcraft.evaluation.moves import cropped, mirrored, rotated, scaled, shifted
from convcraft.evaluation.predict_function import predict_function, probabilities_from
from convcraft.evaluation.robustness import (
    Point,
    corruption_report,
    flip_report,
    rotation_curve,
    scale_curve,
    shift_curve,
)
from convcraft.report.robustness_plots import accuracy_curves, corruption_sheet, corruption_table
from convcraft.statistics import paired_difference_interval, wilson_interval

Pixels = NDArray[np.uint8]


def one_hot(labels: NDArray[np.int64], num_classes: int = 2) -> NDArray[np.float32]:
    return np.eye(num_classes, dtype=np.float32)[labels]


def bright_or_dark(pixels: Pixels) -> NDArray[np.float32]:
    """Class 1 where the mean level is above 100."""
    return one_hot((pixels.mean(axis=(1, 2, 3)) > 100).astype(int))


def flat_images(levels: list[int], side: int = 8) -> JudgedImages:
    pixels = np.stack([np.full((side, side, 1), level, np.uint8) for level in levels])
    return JudgedImages.of(pixels, np.array([int(level > 100) for level in levels]))


# --- corruptions ---


def test_corruption_figures_by_hand() -> None:
    """Brightness adds 13, 26, 38, 51, 77 levels: an image of 60 turns bright at severity 4 (51) or 5 alone."""
    images = flat_images([0, 60, 150, 200])
    report = corruption_report(bright_or_dark, images, names=["contrast", "brightness"])
    assert [point.num_correct for point in report.by_corruption["contrast"]] == [4] * 5
    assert [point.num_correct for point in report.by_corruption["brightness"]] == [4, 4, 4, 3, 3]
    assert [point.value for point in report.by_corruption["brightness"]] == [1, 2, 3, 4, 5]
    assert report.clean.accuracy == 1
    assert report.mean_accuracy == pytest.approx((20 + 18) / 40)
    assert report.relative_drop == pytest.approx(2 / 40)
    assert report.worst == "brightness"
    assert report.mean_of("brightness") == pytest.approx(0.9)
    low, high = report.mean_interval
    assert 0.79 < low < report.mean_accuracy < high <= 1
    assert report.by_corruption["brightness"][4].interval == wilson_interval(3, 4)


def test_all_fifteen_are_measured_and_shown_as_they_go_on() -> None:
    calls = []
    report = corruption_report(
        bright_or_dark, flat_images([20, 230]), progress=lambda done, total, what: calls.append((done, total))
    )
    assert list(report.by_corruption) == list(NAMES)
    assert calls == [(done, 75) for done in range(1, 76)]
    values = json.loads(json.dumps(report.to_dict()))
    assert values["num_images"] == values["num_available"] == 2
    assert len(values["by_corruption"]["snow"]["severities"]) == 5


def test_each_image_is_corrupted_by_its_own_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts or whole, in a sample or not: the predictor sees the same pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), dtype=np.uint8)
    images = JudgedImages.of(pixels, np.zeros(7, int))
    sample = JudgedImages(pixels[[5, 2]], images.targets[:2], np.array([5, 2]), 7)
    seen: list[Pixels] = []

    def watch(batch: Pixels) -> NDArray[np.float32]:
        seen.append(batch)
        return one_hot(np.zeros(len(batch), int))

    expected = corrupt(pixels, "gaussian_noise", 2, seed=9)
    settings = {"names": ["gaussian_noise"], "severities": [2], "seed": 9}
    corruption_report(watch, images, **settings)
    assert np.array_equal(seen[1], expected)
    corruption_report(watch, sample, **settings)
    assert np.array_equal(seen[3], expected[[5, 2]])
    seen.clear()
    monkeypatch.setattr(robustness, "CHUNK_BYTES", 3 * 90)
    corruption_report(watch, images, **settings)
    assert [len(part) for part in seen] == [3, 3, 1] * 2
    assert np.array_equal(np.concatenate(seen[3:]), expected)


def test_a_predictor_that_is_never_right_has_no_drop() -> None:
    report = corruption_report(
        lambda x: 1 - bright_or_dark(x), flat_images([10, 240]), names=["contrast"], severities=[1]
    )
    assert report.clean.accuracy == 0
    assert report.relative_drop is None
    with pytest.raises(UserError, match="no corruption"):
        corruption_report(bright_or_dark, flat_images([10]), names=[])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros((3, 2), np.float32), "shape"),
        (np.zeros(2, np.float32), "shape"),
        (np.ones((2, 1), np.float32), "shape"),
        (np.full((2, 2), np.nan, np.float32), "probabilities in 0..1"),
        (np.array([[3.0, -2.0], [0, 1]]), "probabilities in 0..1"),
    ],
)
def test_answers_that_are_no_probabilities_are_refused(answer: NDArray[np.float32], message: str) -> None:
    with pytest.raises(UserError, match=message):
        corruption_report(lambda pixels: answer, flat_images([10, 240]), names=["fog"])


# --- moves ---


def test_quarter_turns_are_exact() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), dtype=np.uint8)
    for quarter in (-1, 0, 1, 2):
        assert np.array_equal(rotated(images, 90.0 * quarter), np.rot90(images, quarter, axes=(1, 2)))


def test_a_small_turn_moves_a_point_along_its_circle() -> None:
    image = np.zeros((1, 41, 41, 1), np.uint8)
    image[0, 20, 35] = 255  # 15 to the right of the centre
    turned = rotated(image, 30, "black")[0, ..., 0].astype(float)
    rows, columns = np.indices(turned.shape)
    centre = [(turned * places).sum() / turned.sum() - 20 for places in (rows, columns)]
    assert centre == pytest.approx([-7.5, 15 * 0.75**0.5], abs=0.1)  # counter-clockwise: upwards


def test_shifts_by_hand() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(1, 2, 3, 1)
    assert shifted(image, 0, 1)[0, ..., 0].tolist() == [[0, 0, 1], [3, 3, 4]]
    assert shifted(image, -1, 0, "black")[0, ..., 0].tolist() == [[3, 4, 5], [0, 0, 0]]
    assert shifted(image, 0, -2, "reflect")[0, ..., 0].tolist() == [[2, 1, 0], [5, 4, 3]]
    assert np.array_equal(shifted(image, 0, 0), image)
    assert mirrored(image)[0, ..., 0].tolist() == [[2, 1, 0], [5, 4, 3]]


def test_scales_by_hand() -> None:
    image = np.zeros((1, 20, 20, 1), np.uint8)
    image[0, 5:15, 5:15] = 200
    assert (scaled(image, 2.0)[0, 1:-1, 1:-1] == 200).all()
    smaller = scaled(image, 0.5, "black")[0, ..., 0].astype(float)
    assert smaller.sum() == pytest.approx(image.sum() / 4, rel=0.01)
    assert (smaller[9:11, 9:11] == 200).all()
    assert (smaller[:6] == 0).all()
    assert np.array_equal(scaled(image, 1.0), image)
    corner = cropped(image, 0.0, 0.0, 0.5)[0, ..., 0]  # the dark quarter up to 5 of 10, then the bright one
    assert (corner[:9] == 0).all()
    assert (corner[11:, 11:] == 200).all()


@pytest.mark.parametrize("fill", ["edge", "reflect", "black"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 3), (7, 2, 3), (30, 11, 1)])
def test_moves_keep_any_shape(shape: tuple[int, int, int], fill: str) -> None:
    images = np.full((2, *shape), 90, np.uint8)
    moved = [rotated(images, d, fill) for d in (-90, -33.3, 45, 90)]
    moved += [shifted(images, 3, -12, fill), *(scaled(images, f, fill) for f in (0.3, 0.77, 1.3, 4))]
    for each in moved:
        assert each.shape == images.shape
        assert each.dtype == np.uint8
        assert fill == "black" or (each == 90).all()


def test_moves_refuse_what_they_do_not_know() -> None:
    images = np.zeros((1, 4, 4, 1), np.uint8)
    with pytest.raises(UserError, match="wrap"):
        rotated(images, 10, "wrap")
    for factor in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="factor"):
            scaled(images, factor)
    with pytest.raises(UserError, match="axis"):
        shift_curve(bright_or_dark, flat_images([3]), "z")


def left_or_right(pixels: Pixels) -> NDArray[np.float32]:
    """Class 1 where the right half is the brighter one."""
    half = pixels.shape[2] // 2
    return one_hot((pixels[:, :, half:].mean((1, 2, 3)) > pixels[:, :, :half].mean((1, 2, 3))).astype(int))


def dots(columns: list[int], side: int = 20) -> JudgedImages:
    pixels = np.zeros((len(columns), side, side, 1), np.uint8)
    for image, column in zip(pixels, columns, strict=True):
        image[side // 2, column] = 255
    return JudgedImages.of(pixels, np.array([int(column >= side // 2) for column in columns]))


def test_curves_by_hand() -> None:
    images = dots([2, 12, 16])
    curve = shift_curve(left_or_right, images, "x", shares=(-0.4, -0.2, 0.0, 0.2, 0.45), fill="black")
    # Darkness counts as left. By -8: only column 2's stays right, its dot gone; -4: 16's too. By 4: 16's is gone; by 9
    # all are wrong.
    assert [point.num_correct for point in curve.points] == [1, 2, 3, 2, 0]
    assert shift_curve(left_or_right, images, "y", shares=(-0.3, 0.3)).points[0].accuracy == 1
    turned = rotation_curve(left_or_right, images, degrees=(0, 10, 180), fill="black")
    assert [point.num_correct for point in turned.points] == [3, 3, 0]
    assert turned.to_dict()["points"][2]["accuracy"] == 0
    larger = scale_curve(left_or_right, images, factors=(0.5, 1, 1.5))
    assert [point.num_correct for point in larger.points] == [3, 3, 3]
    flip = flip_report(left_or_right, images)
    assert (flip.plain.accuracy, flip.mirrored.accuracy, flip.difference) == (1, 0, -1)
    assert flip.interval == paired_difference_interval([True] * 3, [False] * 3)


# --- samples ---


def test_a_sample_has_each_class_in_proportion() -> None:
    targets = np.repeat([0, 1, 2, 3], [600, 300, 98, 2])
    np.random.default_rng(0).shuffle(targets)
    chosen = stratified_sample(targets, 50, seed=4)
    assert np.bincount(targets[chosen]).tolist() == [30, 15, 4, 1]  # of 4.9 and 0.1: each class has one
    assert (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, stratified_sample(targets, 50, seed=4))
    assert not np.array_equal(chosen, stratified_sample(targets, 50, seed=5))
    assert stratified_sample(targets, None).tolist() == list(range(1000))
    assert len(stratified_sample(targets, 5000)) == 1000
    for size in (1, 2, 3, 4, 7, 999):
        assert len(np.unique(stratified_sample(targets, size))) == size
    with pytest.raises(UserError, match="sample of 0"):
        stratified_sample(targets, 0)


def test_a_sample_states_its_size_and_keeps_its_numbers() -> None:
    pixels = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)
    images = JudgedImages.of(pixels, np.arange(40) % 4, size=8)
    assert (len(images), images.num_available) == (8, 40)
    assert np.array_equal(images.pixels[:, 0, 0, 0], images.ids)
    contract = Preprocess(height=1, width=1, channels=1, resize="stretch")
    samples = [Sample(image[..., 0], int(i % 4), str(i)) for i, image in enumerate(pixels)]
    streamed = JudgedImages.of_set(ImageSet(samples, np.arange(40) % 4, contract, None), size=8)
    assert np.array_equal(streamed.pixels, images.pixels)
    assert np.array_equal(streamed.targets, images.targets)


def test_images_that_cannot_be_judged_are_refused() -> None:
    pixels = np.zeros((2, 3, 3, 1), np.uint8)
    for targets in (np.array([0]), np.array([0, 1, 1])):
        with pytest.raises(UserError, match="one target per image"):
            JudgedImages.of(pixels, targets)
    with pytest.raises(UserError, match="class numbers"):
        JudgedImages.of(pixels, np.array([0, -1]))
    with pytest.raises(UserError, match="at least one image"):
        JudgedImages.of(pixels[:0], np.zeros(0, int))
    with pytest.raises(UserError, match="float64"):
        JudgedImages.of(pixels / 2, np.array([0, 1]))


# --- networks and attacks ---

DIGITS = Preprocess(height=8, width=8, channels=1, resize="stretch", mean=(0.3,), std=(0.37,))


class Masked(nn.Module):
    """Its input in few levels: the same answers, and no gradient."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images * 8).round() / 8)


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, JudgedImages]:
    """A linear classifier of the 8 x 8 digits, trained, and 300 test images."""
    torch.manual_seed(0)
    bunch = load_digits()
    pixels = (bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    images, targets = torch.from_numpy(DIGITS.normalise(pixels[:1200])), torch.from_numpy(bunch.target[:1200])
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), targets).backward()
        optimiser.step()
    return model.eval(), JudgedImages.of(pixels[1200:], bunch.target[1200:], size=300)


def test_a_networks_predictions_are_its_softmax(digits: tuple[nn.Module, JudgedImages]) -> None:
    model, images = digits
    predict = predict_function(model, DIGITS, batch_size=64)
    made = probabilities_from(predict, images.pixels, 10)
    with torch.no_grad():
        expected = torch.softmax(model(torch.from_numpy(DIGITS.normalise(images.pixels))), dim=1)
    np.testing.assert_allclose(made, expected, atol=1e-6)
    squared = predict_function(model, DIGITS, loss="bce")(images.pixels)
    assert not np.allclose(squared, expected, atol=1e-3)
    assert np.array_equal(squared.argmax(1), made.argmax(1))


def test_an_attack_that_works_is_not_warned_about(digits: tuple[nn.Module, JudgedImages]) -> None:
    model, images = digits
    calls = []
    epsilons = (0.0, 0.02, 0.1, 0.3)
    report = attack_report(model, images, DIGITS, epsilons, steps=8, progress=lambda *call: calls.append(call[:2]))
    assert report.warnings == ()
    plain = float((predict_function(model, DIGITS)(images.pixels).argmax(1) == images.targets).mean())
    for curve in (report.fgsm, report.pgd, report.noise):
        assert [point.value for point in curve.points] == list(epsilons)
        assert curve.points[0].accuracy == pytest.approx(plain)
        assert curve.num_images == 300
    accuracy = {curve.name: [point.accuracy for point in curve.points] for curve in (report.fgsm, report.pgd)}
    assert accuracy["pgd"] == sorted(accuracy["pgd"], reverse=True)
    assert accuracy["pgd"][-1] < 0.05 < 0.7 < plain
    assert report.noise.points[2].accuracy > accuracy["pgd"][2] + 0.2
    assert report.at_large_epsilon.value == LARGE_EPSILON
    assert calls == [(done, 5) for done in range(1, 6)]
    assert json.loads(json.dumps(report.to_dict()))["warnings"] == []


def test_on_a_linear_network_fgsm_is_the_best_attack(digits: tuple[nn.Module, JudgedImages]) -> None:
    """By hand: two classes, logit difference w x + b; the worst change in the box lowers it by epsilon |w|."""
    _, images = digits
    chosen = np.flatnonzero(images.targets < 2)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    pixels, targets = np.clip(images.pixels[chosen], 60, 190), images.targets[chosen]  # far from black and white
    normalised = torch.from_numpy(DIGITS.normalise(pixels))
    with torch.no_grad():
        targets = model(normalised).argmax(1).numpy()  # it is right everywhere
        weights = model[1].weight[1] - model[1].weight[0]
        margin = (model(normalised)[:, 1] - model(normalised)[:, 0]).abs() / (weights.abs().sum() / DIGITS.std[0])
    epsilon = float(margin.median())
    judged = JudgedImages.of(pixels, targets)
    report = attack_report(model, judged, DIGITS, (epsilon * 0.999,), steps=20)
    expected = int((margin > epsilon * 0.999).sum())
    assert report.fgsm.points[0].num_correct == expected
    assert expected <= report.pgd.points[0].num_correct <= expected + 1


def test_masked_gradients_are_warned_about(digits: tuple[nn.Module, JudgedImages]) -> None:
    model, images = digits
    report = attack_report(Masked(model), images, DIGITS, (0.05, 0.1), steps=4)
    text = " ".join(report.warnings)
    assert "no more than random noise" in text
    assert f"epsilon {LARGE_EPSILON:g}" in text
    assert report.fgsm.points[1].accuracy == report.fgsm.points[0].accuracy  # nothing moved


class Surer(nn.Module):
    """The same answers with logits that are 100,000 times as large: softmax is exactly 0 or 1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return 1e5 * logits


def test_a_network_that_is_too_sure_for_cross_entropy_is_attacked_by_its_margin(
    digits: tuple[nn.Module, JudgedImages],
) -> None:
    model, images = digits
    plain = attack_report(model, images, DIGITS, (0.0, 0.1), steps=8)
    sure = attack_report(Surer(model), images, DIGITS, (0.0, 0.1), steps=8)
    assert sure.pgd_margin.points == plain.pgd_margin.points  # the scale plays no part
    assert sure.pgd_cross_entropy.points[1].accuracy > sure.pgd_margin.points[1].accuracy + 0.2
    for report in (plain, sure):
        for together, *alone in zip(
            report.pgd.points, report.pgd_cross_entropy.points, report.pgd_margin.points, strict=True
        ):
            assert together.num_correct <= min(point.num_correct for point in alone)


def test_the_margin_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0, -2.0], [0.0, 4.0, 5.0]], requires_grad=True)
    loss = margin_loss(logits, torch.tensor([0, 1]))
    assert loss.item() == (1 - 3) + (5 - 4)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.tolist() == [[-1, 1, 0], [0, -1, 1]]


def test_pgd_weaker_than_fgsm_or_noise_is_warned_about() -> None:
    right, wrong = np.ones(200, bool), np.zeros(200, bool)
    fooled = Point.of(LARGE_EPSILON, wrong)
    assert "FGSM" in masking_warnings([0.1], [wrong], [right], [right], fooled)[0]
    assert masking_warnings([0.1], [right], [wrong], [right], fooled) == ()
    stronger_noise = masking_warnings([0.1, 0.2], [wrong, wrong], [~wrong, wrong], [wrong, right], fooled)
    assert any("epsilon 0.1" in warning and "noise" in warning for warning in stronger_noise)


def test_attacks_need_epsilons_that_make_sense(digits: tuple[nn.Module, JudgedImages]) -> None:
    model, images = digits
    for epsilons in ((), (-0.1,), (1.5,), (float("nan"),)):
        with pytest.raises(UserError, match="epsilon"):
            attack_report(model, images, DIGITS, epsilons)
    with pytest.raises(UserError, match="steps"):
        attack_report(model, images, DIGITS, (0.1,), steps=0)


# --- figures ---


def test_the_table_has_the_worst_row_first_and_its_means() -> None:
    accuracy = np.array([[0.9, 0.8], [0.5, 0.1]])
    axes = corruption_table(["fog", "glass_blur"], [1, 2], accuracy, clean=0.95).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["glass blur", "fog"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "mean"]
    assert [text.get_text() for text in axes.texts] == ["50.0", "10.0", "30.0", "90.0", "80.0", "85.0"]
    opacity = axes.images[0].get_array()[..., 3]
    np.testing.assert_allclose(opacity[0, 1], 1 - 0.1 / 0.95)
    with pytest.raises(UserError, match="accuracies"):
        corruption_table(["fog"], [1, 2], accuracy, clean=0.95)


def test_curves_are_drawn_with_their_bands() -> None:
    line = ([0.0, 0.1], [0.9, 0.4], [(0.8, 1.0), (0.3, 0.5)])
    axes = accuracy_curves({"pgd": line, "noise": line}, "epsilon").axes[0]
    assert [each.get_ydata().tolist() for each in axes.lines] == [[0.9, 0.4]] * 2
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.3, 1.0)
    for number in (0, 5):
        with pytest.raises(UserError, match=f"{number} curves"):
            accuracy_curves({str(index): line for index in range(number)}, "epsilon")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_sheet_shows_the_image_and_the_fifteen(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 16, channels), dtype=np.uint8)
    panels = corruption_sheet(image, severity=3, seed=2).axes
    assert len(panels) == 16
    shown = [np.asarray(axes.images[0].get_array()).reshape(image.shape) for axes in panels]
    assert np.array_equal(shown[0], image)
    for name, pixels in zip(NAMES, shown[1:], strict=True):
        assert np.array_equal(pixels, corrupt(image[None], name, 3, seed=2)[0])
