"""Folded networks answer as the unfolded ones, and only what can be folded is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from convcraft.config import ModelConfig
from convcraft.models.batch_norm_folding import fold_batch_norms
from convcraft.models.build import build_model


def trained(model: nn.Module) -> nn.Module:
    """Norms with statistics and weights as after training, not 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.3, 0.3),
            ):
                values.uniform_(low, high, generator=generator)
    return model


def images(side: int = 32, channels: int = 3) -> Tensor:
    return torch.randn(4, channels, side, side, generator=torch.Generator().manual_seed(2))


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("name", ["resnet18", "timm/mobilenetv2_050", "resnet20_cifar", "vgg_small", "timm/resnet10t"])
def test_same_logits_and_no_norm_left(name: str) -> None:
    model = trained(build_model(ModelConfig(name=name), num_classes=5, in_channels=3, image_size=(32, 32)))
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold_batch_norms(model, images())
    assert norms(model) > 0
    assert norms(folded) == 0
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    with torch.no_grad():
        expected, got = model.eval()(images()), folded(images())
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=float(1e-5 * expected.abs().max()))


class Twice(nn.Module):
    """One convolution before two norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.conv(self.first(self.conv(x)))).mean((2, 3))


class Shared(nn.Module):
    """A convolution whose output goes around its norm as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return (x + self.norm(x)).mean((2, 3))


@pytest.mark.parametrize("kind", [Twice, Shared])
def test_what_cannot_be_folded_stays(kind: type[nn.Module]) -> None:
    model = trained(kind()).eval()
    folded = fold_batch_norms(model, images())
    assert norms(folded) == norms(model)
    with torch.no_grad():
        assert torch.equal(folded(images()), model(images()))


def test_kept_modules_put_out_what_they_did() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2))).eval()
    folded = fold_batch_norms(model, images(), keep=("0",))
    assert isinstance(folded[1], nn.BatchNorm2d)
    assert isinstance(folded[3], nn.Identity)
    with torch.no_grad():
        assert torch.equal(folded[0](images()), model[0](images()))
        torch.testing.assert_close(folded(images()), model(images()))


def test_a_network_without_norms_is_copied() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())
    folded = fold_batch_norms(model, images())
    assert folded is not model
    assert torch.equal(folded(images()), model(images()))
