"""Networks of fewer channels: rebuilt from recorded sizes, and refused where the record makes no sense."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from convcraft.config import ModelConfig, RunConfig
from convcraft.errors import UserError
from convcraft.models.build import build_model
from convcraft.models.pruned import CannotRecord, apply_shapes, changed_shapes, joined_shapes, same_outputs

SHAPES = {
    "layer1.0.conv1": [5, 16],
    "layer1.0.bn1": [5],
    "layer1.0.conv2": [16, 5],
    "layer2.1": [],
}


def network(pruned: dict[str, list[int]] | None = None, name: str = "resnet20_cifar") -> nn.Module:
    torch.manual_seed(0)
    config = ModelConfig(name=name, pruned=pruned or {})
    return build_model(config, num_classes=3, in_channels=1, image_size=(16, 16)).eval()


def test_sizes_are_cut_and_blocks_left_out() -> None:
    small = network(SHAPES)
    block = small.get_submodule("layer1.0")
    assert [tuple(block.get_parameter(f"{name}.weight").shape) for name in ("conv1", "bn1", "conv2")] == [
        (5, 16, 3, 3),
        (5,),
        (16, 5, 3, 3),
    ]
    assert block.get_buffer("bn1.running_var").shape == (5,)
    assert isinstance(small.get_submodule("layer2.1"), nn.Identity)
    assert small(torch.zeros(2, 1, 16, 16)).shape == (2, 3)
    assert changed_shapes(small, network()) == SHAPES


def test_the_first_start_values_stay() -> None:
    full, small = network(), network(SHAPES)
    kept = full.get_parameter("layer1.0.conv2.weight")[:, :5]
    assert torch.equal(small.get_parameter("layer1.0.conv2.weight"), kept)


def test_weights_load_strictly_into_a_rebuilt_network() -> None:
    small, again = network(SHAPES), network(SHAPES)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.add_(0.1)
    images = torch.rand(2, 1, 16, 16)
    assert not same_outputs(small, again, images)
    again.load_state_dict(small.state_dict())
    assert same_outputs(small, again, images, tolerance=0)
    with pytest.raises(RuntimeError, match="size mismatch"):
        network().load_state_dict(small.state_dict(), strict=False)


def test_depthwise_convolutions_keep_one_kernel_per_channel() -> None:
    shapes = {"blocks.0.0.conv_dw": [12, 12], "blocks.0.0.bn1": [12], "conv_stem": [12, 1], "bn1": [12]}
    shapes["blocks.0.0.conv_pw"] = [16, 12]
    small = network(shapes, "mobilenetv2_100")
    depthwise = small.get_submodule("blocks.0.0.conv_dw")
    assert isinstance(depthwise, nn.Conv2d)
    assert (depthwise.groups, tuple(depthwise.weight.shape)) == (12, (12, 1, 3, 3))
    assert small(torch.zeros(1, 1, 32, 32)).shape == (1, 3)


def test_the_settings_carry_the_sizes() -> None:
    config = RunConfig().changed(model={"name": "resnet20_cifar", "pruned": SHAPES})
    assert RunConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"layer1.0.conv9": [5, 16]}, r"Did you mean layer1\.0\.conv"),
        ({"layer1.0.conv1": [17, 16]}, "at most"),
        ({"layer1.0.conv1": [5]}, "at most"),
        ({"layer1.0.act1": [5]}, "a norm"),
    ],
)
def test_records_that_make_no_sense_are_refused(shapes: dict[str, list[int]], says: str) -> None:
    with pytest.raises(UserError, match=says):
        apply_shapes(network(), shapes)


@pytest.mark.parametrize("sizes", [[0, 16], [-1], ["8"], [True], 8.5])
def test_the_settings_refuse_what_is_no_size(sizes: object) -> None:
    with pytest.raises(UserError, match=r"model\.pruned"):
        ModelConfig(pruned={"conv1": sizes})


def test_what_cannot_be_recorded_is_said() -> None:
    full = nn.Sequential(nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4))
    small = copy.deepcopy(full)
    small[1] = nn.GroupNorm(2, 2)
    with pytest.raises(CannotRecord, match="GroupNorm"):
        changed_shapes(small, full)


def test_two_prunings_are_one() -> None:
    first = {"a.conv1": [8, 16], "a.conv2": [16, 8], "b.conv1": [4, 16]}
    assert joined_shapes(first, {"a.conv1": [4, 16], "b": []}) == {"a.conv1": [4, 16], "a.conv2": [16, 8], "b": []}
