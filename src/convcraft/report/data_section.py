"""What the model was trained and judged on, and what was noticed about it."""

from __future__ import annotations

from convcraft.data.sample import Finding, worst_first
from convcraft.report import html
from convcraft.report.html import Html, Section, element
from convcraft.report.run_content import SPLIT_NAMES, ReportContent
from convcraft.report.text import count, some

TALL_ROWS = 24
SPLIT_ORDER = ("train", "val", "test")
NOTHING_FOUND = "Nothing was noticed when this run began (`convcraft doctor --full` looks closer)."


def data_section(content: ReportContent) -> Section | None:
    facts = content.data
    if facts is None:
        return None
    splits = [*(name for name in SPLIT_ORDER if name in facts.class_counts)]
    splits += [name for name in facts.class_counts if name not in splits]
    names = [SPLIT_NAMES.get(name, name) for name in splits]
    totals = [int(sum(facts.class_counts[name])) for name in splits]
    sentence = f"{count(sum(totals), 'image')} of {count(len(facts.classes), 'class')}: " + ", ".join(
        f"{total:,} {name}" for total, name in zip(totals, names, strict=True)
    )
    rows: list[list[object]] = [
        [name, *(f"{facts.class_counts[split][index]:,}" for split in splits)]
        for index, name in enumerate(facts.classes)
    ]
    table = html.table(["images of class", *names], rows, tall=len(rows) > TALL_ROWS, sortable=len(rows) > 1)
    return Section("data", "Data", "数据", html.join([element("p", sentence + "."), table]))


def doctor_section(content: ReportContent) -> Section | None:
    if content.data is None:
        return None
    findings = worst_first(content.data.findings)
    body = element("ul", *map(_finding, findings), class_="findings") if findings else element("p", NOTHING_FOUND)
    return Section("doctor", "What the doctor found", "数据检查", body)


def _finding(finding: Finding) -> Html:
    files = some(finding.files)
    return element(
        "li",
        element("div", element("span", f"{finding.severity}: ", class_="severity"), finding.message),
        element("div", finding.fix, class_="note") if finding.fix else "",
        element("div", files, class_="note") if files else "",
        class_=finding.severity if finding.severity in ("info", "warning", "error") else None,
    )
