"""The page of a run: whole, self-contained, harmless whatever names it is given, and complete in what it says."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from convcraft.data.sample import Finding
from convcraft.errors import UserError
from convcraft.evaluation.metrics import classification_report, top_losses
from convcraft.evaluation.predictions import Predictions, softmax
from convcraft.finetune.learning_curve import CurvePoint, LearningCurve, PowerLaw
from convcraft.finetune.proof import Spent, prove
from convcraft.finetune.proof_files import ShownProof
from convcraft.finetune.record import Trial, TuningRecord
from convcraft.report import comparison_plots, html, plots
from convcraft.report.cell_pictures import cells_of
from convcraft.report.feature_maps import first_layer_maps
from convcraft.report.run_report import (
    DataFacts,
    FeatureMaps,
    ReportContent,
    Table,
    render,
    signed_colours,
    write_report,
)
from convcraft.report.script import SCRIPT
from convcraft.report.text import count, percent, printable, shorten

EVIL_NAMES = (
    "<script>alert(1)</script>",
    '</svg><img src="http://evil.example/x.png" onerror="alert(1)">',
    "$\\frac{1}{$",
    "猫",
    "a\x00b\x1b[31m\nc",
    "\udcff.png",
    '" onload="alert(1)',
    "&amp;",
)


class Outline(HTMLParser):
    """What a browser would see: tags, attributes, ids, headings, visible text; unbalanced tags fail."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def content(classes: tuple[str, ...] = tuple("abcdefgh"), num_images: int = 200) -> ReportContent:
    """Everything that a page can hold. The last class does not occur in the test images."""
    random = np.random.default_rng(0)
    num_classes = len(classes)
    targets = random.integers(0, num_classes - 1, num_images)
    logits = random.normal(size=(num_images, num_classes))
    logits[np.arange(num_images), targets] += 2
    names = tuple(f"{classes[target]}/{row}.png" for row, target in enumerate(targets))
    predictions = Predictions(classes, softmax(logits), targets, names)
    mistakes = top_losses(predictions, 5)
    records: list[dict[str, object]] = [
        {"event": "train", "epoch": 0, "step": step, "loss": 3 / step, "accuracy": 0.5, "learning_rate": 0.1}
        for step in range(1, 20)
    ]
    records += [
        {"event": "val", "epoch": 0, "step": 10, "loss": float("nan"), "accuracy": 0.6},
        {"event": "val", "epoch": 1, "step": 19, "loss": 1.0, "accuracy": None},
        {"event": "stop", "reason": "nothing to draw"},
    ]
    return ReportContent(
        title="lenet5 on letters",
        summary=[("model", "lenet5"), ("seed", 0)],
        data=DataFacts(
            classes,
            {"test": np.bincount(targets, minlength=num_classes).tolist(), "train": [100] * num_classes},
            [Finding("leak", "warning", tuple(f"file{n}.png" for n in range(9)), "9 copies", "Pass --drop-leaks.")],
        ),
        model=Table(["layer", "parameters"], [["conv1", "1,234"]]),
        records=records,
        evaluation=classification_report(predictions, num_resamples=50),
        mistakes=mistakes,
        cells=cells_of(predictions, lambda rows: np.full((len(rows), 9, 7, 3), 50, np.uint8), {}),
        mistake_pixels=random.integers(0, 255, (5, 9, 7, 3), dtype=np.uint8),
        feature_maps=FeatureMaps(
            np.zeros((9, 7, 1), np.uint8), random.normal(size=(6, 5, 3)).astype(np.float32), "body.conv1", classes[0]
        ),
        config_yaml="model:\n  name: lenet5\n",
        reproduce=["convcraft train --recipe x", "convcraft evaluate run"],
        split_note="These test images were opened 2 times by this run.",
        comparisons=[comparison(classes, how, seed) for seed, how in enumerate(("cross-fitted", "test"))],
        tuning=TuningRecord(
            trials=(
                Trial("probe", "probe", 200, 0.9, (0.85, 0.93), 4.2, 650, False, f"{classes[0]} fewer right"),
                Trial("lora", "lora", 200, 0.95, (0.91, 0.97), 131.7, 44_426, True, "chosen"),
                Trial("full", "full", 0, None, None, 41.0, 272_474, False, "clearly behind lora after round 1"),
            ),
            said=(f"full: given up on {classes[0]}",),
            freeze="61 frozen tensors are bit for bit what they were.",
            learning_curve=LearningCurve(
                (CurvePoint(10.0, 0.8, 0.03), CurvePoint(20.0, 0.9, 0.02)),
                PowerLaw(0.02, 0.9, 0.5),
                27.0,
                0.02,
                (0.01, 0.03),
                "Twice as many would help.",
            ),
        ),
    )


