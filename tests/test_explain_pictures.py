"""Feature maps, kernels and nearest training images, against direct computation and scikit-learn."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import nn

from convcraft.config import ModelConfig
from convcraft.data.image_set import ImageSet
from convcraft.data.preprocess import Preprocess
from convcraft.data.sample import Sample
from convcraft.errors import UserError
from convcraft.explain.feature_maps import feature_maps
from convcraft.explain.kernels import kernels
from convcraft.explain.nearest import nearest, nearest_images
from convcraft.models.build import build_model

IMAGE = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 20, 16)).astype(np.float32))


def small() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3, stride=2))
    return nn.Sequential(body, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


# Feature maps -------------------------------------------------------------------------------------------------------


def test_maps_are_what_the_layer_gives_before_anything_changes_it_in_place() -> None:
    model = small().eval()
    with torch.no_grad():
        first = model[0][0](IMAGE)
        normed = model[0][1](first)
        last = model[0][3](normed.relu())
    for layer, expected in (("0.0", first), ("0.1", normed), ("0.2", normed.relu()), ("0.3", last), ("0", last)):
        maps = feature_maps(model, IMAGE, layer)
        assert maps.dtype == np.float32
        assert np.allclose(maps, expected[0], atol=1e-6)
    assert feature_maps(model, IMAGE, "0.1").min() < 0  # the ReLU behind it works in place


def test_maps_leave_the_model_as_it_was() -> None:
    model = small().train()
    model[0][1].eval()
    model[4].weight.requires_grad_(False)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    feature_maps(model, IMAGE, "0.3")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not model[0][1].training
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["4.weight"]
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in model.modules())


class ChannelsLast(nn.Module):
    """The inside of a ConvNeXt block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 24, 4, stride=4), nn.LayerNorm(24)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(images).permute(0, 2, 3, 1)).mean((1, 2))


def test_channels_last_is_no_map() -> None:
    assert feature_maps(ChannelsLast(), IMAGE, "conv").shape == (24, 5, 4)
    with pytest.raises(UserError, match=r"channels last.*Name a convolution"):
        feature_maps(ChannelsLast(), IMAGE, "norm")


def test_maps_refuse() -> None:
    with pytest.raises(UserError, match="one image"):
        feature_maps(small(), IMAGE.repeat(2, 1, 1, 1), "0")
    with pytest.raises(UserError, match=r"Close names: .*0\.3"):
        feature_maps(small(), IMAGE, "0.4")
    with pytest.raises(UserError, match=r"answers one image with \[1, 3\].*Name a convolution"):
        feature_maps(small(), IMAGE, "4")


# Kernels ------------------------------------------------------------------------------------------------------------


def test_kernels_of_the_first_layer_are_colour_pictures() -> None:
    model = small()
    found = kernels(model)
    weights = model[0][0].weight.detach().numpy()
    assert found.layer == "0.0"
    assert (found.weights == weights).all()
    assert np.allclose(found.pictures, weights / np.abs(weights).max())
    assert np.abs(found.pictures).max() == 1
    assert (found.inputs == [[0, 1, 2]] * 8).all()
    assert found.colours is not None
    assert found.colours.shape == (8, 3, 3, 3)
    assert found.colours.dtype == np.float32
    assert found.colours[2, 0, 1, 2] == pytest.approx((found.pictures[2, 2, 0, 1] + 1) / 2)
    assert kernels(model, "0.3").colours is None


