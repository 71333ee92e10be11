"""What 8 bits do to a layer, against the sums written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from convcraft.data.preprocess import Preprocess
from convcraft.deploy.compress.rounding import layer_sensitivity, layers_of, mean_rounding_errors, rounded_weights
from convcraft.deploy.export_network import ExportNetwork

CONTRACT = Preprocess(height=12, width=12, channels=3, mean=(0.5,), std=(0.25,))


class Small(nn.Module):
    """Two convolutions, one that pads by itself as some of timm's do, and a classifier without bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = PaddedInForward(8, 8, 3, groups=8)
        self.head = nn.Linear(8, 5, bias=False)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.second(self.first(images).relu()).relu()
        return self.head(maps.mean(dim=(2, 3)))


class PaddedInForward(nn.Conv2d):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.pad(maps, (1, 1, 1, 1)))


def images(number: int = 40) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(number, 3, 12, 12)).astype(np.float32)


def test_weights_have_255_steps_for_each_output() -> None:
    weight = torch.tensor([[-1.0, 0.5, 0.003], [0.0, 127.0, 1.4]])
    np.testing.assert_allclose(rounded_weights(weight), [[-1.0, 64 / 127, 0.0], [0.0, 127.0, 1.0]], rtol=1e-6)
    assert torch.equal(rounded_weights(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_mean_errors_are_those_of_a_network_with_rounded_weights() -> None:
    network, batch = ExportNetwork(Small().eval(), CONTRACT, features=True), images()
    errors = mean_rounding_errors(network, batch)
    assert set(errors) == set(layers_of(network)) == {"body.first", "body.second", "classifier"}
    body = network.body
    with torch.no_grad():
        first = body.first(torch.from_numpy(batch))
        weight = rounded_weights(body.first.weight) - body.first.weight
        expected = nn.functional.conv2d(torch.from_numpy(batch), weight, padding=1).mean(dim=(0, 2, 3))
        np.testing.assert_allclose(errors["body.first"], expected, atol=1e-6)
        weight = rounded_weights(body.second.weight) - body.second.weight
        expected = nn.functional.conv2d(first.relu(), weight, padding=1, groups=8).mean(dim=(0, 2, 3))
        np.testing.assert_allclose(errors["body.second"], expected, atol=1e-6)


def test_nothing_of_the_network_changes() -> None:
    network, batch = ExportNetwork(Small().eval(), CONTRACT), images()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    expected = network(torch.from_numpy(batch))
    mean_rounding_errors(network, batch)
    layer_sensitivity(network, batch)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(network(torch.from_numpy(batch)), expected)


def test_the_layer_that_8_bits_ruin_comes_first() -> None:
    """Of a channel that is always 0 the weights are so large that the others round to nothing."""
    model, batch = Small().eval(), images()
    batch[:, 2] = 0
    with torch.no_grad():
        model.first.weight[:, 2] = 60
    first, *others = layer_sensitivity(ExportNetwork(model, CONTRACT), batch)
    assert first.name == "body.first"
    assert first.noise > 3 * max(layer.noise for layer in others)
    assert all(one.noise >= other.noise >= 0 for one, other in zip([first, *others], others, strict=False))


@pytest.mark.parametrize("name", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_int8_without_mean_errors_is_nearer_to_the_source(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a depthwise network, of which each channel has nine weights."""
    from convcraft.deploy.compress import rounding
    from convcraft.deploy.formats.catalogue import find_format
    from convcraft.deploy.formats.form import Runtime

    pytest.importorskip("nncf" if name == "openvino" else "onnxscript")
    form = find_format(name)
    network = ExportNetwork(small_depthwise(), CONTRACT)
    seen, fresh = images(64), images(160)[64:]
    with torch.no_grad():
        expected = network(torch.from_numpy(fresh)).numpy()

    def noise() -> float:
        logits = form.open(form.write(network, seen, "int8"), "int8", Runtime(1))(fresh).logits
        return float(np.sqrt(np.mean((logits - expected) ** 2)))

    corrected = noise()
    monkeypatch.setattr(rounding, "mean_rounding_errors", lambda _network, _images: {})
    assert corrected < 0.8 * noise()


def small_depthwise() -> nn.Module:
    model = Small()
    model.second = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1, groups=8) for _ in range(4)))
    return model.eval()
