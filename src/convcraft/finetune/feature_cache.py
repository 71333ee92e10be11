"""Features remembered on the disk: what a frozen network says of an image is computed once.

    features/CONTEXT/0-32-true/SHA256.safetensors            rows of images as evaluation sees them
    features/CONTEXT/2-bf16-mixed-CHANGES/SHA256.safetensors rows of their second augmented view

CONTEXT stands for weights, network, preprocessing and layers, CHANGES for the augmentation and its seed. Each file
holds the rows of some images under the images' own keys, so that any selection of the same images finds them again. It
is named by the SHA-256 of its content and gets its name in one rename: a name that fits proves the file whole, whoever
wrote it and whatever was killed meanwhile; a file that does not fit its name is removed, and its rows are computed
again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save
from torch import nn

from convcraft.config import AugmentConfig
from convcraft.data.image_set import ImageSet
from convcraft.data.preprocess import Preprocess
from convcraft.data.sample import Sample
from convcraft.data.user_cache import user_cache_dir
from convcraft.finetune.map_warp import MapWarp
from convcraft.models.classifier import only_classifier

LARGEST_CACHE_BYTES = 4 << 30  # of all features together; what was used longest ago goes first
STALE_DRAFT_SECONDS = 86_400.0  # a draft so old belongs to a process that was killed
FORMAT = 2  # part of every context: a change of what rows mean starts afresh

Rows = dict[bytes, NDArray[np.float32]]


def features_dir() -> Path:
    """Where features are kept unless told otherwise."""
    return user_cache_dir() / "features"


@dataclasses.dataclass(frozen=True)
class FeatureCache:
    """The rows of one context and one variation, each float32 [width]."""

    folder: Path
    width: int

    def find(self, wanted: Collection[bytes]) -> Rows:
        """The rows that are known, by key. Damaged files are removed."""
        wanted = frozenset(wanted)
        found: Rows = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            content = _read_whole(file)
            if content is None or content["rows"].shape != (len(content["keys"]), self.width):
                continue
            named = {key.tobytes(): row for key, row in zip(content["keys"], content["rows"], strict=True)}
            useful = named.keys() & wanted
            found.update((key, named[key]) for key in useful)
            if useful:
                with contextlib.suppress(OSError):
                    os.utime(file)  # used now: it goes last when room is made
        return found

    def add(self, keys: Sequence[bytes], rows: NDArray[np.float32]) -> None:
        """Keep rows float32 [n, width] under n keys of 32 bytes."""
        table = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), 32)
        content = save({"keys": table, "rows": np.ascontiguousarray(rows, np.float32)})
        with contextlib.suppress(OSError):  # no place for a cache: the next run computes again
            self.folder.mkdir(parents=True, exist_ok=True)
            draft = self.folder / f"{os.getpid()}-{secrets.token_hex(8)}.tmp"
            draft.write_bytes(content)
            draft.replace(self.folder / f"{hashlib.sha256(content).hexdigest()}.safetensors")


def _read_whole(file: Path) -> dict[str, NDArray] | None:
    """The tensors of a file whose content fits its name; else it is removed. None also where it is gone."""
    try:
        content = file.read_bytes()
    except OSError:  # another process has made room
        return None
    if hashlib.sha256(content).hexdigest() == file.stem:
        return load(content)
    with contextlib.suppress(OSError):
        file.unlink()
    return None


def make_room(root: Path, needed_bytes: int, limit_bytes: int | None = None) -> bool:
    """Remove what was used longest ago until so many bytes more stay below the limit.

    Args:
        limit_bytes: None: LARGEST_CACHE_BYTES.

    Returns:
        whether they fit; what alone is larger than the limit is not to be cached, and nothing is removed for it.
    """
    limit_bytes = LARGEST_CACHE_BYTES if limit_bytes is None else limit_bytes
    if needed_bytes > limit_bytes:
        return False
    files = sorted(_files_by_age(root))
    total_bytes = sum(size_bytes for _, size_bytes, _ in files)
    for modified, size_bytes, file in files:
        stale = file.suffix == ".tmp" and time.time() - modified > STALE_DRAFT_SECONDS
        if stale or (file.suffix != ".tmp" and total_bytes + needed_bytes > limit_bytes):
            with contextlib.suppress(OSError):
                file.unlink()
                total_bytes -= size_bytes
    return True


def _files_by_age(root: Path) -> Iterator[tuple[float, int, Path]]:
    """(time of last use, bytes, file) of everything that is cached."""
    for file in root.glob("*/*/*"):
        with contextlib.suppress(OSError):
            status = file.stat()
            yield status.st_mtime, status.st_size, file


# --- keys ---


def context_hash(model: nn.Module, preprocess: Preprocess, computed: Mapping[str, object]) -> str:
    """SHA-256 of all that decides a feature but the image: hex.

    The classifier's own weights are left out, since its input does not depend on them: a network with a fresh head
    finds the features of its pretrained body again.

    Args:
        computed: further plain values: layers, pooling, device.
    """
    hasher = hashlib.sha256()
    facts = {
        "format": FORMAT,
        "torch": torch.__version__,
        "network": f"{type(model).__module__}.{type(model).__qualname__} {model}",  # strides and paddings too
        "preprocess": preprocess.hash(),
        **computed,
    }
    hasher.update(json.dumps(facts, sort_keys=True).encode())
    _, classifier = only_classifier(model)
    own = {id(tensor) for tensor in (*classifier.parameters(), *classifier.buffers())}
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if id(tensor) not in own:
            plain = tensor.detach().cpu().contiguous()
            hasher.update(f"{name} {plain.dtype} {list(plain.shape)} ".encode())
            hasher.update(plain.reshape(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


def variation_hash(changes: AugmentConfig | MapWarp, number: int) -> str:
    """SHA-256 of what decides the augmented views, or the warped maps: hex. number: the seed, or how many maps."""
    values = json.dumps([dataclasses.asdict(changes), number], sort_keys=True)
    return hashlib.sha256(values.encode()).hexdigest()


def image_identities(images: ImageSet) -> list[bytes]:
    """32 bytes per image that change with its pixels: a hash of them, or of the encoded file where they stream.

    (A file's bytes and the preprocessing, which is part of the context, give the pixels.)
    """
    if images.pixels is not None:
        return [hashlib.sha256(pixels.data).digest() for pixels in images.pixels]
    return [_encoded_hash(sample) for sample in images.samples]


def _encoded_hash(sample: Sample) -> bytes:
    if sample.file is not None:
        with contextlib.suppress(OSError):  # the decoder will say what is wrong with it
            return hashlib.sha256(b"encoded" + sample.file.read_bytes()).digest()
        return hashlib.sha256(f"unreadable {sample.file}".encode()).digest()
    image = sample.image
    if isinstance(image, bytes):
        return hashlib.sha256(b"encoded" + image).digest()
    assert isinstance(image, np.ndarray)  # a file is named by `sample.file`
    return hashlib.sha256(f"array {image.shape}".encode() + np.ascontiguousarray(image).tobytes()).digest()


def view_key(identity: bytes, view: int, index: int) -> bytes:
    """The key of an image's augmented view, whose random draws depend on its number in the set: 32 bytes."""
    return hashlib.sha256(identity + f" view {view} of image {index}".encode()).digest()
