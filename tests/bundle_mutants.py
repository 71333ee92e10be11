"""Mistakes that others' exports make without a word: each as a change of a bundle, or of the program that reads it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load, save
from torch import nn

from convcraft.data import images, preprocess
from convcraft.data.preprocess import ImageLike, Preprocess
from convcraft.deploy.bundle import CLASSES, EXPECTED, MANIFEST, PREPROCESS, Manifest, described
from convcraft.deploy.formats.form import LOGITS

Files = dict[str, bytes]


# Changes of the files, with every hash made anew -------------------------------------------------------------------


def forged(files: Files, changed: Files, **manifest: object) -> Files:
    """The bundle with other files, and with hashes that say it is whole."""
    kept = {**{name: content for name, content in files.items() if name != MANIFEST}, **changed}
    said = Manifest.from_bytes(files[MANIFEST], "bundle")
    return {MANIFEST: dataclasses.replace(said, files=described(kept), **manifest).to_bytes(), **kept}


def with_preprocess(files: Files, **fields: object) -> Files:
    """Another contract, which the manifest and the trust take for the run's own."""
    contract = dataclasses.replace(Preprocess.from_dict(json.loads(files[PREPROCESS])), **fields)
    changed = {PREPROCESS: json.dumps(contract.as_dict()).encode()}
    if "trust.json" in files:
        trust = {**json.loads(files["trust.json"]), "preprocess_sha256": contract.hash()}
        changed["trust.json"] = json.dumps(trust).encode()
    return forged(files, changed, preprocess_sha256=contract.hash())


def wrong_mean(files: Files) -> Files:
    mean = json.loads(files[PREPROCESS])["mean"]
    return with_preprocess(files, mean=tuple(value + 0.1 for value in mean))


def wrong_size(files: Files) -> Files:
    contract = json.loads(files[PREPROCESS])
    return with_preprocess(files, height=contract["height"] + 32, width=contract["width"] + 32)


def class_swap(files: Files) -> Files:
    """Sorted as text, say: 1, 10, 2. The probes' labels tell."""
    names = json.loads(files[CLASSES])
    return forged(files, {CLASSES: json.dumps([names[-1], *names[:-1]]).encode()})


def swapped_logits(files: Files) -> Files:
    """The network's classes in another order than the expected logits."""
    expected = load(files[EXPECTED])
    return forged(files, {EXPECTED: save({**expected, LOGITS: np.roll(expected[LOGITS], 1, axis=1)})})


def truncated_weights(files: Files) -> Files:
    """The second half of the model file's bytes is gone."""
    name = max((name for name in files if name.startswith("model.")), key=lambda name: len(files[name]))
    return forged(files, {name: files[name][: len(files[name]) // 2]})


FORGERIES: dict[str, Callable[[Files], Files]] = {
    "class swap": class_swap,
    "logits in another order": swapped_logits,
    "wrong mean": wrong_mean,
    "wrong size": wrong_size,
    "truncated weights": truncated_weights,
}


# Changes of the program that reads it ------------------------------------------------------------------------------

_pixels, _normalise = Preprocess.pixels, Preprocess.normalise


def bgr(self: Preprocess, image: ImageLike) -> NDArray[np.uint8]:
    return np.ascontiguousarray(_pixels(self, image)[..., ::-1])


def always_grey(self: Preprocess, image: ImageLike) -> NDArray[np.uint8]:
    """Colour becomes grey and back; for a grey network the first channel stands for all three."""
    found = _pixels(self, image)
    if self.channels == 1:
        colour = _pixels(dataclasses.replace(self, channels=3, mean=(0.0,), std=(1.0,)), image)
        return np.ascontiguousarray(colour[..., :1])
    return np.repeat(found.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)


def twice_divided(self: Preprocess, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    small = dataclasses.replace(self, std=tuple(value * 255 for value in self.std), mean=self.mean)
    return _normalise(small, pixels)


def rows_for_channels(self: Preprocess, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bytes of [H, W, C] taken for [C, H, W]."""
    found = _normalise(self, pixels)
    return np.ascontiguousarray(np.moveaxis(found, -3, -1)).reshape(found.shape)


def without_antialias(
    self: Image.Image, size: tuple[int, int], resample: object = None, box: tuple[float, ...] | None = None
) -> Image.Image:
    left, top, right, bottom = box or (0, 0, *self.size)
    across, down = (right - left) / size[0], (bottom - top) / size[1]
    return self.transform(size, Image.Transform.AFFINE, (across, 0, left, 0, down, top), Image.Resampling.BILINEAR)


def cropped_first(self: Preprocess, width: int, height: int) -> preprocess.Placement:
    """A square of the picture is cut out before it is resized: another part than resizing first shows."""
    side = min(width, height, 2 * min(self.width, self.height))
    left, top = (width - side) / 2, (height - side) / 2
    return preprocess.Placement((left, top, left + side, top + side), self.width, self.height)


@contextlib.contextmanager
def without_exif() -> Iterator[None]:
    with mock.patch.object(images, "orientation_of", return_value=1):
        yield


READERS: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "BGR": lambda: mock.patch.object(Preprocess, "pixels", bgr),
    "grey for colour": lambda: mock.patch.object(Preprocess, "pixels", always_grey),
    "divided by 255 twice": lambda: mock.patch.object(Preprocess, "normalise", twice_divided),
    "NHWC for NCHW": lambda: mock.patch.object(Preprocess, "normalise", rows_for_channels),
    "no antialias": lambda: mock.patch.object(Image.Image, "resize", without_antialias),
    "crop before resize": lambda: mock.patch.object(Preprocess, "placement", cropped_first),
    "no EXIF rotation": without_exif,
}


# Changes of the network before it is exported ----------------------------------------------------------------------


def batch_norms_dropped(model: nn.Module) -> bool:
    """Replace every batch norm by nothing; False where there was none."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    for name, module in found:
        parent, _, child = name.rpartition(".")
        # timm's norms bring their activation along.
        kept = nn.Sequential(getattr(module, "drop", nn.Identity()), getattr(module, "act", nn.Identity()))
        setattr(model.get_submodule(parent), child, kept)
    return bool(found)


# What cannot matter under a contract -------------------------------------------------------------------------------


def cannot_matter(mutant: str, contract: Preprocess) -> str | None:
    """Why a mutant changes nothing there, or None."""
    if contract.channels == 1 and mutant in ("BGR", "NHWC for NCHW"):
        return "one channel: there is no order of channels"
    if mutant == "crop before resize" and contract.resize != "crop":
        return f"resize {contract.resize}: nothing is cropped"
    return None
