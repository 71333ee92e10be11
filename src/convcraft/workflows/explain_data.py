"""What a run's training data add to an explanation: images to check the methods on, and the nearest ones.

The test images stay closed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convcraft.data.dataset import Recorded, TrainingData, prepare_training_data
from convcraft.data.image_set import ImageSet
from convcraft.data.sample import Progress, Sample
from convcraft.errors import UserError
from convcraft.explain.nearest import Neighbour, nearest_images
from convcraft.finetune.feature_cache import features_dir
from convcraft.report.explanation_content import NearPicture
from convcraft.training.run_folder import RunDescription
from convcraft.workflows.examined import examined_config, under
from convcraft.workflows.explain_checks import CheckImages

CHECK_IMAGES = 24  # 17 of them must be won before an interval of 95 % lies above one half
FEWEST_CHECK_IMAGES = 12
NEIGHBOUR_PIXELS = 64 << 20  # of train images that are compared with: all of MNIST, 1,337 photos of 224 x 224


def open_run_data(run: RunDescription, progress: Progress) -> tuple[TrainingData | None, str]:
    """The train and validation images of a run, streaming, as its network sees them; or None and why not."""
    config = examined_config(run.config)
    recorded = Recorded(run.preprocess.version, train_decoder="contract")
    try:
        data = prepare_training_data(config.data, config.preprocess, progress, recorded=recorded)
    except (UserError, OSError) as error:
        reason = error.received if isinstance(error, UserError) else str(error)
        return None, f"The run's training data cannot be opened: {reason}."
    if data.classes != run.classes or data.description["sha256"]["train"] != run.data["sha256"]["train"]:
        return None, f"The training data at {run.config.data.source} have changed since the run was trained."
    return under(data, run.preprocess), ""


def images_to_check(model: nn.Module, data: TrainingData, place: str) -> CheckImages | None:
    """Images that the network gets right, evenly spread; of validation, or of training where all images train.

    None where there are fewer than FEWEST_CHECK_IMAGES.
    """
    images = data.train if data.val is None else data.val
    candidates = _evenly(len(images), 4 * CHECK_IMAGES)
    normalised = torch.from_numpy(images.preprocess.normalise(images.pixels_of(candidates)))
    with torch.inference_mode():
        answers = [model(part.to(place)).argmax(dim=1).cpu().numpy() for part in normalised.split(16)]
    right = np.flatnonzero(np.concatenate(answers) == images.targets[candidates])
    if len(right) < FEWEST_CHECK_IMAGES:
        return None
    chosen = right[_evenly(len(right), CHECK_IMAGES)]
    kind = "training" if data.val is None else "validation"
    words = f"{len(chosen)} {kind} images that the network classifies correctly"
    targets = torch.from_numpy(images.targets[candidates[chosen]])
    return CheckImages(normalised[torch.from_numpy(chosen)].to(place), targets.to(place), words, lasting=True)


def _evenly(num: int, most: int) -> NDArray[np.int64]:
    """At most so many of num indices, from the first to the last."""
    return np.unique(np.linspace(0, num - 1, min(num, most)).round().astype(np.int64))


def near_pictures(
    model: nn.Module,
    run: RunDescription,
    data: TrainingData,
    pixels: NDArray[np.uint8],
    num_neighbours: int,
    *,
    device: str,
    progress: Progress,
) -> tuple[list[tuple[NearPicture, ...]], str]:
    """The nearest training images of each picture, and a sentence on what was compared.

    Args:
        pixels: uint8 [N, H, W, C], the contract's.

    Raises:
        UserError: as `nearest_images`.
    """
    most = max(1, NEIGHBOUR_PIXELS // (run.preprocess.height * run.preprocess.width))
    some = _evenly(len(data.train), most)
    training = data.train.subset(some)
    queries = _as_set(pixels, run)
    found = nearest_images(
        model,
        queries,
        training,
        run.classes,
        num_neighbours=num_neighbours,
        cache_dir=features_dir(),
        device=device,
        progress=progress,
    )
    which = f"all {len(some):,}" if len(some) == len(data.train) else f"{len(some):,} of {len(data.train):,}"
    said = f"Nearest of {which} training images, by the angle between the inputs of the classifier."
    return [_pictures(training, neighbours) for neighbours in found], said


def _as_set(pixels: NDArray[np.uint8], run: RunDescription) -> ImageSet:
    samples = [Sample(image, 0, f"#{number}") for number, image in enumerate(pixels)]
    return ImageSet(samples, np.zeros(len(samples), np.int64), run.preprocess, pixels)


def _pictures(training: ImageSet, neighbours: Sequence[Neighbour]) -> tuple[NearPicture, ...]:
    shown = training.pixels_of(np.array([neighbour.index for neighbour in neighbours], np.int64))
    return tuple(NearPicture(neighbour, image) for neighbour, image in zip(neighbours, shown, strict=True))
