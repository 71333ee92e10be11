"""Claim: our heat maps are those of captum and pytorch-grad-cam, on networks of five kinds, to 1e-5 of 0..1.

    pip install captum grad-cam
    python benchmarks/explain_parity.py

Random weights (seed 0) with batch norm's statistics taken from random images, two images of 96x96 pixels with a class
each, float64 and float32. Compared are maps after the same scaling, each by its own largest value; the figure is the
largest difference over all pixels.

Against captum: Grad-CAM, integrated gradients (10 steps, in the same batches), occlusion (patches of 32 pixels, moved
by 16) on all five networks; guided backpropagation where activations are ReLU. captum's hooks cannot be had with ReLUs
that work in place, so these are switched off for it, not for us.

Against pytorch-grad-cam, the weighted maps at the layer's own size, as its resizing (cv2) and scaling (it subtracts
the minimum) differ by design: LayerCAM on all five networks; Grad-CAM++ behind a ReLU, where the formulas are the same,
with logits times 10,000, because it adds 1e-6 to a denominator of squared gradients; Score-CAM at a layer of the
images' size, because it enlarges masks with aligned corners.

Recorded beside the claim: integrated gradients in float32 where captum sends all steps through as one batch. Sums are
rounded otherwise in a larger batch, and where that moves a value over a ReLU's edge, a gradient jumps.

Completeness of integrated gradients, no part of the claim: |sum of the parts - difference of the logits| as a share of
that difference, for the answers of the published ResNet-20 on CIFAR-10's first 16 test images, by the number of steps.

Numbers are differences, not times: other work on the machine does not change them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from captum.attr import GuidedBackprop, IntegratedGradients, LayerAttribution, LayerGradCam, Occlusion
from measured_on import DATA, hardware, versions, write_result
from pytorch_grad_cam import GradCAMPlusPlus, LayerCAM, ScoreCAM
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # the published network and its images

from scratch_cifar import cifar_images, trained_resnet20

from convcraft.explain.grad_cam import grad_cam
from convcraft.explain.grad_cam_plus_plus import grad_cam_plus_plus
from convcraft.explain.guided_backprop import guided_backprop
from convcraft.explain.heat_maps import HeatMaps, magnitude, resized, scaled
from convcraft.explain.integrated_gradients import attributions, integrated_gradients
from convcraft.explain.layer_cam import layer_cam
from convcraft.explain.occlusion import occlusion
from convcraft.explain.score_cam import score_cam
from convcraft.explain.target_layer import target_layer

BAR = 1e-5
NETWORKS = ("resnet18", "mobilenetv2_100", "convnext_atto", "vgg11_bn", "efficientnet_b0")
WITH_RELU = ("resnet18", "vgg11_bn")
FULL_SIZE_LAYER = {"vgg11_bn": "features.2"}  # a ReLU before any stride
SIDE, STEPS, PATCH, STRIDE = 96, 10, 32, 16
AMPLIFIED = 1e4


class Amplified(nn.Module):
    """A network's logits times 10,000."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) * AMPLIFIED


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    for name in NETWORKS:
        model, images = network_and_images(name, torch.float32)
        targets = classes_with_support(model, images)
        found[name] = {
            "layer": target_layer(model, images)[0],
            "targets": targets.tolist(),
            "float64": compare(name, torch.float64, targets),
            "float32": compare(name, torch.float32, targets),
            "float32_integrated_gradients_in_one_batch": other_batches(model, images, targets),
        }
        print(name, found[name], flush=True)
    gaps = [gap for each in found.values() for dtype in ("float64", "float32") for gap in each[dtype].values()]
    result = {
        "claim": "heat maps are those of captum and pytorch-grad-cam",
        "networks": found,
        "comparisons": len(gaps),
        "largest_difference": max(gaps),
        "bar": BAR,
        "met": max(gaps) <= BAR,
        "completeness_by_steps": {str(steps): completeness(steps) for steps in (20, 50, 100, 200)},
        "hardware": hardware(),
        "versions": versions("convcraft", "torch", "timm", "captum", "grad-cam", "numpy"),
    }
    write_result("explain_parity", result)


