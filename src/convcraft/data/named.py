"""Named data sets: where their files are looked for, and how they get there.

Files are looked for in data.data_dir, in $CONVCRAFT_DATA and in the user's cache, each time in a folder of the set's
name and in the folder itself, and downloaded to the cache when they are nowhere. Nothing is ever unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from convcraft.config import DataConfig
from convcraft.data.download import download
from convcraft.data.named_cifar import CIFAR_SETS
from convcraft.data.named_idx import DIGIT_NAMES, IDX_SETS, as_named_set
from convcraft.data.named_set import NamedSet
from convcraft.data.sample import ALL, Progress, Sample, Source
from convcraft.data.user_cache import user_cache_dir
from convcraft.errors import UserError

DATA_VARIABLE = "CONVCRAFT_DATA"


def read_digits() -> Source:
    """The 1,797 scanned digits of 8 x 8 pixels that come with scikit-learn (Alpaydin and Kaynak 1998); no splits.

    Values 0..16 become round(v * 255 / 16).
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        fix = "Install the training extra: pip install 'convcraft[train]'."
        raise UserError("scikit-learn is not installed", "scikit-learn, which holds the digits", fix) from error
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    samples = [
        Sample(image, int(target), f"digits#{row}")
        for row, (image, target) in enumerate(zip(images, digits.target, strict=True))
    ]
    return Source("digits", DIGIT_NAMES, {ALL: samples})


_DIGITS = NamedSet(
    "digits",
    "1,797 scanned digits, 8 x 8 (Alpaydin and Kaynak 1998), part of scikit-learn",
    DIGIT_NAMES,
    (),
    lambda folder, config, progress: read_digits(),
)
NAMED_SETS: Mapping[str, NamedSet] = {
    named.name: named for named in (_DIGITS, *(as_named_set(idx_set) for idx_set in IDX_SETS), *CIFAR_SETS)
}


def search_places(name: str, config: DataConfig) -> list[Path]:
    """The folders in which the files of a named set may lie, in the order in which they are looked at."""
    tops = [config.data_dir, os.environ.get(DATA_VARIABLE), str(user_cache_dir())]
    places = [place for top in tops if top for place in (Path(top).expanduser() / name, Path(top).expanduser())]
    return list(dict.fromkeys(places))


def open_named(named: NamedSet, config: DataConfig, progress: Progress | None = None) -> Source:
    """Read a named set from where it lies, after a download to the user's cache if need be.

    Raises:
        UserError: it is nowhere and cannot be downloaded; the message names every place that was looked at, why it did
            not do, and the files that are wanted.
    """
    if not named.files:
        return _required(named.read(Path(), config, progress))
    looked_at: list[str] = []
    for place in search_places(named.name, config):
        try:
            source = named.read(place, config, progress) if place.is_dir() else None
        except UserError as error:
            looked_at.append(f"{place} ({error.received})")
            continue
        if source is not None:
            return source
        looked_at.append(f"{place} (not there)")
    cache = user_cache_dir() / named.name
    wanted = ", ".join(file.name for file in named.files)
    try:
        for file in named.files:
            download(file.urls, cache / file.name, checksum=file.checksum, max_bytes=file.max_bytes, progress=progress)
    except UserError as error:
        raise UserError(
            f"{named.name} is in none of {'; '.join(looked_at)}, and {error.received}",
            f"the files {wanted}",
            f"Put them into {cache}, or into any folder and name that with --data-dir or ${DATA_VARIABLE}.",
        ) from error
    return _required(named.read(cache, config, progress))


def _required(source: Source | None) -> Source:
    assert source is not None, "the files of a named set were all there"
    return source
