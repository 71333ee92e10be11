"""The heat maps: small cases by hand, the same by other tools, and a network that is left as it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from convcraft.config import ModelConfig
from convcraft.errors import UserError
from convcraft.explain.catalogue import METHODS, find_method
from convcraft.explain.grad_cam import grad_cam
from convcraft.explain.grad_cam_plus_plus import grad_cam_plus_plus
from convcraft.explain.guided_backprop import guided_backprop, guided_gradients
from convcraft.explain.heat_maps import resized, scaled, standing
from convcraft.explain.integrated_gradients import attributions, integrated_gradients
from convcraft.explain.layer_cam import layer_cam
from convcraft.explain.occlusion import occlusion, score_falls
from convcraft.explain.score_cam import score_cam
from convcraft.explain.smooth_grad import smooth_grad
from convcraft.explain.target_layer import maps_and_gradients, target_layer
from convcraft.models.build import build_model

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = tuple(METHODS)
LAYER_NAMES = tuple(name for name in NAMES if METHODS[name].uses_layer)
PIXEL_NAMES = tuple(name for name in NAMES if not METHODS[name].uses_layer)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small networks are quickest on one thread, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Square(nn.Module):
    """Maps x and -x of a 2x2 image into two classes, linearly."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(1, 2, 1, bias=False)
        self.head = nn.Linear(8, 2, bias=False)
        with torch.no_grad():
            self.maps.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
            self.head.weight.copy_(torch.tensor([[1.0, 2, 3, 6, 0, 0, 0, -4], [0, 0, 0, -4, 1, 1, 1, 1]]))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.maps(images).flatten(1))


SQUARE_IMAGE = torch.tensor([[[[1.0, 2.0], [-3.0, 4.0]]]])
SQUARE_WEIGHTS = ([[1.0, 2.0], [3.0, 10.0]], [[-1.0, -1.0], [-1.0, -5.0]])  # logit k by the pixels


class Restless(nn.Module):
    """Counts its runs in a buffer, draws random numbers in every mode, and fails at a run of choice."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros((), dtype=torch.int64), persistent=False)
        self.fails_at, self.total = None, 0

    def forward(self, maps: Tensor) -> Tensor:
        self.runs += 1
        self.total += 1
        if self.total == self.fails_at:
            raise RuntimeError("planted failure")
        torch.rand(3)
        random.random()
        np.random.random()  # noqa: NPY002
        return maps


def small_network(fails_at: int | None = None) -> nn.Sequential:
    """Batch norm with a history, in-place ReLUs (one as the first layer), dropout, a frozen layer, mixed modes."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        Restless(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 5),
    )
    with torch.no_grad():
        model(torch.rand(16, 3, 12, 12))
        model[12].weight.copy_(torch.rand(5, 48) - 0.3)  # so that every class has support
    model.train()
    model[2].eval()
    model[5].requires_grad_(False)
    model[12].weight.grad = torch.full_like(model[12].weight, 7.0)
    model[9].fails_at, model[9].total = fails_at, 0
    return model


def small_images(number: int = 3) -> Tensor:
    return torch.randn(number, 3, 12, 10, generator=torch.Generator().manual_seed(1))


TARGETS = torch.tensor([0, 3, 1])


def everything_of(model: nn.Module) -> dict[str, object]:
    """All that must not change, comparable."""
    state: dict[str, object] = {}
    for name, parameter in model.named_parameters():
        grad = None if parameter.grad is None else parameter.grad.numpy().tobytes()
        state[f"parameter {name}"] = (
            id(parameter),
            parameter.requires_grad,
            grad,
            parameter.detach().numpy().tobytes(),
        )
    for name, buffer in model.named_buffers():
        state[f"buffer {name}"] = (id(buffer), buffer.numpy().tobytes())
    for name, module in model.named_modules():
        hooks = [len(value) for key, value in vars(module).items() if key.endswith("_hooks")]
        assert len(hooks) >= 4
        state[f"module {name}"] = (module.training, sum(hooks), "forward" in vars(module))
    numpy_state = np.random.get_state()  # noqa: NPY002
    state["random"] = (torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy_state[1].tobytes())
    state["grad mode"] = torch.is_grad_enabled()
    return state


# --- the network stays as it was ---


