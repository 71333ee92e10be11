"""The model card: what the model is for, what it is not, and where its parts come from. Nothing is made up: what nobody
stated is unknown.

Source: Mitchell et al., "Model cards for model reporting", 2019, arXiv:1810.03993.
"""

from __future__ import annotations

from convcraft.evaluation.metrics import Report
from convcraft.report import html
from convcraft.report.headline import weakest_class
from convcraft.report.html import Section, element
from convcraft.report.run_content import ReportContent
from convcraft.report.text import count, interval_percent, percent, some

FEW_IMAGES = 30  # of a class: its recall is then open by 20 points and more


def card_section(content: ReportContent) -> Section | None:
    card = content.card
    if card is None:
        return None
    weights = "random numbers: no weights of others are in it"
    licence = "none inherited; that of the data is unknown to this page"
    if not card.from_scratch:
        weights = card.weights_source or "unknown"
        licence = card.weights_licence or "unknown: the card of the weights does not say"
    rows: list[tuple[object, object]] = [
        ("Intended use", _intended(content)),
        ("Data", card.data),
        ("Limits", element("ul", *(element("li", limit) for limit in limits(content)), class_="limits")),
        ("Weights began as", weights),
        ("Licence of these weights", licence),
        *card.preprocessing,
    ]
    return Section("card", "Model card", "模型卡", html.pairs(rows))


def _intended(content: ReportContent) -> str:
    classes = () if content.data is None else content.data.classes
    named = some(classes) if classes else "its classes"
    card = content.card
    assert card is not None
    return (
        f"To tell apart {count(len(classes), 'class') if classes else 'classes'} ({named}) in images like those of "
        f"{card.data}. Every image gets one of these classes, also one that shows none of them"
        f"{_rejects(content)}. Decisions about people, safety or health need more than this page."
    )


def _rejects(content: ReportContent) -> str:
    return ", unless the reject rule of this run is used" if content.trust is not None else ""


def limits(content: ReportContent) -> list[str]:
    """Sentences from measured figures."""
    report = content.evaluation
    if report is None:
        return ["Nothing was measured: how good it is is unknown."]
    images = report.num_images
    wrong = f"About {percent(1 - report.accuracy, images)} of such images are called wrong"
    mirrored = (1 - report.interval[1], 1 - report.interval[0])
    said = [f"{wrong} (95 %: {interval_percent(mirrored, images)}), measured on {content.measured_on}."]
    said += _about_classes(report)
    if content.robustness is not None and content.robustness.relative_drop is not None:
        said.append(
            f"Noise, blur, weather and compression cost it {percent(content.robustness.relative_drop, images)} of its "
            f"accuracy on average; {content.robustness.worst.replace('_', ' ')} costs most."
        )
    else:
        said.append("How it takes noise, blur and other cameras was not measured.")
    if content.slices is not None and content.slices.worst is not None:
        said.append(content.slices.worst.sentence)
    said += [f"Void: {reason}" for reason in content.void]
    return said


def _about_classes(report: Report) -> list[str]:
    said = []
    if (weakest := weakest_class(report)) is not None and weakest.recall_interval is not None:
        said.append(
            f"{weakest.name} is found least: {percent(weakest.recall, weakest.support)} (95 %: "
            f"{interval_percent(weakest.recall_interval, weakest.support)})."
        )
    few = [entry.name for entry in report.per_class if 0 < entry.support < FEW_IMAGES]
    if few:
        said.append(f"Fewer than {FEW_IMAGES} images stand behind the figures of {some(few)}.")
    if report.absent_classes:
        said.append(f"Nothing is known of {some(report.absent_classes)}: no image was there to judge by.")
    return said


def environment_section(content: ReportContent) -> Section | None:
    if not content.environment:
        return None
    rows: list[tuple[object, object]] = [*content.environment]
    return Section("environment", "Environment", "运行环境", html.pairs(rows))
