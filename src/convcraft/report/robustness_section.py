"""How accuracy falls: corrupted images, moved images, attacks."""

from __future__ import annotations

import numpy as np

from convcraft.evaluation.attack_curves import AttackReport
from convcraft.evaluation.robustness import CorruptionReport, Curve, FlipReport
from convcraft.report import html, robustness_plots
from convcraft.report.html import Html, Section, element
from convcraft.report.run_content import ReportContent
from convcraft.report.text import count, interval_percent, percent

SPOKEN = {"rotation": "turned", "shift_x": "moved sideways", "shift_y": "moved up or down", "scale": "zoomed"}


def robustness_section(content: ReportContent) -> Section | None:
    report = content.evaluation
    chance = None if report is None else 1 / len(report.classes)
    parts = []
    if content.robustness is not None:
        parts.append(_corruptions(content.robustness))
    curves = [curve for curve in content.curves if isinstance(curve, Curve)]
    if curves:
        figures = [_curve(curve, chance) for curve in curves]
        parts += [element("h3", "Turned, moved, zoomed"), element("div", *figures, class_="figures")]
    parts += [_mirrored(flip) for flip in content.curves if isinstance(flip, FlipReport)]
    if content.attacks is not None:
        parts.append(_attacks(content.attacks, chance))
    return Section("robustness", "Robustness", "稳健性", html.join(parts)) if parts else None


def _of_images(num_images: int, num_available: int) -> str:
    drawn = "" if num_images == num_available else f", drawn from {num_available:,}"
    return f"Measured on {count(num_images, 'image')}{drawn}."


def _corruptions(found: CorruptionReport) -> Html:
    names = list(found.by_corruption)
    severities = [int(point.value) for point in found.by_corruption[names[0]]]
    accuracy = np.array([[point.accuracy for point in found.by_corruption[name]] for name in names])
    figure = robustness_plots.corruption_table(names, severities, accuracy, found.clean.accuracy)
    drop = "" if found.relative_drop is None else f", {percent(found.relative_drop, found.num_images)} less"
    caption = (
        f"Mean over all: {percent(found.mean_accuracy, found.num_images)} (95 %: "
        f"{interval_percent(found.mean_interval, found.num_images)}){drop}. Worst: {found.worst.replace('_', ' ')}. "
        f"{_of_images(found.num_images, found.num_available)}"
    )
    drawing = html.plot(figure, "Accuracy under each corruption and severity", caption)
    return html.join([element("h3", "Corrupted images"), drawing])


def _curve(curve: Curve, chance: float | None) -> Html:
    spoken = SPOKEN.get(curve.name, curve.name.replace("_", " "))
    line = (
        [point.value for point in curve.points],
        [point.accuracy for point in curve.points],
        [point.interval for point in curve.points],
    )
    figure = robustness_plots.accuracy_curves({curve.name: line}, curve.unit, spoken.capitalize(), chance)
    caption = f"Band: 95 % intervals. {_of_images(curve.num_images, curve.num_available)}"
    return html.plot(figure, f"Accuracy of images that are {spoken}", caption)


def _mirrored(flip: FlipReport) -> Html:
    low, high = flip.interval
    words = (
        f"Mirrored: {percent(flip.mirrored.accuracy, flip.mirrored.num_images)} right, as they are "
        f"{percent(flip.plain.accuracy, flip.plain.num_images)}: {100 * flip.difference:+.1f} points (95 %: "
        f"{100 * low:+.1f}…{100 * high:+.1f}). {_of_images(flip.plain.num_images, flip.num_available)}"
    )
    return element("p", words)


def _attacks(found: AttackReport, chance: float | None) -> Html:
    lines = {
        name: (
            [255 * point.value for point in curve.points],
            [point.accuracy for point in curve.points],
            [point.interval for point in curve.points],
        )
        for name, curve in (("FGSM", found.fgsm), ("PGD", found.pgd), ("noise", found.noise))
    }
    figure = robustness_plots.accuracy_curves(lines, "largest change of a pixel, of 255", "Attacked", chance)
    caption = (
        f"Upper bounds: a stronger attack may find more. PGD with {count(found.steps, 'step')}. "
        f"{_of_images(found.pgd.num_images, found.pgd.num_available)}"
    )
    drawing = html.plot(figure, "Accuracy under attack over its size", caption)
    warnings = [element("p", warning, class_="warned") for warning in found.warnings]
    return html.join([element("h3", "Attacks"), drawing, *warnings])
