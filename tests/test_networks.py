"""The classic networks against torchvision's, Keras's arithmetic and the papers' figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from convcraft.models.build import OWN_MODELS, num_parameters
from convcraft.models.keras_cnn import KERAS_ORDER, KerasCNN
from convcraft.models.network import Network
from convcraft.models.resnet import BasicBlock, ResNet, plain18, plain34, resnet18, resnet34, resnet50

VGGS = ["vgg11", "vgg13", "vgg16", "vgg19"]
SAME_AS_TORCHVISION = ["alexnet", *VGGS, *(f"{name}_bn" for name in VGGS)]
SAME_AS_TORCHVISION += ["resnet18", "resnet34", "resnet50", "resnet101"]

PUBLISHED_PARAMETERS = {  # 3 channels, 1000 classes: torchvision's table of weights
    "alexnet": 61_100_840,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg11_bn": 132_868_840,
    "vgg13_bn": 133_053_736,
    "vgg16_bn": 138_365_992,
    "vgg19_bn": 143_678_248,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
}


def both(name: str, size: tuple[int, int] = (224, 224)) -> tuple[Network, nn.Module]:
    """Ours and torchvision's, without the time for start values: every tensor is uninitialised memory."""
    with torch.device("meta"):
        ours = OWN_MODELS[name](1000, 3, size)
        theirs = getattr(torchvision.models, name)(weights=None)
    return ours.to_empty(device="cpu"), theirs.to_empty(device="cpu")


def random_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Values of a size that keeps signals alive through 101 layers; variances positive."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            state[name] = torch.zeros_like(tensor)
        elif name.endswith("running_var"):
            state[name] = torch.rand(tensor.shape, generator=generator) + 0.5
        elif tensor.dim() > 1:
            noise = torch.empty(tensor.shape).uniform_(-1, 1, generator=generator)
            state[name] = noise * (6 / tensor[0].numel()) ** 0.5
        else:
            state[name] = torch.rand(tensor.shape, generator=generator) * 0.2 + (0.9 if "weight" in name else -0.1)
    return state


@pytest.mark.parametrize("name", SAME_AS_TORCHVISION)
def test_names_and_shapes_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = OWN_MODELS[name](1000, 3, (224, 224)), getattr(torchvision.models, name)(weights=None)
    table = [(key, tuple(tensor.shape)) for key, tensor in ours.state_dict().items()]
    assert table == [(key, tuple(tensor.shape)) for key, tensor in theirs.state_dict().items()]
    assert num_parameters(ours) == PUBLISHED_PARAMETERS[name]


