"""Claim: a heat map of ours finds what the network uses better than a blob in the centre, on > 65 % of test photos.

    python benchmarks/explain_deletion.py [--methods NAME ...] [--photos N] [--steps 10] [--threads N] [--add]
    python benchmarks/explain_deletion.py --split train --photos 40     # where settings are chosen; writes nothing

Ants and bees, MobileNetV2 under a probe (`convcraft finetune --method probe`, seed 0), photos of `val/`, which serves
as the test set, that the network classifies correctly. For every method of the catalogue, with its defaults: the share
of photos on which the area under its deletion curve is lower than the blob's (ties count half) with a 95 % Wilson
interval, for both fills, blur and mean; and whether its maps depend on the weights (rank correlation with those of a
wholly randomised network, SANITY_PHOTOS photos, two draws). Fixed beforehand: photos, fills, steps, methods' defaults.

The bar is that of the blur. The mean is given too, but it is no absence: the network calls a photo of nothing but the
mean colour a bee, with 92 %, so that no bee can be deleted by it. The best of several methods, chosen on the photos
that judge it, looks better than it is: `chosen_on_train` names the one that was best on train photos before the test
photos were read, and its share here. The result is written after every method. --photos takes so many correct photos,
evenly spaced; methods that ask the network 25 times per photo and more take `--slow-photos` of these.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured_on import DATA, RESULTS, convcraft_json, hardware, versions, write_result
from numpy.typing import NDArray
from torch import Tensor, nn

from convcraft.config import DataConfig
from convcraft.data.image_set import ImageSet
from convcraft.data.sources import open_source
from convcraft.explain.catalogue import METHODS as CATALOGUE
from convcraft.explain.centre_blob import centre_blob, share_of_wins
from convcraft.explain.deletion import BLUR_SHARE, FILLS, Method, deletion_curves
from convcraft.explain.sanity import MOST_CORRELATION, randomise_weights
from convcraft.explain.views import grad_cam_views
from convcraft.training.run_folder import read_run
from convcraft.workflows.load_model import load_model

PHOTOS = DATA / "hymenoptera"
NETWORK = "mobilenetv2_100"
WEIGHTS = DATA / "weights" / f"{NETWORK}_imagenet.safetensors"
BAR, BAR_FILL = 0.65, "blur"
METHODS: Mapping[str, Method] = {"grad-cam-views": grad_cam_views, **CATALOGUE}
SLOW = ("score-cam", "integrated-gradients", "smooth-grad", "occlusion")
SANITY_PHOTOS = 8
BATCH = 16  # photos per call of a method

Areas = Mapping[str, NDArray[np.float64]]  # fill -> [N]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="NAME")
    parser.add_argument("--photos", type=int, default=0, help="correct photos, evenly spaced; 0 takes all")
    parser.add_argument("--slow-photos", type=int, default=0, help="the same, for " + " and ".join(SLOW))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--split", choices=("val", "train"), default="val", help="val is the test set")
    parser.add_argument("--chosen-on-train", choices=list(METHODS), metavar="NAME")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--add", action="store_true", help="keep what the result has of other methods")
    parser.add_argument("--run", type=Path, help="a probe's run folder from before, instead of fine-tuning now")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as folder:
        run = asked.run or fine_tuned(Path(folder) / "run")
        model, images, targets = correct_photos(run, asked.split)
    print(f"{len(images)} photos are classified correctly", flush=True)
    some = evenly(len(images), asked.photos)
    blob = areas(centre_blob, model, images[some], targets[some], asked.steps)
    found = kept_methods(len(images), asked) if asked.add else {}
    for name in asked.methods:
        chosen = some if name not in SLOW else some[evenly(len(some), asked.slow_photos)]
        baseline = {fill: values[np.isin(some, chosen)] for fill, values in blob.items()}
        found[name] = measure(METHODS[name], model, images[chosen], targets[chosen], baseline, asked.steps)
        print(f"{name}: {found[name]}", flush=True)
        if asked.split == "val":
            write(found, blob, asked, len(images))


def kept_methods(num_correct: int, asked: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Of the result that is there, if it was measured on the same photos in as many steps."""
    kept = json.loads((RESULTS / "explain_deletion.json").read_text(encoding="utf-8"))
    if (kept["correct_photos"], kept["steps"]) != (num_correct, asked.steps):
        raise SystemExit("the result that is there is of other photos or steps: measure all methods again")
    return {name: figures for name, figures in kept["methods"].items() if name not in asked.methods}


