"""The page in a real browser: silent, alone, legible on a phone, and true to the figures it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from chromium import Chromium, find_chromium

from convcraft.evaluation.metrics import Report, classification_report, top_losses
from convcraft.evaluation.predictions import Predictions, softmax
from convcraft.report.cell_pictures import PICTURES_PER_CELL, cells_of
from convcraft.report.mistakes_section import picture_id
from convcraft.report.run_content import Heat, ReportContent
from convcraft.report.run_report import write_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="Chromium was not found (apt-get install chromium)"),
]
ALERT = '<img src=x onerror="alert(1)">'


@dataclass(frozen=True)
class Page:
    path: Path
    predictions: Predictions
    report: Report


def made(folder: Path, num_classes: int, num_images: int, last: str = "last") -> Page:
    random = np.random.default_rng(0)
    classes = (*(f"kind {number}" for number in range(num_classes - 1)), last)
    targets = random.integers(0, num_classes, num_images)
    logits = random.normal(size=(num_images, num_classes))
    logits[np.arange(num_images), targets] += 2
    names = tuple(f"{row} {last}.png" for row in range(num_images))
    predictions = Predictions(classes, softmax(logits), targets, names)
    report = classification_report(predictions, num_resamples=20)
    mistakes = top_losses(predictions, 6)
    pixels = random.integers(0, 255, (num_images, 24, 24, 3), dtype=np.uint8)
    already = {mistake.index: picture_id(place) for place, mistake in enumerate(mistakes)}
    content = ReportContent(
        title="kinds",
        evaluation=report,
        void=("They chose the weights.",),
        mistakes=mistakes,
        mistake_pixels=pixels[[mistake.index for mistake in mistakes]],
        heat=Heat("grad-cam", random.random((len(mistakes), 24, 24)).astype(np.float32)),
        cells=cells_of(predictions, lambda rows: pixels[rows], already),
    )
    return Page(write_report(folder, content), predictions, report)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return made(tmp_path_factory.mktemp("few"), 6, 400, ALERT)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return made(tmp_path_factory.mktemp("many"), 60, 600)


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as chromium:
        yield chromium


def opened(browser: Chromium, page: Page) -> Chromium:
    browser.messages.clear()
    browser.requests.clear()
    browser.open(page.path)
    return browser


@pytest.mark.parametrize("which", ["few", "many"])
def test_nothing_is_said_on_the_console_and_nothing_else_is_asked_for(
    browser: Chromium, which: str, request: pytest.FixtureRequest
) -> None:
    page: Page = request.getfixturevalue(which)
    opened(browser, page)
    browser.evaluate("document.querySelector('[data-cell]').click()")
    browser.evaluate("for (const button of document.querySelectorAll('button.sort')) button.click()")
    assert browser.messages == []
    assert browser.requests == [page.path.as_uri()]


def test_a_script_that_is_not_the_pages_own_does_not_run(browser: Chromium, few: Page, tmp_path: Path) -> None:
    altered = tmp_path / "altered.html"
    words = few.path.read_text(encoding="utf-8").replace("</main>", "<script>document.title = 'taken'</script></main>")
    altered.write_text(words, encoding="utf-8")
    browser.open(altered)
    assert browser.evaluate("document.title") == "kinds"
    assert any("Content Security Policy" in message for message in browser.messages)


@pytest.mark.parametrize("which", ["few", "many"])
@pytest.mark.parametrize("width", [375, 1440])
def test_no_page_is_wider_than_the_screen(which: str, width: int, request: pytest.FixtureRequest) -> None:
    with Chromium(width, 800, phone=width < 500) as chromium:
        opened(chromium, request.getfixturevalue(which))
        assert chromium.evaluate("document.documentElement.scrollWidth") == width
        assert chromium.evaluate("innerWidth") == width


def test_figures_of_the_page_are_those_of_the_report(browser: Chromium, few: Page) -> None:
    opened(browser, few)
    figures = few.report.to_dict()
    value = browser.evaluate("document.querySelector('.figure-of-merit .value').textContent")
    assert value.replace("\u00a0", " ") == f"{100 * figures['accuracy']:.1f} %"
    cells = browser.evaluate(
        "[...document.querySelectorAll('table.matrix tbody tr')].map(row => "
        "[...row.querySelectorAll('td')].map(cell => Number(cell.textContent)))"
    )
    assert cells == figures["confusion"]
    rows = browser.evaluate(
        "[...document.querySelectorAll('#classes table.sortable tbody tr')].map(row => "
        "[...row.cells].map(cell => cell.textContent))"
    )
    assert [row[0] for row in rows] == figures["classes"]
    for row, entry in zip(rows, figures["per_class"], strict=True):
        expected = [f"{entry['support']}", *(f"{100 * entry[name]:.1f}" for name in ("recall", "precision", "f1"))]
        assert [row[1], row[2], row[4], row[5]] == expected
        assert row[6:8] == [f"{entry['auroc']:.4f}", f"{entry['average_precision']:.4f}"]
    assert "They chose the weights." in browser.evaluate("document.querySelector('.void').innerText")


def test_a_cell_opens_its_images_worst_first(browser: Chromium, few: Page) -> None:
    opened(browser, few)
    confusion = few.report.confusion - np.diag(np.diag(few.report.confusion))
    target, label = np.unravel_index(int(confusion.argmax()), confusion.shape)
    assert browser.evaluate("document.getElementById('cell').hidden") is True
    browser.evaluate(f"document.querySelector('[data-cell=\"{target}-{label}\"]').click()")
    panel = browser.evaluate("document.getElementById('cell').innerText")
    assert f"{confusion[target, label]} images" in panel
    targets, labels = few.predictions.targets, few.predictions.labels
    assert targets is not None
    rows = np.flatnonzero((targets == target) & (labels == label))
    worst = rows[np.argsort(few.predictions.probabilities[rows, target], kind="stable")]
    shown = browser.evaluate("[...document.querySelectorAll('#cell .name')].map(node => node.textContent)")
    assert shown == [few.predictions.names[row] for row in worst[:PICTURES_PER_CELL]]
    loaded = browser.evaluate(
        "Promise.all([...document.querySelectorAll('#cell img')].map(async image => {"
        "image.loading = 'eager'; await image.decode(); return image.naturalWidth; }))"
    )
    assert loaded == [24] * len(shown)


def test_cells_are_reached_by_keyboard_and_left_by_escape(browser: Chromium, few: Page) -> None:
    opened(browser, few)
    browser.evaluate("document.querySelector('[data-cell=\"0-0\"]').focus()")
    browser.press("ArrowDown")
    reached = browser.evaluate("document.activeElement.dataset.cell")
    assert reached.endswith("-0")
    assert reached != "0-0"
    browser.press("Enter")
    assert browser.evaluate("document.getElementById('cell').hidden") is False
    browser.press("Escape")
    assert browser.evaluate("document.getElementById('cell').hidden") is True
    assert browser.evaluate("document.activeElement.dataset.cell") == reached


def test_names_stay_text_when_a_cell_is_opened(browser: Chromium, few: Page) -> None:
    opened(browser, few)
    browser.evaluate("document.querySelector('[data-cell=\"5-5\"]').click()")
    assert ALERT in browser.evaluate("document.querySelector('#cell h3').textContent")
    assert browser.evaluate("document.querySelectorAll('img[src=\"x\"]').length") == 0
    assert browser.messages == []


def test_tables_sort_by_number_both_ways(browser: Chromium, few: Page) -> None:
    opened(browser, few)
    column = "[...document.querySelectorAll('#classes tbody tr')].map(row => Number(row.cells[2].textContent))"
    click = "document.querySelectorAll('#classes button.sort')[2].click()"
    browser.evaluate(click)
    up = browser.evaluate(column)
    assert up == sorted(up)
    assert len(set(up)) > 1
    browser.evaluate(click)
    assert browser.evaluate(column) == sorted(up, reverse=True)
    assert browser.evaluate("document.querySelector('[aria-sort]').textContent") == "recall, %"


def test_many_classes_are_a_list_that_grows_and_can_be_searched(browser: Chromium, many: Page) -> None:
    opened(browser, many)
    mistakes = many.report.confusion - np.diag(np.diag(many.report.confusion))
    length = "document.querySelectorAll('#pairs tbody tr').length"
    assert browser.evaluate("document.querySelectorAll('table.matrix').length") == 0
    first = browser.evaluate(length)
    assert first < int((mistakes > 0).sum())
    browser.evaluate("document.getElementById('pairs-more').click()")
    assert browser.evaluate(length) == min(first + 200, int((mistakes > 0).sum()))
    browser.evaluate(
        "const field = document.getElementById('pairs-wanted'); field.value = 'last'; "
        "field.dispatchEvent(new Event('input'))"
    )
    own = (many.report.confusion[-1] > 0).sum() + (many.report.confusion[:-1, -1] > 0).sum()
    assert browser.evaluate(length) == own
    browser.evaluate("document.querySelector('#pairs [data-cell]').click()")
    assert browser.evaluate("document.getElementById('cell').hidden") is False


def test_heat_lies_over_the_mistakes_until_it_is_switched_off(browser: Chromium, few: Page) -> None:
    opened(browser, few)
    opacity = "getComputedStyle(document.querySelector('.heat')).opacity"
    assert float(browser.evaluate(opacity)) > 0.3
    browser.evaluate("document.getElementById('heat').click()")
    assert float(browser.evaluate(opacity)) == 0


def test_without_its_script_the_page_still_has_its_figures(few: Page) -> None:
    with Chromium() as chromium:
        chromium.send("Emulation.setScriptExecutionDisabled", value=True)
        chromium.open(few.path)
        body = chromium.send("DOM.getDocument")["root"]["nodeId"]
        rows = chromium.send("DOM.querySelectorAll", nodeId=body, selector="#classes tbody tr")["nodeIds"]
        assert len(rows) == len(few.report.classes)
        assert chromium.send("DOM.querySelectorAll", nodeId=body, selector="button.sort")["nodeIds"] == []
        assert chromium.messages == []
