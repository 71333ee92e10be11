"""The head of a page: what makes its figures void, the result in a few sentences, and the figures themselves."""

from __future__ import annotations

from convcraft.evaluation.metrics import ClassReport, Report, most_confused
from convcraft.evaluation.two_proportions import fisher_mid_p
from convcraft.report import html
from convcraft.report.html import Html, element
from convcraft.report.run_content import ReportContent
from convcraft.report.text import count, interval_percent, percent

SIGNIFICANCE = 0.05
WIDE_INTERVAL = 0.1  # of the accuracy: beyond, more images to judge on come first


def headline(content: ReportContent) -> Html:
    report = content.evaluation
    if report is None:
        return void_banner(content)
    words = element("div", *(element("p", sentence) for sentence in in_words(content)), class_="in-words")
    head = element("div", _merit(content, report), words, class_="head")
    return html.join([void_banner(content), head, _facts(report)])


def void_banner(content: ReportContent) -> Html:
    if not content.void:
        return Html()
    reasons = element("ul", *(element("li", reason) for reason in content.void))
    title = element("strong", "Void. These figures say more than they can:")
    return element("div", title, reasons, class_="void", role="alert")


def in_words(content: ReportContent) -> list[str]:
    """Three to five sentences: how good, the weakest class, the commonest confusion, calibration, what to do next."""
    report = content.evaluation
    assert report is not None
    images = report.num_images
    said = [
        f"It names {report.num_correct:,} of {count(images, 'image')} of the {content.split_name} split right: "
        f"{percent(report.accuracy, images)}, and between {interval_percent(report.interval, images)} for images of "
        "the same kind (95 %)."
    ]
    if (weakest := weakest_class(report)) is not None:
        hits = round(weakest.recall * weakest.support)
        said.append(
            f"The weakest class is {weakest.name}: {hits:,} of {weakest.support:,} right "
            f"({percent(weakest.recall, weakest.support)})."
        )
    elif report.num_correct == images:
        said.append("No image of any class is called wrong.")
    if pairs := most_confused(report.confusion, 1):
        target, label, times = pairs[0]
        said.append(
            f"The commonest mistake: {report.classes[target]} called {report.classes[label]} "
            f"({times:,} of {report.per_class[target].support:,})."
        )
    said.append(_calibration(content, report))
    said.append(f"Next: {next_step(content, report, weakest)}")
    return said


def weakest_class(report: Report) -> ClassReport | None:
    """The class of the lowest recall (of equals the one with most images); None where all have the same."""
    seen = [entry for entry in report.per_class if entry.support]
    if len({entry.recall for entry in seen}) < 2:
        return None
    return min(seen, key=lambda entry: (entry.recall, -entry.support))


def _calibration(content: ReportContent, report: Report) -> str:
    error, images = report.calibration.expected_error, report.num_images
    bins = report.calibration
    sure = float((bins.mean_confidence * bins.counts).sum() / images)
    figures = f"it is {percent(sure, images)} sure on average (calibration error {percent(error, images)}"
    first = next(iter(content.reliability.values()), None)
    if first is not None and error <= first.chance_error[1]:
        bound = percent(first.chance_error[1], images)
        return f"Its confidence can be taken at its word: {figures}; chance alone gives up to {bound})."
    if abs(sure - report.accuracy) <= error / 2:
        return f"Its confidence is off in places, in both directions: {figures})."
    return f"It is {'too sure' if sure > report.accuracy else 'not sure enough'} of itself: {figures})."


def next_step(content: ReportContent, report: Report, weakest: ClassReport | None) -> str:
    """What would help most, by the first rule that holds."""
    if content.void:
        return "judge it on images that no choice has touched; the figures above cannot be relied on."
    if content.slices is not None and content.slices.worst is not None and content.slices.worst.is_shown:
        return f"images of the slice {content.slices.worst.result.name} fail more often than the rest: collect more."
    if report.interval[1] - report.interval[0] > WIDE_INTERVAL:
        return f"judge it on more images; {report.num_images:,} leave the accuracy open by {_width(report)} points."
    if weakest is not None and falls_behind(report, weakest):
        return f"look at the mistakes of {weakest.name} below; if their labels are right, collect more such images."
    if content.split_name != "test":
        return "judge it once on the test images (convcraft evaluate); these may have helped to choose it."
    if report.num_correct < report.num_images:
        return "look through the worst mistakes below: wrong labels show first there."
    return "try it on harder images of your own; these no longer tell models apart."


def falls_behind(report: Report, entry: ClassReport) -> bool:
    """Whether a class is found less often than the others beyond chance, though it was picked for its recall."""
    hits = round(entry.recall * entry.support)
    others, others_right = report.num_images - entry.support, report.num_correct - hits
    return others > 0 and len(report.classes) * fisher_mid_p(hits, entry.support, others_right, others) < SIGNIFICANCE


def _width(report: Report) -> str:
    return f"{100 * (report.interval[1] - report.interval[0]):.0f}"


def _merit(content: ReportContent, report: Report) -> Html:
    """Accuracy with its interval."""
    images = report.num_images
    value = element("div", percent(report.accuracy, images), class_="value")
    label = element("div", f"Accuracy · {content.split_name}", class_="label")
    note = element(
        "div",
        f"{report.num_correct:,} of {count(images, 'image')} right; "
        f"95 % interval {interval_percent(report.interval, images)} (Wilson)",
        class_="note",
    )
    caution: Html | str = ""
    if content.split_name == "validation":
        words = "The validation split may have chosen these weights: expect less on test."
        caution = element("div", words, class_="note")
    said = element("div", content.split_note, class_="note") if content.split_note else ""
    kind = "figure-of-merit not-valid" if content.void else "figure-of-merit"
    return element("div", label, value, _interval_scale(report), note, caution, said, class_=kind)


def _interval_scale(report: Report) -> Html:
    """The accuracy and its interval on a line that ends at 100 % and begins at the next lower of a few round values."""
    low, high = report.interval
    start = max(bound for bound in (0.0, 0.5, 0.8, 0.9, 0.98) if bound <= low)

    def place(share: float) -> float:
        return 100 * (share - start) / (1 - start)

    band = element("i", class_="band", style=f"left:{place(low):.2f}%;width:{place(high) - place(low):.2f}%")
    dot = element("i", class_="dot", style=f"left:{place(report.accuracy):.2f}%")
    ends = element("div", element("span", f"{100 * start:.0f} %"), element("span", "100 %"), class_="ends")
    return element("div", element("div", band, dot, class_="line"), ends, class_="scale", aria_hidden="true")


def _facts(report: Report) -> Html:
    images = report.num_images
    facts = [
        ("Macro F1", percent(report.macro_f1, images), f"95 %: {interval_percent(report.macro_f1_interval, images)}"),
        ("Balanced accuracy", percent(report.balanced_accuracy, images), "mean recall of the classes"),
        *((f"Top {k}", percent(share, images), f"true class among {k}") for k, share in report.top_k.items()),
        ("Log-loss", f"{report.log_loss:.3f}", "mean cross-entropy, nats"),
        ("Calibration error", percent(report.calibration.expected_error, images), "ECE, 15 bins"),
    ]
    if report.auroc is not None:
        facts.insert(2, ("AUROC", f"{report.auroc:.4f}", "mean over the classes"))
    entries = [
        element("div", element("dt", name), element("dd", value, element("small", note))) for name, value, note in facts
    ]
    return element("dl", *entries, class_="facts")
