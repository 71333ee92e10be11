"""The table of a network: multiply-adds against torch's counter and published figures, receptive fields against
gradients, and `train --summary`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from convcraft.cli import app as cli
from convcraft.config import DataConfig, ModelConfig, PreprocessConfig, RunConfig
from convcraft.models.build import OWN_MODELS, build_model, num_parameters
from convcraft.models.summary import LayerRow, features_field, summarise
from convcraft.workflows.console import make_console
from convcraft.workflows.summary import describe_field, summarise_network


def build(name: str, size: int, channels: int = 3, **settings) -> nn.Module:
    torch.manual_seed(0)
    config = ModelConfig(name=name, **settings)
    return build_model(config, num_classes=10, in_channels=channels, image_size=(size, size)).eval()


def by_name(rows: list[LayerRow]) -> dict[str, LayerRow]:
    return {row.name: row for row in rows}


def counted_by_torch(model: nn.Module, size: int, channels: int = 3) -> int:
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, channels, size, size))
    return counter.get_total_flops() // 2


# --- shapes, parameters, multiply-adds ---


def test_rows_follow_the_image() -> None:
    model = build("lenet5", 28, channels=1)
    rows = summarise(model, (28, 28), 1)
    assert [row.name for row in rows][:3] == ["c1", "act1", "s2"]
    assert by_name(rows)["s4"].output_shape == (16, 5, 5)
    assert by_name(rows)["c1"].multiply_adds == 28 * 28 * 6 * 5 * 5
    assert by_name(rows)["c3"].multiply_adds == 10 * 10 * 16 * 6 * 5 * 5
    assert by_name(rows)["output"].multiply_adds == 84 * 10
    assert rows[-1].output_shape == (10,)
    assert sum(row.parameters for row in rows) == num_parameters(model)


def test_the_model_is_left_as_it_was() -> None:
    model = build("resnet20_cifar", 16).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    summarise(model, (16, 16), 3)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())


TIMM = ["mobilenetv3_small_050", "regnetx_002", "convnext_atto", "vit_tiny_patch16_224", "ghostnet_050"]


@pytest.mark.parametrize(
    ("name", "size"),
    [*((name, 28) for name in ("lenet5", "seed_cnn", "keras_cnn", "vgg_small", "resnet20_cifar")), ("resnet50", 96)]
    + [(name, 224) for name in TIMM],
)
def test_multiply_adds_and_parameters_add_up(name: str, size: int) -> None:
    """Depthwise (mobilenet, convnext), grouped (regnet), attention (vit): torch's own counter comes to the same."""
    model = build(name, size)
    rows = summarise(model, (size, size), 3)
    assert sum(row.multiply_adds for row in rows) == counted_by_torch(model, size) > 0
    assert sum(row.parameters for row in rows) == num_parameters(model)


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "resnet18", "resnet50"])
def test_multiply_adds_are_the_published_ones(name: str) -> None:
    """torchvision states them with its weights, in units of 10^9 to three digits."""
    with torch.device("meta"):
        model = OWN_MODELS[name](1000, 3, (224, 224)).eval()
    published = torchvision.models.get_model_weights(name).DEFAULT.meta["_ops"]
    rows = summarise(model.to_empty(device="cpu"), (224, 224), 3)
    assert sum(row.multiply_adds for row in rows) / 1e9 == pytest.approx(published, abs=6e-4)


