"""The same images by another set of predictions."""

from __future__ import annotations

from convcraft.evaluation.agreement import Agreement
from convcraft.report import html
from convcraft.report.html import Html, Section, element
from convcraft.report.run_content import ReportContent
from convcraft.report.text import interval_percent, percent


def compared_section(content: ReportContent) -> Section | None:
    if not content.compared:
        return None
    return Section(
        "compared", "Beside others", "与其他模型比较", html.join([_one(found) for found in content.compared])
    )


def _one(found: Agreement) -> Html:
    images = found.num_images
    low, high = found.difference_interval
    rows: list[list[object]] = [
        [label, percent(accuracy, images), interval_percent(interval, images)]
        for label, accuracy, interval in zip(found.labels, found.accuracies, found.intervals, strict=True)
    ]
    kappa = "" if found.kappa is None else f" Cohen's kappa {found.kappa:.2f}."
    words = (
        f"Difference {100 * found.difference:+.1f} points (95 %: {100 * low:+.1f}…{100 * high:+.1f}); both right "
        f"{found.both_right:,}, both wrong {found.both_wrong:,}, of these {found.same_mistake:,} with the same "
        f"mistake.{kappa}"
    )
    return html.join(
        [
            element("p", element("strong", found.verdict)),
            html.table(["", "accuracy", "95 % interval"], rows),
            element("p", words, class_="note"),
        ]
    )
