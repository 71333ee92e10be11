"""Features are what the classifier gets, remembered or not; extraction leaves no trace on the network."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from convcraft.config import AugmentConfig, ModelConfig
from convcraft.data.augment import Augmenter
from convcraft.data.image_set import ImageSet
from convcraft.data.preprocess import Preprocess
from convcraft.data.sample import Sample
from convcraft.errors import UserError
from convcraft.finetune import feature_cache
from convcraft.finetune.feature_cache import make_room
from convcraft.finetune.features import extract_features
from convcraft.finetune.map_warp import MapWarp
from convcraft.finetune.tapped_network import pooled
from convcraft.models.build import build_model
from convcraft.models.initialise import initialise_classifier
from convcraft.training.freeze import freeze

PREPROCESS = Preprocess(height=16, width=16, channels=3, resize="stretch", mean=(0.5,), std=(0.25,))


def network(name: str = "resnet20_cifar", seed: int = 0, **settings: object) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(ModelConfig(name=name, **settings), num_classes=3, in_channels=3, image_size=(16, 16))


def image_set(num_images: int = 10, seed: int = 0, *, streams: bool = False) -> ImageSet:
    pixels = np.random.default_rng(seed).integers(0, 256, (num_images, 16, 16, 3), dtype=np.uint8)
    samples = [Sample(image, index % 3, f"{index}.png") for index, image in enumerate(pixels)]
    return ImageSet.build(samples, PREPROCESS, memory_bytes=0 if streams else 1 << 30)


def augmenter(seed: int = 0, **changes: object) -> Augmenter:
    return Augmenter(AugmentConfig(**(changes or {"shift_fraction": 0.3, "noise_std": 0.1})), PREPROCESS, 3, seed)


def logits_of(model: nn.Module, images: ImageSet) -> np.ndarray:
    model.eval()
    with torch.no_grad():
        return model(torch.from_numpy(images.preprocess.normalise(images.pixels_of(np.arange(len(images)))))).numpy()


@pytest.mark.parametrize(
    "name", ["resnet20_cifar", "lenet5", "vgg_small", "timm/mobilenetv2_035", "timm/convnext_atto"]
)
@pytest.mark.parametrize("streams", [False, True])
def test_classifier_of_last_gives_the_logits(name, streams):
    size = 32 if name == "timm/convnext_atto" else 16
    preprocess = replace(PREPROCESS, height=size, width=size)
    images = image_set(streams=streams)
    images = ImageSet.build(images.samples, preprocess, 0 if streams else 1 << 30)
    torch.manual_seed(0)
    model = build_model(ModelConfig(name=name, dropout=0.5), num_classes=3, in_channels=3, image_size=(size, size))
    features = extract_features(model, images)
    assert features.last.shape[:2] == (1, 10)
    with torch.no_grad():
        logits = model.get_classifier()(torch.from_numpy(features.last[0])).numpy()
    assert np.allclose(logits, logits_of(model, images), atol=1e-4)


def test_leaves_the_network_as_it_was():
    model = network()
    freeze(model, ["layer1"])
    model.train()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    strides = [parameter.stride() for parameter in model.parameters()]
    extract_features(model, image_set(), taps=("layer2",), views=2, augmenter=augmenter())
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())  # statistics too
    assert [parameter.stride() for parameter in model.parameters()] == strides
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_views_are_the_augmenters_epochs():
    model, images = network(), image_set()
    features = extract_features(model, images, views=2, augmenter=augmenter(), precision="32-true")
    ids = np.arange(len(images))
    model.eval()
    classifier = model.get_classifier()
    for view in (1, 2):
        changed, _ = augmenter()(torch.from_numpy(images.pixels_of(ids)), torch.from_numpy(images.targets), ids, view)
        with torch.no_grad():
            logits = model(changed).numpy()
            assert np.allclose(classifier(torch.from_numpy(features.last[view])).numpy(), logits, atol=1e-4)
            other = classifier(torch.from_numpy(features.last[3 - view])).numpy()
        assert not np.allclose(other, logits, atol=1e-3)


def test_taps_are_pooled_outputs():
    model, images = network(), image_set()
    features = extract_features(model, images, taps=("layer1", "layer2.0"), views=1, augmenter=augmenter())
    assert list(features.tapped) == ["layer1", "layer2.0"]
    maps: list[torch.Tensor] = []
    model.layer1.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    logits_of(model, images)
    assert features.tapped["layer1"].shape == (2, 10, maps[0].shape[1])
    assert np.allclose(features.tapped["layer1"][0], maps[0].mean((2, 3)).numpy(), atol=1e-5)
    cells = extract_features(model, images, taps=("layer1",), pool_side=2).tapped["layer1"]
    assert cells.shape == (1, 10, 4 * maps[0].shape[1])
    assert np.allclose(cells[0].reshape(10, -1, 4).mean(axis=2), features.tapped["layer1"][0], atol=1e-5)
    some = features.subset(np.array([7, 2]))
    assert np.array_equal(some.tapped["layer1"], features.tapped["layer1"][:, [7, 2]])


def test_pooled():
    maps = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    corners = [
        maps[0, 0, rows, columns].mean() for rows in (slice(2), slice(2, 4)) for columns in (slice(2), slice(2, 4))
    ]
    assert torch.equal(pooled(maps, 2)[0, :4], torch.stack(corners))
    assert pooled(torch.ones(2, 5, 7), 1).shape == (2, 7)
    with pytest.raises(UserError, match="puts out"):
        pooled((maps, maps), 1, "pair")


def test_bfloat16_is_close_and_for_views_alone():
    model, images = network(), image_set()
    exact = extract_features(model, images, views=1, augmenter=augmenter(), precision="32-true").last
    mixed = extract_features(model, images, views=1, augmenter=augmenter(), precision="bf16-mixed").last
    chosen = extract_features(model, images, views=1, augmenter=augmenter()).last
    assert np.array_equal(chosen[0], exact[0])
    assert not np.array_equal(mixed, exact)
    assert np.abs(mixed - exact).max() < 0.05 * np.abs(exact).max()


# --- cache ---


def extract(model: nn.Module, images: ImageSet, cache: Path | None, **settings: object):
    given = {"views": 2, "augmenter": augmenter(), "taps": ("layer1",), "precision": "32-true", **settings}
    return extract_features(model, images, cache_dir=cache, **given)


@pytest.mark.parametrize("streams", [False, True])
def test_remembered_is_what_was_computed(tmp_path, streams):
    model, images = network(), image_set(streams=streams)
    alone, first, second = (
        extract(model, images, None),
        extract(model, images, tmp_path),
        extract(model, images, tmp_path),
    )
    assert (first.num_computed, second.num_computed) == (30, 0)
    for features in (first, second):
        assert np.array_equal(features.last, alone.last)
        assert np.array_equal(features.tapped["layer1"], alone.tapped["layer1"])


def test_finds_images_again_in_any_selection(tmp_path):
    model, images = network(), image_set()
    whole = extract(model, images, tmp_path, views=0)
    some = np.array([8, 3, 3, 5])
    again = extract(model, images.subset(some), tmp_path, views=0)
    assert again.num_computed == 0
    assert np.array_equal(again.last, whole.last[:, some])
    joined = extract(model, images.joined(image_set(2, seed=5)), tmp_path, views=0)
    assert joined.num_computed == 2


def test_a_fresh_head_finds_the_bodys_features(tmp_path):
    model, images = network(), image_set()
    extract(model, images, tmp_path)
    initialise_classifier(model.get_classifier())
    assert extract(model, images, tmp_path).num_computed == 0


def _changed_weight(model: nn.Module) -> None:
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3


def _changed_statistics(model: nn.Module) -> None:
    next(buffer for name, buffer in model.named_buffers() if name.endswith("running_var"))[0] += 0.1


def _changed_stride(model: nn.Module) -> None:
    next(module for module in model.modules() if isinstance(module, nn.Conv2d)).padding = (0, 0)


@pytest.mark.parametrize("change", [_changed_weight, _changed_statistics, _changed_stride])
def test_another_network_is_computed_anew(tmp_path, change):
    model, images = network(), image_set()
    first = extract(model, images, tmp_path)
    change(model)
    second = extract(model, images, tmp_path)
    assert second.num_computed == 30
    assert not np.array_equal(first.last, second.last)


@pytest.mark.parametrize(
    ("settings", "num_computed"),
    [
        ({"augmenter": augmenter(seed=1)}, 20),  # the images themselves are known
        ({"augmenter": augmenter(shift_fraction=0.2)}, 20),
        ({"views": 3}, 10),  # two of three views are known
        ({"taps": ("layer2",)}, 30),
        ({"taps": ()}, 30),
        ({"pool_side": 2}, 30),
        ({"precision": "bf16-mixed"}, 30),
    ],
)
def test_other_settings_are_computed_anew(tmp_path, settings, num_computed):
    model, images = network(), image_set()
    extract(model, images, tmp_path)
    assert extract(model, images, tmp_path, **settings).num_computed == num_computed
    assert np.array_equal(
        extract(model, images, tmp_path, **settings).last, extract(model, images, None, **settings).last
    )


def test_other_pixels_and_other_preprocessing_are_computed_anew(tmp_path):
    model, images = network(), image_set()
    extract(model, images, tmp_path)
    assert images.pixels is not None
    images.pixels[4, 0, 0, 0] ^= 1
    assert extract(model, images, tmp_path).num_computed == 3  # one image and its two views
    other = replace(images, preprocess=replace(PREPROCESS, mean=(0.4,)))
    assert extract(model, other, tmp_path).num_computed == 30


def test_views_belong_to_their_number_in_the_set(tmp_path):
    """An image's draws follow its number: moved to another place, its views are others, and it is not."""
    model, images = network(), image_set()
    extract(model, images, tmp_path)
    turned = images.subset(np.arange(10)[::-1].copy())
    features = extract(model, turned, tmp_path)
    assert features.num_computed == 20
    assert np.array_equal(features.last, extract(model, turned, None).last)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-5], lambda data: data[:-5] + b"\0" + data[-4:], lambda _data: b""]
)
def test_damaged_files_are_computed_anew(tmp_path, damage):
    model, images = network(), image_set()
    whole = extract(model, images, tmp_path)
    files = sorted(tmp_path.rglob("*.safetensors"))
    files[0].write_bytes(damage(files[0].read_bytes()))
    again = extract(model, images, tmp_path)
    assert again.num_computed == 10
    assert np.array_equal(again.last, whole.last)
    assert extract(model, images, tmp_path).num_computed == 0


