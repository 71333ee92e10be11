"""What a page says of slices, robustness, confidence, other models and the model itself is what was measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_report import Outline, content

from convcraft.evaluation.agreement import compare_predictions
from convcraft.evaluation.attack_curves import AttackReport
from convcraft.evaluation.metrics import classification_report, top_losses
from convcraft.evaluation.predictions import Predictions, softmax
from convcraft.evaluation.reliability_diagram import reliability_diagram
from convcraft.evaluation.robustness import CorruptionReport, Curve, FlipReport, Point
from convcraft.evaluation.slices import slice_report
from convcraft.evaluation.trust import fit_trust, log_of
from convcraft.report import html, plots
from convcraft.report.card_section import limits
from convcraft.report.cell_pictures import NAMES_PER_CELL, cells_of
from convcraft.report.headline import falls_behind, in_words, weakest_class
from convcraft.report.places_section import places_section
from convcraft.report.run_content import FeaturePlaces, Heat, ModelCard, ReportContent
from convcraft.report.run_report import render
from convcraft.workflows.trust_report import trust_report

CLASSES = ("ant", "bee", "cat")


def predicted(num_images: int = 300, seed: int = 0, strength: float = 2.5, weak: int | None = None) -> Predictions:
    """Images of three classes; those of class `weak` are called wrong more often."""
    random = np.random.default_rng(seed)
    targets = random.integers(0, len(CLASSES), num_images)
    logits = random.normal(size=(num_images, len(CLASSES)))
    logits[np.arange(num_images), targets] += np.where(targets == weak, 0.5, strength)
    names = tuple(f"{CLASSES[target]}/{row}.png" for row, target in enumerate(targets))
    return Predictions(CLASSES, softmax(logits), targets, names)


def page_of(**parts: object) -> ReportContent:
    predictions = predicted()
    report = classification_report(predictions, num_resamples=20)
    return replace(ReportContent(title="page", evaluation=report), **parts)  # type: ignore[arg-type]


def words_of(page: ReportContent) -> str:
    return Outline(render(page)).text


@pytest.fixture(autouse=True)
def without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "plot", lambda figure, alt, caption: html.element("figure", caption))


def test_the_result_in_words_is_that_of_the_figures() -> None:
    predictions = predicted(600, weak=2)
    report = classification_report(predictions, num_resamples=20)
    said = in_words(ReportContent(title="page", evaluation=report))
    assert 3 <= len(said) <= 5
    assert f"{report.num_correct} of 600 images of the test split right: {100 * report.accuracy:.1f} %" in said[0]
    cat = report.per_class[2]
    assert f"weakest class is cat: {round(cat.recall * cat.support)} of {cat.support} right" in said[1]
    wrong = report.confusion - np.diag(np.diag(report.confusion))
    target, label = np.unravel_index(int(wrong.argmax()), wrong.shape)
    assert f"{CLASSES[target]} called {CLASSES[label]} ({wrong.max()} of {report.per_class[target].support})" in said[2]
    assert "calibration error" in said[3]
    assert said[4].startswith("Next: look at the mistakes of cat")


def test_one_mistake_among_many_is_no_weak_class() -> None:
    targets = np.repeat([0, 1, 2], 35)
    labels = targets.copy()
    labels[0] = 1
    table = np.full((105, 3), 0.05, np.float32)
    table[np.arange(105), labels] = 0.9
    report = classification_report(Predictions(CLASSES, table, targets, tuple(map(str, range(105)))), num_resamples=20)
    weakest = weakest_class(report)
    assert weakest is not None
    assert weakest.name == "ant"
    assert not falls_behind(report, weakest)


@pytest.mark.parametrize("wrong", [0, 3])
def test_where_all_classes_do_alike_none_is_called_weakest(wrong: int) -> None:
    targets = np.repeat([0, 1, 2], 40)
    labels = targets.copy()
    for start in (0, 40, 80):
        labels[start : start + wrong] = (targets[start] + 1) % 3
    table = np.full((120, 3), 0.01, np.float32)
    table[np.arange(120), labels] = 0.98
    report = classification_report(Predictions(CLASSES, table, targets, tuple(map(str, range(120)))), num_resamples=20)
    said = " ".join(in_words(ReportContent(title="page", evaluation=report)))
    assert weakest_class(report) is None
    assert "weakest" not in said
    assert ("No image of any class is called wrong." in said) == (wrong == 0)


def test_void_figures_are_crossed_out_and_say_why() -> None:
    page = page_of(void=("Opened twice <before>.",))
    outline = Outline(render(page))
    assert "Void. These figures say more than they can: Opened twice <before>." in outline.text
    assert any(attributes.get("role") == "alert" for attributes in outline.all("div"))
    assert any("not-valid" in (attributes.get("class") or "") for attributes in outline.all("div"))
    assert "judge it on images that no choice has touched" in outline.text
    assert "Void: Opened twice <before>." in limits(page)
    assert not any(attributes.get("role") == "alert" for attributes in Outline(render(page_of())).all("div"))


def test_slices_show_every_slice_and_the_worst() -> None:
    predictions = predicted(600)
    assert predictions.targets is not None
    right = predictions.labels == predictions.targets
    light = np.where(np.arange(600) % 2 == 0, "dark", "bright")
    light[~right] = "dark"
    slices = slice_report(predictions, {"light": light.tolist()})
    words = words_of(page_of(slices=slices))
    assert slices.worst is not None
    assert slices.worst.is_shown
    assert slices.worst.sentence in words
    for entry in slices.slices:
        assert f"{entry.name} {entry.num_images} {100 * entry.accuracy:.1f} %" in words
    assert "images of the slice light = dark fail more often than the rest" in words


def test_robustness_states_what_it_was_measured_on() -> None:
    points = {"fog": (Point(1, 80, 100), Point(2, 50, 100)), "snow": (Point(1, 90, 100), Point(2, 70, 100))}
    found = CorruptionReport(Point(0, 95, 100), points, 0.725, (0.66, 0.78), 100, 5000, 0)
    curve = Curve("rotation", "degrees", (Point(-10, 60, 100), Point(0, 95, 100)), 100, 5000)
    flip = FlipReport(Point(0, 95, 100), Point(1, 91, 100), -0.04, (-0.08, 0.0), 5000)
    line = Curve("any", "epsilon", (Point(0, 95, 100), Point(4 / 255, 9, 100)), 100, 5000)
    attacks = AttackReport(
        fgsm=line,
        pgd=line,
        noise=line,
        at_large_epsilon=Point(0.5, 0, 100),
        steps=20,
        seed=0,
        warnings=("Gradients are masked.",),
        pgd_cross_entropy=line,
        pgd_margin=line,
    )
    words = words_of(page_of(robustness=found, curves=(curve, flip), attacks=attacks))
    assert "Mean over all: 72.5 % (95 %: 66.0–78.0 %), 23.7 % less. Worst: fog." in words
    assert words.count("Measured on 100 images, drawn from 5,000.") == 4
    assert "Mirrored: 91.0 % right, as they are 95.0 %: -4.0 points (95 %: -8.0…+0.0)" in words
    assert "Gradients are masked." in words
    assert "cost it 23.7 % of its accuracy on average; fog costs most." in " ".join(limits(page_of(robustness=found)))


def test_confidence_before_and_after_is_that_of_the_trust_report() -> None:
    validation, test = predicted(400, seed=1), predicted(300)
    assert validation.targets is not None
    trust = fit_trust(
        log_of(validation.probabilities),
        validation.targets,
        loss="cross_entropy",
        weights_sha256="0",
        preprocess_sha256="0",
        strangeness=None,
    )
    found = trust_report(trust, test)
    assert found is not None
    correct = test.labels == test.targets
    diagrams = {"As the network says": reliability_diagram(test.confidence, correct, num_resamples=20)}
    words = words_of(page_of(trust=found.to_dict(), reliability=diagrams))
    before, after = (f"{100 * side.error:.1f}" for side in (found.before, found.after))
    assert f"calibration error, % {before} {after}" in words
    assert f"A temperature of {found.temperature:.2f}" in words
    assert found.coverage is not None
    assert f"they hold it in {100 * found.coverage:.1f} %" in words
    assert f"answered {found.answered.num_images} {100 * found.answered.share:.1f} %" in words
    assert f"rejected in all {found.rejected.num_images}" in words


def test_comparisons_say_who_is_better() -> None:
    agreement = compare_predictions(predicted(strength=1.0), predicted(strength=4.0, seed=0), ("old", "new"))
    words = words_of(page_of(compared=(agreement,)))
    assert agreement.verdict in words
    assert f"new {100 * agreement.accuracies[1]:.1f} %" in words


def test_what_nobody_stated_is_unknown_in_the_model_card() -> None:
    words = words_of(page_of(card=ModelCard("photos", from_scratch=False)))
    assert "Weights began as unknown" in words
    assert "unknown: the card of the weights does not say" in words
    stated = ModelCard("photos", False, "timm/x", "apache-2.0", [("Preprocessing", "32 x 32")])
    assert "Licence of these weights apache-2.0" in words_of(page_of(card=stated))
    assert "no weights of others" in words_of(page_of(card=ModelCard("photos", from_scratch=True)))
    assert "How it takes noise, blur and other cameras was not measured." in words
    assert limits(ReportContent(title="page")) == ["Nothing was measured: how good it is is unknown."]


def test_the_environment_is_shown() -> None:
    assert "Seed 7" in words_of(page_of(environment=[("Seed", 7), ("Weights, SHA-256", "f" * 64)]))


@pytest.mark.parametrize("num_points", [40, 600])
def test_maps_ring_mistakes_and_name_points_only_while_few(num_points: int) -> None:
    predictions = predicted(num_points)
    assert predictions.targets is not None
    plane = np.random.default_rng(0).normal(size=(num_points, 2))
    places = FeaturePlaces({"PCA": plane}, predictions.targets, predictions.labels, predictions.names)
    section = places_section(page_of(places=places))
    assert section is not None
    wrong = int((predictions.targets != predictions.labels).sum())
    outline = Outline(section.body)
    assert len([circle for circle in outline.all("circle") if circle.get("class") == "ring"]) == wrong + 1  # the key
    assert len(outline.all("title")) == (num_points if num_points <= 500 else 0)
    assert len(outline.all("path")) == num_points + len(CLASSES)
    numbers = [float(circle[axis] or "nan") for circle in outline.all("circle") for axis in ("cx", "cy")]
    assert all(0 <= number <= 400 for number in numbers)


def test_of_many_classes_the_map_colours_those_with_mistakes() -> None:
    targets = np.repeat(np.arange(40), 3)
    labels = targets.copy()
    labels[117:] = 38  # images of class 39 are called 38
    plane = np.random.default_rng(0).normal(size=(120, 2))
    places = FeaturePlaces({"PCA": plane}, targets, labels, [f"{row}" for row in range(120)])
    classes = tuple(f"kind {index}" for index in range(40))
    table = np.eye(40, dtype=np.float32)[labels]
    report = classification_report(Predictions(classes, table, targets, tuple(places.names)), num_resamples=5)
    section = places_section(ReportContent(title="page", evaluation=report, places=places))
    assert section is not None
    words = Outline(section.body).text
    assert "other classes" in words
    assert "ringed: called wrong (3)" in words
    keys = [name for name in classes if f"{name} " in words.split("ringed")[0]]
    assert {"kind 38", "kind 39"} <= set(keys)


def test_maps_that_mean_nothing_are_shown_only_when_asked_for() -> None:
    predictions = predicted()
    mistakes = top_losses(predictions, 2)
    maps = np.ones((2, 8, 8), np.float32)
    page = page_of(mistakes=mistakes, mistake_pixels=np.zeros((2, 8, 8, 3), np.uint8))
    for heat, switches, checked in (
        (Heat("grad-cam", maps, "They follow the weights."), 1, True),
        (Heat("grad-cam", maps, "Do not believe them.", believed=False), 1, False),
        (Heat("grad-cam", None, "No heat maps: no layer."), 0, False),
    ):
        outline = Outline(render(replace(page, heat=heat)))
        boxes = outline.all("input")
        assert len(boxes) == switches
        assert any("checked" in box for box in boxes) == checked
        assert heat.note in outline.text
        assert len(outline.all("img")) == (4 if switches else 2)


def test_a_thousand_classes_are_drawn_in_squares_that_keep_the_strongest_mistake() -> None:
    matrix = np.eye(1000, dtype=np.int64) * 10
    matrix[500:] //= 2
    matrix[3, 900] = 6
    image = plots.confusion_matrix(matrix, [f"kind {index}" for index in range(1000)]).axes[0].images[0].get_array()
    assert image is not None
    assert image.shape == (143, 143, 4)  # seven classes to a square
    assert image[0, 128, 3] == 1  # the only mistake
    off = image[..., 3] - np.diag(np.diag(image[..., 3]))
    assert (off > 0).sum() == 1
    assert image[100, 100, 3] == pytest.approx(1)  # 5 of 5 right
    assert image[0, 0, 3] == pytest.approx(np.sqrt((6 + 10 / 16) / 7))


def test_pictures_of_cells_keep_to_the_budget_and_mistakes_come_first() -> None:
    predictions = predicted()
    assert predictions.targets is not None
    random = np.random.default_rng(0)
    pixels = random.integers(0, 255, (300, 20, 20, 3), dtype=np.uint8)
    wrong = predictions.labels != predictions.targets
    worst = top_losses(predictions, 1)[0]
    whole = cells_of(predictions, lambda rows: pixels[rows], {worst.index: "mistake-0"})
    assert whole.images[worst.target, worst.label][0].picture == "mistake-0"  # shown again, not stored again
    half = cells_of(predictions, lambda rows: pixels[rows], {}, budget_bytes=20_000)
    assert 10_000 < half.num_bytes <= 20_000
    shown = [
        target != label
        for (target, label), images in half.images.items()
        for image in images
        if image.picture is not None
    ]
    assert len(half.pictures) == len(shown)
    assert all(shown) or sum(shown) == min(int(wrong.sum()), len(shown))
    assert len(half.pictures) < len(whole.pictures)
    for (target, label), images in half.images.items():
        rows = np.flatnonzero((predictions.targets == target) & (predictions.labels == label))
        assert len(images) == min(len(rows), NAMES_PER_CELL)
        assert {image.name for image in images} <= {predictions.names[row] for row in rows}


def test_every_part_together_gives_one_page() -> None:
    page = replace(content(), void=("why",), card=ModelCard("letters", True), environment=[("Seed", 0)])
    anchors = [str(section["id"]) for section in Outline(render(page)).all("section")]
    assert len(anchors) == len(set(anchors))
    assert anchors.index("mistakes") < anchors.index("data") < anchors.index("card") < anchors.index("settings")
