"""Preflight: what would spoil a training, found before its first step: the layer or setting, the cause, the fix.

Settings, labels and images are looked at; then one batch goes through a copy of the network, forward and backward. The
network, its batch-norm statistics, its gradients and all random state stay bit for bit as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from convcraft.config import RunConfig
from convcraft.data.image_set import ImageSet
from convcraft.data.sample import Finding, worst_first
from convcraft.data.spread import spread
from convcraft.doctor.preflight_clock import TRAINING_PASSES, Affordable, Clock
from convcraft.doctor.preflight_data import (
    class_findings,
    label_findings,
    overlap_findings,
    rows_shared,
    shared_findings,
)
from convcraft.doctor.preflight_finding import has_error, info
from convcraft.doctor.preflight_forward import batch_findings, row_findings, stop_findings, wasted_window_findings
from convcraft.doctor.preflight_gradients import (
    TRIAL_IMAGES,
    TRIAL_STEPS,
    finite_findings,
    gradient_findings,
    start_value_findings,
)
from convcraft.doctor.preflight_inputs import ScaleKnown, image_findings, statistics_findings
from convcraft.doctor.preflight_loss import (
    LossKind,
    count_findings,
    loss_kind,
    named_loss,
    output_findings,
    start_loss_findings,
    unreached_head_findings,
)
from convcraft.doctor.preflight_settings import TrainingPlan, optimizer_findings, plan_findings, plan_with
from convcraft.doctor.preflight_trace import LossFunction, copied, run_batch, undisturbed
from convcraft.models.card_fit import fits_card, has_scale_of
from convcraft.models.cards import Card
from convcraft.tasks.classification import Classification

MOST_IMAGES = 64  # of the batch that is tried: an ordinary batch, so that a wrong flatten shows as it would
MOST_PIXELS = 100_000  # of one channel, together: the work grows with them; photographs are LEAST_IMAGES
LEAST_IMAGES = 4
FEW = 2  # images are enough to see whether they change each other's outputs
STATISTICS_IMAGES = 16  # for the means and variances that batch norm sees


def preflight(
    model: nn.Module,
    task: Classification,
    config: RunConfig,
    train: ImageSet,
    val: ImageSet | None,
    classes: Sequence[str],
    *,
    card: Card | None = None,
    trained_parts: Sequence[str] | None = None,
    seconds: float | None = None,
) -> tuple[Finding, ...]:
    """Examine a run that is ready to start.

    Args:
        model: as it is going to be trained: weights loaded, parts frozen.
        task: with its loss.
        train, val: as the run uses them; a few train images are looked at.
        card: of the starting weights.
        trained_parts: modules or parameters that alone are meant to learn; None: all that are not frozen.
        seconds: that it may take, or 5 % of the run where that is longer (`preflight_clock`); a slow network is then
            tried with fewer images, or less of it is tried, and a finding says so. None: as long as it takes.

    Returns:
        Findings of kind "settings" (and "leak"), worst first; one of severity "error" should stop the run.
    """
    clock = None if seconds is None else Clock(seconds, len(train) * _epochs(config))
    plan = TrainingPlan.of(config, trained_parts)
    kind = loss_kind(task)
    found = [*fits_card(card, train.preprocess, config.model)] if card is not None else []
    found += label_findings(kind, torch.from_numpy(train.targets), len(classes))
    found += class_findings(train.targets, classes)
    if val is not None:
        found += label_findings(kind, torch.from_numpy(val.targets), len(classes), trains=False)
        found += overlap_findings("validation", val, "train", train)
    num_val = 0 if val is None else len(val)
    images, targets = _spread_batch(train)
    known = ScaleKnown(card is not None, card is not None and has_scale_of(card, train.preprocess))
    found += _examine(model, images, targets, kind, len(classes), plan, (len(train), num_val), known, clock)
    return worst_first(dict.fromkeys(found))


def _epochs(config: RunConfig) -> int:
    """How often every train image goes through the network, at the least: a probe sends them once."""
    return config.training.epochs if config.finetune.method == "none" else 1


def preflight_module(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    loss: LossFunction | str = "cross_entropy",
    *,
    num_classes: int | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    plan: TrainingPlan | None = None,
    val_images: Tensor | None = None,
    test_images: Tensor | None = None,
) -> tuple[Finding, ...]:
    """Examine a torch network of one's own with one batch (or all) of its training data; nothing is trained or changed.

    Args:
        model: any module from images to outputs.
        images: [N, C, H, W], as the training loop gives them to the network; N of an ordinary batch or more.
        targets: what the loss takes: int64 [N], or float [N, ...].
        loss: (outputs, targets) -> scalar, such as nn.CrossEntropyLoss(); or the name of one of convcraft's.
        num_classes: how many classes there are; None: as many as the labels show.
        optimizer: the one that is going to train the network.
        plan: what else is known of the training (`TrainingPlan`).
        val_images, test_images: those that are going to judge, [N', C, H, W].

    Returns:
        Findings, worst first; empty where nothing is wrong.

    Example:
        >>> for finding in preflight_module(net, images, labels, nn.CrossEntropyLoss(), num_classes=10):
        ...     print(finding.severity, finding.message, finding.fix)
    """
    settled = plan or TrainingPlan()
    if optimizer is not None:
        settled = plan_with(optimizer, settled)
    kind = named_loss(loss, num_classes or _highest(targets) + 1) if isinstance(loss, str) else loss_kind(loss)
    found = [*label_findings(kind, targets, num_classes)]
    if num_classes is not None and len(targets) >= _enough(num_classes) and targets.ndim == 1:
        found += class_findings(targets.cpu().numpy(), [f"class {index}" for index in range(num_classes)])
    found += _parts(images, val_images, test_images)
    num_val = None if val_images is None else len(val_images)
    if settled.stops_early and val_images is None:
        num_val = 0
    if optimizer is not None:
        found += optimizer_findings(model, optimizer)
    found += _examine(model, images, targets, kind, num_classes, settled, (None, num_val), ScaleKnown())
    return worst_first(dict.fromkeys(found))


def _highest(targets: Tensor) -> int:
    return int(targets.max()) if len(targets) else 0


def _enough(num_classes: int) -> int:
    """So many labels that every class must be among them, were they drawn evenly (chance of a miss under 1e-6)."""
    return int(num_classes * (np.log(num_classes) + 14))


def _parts(images: Tensor, val_images: Tensor | None, test_images: Tensor | None) -> Iterator[Finding]:
    """Images that two of train, validation and test share."""
    parts = [("train", images), ("validation", val_images), ("test", test_images)]
    given = [(name, part.detach().cpu().numpy()) for name, part in parts if part is not None]
    for position, (name, part) in enumerate(given):
        for other_name, other in given[:position]:
            yield from shared_findings(name, other_name, int(rows_shared(part, other).sum()), len(part))


def _spread_batch(images: ImageSet) -> tuple[Tensor, Tensor]:
    """A few images of as many classes as possible, prepared as evaluation prepares them."""
    count = _num_images(len(images), images.preprocess.height * images.preprocess.width)
    by_class = np.argsort(images.targets, kind="stable")
    ids = by_class[spread(len(images), count)]
    normalised = images.preprocess.normalise(images.pixels_of(ids))
    return torch.from_numpy(normalised), torch.from_numpy(images.targets[ids])


def _num_images(available: int, pixels: int) -> int:
    return min(available, MOST_IMAGES, max(LEAST_IMAGES, MOST_PIXELS // max(pixels, 1)))


def _examine(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    kind: LossKind,
    num_classes: int | None,
    plan: TrainingPlan,
    counts: tuple[int | None, int | None],
    known: ScaleKnown,
    clock: Clock | None = None,
) -> list[Finding]:
    """Plan, images and network; the network on a bounded batch, and only where its images can be used."""
    if any(map(is_lazy, model.parameters())):
        fix = "Send one batch through it, then ask again."
        return [info("some layers take their size from the first batch, so nothing of the network was tried.", fix)]
    with undisturbed():
        try:
            twin = copied(model)
        except (RuntimeError, TypeError, ValueError, AttributeError) as failure:
            return [info(f"the network cannot be copied ({failure}), so nothing of it was tried.")]
        found = [*plan_findings(twin.train(), plan, *counts), *start_value_findings(twin)]
        of_images = [*image_findings(images, plan.pretrained, known)]
        if not has_error(of_images):
            count = _num_images(len(images), int(np.prod(images.shape[2:])))
            device = next((parameter.device for parameter in model.parameters()), images.device)
            batch, labels = images[:count].to(device), targets[:count].to(device)
            found += _try_in_time(twin, batch, labels, kind, num_classes, clock)
        return found + of_images


def _try_in_time(
    twin: nn.Module, images: Tensor, targets: Tensor, kind: LossKind, num_classes: int | None, clock: Clock | None
) -> list[Finding]:
    """All of the batch without a clock; with one, as much of it as fits."""
    if clock is None:
        return _try_batch(twin, images, targets, kind, num_classes, Affordable(len(images), evaluates=True))
    seconds = clock.image_seconds(twin, images)
    affordable = clock.affordable(len(images), seconds)

    def can_step(num_images: int) -> bool:
        return clock.left(seconds) >= TRIAL_STEPS * TRAINING_PASSES * num_images * seconds

    found = _try_batch(twin, images, targets, kind, num_classes, affordable, can_step)
    return [*found, *affordable.findings(len(images), seconds)]


def _try_batch(
    twin: nn.Module,
    images: Tensor,
    targets: Tensor,
    kind: LossKind,
    num_classes: int | None,
    affordable: Affordable,
    can_step: Callable[[int], bool] = lambda _: True,
) -> list[Finding]:
    """One batch through a copy of the network: a part of it in evaluation mode, then all of it in training mode.

    Args:
        can_step: whether there is time for trial steps with so many images.
    """
    evaluated = [*statistics_findings(twin, images[:STATISTICS_IMAGES])]
    evaluated += batch_findings(twin, images[:FEW]) if len(images) > 1 and affordable.evaluates else ()
    if not affordable.num_images:
        return evaluated
    some = spread(len(images), affordable.num_images)
    images, targets = images[some], targets[some]
    trace = run_batch(twin, images, targets, kind.function)
    if trace.error is not None:  # evaluation stopped at the same place
        return [*stop_findings(trace), *unreached_head_findings(trace, num_classes)]
    found = [*row_findings(trace), *wasted_window_findings(trace)]
    whole = not has_error(found)
    found += (output_findings if whole else count_findings)(trace, kind, targets, num_classes)
    found += finite_findings(trace)
    if has_error(found):
        return found
    found += start_loss_findings(trace, kind, targets)
    takes_steps = can_step(min(TRIAL_IMAGES, len(images)))
    return [*found, *gradient_findings(twin, trace, targets, kind.function, takes_steps=takes_steps), *evaluated]