@pytest.mark.parametrize("name", NAMES)
def test_network_images_and_random_state_are_left_alone(name: str) -> None:
    model, images, targets = small_network(), small_images(), TARGETS.clone()
    before, pixels = everything_of(model), images.clone()
    found = METHODS[name](model, images, targets)
    assert model[9].total > 0  # the planted module did run
    assert everything_of(model) == before
    assert torch.equal(images, pixels)
    assert not images.requires_grad
    assert torch.equal(targets, TARGETS)
    assert found.dtype == np.float32
    assert found.shape == (3, 12, 10)
    assert found.min() >= 0
    np.testing.assert_array_equal(found.max(axis=(1, 2)), 1)


@pytest.mark.parametrize("name", NAMES)
def test_also_after_a_failure(name: str) -> None:
    model = small_network(fails_at=2 if METHODS[name].uses_layer else 1)
    before = everything_of(model)
    with pytest.raises(RuntimeError, match="planted failure"):
        METHODS[name](model, small_images(), TARGETS)
    assert everything_of(model) == before


@pytest.mark.parametrize("name", NAMES)
def test_frozen_networks_and_callers_without_gradients(name: str) -> None:
    expected = METHODS[name](small_network(), small_images(), TARGETS)
    frozen = small_network().requires_grad_(False)
    np.testing.assert_array_equal(METHODS[name](frozen, small_images(), TARGETS), expected)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    model = small_network()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            np.testing.assert_array_equal(METHODS[name](model, small_images(), TARGETS.clone()), expected)


