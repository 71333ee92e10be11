"""A run's own labelled images, opened again: what its result learned from, and what it did not learn from.

Views, members of an ensemble and the trust of single predictions are chosen by the latter.
"""

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
    opened = open_held_out(run, progress)
    return None if opened is None else opened[1]


def open_held_out(run: RunDescription, progress: Progress | None = None) -> tuple[ImageSet, ImageSet] | None:
    """(train, held out): images that the run's result learned from, and `held_out_images`; None where the latter is."""
    recorded = Recorded(run.preprocess.version, train_decoder="contract")  # nothing is trained on
    try:
        data = prepare_training_data(run.config.data, run.config.preprocess, progress, recorded=recorded)
    except UserError:  # other data may have been named to judge on: the run can be judged without its own
        return None
    same = data.description["sha256"] == run.data["sha256"] and data.preprocess == run.preprocess
    if not same or data.val is None:
        return None
    if run.config.finetune.method == "none":
        return data.train, data.val
    pool = make_pool(data, run.config)
    return None if pool.cross_fitted else (pool.images.subset(pool.rounds[0].fit), pool.images.subset(pool.chooses))
