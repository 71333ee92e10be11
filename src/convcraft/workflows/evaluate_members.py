"""`convcraft evaluate --with RUN`: the mean of several runs' probabilities, against the best of them on validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from convcraft.data.image_set import ImageSet
from convcraft.data.sample import Progress
from convcraft.errors import UserError
from convcraft.evaluation.ensemble import EnsembleGain, ensemble_gain
from convcraft.evaluation.predictions import Predictions
from convcraft.evaluation.probabilities import probabilities_of
from convcraft.statistics import wilson_interval
from convcraft.training.run_folder import ResultWeights, RunDescription, read_run
from convcraft.workflows.evaluate_held_out import held_out_images
from convcraft.workflows.load_model import load_model
from convcraft.workflows.network_outputs import logits_of


@dataclass(frozen=True, eq=False)
class Member:
    """Another run of the ensemble. columns: of its outputs, in the order of the judged run's classes."""

    run: RunDescription
    model: nn.Module
    weights: ResultWeights
    columns: NDArray[np.int64]

    def probabilities(self, images: ImageSet, device: str, progress: Progress | None) -> NDArray[np.float32]:
        """float32 [N, K] in the order of the judged run's classes. The model ends on the CPU."""
        return _probabilities(self.model, self.run, images, device, progress)[:, self.columns]


@dataclass(frozen=True, eq=False)
class MembersMade:
    """What the members said.

    labels: of the judged run and the M others. test: float32 [M, N, K], of the others.
    validation: float32 [M + 1, V, K]; validation_targets: int64 [V].
    """

    labels: tuple[str, ...]
    test: NDArray[np.float32]
    validation: NDArray[np.float32]
    validation_targets: NDArray[np.int64]


@dataclass(frozen=True)
class EnsembleFigures:
    """gain: over the member that is best on validation images."""

    gain: EnsembleGain
    num_correct: int

    def to_dict(self) -> dict[str, Any]:
        interval = list(wilson_interval(self.num_correct, self.gain.gain.num_images))
        own = {"members": list(self.gain.test_accuracy), "accuracy": self.gain.gain.after}
        return {**own, "accuracy_interval": interval, **self.gain.to_dict()}

    @property
    def sentence(self) -> str:
        gain = self.gain.gain
        low, high = gain.interval
        return (
            f"{gain.after:.2%} by the mean of {len(self.gain.test_accuracy)} runs: {100 * gain.gain:+.2f} points "
            f"(95 % interval {100 * low:+.2f} to {100 * high:+.2f}) over {self.gain.best}, the best on validation"
        )


def ensemble_figures(made: MembersMade, predictions: Predictions) -> EnsembleFigures:
    """Figures of saved members; the first of them are the predictions."""
    classes, targets = predictions.classes, predictions.targets
    numbers = tuple(map(str, range(len(made.validation_targets))))
    validation = {
        label: Predictions(classes, each, made.validation_targets, numbers)
        for label, each in zip(made.labels, made.validation, strict=True)
    }
    others = [Predictions(classes, each, targets, predictions.names) for each in made.test]
    gain = ensemble_gain(validation, dict(zip(made.labels, (predictions, *others), strict=True)))
    return EnsembleFigures(gain, round(gain.gain.after * gain.gain.num_images))


def open_members(run: RunDescription, others: Sequence[Path], own_test: bool) -> tuple[Member, ...]:
    """Load other runs, and refuse those whose mean with this run would mean nothing.

    Args:
        own_test: the run's own test images will be judged: no member may have learned from them.

    Raises:
        UserError: no run, the run itself, other classes, or another split of the data.
    """
    members: list[Member] = []
    for path in others:
        other = read_run(path)
        if path.resolve() in {run.folder.resolve(), *(member.run.folder.resolve() for member in members)}:
            raise UserError(f"{path} twice in one ensemble", "different runs", "Leave it out.")
        if sorted(other.classes) != sorted(run.classes):
            received = f"{path} with classes {', '.join(other.classes[:10])}"
            raise UserError(received, f"those of {run.folder}: {', '.join(run.classes[:10])}", "Name runs of one task.")
        if own_test and other.data["sha256"]["test"] != run.data["sha256"]["test"]:
            received = f"{path} set other test images aside than {run.folder}, and may have learned from these"
            fix = "Train the members with the same data settings, or judge on data that none has seen."
            raise UserError(received, "runs of the same split", fix)
        columns = np.array([other.classes.index(name) for name in run.classes])
        members.append(Member(other, *load_model(other), columns))
    return tuple(members)


def validation_said(
    run: RunDescription,
    model: nn.Module,
    members: Sequence[Member],
    held_out: ImageSet | None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """What the run and every member say of the validation images, float32 [M + 1, V, K].

    Args:
        held_out: the run's validation images; its members must have held out the same.

    Raises:
        UserError: there are none, or a member has held out others.
    """
    if held_out is None:
        received = f"{run.folder} has no validation images (it learned from them, or the data are gone)"
        fix = "The best member is chosen by them: train with data.val_fraction above 0, and leave the data in place."
        raise UserError(received, "validation images of every member", fix)
    said = [_probabilities(model, run, held_out, device, progress)]
    for member in members:
        images = held_out_images(member.run, progress)
        if images is None or images.names != held_out.names:
            received = f"{member.run.folder} has {'no' if images is None else 'other'} validation images"
            fix = "Train the members with the same data settings, so that they split the data alike."
            raise UserError(received, f"those of {run.folder}", fix)
        said.append(member.probabilities(images, device, progress))
    return np.stack(said)


def labels_of(run: RunDescription, members: Sequence[Member]) -> tuple[str, ...]:
    """What the run and its members are called: the names of their folders, with their paths where these are alike."""
    folders = [run.folder, *(member.run.folder for member in members)]
    names = [folder.name for folder in folders]
    return tuple(names) if len(set(names)) == len(names) else tuple(map(str, folders))


def in_preprocessing_of(member: Member, run: RunDescription) -> RunDescription:
    """The judged run's data and classes, with the member's pixels and the record of what the member has seen."""
    return replace(run, preprocess=member.run.preprocess, folder=member.run.folder)


def _probabilities(
    model: nn.Module, run: RunDescription, images: ImageSet, device: str, progress: Progress | None
) -> NDArray[np.float32]:
    logits = logits_of(model, images, device, progress, run.config.data.num_workers)
    return probabilities_of(logits, run.config.training.loss)
