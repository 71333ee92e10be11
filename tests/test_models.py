"""Every network of ours: shapes, gradients, learning, published sizes; timm's by name; errors that help."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convcraft.config import ModelConfig
from convcraft.errors import UserError
from convcraft.models.build import OWN_MODELS, build_model, num_parameters
from convcraft.models.lenet import LeNet5
from convcraft.models.resnet_cifar import BasicBlock

with torch.device("meta"):
    SMALLEST = {name: make(10, 3, (256, 256)).smallest_size for name, make in OWN_MODELS.items()}
SMALLEST["vgg_small"] = 4  # with its usual three stages
SLOW_TO_LEARN = {"vgg13", "vgg16", "vgg19", "vgg13_bn", "vgg16_bn", "vgg19_bn", "resnet34", "resnet101", "plain34"}


@pytest.fixture(autouse=True)
def _narrow_linear_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """AlexNet and VGG with 64 hidden units instead of 4096: minutes less, and their logic is the same."""
    for module in ("alexnet", "vgg"):
        monkeypatch.setattr(f"convcraft.models.{module}.UNITS", 64)


def side(name: str, wanted: int = 28) -> int:
    """A small image's side in pixels that the network takes."""
    return max(wanted, SMALLEST[name])


def shapes() -> list[tuple[str, int, tuple[int, int]]]:
    """(network, channels, image size): its smallest, 28x28 or so, and a larger oblong one."""
    found = []
    for name, smallest in SMALLEST.items():
        found += [(name, 1, (smallest, smallest)), (name, 1, (side(name), side(name)))]
        found.append((name, 3, (max(48, smallest + 17), max(32, smallest))))
    return found


def build(
    name: str, *, classes: int = 10, channels: int = 1, size: tuple[int, int] = (28, 28), **settings
) -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelConfig(name=name, **settings), num_classes=classes, in_channels=channels, image_size=size)


@pytest.mark.parametrize(("name", "channels", "size"), shapes())
def test_forward_and_backward(name: str, channels: int, size: tuple[int, int]) -> None:
    model = build(name, classes=7, channels=channels, size=size, dropout=0.1)
    logits = model(torch.randn(4, channels, *size))
    assert logits.shape == (4, 7)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name
            assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW_TO_LEARN else ()) for name in OWN_MODELS]
)
def test_overfits_eight_images(name: str) -> None:
    """The loss comes close to zero, and all eight are named rightly."""
    pixels = side(name, 16)
    model = build(name, classes=4, channels=3, size=(pixels, pixels))
    images, labels = torch.randn(8, 3, pixels, pixels), torch.arange(8) % 4
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    deep_without_norm = name in {"vgg11", "vgg13", "vgg16", "vgg19"}
    rate = 1e-4 if deep_without_norm else 5e-3 if num_parameters(model) < 1e6 else 3e-4
    optimizer = torch.optim.Adam(learned, lr=rate)
    for _ in range(100):
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        if loss < 0.05:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert torch.equal(logits.argmax(dim=1), labels)


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
    model = build(name, size=(side(name), side(name)), dropout=0.5).eval()
    images = torch.randn(6, 1, side(name), side(name))
    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", OWN_MODELS)
def test_seams(name: str) -> None:
    model = build(name, size=(side(name), side(name))).eval()
    images = torch.randn(2, 1, side(name), side(name))
    features = model.forward_features(images)
    assert features.dim() == 4
    assert torch.equal(model.forward_head(features), model(images))
    body = {key: value.clone() for key, value in model.state_dict().items()}
    model.reset_classifier(3)
    assert model(images).shape == (2, 3)
    assert model.get_classifier().out_features == model.num_classes == 3
    kept = [key for key, value in model.state_dict().items() if torch.equal(value, body[key])]
    assert len(body) - len(kept) == 2  # weight and bias of the classifier


@pytest.mark.parametrize("name", OWN_MODELS)
def test_dropout_works_in_training_only(name: str) -> None:
    images = torch.randn(1, 1, side(name), side(name)).expand(2, -1, -1, -1)
    model = build(name, size=(side(name), side(name)), dropout=0.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert not torch.equal(*model(images))
    model.eval()
    torch.testing.assert_close(*model(images))


@pytest.mark.parametrize("name", OWN_MODELS)
def test_same_seed_same_weights(name: str) -> None:
    size = (side(name), side(name))
    first, second = build(name, size=size).state_dict(), build(name, size=size).state_dict()
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


def test_timm_network_with_one_channel() -> None:
    model = build("timm/resnet18", classes=5, size=(32, 32), dropout=0.2)
    assert type(model).__module__.startswith("timm.")
    assert model.conv1.in_channels == 1
    assert model.drop_rate == 0.2
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 5)


def test_our_network_wins_where_timm_has_the_name_too() -> None:
    ours, timms = build("resnet18", size=(32, 32)), build("timm/resnet18", size=(32, 32))
    assert type(ours).__module__ == "convcraft.models.resnet"
    ours.load_state_dict(timms.state_dict())
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), timms.eval()(images))


def test_timm_network_with_a_position_table_gets_the_image_size() -> None:
    model = build("vit_tiny_patch16_224", channels=3, size=(48, 32))
    assert model.patch_embed.img_size == (48, 32)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18x", "resnet18"),
        ("lenet", "lenet5"),
        ("hf-hub:someone/net", "unknown network"),
        ("timm/resnet_18", "resnet18"),
        ("timm/hf-hub:a/b", "unknown network"),
    ],
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
        ("resnet18", {"depth": 34}),
        ("resnet18", {"stem": "large"}),
        ("resnet18", {"zero_init_residual": 1}),
        ("plain18", {"zero_init_residual": True}),
        ("vgg16", {"batch_norm": True}),
        ("timm/resnet18", {"nonsense": 1}),
        ("timm/resnet18", {"checkpoint_path": "weights.pth"}),
        ("timm/resnet18", {"pretrained": True}),
        ("timm/resnet18", {"pretrained_cfg": {"file": "weights.pth"}}),
        ("timm/resnet18", {"features_only": True}),
        ("timm/resnet18", {"num_classes": 3}),
    ],
)
def test_arguments_that_do_not_fit(name: str, args: dict) -> None:
    with pytest.raises(UserError, match=next(iter(args))):
        build(name, args=args)


@pytest.mark.parametrize(
    ("name", "size", "smallest"),
    [
        ("lenet5", (3, 3), 4),
        ("vgg_small", (28, 2), 4),
        ("inception_v3", (28, 28), 75),
        ("keras_cnn", (15, 28), 16),
        ("alexnet", (224, 62), 63),
        ("vgg16", (31, 32), 32),
    ],
)
def test_too_small_images_name_the_smallest_size(name: str, size: tuple[int, int], smallest: int) -> None:
    with pytest.raises(UserError, match=f"at least {smallest}x{smallest}"):
        build(name, size=size)
    assert build(name, size=(smallest, smallest)).eval()(torch.zeros(1, 1, smallest, smallest)).shape == (1, 10)