@pytest.mark.parametrize("name", NAMES)
def test_training_mode_and_dropout_change_nothing(name: str) -> None:
    training, evaluation = small_network(), small_network().eval()
    training.train()
    found = [METHODS[name](model, small_images(), TARGETS) for model in (training, training, evaluation)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_classes_is_its_images_one_by_one(name: str) -> None:
    model, images = small_network(), small_images()
    together = METHODS[name](model, images, TARGETS)
    for index in range(3):
        alone = METHODS[name](model, images[index, None], TARGETS[index, None])
        np.testing.assert_allclose(together[index], alone[0], atol=1e-5)
    other = METHODS[name](model, images, torch.tensor([1, 3, 1]))
    assert np.abs(other[0] - together[0]).max() > 0.01  # the class matters
    np.testing.assert_allclose(other[1:], together[1:], atol=1e-5)  # to its own image only


def test_standing_guards_gradients_whatever_is_differentiated() -> None:
    model = small_network()
    before = everything_of(model)
    with standing(model):
        leaf = small_images().requires_grad_()
        model(leaf.clone()).sum().backward()
        model[2].running_mean.add_(1)
        model[9].runs = torch.ones((), dtype=torch.int64)
        assert not any(module.training for module in model.modules())
    assert leaf.grad is not None
    assert everything_of(model) == before


# --- by hand ---


def test_grad_cam_by_hand() -> None:
    # Class 0: mean gradients 3 and -1, maps x and -x: relu(4x) = 4, 8, 0, 16.
    np.testing.assert_allclose(grad_cam(Square(), SQUARE_IMAGE, torch.tensor([0])), [[[0.25, 0.5], [0, 1]]])
    # Class 1: mean gradients -1 and 1: relu(-2x) = 0, 0, 6, 0.
    np.testing.assert_allclose(grad_cam(Square(), SQUARE_IMAGE, torch.tensor([1])), [[[0, 0], [1, 0]]])


def test_layer_cam_by_hand() -> None:
    # Class 0: positive gradients 1 2 3 6 on x: 1, 4, -9, 24. Class 1: 1 1 1 1 on -x: -1, -2, 3, -4.
    np.testing.assert_allclose(layer_cam(Square(), SQUARE_IMAGE, torch.tensor([0])), [[[1 / 24, 4 / 24], [0, 1]]])
    np.testing.assert_allclose(layer_cam(Square(), SQUARE_IMAGE, torch.tensor([1])), [[[0, 0], [1, 0]]])


@pytest.mark.parametrize("target", [0, 1])
def test_grad_cam_plus_plus_is_the_paper_s_quotient(target: int) -> None:
    model = small_network().double()
    images = small_images(1).double()
    maps, gradients = maps_and_gradients(model, images, torch.tensor([target]))
    assert (maps >= 0).all()  # behind a ReLU, as in the paper
    weights = np.zeros(12)
    for channel in range(12):  # equation 19, then 5
        values, slopes = maps[0, channel].numpy(), gradients[0, channel].numpy()
        for row, column in np.ndindex(values.shape):
            g = slopes[row, column]
            if g > 0:
                weights[channel] += g**2 / (2 * g**2 + values.sum() * g**3) * g
    support = np.maximum(np.einsum("c,chw->hw", weights, maps[0].numpy()), 0)
    expected = scaled(resized(torch.from_numpy(support)[None], (12, 10)))
    np.testing.assert_allclose(grad_cam_plus_plus(model, images, torch.tensor([target])), expected, atol=1e-6)


def test_grad_cam_plus_plus_keeps_tiny_gradients() -> None:
    tiny, usual = Square(), Square()
    with torch.no_grad():
        tiny.head.weight.mul_(1e-20)  # their squares are zero in float32
    found = grad_cam_plus_plus(tiny, SQUARE_IMAGE, torch.tensor([0]))
    assert found.max() == 1
    np.testing.assert_array_equal(found > 0, grad_cam_plus_plus(usual, SQUARE_IMAGE, torch.tensor([0])) > 0)


@pytest.mark.parametrize("max_channels", [256, 5])
def test_score_cam_is_the_paper_s_loop(max_channels: int) -> None:
    model, image = small_network().eval(), small_images(1)
    with torch.no_grad():
        maps = model[:8](image.clone())[0]
        maps = maps[maps.flatten(1).std(dim=1).argsort(descending=True)[:max_channels]]
        maps = maps[maps.flatten(1).amax(dim=1) > 0]
        scores = []
        for each in maps:
            mask = nn.functional.interpolate(each[None, None], (12, 10), mode="bilinear")
            scores.append(model(image * (mask - mask.min()) / (mask.max() - mask.min()))[0, 2])
        assert len(scores) == min(12, max_channels)
        support = (torch.stack(scores).softmax(0)[:, None, None] * maps).sum(0).relu()
    expected = scaled(resized(support[None], (12, 10)))
    for batch_size in (1, 4, 64):
        found = score_cam(model, image, torch.tensor([2]), layer="7", max_channels=max_channels, batch_size=batch_size)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("target", [0, 1])
def test_pixel_methods_on_a_linear_network(target: int) -> None:
    weights, pixels = np.array(SQUARE_WEIGHTS[target]), SQUARE_IMAGE[0, 0].numpy()
    chosen = torch.tensor([target])
    parts = np.abs(weights * pixels)
    np.testing.assert_allclose(integrated_gradients(Square(), SQUARE_IMAGE, chosen)[0], parts / parts.max(), rtol=1e-5)
    slopes = np.abs(weights)
    np.testing.assert_allclose(smooth_grad(Square(), SQUARE_IMAGE, chosen)[0], slopes / slopes.max(), rtol=1e-5)
    falls = weights * pixels  # a patch of one pixel
    np.testing.assert_allclose(score_falls(Square(), SQUARE_IMAGE, chosen)[0], falls, rtol=1e-5)
    support = np.maximum(falls, 0)
    np.testing.assert_allclose(occlusion(Square(), SQUARE_IMAGE, chosen)[0], support / support.max(), rtol=1e-5)


def test_smooth_grad_is_the_mean_gradient_at_seeded_noise() -> None:
    class Cubes(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (images**3).flatten(1).sum(dim=1, keepdim=True)

    generator = torch.Generator().manual_seed(5)
    noisy = [SQUARE_IMAGE + 0.2 * 7 * torch.randn(1, 2, 2, generator=generator) for _ in range(4)]  # range -3..4
    expected = sum(3 * image**2 for image in noisy)
    target = torch.tensor([0])
    found = smooth_grad(Cubes(), SQUARE_IMAGE, target, num_samples=4, noise=0.2, seed=5)
    np.testing.assert_allclose(found, (expected / expected.max())[:, 0], rtol=1e-5)
    assert not np.allclose(found, smooth_grad(Cubes(), SQUARE_IMAGE, target, num_samples=4, noise=0.2, seed=6))
    plain = smooth_grad(Cubes(), SQUARE_IMAGE, target, noise=0)
    np.testing.assert_allclose(plain, (SQUARE_IMAGE**2 / 16)[:, 0], rtol=1e-5)


def test_occlusion_covers_the_whole_image_and_means_over_patches() -> None:
    weights = torch.arange(1.0, 36).view(1, 35)
    model = nn.Sequential(nn.Flatten(), nn.Linear(35, 1, bias=False))
    model[1].weight.data.copy_(weights)
    image = torch.randn(1, 1, 5, 7, generator=torch.Generator().manual_seed(0))
    parts = (weights.view(5, 7) * (image[0, 0] - 0.5)).double().numpy()
    expected, counts = np.zeros((5, 7)), np.zeros((5, 7))
    for top in (0, 2):
        for left in (0, 2, 4):
            where = np.s_[top : top + 3, left : left + 3]
            expected[where] += parts[where].sum()
            counts[where] += 1
    fill = torch.full((1, 1, 1), 0.5)
    for batch_size in (1, 4, 32):
        found = score_falls(
            model, image, torch.tensor([0]), patch_pixels=3, stride_pixels=2, fill=fill, batch_size=batch_size
        )
        np.testing.assert_allclose(found[0], expected / counts, rtol=1e-4, atol=1e-4)
    # A stride of 3 from 0 would leave pixels 6 and rows 3, 4 open: the last patch ends at the edge.
    uneven = score_falls(model, image, torch.tensor([0]), patch_pixels=3, stride_pixels=3)
    assert uneven.isfinite().all()
    np.testing.assert_allclose(uneven[0, 4, 6], (weights.view(5, 7) * image[0, 0])[2:, 4:].sum(), rtol=1e-4)


def _relu6_step(x: Tensor) -> Tensor:
    return nn.functional.relu6(x)


RELUS: tuple[Callable[[], nn.Module | Callable[[Tensor], Tensor]], ...] = (
    nn.ReLU,
    lambda: nn.ReLU(inplace=True),
    nn.ReLU6,
    lambda: nn.ReLU6(inplace=True),
    lambda: nn.functional.relu,
    lambda: torch.relu,
    lambda: Tensor.relu,
    lambda: Tensor.relu_,
    lambda: _relu6_step,
)


@pytest.mark.parametrize("make", RELUS)
def test_guided_backprop_by_hand(make: Callable[[], nn.Module | Callable[[Tensor], Tensor]]) -> None:
    class Two(nn.Module):
        """relu(x) mixed, relu again, summed: one ReLU used twice."""

        def __init__(self) -> None:
            super().__init__()
            self.relu = make()

        def forward(self, images: Tensor) -> Tensor:
            first = self.relu(images.flatten(1) * 1)  # 1, 2, 0, 4
            mixed = first @ torch.tensor([[1.0, 1, 0], [-1, 1, 0], [0, 1, 0], [0, -1, 1]])  # -1, -1, 4
            mixed = mixed + torch.tensor([2.0, 2.0, 0])
            second = self.relu(mixed)  # 1, 1, 4
            return second @ torch.tensor([[3.0], [1], [-5]])

    # Back from the output: 3, 1, -5 -> 3, 1, 0 at the second ReLU -> mixed back: 4, -2, 1, -1 -> the first ReLU keeps
    # 4 and 1, and of these only the 4 lies where its input was positive.
    found = guided_gradients(Two(), SQUARE_IMAGE, torch.tensor([0]))
    np.testing.assert_array_equal(found.numpy(), [[[[4, 0], [0, 0]]]])


# --- properties ---


@pytest.mark.parametrize("baseline", [None, torch.tensor([-2.0, -1.5, -1.0])[:, None, None]])
def test_integrated_gradients_are_complete(baseline: Tensor | None) -> None:
    model = small_network().double().eval()
    images, targets = small_images().double(), TARGETS
    empty = torch.zeros_like(images) if baseline is None else baseline.double().expand_as(images)
    with torch.no_grad():
        difference = (model(images.clone()) - model(empty.clone()))[torch.arange(3), targets]
    total = attributions(model, images, targets, baseline=baseline).sum(dim=(1, 2, 3))
    assert difference.abs().min() > 0.05
    np.testing.assert_allclose(total, difference, rtol=0.01)


def test_scaled_never_gives_nan() -> None:
    maps = torch.tensor([[[0.0, 0.0]], [[1e-40, 2e-40]], [[1e30, 3e30]]])
    np.testing.assert_allclose(scaled(maps), [[[0, 0]], [[0.5, 1]], [[1 / 3, 1]]], rtol=1e-4)
    maps[1, 0, 0] = float("nan")
    with pytest.raises(UserError, match=r"images \[1\] with NaN"):
        scaled(maps)


def test_resized_is_bilinear_between_pixel_centres() -> None:
    np.testing.assert_allclose(resized(torch.tensor([[[0.0, 4.0]]]), (1, 4)), [[[0, 1, 3, 4]]])


@pytest.mark.parametrize("name", LAYER_NAMES)
def test_maps_of_one_place(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 6), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    found = METHODS[name](model, torch.rand(2, 3, 6, 6), torch.tensor([0, 1]))
    for each in found:
        np.testing.assert_allclose(each, each[0, 0], rtol=1e-6)  # one place knows nothing of where
        assert each.max() in (0, 1)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "score-cam"])
