"""Stages cover a network once, in the order in which it runs, and end with the classifier."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from convcraft.config import ModelConfig
from convcraft.errors import UserError
from convcraft.models.build import OWN_MODELS, build_model
from convcraft.models.classifier import classifier_names
from convcraft.models.layer_head import LayerHead
from convcraft.models.stages import Stage, check_running_order, is_part, named_tensors, stages_of

LARGE = ("alexnet", "vgg")  # hundreds of megabytes: built without memory, so they cannot run
TIMM = (
    "mobilenetv2_100",
    "convnext_atto",
    "timm/resnet18",
    "resnext26ts",
    "efficientnet_b0",
    "regnety_002",
    "test_vit",
)


def network(name: str, size: int = 64) -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelConfig(name=name), num_classes=5, in_channels=3, image_size=(size, size))


def covers_once(model: nn.Module, stages: tuple[Stage, ...]) -> bool:
    counts = Counter(name for stage in stages for name in stage.tensors)
    return counts == Counter(name for name, _ in named_tensors(model))


@pytest.mark.parametrize("name", [name for name in OWN_MODELS if not name.startswith(LARGE) or name == "vgg_small"])
def test_our_stages_cover_the_network_and_run_in_order(name: str) -> None:
    model = network(name)
    stages = stages_of(model, torch.zeros(1, 3, 64, 64))
    assert covers_once(model, stages)
    assert classifier_names(model)[0] in stages[-1].modules
    for stage in stages:
        below = [tensor for tensor in stage.tensors if is_part(tensor, stage.modules)]
        assert below == list(stage.tensors)
    layers = [name for name, module in model.named_modules() if name and not any(True for _ in module.children())]
    for layer in layers:
        assert sum(layer in stage.modules or is_part(layer, stage.modules) for stage in stages) == 1


@pytest.mark.parametrize("name", [name for name in OWN_MODELS if name.startswith(LARGE)])
def test_flat_networks_are_cut_after_their_poolings(name: str) -> None:
    with torch.device("meta"):
        model = OWN_MODELS[name](5, 3, (64, 64))
    stages = stages_of(model)
    assert covers_once(model, stages)
    if name == "vgg_small":
        return
    assert len(stages) == (5 if name == "alexnet" else 7)  # the hidden linear layers are one stage
    assert all(stage.modules[0].startswith("features") for stage in stages[:-2])
    assert all(stage.modules[0].startswith("classifier") for stage in stages[-2:])
    if name != "alexnet":
        pooled = [path for stage in stages[:-2] for path in stage.modules if path != "avgpool"][-1]
        assert isinstance(model.get_submodule(pooled), nn.MaxPool2d)
        assert stages[-1].modules == ("classifier.5", "classifier.6")  # dropout belongs to the classifier behind it


@pytest.mark.parametrize("name", TIMM[:-1])
def test_stages_of_timm_networks_cover_them_and_run_in_order(name: str) -> None:
    model = network(name)
    stages = stages_of(model, torch.zeros(1, 3, 64, 64))
    assert covers_once(model, stages)
    assert stages[-1].tensors == tuple(f"{classifier_names(model)[0]}.{key}" for key in ("weight", "bias"))
    assert 5 <= len(stages) <= 10


def test_known_networks_have_their_papers_stages() -> None:
    names = [stage.name for stage in stages_of(network("resnet18"))]
    assert names == ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"]
    assert stages_of(network("resnet18"))[0].modules == ("conv1", "bn1", "act1", "maxpool")
    assert [stage.name for stage in stages_of(network("lenet5"))] == ["c1", "c3", "c5", "f6", "output"]
    mobile = stages_of(network("mobilenetv2_100"))
    assert [stage.name for stage in mobile] == ["conv_stem", *(f"blocks.{n}" for n in range(7)), "classifier"]
    assert {"conv_head", "bn2"} < set(mobile[-2].modules)
    convnext = stages_of(network("convnext_atto"))
    assert "head.norm" in convnext[-2].modules
    assert convnext[-1].modules == ("head.drop", "head.fc")


def test_tensors_without_a_module_of_their_own_are_in_a_stage() -> None:
    import timm

    model = timm.create_model("test_vit", num_classes=5, img_size=64)
    stages = stages_of(model, torch.zeros(1, 3, 64, 64))
    assert covers_once(model, stages)
    assert {"cls_token", "pos_embed"} <= set(stages[0].tensors)


def test_a_head_on_many_layers_keeps_the_stages_of_its_network() -> None:
    model = LayerHead(network("resnet18"), ["layer1", "layer4"], 6, 5)
    stages = stages_of(model)
    assert covers_once(model, stages)
    names = [stage.name for stage in stages]
    assert names == ["network.conv1", *(f"network.layer{n}" for n in (1, 2, 3, 4)), "classifier"]
    assert set(stages[-1].tensors) == {"classifier.weight", "classifier.bias", "selected"}


class Backwards(nn.Module):
    """Its layers run in the other order than they were defined in."""

    def __init__(self) -> None:
        super().__init__()
        self.second, self.first, self.fc = nn.Conv2d(4, 4, 1), nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.second(self.first(images)).mean(dim=(2, 3)))

    def get_classifier(self) -> nn.Linear:
        return self.fc


def test_another_running_order_is_refused() -> None:
    model = Backwards()
    stages = stages_of(model)
    with pytest.raises(UserError, match="second of stage second runs after stage first"):
        check_running_order(model, stages, torch.zeros(1, 3, 8, 8))
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(module.training for module in model.modules())
    turned = (stages[1], stages[0], stages[2])
    check_running_order(model, turned, torch.zeros(1, 3, 8, 8))


def test_the_order_is_checked_without_a_trace() -> None:
    model = network("resnet20_cifar")
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    state, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    stages_of(model, torch.zeros(2, 3, 16, 16))
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_network_without_a_classifier_is_refused() -> None:
    with pytest.raises(UserError, match="no classifier"):
        stages_of(nn.Sequential(nn.Conv2d(3, 4, 1)))
