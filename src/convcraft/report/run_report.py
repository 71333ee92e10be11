"""The page of one run: how well it does, where it fails, what it was made from, and how to make it again.

One file that can be shown to anybody: no network, readable on a phone and on paper. Each section has a module.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from convcraft import __version__
from convcraft.report import html
from convcraft.report.calibration_section import calibration_section
from convcraft.report.card_section import card_section, environment_section
from convcraft.report.classes_section import classes_section
from convcraft.report.compared_section import compared_section
from convcraft.report.confusion_section import confusion_section
from convcraft.report.curves_section import curves_section
from convcraft.report.data_section import data_section, doctor_section
from convcraft.report.feature_maps_section import feature_maps_section, signed_colours
from convcraft.report.headline import headline
from convcraft.report.html import Section
from convcraft.report.mistakes_section import mistakes_section
from convcraft.report.places_section import places_section
from convcraft.report.proof_section import comparison_section, tuning_section
from convcraft.report.robustness_section import robustness_section
from convcraft.report.run_content import DataFacts, FeatureMaps, ReportContent, Table
from convcraft.report.script import SCRIPT
from convcraft.report.slices_section import slices_section
from convcraft.report.variants_section import variants_section

__all__ = ["DataFacts", "FeatureMaps", "ReportContent", "Table", "render", "signed_colours", "write_report"]
REPORT_FILE = "report.html"
TALL_ROWS = 24


def write_report(run: Path, content: ReportContent) -> Path:
    """Write `run`/report.html, whole or not at all; returns its path."""
    path = run / REPORT_FILE
    unfinished = run / f".{REPORT_FILE}.{os.getpid()}.tmp"
    try:
        unfinished.write_text(render(content), encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def render(content: ReportContent) -> str:
    """The page as text; the same content gives the same text."""
    sections = [section for section in _sections(content) if section is not None]
    return html.page(content.title, headline(content), sections, f"Written by convcraft {__version__}.", SCRIPT)


def _sections(content: ReportContent) -> Iterable[Section | None]:
    """First what somebody shows to others, then what explains it, last what makes it again."""
    yield Section("summary", "Summary", "概要", html.pairs(content.summary)) if content.summary else None
    yield from map(comparison_section, content.comparisons)
    yield compared_section(content)
    yield mistakes_section(content)
    yield confusion_section(content)
    yield classes_section(content)
    yield calibration_section(content)
    yield slices_section(content)
    yield robustness_section(content)
    yield variants_section(content)
    yield places_section(content)
    yield curves_section(content)
    yield tuning_section(content.tuning) if content.tuning else None
    yield data_section(content)
    yield doctor_section(content)
    yield feature_maps_section(content)
    yield _network(content.model)
    yield card_section(content)
    yield environment_section(content)
    if content.reproduce:
        yield Section("reproduce", "Make it again", "复现", html.code("\n".join(content.reproduce)))
    if content.config_yaml:
        yield Section("settings", "Settings", "配置", html.code(content.config_yaml))


def _network(layers: Table | None) -> Section | None:
    if layers is None:
        return None
    table = html.table(layers.header, layers.rows, tall=len(layers.rows) > TALL_ROWS)
    return Section("network", "Network", "网络结构", table)