def test_grouped_convolution_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(8, 16, 3, groups=4, padding=1), nn.Conv2d(16, 16, 5, groups=16, stride=2))
    first, second = summarise(model, (12, 10), 8)
    assert first.multiply_adds == 12 * 10 * 16 * (8 // 4) * 9
    assert second.multiply_adds == 4 * 3 * 16 * 1 * 25


def test_a_shared_layer_costs_twice_but_has_its_parameters_once() -> None:
    shared = nn.Linear(6, 6)
    model = nn.Sequential(nn.Flatten(), shared, nn.ReLU(), shared)
    rows = [row for row in summarise(model, (2, 3), 1) if row.type == "Linear"]
    assert [row.parameters for row in rows] == [42, 0]
    assert [row.multiply_adds for row in rows] == [36, 36]


# --- receptive fields ---


@pytest.mark.parametrize(
    ("name", "published"),
    [("alexnet", 195), ("vgg16", 212), ("resnet18", 435), ("resnet34", 899)],
)
def test_receptive_fields_are_the_published_ones(name: str, published: int) -> None:
    """Of the last maps (Araujo et al. 2019, Distill; AlexNet, VGG-16: table 1; ResNets by its formula)."""
    with torch.device("meta"):
        model = OWN_MODELS[name](10, 3, (64, 64)).eval()
    assert features_field(summarise(model.to_empty(device="cpu"), (64, 64), 3)) == (published, published)


class _Branches(nn.Module):
    """A long and a short way with other strides and paddings that meet; then an unpadded convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, (3, 5), stride=2, padding=1)
        self.long1 = nn.Conv2d(2, 2, 3, padding=2, dilation=2)
        self.long2 = nn.Conv2d(2, 2, 3, stride=2, padding=1)
        self.pool = nn.AvgPool2d(2)
        self.last = nn.Conv2d(4, 2, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        long = self.long2(self.long1(maps))
        short = self.pool(maps)[:, :, : long.shape[2], : long.shape[3]]
        long = long[:, :, : short.shape[2], : short.shape[3]]
        padded = nn.functional.pad(torch.cat([long, short], dim=1), (0, 1, 2, 0))
        return self.last(padded[:, :, ::2, 1:])


class _Head(nn.Module):
    """Channels last, a linear layer at each position, and a way back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2)
        self.norm = nn.LayerNorm(4)
        self.mix = nn.Linear(4, 4)
        self.conv2 = nn.Conv2d(4, 4, 3, groups=2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images).permute(0, 2, 3, 1)
        maps = self.mix(self.norm(maps)).permute(0, 3, 1, 2)
        return self.conv2(maps)


