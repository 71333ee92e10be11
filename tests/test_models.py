"""Every network of ours: shapes, gradients, learning, published sizes; timm's by name; errors that help."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convcraft.config import ModelConfig
from convcraft.errors import UserError
from convcraft.models.build import OWN_MODELS, build_model, num_parameters, summarise
from convcraft.models.lenet import LeNet5
from convcraft.models.network import initialise_he, initialise_xavier
from convcraft.models.resnet_cifar import BasicBlock

SHAPES = [(1, (8, 8)), (1, (28, 28)), (3, (32, 32)), (3, (64, 48))]


def build(
    name: str, *, classes: int = 10, channels: int = 1, size: tuple[int, int] = (28, 28), **settings
) -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelConfig(name=name, **settings), num_classes=classes, in_channels=channels, image_size=size)


@pytest.mark.parametrize(("channels", "size"), SHAPES)
@pytest.mark.parametrize("name", OWN_MODELS)
def test_forward_and_backward(name: str, channels: int, size: tuple[int, int]) -> None:
    model = build(name, classes=7, channels=channels, size=size, dropout=0.1)
    logits = model(torch.randn(4, channels, *size))
    assert logits.shape == (4, 7)
    assert logits.dtype == torch.float32
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", OWN_MODELS)
def test_overfits_eight_images(name: str) -> None:
    model = build(name, classes=4, channels=3, size=(16, 16))
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 4
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        loss = F.cross_entropy(model(images), labels)
        if loss < 0.05:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pytest.fail(f"loss {loss:.3f} after 60 steps")


@pytest.mark.parametrize(
    ("name", "channels", "size", "published"),
    [
        ("lenet5", 1, (28, 28), 61_706),
        ("lenet5", 1, (32, 32), 61_706),
        ("seed_cnn", 1, (28, 28), 225_034),  # 320 + 18,496 + (64*5*5*128 + 128) + 1,290, as the article would have it
        ("resnet20_cifar", 3, (32, 32), 269_722),
        ("resnet32_cifar", 3, (32, 32), 464_154),
        ("resnet44_cifar", 3, (32, 32), 658_586),
        ("resnet56_cifar", 3, (32, 32), 853_018),
    ],
)
def test_published_parameter_counts(name: str, channels: int, size: tuple[int, int], published: int) -> None:
    assert num_parameters(build(name, channels=channels, size=size)) == published


@pytest.mark.parametrize("name", OWN_MODELS)
def test_eval_output_does_not_depend_on_the_other_images(name: str) -> None:
    model = build(name, dropout=0.5).eval()
    images = torch.randn(6, 1, 28, 28)
    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OWN_MODELS)
def test_seams(name: str) -> None:
    model = build(name).eval()
    images = torch.randn(2, 1, 28, 28)
    features = model.forward_features(images)
    assert features.dim() == 4
    assert torch.equal(model.forward_head(features), model(images))
    body = {key: value.clone() for key, value in model.state_dict().items()}
    model.reset_classifier(3)
    assert model(images).shape == (2, 3)
    assert model.get_classifier().out_features == model.num_classes == 3
    kept = [key for key, value in model.state_dict().items() if torch.equal(value, body[key])]
    assert len(body) - len(kept) == 2  # weight and bias of the classifier


@pytest.mark.parametrize("name", ["lenet5", "seed_cnn", "vgg_small", "resnet20_cifar"])
def test_dropout_works_in_training_only(name: str) -> None:
    images = torch.randn(1, 1, 28, 28).expand(2, -1, -1, -1)
    model = build(name, dropout=0.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert not torch.equal(*model(images))
    model.eval()
    torch.testing.assert_close(*model(images))


@pytest.mark.parametrize("name", OWN_MODELS)
def test_same_seed_same_weights(name: str) -> None:
    first, second = build(name).state_dict(), build(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_checking_the_size_leaves_no_trace() -> None:
    """The probe that build_model sends moves neither the random state nor batch norm's statistics nor the mode."""
    torch.manual_seed(3)
    by_hand = OWN_MODELS["vgg_small"](10, 1, (28, 28), 0.5)
    state_by_hand = torch.get_rng_state()
    torch.manual_seed(3)
    config = ModelConfig(name="vgg_small", dropout=0.5)
    model = build_model(config, num_classes=10, in_channels=1, image_size=(28, 28))
    assert torch.equal(torch.get_rng_state(), state_by_hand)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), by_hand.state_dict().values(), strict=True)
    )
    assert all(module.training for module in model.modules())


