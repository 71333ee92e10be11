"""Seed 000 where the ImageNet weights are not at hand: which file to bring, and a small run of the same steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from convcraft.config import DataConfig, RunConfig
from convcraft.data.named import search_places
from convcraft.workflows.seeds.options import RunOptions

SMALL_NETWORK, SMALL_WEIGHTS = "mobilenetv2_100", "mobilenetv2_100_imagenet.safetensors"
LABELS_PER_CLASS, EPOCHS, PIXELS = 100, 5, 96
SCRATCH_LABELS_PER_CLASS, SCRATCH_PIXELS = 20, 64


@dataclass(frozen=True)
class StandIn:
    """What is run in place of the article's system."""

    config: RunConfig
    folder: str  # of its runs; each network has its own
    what: str  # in words, beginning with what it is not


def how_to_get_weights() -> tuple[str, ...]:
    """The published file, how it becomes one that is read here, and the command that uses it."""
    from torchvision.models import ResNet50_Weights

    url = ResNet50_Weights.IMAGENET1K_V1.url
    name = url.rsplit("/", 1)[-1]
    convert = (
        'python -c "import torch, safetensors.torch as s; '
        f"s.save_file(torch.load('{name}', weights_only=True), 'resnet50.safetensors')\""
    )
    return (
        f"the article's own system needs ImageNet's ResNet-50 weights, which are not here: the file {name}, {url}",
        f"make it a .safetensors file (numbers alone, no code): {convert}",
        "then run: convcraft seeds run 000 --weights resnet50.safetensors",
        "at 224 pixels that takes days on two processor cores; with a GPU, hours. Shorten it with --epochs or --quick",
    )


def choose_stand_in(config: RunConfig, options: RunOptions) -> StandIn:
    """The article's steps on what is there: a smaller ImageNet network, else ResNet-50 from random values."""
    weights = _find_weights(options)
    if weights is not None:
        small = config.changed(
            preprocess={"image_size": (PIXELS, PIXELS)},
            model={"name": SMALL_NETWORK, "weights": str(weights)},
            data={"labels_per_class": LABELS_PER_CLASS},
            # Ten times the article's rate, falling: timm starts the new classifier with large weights, and 320 steps
            # at 1e-4 would be spent on shrinking them.
            optim={"learning_rate": 1e-3},
            schedule={"name": "cosine"},
            training={"epochs": EPOCHS},
        )
        what = (
            f"not the article's system: the same steps with MobileNetV2 from ImageNet weights, {LABELS_PER_CLASS} "
            f"images per class of CIFAR-10 at {PIXELS} pixels"
        )
    else:
        small = config.changed(
            preprocess={"image_size": (SCRATCH_PIXELS, SCRATCH_PIXELS)},
            data={"labels_per_class": SCRATCH_LABELS_PER_CLASS},
            training={"epochs": 1},
        )
        what = (
            f"not the article's system: ResNet-50 from random values, {SCRATCH_LABELS_PER_CLASS} images per class of "
            f"CIFAR-10 at {SCRATCH_PIXELS} pixels; it shows that the program runs, its accuracy means nothing"
        )
    labels = small.data.labels_per_class
    asked = options.applied_to(small)
    asked = asked.changed(data={"labels_per_class": min(labels or 1, asked.data.labels_per_class or 1)})
    return StandIn(asked, "stand-in-mobilenet" if weights is not None else "stand-in-resnet50", what)


def _find_weights(options: RunOptions) -> Path | None:
    """ImageNet weights of the small network: folder "weights" of the places where data are looked for."""
    places = search_places("weights", DataConfig(data_dir=options.data_dir))
    return next((path for place in places if (path := place / SMALL_WEIGHTS).is_file()), None)
