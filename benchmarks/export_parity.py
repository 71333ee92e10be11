"""Claim: in float32 an exported network gives the run's logits, to 1e-4 of their range, on 500 real images.

    CONVCRAFT_DATA=DATA python benchmarks/export_parity.py [--images N] [--only NETWORK ...]

Our LeNet-5 (shipped MNIST weights, MNIST test images), ResNet-20 and ResNet-56 (published CIFAR-10 weights, CIFAR-10
test images), MobileNetV2 (ImageNet weights), ResNet-18, ResNet-50, ConvNeXt-Tiny and EfficientNet-B0 (random weights,
batch statistics of photos), all on the ants/bees photos, 397 of them, and 103 mirrored. Every float32 format that is
installed; AOTInductor, whose compiler takes minutes for a large network, on those with weights alone.

Numbers are differences, not times: other work on the machine does not change them.
Result: benchmarks/results/export_parity.json.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import torch
from measured_on import DATA, hardware, versions, write_result
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from convcraft.config import ModelConfig
from convcraft.data.idx import read_labelled_images
from convcraft.data.preprocess import Preprocess
from convcraft.deploy.export_network import ExportNetwork
from convcraft.deploy.formats.catalogue import FORMATS, find_format
from convcraft.deploy.formats.form import Runtime
from convcraft.deploy.judges import session_outputs, source_outputs
from convcraft.deploy.machine import package_version
from convcraft.deploy.parity import compare_logits
from convcraft.models.build import build_model
from convcraft.models.pretrained import SHIPPED

BAR = 1e-4
SLOW_TO_MAKE = ("aot-inductor",)
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PHOTO = {"height": 224, "width": 224, "channels": 3, "interpolation": "bicubic", "crop_fraction": 0.875}


@dataclass(frozen=True, eq=False)
class Case:
    config: ModelConfig
    contract: Preprocess
    num_classes: int
    weights: Path | None
    images: Callable[[Preprocess, int], NDArray[np.uint8]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--only", nargs="*", choices=sorted(CASES))
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    found: dict[str, Any] = {}
    for name in asked.only or CASES:
        found[name] = dict(compared(CASES[name], asked.images))
        print(
            name, {variant: f"{each['relative_difference']:.1e}" for variant, each in found[name].items()}, flush=True
        )
    exact = [each for network in found.values() for each in network.values()]
    largest = max(each["relative_difference"] for each in exact)
    result = {
        "claim": "float32 exports give the run's logits",
        "images": asked.images,
        "networks": found,
        "comparisons": len(exact),
        "largest_difference": largest,
        "bar": BAR,
        "met": largest <= BAR,
        "hardware": hardware(),
        "versions": versions("convcraft", "torch", "timm", "onnx", "onnxruntime", "openvino", "numpy"),
    }
    if not asked.only:
        write_result("export_parity", result)


def compared(case: Case, num_images: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Format -> figures."""
    pixels = case.images(case.contract, num_images)
    network = ExportNetwork(model_of(case, pixels), case.contract, made_by=case.config)
    expected = source_outputs(network, pixels).logits
    for name in FORMATS:
        form = find_format(name)
        if package_version(form.package) is None or (case.weights is None and name in SLOW_TO_MAKE):
            continue
        files = form.write(network, network.inputs_of(pixels[:1]), "float32")
        form.check(files)
        got = session_outputs(form.open(files, "float32", Runtime()), network, pixels).logits
        parity = compare_logits(expected, got, f"{len(pixels)} images")
        figures = {
            "max_difference": parity.max_difference,
            "relative_difference": parity.relative_difference,
            "agreement": parity.agreement,
            "model_megabytes": sum(map(len, files.values())) / 1e6,
        }
        yield name, figures


def model_of(case: Case, pixels: NDArray[np.uint8]) -> nn.Module:
    torch.manual_seed(0)
    size = (case.contract.height, case.contract.width)
    model = build_model(case.config, num_classes=case.num_classes, in_channels=case.contract.channels, image_size=size)
    if case.weights is not None:
        model.load_state_dict(load_file(case.weights), strict=False)
        return model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean over the batches below
    with torch.no_grad():
        for start in (0, 16):
            model.train()(torch.from_numpy(case.contract.normalise(pixels[start : start + 16])))
    return model.eval()


# Images ------------------------------------------------------------------------------------------------------------


def mnist(contract: Preprocess, number: int) -> NDArray[np.uint8]:
    images, _ = read_labelled_images(
        DATA / "mnist" / "t10k-images-idx3-ubyte.gz", DATA / "mnist" / "t10k-labels-idx1-ubyte.gz"
    )
    return np.stack([contract.pixels(image) for image in images[:number]])


def cifar10(contract: Preprocess, number: int) -> NDArray[np.uint8]:
    rows = pyarrow.parquet.read_table(DATA / "cifar10" / "test.parquet").slice(0, number).to_pylist()
    return np.stack([contract.pixels(row["image"]["bytes"]) for row in rows])


def photos(contract: Preprocess, number: int) -> NDArray[np.uint8]:
    files = sorted((DATA / "hymenoptera").rglob("*.jp*g"))
    read = np.stack([contract.pixels(file) for file in files[:number]])
    return np.concatenate([read, read[: max(0, number - len(read)), :, ::-1]])


def photo_case(name: str, **model_args: Any) -> Case:
    return Case(ModelConfig(name=name, args=model_args), Preprocess(**PHOTO, **IMAGENET), 1000, None, photos)


def cifar_case(name: str) -> Case:
    contract = Preprocess(height=32, width=32, channels=3, **IMAGENET)
    weights = DATA / "weights" / f"{name.removesuffix('_cifar')}_cifar10.safetensors"
    return Case(ModelConfig(name=name), contract, 10, weights, cifar10)


CASES = {
    "lenet5": Case(
        ModelConfig(name="lenet5"),
        Preprocess(height=28, width=28, channels=1, mean=(0.1307,), std=(0.3081,)),
        10,
        SHIPPED / "mnist-lenet5.safetensors",
        mnist,
    ),
    "resnet20_cifar": cifar_case("resnet20_cifar"),
    "resnet56_cifar": cifar_case("resnet56_cifar"),
    "mobilenetv2_100": Case(
        ModelConfig(name="mobilenetv2_100", args={"pad_type": "same"}),
        Preprocess(**PHOTO, mean=(0.5,), std=(0.5,)),
        1000,
        DATA / "weights" / "mobilenetv2_100_imagenet.safetensors",
        photos,
    ),
    "resnet18": photo_case("resnet18"),
    "resnet50": photo_case("resnet50"),
    "convnext_tiny": photo_case("convnext_tiny"),
    "efficientnet_b0": photo_case("efficientnet_b0"),
}

if __name__ == "__main__":
    main()
