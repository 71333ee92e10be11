"""Each class by itself: a figure of the weakest, a table of all that sorts."""

from __future__ import annotations

from convcraft.evaluation.metrics import ClassReport, Report
from convcraft.report import html, plots
from convcraft.report.html import Html, Section, element
from convcraft.report.run_content import ReportContent
from convcraft.report.text import in_percent, some

DRAWN_CLASSES = 30  # with more, the figure shows those with the lowest recall; the table has all
TALL_ROWS = 24


def classes_section(content: ReportContent) -> Section | None:
    report = content.evaluation
    if report is None:
        return None
    known = [entry for entry in report.per_class if entry.support or entry.predicted]
    drawn = known
    chosen = ""
    if len(known) > DRAWN_CLASSES:
        drawn = sorted((entry for entry in known if entry.support), key=lambda entry: entry.recall)[:DRAWN_CLASSES]
        chosen = f" The {len(drawn)} classes with the lowest recall; the table has all."
    figure = plots.per_class(
        [entry.name for entry in drawn],
        [_or_nan(entry, "recall") for entry in drawn],
        [entry.recall_interval for entry in drawn],
        [_or_nan(entry, "precision") for entry in drawn],
    )
    caption = (
        f"Recall with its 95 % interval (Wilson) and precision of each class. "
        f"Measured on {content.measured_on}.{chosen}"
    )
    parts = [html.plot(figure, "Recall and precision of each class", caption), _table(report)]
    if report.absent_classes:
        names = some(report.absent_classes)
        parts.append(element("p", f"Without an image here, so without recall: {names}. Macro figures count them as 0."))
    return Section("classes", "Classes", "各类别", html.join(parts))


def _or_nan(entry: ClassReport, figure: str) -> float:
    return float("nan") if figure in entry.undefined else float(getattr(entry, figure))


def _table(report: Report) -> Html:
    def cell(entry: ClassReport, figure: str, images: int) -> str:
        return "–" if figure in entry.undefined else in_percent(getattr(entry, figure), images)

    def ranking(value: float | None) -> str:
        return "–" if value is None else f"{value:.4f}"

    rows: list[list[object]] = [
        [
            entry.name,
            f"{entry.support:,}",
            cell(entry, "recall", entry.support),
            "–".join(in_percent(bound, entry.support) for bound in entry.recall_interval or ()) or "–",
            cell(entry, "precision", entry.predicted),
            cell(entry, "f1", entry.support + entry.predicted),
            ranking(entry.auroc),
            ranking(entry.average_precision),
        ]
        for entry in report.per_class
    ]
    header = ["class", "images", "recall, %", "95 % interval", "precision, %", "F1, %", "AUROC", "AP"]
    return html.table(header, rows, tall=len(rows) > TALL_ROWS, sortable=len(rows) > 1)
