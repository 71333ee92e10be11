"""LayerHead and tap points: the right columns, from ours and timm's networks, and nothing else changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convcraft.config import ModelConfig
from convcraft.errors import UserError
from convcraft.models.build import build_model
from convcraft.models.layer_head import LayerHead, LayerTaps, pool
from convcraft.models.tap_points import MOST_TAPS, tap_points

SIZE = (32, 32)


def network(name: str = "resnet20_cifar", **args: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelConfig(name=name, args=args), num_classes=5, in_channels=3, image_size=SIZE).eval()


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def head(plain: nn.Module, layers: tuple[str, ...] = ("layer1.0", "layer2.2"), selected: Any = None) -> LayerHead:
    chosen = torch.tensor([3, 0, 20, 111] if selected is None else selected)
    made = LayerHead(copy.deepcopy(plain), layers, len(chosen), 5).eval()
    made.selected.copy_(chosen)
    return made


def columns_by_hand(plain: nn.Module, batch: Tensor) -> Tensor:
    """The same three layers, read without hooks."""
    maps = plain.act1(plain.bn1(plain.conv1(batch)))
    first = plain.layer1[0](maps)
    second = plain.layer2(plain.layer1(maps))
    last = plain.layer3(second)
    return torch.cat([maps.mean((2, 3)) for maps in (first, second, last)], dim=1)


def test_columns_are_those_of_the_layers_in_order() -> None:
    plain, batch = network(), images()
    made = head(plain)
    with torch.no_grad():
        expected = columns_by_hand(plain, batch)
        assert expected.shape == (3, 16 + 32 + 64)
        torch.testing.assert_close(made.columns(batch), expected)
        torch.testing.assert_close(made.forward_features(batch), expected[:, [3, 0, 20, 111]])
        logits = made.classifier(expected[:, [3, 0, 20, 111]])
        torch.testing.assert_close(made(batch), logits)


def test_no_tap_and_everything_selected_is_the_network_itself() -> None:
    plain, batch = network(), images()
    made = head(plain, (), list(range(64)))
    made.classifier.load_state_dict(plain.get_classifier().state_dict())
    with torch.no_grad():
        torch.testing.assert_close(made(batch), plain(batch))


def test_selection_is_part_of_the_state_and_survives_loading() -> None:
    plain = network()
    made, other = head(plain), head(plain, selected=[0, 1, 2, 3])
    assert made.state_dict()["selected"].dtype == torch.int64
    with torch.no_grad():
        assert not torch.equal(made(images()), other(images()))
        other.load_state_dict(made.state_dict())
        assert torch.equal(made(images()), other(images()))
    assert not any("linear" in name for name in made.state_dict())  # the old classifier is gone


def test_a_copy_reads_its_own_layers() -> None:
    made = head(network())
    twin = copy.deepcopy(made)
    with torch.no_grad():
        twin.network.layer1[0].bn2.weight.mul_(3)
        changed, unchanged = twin(images()), made(images())
    with torch.no_grad():
        assert not torch.allclose(changed, unchanged)
        assert torch.equal(made(images()), unchanged)


def test_an_interrupted_run_leaves_nothing_behind() -> None:
    made = head(network())
    with pytest.raises(RuntimeError), torch.no_grad():
        made.network(torch.zeros(1, 3, *SIZE, dtype=torch.int64))
    made.network(images())  # outputs that nobody took
    with torch.no_grad():
        assert made(images(2)).shape == (2, 5)


class Stops(nn.Module):
    """Fails behind the tapped layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

    def get_classifier(self) -> nn.Linear:
        return self.fc

    def forward(self, batch: Tensor) -> Tensor:
        self.conv(batch)
        raise RuntimeError("stopped")


def test_a_pass_that_stops_half_way_keeps_no_maps() -> None:
    made = LayerHead(Stops(), ("conv",), 2, 2)
    with pytest.raises(RuntimeError, match="stopped"):
        made(images())
    assert [tap.outputs for tap in made.taps._taps] == [[]]


@pytest.mark.parametrize("layers", [("layer9",), ("layer1.0", "layer1.0"), ("fc",)])
def test_a_bad_layer_leaves_the_network_whole(layers: tuple[str, ...]) -> None:
    plain = network().eval()
    with torch.no_grad():
        before = plain(images())
        with pytest.raises(UserError, match="tapped layer"):
            LayerHead(plain, layers, 4, 5)
        assert torch.equal(plain(images()), before)
    assert not any(module._forward_hooks for module in plain.modules())


