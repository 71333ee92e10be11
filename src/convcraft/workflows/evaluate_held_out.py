"""A run's validation images, opened again: what views and members of an ensemble are chosen by."""

from __future__ import annotations

from convcraft.data.dataset import Recorded, prepare_training_data
from convcraft.data.image_set import ImageSet
from convcraft.data.sample import Progress
from convcraft.errors import UserError
from convcraft.finetune.pool import make_pool
from convcraft.training.run_folder import RunDescription


def held_out_images(run: RunDescription, progress: Progress | None = None) -> ImageSet | None:
    """Labelled images that the run's result did not learn from, and that are not its test images.

    None where there are none (the result has learned from all labelled images), or the data are gone or changed.
    """
    recorded = Recorded(run.preprocess.version, train_decoder="contract")  # no train image is asked for
    try:
        data = prepare_training_data(run.config.data, run.config.preprocess, progress, recorded=recorded)
    except UserError:  # other data may have been named to judge on: the run can be judged without its own
        return None
    same = data.description["sha256"] == run.data["sha256"] and data.preprocess == run.preprocess
    if not same or data.val is None:
        return None
    if run.config.finetune.method == "none":
        return data.val
    pool = make_pool(data, run.config)
    return None if pool.cross_fitted else pool.images.subset(pool.chooses)