def smoothed(model: nn.Module) -> nn.Module:
    """The same windows with nothing that hides a path: positive weights, averages for maxima, no activations."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                average = nn.AvgPool2d(child.kernel_size, child.stride, child.padding)
                setattr(module, name, average)
            elif isinstance(child, (nn.ReLU, nn.Tanh)):
                setattr(module, name, nn.Identity())
    for parameter in model.parameters():
        parameter.data = parameter.data.abs() + 0.01
    return model.double().eval()


def seen_by_gradient(model: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the pixels with a gradient from the middle element of the last maps."""
    images = torch.ones(1, next(model.parameters()).shape[1], *size, dtype=torch.float64, requires_grad=True)
    forward = getattr(model, "forward_features", model)
    maps = forward(images)
    maps[0, :, maps.shape[2] // 2, maps.shape[3] // 2].sum().backward()
    rows, columns = torch.nonzero(images.grad[0].sum(0), as_tuple=True)
    return int(rows.max() - rows.min() + 1), int(columns.max() - columns.min() + 1)


@pytest.mark.parametrize(
    ("name", "size"),
    [("lenet5", 40), ("seed_cnn", 40), ("keras_cnn", 96), ("vgg_small", 64), ("resnet20_cifar", 128)],
)
def test_receptive_field_is_where_gradients_come_from(name: str, size: int) -> None:
    model = smoothed(build(name, size, channels=1))
    expected = seen_by_gradient(model, (size, size))
    assert max(expected) < size  # the whole field lies within the image
    assert features_field(summarise(model.float(), (size, size), 1)) == expected


@pytest.mark.parametrize(("name", "size"), [("resnet18", 640), ("plain18", 640), ("resnet50", 640)])
def test_receptive_field_of_residual_networks_by_gradient(
    name: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few maps per layer, which changes nothing about windows."""
    monkeypatch.setattr("convcraft.models.resnet.WIDTHS", (2, 3, 4, 5))
    model = smoothed(build(name, size, channels=1))
    expected = seen_by_gradient(model, (size, size))
    assert max(expected) < size
    assert features_field(summarise(model.float(), (size, size), 1)) == expected


@pytest.mark.parametrize(("model", "size"), [(_Branches(), (64, 70)), (_Head(), (24, 31))])
def test_receptive_field_of_functional_graphs_by_gradient(model: nn.Module, size: tuple[int, int]) -> None:
    """Dilation, concatenation, slices with steps, F.pad, permutations; the linear layer's norm is per position."""
    model = smoothed(model)
    expected = seen_by_gradient(model, size)
    assert max(expected) < min(size)
    assert summarise(model.float(), size, 1)[-1].receptive_field == expected


def test_heads_see_the_whole_image_or_what_unpadded_layers_left_of_it() -> None:
    rows = by_name(summarise(build("resnet18", 32), (32, 32), 3))
    assert not rows["layer4.1.act2"].whole_image
    assert rows["avgpool"].whole_image
    assert rows["fc"].receptive_field == (32, 32)
    # 28 - 26 - 13 - 11 - 5: pooling drops the eleventh row, which alone sees the last pixels
    rows = by_name(summarise(build("seed_cnn", 28, channels=1), (28, 28), 1))
    assert not rows["fc2"].whole_image
    assert rows["fc2"].receptive_field == (26, 26)
    model = build("seed_cnn", 28, channels=1).double()
    images = torch.rand(32, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    model(images).sum().backward()
    pixels = images.grad.abs().sum((0, 1)) > 0
    assert pixels[:26, :26].all()
    assert not pixels[26:].any()
    assert not pixels[:, 26:].any()


def test_a_gate_over_the_whole_image_makes_everything_behind_it_see_the_whole_image() -> None:
    rows = summarise(build("mobilenetv3_small_050", 64), (64, 64), 3)
    first_gate = next(number for number, row in enumerate(rows) if ".se." in row.name)
    assert not any(row.whole_image for row in rows[:first_gate])
    assert all(row.whole_image for row in rows[first_gate:])


def test_attention_gives_no_receptive_field() -> None:
    rows = by_name(summarise(build("vit_tiny_patch16_224", 224), (224, 224), 3))
    assert rows["patch_embed.proj"].receptive_field == (16, 16)
    assert rows["blocks.0.attn.proj"].receptive_field is None
    assert describe_field(rows["head"]) == "-"


# --- the command ---


def test_settings_that_name_size_and_channels_need_no_image(tmp_path: Path) -> None:
    for label in ("cat", "dog", "owl"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.png").write_bytes(b"not an image")
    config = RunConfig(
        data=DataConfig(source=str(tmp_path)),
        preprocess=PreprocessConfig(image_size=(40, 48), channels=3),
        model=ModelConfig(name="keras_cnn"),
    )
    summary = summarise_network(config, console=make_console(quiet=True))
    assert (summary.image_size, summary.channels, summary.num_classes) == ((40, 48), 3, 3)
    assert summary.layers[0].output_shape == (32, 40, 48)


@pytest.mark.parametrize(
    ("sizes", "colour", "expected"),
    [
        ([(20, 24)] * 4, False, ((20, 24), 1)),
        ([(20, 24)] * 4, True, ((20, 24), 3)),
        ([(20, 24), (30, 24)], False, ((224, 224), 1)),
    ],
)
def test_size_and_channels_are_those_of_training(tmp_path: Path, sizes, colour: bool, expected) -> None:
    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number, size in enumerate(sizes):
            shape = (*size, 3) if colour else size
            pixels = random.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    config = RunConfig(data=DataConfig(source=str(tmp_path)), model=ModelConfig(name="resnet20_cifar"))
    summary = summarise_network(config, console=make_console(quiet=True))
    assert (summary.image_size, summary.channels) == expected


def test_train_summary_prints_a_table_and_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ending:
        cli.main(["train", "digits", "--model", "lenet5", "--summary", "--json", "--out", "run"])
    assert ending.value.code == 0
    assert list(tmp_path.iterdir()) == []
    *table, last = capsys.readouterr().out.strip().splitlines()
    text = "\n".join(table)
    for word in ("multiply-adds", "receptive field", "c1", "6 x 8 x 8", "whole image", "total"):
        assert word in text
    values = json.loads(last)
    assert (values["network"], values["image_size"], values["channels"]) == ("lenet5", [8, 8], 1)
    assert values["layers"][0]["name"] == "c1"
    assert values["layers"][0]["receptive_field"] == [5, 5]
    assert values["parameters"] == sum(layer["parameters"] for layer in values["layers"])
    assert values["multiply_adds"] == sum(layer["multiply_adds"] for layer in values["layers"])
    assert f"{values['parameters']:,}" in text
