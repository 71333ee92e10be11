"""Claim: a bundle whose answers would be others than its source's does not load; a sound one does.

    CONVCRAFT_DATA=DATA python benchmarks/bundle_mutants.py [--only NETWORK ...]

Five networks: LeNet-5 (shipped MNIST weights, grey), ResNet-20 (published CIFAR-10 weights), MobileNetV2 (ImageNet
weights), ResNet-18 and EfficientNet-B0 (random weights with batch statistics of random images). Each is exported in
every format and precision that is installed, as a zip, and loaded: every one must be accepted. What export itself
refuses, because lower precision is too far from the source on the probes, is listed and not counted.

Then every mutant of tests/bundle_mutants.py: mistakes in the files, with all hashes made anew as a careless tool would
(class swap, wrong mean, wrong size, truncated weights ...), mistakes of the program that reads them (BGR, divided by
255 twice, no antialias, crop before resize, no EXIF rotation, NHWC, grey for colour), and batch norms dropped before
export. Every one must be refused; what cannot change anything under a contract is listed and not counted.

Numbers are counts: other work on the machine does not change them. Result: benchmarks/results/bundle_mutants.json.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measured_on import DATA, hardware, versions, write_result
from safetensors.torch import load_file
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from bundle_mutants import FORGERIES, READERS, Files, batch_norms_dropped, cannot_matter, forged
from exported import made_of, source_of

from convcraft.config import ModelConfig
from convcraft.data.preprocess import Preprocess
from convcraft.deploy.archive import write_zip
from convcraft.deploy.formats.catalogue import FORMATS, find_format
from convcraft.deploy.machine import package_version
from convcraft.deploy.predictor import Predictor
from convcraft.errors import UserError
from convcraft.models.build import build_model
from convcraft.models.pretrained import SHIPPED

FORGED_FORMAT = "onnx"
CLEAN_BAR = 40
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=sorted(NETWORKS), help="these networks alone")
    chosen = parser.parse_args().only or list(NETWORKS)
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = str(Path(scratch) / "cache")
        for name in chosen:
            found[name] = judged(NETWORKS[name](), Path(scratch))
            print(name, found[name], flush=True)
    exported = [outcome for each in found.values() for outcome in each["clean"].values()]
    clean = [outcome for outcome in exported if not outcome.startswith("not made")]
    mutants = [outcome for each in found.values() for outcome in each["mutants"].values()]
    counted = [outcome for outcome in mutants if not outcome.startswith("cannot matter")]
    refused = sum(outcome.startswith("refused") for outcome in counted)
    result = {
        "claim": "bundles that would answer otherwise do not load, sound ones do",
        "networks": found,
        "clean": {
            "made": len(clean),
            "accepted": clean.count("accepted"),
            "bar": CLEAN_BAR,
            "refused_at_export": len(exported) - len(clean),
        },
        "mutants": {"made": len(counted), "refused": refused, "cannot_matter": len(mutants) - len(counted)},
        "met": refused == len(counted) and clean.count("accepted") == len(clean) >= CLEAN_BAR,
        "hardware": hardware(),
        "versions": versions("convcraft", "torch", "timm", "onnx", "onnxruntime", "numpy", "pillow"),
    }
    if set(chosen) == set(NETWORKS):
        write_result("bundle_mutants", result)


@dataclass(frozen=True, eq=False)
class Network:
    model: nn.Module
    made_by: ModelConfig
    contract: Preprocess
    num_classes: int


def judged(network: Network, scratch: Path) -> dict[str, dict[str, str]]:
    classes = tuple(f"class {label}" for label in range(network.num_classes))
    source = source_of(network.model, network.contract, classes, made_by=network.made_by)
    clean, files = {}, {}
    for format_name, precision in variants():
        label = f"{format_name} {precision}"
        try:
            made = made_of(source, format_name, precision)
        except UserError as error:  # low precision that is too far off is not exported at all
            clean[label] = f"not made: {error.received}"
            continue
        clean[label] = loaded(made.files, scratch, native_code=find_format(format_name).native_code)
        if (format_name, precision) == (FORGED_FORMAT, "float32"):
            files = made.files
    return {"clean": clean, "mutants": dict(mutated(network.model, network.contract, classes, files, scratch))}


def variants() -> Iterator[tuple[str, str]]:
    for name in FORMATS:
        form = find_format(name)
        if package_version(form.package) is not None:
            yield from ((name, precision) for precision in form.precisions)


def mutated(
    model: nn.Module, contract: Preprocess, classes: tuple[str, ...], files: Files, scratch: Path
) -> Iterator[tuple[str, str]]:
    for name, change in FORGERIES.items():
        yield name, loaded(change(files), scratch)
    for name, reader in READERS.items():
        reason = cannot_matter(name, contract)
        yield name, f"cannot matter: {reason}" if reason else loaded(files, scratch, reader())
    without = copy.deepcopy(model)
    if batch_norms_dropped(without):
        other = made_of(source_of(without, contract, classes))
        yield "batch norms dropped", loaded(forged(files, {"model.onnx": other.files["model.onnx"]}), scratch)
    else:
        yield "batch norms dropped", "cannot matter: the network has none"


def loaded(
    files: Files,
    scratch: Path,
    reader: contextlib.AbstractContextManager[object] | None = None,
    native_code: bool = False,
) -> str:
    path = scratch / "bundle.zip"
    path.unlink(missing_ok=True)
    write_zip(path, files)
    try:
        with reader or contextlib.nullcontext():
            Predictor.open(path, probe_again=True, allow_native_code=native_code)
    except UserError as error:
        return f"refused: {error.received.replace(str(path), 'bundle')}"
    return "accepted"


# The networks ------------------------------------------------------------------------------------------------------


def built(config: ModelConfig, contract: Preprocess, num_classes: int) -> nn.Module:
    torch.manual_seed(0)
    return build_model(
        config, num_classes=num_classes, in_channels=contract.channels, image_size=(contract.height, contract.width)
    )


def lenet5() -> Network:
    config, contract = (
        ModelConfig(name="lenet5"),
        Preprocess(height=28, width=28, channels=1, mean=(0.13,), std=(0.31,)),
    )
    model = built(config, contract, 10)
    model.load_state_dict(load_file(SHIPPED / "mnist-lenet5.safetensors"))
    return Network(model.eval(), config, contract, 10)


def resnet20() -> Network:
    config, contract = ModelConfig(name="resnet20_cifar"), Preprocess(height=32, width=32, channels=3, **IMAGENET)
    model = built(config, contract, 10)
    model.load_state_dict(load_file(DATA / "weights" / "resnet20_cifar10.safetensors"), strict=False)
    return Network(model.eval(), config, contract, 10)


def mobilenetv2() -> Network:
    config = ModelConfig(name="mobilenetv2_100", args={"pad_type": "same"})
    contract = Preprocess(
        height=224, width=224, channels=3, interpolation="bicubic", crop_fraction=0.875, mean=(0.5,), std=(0.5,)
    )
    model = built(config, contract, 1000)
    model.load_state_dict(load_file(DATA / "weights" / "mobilenetv2_100_imagenet.safetensors"))
    return Network(model.eval(), config, contract, 1000)


def random_network(name: str, side: int) -> Network:
    """Batch statistics of random images, so that every layer matters."""
    config = ModelConfig(name=name)
    contract = Preprocess(height=side, width=side, channels=3, crop_fraction=0.875, **IMAGENET)
    model = built(config, contract, 10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean over the batches below
    with torch.no_grad():
        for _ in range(2):
            model.train()(torch.randn(8, 3, side, side))
    return Network(model.eval(), config, contract, 10)


NETWORKS = {
    "lenet5": lenet5,
    "resnet20_cifar": resnet20,
    "mobilenetv2_100": mobilenetv2,
    "resnet18": lambda: random_network("resnet18", 96),
    "efficientnet_b0": lambda: random_network("efficientnet_b0", 96),
}

if __name__ == "__main__":
    main()