def test_a_class_without_any_support_has_an_empty_map(name: str) -> None:
    # Of Score-CAM equal scores are equal weights: its map is the mean of the layer's maps.
    model = small_network()
    nn.init.zeros_(model[12].weight)
    assert not METHODS[name](model, small_images(), TARGETS).any()


@pytest.mark.parametrize(
    ("name", "side", "layer"),
    [
        ("lenet5", 32, "s4"),
        ("seed_cnn", 32, "act2"),
        ("keras_cnn", 32, "pool4"),
        ("vgg_small", 32, "features"),
        ("resnet20_cifar", 32, "layer3"),
        ("resnet9", 32, "stage3"),
        ("resnet18", 64, "layer4"),
    ],
)
def test_own_networks(name: str, side: int, layer: str) -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(name=name), num_classes=4, in_channels=3, image_size=(side, side))
    images = torch.randn(2, 3, side, side)
    assert target_layer(model, images)[0] == layer
    for method in ("grad-cam", "layer-cam", "occlusion"):
        assert METHODS[method](model, images, torch.tensor([1, 3])).shape == (2, side, side)


# --- which layer ---


@pytest.mark.parametrize(
    ("name", "size", "layer"),
    [
        ("resnet18", 64, "layer4"),
        ("resnet18", 32, "layer3"),
        ("mobilenetv2_100", 64, "bn2"),
        ("convnext_atto", 64, "stages"),
    ],
)
def test_the_default_is_the_last_layer_with_a_map(name: str, size: int, layer: str) -> None:
    model = timm.create_model(name)
    assert target_layer(model, torch.randn(1, 3, size, size))[0] == layer


