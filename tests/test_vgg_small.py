"""The settings of vgg_small that the study of docs/choosing.md turns."""

import pytest
import torch
from torch import nn

from convcraft.errors import UserError
from convcraft.models.vgg_small import VGGSmall


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
def test_kernels_keep_the_map_and_cost_their_area(kernel_size: int) -> None:
    model = VGGSmall(widths=(4, 8), convs_per_stage=1, kernel_size=kernel_size)
    assert model.forward_features(torch.zeros(2, 1, 28, 28)).shape == (2, 8, 14, 14)
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Conv2d))
    assert weights == kernel_size**2 * (1 * 4 + 4 * 8)


@pytest.mark.parametrize(("downsampling", "side"), [("max", 3), ("avg", 3), ("stride", 4)])
def test_odd_maps_round_down_with_pooling_and_up_with_strides(downsampling: str, side: int) -> None:
    model = VGGSmall(image_size=(14, 14), widths=(4, 8, 8), convs_per_stage=2, hidden=5, downsampling=downsampling)
    images = torch.zeros(2, 1, 14, 14)
    assert model.forward_features(images).shape == (2, 8, side, side)
    assert model(images).shape == (2, 10)  # the linear layer behind the maps fits them


def test_new_settings_leave_the_default_network_as_it_was() -> None:
    torch.manual_seed(0)
    plain = VGGSmall().state_dict()
    torch.manual_seed(0)
    spelt_out = VGGSmall(kernel_size=3, downsampling="max").state_dict()
    assert next(iter(plain)) == "features.0.0.0.weight"
    assert all(torch.equal(plain[name], spelt_out[name]) for name in plain)


@pytest.mark.parametrize("settings", [{"kernel_size": 4}, {"kernel_size": 0}, {"downsampling": "sum"}])
def test_settings_that_cannot_be_meant_are_refused(settings: dict) -> None:
    with pytest.raises(UserError):
        VGGSmall(**settings)
