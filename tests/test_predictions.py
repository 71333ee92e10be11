"""Softmax, the checks of Predictions, and evaluation that leaves the model as it was."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from convcraft.errors import UserError
from convcraft.evaluation.predictions import Predictions, predict_logits, softmax


def batches(images: torch.Tensor, size: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(images=part) for part in images.split(size)]


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 3)
    )


def test_softmax_equals_torch_and_bears_huge_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32) * 20
    assert softmax(logits) == pytest.approx(torch.tensor(logits).double().softmax(1).numpy(), abs=1e-7)
    assert softmax(np.array([[1e30, 0.0], [-1e30, 0.0]])).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert softmax(logits).dtype == np.float32


def test_labels_and_confidence() -> None:
    table = np.array([[0.2, 0.7, 0.1], [0.4, 0.4, 0.2]], dtype=np.float32)
    predictions = Predictions(("a", "b", "c"), table, None, ("x", "y"))
    assert predictions.labels.tolist() == [1, 0]
    assert predictions.confidence.tolist() == pytest.approx([0.7, 0.4])
    assert len(predictions) == 2


@pytest.mark.parametrize(
    ("row", "targets", "names"),
    [
        ([0.5, 0.5], [2], ("x",)),  # a target beyond the classes
        ([0.5, 0.5], [-1], ("x",)),
        ([0.5, 0.5], [0, 1], ("x",)),
        ([0.5, 0.5], [0], ("x", "y")),
        ([2.0, 1.0], [0], ("x",)),  # logits
        ([-0.5, 1.5], [0], ("x",)),
        ([float("nan"), 0.5], [0], ("x",)),
        ([0.2, 0.3, 0.5], [0], ("x",)),  # a head with too many outputs
    ],
)
def test_predictions_that_cannot_be_are_refused(row: list[float], targets: list[int], names: tuple[str, ...]) -> None:
    with pytest.raises(UserError):
        Predictions(("a", "b"), np.array([row], dtype=np.float32), np.array(targets), names)


def test_predict_logits_computes_in_evaluation_mode_and_in_order() -> None:
    network = small_network()
    images = torch.randn(10, 1, 8, 8)
    expected = network.eval()(images).detach().numpy()
    network.train()
    seen: list[tuple[int, int, str]] = []
    logits = predict_logits(network, batches(images, 4), progress=lambda *step: seen.append(step), num_images=10)
    assert logits == pytest.approx(expected, abs=1e-6)
    assert logits.dtype == np.float32
    assert seen == [(4, 10, "predict"), (8, 10, "predict"), (10, 10, "predict")]


def test_predict_logits_leaves_the_model_as_it_was() -> None:
    network = small_network().train()
    network[1].eval()  # a BatchNorm that is frozen by hand must not be woken
    before = {name: value.clone() for name, value in network.state_dict().items()}
    predict_logits(network, batches(torch.randn(6, 1, 8, 8) + 5, 3))
    assert [module.training for module in network] == [True, False, True, True, True, True]
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_training_flags_come_back_after_an_error() -> None:
    network = small_network().train()
    with pytest.raises(RuntimeError):
        predict_logits(network, batches(torch.randn(2, 3, 8, 8), 2))
    assert all(module.training for module in network.modules())


def test_low_precision_logits_come_as_float32() -> None:
    logits = predict_logits(small_network().bfloat16(), batches(torch.randn(2, 1, 8, 8).bfloat16(), 2))
    assert logits.dtype == np.float32


def test_no_images_and_headless_networks_are_refused() -> None:
    with pytest.raises(UserError, match="no images"):
        predict_logits(small_network(), [])
    with pytest.raises(UserError, match="classification head"):
        predict_logits(nn.Conv2d(1, 2, 3), batches(torch.randn(2, 1, 8, 8), 2))
