"""Checks of explanations: curves, the blob, randomised weights, the verdict, with hand-made methods and models."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from torch import Tensor, nn

from convcraft.config import ModelConfig
from convcraft.errors import UserError
from convcraft.explain.centre_blob import Wins, centre_blob, share_of_wins
from convcraft.explain.deletion import blurred, deletion_curves, filled, insertion_curves, removal_ranks
from convcraft.explain.grad_cam import grad_cam
from convcraft.explain.sanity import Sanity, Stage, layers_from_the_end, randomise_weights, randomised
from convcraft.explain.similarity import rank_correlations, structural_similarities
from convcraft.explain.trust import Trust, check
from convcraft.explain.views import grad_cam_views
from convcraft.models.build import build_model
from convcraft.statistics import wilson_interval

IMAGES = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3, 12, 10)).astype(np.float32))
TARGETS = torch.tensor([0, 1, 2, 1])


class Looking(nn.Module):
    """Class 1 as far as the top left 4 x 4 pixels are bright; nothing else counts."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.batch_sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batch_sizes.append(len(images))
        seen = images[:, :, :4, :4].mean((1, 2, 3)) * self.scale
        return torch.stack([torch.zeros_like(seen), seen], 1)


def small() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, stride=2))
    return nn.Sequential(body, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


def network() -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelConfig(name="resnet20_cifar"), num_classes=3, in_channels=3, image_size=(32, 32))


def gradient(model: nn.Module, images: Tensor, targets: Tensor) -> np.ndarray:
    """|d logit / d pixel|, the plainest method that depends on the weights."""
    model.eval()
    asked = images.clone().requires_grad_()
    chosen = model(asked).gather(1, targets[:, None]).sum()
    return torch.autograd.grad(chosen, asked)[0].abs().amax(1).numpy()


def edges(model: nn.Module, images: Tensor, targets: Tensor) -> np.ndarray:
    """Outlines of what is in the image, whatever the network is."""
    grey = images.mean(1)
    rows, columns = torch.gradient(grey, dim=(1, 2))
    return (rows**2 + columns**2).sqrt().numpy()


# Curves -------------------------------------------------------------------------------------------------------------


def heat_of(places: Callable[[np.ndarray], None], shape: tuple[int, ...] = (1, 8, 8)) -> np.ndarray:
    heat = np.zeros(shape, np.float32)
    places(heat)
    return heat


def test_curve_by_hand() -> None:
    model, images = Looking(), torch.full((1, 3, 8, 8), 2.0)
    heat = np.arange(64, 0, -1, dtype=np.float32).reshape(1, 8, 8)  # row by row
    curves = deletion_curves(model, images, torch.tensor([1]), heat, fill="mean", steps=4)
    # Two rows of eight per step: of the sixteen pixels that count, 16, 8, 0, 0, 0 are left.
    expected = 1 / (1 + np.exp(-np.array([2.0, 1.0, 0.0, 0.0, 0.0])))
    assert np.allclose(curves.probabilities, expected, atol=1e-6)
    assert curves.shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert np.allclose(curves.areas, np.trapezoid(expected, dx=0.25), atol=1e-6)
    back = insertion_curves(model, images, torch.tensor([1]), heat, fill="mean", steps=4)
    assert np.allclose(back.probabilities, 1 / (1 + np.exp(-np.array([0.0, 1.0, 2.0, 2.0, 2.0]))), atol=1e-6)


def test_good_map_has_the_smaller_deletion_area_and_the_larger_insertion_area() -> None:
    model, images = Looking(), torch.full((1, 3, 8, 8), 2.0)
    good = heat_of(lambda heat: heat[:, :4, :4].__iadd__(1))
    bad = 1 - good
    gone = [deletion_curves(model, images, torch.tensor([1]), heat, fill="mean").areas[0] for heat in (good, bad)]
    come = [insertion_curves(model, images, torch.tensor([1]), heat, fill="mean").areas[0] for heat in (good, bad)]
    assert gone[0] < gone[1] - 0.2
    assert come[0] > come[1] + 0.2


