"""Channels that go together, blocks that can go, what is lost without them, and networks that got smaller."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from convcraft.config import ModelConfig
from convcraft.deploy.compress.blocks import removable_blocks
from convcraft.deploy.compress.channels import Cost, Limits, prune_channels
from convcraft.deploy.compress.groups import Groups, find_groups, remove_channels
from convcraft.deploy.compress.importance import Importance, least_missed_first, measure_importance
from convcraft.errors import UserError
from convcraft.models.build import build_model

torch_pruning = pytest.importorskip("torch_pruning")
SHAPE = (3, 32, 32)


@dataclass(frozen=True)
class Batch:
    images: Tensor
    targets: Tensor


def network(name: str, **args: object) -> nn.Module:
    """With batch norms that are no identities, as after training."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(name=name, args=args), num_classes=4, in_channels=3, image_size=SHAPE[1:]).eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model


def batches(number: int = 2) -> list[Batch]:
    draw = torch.Generator().manual_seed(1)
    return [
        Batch(torch.randn(6, *SHAPE, generator=draw), torch.randint(4, (6,), generator=draw)) for _ in range(number)
    ]


@cache
def prepared(name: str) -> tuple[nn.Module, Groups, Importance]:
    """What pruning needs; no test changes it."""
    model = network(name)
    groups = find_groups(model, SHAPE)
    blocks = removable_blocks(model, torch.randn(2, *SHAPE))
    return model, groups, measure_importance(model, groups.sound, blocks, batches(), cross_entropy)


# Groups -------------------------------------------------------------------------------------------------------------


def test_the_padded_shortcuts_of_a_cifar_resnet_keep_their_channels() -> None:
    groups = prepared("resnet20_cifar")[1]
    assert [group.root for group in groups.sound] == [
        f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in (0, 1, 2)
    ]
    assert [root for root, _ in groups.refused] == ["conv1"]
    first = groups.sound[0]
    assert (first.makers, [reader.path for reader in first.readers]) == (
        ("layer1.0.conv1", "layer1.0.bn1"),
        ["layer1.0.conv2"],
    )


def test_a_network_that_flattens_in_another_order_is_seen_through() -> None:
    """torch-pruning takes Keras' order of flattened maps for torch's; the last convolution cannot be pruned then."""
    assert [root for root, _ in find_groups(network("keras_cnn"), SHAPE).refused] == ["conv4"]


@pytest.mark.parametrize("name", ["vgg_small", "resnet18", "mobilenetv2_100", "regnety_002"])
def test_a_silenced_channel_can_be_removed_without_a_trace(name: str) -> None:
    """Also of depthwise and grouped convolutions. By hand: the weights on a channel are zero, then it goes."""
    model = network(name).double()
    groups = find_groups(model, SHAPE).sound
    group = next(group for group in groups if len(group.units) > 2 and len(group.readers) == 1)
    reader = group.readers[0]
    layer = model.get_submodule(reader.path)
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        pytest.skip("read by a grouped layer")
    gone = set(group.units[1])
    assert isinstance(layer, (nn.Conv2d, nn.Linear))
    with torch.no_grad():
        for channel, of in zip(reader.channels, reader.of, strict=True):
            if of in gone:
                layer.weight[:, channel] = 0
    images = torch.randn(2, *SHAPE, dtype=torch.float64)
    expected = model(images).detach()
    remove_channels(model, [(group, [1])], images)
    assert len(model.get_submodule(group.root).get_parameter("weight")) == len(group.units) * len(gone) - len(gone)
    assert float((model(images) - expected).detach().abs().max()) < 1e-10