def test_each_kernel_by_itself_and_zeros() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[[[1, -4], [0, 2]]], [[[0, 0], [0, 0]]], [[[0.1, 0], [0, 0]]]]))
    each = kernels(model, scale="kernel").pictures
    assert each[:, 0].tolist() == [[[0.25, -1], [0, 0.5]], [[0, 0], [0, 0]], [[1, 0], [0, 0]]]
    assert kernels(model).pictures[2, 0, 0, 0] == pytest.approx(0.025)
    nn.init.zeros_(model[0].weight)
    assert not kernels(model).pictures.any()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_input_of_each_slice(groups: int, transposed: bool) -> None:
    """An image that is 1 in one channel reaches an output only through slices that name this channel."""
    torch.manual_seed(0)
    layer = (nn.ConvTranspose2d if transposed else nn.Conv2d)(6, 12, 3, groups=groups, bias=False)
    found = kernels(nn.Sequential(layer))
    assert found.weights.shape == found.pictures.shape == (12, 6 // groups, 3, 3)
    for channel in range(6):
        image = torch.zeros(1, 6, 5, 5)
        image[0, channel] = 1
        response = layer(image)[0, :, 2, 2].detach().numpy()  # all nine weights, whichever way round
        expected = np.where(found.inputs == channel, found.weights.sum((2, 3)), 0).sum(1)
        assert np.allclose(response, expected, atol=1e-5)


def test_kernels_are_copies_and_refuse() -> None:
    model = small()
    kernels(model).weights[:] = 7
    assert not (model[0][0].weight == 7).any()
    with pytest.raises(UserError, match=r"'0.1', a BatchNorm2d.*Close names: .*0\.0"):
        kernels(model, "0.1")
    with pytest.raises(UserError, match="without Conv2d"):
        kernels(nn.Linear(2, 2))
    with pytest.raises(UserError, match="scale"):
        kernels(model, scale="image")
    with torch.no_grad():
        model[0][0].weight[0] = float("nan")
    with pytest.raises(UserError, match="NaN"):
        kernels(model)


# Nearest ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_bytes", [1, 4096, 1 << 26])
def test_nearest_are_those_of_scikit_learn(chunk_bytes: int) -> None:
    draw = np.random.default_rng(0)
    queries, known = (draw.normal(size=(n, 16)).astype(np.float32) for n in (7, 130))
    indices, distances = nearest(queries, known, 9, chunk_bytes=chunk_bytes)
    expected = NearestNeighbors(n_neighbors=9, metric="cosine", algorithm="brute").fit(known.astype(float))
    their_distances, theirs = expected.kneighbors(queries.astype(float))
    assert (indices == theirs).all()
    assert np.allclose(distances, their_distances, atol=1e-9)


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 26])
def test_twins_tie_in_their_order_and_length_does_not_count(chunk_bytes: int) -> None:
    row = np.random.default_rng(0).normal(size=16).astype(np.float32)
    known = np.stack([-row, 2 * row, np.zeros(16, np.float32), row, 3 * row])
    indices, distances = nearest(row[None], known, 5, chunk_bytes=chunk_bytes)
    assert indices.tolist() == [[1, 3, 4, 2, 0]]
    assert distances.tolist() == [[0, 0, 0, 1, 2]]
    assert nearest(row[None], known, 50)[0].shape == (1, 5)


def test_nearest_refuses() -> None:
    rows = np.ones((2, 3), np.float32)
    for queries, known, k, words in (
        (rows, rows[:, :2], 1, "shapes"),
        (rows[:0], rows, 1, "at least one row"),
        (rows, rows, 0, "0 neighbours"),
        (rows, rows * np.nan, 1, "NaN"),
    ):
        with pytest.raises(UserError, match=words):
            nearest(queries, known, k)


def test_nearest_images_find_themselves_and_are_compared_by_the_input_of_the_classifier() -> None:
    preprocess = Preprocess(height=16, width=16, channels=3, resize="stretch", mean=(0.5,), std=(0.25,))
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    samples = [Sample(image, index % 3, f"{index}.png") for index, image in enumerate(pixels)]
    training, queries = (ImageSet.build(part, preprocess, 1 << 30) for part in (samples, samples[3:6]))
    torch.manual_seed(0)
    model = build_model(ModelConfig(name="resnet20_cifar"), num_classes=3, in_channels=3, image_size=(16, 16)).train()
    before = copy.deepcopy(model.state_dict())
    found = nearest_images(model, queries, training, ("ant", "bee", "wasp"), num_neighbours=4)
    assert [row[0].name for row in found] == ["3.png", "4.png", "5.png"]
    assert [row[0].label for row in found] == ["ant", "bee", "wasp"]
    assert all(row[0].distance < 1e-9 for row in found)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())

    seen: list[torch.Tensor] = []
    handle = model.get_classifier().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model.eval()(torch.from_numpy(preprocess.normalise(pixels)))
    handle.remove()
    rows = seen[0].double()
    distances = 1 - torch.nn.functional.cosine_similarity(rows[4][None], rows)
    order = distances.argsort()[:4]
    assert [neighbour.index for neighbour in found[1]] == order.tolist()
    assert [neighbour.distance for neighbour in found[1]] == pytest.approx(distances[order].tolist(), abs=1e-6)
    assert len(nearest_images(model, queries, training, ("a", "b", "c"), num_neighbours=50)[0]) == 12
