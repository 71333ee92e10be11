"""What one batch shows of every layer: finite or not, the same for all images or not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from convcraft.doctor.preflight_trace import LayerCall, run_batch

IMAGES, TARGETS = torch.randn(4, 2, 40, 40), torch.tensor([0, 1, 0, 1])


class Giving(nn.Module):
    """A layer that gives what a function makes of its input; it may change it in place."""

    def __init__(self, change: object) -> None:
        super().__init__()
        self.change = change

    def forward(self, maps: Tensor) -> Tensor:
        return self.change(maps)  # type: ignore[no-any-return, operator]


def calls(*layers: nn.Module) -> dict[str, LayerCall]:
    network = nn.Sequential(nn.Conv2d(2, 2, 1), *layers, nn.Flatten(), nn.Linear(2 * 40 * 40, 2))
    trace = run_batch(network, IMAGES, TARGETS, functional.cross_entropy)
    assert trace.error is None
    return {call.name: call for call in trace.calls}


def one_number(maps: Tensor, number: float) -> Tensor:
    changed = maps.detach().clone()
    changed[2, 1, 39, 39] = number
    return changed


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_not_finite_is_seen(number: float) -> None:
    found = calls(Giving(lambda maps: one_number(maps, number)))
    assert found["0"].finite
    assert not found["1"].finite


def test_large_numbers_are_finite_though_their_sum_is_not() -> None:
    assert not torch.isfinite(torch.full((4, 2, 40, 40), 3e38).sum())
    assert calls(Giving(lambda maps: torch.full_like(maps, 3e38)))["1"].finite


def test_a_difference_in_the_last_pixel_of_one_image_counts() -> None:
    found = calls(Giving(torch.zeros_like), Giving(lambda maps: one_number(maps, 1.0)))
    assert [found[name].output_varies for name in ("0", "1", "2")] == [True, False, True]
    assert [found[name].input_varies for name in ("1", "2", "3")] == [True, False, True]


def test_a_change_in_place_is_seen() -> None:
    """The layer gives the very tensor that it got."""
    found = calls(Giving(lambda maps: maps.mul_(0)))
    assert (found["1"].input_varies, found["1"].output_varies) == (True, False)


def test_layers_in_inference_mode_are_looked_at_too() -> None:
    def inferred(maps: Tensor) -> Tensor:
        with torch.inference_mode():
            return maps * 2

    found = calls(Giving(inferred), Giving(lambda maps: maps.clone().zero_()))
    assert [found[name].output_varies for name in ("1", "2")] == [True, False]