def test_room_is_made_by_age(tmp_path, monkeypatch):
    model = network()
    sets = [image_set(seed=seed) for seed in range(3)]
    for images in sets:
        extract(model, images, tmp_path, views=0)
        time.sleep(0.02)
    size_bytes = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    extract(model, sets[0], tmp_path, views=0)  # used again: now the second is the oldest
    assert make_room(tmp_path, 10, limit_bytes=size_bytes)
    left = [extract(model, images, None, views=0).last for images in sets]
    stored = [load_file(file)["rows"] for file in tmp_path.rglob("*.safetensors")]
    width = left[0].shape[2]
    kept = [any(np.array_equal(rows[:, :width], last[0]) for rows in stored) for last in left]
    assert kept == [True, False, True]
    monkeypatch.setattr(feature_cache, "LARGEST_CACHE_BYTES", 10)
    assert extract(model, sets[1], tmp_path, views=0).num_computed == 10
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2  # too large to be kept: nothing was removed for it


def test_two_at_once(tmp_path):
    model, images = network(), image_set()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: extract(model, images, tmp_path, views=0).last, range(8)))
    assert all(np.array_equal(last, found[0]) for last in found)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1  # equal content has one name
    assert not list(tmp_path.rglob("*.tmp"))
    assert extract(model, images, tmp_path, views=0).num_computed == 0


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path):
    place = tmp_path / "file"
    place.write_text("no folder")
    model, images = network(), image_set()
    assert np.array_equal(extract(model, images, place).last, extract(model, images, None).last)