SLOW = {"vgg13", "vgg16", "vgg11_bn", "vgg13_bn", "vgg19_bn"}  # depth and norm are covered by vgg11, vgg19, vgg16_bn


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in SAME_AS_TORCHVISION]
)
def test_logits_are_torchvisions(name: str) -> None:
    ours, theirs = both(name)
    state = random_state(theirs)
    ours.load_state_dict(state)
    theirs.load_state_dict(state)
    del state
    for size in ((224, 224), (96, 128)):
        images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected, logits = theirs.eval()(images), ours.eval()(images)
        assert expected.std() > 1e-3
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_training_pass_and_statistics_are_torchvisions(name: str) -> None:
    """Batch statistics, gradients and running statistics of one step."""
    ours, theirs = both(name)
    state = random_state(theirs)
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for model in (ours, theirs):
        model.load_state_dict(state)
        model.train()(images).square().mean().backward()
    expected = dict(theirs.named_parameters())
    for key, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key].grad, rtol=1e-3, atol=1e-4)
    for key, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, theirs.get_buffer(key))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_timms_resnets_have_the_same_names(name: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        ours, theirs = OWN_MODELS[name](1000, 3, (224, 224)).state_dict(), timm.create_model(name).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


# --- keras_cnn ---


def _relu(values: np.ndarray) -> np.ndarray:
    return np.maximum(values, 0)


def _keras_conv_same(maps: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Conv2D(padding="same") of 3x3: maps [H, W, C], kernel [3, 3, C, C']."""
    padded = np.pad(maps, ((1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))  # [H, W, C, 3, 3]
    return np.einsum("hwcij,ijco->hwo", windows, kernel) + bias


def _keras_pool(maps: np.ndarray) -> np.ndarray:
    height, width = maps.shape[0] // 2, maps.shape[1] // 2
    return maps[: 2 * height, : 2 * width].reshape(height, 2, width, 2, -1).max(axis=(1, 3))


@pytest.mark.parametrize("size", [(28, 28), (33, 50)])
def test_keras_cnn_is_the_keras_network(size: tuple[int, int]) -> None:
    """Against the layers as Keras documents them, with kernels in Keras's layout (33x50: the flatten order counts)."""
    random = np.random.default_rng(0)
    model = KerasCNN(num_classes=10, in_channels=1, image_size=size).double().eval()
    kernels, state = [], {}
    for name in KERAS_ORDER:
        shape = model.get_submodule(name).weight.shape
        keras_shape = (shape[2], shape[3], shape[1], shape[0]) if len(shape) == 4 else (shape[1], shape[0])
        kernel = random.normal(size=keras_shape) / np.sqrt(np.prod(keras_shape[:-1]))
        bias = random.normal(size=shape[0]) * 0.1
        kernels.append((kernel, bias))
        axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
        state |= {f"{name}.weight": torch.tensor(kernel.transpose(axes)), f"{name}.bias": torch.tensor(bias)}
    model.load_state_dict(state)

    image = random.normal(size=(*size, 1))
    maps = image
    for kernel, bias in kernels[:4]:
        maps = _keras_pool(_relu(_keras_conv_same(maps, kernel, bias)))
    units = _relu(maps.reshape(-1) @ kernels[4][0] + kernels[4][1])
    expected = units @ kernels[5][0] + kernels[5][1]

    with torch.no_grad():
        logits = model(torch.tensor(image.transpose(2, 0, 1))[None])[0].numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-10, atol=1e-12)


def test_keras_cnn_has_the_articles_layers() -> None:
    model = KerasCNN()
    # 1*9*32 + 32, 32*9*64 + 64, twice 64*9*64 + 64, 64*64 + 64 after four poolings of 28x28, 64*10 + 10
    assert num_parameters(model) == 320 + 18_496 + 2 * 36_928 + 4_160 + 650
    assert model.forward_features(torch.zeros(1, 1, 28, 28)).shape == (1, 64, 1, 1)


# --- ResNet's variants ---


@pytest.mark.parametrize(
    ("stem", "size", "side"), [("imagenet", 224, 7), ("imagenet", 32, 1), ("small", 64, 4), ("cifar", 32, 4)]
)
def test_stems_decide_the_last_maps(stem: str, size: int, side: int) -> None:
    model = resnet18(10, 3, (size, size), stem=stem).eval()
    with torch.no_grad():
        assert model.forward_features(torch.zeros(1, 3, size, size)).shape == (1, 512, side, side)


@pytest.mark.parametrize(("plain", "residual"), [(plain18, resnet18), (plain34, resnet34)])
def test_plain_twin_is_the_residual_network_without_its_additions(plain, residual) -> None:
    """Same layers but for the three 1x1 convolutions of shortcuts, and the same function but for the additions."""
    twin, model = plain(10, 3, (32, 32)), residual(10, 3, (32, 32))
    shortcuts = {key for key in model.state_dict() if "downsample" in key}
    assert model.state_dict().keys() - twin.state_dict().keys() == shortcuts
    assert num_parameters(model) - num_parameters(twin) == sum(
        before * after + 2 * after for before, after in ((64, 128), (128, 256), (256, 512))
    )
    twin.load_state_dict({key: value for key, value in model.state_dict().items() if key not in shortcuts})
    maps = torch.randn(2, 64, 8, 8)
    first, second = twin.eval().layer1[0], model.eval().layer1[0]
    assert torch.equal(second(maps), torch.relu(_before_last_relu(first, maps) + maps))
    assert torch.equal(first(maps), torch.relu(_before_last_relu(first, maps)))


def _before_last_relu(block: BasicBlock, maps: torch.Tensor) -> torch.Tensor:
    return block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(maps)))))


@pytest.mark.parametrize("build", [resnet18, resnet50])
def test_zero_init_residual_starts_blocks_as_the_identity(build) -> None:
    model: ResNet = build(10, 3, (32, 32), zero_init_residual=True)
    block = model.layer1[1]
    maps = torch.rand(2, block.conv1.in_channels, 8, 8)  # not negative: the last ReLU changes nothing
    assert torch.equal(block(maps), maps)
    ordinary = build(10, 3, (32, 32)).layer1[1]
    assert not torch.equal(ordinary(maps), maps)