def test_layers_by_name() -> None:
    model, images = small_network(), small_images()
    assert target_layer(model, images)[0] == "9"
    assert target_layer(model, images, "3")[1] is model[3]
    fine, coarse = (grad_cam(model, images, TARGETS, layer=layer) for layer in ("3", "7"))
    assert np.abs(fine - coarse).max() > 0.1
    with pytest.raises(UserError, match=r"Close names: .*layer4"):
        target_layer(timm.create_model("resnet18"), torch.randn(1, 3, 32, 32), "layer5")
    with pytest.raises(UserError, match=r"answers one image with \[1, 48\].*Layers with maps: .*9"):
        target_layer(model, images, "11")


def test_a_layer_is_read_before_the_next_one_works_in_place() -> None:
    model = small_network().eval()
    maps, _ = maps_and_gradients(model, small_images(), TARGETS, "6")
    with torch.no_grad():
        np.testing.assert_array_equal(maps, model[:7](small_images()))
    assert (maps < 0).any()


@pytest.mark.parametrize(
    ("name", "match"),
    [("vit_tiny_patch16_224", "works on tokens"), ("swin_tiny_patch4_window7_224", r"\[1, 7, 7, 768\], channels last")],
)
def test_transformers_are_refused_by_name(name: str, match: str) -> None:
    model = timm.create_model(name).eval()
    with pytest.raises(UserError, match=match):
        grad_cam(model, torch.randn(1, 3, 224, 224), torch.tensor([0]))


def test_layers_that_have_no_part_in_the_answer() -> None:
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.aside, self.idle = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)

        def forward(self, images: Tensor) -> Tensor:
            self.aside(images)
            return self.used(images).mean(dim=(2, 3))

    images, targets = torch.randn(1, 3, 4, 4), torch.tensor([0])
    assert grad_cam(Aside(), images, targets, layer="used").shape == (1, 4, 4)
    with pytest.raises(UserError, match="'aside' has no gradient"):
        grad_cam(Aside(), images, targets, layer="aside")
    with pytest.raises(UserError, match="'idle' gives no tensor"):
        grad_cam(Aside(), images, targets, layer="idle")


# --- what is refused ---


