"""How far confidence can be believed: reliability, sets of classes, and answers that are better not given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convcraft.report import html, plots
from convcraft.report.html import Html, Section, element
from convcraft.report.run_content import ReportContent
from convcraft.report.text import count, in_percent, interval_percent, percent

REASONS = {
    "answered": "answered",
    "unknown": "rejected: unknown",
    "low confidence": "rejected: low confidence",
    "ambiguous": "rejected: ambiguous",
    "rejected": "rejected in all",
}


def calibration_section(content: ReportContent) -> Section | None:
    report = content.evaluation
    if report is None:
        return None
    if content.reliability:
        figures = [_diagram(name, content) for name in content.reliability]
    else:
        bins = report.calibration
        figure = plots.reliability(bins.edges, bins.counts, bins.mean_confidence, bins.accuracy)
        caption = f"{_question(bins.expected_error, report.num_images)} Measured on {content.measured_on}."
        figures = [html.plot(figure, "Reliability diagram: accuracy against confidence", caption)]
    parts = [element("div", *figures, class_="figures")]
    if content.trust is not None:
        parts += [_calibrated(content.trust), _sets(content.trust), _answers(content.trust), *_notes(content.trust)]
    return Section("calibration", "Calibration", "置信度校准", html.join(parts))


def _question(error: float, num_images: int) -> str:
    return (
        f"Is the model right as often as it is sure? Points below the line: too sure. Expected calibration error "
        f"{percent(error, num_images)}. Bins with few images say little."
    )


def _diagram(name: str, content: ReportContent) -> Html:
    diagram = content.reliability[name]
    bins, images = diagram.calibration, int(diagram.calibration.counts.sum())
    figure = plots.reliability(
        bins.edges, bins.counts, bins.mean_confidence, bins.accuracy, diagram.accuracy_intervals, name
    )
    caption = (
        f"{_question(bins.expected_error, images)} Lines: 95 % intervals. The error's own interval is "
        f"{interval_percent(diagram.error_interval, images)}; perfect probabilities would show up to "
        f"{percent(diagram.chance_error[1], images)} by chance. Measured on {content.measured_on}."
    )
    return html.plot(figure, f"Reliability diagram, {name}: accuracy against confidence", caption)


def _calibrated(trust: Mapping[str, Any]) -> Html:
    images, before, after = trust["num_images"], trust["before"], trust["after"]
    if before is None or after is None:
        return Html()
    rows: list[list[object]] = [
        [
            "calibration error, %",
            *(in_percent(side["error"], images) for side in (before, after)),
        ],
        [
            "95 % interval",
            *(interval_percent(side["error_interval"], images).removesuffix(" %") for side in (before, after)),
        ],
        ["by chance alone, up to, %", *(in_percent(side["chance_error"][1], images) for side in (before, after))],
        ["log-loss", f"{before['log_loss']:.3f}", f"{after['log_loss']:.3f}"],
    ]
    head = ["", "as the network says", "calibrated"]
    words = f"A temperature of {trust['temperature']:.2f}, fitted on {trust['source']} images, not on these."
    return html.join([element("h3", "One temperature for all confidence"), element("p", words), html.table(head, rows)])


def _sets(trust: Mapping[str, Any]) -> Html:
    if trust["coverage"] is None:
        return Html()
    images = trust["num_images"]
    words = (
        f"Sets of classes (conformal prediction) were to hold the true class in {percent(trust['promised'], images)} "
        f"of the images; they hold it in {percent(trust['coverage'], images)} "
        f"(95 %: {interval_percent(trust['coverage_interval'], images)}), with "
        f"{trust['mean_set_size']:.2f} classes on average; {percent(trust['share_single'], images)} have one class "
        f"alone, {percent(trust['share_empty'], images)} none."
    )
    return html.join([element("h3", "Sets that hold the true class"), element("p", words)])


def _answers(trust: Mapping[str, Any]) -> Html:
    images = trust["num_images"]
    rows: list[list[object]] = [
        [
            REASONS.get(group["reason"], group["reason"]),
            f"{group['num_images']:,}",
            percent(group["share"], images),
            "–" if group["accuracy"] is None else percent(group["accuracy"], group["num_images"]),
            "–" if group["interval"] is None else interval_percent(group["interval"], group["num_images"]),
        ]
        for group in [*trust["groups"], trust["rejected"]]
    ]
    table = html.table(["what happens", "images", "share", "accuracy", "95 % interval"], rows)
    words = f"All {count(images, 'image')}: {percent(trust['accuracy'], images)} right."
    return html.join([element("h3", "Answers given and rejected"), element("p", words), table])


def _notes(trust: Mapping[str, Any]) -> list[Html]:
    return [element("p", note, class_="note") for note in trust["notes"]]