KILLED = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    import torch
    torch.set_num_threads(1)
    from convcraft.finetune import features
    from test_features import augmenter, image_set, network
    features.LARGEST_BATCH, features.BATCHES_PER_CHUNK = 4, 1
    def slowly(done, total, what):
        print(done, flush=True)
        time.sleep(0.05)
    features.extract_features(network(), image_set(48), views=1, augmenter=augmenter(), cache_dir=Path(sys.argv[2]),
        precision="32-true", progress=slowly)
"""


def test_goes_on_after_an_interruption(tmp_path, monkeypatch):
    monkeypatch.setattr("convcraft.finetune.features.LARGEST_BATCH", 4)
    monkeypatch.setattr("convcraft.finetune.features.BATCHES_PER_CHUNK", 1)
    model, images = network(), image_set(40)

    def interrupt(done: int, _total: int, _what: str) -> None:
        if done >= 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(model, images, tmp_path, progress=interrupt)
    again = extract(model, images, tmp_path)
    assert again.num_computed == 60
    assert np.array_equal(again.last, extract(model, images, None).last)


@pytest.mark.slow
def test_goes_on_after_a_kill(tmp_path):
    program = [sys.executable, "-c", textwrap.dedent(KILLED), str(Path(__file__).parent), str(tmp_path)]
    child = subprocess.Popen(program, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert child.stdout is not None
    while int(child.stdout.readline()) < 20:
        pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    (next(tmp_path.iterdir()) / "0-32-true" / "77-left.tmp").write_bytes(b"half a chunk")
    model, images = network(), image_set(48)
    settings = {"views": 1, "augmenter": augmenter(), "precision": "32-true"}
    features = extract_features(model, images, cache_dir=tmp_path, **settings)
    assert 0 < features.num_computed <= 96 - 20
    # Batches of another size may round differently.
    assert np.allclose(features.last, extract_features(model, images, **settings).last, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": 2}, "an augmenter"),
        ({"views": 1, "augmenter": augmenter(mixup_alpha=0.2)}, "mixed"),
        ({"taps": ("layer9",)}, "layer9"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(UserError, match=message):
        extract_features(network(), image_set(), **settings)


def test_refuses_networks_without_a_classifier_and_empty_sets():
    with pytest.raises(UserError, match="has no classifier"):
        extract_features(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), image_set())
    with pytest.raises(UserError, match="no images"):
        extract_features(network(), image_set().subset(np.arange(0)))


# --- maps changed on their way ---


def test_warped_views_are_heads_of_warped_maps(tmp_path):
    model, images, warp = network(), image_set(), MapWarp(seed=3)
    given = {"warp": warp, "num_warped": 3, "cache_dir": tmp_path}
    features = extract_features(model, images, taps=("layer1",), **given)
    plain = extract_features(model, images).last[0]
    assert np.array_equal(features.last[0], plain)
    rows = features.warped
    assert rows.shape == (3, *plain.shape)
    model.eval()
    ids = np.arange(len(images))
    with torch.no_grad():
        maps = model.forward_features(torch.from_numpy(PREPROCESS.normalise(images.pixels_of(ids))))
        logits = model.forward_head(warp(maps, ids, 2))
        assert torch.allclose(model.get_classifier()(torch.from_numpy(rows[1])), logits, atol=1e-4)
    assert all(np.abs(view - plain).max() > 1e-3 for view in rows)
    again = extract_features(model, images, taps=("layer1",), **given)
    assert again.num_computed == 0
    assert np.array_equal(again.warped, rows)
    other = extract_features(model, images, taps=("layer1",), **{**given, "warp": MapWarp(seed=4)})
    assert other.num_computed == len(images)
    assert not np.array_equal(other.warped, rows)
    part = extract_features(model, images.subset(ids[5:]), taps=("layer1",), **given)
    assert part.num_computed == len(images) - 5  # a warp follows from the image's number in the set


def test_warped_refuses_networks_in_one_piece():
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(768, 3)

        def get_classifier(self) -> nn.Linear:
            return self.fc

    with pytest.raises(UserError, match="in one piece"):
        extract_features(Whole(), image_set(), warp=MapWarp(0), num_warped=1)
