"""Named sets: found in the right place, checked, never unpickled, and a good message where they are not to be had."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from convcraft.config import DataConfig
from convcraft.data import named
from convcraft.data.download import Checksum
from convcraft.data.named import NAMED_SETS, cifar10_from_batches, open_named, read_cifar_archive, search_places
from convcraft.data.sample import ALL
from convcraft.errors import UserError

RECORD = 3073


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data, no cache of the person who runs the tests, and no network."""
    monkeypatch.delenv("CONVCRAFT_DATA", raising=False)
    cache = tmp_path / "cache"
    monkeypatch.setattr(named, "user_cache_dir", lambda: cache)

    def offline(urls: object, target: Path, **options: object) -> Path:
        raise UserError(f"{target.name} could not be downloaded. no network", "a server", "Check the connection.")

    monkeypatch.setattr(named, "download", offline)
    return cache


def test_digits_need_nothing() -> None:
    source = open_named(NAMED_SETS["digits"], DataConfig())
    samples = source.splits[ALL]
    assert (source.name, source.classes, len(samples)) == ("digits", tuple("0123456789"), 1797)
    pixels = np.stack([sample.image for sample in samples])
    assert pixels.dtype == np.uint8
    assert pixels.shape == (1797, 8, 8)
    assert sorted(set(pixels.ravel().tolist())) == [round(v * 255 / 16) for v in range(17)]


def test_places_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nowhere: Path) -> None:
    monkeypatch.setenv("CONVCRAFT_DATA", str(tmp_path / "env"))
    config = DataConfig(data_dir=str(tmp_path / "given"))
    expected = [
        *(tmp_path / "given" / "mnist", tmp_path / "given"),
        *(tmp_path / "env" / "mnist", tmp_path / "env"),
        *(nowhere / "mnist", nowhere),
    ]
    assert search_places("mnist", config) == expected


def test_offline_message_names_places_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nowhere: Path) -> None:
    monkeypatch.setenv("CONVCRAFT_DATA", str(tmp_path / "env"))
    with pytest.raises(UserError) as caught:
        open_named(NAMED_SETS["mnist"], DataConfig(data_dir=str(tmp_path / "given")))
    for place in ("given/mnist", "env/mnist", "cache/mnist"):
        assert str(tmp_path / place) in caught.value.received
    for stem in ("train-images", "train-labels", "t10k-images", "t10k-labels"):
        assert f"{stem}-idx" in caught.value.expected
    assert "--data-dir" in caught.value.fix
    assert str(nowhere / "mnist") in caught.value.fix


def test_mnist_in_each_place(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nowhere: Path) -> None:
    def size(config: DataConfig) -> int:
        source = open_named(NAMED_SETS["mnist"], config)
        assert source.name == "mnist"
        return len(source.splits["test"])

    assert size(DataConfig(data_dir=str(data_dir))) == 10_000
    assert size(DataConfig(data_dir=str(data_dir / "mnist"))) == 10_000
    monkeypatch.setenv("CONVCRAFT_DATA", str(data_dir))
    assert size(DataConfig(data_dir=str(tmp_path))) == 10_000
    monkeypatch.delenv("CONVCRAFT_DATA")
    shutil.copytree(data_dir / "mnist", nowhere / "mnist")
    (nowhere / "mnist").chmod(0o755)
    assert size(DataConfig()) == 10_000


def test_other_digits_are_not_taken_for_mnist(data_dir: Path, tmp_path: Path) -> None:
    for path in (data_dir / "mnist").iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    content = bytearray(gzip.decompress(labels.read_bytes()))
    content[-1] ^= 1
    labels.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(UserError, match="is not the file train-labels-idx1-ubyte of MNIST"):
        open_named(NAMED_SETS["mnist"], DataConfig(data_dir=str(tmp_path)))
    labels.write_bytes(gzip.compress(gzip.decompress((data_dir / "mnist" / labels.name).read_bytes()), 1))
    assert open_named(NAMED_SETS["mnist"], DataConfig(data_dir=str(tmp_path))).name == "mnist"  # packed otherwise


