"""Images of a run's own data that exports are calibrated and judged on; never its test images."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convcraft.data.dataset import Recorded, prepare_training_data
from convcraft.data.image_set import ImageSet
from convcraft.data.sample import Progress
from convcraft.data.spread import spread
from convcraft.deploy.judges import Judges
from convcraft.deploy.probes import Picture
from convcraft.errors import UserError
from convcraft.finetune.pool import make_pool
from convcraft.training.run_folder import RunDescription
from convcraft.workflows.declared_groups import declared_groups
from convcraft.workflows.evaluate_options import Asked

JUDGED_IMAGES, OF_PIXELS = 500, 224 * 224  # more of smaller images, up to ten times as many
CALIBRATION_IMAGES = 300


@dataclass(frozen=True, eq=False)
class ExportImages:
    """calibration: train images, uint8 [N, H, W, C]; empty without data. judges: None without. notes: for people."""

    calibration: NDArray[np.uint8]
    judges: Judges | None
    notes: tuple[str, ...] = ()


def export_images(run: RunDescription, progress: Progress | None = None, asked: Asked | None = None) -> ExportImages:
    """Train images to calibrate on, held-out images to judge on; train images where the network learned from all.

    Args:
        asked: its `slice_columns` and `class_groups` are judged beside the classes.

    Raises:
        UserError: groups that do not fit data or classes.
    """
    asked = asked or Asked()
    asked.refuse_other_classes(run.classes)
    shape = (0, run.preprocess.height, run.preprocess.width, run.preprocess.channels)
    recorded = Recorded(run.preprocess.version, train_decoder="contract")
    try:
        data = prepare_training_data(run.config.data, run.config.preprocess, progress, recorded=recorded)
    except UserError as error:
        note = f"The run's data cannot be opened ({error.received}): compared on the probes alone."
        return ExportImages(np.zeros(shape, np.uint8), None, (note,))
    if data.description["sha256"] != run.data["sha256"] or data.preprocess != run.preprocess:
        note = "The run's data have changed since: compared on the probes alone."
        return ExportImages(np.zeros(shape, np.uint8), None, (note,))
    train, held_out = data.train, data.val
    if run.config.finetune.method != "none":
        pool = make_pool(data, run.config)
        train = pool.images
        held_out = None if pool.cross_fitted else pool.images.subset(pool.chooses)
    of_one = run.preprocess.height * run.preprocess.width
    most = JUDGED_IMAGES * min(10, max(1, OF_PIXELS // of_one))
    calibration = _some(train, CALIBRATION_IMAGES)
    if held_out is None:
        judged, what = _some(train, most), "train images"
        notes: tuple[str, ...] = ("No image was held out: compared on images that the network has learned from.",)
    else:
        judged, what, notes = _some(held_out, most), "validation images", ()
    name = f"{len(judged)} {what} of {run.data['name']}"
    pixels = judged.pixels_of(np.arange(len(judged)))
    groups = declared_groups(asked, judged, run.config.data.source, run.classes)
    judges = Judges(name, pixels, judged.targets, held_out=held_out is not None, groups=groups)
    return ExportImages(calibration.pixels_of(np.arange(len(calibration))), judges, notes)


def picture_of(pixels: NDArray[np.uint8], name: str) -> Picture:
    """Pixels [H, W, C] as a PNG, which keeps them as they are and nothing else of the file they came from."""
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(stream, "PNG")
    return Picture(name, stream.getvalue())


def _some(images: ImageSet, most: int) -> ImageSet:
    return images.subset(spread(len(images), most))
