"""Networks that answer with probabilities are refused; the loss floors are those that a double softmax really has."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from convcraft.config import ModelConfig
from convcraft.errors import UserError
from convcraft.models.build import OWN_MODELS, build_model
from convcraft.models.output_check import loss_floor, refuse_probabilities


def net(*ending: nn.Module, num_classes: int = 10) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, num_classes), *ending)


class Ending(nn.Module):
    """A network whose forward method itself ends in a call."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.body, self.how = net(), how

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body(images)
        if self.how == "divided":
            return logits.exp() / logits.exp().sum(1, keepdim=True)
        if self.how == "shifted":
            return logits - logits.logsumexp(1, keepdim=True)
        answer: Tensor = getattr(torch, self.how)(logits, 1) if "softmax" in self.how else torch.sigmoid(logits)
        return answer


@pytest.mark.parametrize(
    ("ending", "kind", "named"),
    [
        (nn.Softmax(1), "probabilities", r"layer 4 \(Softmax\)"),
        (nn.LogSoftmax(1), "log-probabilities", r"layer 4 \(LogSoftmax\)"),
        (nn.Sigmoid(), "probabilities", r"layer 4 \(Sigmoid\)"),
    ],
)
def test_a_last_module_is_named(ending: nn.Module, kind: str, named: str) -> None:
    with pytest.raises(UserError, match=rf"returns {kind}, from {named}"):
        refuse_probabilities(net(ending), 1, (8, 8))


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("softmax", "probabilities"),
        ("sigmoid", "probabilities"),
        ("log_softmax", "log-probabilities"),
        ("divided", "probabilities"),
        ("shifted", "log-probabilities"),
    ],
)
def test_a_call_in_the_forward_method_is_found(how: str, kind: str) -> None:
    model = Ending(how)
    with pytest.raises(UserError, match=f"returns {kind}, from a call in its forward method"):
        refuse_probabilities(model, 1, (8, 8))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(UserError, match=kind):
        refuse_probabilities(model, 1, (8, 8))


def test_the_message_gives_the_floor() -> None:
    with pytest.raises(UserError, match=r"10 classes cross-entropy could not fall below 1\.4612"):
        refuse_probabilities(net(nn.Softmax(1)), 1, (8, 8))
    with pytest.raises(UserError, match=r"2 classes cross-entropy could not fall below 0\.3133"):
        refuse_probabilities(net(nn.Softmax(1), num_classes=2), 1, (8, 8))


def test_the_floor_is_the_least_loss_that_training_reaches() -> None:
    assert loss_floor(2) == pytest.approx(0.3133, abs=5e-5)
    assert loss_floor(10) == pytest.approx(1.4612, abs=5e-5)
    for num_classes in (2, 10):
        inputs = torch.zeros(num_classes, num_classes, requires_grad=True)  # one row per class, free to be anything
        optimizer = torch.optim.Adam([inputs], lr=0.5)
        for _ in range(400):
            loss = functional.cross_entropy(inputs.softmax(1), torch.arange(num_classes))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert loss.item() >= loss_floor(num_classes) - 1e-6
        assert loss.item() == pytest.approx(loss_floor(num_classes), abs=2e-3)
    assert functional.cross_entropy(100 * torch.eye(10), torch.arange(10)).item() < 1e-6  # logits know no floor


@pytest.mark.parametrize("name", list(OWN_MODELS))
def test_our_networks_give_logits(name: str) -> None:
    size = (32, 32)
    try:
        model = build_model(ModelConfig(name=name), num_classes=2, in_channels=3, image_size=size)
    except UserError:
        size = (224, 224)
        model = build_model(ModelConfig(name=name), num_classes=2, in_channels=3, image_size=size)
    refuse_probabilities(model, 3, size)


def test_odd_but_honest_logits_pass() -> None:
    refuse_probabilities(net(nn.ReLU()), 1, (8, 8))
    refuse_probabilities(net(nn.Tanh()), 1, (8, 8))
    zero = net()
    nn.init.zeros_(zero[3].weight), nn.init.zeros_(zero[3].bias)
    refuse_probabilities(zero, 1, (8, 8))
    nn.init.constant_(zero[3].bias, 1 / math.e)
    refuse_probabilities(zero, 1, (8, 8))


def test_the_check_leaves_no_trace() -> None:
    model = net()
    model[1].train(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    refuse_probabilities(model, 1, (8, 8))
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert not model[1].training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
