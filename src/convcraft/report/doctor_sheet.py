"""The page of `convcraft doctor --page`: every finding with its fix and the pictures of its files, in one HTML file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convcraft import __version__
from convcraft.data.sample import SEVERITIES, Finding
from convcraft.errors import UserError
from convcraft.report import html
from convcraft.report.html import Html, Section, element
from convcraft.report.text import count

MADE_BY = "Written by convcraft doctor"
NAMES_SHOWN = 50
HEADINGS = {
    "unreadable": ("Files that cannot be read", "无法读取的文件"),
    "exact_duplicate": ("Exact copies", "完全重复"),
    "near_duplicate": ("Near copies", "近似重复"),
    "leak": ("Copies across splits", "数据泄漏"),
    "label_error": ("Labels that may be wrong", "可疑标签"),
    "imbalance": ("Class imbalance", "类别不平衡"),
    "too_few": ("Too few images", "图像过少"),
    "odd_size": ("Odd sizes", "异常尺寸"),
    "odd_channels": ("Odd channels", "异常通道"),
    "odd_format": ("Odd formats", "异常格式"),
    "shift": ("Shift between splits", "分布偏移"),
    "settings": ("Settings and network", "配置与网络"),
}


@dataclass(frozen=True, eq=False)
class Picture:
    """name: of the file. label: its class, or None where that is not to be shown.

    pixels: uint8 [H, W] or [H, W, 3]; None where the file cannot be shown.
    """

    name: str
    label: str | None
    pixels: NDArray[np.uint8] | None


@dataclass(frozen=True)
class FindingPictures:
    finding: Finding
    pictures: tuple[Picture, ...]


def write_page(
    path: Path,
    title: str,
    summary: Sequence[tuple[object, object]],
    notes: Sequence[str],
    findings: Sequence[FindingPictures],
) -> None:
    """Write the page, whole or not at all.

    Args:
        summary: rows (what, value). notes: sentences below them.

    Raises:
        UserError: as `refuse_foreign_page`.
    """
    refuse_foreign_page(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(render_page(title, summary, notes, findings), encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def refuse_foreign_page(path: Path) -> None:
    """Raises UserError unless path is free, or holds an earlier page that may be replaced."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"a page {path}", "a file name that ends in .html", "Name it doctor.html.")
    if path.is_dir() or (path.exists() and MADE_BY.encode() not in path.read_bytes()):
        fix = "Choose another name; nothing was overwritten."
        raise UserError(f"{path}, which convcraft doctor did not write", "a new name or an earlier page", fix)


def render_page(
    title: str,
    summary: Sequence[tuple[object, object]],
    notes: Sequence[str],
    findings: Sequence[FindingPictures],
) -> str:
    """The page as text: a summary, then the findings by kind, the worst kind first."""
    said = [element("p", note, class_="note") for note in notes]
    sections = [Section("summary", "Summary", "概要", html.join([_counts(findings), html.pairs(summary), *said]))]
    by_kind: dict[str, list[FindingPictures]] = {}
    for each in findings:
        by_kind.setdefault(each.finding.kind, []).append(each)
    for kind, members in by_kind.items():
        heading, chinese = HEADINGS.get(kind, (kind.replace("_", " ").capitalize(), ""))
        sections.append(Section(kind.replace("_", "-"), heading, chinese, html.join([*map(_finding, members)])))
    return html.page(title, Html(), sections, f"{MADE_BY} {__version__}.")


def _counts(findings: Sequence[FindingPictures]) -> Html:
    if not findings:
        return element("p", "Nothing was found.")
    numbers = {severity: sum(each.finding.severity == severity for each in findings) for severity in SEVERITIES}
    nouns = {"error": "error", "warning": "warning", "info": "remark"}
    said = ", ".join(count(numbers[severity], noun) for severity, noun in nouns.items() if numbers[severity])
    return element("p", f"{said}.")


def _finding(shown: FindingPictures) -> Html:
    finding = shown.finding
    words = element(
        "li",
        element("span", finding.severity, class_="severity"),
        f" {finding.message} ",
        element("em", finding.fix),
        class_=finding.severity,
    )
    parts = [element("ul", words, class_="findings")]
    if shown.pictures:
        parts.append(html.pictures([_card(picture) for picture in shown.pictures]))
    rest = finding.files[len(shown.pictures) :]
    if rest:
        named = ", ".join(rest[:NAMES_SHOWN]) + (
            f" and {len(rest) - NAMES_SHOWN:,} more" if len(rest) > NAMES_SHOWN else ""
        )
        parts.append(element("p", f"Also: {named}", class_="note", style="margin-top: 14px"))
    return element("div", html.join(parts), style="margin-bottom: 28px")


def _card(picture: Picture) -> tuple[Html, Html]:
    label = element("div", "labelled ", element("b", picture.label)) if picture.label is not None else Html()
    words = html.join([label, element("div", picture.name, class_="name")])
    if picture.pixels is None:
        return element("div", "cannot be shown", class_="note"), words
    return html.picture(picture.pixels, picture.name), words
