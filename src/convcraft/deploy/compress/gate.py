"""A gate for smaller, faster or exported networks: no class and no group may pay for the mean.

Both networks answer the same images, so what counts are images that just one of them gets right. Each class, and each
group that somebody declares, is looked at in two ways.

*Is it shown to be worse?* Two tests ask: does it lose more images than it gains (exact McNemar, one-sided), and does it
lose more than the other images do (exact binomial; the rate is that of the other images, or of its own gains where that
is higher)? The smaller p-value, doubled for the choice and raised for the number of classes and groups (Holm), must be
below 0.05, and the loss as measured above the margin. So where nothing is worse, any class is accused in at most about
5 % of the cases, however many classes there are. The second test is what few images have: three of ten lost is nothing
unusual by itself, but it is where all others lose one in a hundred.

*Is it shown to be no worse?* It is where the one-sided 95 % bound of its difference lies above minus the margin (Bonett
and Price 2012). Claiming this for all classes at once needs no correction: every single one must be shown
(intersection-union test, Berger 1982, Technometrics 24). Few images never show it.

Between the two lies what the images cannot tell; `notices_from` says how much each class can lose unnoticed. A gate
passes where nothing is shown to be worse and the mean, as measured, is within its own margin. A strict gate passes only
where all is shown to be no worse.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcraft.errors import UserError
from convcraft.evaluation.changes import SIGNIFICANCE, count_images
from convcraft.statistics import holm, paired_difference_interval, wilson_interval

WORSE, NO_WORSE, UNKNOWN = "worse", "no worse", "not shown"
ALL = "all images"
CLASS, GROUP = "class", "group"  # first word of a part's name
Right = NDArray[np.bool_]


@dataclass(frozen=True)
class PartJudged:
    """The images of one class or group.

    name: "class cat", "group night". lost, gained: images that only before, only after gets right.
    at_worst: one-sided 95 % bound of the difference. p_value: of being worse, raised for the number of parts.
    notices_from: how many images it would have to lose, with none gained, to be called worse; None: more than it has.
    """

    name: str
    num_images: int
    correct_before: int
    correct_after: int
    lost: int
    gained: int
    at_worst: float
    p_value: float
    notices_from: int | None
    verdict: str

    @property
    def difference(self) -> float:
        """Share of right answers after minus before."""
        return (self.correct_after - self.correct_before) / max(self.num_images, 1)


@dataclass(frozen=True)
class VariantJudged:
    """passed: what scripts go by; sentences: why, the decisive ones first.

    proven: every part, and the mean, is shown to be no worse. agreement: share of images that both call alike, with
    its 95 % interval (Wilson). overall: all images; parts: classes, then groups.
    """

    passed: bool
    proven: bool
    margin: float
    overall_margin: float
    agreement: float
    agreement_interval: tuple[float, float]
    overall: PartJudged
    parts: tuple[PartJudged, ...]
    sentences: tuple[str, ...]

    @property
    def worse(self) -> tuple[PartJudged, ...]:
        return tuple(part for part in self.parts if part.verdict == WORSE)

    @property
    def groups(self) -> tuple[PartJudged, ...]:
        """Of the parts, those that somebody declared."""
        return tuple(part for part in self.parts if part.name.startswith(f"{GROUP} "))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @property
    def table(self) -> tuple[tuple[str, ...], ...]:
        """For people: a head, then one row per part, the largest loss first; all images last."""
        head = ("images of", "images", "right before", "right after", "difference", "at worst", "verdict")
        ordered = sorted(self.parts, key=lambda part: part.difference)
        return (head, *(_row(part) for part in (*ordered, self.overall)))


def judge_variant(
    before: ArrayLike,
    after: ArrayLike,
    targets: ArrayLike,
    groups: Mapping[str, ArrayLike] | None = None,
    margin: float = 0.05,
    *,
    overall_margin: float = 0.02,
    classes: Sequence[str] | None = None,
    min_agreement: float | None = None,
    strict: bool = False,
) -> VariantJudged:
    """Hold an optimised network against the one it was made from.

    Args:
        before, after: int [N], the class that either calls each image. targets: int [N], 0..K-1.
        groups: name -> bool [N], which images belong to it; groups may overlap. One without images is not judged.
        margin: share of its right answers that a class or group may lose, 0..1.
        overall_margin: the same of all images.
        classes: K names; None: their numbers.
        min_agreement: least share of images that both must call alike; None: any.
        strict: pass only what is shown to be no worse.

    Raises:
        UserError: no images, arrays of unlike length, or a margin outside 0..1.
    """
    called, recalled, wanted = (np.asarray(values) for values in (before, after, targets))
    _check(called, recalled, wanted, margin, overall_margin)
    were, are = called == wanted, recalled == wanted
    members = _members(wanted, groups or {}, classes)
    raised = holm([_p_worse(were, are, rows) for rows in members.values()])
    parts = tuple(
        _judged(name, were, are, rows, margin, p_value, len(members))
        for (name, rows), p_value in zip(members.items(), raised, strict=True)
    )
    overall = _overall(were, are, overall_margin)
    alike = called == recalled
    agreement = float(alike.mean())
    worse = [part for part in parts if part.verdict == WORSE]
    reasons = [_accusation(part, margin) for part in worse]
    if overall.difference < -overall_margin:
        reasons.append(
            f"All images: {-100 * overall.difference:.1f} points fewer right, more than {100 * overall_margin:.1f}."
        )
    if min_agreement is not None and agreement < min_agreement:
        reasons.append(
            f"Both call {100 * agreement:.1f} % of the images alike, fewer than {100 * min_agreement:.1f} %."
        )
    empty = [name for name in (f"{GROUP} {group}" for group in groups or {}) if name not in members]
    shown = not empty and all(part.verdict == NO_WORSE for part in (*parts, overall))
    if strict and not shown and not reasons:
        names = [part.name for part in (*parts, overall) if part.verdict != NO_WORSE] + empty
        reasons.append(f"Not shown to be no worse, with so few images: {_some(names)}.")
    return VariantJudged(
        passed=not reasons,
        proven=shown and not reasons,
        margin=margin,
        overall_margin=overall_margin,
        agreement=agreement,
        agreement_interval=wilson_interval(int(alike.sum()), len(alike)),
        overall=overall,
        parts=parts,
        sentences=(
            *(f"Failed: {reason}" for reason in reasons),
            *_told(parts, overall, margin, shown, not reasons),
            *([f"Not judged, without an image: {_some(empty)}."] if empty else []),
        ),
    )


def _check(called: Any, recalled: Any, wanted: Any, margin: float, overall_margin: float) -> None:
    if called.shape != wanted.shape or recalled.shape != wanted.shape or wanted.ndim != 1:
        received = f"{list(called.shape)}, {list(recalled.shape)} answers for {list(wanted.shape)} targets"
        raise UserError(received, "the class that each side calls, one per image", "Judge both on the same images.")
    if not len(wanted):
        raise UserError("no images to judge on", "labelled images that neither learned from", "Hold some back.")
    for name, value in (("margin", margin), ("overall_margin", overall_margin)):
        if not 0 < value < 1:
            raise UserError(f"{name} {value}", "a share between 0 and 1", "5 points are 0.05.")


def _members(wanted: NDArray[Any], groups: Mapping[str, ArrayLike], classes: Sequence[str] | None) -> dict[str, Right]:
    """Which images belong to each class that has any, and to each group."""
    members = {}
    for label in np.unique(wanted):
        name = str(label) if classes is None else classes[int(label)]
        members[f"{CLASS} {name}"] = wanted == label
    for name, rows in groups.items():
        chosen = np.asarray(rows)
        if chosen.shape != wanted.shape or chosen.dtype != bool:
            received = f"group {name} of type {chosen.dtype}, shape {list(chosen.shape)}"
            raise UserError(received, f"true or false for each of {len(wanted)} images", "Give a mask.")
        if chosen.any():
            members[f"{GROUP} {name}"] = chosen
    return members


def _p_worse(were: Right, are: Right, rows: Right) -> float:
    """How surprising the losses of a part are where nothing is worse: 0..1."""
    lost, gained = were & ~are, are & ~were
    return _p_of_losses(
        int(lost[rows].sum()),
        int(gained[rows].sum()),
        int(rows.sum()),
        int(lost[~rows].sum()),
        int((~rows).sum()),
    )


def _p_of_losses(lost: int, gained: int, num_images: int, lost_elsewhere: int, num_elsewhere: int) -> float:
    from scipy.stats import binom  # SciPy belongs to the train extra

    if lost <= gained:
        return 1.0
    against_gains = float(binom.sf(lost - 1, lost + gained, 0.5))
    rate = max(_rate_elsewhere(lost_elsewhere, num_elsewhere), gained / num_images)
    against_others = float(binom.sf(lost - 1, num_images, rate))
    return min(1.0, 2 * min(against_gains, against_others))


def _rate_elsewhere(lost: int, num_images: int) -> float:
    """One more image lost and one more kept are counted in: no rate is known to be 0."""
    return (lost + 1) / (num_images + 2)


def _notices_from(
    num_images: int, lost_elsewhere: int, num_elsewhere: int, margin: float, num_parts: int
) -> int | None:
    """The fewest losses, with no gain, that are called worse when no other part is; see `_p_of_losses`."""
    from scipy.stats import binom

    lost = np.arange(1, num_images + 1)
    against_others = binom.sf(lost - 1, num_images, _rate_elsewhere(lost_elsewhere, num_elsewhere))
    p_values = num_parts * 2 * np.minimum(0.5**lost, against_others)
    enough = lost[(lost > margin * num_images) & (p_values < SIGNIFICANCE)]
    return int(enough[0]) if len(enough) else None


def _judged(
    name: str, were: Right, are: Right, rows: Right, margin: float, p_value: float, num_parts: int
) -> PartJudged:
    lost, gained, number = int((were & ~are)[rows].sum()), int((are & ~were)[rows].sum()), int(rows.sum())
    at_worst = _at_worst(were[rows], are[rows])
    verdict = NO_WORSE if at_worst > -margin else UNKNOWN
    if (lost - gained) / number > margin and p_value < SIGNIFICANCE:
        verdict = WORSE
    return PartJudged(
        name=name,
        num_images=number,
        correct_before=int(were[rows].sum()),
        correct_after=int(are[rows].sum()),
        lost=lost,
        gained=gained,
        at_worst=at_worst,
        p_value=p_value,
        notices_from=_notices_from(number, int((were & ~are)[~rows].sum()), int((~rows).sum()), margin, num_parts),
        verdict=verdict,
    )


def _overall(were: Right, are: Right, margin: float) -> PartJudged:
    """All images, against their own margin; as measured, not by a test."""
    lost, gained = int((were & ~are).sum()), int((are & ~were).sum())
    at_worst = _at_worst(were, are)
    verdict = NO_WORSE if at_worst > -margin else UNKNOWN
    if (lost - gained) / len(were) > margin:
        verdict = WORSE
    p_value = _p_of_losses(lost, gained, len(were), len(were), len(were))  # of losses against gains alone
    correct = int(were.sum()), int(are.sum())
    return PartJudged(ALL, len(were), *correct, lost, gained, at_worst, p_value, None, verdict)


def _at_worst(were: Right, are: Right) -> float:
    """The lower end of a one-sided 95 % interval of the difference."""
    return paired_difference_interval(were, are, confidence=1 - 2 * SIGNIFICANCE)[0]


def _accusation(part: PartJudged, margin: float) -> str:
    return (
        f"{part.name}: {part.lost} of {count_images(part.num_images)} lost, {part.gained} gained, "
        f"{-100 * part.difference:.1f} points fewer right; {100 * margin:.1f} are let pass (p = {part.p_value:.2g})."
    )


def _told(
    parts: Sequence[PartJudged], overall: PartJudged, margin: float, shown: bool, passed: bool
) -> tuple[str, ...]:
    """What the images showed, and what they cannot show."""
    sentences = []
    if passed:
        how = "shown to be no worse" if shown else "nothing is shown to be worse"
        sentences.append(
            f"Passed: {how}, in {len(parts)} classes and groups. All images: {100 * overall.difference:+.1f} points, "
            f"at worst {100 * overall.at_worst:+.1f} (95 %)."
        )
    blind = [part for part in parts if part.verdict == UNKNOWN]
    if blind:
        least = max(blind, key=lambda part: (part.notices_from or part.num_images + 1) / part.num_images)
        if least.notices_from is None:
            what = f"in {least.name} ({count_images(least.num_images)}) no loss at all would be noticed"
        else:
            points = 100 * (least.notices_from - 1) / least.num_images
            what = f"{least.name} ({count_images(least.num_images)}) could lose {points:.0f} points unnoticed"
        sentences.append(
            f"Too few images to show that no more than {100 * margin:.1f} points are lost in {len(blind)} of "
            f"{len(parts)} classes and groups: {what}."
        )
    return tuple(sentences)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _row(part: PartJudged) -> tuple[str, ...]:
    return (
        part.name,
        f"{part.num_images:,}",
        f"{part.correct_before:,}",
        f"{part.correct_after:,}",
        f"{100 * part.difference:+.1f}",
        f"{100 * part.at_worst:+.1f}",
        part.verdict,
    )
