"""Results by slices of the images."""

from __future__ import annotations

from convcraft.evaluation.slices import SliceResult
from convcraft.report import html
from convcraft.report.html import Section, element
from convcraft.report.run_content import ReportContent
from convcraft.report.text import interval_percent, percent

TALL_ROWS = 24


def slices_section(content: ReportContent) -> Section | None:
    slices = content.slices
    if slices is None or not slices.slices:
        return None
    parts = []
    if slices.worst is not None:
        parts.append(element("p", element("strong", slices.worst.sentence)))
    note = (
        f"Each slice against all other images. p (Fisher, mid-p) is raised for the number of slices (Holm); below 0.05 "
        f"the slice differs beyond chance. Slices under {slices.min_images:,} images are shown, not tested. "
        f"Measured on {content.measured_on}."
    )
    rows = [_row(entry) for entry in slices.slices]
    header = ["slice", "images", "accuracy", "95 % interval", "points off the rest", "95 % interval of that", "p"]
    parts += [html.table(header, rows, tall=len(rows) > TALL_ROWS, sortable=True), element("p", note, class_="note")]
    return Section("slices", "Slices", "分组结果", html.join(parts))


def _row(entry: SliceResult) -> list[object]:
    difference, spread, p_value = "–", "–", "–"
    if entry.difference is not None and entry.difference_interval is not None:
        low, high = entry.difference_interval
        difference, spread = f"{100 * entry.difference:+.1f}", f"{100 * low:+.1f}…{100 * high:+.1f}"
    if entry.p_value is not None:
        p_value = "< 0.0001" if entry.p_value < 0.0001 else f"{entry.p_value:.4f}"
    return [
        entry.name,
        f"{entry.num_images:,}",
        percent(entry.accuracy, entry.num_images),
        interval_percent(entry.interval, entry.num_images),
        difference,
        spread,
        p_value,
    ]