def test_batches_do_not_matter_and_are_no_larger_than_asked() -> None:
    model = small()
    heat = np.random.default_rng(1).random((4, 12, 10)).astype(np.float32)
    one = deletion_curves(model, IMAGES, TARGETS, heat, steps=7, batch_size=64).probabilities
    other = deletion_curves(model, IMAGES, TARGETS, heat, steps=7, batch_size=5).probabilities
    alone = [
        deletion_curves(model, IMAGES[[i]], TARGETS[[i]], heat[[i]], steps=7).probabilities[0]
        for i in range(len(IMAGES))
    ]
    assert np.allclose(one, other, atol=1e-6)
    assert np.allclose(one, alone, atol=1e-6)
    looking = Looking()
    deletion_curves(looking, IMAGES, TARGETS % 2, heat, steps=7, batch_size=5)
    assert looking.batch_sizes == [5] * 6 + [2]


def test_ends_of_a_curve_are_the_image_and_its_filled_form() -> None:
    model = small()
    heat = np.random.default_rng(1).random((4, 12, 10)).astype(np.float32)
    for fill in ("blur", "mean"):
        curve = deletion_curves(model, IMAGES, TARGETS, heat, fill=fill, steps=3).probabilities
        with torch.no_grad():
            for column, images in ((0, IMAGES), (-1, filled(IMAGES, fill))):
                direct = model.eval()(images).softmax(1)[torch.arange(4), TARGETS]
                assert np.allclose(curve[:, column], direct, atol=1e-5)


def test_of_equally_hot_pixels_the_first_goes_first() -> None:
    heat = np.array([[[0.5, 1.0, 0.5], [0.0, 1.0, 0.0]]], np.float32)
    assert removal_ranks(heat).tolist() == [[2, 0, 3, 4, 1, 5]]
    assert removal_ranks(np.zeros((1, 2, 2), np.float32)).tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("sigma", [0.7, 3.0, 40.0])
def test_blur_is_a_gaussian_whose_weights_stop_at_the_edge(sigma: float) -> None:
    images = IMAGES.double()

    def plain(values: np.ndarray) -> np.ndarray:
        radius = min(int(9 * sigma) + 1, 40)  # beyond the image there are zeros anyway
        return gaussian_filter(values, (0, 0, sigma, sigma), mode="constant", radius=(0, 0, radius, radius))

    expected = plain(images.numpy()) / plain(np.ones(images.shape))
    assert np.allclose(blurred(images, sigma), expected, atol=1e-9)
    assert torch.allclose(blurred(torch.full((1, 1, 5, 9), 3.0), sigma), torch.tensor(3.0))


def test_loss_decides_what_probabilities_are() -> None:
    model, images = Looking(), torch.full((1, 3, 8, 8), 2.0)
    curve = deletion_curves(model, images, torch.tensor([1]), np.zeros((1, 8, 8), np.float32), fill="mean", loss="bce")
    sigmoid = 1 / (1 + np.exp(-2.0))
    assert curve.probabilities[0, 0] == pytest.approx(sigmoid / (sigmoid + 0.5), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heat": np.zeros((4, 10, 12), np.float32)}, "heat of shape"),
        ({"heat": np.full((4, 12, 10), np.nan, np.float32)}, "finite"),
        ({"targets": TARGETS[:2]}, "targets of shape"),
        ({"targets": TARGETS + 1}, "targets from 1 to 3"),
        ({"steps": 0}, "0 steps"),
        ({"steps": 121}, "121 steps"),
        ({"fill": "black"}, "fill 'black'"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"images": IMAGES[:0]}, "images of shape"),
    ],
)
def test_curves_refuse(changes: dict, words: str) -> None:
    given = {"images": IMAGES, "targets": TARGETS, "heat": np.zeros((4, 12, 10), np.float32), **changes}
    with pytest.raises(UserError, match=words):
        deletion_curves(small(), **given)


# The blob -----------------------------------------------------------------------------------------------------------


