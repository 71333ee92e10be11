"""The heat maps: small cases by hand, other tools, and a network that is left as it was."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from convcraft.explain.grad_cam import grad_cam
from convcraft.explain.target_layer import target_layer


class _Square(nn.Module):
    """Two maps of 2x2 into two classes: logit k = sum over maps and places of weight[k] * map."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(1, 2, 1, bias=False)
        self.head = nn.Linear(8, 2, bias=False)
        with torch.no_grad():
            self.maps.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
            self.head.weight.copy_(torch.tensor([[1.0, 2, 3, 6, 0, 0, 0, -4], [0, 0, 0, -4, 1.0, 1, 1, 1]]))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.maps(images).flatten(1))


IMAGE = torch.tensor([[[[1.0, 2.0], [-3.0, 4.0]]]])


def test_grad_cam_by_hand() -> None:
    # Class 0: mean gradients 3 and -1, maps x and -x: relu(4x) = 4, 8, 0, 16.
    found = grad_cam(_Square(), IMAGE, torch.tensor([0]))
    np.testing.assert_allclose(found, [[[0.25, 0.5], [0, 1]]])
    # Class 1: mean gradients -1 and 1: relu(-2x) = 0, 0, 6, 0.
    found = grad_cam(_Square(), IMAGE, torch.tensor([1]))
    np.testing.assert_allclose(found, [[[0, 0], [1, 0]]])


def test_the_default_layer_is_the_last_with_a_map() -> None:
    assert target_layer(_Square(), IMAGE)[0] == "maps"
