"""Adapters start as nothing, learn a change of low rank, never outgrow their layer, and merge into it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from calibrated import assert_merges, calibrated_network
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from convcraft.config import ModelConfig
from convcraft.errors import UserError
from convcraft.finetune.lora import LowRank, adapt, adapters_of, largest_rank, merge, plan_lora
from convcraft.models.build import build_model

NETWORKS = {
    "resnet18": {},
    "lenet5": {},
    "mobilenetv2_100": {"pad_type": "same"},  # timm's Conv2dSame
    "convnext_atto": {},
    "resnext26ts": {},  # grouped convolutions
}


class Small(nn.Module):
    """One layer of each kind before a classifier."""

    def __init__(self, **conv: object) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 12, kernel_size=3, **conv)  # type: ignore[arg-type]
        self.hidden = nn.Linear(12, 10)
        self.fc = nn.Linear(10, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(torch.relu(self.hidden(self.conv(images).mean(dim=(2, 3)))))

    def get_classifier(self) -> nn.Linear:
        return self.fc


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return calibrated_network(ModelConfig(name=name, args=NETWORKS[name]), torch.randn(16, 3, 32, 32))


def merged_copy(model: nn.Module) -> nn.Module:
    plain = copy.deepcopy(model)
    merge(plain)
    return plain


def learned(model: nn.Module, size: float = 0.01) -> nn.Module:
    """As if adapters had been trained."""
    torch.manual_seed(1)
    for _, adapter in adapters_of(model):
        nn.init.normal_(adapter.up.weight, std=size)
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_adapters_start_as_nothing_and_merge_into_plain_layers(name: str) -> None:
    plain = network(name)
    adapted = copy.deepcopy(plain)
    plan = plan_lora(adapted, rank=4)
    adapt(adapted, plan)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = plain(images)
        assert torch.equal(adapted(images), before)
        names = set(adapted.state_dict())
        assert names > set(plain.state_dict())
        assert len(names) == len(plain.state_dict()) + 2 * len(plan.adapted)
        expected = learned(adapted)(images)
        assert not torch.allclose(expected, before, atol=1e-2)
        base = {key: value.clone() for key, value in adapted.state_dict().items() if ".lora." not in key}
        assert all(torch.equal(value, plain.state_dict()[key]) for key, value in base.items())
    assert_merges(adapted, merged_copy, images)
    merged = merged_copy(adapted)
    assert merged.state_dict().keys() == plain.state_dict().keys()
    assert not any(module._forward_hooks for module in merged.modules())
    assert not adapters_of(merged)


@pytest.mark.parametrize(
    ("dtype", "careless"),
    [(torch.float64, lambda change: change * (1 + 1e-6)), (torch.float32, lambda change: change.bfloat16())],
)
def test_a_merge_that_is_a_little_off_is_noticed(dtype: torch.dtype, careless: Callable[[Tensor], Tensor]) -> None:
    """A change that is a millionth too large, and one that loses digits where float32 is merged."""

    def badly_merged(model: nn.Module) -> nn.Module:
        plain = copy.deepcopy(model)
        changes = {path: adapter.weight_change() for path, adapter in adapters_of(plain)}
        before = {path: plain.get_submodule(path).weight.detach().clone() for path in changes}
        merge(plain)
        for path, change in changes.items():
            weight = plain.get_submodule(path).weight
            if weight.dtype == dtype:
                weight.data.copy_(before[path] + careless(change))
        return plain

    adapted = network("lenet5")
    adapt(adapted, plan_lora(adapted, rank=4))
    images = torch.randn(2, 3, 32, 32)
    assert_merges(learned(adapted, 0.1), merged_copy, images)
    with pytest.raises(AssertionError, match=f"in {str(dtype).removeprefix('torch.')}"):
        assert_merges(adapted, badly_merged, images)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rank", [1, 8, 4096])
def test_no_adapter_is_larger_than_its_layer(name: str, rank: int) -> None:
    model = network(name)
    total = sum(parameter.numel() for parameter in model.parameters())
    plan = plan_lora(model, rank)
    assert sum(parameter.numel() for parameter in model.parameters()) == total  # a plan changes nothing
    adapt(model, plan)
    chosen = {layer.name: layer for layer in plan.adapted}
    for path, adapter in adapters_of(model):
        layer = model.get_submodule(path)
        size = sum(parameter.numel() for parameter in adapter.parameters())
        assert size == chosen[path].num_parameters <= layer.weight.numel() == chosen[path].layer_parameters
        assert chosen[path].rank <= max(rank, getattr(layer, "groups", 1))
    assert len(chosen) == len(adapters_of(model))


def test_depthwise_layers_are_skipped_by_name() -> None:
    model = network("mobilenetv2_100")
    plan = plan_lora(model, 4)
    depthwise = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1}
    assert {name for name, _ in plan.skipped} == depthwise
    assert all("depthwise" in reason for _, reason in plan.skipped)
    assert "blocks.1.0.conv_dw" in str(plan)
    assert "any adapter would be larger" in str(plan)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stride": 2, "padding": 1},
        {"dilation": 2, "padding": 2, "padding_mode": "reflect"},
        {"groups": 2},
        {"groups": 4, "bias": False},
    ],
)
def test_the_change_of_the_weight_is_that_of_the_output(settings: dict[str, object]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 12, kernel_size=(3, 5), **settings).double()  # type: ignore[arg-type]
    rank = 4
    adapter = LowRank(layer, rank)
    nn.init.normal_(adapter.up.weight)
    images = torch.randn(2, 8, 12, 12, dtype=torch.float64)
    changed = copy.deepcopy(layer)
    changed.weight.data += adapter.weight_change()
    torch.testing.assert_close(changed(images), layer(images) + adapter(images))
    matrices = adapter.weight_change().reshape(layer.groups, 12 // layer.groups, -1)
    assert all(torch.linalg.matrix_rank(matrix) == rank // layer.groups for matrix in matrices)


def test_the_change_of_a_linear_layer_is_the_product_of_its_factors() -> None:
    layer = nn.Linear(7, 5)
    adapter = LowRank(layer, 2)
    nn.init.normal_(adapter.up.weight)
    rows = torch.randn(3, 4, 7)  # tokens
    expected = F.linear(rows, (adapter.up.weight @ adapter.down.weight).double().float())
    torch.testing.assert_close(adapter(rows), expected)
    assert adapter.weight_change().dtype == torch.float64


def test_largest_rank_is_the_last_that_fits() -> None:
    layer = nn.Conv2d(8, 12, 3)
    assert largest_rank(layer) == (8 * 12 * 9) // (8 * 9 + 12) == 10
    assert largest_rank(nn.Conv2d(8, 8, 3, groups=8)) == 0
    assert largest_rank(nn.Conv2d(16, 16, 3, groups=4)) == 4 * (4 * 4 * 9 // (4 * 9 + 4))


@pytest.mark.parametrize("fraction", [0.02, 0.05, 0.2])
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100", "convnext_atto"])
def test_a_budget_is_kept(name: str, fraction: float) -> None:
    model = network(name)
    total = sum(parameter.numel() for parameter in model.parameters())
    plan = plan_lora(model, 64, budget_fraction=fraction)
    adapt(model, plan)
    trained = sum(p.numel() for n, p in model.named_parameters() if ".lora." in n)
    trained += sum(p.numel() for p in model.get_classifier().parameters())
    assert trained == plan.num_trainable <= fraction * total
    assert plan.fraction == trained / total
    if not any("budget" in reason for _, reason in plan.skipped):  # nothing was left out: one rank more must not fit
        rank = max(layer.rank for layer in plan.adapted)
        assert rank == 64 or plan_lora(network(name), rank + 1).num_trainable > fraction * total


def test_a_tight_budget_leaves_out_the_first_layers() -> None:
    model = network("resnet18")
    least = plan_lora(model, 1)
    last = least.adapted[-1].num_parameters
    total = least.num_model_parameters
    tight = plan_lora(model, 8, budget_fraction=(least.num_head_parameters + last + 1) / total)
    assert [layer.name for layer in tight.adapted] == [least.adapted[-1].name]
    assert ("conv1", "beyond the parameter budget") in tight.skipped
    with pytest.raises(UserError, match="no adapter fits"):
        plan_lora(model, 8, budget_fraction=(least.num_head_parameters + 1) / total)
    with pytest.raises(UserError, match="classifier alone"):
        plan_lora(model, 8, budget_fraction=1e-5)


class Standardised(nn.Conv2d):
    """Its output is not linear in its weight, so no change of the weight equals one of the output."""

    def forward(self, images: Tensor) -> Tensor:
        weight = (self.weight - self.weight.mean()) / self.weight.std()
        return self._conv_forward(images, weight, self.bias)


def test_layers_that_are_not_plain_are_named() -> None:
    model = Small()
    model.conv = Standardised(8, 12, 3)
    model.hidden.requires_grad_(False)
    with pytest.raises(UserError, match="no layer can be adapted"):
        plan_lora(model, 2)
    model.hidden.requires_grad_(True)
    plan = plan_lora(model, 2)
    assert [layer.name for layer in plan.adapted] == ["hidden"]
    assert plan.skipped == (("conv", "Standardised is no plain convolution or linear layer"),)


def test_layers_whose_weights_are_read_past_them_are_named() -> None:
    model = Small()
    model.attention = nn.MultiheadAttention(8, 2)
    assert [name for name, _ in plan_lora(model, 2).skipped] == ["attention.out_proj"]


def test_an_adapted_network_is_saved_and_loaded() -> None:
    first, second = Small(), Small()
    for model in (first, second):
        adapt(model, plan_lora(model, 2))
    learned(first)
    second.load_state_dict(first.state_dict())
    images = torch.randn(2, 8, 6, 6)
    assert torch.equal(first(images), second(images))
    copied = copy.deepcopy(first)
    learned(first, size=1.0)
    assert torch.equal(copied(images), second(images))  # a copy has its own adapters


def test_gradients_reach_the_adapters() -> None:
    model = Small()
    adapt(model, plan_lora(model, 2))
    learned(model)
    F.cross_entropy(model(torch.randn(4, 8, 6, 6)), torch.tensor([0, 1, 2, 0])).backward()
    for _, adapter in adapters_of(model):
        assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in adapter.parameters())


def test_peft_gives_the_same_change() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    torch.manual_seed(0)
    ours, theirs = Small(), Small()
    theirs.load_state_dict(ours.state_dict())
    adapt(ours, plan_lora(ours, 2))
    learned(ours, 0.5)
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["conv", "hidden"])
    theirs = peft.get_peft_model(theirs, config)
    for name, adapter in adapters_of(ours):
        layer = theirs.base_model.model.get_submodule(name)
        layer.lora_A["default"].weight.data.copy_(adapter.down.weight)
        layer.lora_B["default"].weight.data.copy_(adapter.up.weight)
    images = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.slow
def test_merged_logits_of_a_trained_network_in_float32(data_dir: Path) -> None:
    config = ModelConfig(name="mobilenetv2_100", args={"pad_type": "same"})
    model = build_model(config, num_classes=1000, in_channels=3, image_size=(224, 224))
    model.load_state_dict(load_file(data_dir / "weights" / "mobilenetv2_100_imagenet.safetensors"), strict=False)
    adapt(model.eval(), plan_lora(model, 8))
    learned(model, 0.003)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        before = model(images)
        merge(model)
        difference = (model(images) - before).abs().max()
    assert difference < 1e-5 * before.abs().max()