def test_blob_is_hottest_in_the_middle_and_the_same_for_every_image() -> None:
    blob = centre_blob(nn.Identity(), torch.randn(3, 3, 9, 15), torch.zeros(3, dtype=torch.int64))
    assert blob.shape == (3, 9, 15)
    assert blob.dtype == np.float32
    assert blob[0, 4, 7] == 1 == blob.max()
    assert (blob == blob[0]).all()
    assert (blob[0] == blob[0, ::-1, ::-1]).all()
    assert blob[0, 0, 7] == pytest.approx(np.exp(-((4 / 9) ** 2) / (2 * 0.25**2)), abs=1e-6)


def test_wins_count_ties_half() -> None:
    wins = share_of_wins([0.1, 0.2, 0.3, 0.9], [0.2, 0.2, 0.4, 0.1])
    assert (wins.num_won, wins.num_tied, wins.num_images, wins.share) == (2, 1, 4, 0.625)
    assert wins.interval[0] < 0.625 < wins.interval[1]
    assert share_of_wins([0.5] * 3, [0.5] * 3).share == 0.5
    for bad in ([], [0.1, float("nan")], [[0.1, 0.2]]):
        with pytest.raises(UserError):
            share_of_wins(bad, bad)
    with pytest.raises(UserError, match="shapes"):
        share_of_wins([0.1], [0.1, 0.2])


# Similarity ---------------------------------------------------------------------------------------------------------


def test_rank_correlation_is_spearmans() -> None:
    draw = np.random.default_rng(0)
    first = draw.integers(0, 6, (5, 9, 7)).astype(np.float32)  # many ties
    second = first + draw.integers(0, 4, first.shape).astype(np.float32)
    expected = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(first, second, strict=True)]
    assert np.allclose(rank_correlations(first, second), expected, atol=1e-12)


def test_rank_correlation_of_blank_maps() -> None:
    blank, some = np.full((1, 3, 3), 0.5, np.float32), np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    assert rank_correlations(blank, some) == 0 == rank_correlations(some, blank)
    assert rank_correlations(blank, blank * 0) == 1
    assert rank_correlations(some, -some) == pytest.approx(-1)


def naive_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004, eq. 13, window by window."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    found = []
    for row in range(5, x.shape[0] - 5):
        for column in range(5, x.shape[1] - 5):
            a, b = (z[row - 5 : row + 6, column - 5 : column + 6].astype(float) for z in (x, y))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            both = (weights * (a - mean_a) * (b - mean_b)).sum()
            light = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
            found.append(light * (2 * both + 9e-4) / (var_a + var_b + 9e-4))
    return float(np.mean(found))


def test_ssim_is_wangs() -> None:
    draw = np.random.default_rng(0)
    first = draw.random((3, 20, 17)).astype(np.float32)
    second = np.stack([first[0], 0.5 * first[1] + 0.2, draw.random((20, 17))]).astype(np.float32)
    expected = [naive_ssim(a, b) for a, b in zip(first, second, strict=True)]
    assert np.allclose(structural_similarities(first, second), expected, atol=1e-9)
    assert structural_similarities(first, second)[0] == pytest.approx(1)
    assert structural_similarities(first[:, :8, :8], first[:, :8, :8]) == pytest.approx([1, 1, 1])


# Randomised weights -------------------------------------------------------------------------------------------------


def photos(num: int = 4, size: int = 32) -> Tensor:
    """Noise with structure: blurred spots on a bright ground."""
    draw = torch.Generator().manual_seed(3)
    return blurred(torch.randn(num, 3, size, size, generator=draw), 1.5) * 5