def comparison(classes: tuple[str, ...], how: str, seed: int, num_images: int = 150) -> ShownProof:
    """Before and after, with one picture gained and two lost; the last class does not occur."""
    random = np.random.default_rng(seed)
    targets = random.integers(0, len(classes) - 1, num_images)
    rows = []
    for strength in (1.0, 2.5):
        logits = random.normal(size=(num_images, len(classes)))
        logits[np.arange(num_images), targets] += strength
        rows.append(softmax(logits))
    names = [f"{classes[target]}/{row}.png" for row, target in enumerate(targets)]
    proof = prove(
        classes,
        names,
        targets,
        *rows,
        how=how,
        spent=Spent(4.2, 131.7, 650, 44_426),
        groups=np.arange(num_images) // 2,
        before_label=f"probe of {classes[0]}",
        after_label="lora",
        num_resamples=50,
    )
    pixels = random.integers(0, 255, (3, 9, 7, 3), dtype=np.uint8)
    return ShownProof(proof, pixels[:1], pixels[1:])


@pytest.fixture(scope="module")
def evil_page() -> str:
    return render(replace(content(EVIL_NAMES), title=EVIL_NAMES[0], config_yaml="a: <b>&\n  b: 1"))


@pytest.fixture(scope="module")
def whole_page() -> str:
    return render(content())


@pytest.fixture
def without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of a page's time goes into its plots; tests that look at the words around them do without."""
    monkeypatch.setattr(html, "plot", lambda figure, alt, caption: html.element("figure", caption))


def test_names_are_shown_and_never_run(evil_page: str) -> None:
    outline = Outline(evil_page)
    tags = {tag for tag, _ in outline.tags}
    assert tags.isdisjoint({"iframe", "object", "embed", "link", "base", "form", "foreignobject"})
    assert all(not name.startswith("on") for _, attributes in outline.tags for name in attributes)
    kinds = [attributes.get("type") for attributes in outline.all("script")]
    assert kinds == ["application/json", None]  # images of the cells, which is no code; then the page's own
    assert outline.scripts[1] == SCRIPT
    assert json.loads(outline.scripts[0])["classes"][0] == EVIL_NAMES[0]
    assert EVIL_NAMES[0] in outline.text
    assert "&amp;" in outline.text  # shown as it is called, not read as markup
    assert "a: <b>&" in outline.text


def test_names_survive_encoding(evil_page: str, tmp_path: Path) -> None:
    evil_page.encode("utf-8")
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", evil_page)


def test_the_page_asks_nothing_of_the_network(evil_page: str) -> None:
    for tag, attributes in Outline(evil_page).tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/png;base64,")), (tag, name, value)
        assert "url(" not in (attributes.get("style") or "").replace("url(#", "")
    assert "@import" not in evil_page
    assert "url(" not in html.CSS
    policy = next(meta for meta in Outline(evil_page).all("meta") if meta.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    assert (policy["content"] or "").startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in (policy["content"] or "")
    assert "unsafe-eval" not in evil_page


def test_every_picture_has_words_for_those_who_cannot_see_it(evil_page: str) -> None:
    outline = Outline(evil_page)
    assert len(outline.all("img")) == 5 + 1 + 6 + 2 * 3
    assert all(image["alt"] for image in outline.all("img"))
    drawings = outline.all("svg")
    marks = [drawing for drawing in drawings if drawing.get("aria-hidden") == "true"]
    assert len(drawings) - len(marks) == 5 + 2 * 2 + 1
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in drawings if drawing not in marks)


def test_ids_are_unique_and_references_lead_somewhere(evil_page: str) -> None:
    outline = Outline(evil_page)
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = {
        str(value)[1:]
        for _, attributes in outline.tags
        for name, value in attributes.items()
        if name == "href" and str(value).startswith("#")
    }
    references |= set(re.findall(r"url\(#([^)]+)\)", evil_page))
    assert references
    assert references <= set(ids)


def test_the_page_states_figures_with_what_they_are_measured_on(whole_page: str) -> None:
    report = content().evaluation
    assert report is not None
    words = Outline(whole_page).text
    assert f"{100 * report.accuracy:.1f} %" in words
    low, high = report.interval
    assert f"{report.num_correct} of 200 images right; 95 % interval {100 * low:.1f}–{100 * high:.1f} %" in words
    assert words.count("Measured on 200 images of the test split") == 4
    assert "1,000 images of 8 classes: 800 train, 200 test." in words  # train first, whatever the order given
    assert "The 5 worst of" in words
    assert "Without an image here, so without recall: h." in words
    assert "file0.png" in words
    assert "and 3 more" in words
    assert "Before normalisation and ReLU" in words