@pytest.mark.parametrize("name", NAMES)
def test_bad_requests(name: str) -> None:
    model, method = small_network(), METHODS[name]
    for images, targets, match in (
        (small_images()[0], TARGETS, "Pass one image as"),
        (small_images()[:0], TARGETS[:0], "one image or more"),
        (torch.zeros(3, 3, 12, 10, dtype=torch.uint8), TARGETS, "images are torch.uint8"),
        (small_images(), TARGETS[:2], r"expected int64 \[3\]"),
        (small_images(), TARGETS.float(), "targets are torch.float32"),
        (small_images(), torch.tensor([0, 5, 1]), "targets from 0 to 5 for a network of 5 classes"),
        (small_images(), torch.tensor([0, -1, 1]), "targets from -1 to 1"),
    ):
        with pytest.raises(UserError, match=match):
            method(model, images, targets)
    with pytest.raises(UserError, match="answered with"):
        method(model[:8], small_images(), TARGETS)


@pytest.mark.parametrize("name", PIXEL_NAMES)
def test_pixel_methods_refuse_a_layer(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} with layer '3'"):
        METHODS[name](small_network(), small_images(), TARGETS, layer="3")


@pytest.mark.parametrize(
    ("name", "settings", "match"),
    [
        ("score-cam", {"max_channels": 0}, "max_channels 0"),
        ("integrated-gradients", {"num_steps": 0}, "num_steps 0"),
        ("integrated-gradients", {"baseline": torch.zeros(3)}, r"baseline of shape \[3\]"),
        ("smooth-grad", {"noise": float("nan")}, "noise nan"),
        ("smooth-grad", {"num_samples": 0}, "num_samples 0"),
        ("occlusion", {"patch_pixels": 11}, "a patch of 11 pixels"),
        ("occlusion", {"patch_pixels": 2, "stride_pixels": 3}, "moved by 3"),
        ("occlusion", {"batch_size": 0}, "batch_size 0"),
    ],
)
def test_bad_settings(name: str, settings: dict[str, object], match: str) -> None:
    with pytest.raises(UserError, match=match):
        METHODS[name](small_network(), small_images(), TARGETS, **settings)


def test_guided_backprop_refuses_networks_without_relu() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.GELU(), nn.SiLU(), nn.GELU(), nn.Flatten(), nn.LazyLinear(2))
    model(small_images())
    with pytest.raises(UserError, match=r"without ReLU \(2 GELU, 1 SiLU\)"):
        guided_backprop(model, small_images(), torch.tensor([0, 1, 0]))


@pytest.mark.parametrize("name", PIXEL_NAMES)
def test_networks_without_gradients(name: str) -> None:
    class Closed(nn.Module):
        @torch.no_grad()
        def forward(self, images: Tensor) -> Tensor:
            return images.relu().mean(dim=(2, 3))

    if name == "occlusion":
        assert METHODS[name](Closed(), small_images(), torch.tensor([0, 1, 2])).max() == 1
    else:
        with pytest.raises(UserError, match="no gradient reaches the images"):
            METHODS[name](Closed(), small_images(), torch.tensor([0, 1, 2]))


def test_methods_by_name() -> None:
    assert find_method("grad-cam").function is grad_cam
    with pytest.raises(UserError, match="Did you mean grad-cam"):
        find_method("Grad_CAM")
    assert all("\n" not in method.description for method in METHODS.values())


# --- against another tool ---


@pytest.mark.peer
def test_captum_agrees() -> None:
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    model = small_network().double().eval()
    model[0] = nn.Identity()  # captum differentiates by the images themselves: nothing may work on them in place
    images = small_images().double()
    peer = attr.LayerGradCam(model, model[7])
    expected = peer.attribute(images.clone(), TARGETS, relu_attributions=True)
    expected = scaled(attr.LayerAttribution.interpolate(expected, (12, 10), "bilinear")[:, 0])
    np.testing.assert_allclose(grad_cam(model, images, TARGETS, layer="7"), expected, atol=1e-6)
    expected = attr.IntegratedGradients(model).attribute(images.clone(), target=TARGETS, n_steps=20)
    np.testing.assert_allclose(attributions(model, images, TARGETS, num_steps=20), expected, atol=1e-9)
    expected = attr.Occlusion(model).attribute(images.clone(), (3, 4, 4), (3, 2, 2), target=TARGETS)
    found = score_falls(model, images, TARGETS, patch_pixels=4, stride_pixels=2)
    np.testing.assert_allclose(found, expected[:, 0].detach(), atol=1e-9)
    for index in (3, 7):
        model[index].inplace = False  # captum's hooks on ReLU do not go together with it
    expected = attr.GuidedBackprop(model).attribute(images.clone(), target=TARGETS)
    np.testing.assert_allclose(guided_gradients(model, images, TARGETS), expected, atol=1e-9)