def test_gradients_reach_the_tapped_layers() -> None:
    made = head(network(), selected=[0, 1, 2, 3])  # of layer1.0 alone
    made(images()).sum().backward()
    assert made.network.layer1[0].conv1.weight.grad.abs().sum() > 0
    assert made.network.layer2[0].conv1.weight.grad is None or not made.network.layer2[0].conv1.weight.grad.any()


def test_reset_classifier_keeps_the_selection() -> None:
    made = head(network())
    made.reset_classifier(9)
    assert made.num_classes == 9
    assert made.get_classifier().out_features == 9
    assert made.selected.tolist() == [3, 0, 20, 111]
    assert made(images()).shape == (3, 9)


def test_it_can_be_exported() -> None:
    made, batch = head(network()), images()
    with torch.no_grad():
        expected = made(batch)
        exported = torch.export.export(made, (images(2),), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
        torch.testing.assert_close(exported.module()(batch), expected)


def test_build_model_makes_it_from_settings() -> None:
    config = ModelConfig(name="resnet20_cifar", tapped_layers=("layer1.0",), num_tapped_features=7)
    made = build_model(config, num_classes=5, in_channels=3, image_size=SIZE)
    assert isinstance(made, LayerHead)
    assert made.get_classifier().in_features == 7


@pytest.mark.parametrize(
    "name", ["resnet20_cifar", "lenet5", "vgg_small", "resnet9", "timm/resnet18", "mobilenetv2_100"]
)
def test_tap_points_run_once_and_end_blocks(name: str) -> None:
    plain = network(name)
    layers = tap_points(plain)
    assert 4 <= len(layers) <= MOST_TAPS
    taps = LayerTaps(plain, layers)
    with torch.no_grad():
        plain(images())
    for column in taps.take():
        assert column.shape[0] == 3
        assert column.dim() == 2


def test_tap_points_of_known_networks() -> None:
    assert tap_points(network("lenet5")) == ("act1", "act3", "act5", "act6")
    assert tap_points(network())[:3] == ("act1", "layer1.0", "layer1.1")
    deep = tap_points(network("resnet56_cifar"))
    assert len(deep) == MOST_TAPS
    assert deep[0] == "act1"
    assert deep[-1] == "layer3.8"
    mobile = tap_points(network("mobilenetv2_100"))
    assert mobile[0] == "bn1"
    assert mobile[-2:] == ("blocks.6.0", "bn2")
    assert "stages.0.blocks.1" in tap_points(network("convnext_atto"))


@pytest.mark.parametrize(
    ("shape", "channels_last", "expected"),
    [((2, 7, 3, 4), False, 7), ((2, 3, 4, 7), True, 7), ((2, 9, 7), False, 7), ((2, 7), False, 7)],
)
def test_pool_knows_the_channel_axis(shape: tuple[int, ...], channels_last: bool, expected: int) -> None:
    output = torch.randn(shape)
    pooled = pool(output, "layer", channels_last=channels_last)
    assert pooled.shape == (2, expected)
    torch.testing.assert_close(pooled.sum() / (2 * expected), output.mean())


def test_pool_sums_low_precision_in_float32() -> None:
    output = torch.full((1, 1, 64, 64), 1.0078125, dtype=torch.bfloat16)
    assert pool(output, "layer").dtype == torch.float32
    assert pool(output, "layer").item() == 1.0078125


class Twice(nn.Module):
    """Runs one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.unused = nn.Conv2d(3, 3, 3)
        self.fc = nn.Linear(3, 2)

    def get_classifier(self) -> nn.Linear:
        return self.fc

    def forward(self, batch: Tensor) -> Tensor:
        return self.fc(self.conv(self.conv(batch)).mean((2, 3)))


@pytest.mark.parametrize(("layer", "times"), [("conv", 2), ("unused", 0)])
def test_layers_that_do_not_run_once_are_refused(layer: str, times: int) -> None:
    with pytest.raises(UserError, match=f"{layer} ran {times} times"):
        LayerHead(Twice(), (layer,), 2, 2)(images())


def test_bad_layers_and_networks_are_refused() -> None:
    with pytest.raises(UserError, match=r"layer9.*expected a module of ResNetCifar"):
        LayerTaps(network(), ("layer9",))
    with pytest.raises(UserError, match="every layer once"):
        LayerTaps(network(), ("layer1.0", "layer1.0"))
    with pytest.raises(UserError, match="has no classifier"):
        LayerHead(nn.Sequential(nn.Linear(3, 2)), (), 3, 2)
    with pytest.raises(UserError, match=r"layer returns \[2, 3\]"):
        pool(torch.zeros(2, 3, dtype=torch.int64), "layer")