def test_accuracy_comes_first(whole_page: str) -> None:
    words = Outline(whole_page).text
    assert words.index("Accuracy · test") < words.index("Summary")


def test_before_and_after_say_what_was_gained_by_what_and_where(whole_page: str) -> None:
    shown = comparison(tuple("abcdefgh"), "cross-fitted", 0)
    proof, words = shown.proof, Outline(whole_page).text
    assert proof.outcome == "better"
    assert proof.verdict in words
    assert f"{len(proof.gained)} gained, {len(proof.lost)} lost; exact McNemar test, p < 0.0001" in words
    assert "Before: probe of a. After: lora. 150 images, cross-fitted" in words
    assert "Near copies among them count as one, which leaves 75." in words
    assert words.count("fitted anew on all of them") == 1  # of the cross-fitted comparison, not of that on test
    assert "150 images, on the test images." in words
    low, high = proof.difference_interval
    assert f"{100 * low:+.1f}…{100 * high:+.1f}" in words
    gained = proof.gained[0]
    assert f"Gained: wrong before, right after ({len(proof.gained)}; the 1 whose true class moved farthest)" in words
    assert f"before ✗ {gained.before} ({100 * gained.before_probability:.1f} %)" in words
    assert f"after ✓ {gained.after} ({100 * gained.after_probability:.1f} %)" in words
    assert gained.name in words
    assert "131.7" in words
    assert "44,426" in words
    assert "These test images were opened 2 times by this run." in words


def test_what_was_tried_is_shown_with_its_reasons(whole_page: str) -> None:
    words = Outline(whole_page).text
    assert "lora ✓ lora 95.0 % 91.0–97.0 % 131.7 s 44,426 chosen" in words
    assert "full full – – 41.0 s 272,474 clearly behind lora after round 1" in words
    assert "61 frozen tensors are bit for bit what they were." in words
    assert "Twice as many would help." in words
    assert "full: given up on a" in words


def test_of_many_classes_those_that_changed_most_are_drawn() -> None:
    classes = tuple(f"class {number}" for number in range(60))
    drawn = render(ReportContent(title="many", comparisons=[comparison(classes, "part", 0, 2000)]))
    assert "The 30 of 59 classes that changed most." in Outline(drawn).text


def test_classes_that_stay_get_no_arrow() -> None:
    figure = comparison_plots.paired_recalls(["up", "down", "stays"], [0.5, 0.9, 0.7], [0.8, 0.6, 0.7])
    arrows = [text for text in figure.axes[0].texts if getattr(text, "arrow_patch", None) is not None]
    assert [arrow.xy[0] > arrow.xyann[0] for arrow in arrows] == [True, False]  # type: ignore[attr-defined]


@pytest.mark.usefixtures("without_drawing")
def test_figures_of_validation_carry_a_caution(whole_page: str) -> None:
    assert "expect less on test" in Outline(render(replace(content(), split="val"))).text
    assert "expect less on test" not in Outline(whole_page).text


@pytest.mark.usefixtures("without_drawing")
@pytest.mark.parametrize(
    ("without", "anchors"),
    [
        ({"evaluation": None}, {"classes", "confusion", "calibration", "mistakes"}),
        ({"mistakes": ()}, {"mistakes"}),
        ({"records": ()}, {"training"}),
        ({"records": [{"event": "stop"}]}, {"training"}),
        ({"records": [{"event": "val", "step": 1, "loss": None, "accuracy": None}]}, {"training"}),
        ({"data": None}, {"data", "doctor"}),
        ({"model": None}, {"network"}),
        ({"feature_maps": None}, {"features"}),
        ({"config_yaml": "", "reproduce": ()}, {"settings", "reproduce"}),
        ({"comparisons": ()}, {"comparison", "comparison-test"}),
        ({"tuning": None}, {"tried"}),
    ],
)
def test_parts_without_content_are_left_out(without: dict[str, object], anchors: set[str], whole_page: str) -> None:
    full = {str(section["id"]) for section in Outline(whole_page).all("section")}
    outline = Outline(render(replace(content(), **without)))  # type: ignore[arg-type]
    assert {str(section["id"]) for section in outline.all("section")} == full - anchors


def test_a_page_of_a_title_alone() -> None:
    assert Outline(render(ReportContent(title="nothing yet"))).all("section") == []


def test_the_same_content_gives_the_same_page(whole_page: str) -> None:
    assert render(content()) == whole_page


