"""Named sets: found in the right place, checked, never unpickled, and a good message where they are not to be had."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import shutil
import struct
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convcraft.config import DataConfig
from convcraft.data import named, named_cifar, named_idx
from convcraft.data.download import Checksum, download
from convcraft.data.named import NAMED_SETS, open_named, search_places
from convcraft.data.named_cifar import (
    CIFAR10,
    CIFAR100,
    CifarBinary,
    cifar_from_batches,
    read_cifar,
    read_cifar_archive,
)
from convcraft.data.named_idx import FASHION_MNIST, KMNIST, MNIST, IdxSet, as_named_set, read_idx_set
from convcraft.data.named_set import NamedSet, RemoteFile
from convcraft.data.sample import ALL
from convcraft.errors import UserError

RECORD = 3073
SMALL = replace(CIFAR10, batches={split: dict.fromkeys(files, 3) for split, files in CIFAR10.batches.items()})
SMALL_100 = replace(CIFAR100, batches={"train": {"train.bin": 6}, "test": {"test.bin": 4}})


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
    with pytest.raises(UserError, match="is not the file train-labels-idx1-ubyte of mnist"):
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


def make_archive(
    path: Path,
    batches: dict[str, bytes],
    *more: tuple[tarfile.TarInfo, bytes],
    folder: str = "cifar-10-batches-bin",
) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in batches.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info, content in more:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_cifar10_official_binary(tmp_path: Path) -> None:
    batches = make_batches()
    archive = make_archive(tmp_path / "cifar-10-binary.tar.gz", batches)
    assert read_cifar_archive(SMALL, archive) == batches
    source = cifar_from_batches(SMALL, batches)
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
        read_cifar(SMALL, tmp_path)
    source = read_cifar(known(SMALL, archive), tmp_path)
    assert source is not None
    assert source.name == "cifar10"
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    unpacked = read_cifar(SMALL, tmp_path / "unpacked")
    assert unpacked is not None
    assert len(unpacked.splits["test"]) == 3


def known(cifar: CifarBinary, archive: Path) -> CifarBinary:
    """The set as if this archive were the official one."""
    checksum = Checksum("sha256", hashlib.sha256(archive.read_bytes()).hexdigest())
    return replace(cifar, archive=replace(cifar.archive, checksum=checksum))


def test_cifar100_takes_the_fine_label(tmp_path: Path) -> None:
    records = np.random.default_rng(3).integers(0, 256, (10, 3074), dtype=np.uint8)
    records[:, 0] %= 20
    records[:, 1] = np.array([0, 99, 5, 50, 7, 8, 9, 10, 11, 12])
    batches = {"train.bin": records[:6].tobytes(), "test.bin": records[6:].tobytes()}
    archive = make_archive(tmp_path / "cifar-100-binary.tar.gz", batches, folder="cifar-100-binary")
    source = read_cifar(known(SMALL_100, archive), tmp_path)
    assert source is not None
    assert [sample.target for sample in source.splits["train"]] == [0, 99, 5, 50, 7, 8]
    assert [sample.target for sample in source.splits["test"]] == [9, 10, 11, 12]
    image = np.asarray(source.splits["test"][1].image)
    np.testing.assert_array_equal(image, records[7, 2:].reshape(3, 32, 32).transpose(1, 2, 0))
    batches["test.bin"] = batches["test.bin"][:1] + b"\x64" + batches["test.bin"][2:]
    with pytest.raises(UserError, match="label 100"):
        cifar_from_batches(SMALL_100, batches)


def test_cifar100_names_are_in_the_order_of_the_authors() -> None:
    names = CIFAR100.classes
    assert len(set(names)) == 100
    assert list(names) == sorted(names)  # theirs are in the order of the alphabet
    assert [names[index] for index in (0, 4, 30, 39, 55, 72, 95, 99)] == [
        *("apple", "beaver", "dolphin", "keyboard", "otter", "seal", "whale", "worm")
    ]


def test_a_hostile_archive_writes_nothing(tmp_path: Path) -> None:
    link = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    climb = tarfile.TarInfo("../../escaped.bin")
    absolute = tarfile.TarInfo(str(tmp_path / "absolute.bin"))
    batches = make_batches()
    del batches["test_batch.bin"]
    archive = make_archive(tmp_path / "a.tar.gz", batches, (link, b""), (climb, b"x"), (absolute, b"x"))
    found = read_cifar_archive(SMALL, archive)
    assert "test_batch.bin" not in found
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]
    with pytest.raises(UserError, match=r"without test_batch.bin"):
        cifar_from_batches(SMALL, found)


def test_damaged_batches(tmp_path: Path) -> None:
    batches = make_batches()
    batches["data_batch_1.bin"] = batches["data_batch_1.bin"][:-1]
    with pytest.raises(UserError, match="9,218 bytes"):
        read_cifar_archive(SMALL, make_archive(tmp_path / "a.tar.gz", batches))
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b not a tar")
    with pytest.raises(UserError, match="cannot be read"):
        read_cifar_archive(SMALL, tmp_path / "a.tar.gz")
    batches = make_batches()
    batches["test_batch.bin"] = b"\x0a" + batches["test_batch.bin"][1:]
    with pytest.raises(UserError, match="label 10"):
        cifar_from_batches(SMALL, batches)


# Fashion-MNIST and Kuzushiji-MNIST, with small files of the official format --------------------------------------


def idx_files(seed: int) -> dict[str, bytes]:
    """The four packed files of a set of 30 + 10 images; each seed other images."""
    rng = np.random.default_rng(seed)
    files = {}
    for split, count in (("train", 30), ("t10k", 10)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for kind, values in (("images-idx3", images), ("labels-idx1", (labels + seed).astype(np.uint8) % 10)):
            header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            files[f"{split}-{kind}-ubyte"] = gzip.compress(header + values.tobytes(), mtime=0)
    return files


def small(idx_set: IdxSet, files: dict[str, bytes]) -> IdxSet:
    """The set as if these were its official files."""
    contents = {stem: gzip.decompress(file) if idx_set.unpacked else file for stem, file in files.items()}
    return replace(idx_set, sha256={stem: hashlib.sha256(content).hexdigest() for stem, content in contents.items()})


def put(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, content in files.items():
        (folder / f"{stem}.gz").write_bytes(content)
    return folder


@pytest.mark.parametrize("idx_set", [FASHION_MNIST, KMNIST])
def test_fashion_and_kmnist_are_read_with_their_classes(tmp_path: Path, idx_set: IdxSet) -> None:
    files = idx_files(3)
    folder = put(tmp_path / idx_set.name, files)
    source = open_named(as_named_set(small(idx_set, files)), DataConfig(data_dir=str(tmp_path)))
    assert (source.name, source.classes) == (idx_set.name, idx_set.classes)
    assert [sample.target for sample in source.splits["test"]] == [(row + 3) % 10 for row in range(10)]
    pixels = np.frombuffer(gzip.decompress(files["train-images-idx3-ubyte"])[16:], np.uint8).reshape(-1, 28, 28)
    np.testing.assert_array_equal(np.stack([sample.image for sample in source.splits["train"]]), pixels)
    # Unpacked files beside the checked ones, as torchvision leaves them, are not read in their place.
    other = gzip.decompress(idx_files(4)["train-images-idx3-ubyte"])
    (folder / "train-images-idx3-ubyte").write_bytes(other)
    again = open_named(as_named_set(small(idx_set, files)), DataConfig(data_dir=str(tmp_path)))
    np.testing.assert_array_equal(np.stack([sample.image for sample in again.splits["train"]]), pixels)


def test_official_names_agree_with_torchvision() -> None:
    from torchvision.datasets import KMNIST as TorchKMNIST
    from torchvision.datasets import FashionMNIST

    assert FASHION_MNIST.classes == tuple(FashionMNIST.classes)
    assert KMNIST.classes == tuple(TorchKMNIST.classes)
    for ours, theirs in ((FASHION_MNIST, FashionMNIST), (KMNIST, TorchKMNIST)):
        assert {f"{stem}.gz" for stem in ours.sha256} == {name for name, _ in theirs.resources}


def test_files_of_another_set_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nowhere: Path) -> None:
    digits, clothes = idx_files(0), idx_files(1)
    mnist, fashion = small(MNIST, digits), small(FASHION_MNIST, clothes)
    monkeypatch.setattr(named_idx, "IDX_SETS", (mnist, fashion))
    put(tmp_path / "fashion-mnist", digits)
    put(tmp_path, clothes)
    with pytest.raises(UserError, match="is the file train-images-idx3-ubyte of mnist, not of fashion-mnist"):
        read_idx_set(fashion, tmp_path / "fashion-mnist")
    with pytest.raises(UserError, match="of fashion-mnist, not of mnist: both use the same names"):
        read_idx_set(mnist, tmp_path)
    # The search goes on behind the wrong files, and says of them what they are where nothing else is found.
    assert open_named(as_named_set(fashion), DataConfig(data_dir=str(tmp_path))).name == "fashion-mnist"
    with pytest.raises(UserError) as caught:
        open_named(as_named_set(fashion), DataConfig(data_dir=str(tmp_path / "fashion-mnist")))
    assert "is the file train-images-idx3-ubyte of mnist" in caught.value.received
    assert "train-images-idx3-ubyte.gz" in caught.value.expected
    assert str(nowhere / "fashion-mnist") in caught.value.fix


def test_real_mnist_is_not_taken_for_fashion_or_kmnist(data_dir: Path) -> None:
    for idx_set in (FASHION_MNIST, KMNIST):
        with pytest.raises(UserError, match=f"of mnist, not of {idx_set.name}"):
            read_idx_set(idx_set, data_dir / "mnist")


def test_unpacked_files_without_a_known_checksum_are_not_taken(tmp_path: Path) -> None:
    files = idx_files(2)
    for stem, content in files.items():
        (tmp_path / stem).write_bytes(gzip.decompress(content))
    with pytest.raises(UserError, match=r"is unpacked, and only the \.gz files of kmnist have a known checksum"):
        read_idx_set(small(KMNIST, files), tmp_path)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A mirror: serves the files in tmp_path/served."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "served").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            return

    handler = functools.partial(Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}/"
        running.shutdown()


def test_sets_are_downloaded_checked_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nowhere: Path, server: str
) -> None:
    monkeypatch.setattr(named, "download", download)
    files = idx_files(5)
    put(tmp_path / "served", files)
    kmnist = replace(small(KMNIST, files), mirrors=(f"{server}gone/", server))
    assert open_named(as_named_set(kmnist), DataConfig()).name == "kmnist"
    assert sorted(path.name for path in (nowhere / "kmnist").glob("*.gz")) == sorted(f"{stem}.gz" for stem in files)
    for path in (tmp_path / "served").iterdir():
        path.unlink()
    assert open_named(as_named_set(kmnist), DataConfig()).name == "kmnist"  # from the cache

    wrong = replace(small(FASHION_MNIST, idx_files(6)), mirrors=(server,))
    put(tmp_path / "served", files)  # the mirror gives another set
    with pytest.raises(UserError, match="the content has not the sha256"):
        open_named(as_named_set(wrong), DataConfig())
    assert not list((nowhere / "fashion-mnist").glob("*.gz"))


def test_cifar100_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setattr(named, "download", download)
    records = np.zeros((10, 3074), np.uint8)
    batches = {"train.bin": records[:6].tobytes(), "test.bin": records[6:].tobytes()}
    name = "cifar-100-binary.tar.gz"
    archive = make_archive(tmp_path / "served" / name, batches, folder="cifar-100-binary")
    cifar = known(SMALL_100, archive)
    cifar = replace(cifar, archive=replace(cifar.archive, urls=(server + name,)))
    entry = NamedSet("cifar100", "", cifar.classes, (cifar.archive,), lambda folder, *rest: read_cifar(cifar, folder))
    assert len(open_named(entry, DataConfig()).splits["train"]) == 6


def test_every_set_is_complete() -> None:
    assert list(NAMED_SETS) == ["digits", "mnist", "fashion-mnist", "kmnist", "cifar10", "cifar100"]
    for name, entry in NAMED_SETS.items():
        assert entry.name == name
        assert len(set(entry.classes)) == (100 if name == "cifar100" else 10)
        for file in entry.files:
            assert isinstance(file, RemoteFile)
            assert len(file.checksum.value) == 64
            assert all(url.endswith(file.name) for url in file.urls)
            assert file.urls[0].startswith("https://")
            assert len(file.urls) >= 2


def test_no_pickle_anywhere() -> None:
    for module in (named, named_cifar, named_idx):
        source = Path(str(module.__file__)).read_text(encoding="utf-8")
        assert "import pickle" not in source
        assert "extractall" not in source
