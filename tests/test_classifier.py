"""One way to find what classifies: names, modules, and refusals that say what the network ends with."""

from __future__ import annotations

import pytest
from torch import nn

from convcraft.config import ModelConfig
from convcraft.errors import UserError
from convcraft.models.build import build_model
from convcraft.models.classifier import classifier_names, classifiers, linear_classifier, only_classifier


class Headed(nn.Module):
    """A network that names the given modules as what classifies."""

    def __init__(self, *heads: nn.Module) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.heads = nn.ModuleList(heads)

    def get_classifier(self) -> nn.Module | tuple[nn.Module, ...]:
        return self.heads[0] if len(self.heads) == 1 else tuple(self.heads)


@pytest.mark.parametrize(
    ("name", "path"),
    [("lenet5", "output"), ("resnet18", "fc"), ("vgg11", "classifier.6"), ("convnext_atto", "head.fc")],
)
def test_ours_and_timms_networks_name_theirs(name: str, path: str) -> None:
    model = build_model(ModelConfig(name=name), num_classes=7, in_channels=3, image_size=(64, 64))
    assert classifier_names(model) == (path,)
    assert linear_classifier(model) == (path, model.get_submodule(path))
    assert linear_classifier(model)[1].out_features == 7


def test_two_heads_are_both_found_and_no_probe_stands_in_for_them() -> None:
    model = Headed(nn.Linear(4, 3), nn.Linear(4, 3))
    assert classifiers(model) == {"heads.0": model.heads[0], "heads.1": model.heads[1]}
    with pytest.raises(UserError, match="2 heads"):
        only_classifier(model)


def test_a_convolution_classifies_but_is_no_linear_layer() -> None:
    model = Headed(nn.Conv2d(4, 3, 1))
    assert only_classifier(model) == ("heads.0", model.heads[0])
    with pytest.raises(UserError, match="ends with Conv2d"):
        linear_classifier(model)


@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(4, 3)), Headed(nn.Identity())])
def test_networks_without_one_are_refused(model: nn.Module) -> None:
    with pytest.raises(UserError, match="has no classifier"):
        classifiers(model)
