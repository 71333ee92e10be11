"""What a run was made into, weighed: latency, size and accuracy of every variant, and which no other beats."""

from __future__ import annotations

import math

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from convcraft.evaluation.trade_off import TradeOff
from convcraft.report import html
from convcraft.report.html import Section, element
from convcraft.report.plots import BLUE, MUTED, RULE, STYLE
from convcraft.report.run_content import ReportContent
from convcraft.report.text import interval_percent, percent

LARGEST_MARK, SMALLEST_MARK = 420.0, 24.0  # points squared


def variants_section(content: ReportContent) -> Section | None:
    found = content.trade_off
    if found is None or not found.variants:
        return None
    alt = "Accuracy of each variant over its time for one image; the larger the mark, the larger the file"
    caption = (
        f"Numbered as in the table. Accuracy on {found.images}, with 95 % intervals; one image at a time on "
        f"{found.machine}. The area of a mark is the file's size. "
        "Blue, on the line: no other variant is at once as right, as quick and as small. Grey squares: one is."
    )
    body = [html.plot(trade_off_plot(found), alt, caption), _table(found)]
    return Section("variants", "Variants", "模型变体", html.join(body))


def trade_off_plot(found: TradeOff) -> Figure:
    """Milliseconds (logarithmic where they span more than a factor of 5) against accuracy; the front joined."""
    variants, front = found.variants, found.front
    times = [variant.milliseconds for variant in variants]
    largest = max(variant.size_bytes for variant in variants)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.3), layout="constrained")
        axes = figure.add_subplot(xlabel="milliseconds for one image", ylabel="accuracy")
        if max(times) > 5 * min(times):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        on_line = sorted((v.milliseconds, v.accuracy) for v, on in zip(variants, front, strict=True) if on)
        axes.plot(*zip(*on_line, strict=True), color=BLUE, linewidth=1.0, alpha=0.6, zorder=1)
        for number, (variant, on) in enumerate(zip(variants, front, strict=True), start=1):
            area = max(SMALLEST_MARK, LARGEST_MARK * variant.size_bytes / largest)
            colour = BLUE if on else MUTED
            axes.vlines(variant.milliseconds, *variant.interval, color=RULE, linewidth=1.2, zorder=0)
            axes.scatter(
                variant.milliseconds, variant.accuracy, s=area, color=colour, marker="o" if on else "s", alpha=0.75
            )
            place = (variant.milliseconds, variant.accuracy)
            above = math.sqrt(area) / 2 + 2
            axes.annotate(str(number), place, (0, above), textcoords="offset points", ha="center", fontsize=8)
        axes.margins(x=0.18, y=0.15)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
        axes.grid(axis="y")
        return figure


def _table(found: TradeOff) -> html.Html:
    header = ("", "variant", "best", "accuracy", "95 %", "agrees", "worse in", "ms", "MB", "made by")
    rows = [
        (
            number,
            variant.name,
            "yes" if on else "",
            percent(variant.accuracy, variant.num_images),
            interval_percent(variant.interval, variant.num_images),
            percent(variant.agreement, variant.num_images),
            ", ".join(variant.worse),
            f"{variant.milliseconds:.3g}",
            f"{variant.size_bytes / 1e6:.2f}",
            element("code", variant.command),
        )
        for number, (variant, on) in enumerate(zip(found.variants, found.front, strict=True), start=1)
    ]
    return html.table(header, rows, name_columns=3, sortable=True)
