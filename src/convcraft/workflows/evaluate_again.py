"""For `verify`: what further figures were computed from, made again from the images and the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from convcraft.data.image_set import ImageSet
from convcraft.data.sample import Progress
from convcraft.errors import UserError
from convcraft.evaluation.outputs import Outputs
from convcraft.evaluation.saved_predictions import SavedPredictions
from convcraft.training.run_folder import RunDescription
from convcraft.workflows.evaluate_held_out import held_out_images
from convcraft.workflows.evaluate_more import MORE_PREDICTIONS, MoreInputs
from convcraft.workflows.evaluate_options import Asked
from convcraft.workflows.evaluate_robustness import ROBUSTNESS, Robustness, measure_robustness
from convcraft.workflows.evaluate_slices import SLICES, SliceColumns, slice_columns_of
from convcraft.workflows.evaluate_views import ViewsMade, make_views
from convcraft.workflows.network_outputs import outputs_of

TOLERANCE = 1e-4  # of probabilities: other hardware or another number of threads sums in another order
SCORE_TOLERANCE = 1e-3  # of scores of strangeness, relative: they are distances of many such sums
COUNT_TOLERANCE = 0.02  # of accuracies under attack: a rounding early on may lead to another mistake later


@dataclass(frozen=True)
class Compared:
    """What was made again. problem: how it differs, "" where it does not. file: where what was kept stands.

    missing: what kept it from being made again, "" where nothing did.
    """

    what: str
    file: str
    detail: str
    problem: str = ""
    missing: str = ""


def made_again(
    run: RunDescription,
    model: nn.Module,
    kept: MoreInputs,
    published: Mapping[str, Any],
    images: ImageSet,
    source: str,
    saved: SavedPredictions,
    *,
    everything: bool,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Iterator[Compared]:
    """Slice columns and scores of strangeness; views and robustness only where `everything` is asked for.

    Args:
        source: where the images were read from. kept: from which the published figures were computed.
    """
    asked = Asked.from_dict(published["asked"]) if published.get("asked") else Asked()
    if kept.slices is not None:
        yield _slices(asked, kept.slices, images, source, progress)
    if kept.trust is not None and kept.unknown_scores is not None:
        features = kept.trust.needs_features
        outputs = outputs_of(model, images, features=True, device=device) if features else Outputs(saved.logits)
        scores = kept.trust.unknown_scores(outputs)
        off = np.inf if scores is None else _largest(scores, kept.unknown_scores, relative=True)
        problem = f"other scores of strangeness, by up to {off:.2g} of their size" if off > SCORE_TOLERANCE else ""
        yield Compared("trust", MORE_PREDICTIONS, f"{len(images):,} scores of strangeness computed again", problem)
    if not everything:
        return
    if kept.views is not None:
        yield _views(run, model, kept.views, images, device, progress)
    if published.get("robustness") is not None:
        was = Robustness.load(run.folder)
        number = was.corruptions.num_images
        now = measure_robustness(run, model, images, number, was.belongs_to, device, progress)
        off = max(map(abs, _differences(now, was)))
        problem = f"other accuracies, by up to {off:.1%}" if off > COUNT_TOLERANCE else ""
        yield Compared("robustness", ROBUSTNESS, f"measured again, accuracies within {off:.1%}", problem)


def _slices(asked: Asked, kept: SliceColumns, images: ImageSet, source: str, progress: Progress | None) -> Compared:
    try:
        names = kept.differing(slice_columns_of(asked, images, source, progress))
    except UserError as error:  # a table may have lost a column since: its images and labels are what was hashed
        return Compared("slices", SLICES, "", missing=error.received)
    detail = f"{len(images):,} images are sliced by what they and their table hold"
    return Compared("slices", SLICES, detail, f"other values of {', '.join(names)}" if names else "")


def _views(
    run: RunDescription,
    model: nn.Module,
    kept: ViewsMade,
    images: ImageSet,
    device: str,
    progress: Progress | None,
) -> Compared:
    held_out = held_out_images(run, progress)
    if held_out is None and kept.tried:
        return Compared("views", MORE_PREDICTIONS, "", missing="the validation images that chose them are not here")
    views = make_views(run, model, images, held_out, device, progress)
    off = _largest(views.probabilities, kept.probabilities)
    problem = f"other probabilities, by up to {off:.2g}" if off > TOLERANCE else ""
    if views.names != kept.names:
        problem = f"other views: {', '.join(views.names) or 'none'}"
    return Compared("views", MORE_PREDICTIONS, "chosen and predicted again", problem)


def _largest(one: NDArray[Any], other: NDArray[Any], relative: bool = False) -> float:
    if one.shape != other.shape:
        return float("inf")
    off = np.abs(one.astype(np.float64) - other)
    return float((off / (1 + np.abs(other)) if relative else off).max(initial=0.0))


def _differences(now: Robustness, was: Robustness) -> Iterator[float]:
    """Of every accuracy, point by point."""
    for one, other in zip(_accuracies(now), _accuracies(was), strict=True):
        yield one - other


def _accuracies(figures: Robustness) -> list[float]:
    attacks, found = figures.attacks, figures.corruptions
    curves = (*figures.curves, attacks.fgsm, attacks.pgd, attacks.noise, attacks.pgd_cross_entropy, attacks.pgd_margin)
    points = [point for curve in curves for point in curve.points]
    points += [found.clean, *(point for each in found.by_corruption.values() for point in each)]
    points += [figures.flip.plain, figures.flip.mirrored, attacks.at_large_epsilon]
    return [point.accuracy for point in points]