def test_layers_come_from_the_classifier_down() -> None:
    model = network()
    layers = layers_from_the_end(model, photos(1))
    assert layers[0] == next(name for name, module in model.named_modules() if module is model.get_classifier())
    assert layers[-1] == next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    own = {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    assert set(layers) == own
    assert len(layers) == len(own)
    with pytest.raises(UserError, match="no weights"):
        layers_from_the_end(nn.ReLU(), photos(1))


def test_randomised_copy_keeps_size_of_signals_and_the_other_layers() -> None:
    model, images = network(), photos()
    layers = layers_from_the_end(model, images[:1])
    whole = randomised(model, layers, images, 0)
    assert 0.01 < whole(images).std() < 100
    part = randomised(model, layers[:3], images, 0)
    for name, parameter in part.named_parameters():
        kept = torch.equal(parameter, model.get_parameter(name))
        assert kept == (name.rpartition(".")[0] not in layers[:3] or parameter.ndim == 1)
    again, other = randomised(model, layers, images, 0), randomised(model, layers, images, 1)
    first = layers[-1] + ".weight"
    assert torch.equal(again.get_parameter(first), whole.get_parameter(first))
    assert not torch.equal(other.get_parameter(first), whole.get_parameter(first))


def test_batch_norm_takes_the_statistics_of_what_comes_in() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    model[1].running_mean.fill_(7)
    with torch.no_grad():
        out = randomised(model, ("1", "0"), photos(), 0)(photos())
    assert torch.allclose(out.mean((0, 2, 3)), torch.zeros(5), atol=1e-5)
    assert torch.allclose(out.var((0, 2, 3), unbiased=False), torch.ones(5), atol=1e-3)


def test_edge_detector_fails_and_gradient_passes() -> None:
    model, images = network(), photos()
    failing = randomise_weights(edges, model, images, TARGETS, num_stages=2)
    assert not failing.passed
    assert failing.verdict == "fails"
    assert failing.stages[-1].correlation == pytest.approx(1)
    assert failing.stages[-1].similarity == pytest.approx(1)
    passing = randomise_weights(gradient, model, images, TARGETS, num_stages=3)
    assert passing.verdict == "depends on the weights"
    assert passing.stages[-1].correlation < 0.3
    assert [stage.share for stage in passing.stages][-1] == 1
    assert passing.stages[0].layer == layers_from_the_end(model, images[:1])[0]
    assert passing.stages[0].correlations.shape == (2, 4)


def test_map_turned_inside_out_fails_and_blank_maps_are_counted() -> None:
    signs = iter([1, -1, -1])

    def flipping(model: nn.Module, images: Tensor, targets: Tensor) -> np.ndarray:
        return next(signs) * edges(model, images, targets)

    assert not randomise_weights(flipping, small(), photos(), TARGETS, num_stages=1).passed

    def blank(model: nn.Module, images: Tensor, targets: Tensor) -> np.ndarray:
        return np.zeros((4, 32, 32), np.float32)

    found = randomise_weights(blank, small(), photos(), TARGETS, num_stages=1)
    assert not found.passed
    assert found.stages[0].num_blank == 8


def test_randomising_refuses() -> None:
    with pytest.raises(UserError, match="0 stages"):
        randomise_weights(edges, small(), photos(), TARGETS, num_stages=0)
    with pytest.raises(UserError, match="heat of shape"):
        randomise_weights(lambda *_: np.zeros((4, 2, 2), np.float32), small(), photos(), TARGETS)


# Trust --------------------------------------------------------------------------------------------------------------


def corner_network() -> nn.Module:
    """Linear; class 1 as far as the top left is bright."""
    model = nn.Sequential(nn.Conv2d(3, 2, 12), nn.Flatten())
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.zero_()
        model[0].weight[1, :, :4, :4] = 0.05 + 0.02 * torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    return model


def test_trust_of_a_good_a_blind_and_a_misled_method() -> None:
    bright = 1 + torch.rand(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    targets = torch.ones(16, dtype=torch.int64)

    def away(model: nn.Module, images: Tensor, targets: Tensor) -> np.ndarray:
        return 1 / (1e-3 + gradient(model, images, targets))

    good = check(gradient, corner_network(), bright, targets, fill="mean")
    assert good.verdict == "trusted"
    assert good.trusted
    assert good.wins.num_won == good.wins.num_images == 16
    assert good.sanity.stages[0].correlations.shape == (2, 8)
    assert good.sentence.startswith("These maps find what the network uses better than a blob in the centre on 100% of")
    blind = check(edges, corner_network(), bright, targets, fill="mean")
    assert (blind.verdict, blind.trusted) == ("broken", False)
    assert "rank correlation 1.00" in blind.sentence
    misled = check(away, corner_network(), bright, targets, fill="mean")
    assert (misled.verdict, misled.wins.share) == ("unproven", 0)
    assert "win on 0% of 16 images" in misled.sentence


def trust_of(num_won: int, num_images: int, correlation: float = 0.1) -> Trust:
    wins = Wins(num_won, 0, num_images, num_won / num_images, wilson_interval(num_won, num_images))
    table = np.full((1, 4), correlation)
    return Trust(wins, Sanity((Stage("conv", 1.0, table, table, 0),)))


def test_trust_needs_more_than_luck() -> None:
    assert trust_of(7, 10).verdict == "unproven"  # 40 to 89 %
    assert "which may be chance" in trust_of(7, 10).sentence
    assert trust_of(70, 100).verdict == "trusted"
    assert trust_of(100, 100, correlation=0.9).verdict == "broken"
    assert trust_of(100, 100, correlation=-0.9).verdict == "broken"
    assert "on 30% of 100 images (95 % interval 22% to 40%) only" in trust_of(30, 100).sentence


# Views --------------------------------------------------------------------------------------------------------------


def test_views_are_the_mean_of_grad_cams_maps() -> None:
    model, images = small(), photos()
    plain = grad_cam(model, images, TARGETS)
    assert np.allclose(grad_cam_views(model, images, TARGETS, scales=(1.0,), mirrored=False), plain, atol=1e-6)
    mirrored = grad_cam(model, images.flip(3), TARGETS)[:, :, ::-1]
    larger = nn.functional.interpolate(images, size=(48, 48), mode="bilinear", antialias=True)
    enlarged = nn.functional.interpolate(
        torch.from_numpy(grad_cam(model, larger, TARGETS))[:, None], size=(32, 32), mode="bilinear", antialias=True
    )[:, 0].numpy()
    both = grad_cam_views(model, images, TARGETS, scales=(1.0,))
    assert np.allclose(both, (plain + mirrored) / (plain + mirrored).max((1, 2), keepdims=True), atol=1e-5)
    sizes = grad_cam_views(model, images, TARGETS, scales=(1.0, 1.5), mirrored=False)
    assert np.allclose(sizes, (plain + enlarged) / (plain + enlarged).max((1, 2), keepdims=True), atol=1e-5)


def test_views_are_symmetric_where_the_network_is_asked_about_mirror_images() -> None:
    model, images = small(), photos()
    turned = grad_cam_views(model, images.flip(3), TARGETS)
    assert np.allclose(turned, grad_cam_views(model, images, TARGETS)[:, :, ::-1], atol=1e-5)


def test_views_refuse() -> None:
    rigid = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 30 * 30, 3))
    assert grad_cam_views(rigid, photos(), TARGETS, scales=(1.0,)).shape == (4, 32, 32)
    with pytest.raises(UserError, match=r"\[41, 41\] pixels.*scales=\(1.0,\)"):
        grad_cam_views(rigid, photos(), TARGETS)
    for scales in ((), (1.0, 0.0)):
        with pytest.raises(UserError, match="scales"):
            grad_cam_views(small(), photos(), TARGETS, scales=scales)


# Nothing moves ------------------------------------------------------------------------------------------------------


def test_checks_leave_model_and_random_state_alone() -> None:
    model, images = small(), photos()
    model.train()
    model[0][1].eval()
    frozen = next(model.parameters())
    frozen.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    flags = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    deletion_curves(model, images, TARGETS, edges(model, images, TARGETS), steps=3)
    insertion_curves(model, images, TARGETS, edges(model, images, TARGETS), steps=3)
    randomise_weights(edges, model, images, TARGETS, num_stages=2)
    check(edges, model, images, TARGETS, steps=3)
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert [parameter.requires_grad for parameter in model.parameters()].count(False) == 1
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