def test_finding_groups_leaves_the_network_alone() -> None:
    model = network("resnet20_cifar")
    before = copy.deepcopy(model.state_dict())
    find_groups(model, SHAPE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert next(model.parameters()).dtype == torch.float32


# Blocks -------------------------------------------------------------------------------------------------------------


def test_blocks_with_a_plain_shortcut_can_go() -> None:
    images = torch.randn(2, *SHAPE)
    cifar = removable_blocks(network("resnet20_cifar"), images)
    assert cifar == ("layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2")
    assert removable_blocks(network("resnet18"), images) == (
        "layer1.0",
        "layer1.1",
        "layer2.1",
        "layer3.1",
        "layer4.1",
    )
    assert removable_blocks(network("plain18"), images) == ()
    assert removable_blocks(network("vgg_small"), images) == ()


# Importance ---------------------------------------------------------------------------------------------------------


def test_importance_is_the_change_of_the_loss() -> None:
    """Against finite differences: a channel closed by a thousandth, a block mixed with its input by a thousandth."""
    groups = prepared("resnet20_cifar")[1]
    model = network("resnet20_cifar").double()
    (batch,) = batches(1)
    exact = Batch(batch.images.double(), batch.targets)
    found = measure_importance(model, groups.sound, ("layer2.1",), [exact], cross_entropy)
    step = 1e-5

    def losses(change: nn.Module) -> Tensor:
        with torch.no_grad():
            return cross_entropy(change(exact.images), exact.targets, reduction="none")

    rows = []
    for unit in range(16):
        closed = copy.deepcopy(model)
        with torch.no_grad():
            closed.get_parameter("layer1.0.conv2.weight")[:, unit] *= 1 - step
        rows.append((losses(closed) - losses(model)) / step)
    changes = torch.stack(rows).numpy()
    by_hand = least_missed_first((changes @ changes.T) / len(exact.images))
    assert found.thinning[0].order[:8].tolist() == by_hand.order[:8].tolist()
    assert found.thinning[0].losses == pytest.approx(by_hand.losses, rel=1e-2, abs=1e-6)

    class Mixed(nn.Module):
        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.block = block

        def forward(self, maps: Tensor) -> Tensor:
            made: Tensor = self.block(maps)
            return made + step * (maps - made)

    mixed = copy.deepcopy(model)
    mixed.set_submodule("layer2.1", Mixed(mixed.get_submodule("layer2.1")))
    by_hand_block = float((((losses(mixed) - losses(model)) / step) ** 2).mean())
    assert found.blocks["layer2.1"] == pytest.approx(by_hand_block, rel=1e-2)


def test_channels_that_replace_each_other_go_one_at_a_time() -> None:
    """Two channels that cancel out are cheap together; a third alone costs more than the pair."""
    changes = np.array([[1.0, -1.0, 0.5], [2.0, -2.0, 0.5]])
    thinning = least_missed_first(changes.T @ changes / 2)
    assert thinning.order.tolist() == [2, 0, 1] or thinning.order.tolist() == [2, 1, 0]
    assert thinning.losses[0] == 0
    assert thinning.losses[3] == pytest.approx(0.25)
    assert len(thinning.losses) == 4


# Pruning ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet20_cifar", 0.5),
        ("vgg_small", 0.4),
        ("mobilenetv2_100", 0.5),
        pytest.param("resnext50_32x4d", 0.6, marks=pytest.mark.slow),
    ],
)
def test_work_is_brought_down_to_the_share(name: str, left: float) -> None:
    model, groups, found = prepared(name)
    before = copy.deepcopy(model.state_dict())
    pruned = prune_channels(model, SHAPE, groups.sound, found, left=left)
    share = pruned.after.multiply_adds / pruned.before.multiply_adds
    assert left - 0.12 < share <= left
    assert pruned.after == Cost.of(pruned.network, SHAPE)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())

    counted, parameters = torch_pruning.utils.count_ops_and_params(pruned.network, torch.zeros(1, *SHAPE))
    assert parameters == pruned.after.parameters
    assert counted == pytest.approx(pruned.after.multiply_adds, rel=0.1)  # it counts norms and poolings, too

    config = ModelConfig(name=name, pruned=pruned.shapes)
    again = build_model(config, num_classes=4, in_channels=3, image_size=SHAPE[1:]).eval()
    again.load_state_dict(pruned.network.state_dict())
    images = torch.randn(2, *SHAPE)
    assert torch.equal(again(images), pruned.network(images))


def test_classifier_and_input_keep_their_size() -> None:
    model, groups, found = prepared("vgg_small")
    pruned = prune_channels(model, SHAPE, groups.sound, found, left=0.3)
    assert pruned.network(torch.zeros(1, *SHAPE)).shape == (1, 4)


def test_limits_hold() -> None:
    model, groups, found = prepared("resnet20_cifar")
    channels_alone = replace(found, blocks={})
    limits = Limits(largest_cut=0.5, multiple=4)
    pruned = prune_channels(model, SHAPE, groups.sound, channels_alone, left=0.6, limits=limits)
    for group in groups.sound:
        made = len(pruned.network.get_submodule(group.root).get_parameter("weight"))
        assert made % 4 == 0
        assert made >= len(group.units) / 2
    with pytest.raises(UserError, match=r"at least 0\.5"):
        prune_channels(model, SHAPE, groups.sound, channels_alone, left=0.3, limits=limits)


def test_the_more_is_asked_for_the_less_is_left() -> None:
    model, groups, found = prepared("resnet20_cifar")
    left = [prune_channels(model, SHAPE, groups.sound, found, left=share).after for share in (0.9, 0.7, 0.5, 0.35)]
    assert all(more.multiply_adds > less.multiply_adds for more, less in pairwise(left))


def test_whole_blocks_go_rather_than_thin_layers_where_thinning_is_worth_little() -> None:
    model, groups, found = prepared("resnet20_cifar")
    number = [
        len(prune_channels(model, SHAPE, groups.sound, found, left=0.5, limits=Limits(thinning_worth=worth)).blocks)
        for worth in (1.0, 0.05)
    ]
    assert number[1] > number[0]


@pytest.mark.parametrize("left", [0.0, 1.0, -0.5, 1.5])
def test_shares_that_are_none_are_refused(left: float) -> None:
    model = network("resnet20_cifar")
    with pytest.raises(UserError, match="between 0 and 1"):
        prune_channels(model, SHAPE, (), Importance((), {}), left=left)
