"""ResNet-9: the whitening stem, and that a run starts from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from convcraft.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from convcraft.errors import UserError
from convcraft.models.resnet9 import ResNet9
from convcraft.training.run_folder import load_result, read_run
from convcraft.workflows.train import train


def correlated_images(num: int = 200) -> torch.Tensor:
    """float32 [num, 3, 16, 16], neighbours and channels alike, as in photos; left and right mirror each other."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(num, 1, 17, 17, generator=generator) + 0.3 * torch.randn(num, 3, 17, 17, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(noise, kernel_size=2, stride=1)
    return torch.cat([smooth, smooth.flip(-1)])


def test_the_stem_whitens_the_images_patches() -> None:
    network, images = ResNet9(widths=(8, 8, 8), image_size=(16, 16)), correlated_images()
    network.start_from_images(images)
    responses = network.stem(images).permute(1, 0, 2, 3).flatten(1)  # [24, N]
    first, negatives = responses[:12], responses[12:]
    torch.testing.assert_close(first, -negatives)
    covariance = first @ first.T / first.shape[1]
    off_diagonal = covariance - covariance.diag().diag()
    assert off_diagonal.abs().max() < 1e-3
    assert (covariance.diag() > 0.9).all()  # a little below 1: the floor under the variances
    assert (covariance.diag() < 1.001).all()


def test_the_filters_do_not_depend_on_the_order_of_the_images() -> None:
    images = correlated_images()
    one, other = ResNet9(widths=(8, 8, 8)), ResNet9(widths=(8, 8, 8))
    one.start_from_images(images)
    other.start_from_images(images[torch.randperm(len(images), generator=torch.Generator().manual_seed(1))])
    torch.testing.assert_close(one.stem.weight, other.stem.weight)


def test_only_the_stems_biases_learn() -> None:
    network = ResNet9()
    assert not network.stem.weight.requires_grad
    assert network.stem.bias is not None
    assert network.stem.bias.requires_grad


def test_shortcuts_can_be_left_away() -> None:
    torch.manual_seed(0)
    residual = ResNet9(widths=(8, 16, 16)).eval()
    plain = ResNet9(widths=(8, 16, 16), residual=False).eval()
    plain.load_state_dict(residual.state_dict())
    images = torch.randn(2, 3, 32, 32)
    maps = residual.stage1[0](residual.stem_activation(residual.stem(images)))
    torch.testing.assert_close(residual.stage1[1](maps), maps + plain.stage1[1](maps))
    assert not torch.allclose(residual(images), plain(images))


@pytest.mark.parametrize("widths", [[8, 8], [8, 8, 0], "888", [8, 8.0, 8]])
def test_wrong_widths_are_named(widths: object) -> None:
    with pytest.raises(UserError, match="widths"):
        ResNet9(widths=widths)  # type: ignore[arg-type]


def test_a_run_starts_from_its_train_images(tmp_path: Path) -> None:
    config = RunConfig(
        data=DataConfig(source="digits"),
        model=ModelConfig(name="resnet9", args={"widths": [4, 4, 4]}),
        training=TrainingConfig(epochs=0),
    ).changed(preprocess={"image_size": (16, 16)})
    train(config, tmp_path / "run", console=Console(quiet=True))
    weights = load_result(read_run(tmp_path / "run")).tensors["stem.weight"]
    untouched = ResNet9(10, 1, (16, 16), widths=(4, 4, 4)).stem.weight
    lengths = weights.flatten(1).norm(dim=1)
    torch.testing.assert_close(untouched.flatten(1).norm(dim=1), torch.ones(8))  # orthogonal directions of length 1
    assert lengths.max() / lengths.min() > 3  # scaled by what the digits show: edges are rarer than areas

    again = tmp_path / "weights.safetensors"
    again.write_bytes(next((tmp_path / "run" / "checkpoints").glob("step-*/model.safetensors")).read_bytes())
    continued = config.changed(model={"weights": str(again)})
    train(continued, tmp_path / "from-file", console=Console(quiet=True))
    file = next((tmp_path / "from-file" / "checkpoints").glob("step-*/model.safetensors"))
    torch.testing.assert_close(load_file(file)["stem.weight"], weights, rtol=0, atol=0)  # given weights stay