def test_cifar10_as_parquet_says_what_it_is(data_dir: Path, tmp_path: Path) -> None:
    source = open_named(NAMED_SETS["cifar10"], DataConfig(data_dir=str(data_dir)))
    assert source.name == "cifar10 (parquet, JPEG re-encoded, not the official pixels)"
    assert source.classes[0] == "airplane"
    assert source.classes[9] == "truck"
    assert {name: len(part) for name, part in source.splits.items()} == {"train": 50_000, "test": 10_000}
    assert source.splits["test"][12].source == "test.parquet#12"
    assert "published figures do not apply" in source.findings[0].message
    for name in ("train", "test"):  # other files of the same kind: no claim about them
        shutil.copyfile(data_dir / "cifar10" / "test.parquet", tmp_path / f"{name}.parquet")
    assert open_named(NAMED_SETS["cifar10"], DataConfig(data_dir=str(tmp_path))).name == "cifar10 (parquet)"


def make_batches(images: int = 3) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]
    batches = {}
    for name in names:
        records = rng.integers(0, 256, (images, RECORD), dtype=np.uint8)
        records[:, 0] %= 10
        batches[name] = records.tobytes()
    return batches


def make_archive(path: Path, batches: dict[str, bytes], *more: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in batches.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info, content in more:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_cifar10_official_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = make_batches()
    archive = make_archive(tmp_path / "cifar-10-binary.tar.gz", batches)
    assert read_cifar_archive(archive, batch_images=3) == batches
    source = cifar10_from_batches(batches)
    assert source.name == "cifar10"
    assert len(source.splits["train"]) == 15
    record = np.frombuffer(batches["data_batch_2.bin"], np.uint8).reshape(3, RECORD)[1]
    sample = source.splits["train"][4]
    assert sample.source == "data_batch_2.bin#1"
    assert sample.target == record[0]
    image = np.asarray(sample.image)
    assert image.shape == (32, 32, 3)
    assert image[5, 7].tolist() == [record[1 + plane * 1024 + 5 * 32 + 7] for plane in range(3)]

    with pytest.raises(UserError, match="is not the official archive"):
        open_named(NAMED_SETS["cifar10"], DataConfig(data_dir=str(tmp_path)))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    file = named._CIFAR10_ARCHIVE
    faked = named.RemoteFile(file.name, file.urls, Checksum("sha256", digest), file.max_bytes)
    monkeypatch.setattr(named, "_CIFAR10_ARCHIVE", faked)
    monkeypatch.setattr(read_cifar_archive, "__defaults__", (3,))
    assert open_named(NAMED_SETS["cifar10"], DataConfig(data_dir=str(tmp_path))).name == "cifar10"


def test_a_hostile_archive_writes_nothing(tmp_path: Path) -> None:
    link = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    climb = tarfile.TarInfo("../../escaped.bin")
    absolute = tarfile.TarInfo(str(tmp_path / "absolute.bin"))
    batches = make_batches()
    del batches["test_batch.bin"]
    archive = make_archive(tmp_path / "a.tar.gz", batches, (link, b""), (climb, b"x"), (absolute, b"x"))
    found = read_cifar_archive(archive, batch_images=3)
    assert "test_batch.bin" not in found
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]
    with pytest.raises(UserError, match=r"without test_batch.bin"):
        cifar10_from_batches(found)


def test_damaged_batches(tmp_path: Path) -> None:
    batches = make_batches()
    batches["data_batch_1.bin"] = batches["data_batch_1.bin"][:-1]
    with pytest.raises(UserError, match="9,218 bytes"):
        read_cifar_archive(make_archive(tmp_path / "a.tar.gz", batches), batch_images=3)
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b not a tar")
    with pytest.raises(UserError, match="cannot be read"):
        read_cifar_archive(tmp_path / "a.tar.gz")
    batches = make_batches()
    batches["test_batch.bin"] = b"\x0a" + batches["test_batch.bin"][1:]
    with pytest.raises(UserError, match="label 10"):
        cifar10_from_batches(batches)


def test_every_set_is_complete() -> None:
    for name, entry in NAMED_SETS.items():
        assert entry.name == name
        assert len(entry.classes) == 10
        for file in entry.files:
            assert len(file.checksum.value) == 64
            assert all(url.startswith("https://") and url.endswith(file.name) for url in file.urls)
            assert len(file.urls) >= 2


def test_no_pickle_anywhere() -> None:
    source = Path(named.__file__).read_text(encoding="utf-8")
    assert "import pickle" not in source
    assert "extractall" not in source