def test_start_values_have_the_variance_of_their_formulas() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 128, kernel_size=3)
    initialise_he(layer)
    assert layer.weight.var().item() == pytest.approx(2 / (64 * 9), rel=0.05)
    initialise_xavier(layer)
    assert layer.weight.var().item() == pytest.approx(2 / (64 * 9 + 128 * 9), rel=0.05)


def test_option_a_shortcut() -> None:
    """Every second pixel; four zero maps before and four behind the eight old ones."""
    maps = torch.arange(8 * 5 * 7, dtype=torch.float32).reshape(1, 8, 5, 7)
    short = BasicBlock(8, 16, stride=2).shortcut(maps)
    assert short.shape == (1, 16, 3, 4)
    assert short[:, :4].abs().sum() == short[:, 12:].abs().sum() == 0
    for channel in range(8):
        for row in range(3):
            for column in range(4):
                assert short[0, 4 + channel, row, column] == maps[0, channel, 2 * row, 2 * column]


def test_lenet_padding_gives_28_the_frame_of_32() -> None:
    """A 28x28 digit and the same digit in the paper's 32x32 frame give the same maps."""
    small, large = LeNet5(image_size=(28, 28)), LeNet5(image_size=(32, 32))
    large.load_state_dict(small.state_dict())
    digit = torch.rand(1, 1, 28, 28)
    torch.testing.assert_close(small(digit), large(F.pad(digit, (2, 2, 2, 2))))


def test_settings_of_a_network_come_from_args() -> None:
    assert isinstance(build("lenet5", args={"activation": "relu"}).act1, nn.ReLU)
    model = build("vgg_small", size=(8, 8), args={"widths": [4, 8], "convs_per_stage": 1, "hidden": 5})
    # 1*9*4 + 2*4, 4*9*8 + 2*8, 8*4*4*5 + 2*5, 5*10 + 10
    assert num_parameters(model) == 44 + 304 + 650 + 60
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_summary_follows_the_image() -> None:
    model = build("lenet5")
    rows = summarise(model, (28, 28), 1)
    assert [row.name for row in rows][:3] == ["c1", "act1", "s2"]
    assert {row.name: row.output_shape for row in rows}["s4"] == (16, 5, 5)
    assert rows[-1].output_shape == (10,)
    assert sum(row.parameters for row in rows) == num_parameters(model)
    assert not any(module._forward_hooks for module in model.modules())


def test_timm_network_with_one_channel() -> None:
    model = build("resnet18", classes=5, size=(32, 32), dropout=0.2)
    assert model.conv1.in_channels == 1
    assert model.drop_rate == 0.2
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 5)


def test_timm_network_with_a_position_table_gets_the_image_size() -> None:
    model = build("vit_tiny_patch16_224", channels=3, size=(48, 32))
    assert model.patch_embed.img_size == (48, 32)


@pytest.mark.parametrize(
    ("name", "expected"), [("resnet18x", "resnet18"), ("lenet", "lenet5"), ("hf-hub:someone/net", "unknown network")]
)
def test_unknown_name(name: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        build(name)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("lenet5", {"activation": "gelu"}),
        ("lenet5", {"activation": ["relu"]}),
        ("lenet5", {"depth": 3}),
        ("resnet20_cifar", {"depth": 32}),
        ("vgg_small", {"widths": 5}),
        ("vgg_small", {"widths": [8, 0]}),
        ("vgg_small", {"hidden": -1}),
        ("resnet18", {"nonsense": 1}),
        ("resnet18", {"checkpoint_path": "weights.pth"}),
        ("resnet18", {"pretrained": True}),
        ("resnet18", {"pretrained_cfg": {"file": "weights.pth"}}),
        ("resnet18", {"features_only": True}),
        ("resnet18", {"num_classes": 3}),
    ],
)
def test_arguments_that_do_not_fit(name: str, args: dict) -> None:
    with pytest.raises(UserError, match=next(iter(args))):
        build(name, args=args)


@pytest.mark.parametrize(
    ("name", "size", "smallest"), [("lenet5", (3, 3), 4), ("vgg_small", (28, 2), 4), ("inception_v3", (28, 28), 75)]
)
def test_too_small_images_name_the_smallest_size(name: str, size: tuple[int, int], smallest: int) -> None:
    with pytest.raises(UserError, match=f"at least {smallest}x{smallest}"):
        build(name, size=size)
    assert build(name, size=(smallest, smallest)).eval()(torch.zeros(1, 1, smallest, smallest)).shape == (1, 10)