def fine_tuned(run: Path) -> Path:
    words = [str(PHOTOS), "--model", NETWORK, "--weights", str(WEIGHTS), "--test-split", "val", "--method", "probe"]
    convcraft_json("finetune", *words, "--seed", "0", "--out", str(run))
    return run


def correct_photos(run: Path, split: str) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, and the split's photos that it gets right: float32 [N, C, H, W], normalised, int64 [N]."""
    description = read_run(run)
    model, _ = load_model(description)
    model.to(memory_format=torch.channels_last)  # half the time
    samples = open_source(DataConfig(source=str(PHOTOS))).splits[split]
    photos = ImageSet.build(samples, description.preprocess, 1 << 31)
    images = torch.from_numpy(description.preprocess.normalise(photos.pixels_of(np.arange(len(photos)))))
    images, targets = images.contiguous(memory_format=torch.channels_last), torch.from_numpy(photos.targets)
    with torch.inference_mode():
        answers = torch.cat([model(part).argmax(1) for part in images.split(BATCH)])
    return model, images[answers == targets], targets[answers == targets]


def evenly(total: int, wanted: int) -> NDArray[np.int64]:
    """So many of range(total), evenly spaced; all where 0 are wanted or there are no more."""
    if not 0 < wanted < total:
        return np.arange(total)
    return np.linspace(0, total - 1, wanted).round().astype(np.int64)


def areas(method: Method, model: nn.Module, images: Tensor, targets: Tensor, steps: int) -> Areas:
    parts: dict[str, list[NDArray[np.float64]]] = {fill: [] for fill in FILLS}
    for some, classes in zip(images.split(BATCH), targets.split(BATCH), strict=True):
        heat = method(model, some, classes)
        for fill in FILLS:
            parts[fill].append(deletion_curves(model, some, classes, heat, fill=fill, steps=steps).areas)
    return {fill: np.concatenate(found) for fill, found in parts.items()}


def measure(
    method: Method, model: nn.Module, images: Tensor, targets: Tensor, baseline: Areas, steps: int
) -> dict[str, Any]:
    started = time.perf_counter()
    ours = areas(method, model, images, targets, steps)
    seconds = time.perf_counter() - started
    few = evenly(len(images), SANITY_PHOTOS)
    sanity = randomise_weights(method, model, images[few], targets[few], num_stages=1)
    whole = sanity.stages[-1]
    return {
        **{fill: wins_of(ours[fill], baseline[fill]) for fill in FILLS},
        "sanity": {
            "verdict": sanity.verdict,
            "rank_correlation": whole.correlation,
            "ssim": whole.similarity,
            "blank_maps": whole.num_blank,
        },
        "seconds": round(seconds, 1),
    }


def wins_of(ours: NDArray[np.float64], blob: NDArray[np.float64]) -> dict[str, Any]:
    wins = share_of_wins(ours, blob)
    return {
        "share": wins.share,
        "interval": list(wins.interval),
        "won": wins.num_won,
        "tied": wins.num_tied,
        "photos": wins.num_images,
        "mean_area": float(ours.mean()),
        "mean_area_blob": float(blob.mean()),
    }


def write(found: Mapping[str, Mapping[str, Any]], blob: Areas, asked: argparse.Namespace, num_correct: int) -> None:
    shares = {name: figures[BAR_FILL]["share"] for name, figures in found.items()}
    best, chosen = max(shares, key=lambda name: shares[name]), asked.chosen_on_train
    write_result(
        "explain_deletion",
        {
            "claim": "ants/bees, MobileNetV2 under a probe: the best method's deletion area is lower than a centre "
            "blob's on > 65 % of the correctly classified test photos (fill: blur)",
            "best": {"method": best, "share": shares[best], "met": shares[best] > BAR},
            "chosen_on_train": chosen and {"method": chosen, "share": shares.get(chosen)},
            "methods": found,
            "not_measured": [name for name in METHODS if name not in found],
            "mean_area_blob": {fill: float(values.mean()) for fill, values in blob.items()},
            "correct_photos": num_correct,
            "steps": asked.steps,
            "blur_share": BLUR_SHARE,
            "most_rank_correlation": MOST_CORRELATION,
            "threads": asked.threads,
            "hardware": hardware(),
            "versions": versions("convcraft", "torch", "torchvision", "timm", "numpy", "scipy"),
        },
    )


if __name__ == "__main__":
    main()