def network_and_images(name: str, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """The same weights and images for both precisions."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean over the batches below
    with torch.no_grad():
        for _ in range(2):
            model.train()(torch.randn(8, 3, SIDE, SIDE))
    return model.eval().to(dtype), torch.randn(2, 3, SIDE, SIDE).to(dtype)


def classes_with_support(model: nn.Module, images: Tensor) -> Tensor:
    """For each image another class whose maps are not empty: with random weights many are."""
    found: list[int] = []
    for image in images:
        candidates = (target for target in range(10) if target not in found)
        found.append(next(each for each in candidates if has_support(model, image[None], torch.tensor([each]))))
    return torch.tensor(found)


def has_support(model: nn.Module, image: Tensor, target: Tensor) -> bool:
    """Of the methods that cut off what speaks against a class, those that are compared on every network."""
    covered = occlusion(model, image, target, patch_pixels=PATCH, stride_pixels=STRIDE)
    return bool(covered.any() and grad_cam(model, image, target).any() and layer_cam(model, image, target).any())


def compare(name: str, dtype: torch.dtype, targets: Tensor) -> dict[str, float]:
    """Method -> largest difference of the maps."""
    model, images = network_and_images(name, dtype)
    layer, module = target_layer(model, images)
    own: dict[str, HeatMaps] = {
        "grad-cam": grad_cam(model, images, targets),
        "layer-cam": layer_cam(model, images, targets),
        "integrated-gradients": integrated_gradients(model, images, targets, num_steps=STEPS),
        "occlusion": occlusion(model, images, targets, patch_pixels=PATCH, stride_pixels=STRIDE),
    }
    peer: dict[str, HeatMaps] = {
        "layer-cam": grad_cam_package(LayerCAM, model, module, images, targets),
        "grad-cam": captum_grad_cam(model, module, images, targets),
        "integrated-gradients": captum_integrated_gradients(model, images, targets, len(images)),
        "occlusion": captum_occlusion(model, images, targets),
    }
    if name in WITH_RELU:
        loud = Amplified(model)
        own["grad-cam++"] = grad_cam_plus_plus(loud, images, targets, layer=f"model.{layer}")
        peer["grad-cam++"] = grad_cam_package(GradCAMPlusPlus, loud, module, images, targets)
    if name in FULL_SIZE_LAYER:
        early = FULL_SIZE_LAYER[name]
        own["score-cam"] = score_cam(model, images, targets, layer=early)
        peer["score-cam"] = grad_cam_package(ScoreCAM, model, model.get_submodule(early), images, targets)
    if name in WITH_RELU:
        own["guided-backprop"] = guided_backprop(model, images, targets)
        for part in model.modules():
            if isinstance(part, nn.ReLU):
                part.inplace = False
        guided = GuidedBackprop(model).attribute(images.clone().requires_grad_(), target=targets)
        peer["guided-backprop"] = scaled(magnitude(guided))
    for method, maps in own.items():
        assert (maps.max(axis=(1, 2)) == 1).all(), f"{name}: an empty map of {method} compares nothing"
    return {method: float(np.abs(maps - peer[method]).max()) for method, maps in own.items()}


def captum_grad_cam(model: nn.Module, module: nn.Module, images: Tensor, targets: Tensor) -> HeatMaps:
    maps = LayerGradCam(model, module).attribute(images.clone(), targets, relu_attributions=True)
    return scaled(LayerAttribution.interpolate(maps, (SIDE, SIDE), "bilinear")[:, 0])


def captum_integrated_gradients(model: nn.Module, images: Tensor, targets: Tensor, batch_size: int | None) -> HeatMaps:
    method = IntegratedGradients(model)
    parts = method.attribute(images.clone(), target=targets, n_steps=STEPS, internal_batch_size=batch_size)
    return scaled(magnitude(parts))


def other_batches(model: nn.Module, images: Tensor, targets: Tensor) -> float:
    """The difference where captum sends all steps through at once."""
    own = integrated_gradients(model, images, targets, num_steps=STEPS)
    return float(np.abs(own - captum_integrated_gradients(model, images, targets, None)).max())


def captum_occlusion(model: nn.Module, images: Tensor, targets: Tensor) -> HeatMaps:
    with torch.no_grad():
        falls = Occlusion(model).attribute(
            images.clone(),
            (3, PATCH, PATCH),
            (3, STRIDE, STRIDE),
            target=targets,
            perturbations_per_eval=8,
        )
    return scaled(falls[:, 0].relu())


def grad_cam_package(
    method: Callable[..., BaseCAM], model: nn.Module, module: nn.Module, images: Tensor, targets: Tensor
) -> HeatMaps:
    """pytorch-grad-cam's weighted maps, made into heat maps by our resizing and scaling."""
    with method(model, [module]) as cam:
        wanted = [ClassifierOutputTarget(target) for target in targets.tolist()]
        values = cam.activations_and_grads(images.clone())
        gradients = None
        if cam.uses_gradients:
            sum(target(logits) for target, logits in zip(wanted, values, strict=True)).backward()
            gradients = cam.activations_and_grads.gradients[0].numpy()
        maps = cam.activations_and_grads.activations[0].numpy()
        weighted = cam.get_cam_image(images.clone(), module, wanted, maps, gradients, False)
    return scaled(resized(torch.from_numpy(weighted).relu(), (SIDE, SIDE)))


def completeness(num_steps: int, number: int = 16) -> dict[str, float]:
    """How far the sum rule is missed on real images: median and largest share, and the share within 1 %."""
    _, model = trained_resnet20(DATA)
    images = torch.tensor(cifar_images(DATA, number)[0])
    with torch.no_grad():
        logits = model(images)
        targets = logits.argmax(dim=1)
        difference = (logits - model(torch.zeros_like(images)))[torch.arange(number), targets]
    total = attributions(model, images, targets, num_steps=num_steps).sum(dim=(1, 2, 3))
    misses = ((total - difference) / difference).abs()
    within = (misses <= 0.01).double().mean()
    return {"median": float(misses.median()), "largest": float(misses.max()), "within_1_percent": float(within)}


if __name__ == "__main__":
    main()