def test_write_report_replaces_the_page_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report(tmp_path, ReportContent(title="first"))
    assert path == tmp_path / "report.html"
    write_report(tmp_path, ReportContent(title="second"))
    assert "second" in path.read_text(encoding="utf-8")

    def full_disk(self: Path, text: str, encoding: str) -> int:
        with self.open("w") as half:
            half.write("half a page")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_report(tmp_path, ReportContent(title="third"))
    assert "second" in path.read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("num_classes", [2, 20, 21, 100])
def test_confusion_matrices_are_annotated_only_while_legible(num_classes: int) -> None:
    matrix = np.eye(num_classes, dtype=np.int64) * 7
    matrix[0, 1] = 3
    figure = plots.confusion_matrix(matrix, [f"class {index}" for index in range(num_classes)])
    counts = [text.get_text() for text in figure.axes[0].texts]
    assert counts == ([] if num_classes > 20 else ["7", "3"] + ["7"] * (num_classes - 1))
    colours = figure.axes[0].images[0].get_array()
    assert colours is not None
    assert colours[0, 1, 0] > colours[0, 1, 2]  # wrong: orange
    assert colours[1, 1, 2] > colours[1, 1, 0]  # right: blue
    assert colours[1, 0, 3] == 0  # none: nothing
    Outline(html.plot(figure, "alt", "caption"))


def test_plots_follow_the_theme_of_the_page() -> None:
    drawing = html.plot(plots.training_curve({"train": ([1, 2], [0.5, 0.4])}, "Loss"), "alt", "caption")
    assert "var(--blue)" in drawing
    assert plots.BLUE not in drawing
    assert plots.INK not in drawing
    assert "<style" not in drawing  # matplotlib's would hold for the whole page


def test_pictures_keep_their_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 6, 1), dtype=np.uint8)
    tag = Outline(html.picture(pixels, "an image")).all("img")[0]
    decoded = Image.open(io.BytesIO(base64.b64decode(str(tag["src"]).partition(",")[2])))
    assert (np.asarray(decoded) == pixels[..., 0]).all()
    large = Outline(html.picture(np.zeros((900, 300, 3), np.uint8), "a large image")).all("img")[0]
    assert (large["width"], large["height"]) == ("107", "320")


def test_signed_colours_are_scaled_to_each_map() -> None:
    colours = signed_colours(np.array([[-2.0, 0.0, 2.0]], dtype=np.float32)).astype(int)
    assert colours[0, 0, 0] > colours[0, 0, 2]  # negative: red
    assert colours[0, 1].min() > 240  # zero: white
    assert colours[0, 2, 2] > colours[0, 2, 0]  # positive: blue
    assert (signed_colours(np.array([[-0.2, 0.0, 0.2]], dtype=np.float32)) == colours).all()
    assert signed_colours(np.zeros((2, 2), np.float32)).min() > 240


class Reversed(nn.Module):
    """Runs its convolutions in the other order than they are defined, with an in-place ReLU behind the first."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(4, 2, 1)
        self.first = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(torch.relu_(self.first(images))))


def test_first_layer_maps_are_those_of_the_convolution_that_runs_first() -> None:
    torch.manual_seed(0)
    model = Reversed()
    image = torch.randn(1, 3, 9, 8)
    expected = model.first(image)[0].detach().numpy()
    name, maps = first_layer_maps(model, image)
    assert name == "first"
    assert maps.min() < 0  # the ReLU is not applied
    assert maps == pytest.approx(expected, abs=1e-6)


def test_first_layer_maps_leave_the_model_as_it_was() -> None:
    model = Reversed().train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first_layer_maps(model, torch.randn(1, 3, 9, 8))
    with pytest.raises(RuntimeError):
        first_layer_maps(model, torch.randn(1, 5, 9, 8))
    assert model.training
    assert not model.norm.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_models_without_convolution_and_batches_are_refused() -> None:
    with pytest.raises(UserError, match="Conv2d"):
        first_layer_maps(nn.Flatten(), torch.zeros(1, 1, 4, 4))
    with pytest.raises(UserError, match="one image"):
        first_layer_maps(Reversed(), torch.zeros(2, 3, 9, 9))


def test_words_and_numbers() -> None:
    assert printable("a\nb\x07\u202e\udcff") == "a b\ufffd\ufffd\ufffd"
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("猫狗鸟", 5) == "猫狗…"
    assert shorten("猫狗鸟", 6) == "猫狗鸟"
    assert (percent(0.98611, 360), percent(0.98611, 10_000)) == ("98.6 %", "98.61 %")
    assert (count(1, "image"), count(1797, "image"), count(2, "class")) == ("1 image", "1,797 images", "2 classes")
