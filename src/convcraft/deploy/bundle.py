"""A bundle: one folder or zip with everything that decides what a network answers, and with proof that it still does.

    bundle.json           what is what, and the size and SHA-256 of every other file
    model.*               the network, in one of `formats`
    preprocess.json       the preprocessing contract        classes.json   names in the order of the logits
    trust.json/.safetensors   calibration, sets, when not to answer (docs/trust.md); where the run has them
    probes/               pictures, and expected.safetensors: what the source network said of them
    parity.json           the exported network beside its source, measured
    MODEL_CARD.md         use, data, limits, licence of the weights

It is read whole into memory, so that the bytes which were checked are the bytes which run. NumPy alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from convcraft.data.durable_files import json_bytes
from convcraft.data.preprocess import Preprocess
from convcraft.deploy.archive import MANIFEST, is_zip, read_files
from convcraft.deploy.formats.catalogue import find_format
from convcraft.deploy.formats.form import FEATURES, LOGITS, Format
from convcraft.deploy.probes import FOLDER as PROBES
from convcraft.deploy.safetensors_guard import check_safetensors
from convcraft.errors import UserError
from convcraft.evaluation.temperature import LOSSES
from convcraft.evaluation.trust import ODD, TENSORS, TRUST, Trust, trust_from_files

VERSION = 1
CLASSES, PREPROCESS, PARITY, CARD = "classes.json", "preprocess.json", "parity.json", "MODEL_CARD.md"
EXPECTED = f"{PROBES}/expected.safetensors"
EXACT = 1e-4  # of the logit range: float32 in another order of sums
LARGEST_TOLERANCE = 0.5  # of the logit range, in lower precision: drawn pictures are unlike those that int8 is made for
EXPORT_AGAIN = "Copy the bundle again from where it was made, or export it again: convcraft export RUN."


@dataclass(frozen=True, kw_only=True)
class ProbeEntry:
    """file: in the bundle. pixels_sha256: of its pixels at the network's size. label: the class expected of it."""

    file: str
    pixels_sha256: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What bundle.json says.

    format, precision: of the model files. normalises: the model takes uint8 [B, H, W, C] instead of normalised
    float32 [B, C, H, W]. loss: `training.loss` of the run, which says what logits mean.
    weights_sha256, preprocess_sha256: what the source was, and what the trust was fitted for.
    tolerance: how far a logit may be from the source's, as a share of the range of all expected logits; and features,
    as a share of twice their length.
    made_with: versions of what wrote it. source: the network's name, the run's data. created: UTC.
    files: name -> {"bytes", "sha256"} of every file but this one.
    """

    version: int
    name: str
    format: str
    precision: str
    normalises: bool
    loss: str
    weights_sha256: str
    preprocess_sha256: str
    tolerance: float
    probes: tuple[ProbeEntry, ...]
    source: dict[str, Any]
    made_with: dict[str, str]
    created: str
    files: dict[str, dict[str, Any]]

    def to_bytes(self) -> bytes:
        return json_bytes(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """
        Raises:
            UserError: no JSON, another version, missing, unknown or wrong entries.
        """
        saved = _parsed(data, f"{where}/{MANIFEST}")
        if not isinstance(saved, dict) or saved.get("version") != VERSION:
            received = f"{where} of bundle version {saved.get('version') if isinstance(saved, dict) else None!r}"
            raise UserError(received, f"version {VERSION}", "Update convcraft, or export the run again.")
        names = {field.name for field in fields(cls)}
        if saved.keys() != names:
            received = f"{where}/{MANIFEST} with {', '.join(sorted(saved.keys() ^ names))} missing or too many"
            raise UserError(received, "every entry, and no other", EXPORT_AGAIN)
        try:
            saved["probes"] = tuple(ProbeEntry(**entry) for entry in saved["probes"])
            manifest = cls(**saved)
            sound = manifest._is_sound()
        except ODD as error:
            raise UserError(f"{where}/{MANIFEST}: {error}", "a bundle as it was exported", EXPORT_AGAIN) from error
        if not sound:
            raise UserError(f"{where}/{MANIFEST} with entries of another kind", "a bundle as exported", EXPORT_AGAIN)
        return manifest

    def _is_sound(self) -> bool:
        texts = (self.name, self.format, self.precision, self.loss, self.weights_sha256, self.preprocess_sha256)
        of_probes = (text for probe in self.probes for text in (probe.file, probe.pixels_sha256, probe.label))
        datetime.fromisoformat(self.created)
        return (
            all(isinstance(text, str) for text in (*texts, *of_probes, *self.made_with, *self.made_with.values()))
            and isinstance(self.made_with, dict)
            and isinstance(self.source, dict)
            and isinstance(self.normalises, bool)
            and isinstance(self.tolerance, float)
            and 0 < self.tolerance <= 1
            and all(type(entry["bytes"]) is int and isinstance(entry["sha256"], str) for entry in self.files.values())
        )

    def refuse_unusual(self) -> None:
        """That the network is held to what an export holds it to; a manifest alone must not loosen it.

        Raises:
            UserError: a format, precision or loss that there is not, or a tolerance beyond what its precision may have.
        """
        known = find_format(self.format).precisions
        allowed = EXACT if self.precision == "float32" else LARGEST_TOLERANCE
        for sound, received, expected in (
            (self.precision in known, f"{self.format} in {self.precision!r}", f"one of {', '.join(known)}"),
            (self.loss in LOSSES, f"loss {self.loss!r}", f"one of {', '.join(LOSSES)}"),
            (
                self.tolerance <= allowed,
                f"a tolerance of {self.tolerance:g} in {self.precision}",
                f"at most {allowed:g}",
            ),
        ):
            if not sound:
                raise UserError(f"{MANIFEST} with {received}", expected, EXPORT_AGAIN)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle whose files are those that were exported, and whose parts fit together. Whether the network still says
    what it said is `probe_check`'s to find.

    sha256: of bundle.json, and so of everything in the bundle.
    """

    path: Path
    sha256: str
    manifest: Manifest
    form: Format
    model: Mapping[str, bytes]
    classes: tuple[str, ...]
    preprocess: Preprocess
    trust: Trust | None
    probes: tuple[bytes, ...]
    expected_logits: NDArray[np.float32]  # [P, K]
    expected_features: NDArray[np.float32] | None  # [P, D]
    parity: dict[str, Any]
    card: str


def is_bundle(path: Path) -> bool:
    """Whether a path is meant for a bundle: a folder with bundle.json, a name that ends in .zip, or any zip."""
    if path.is_dir():
        return (path / MANIFEST).is_file()
    return path.suffix.lower() == ".zip" or is_zip(path)


def open_bundle(path: Path) -> Bundle:
    """Read and check a bundle; no runtime is started and nothing of it is run.

    Raises:
        UserError: it is none; a file is missing, too many or changed; parts that contradict each other; a model file
            that must not reach a runtime.
    """
    if not path.exists():
        raise UserError(f"no bundle {path}", "a folder or zip that `convcraft export` made", "Check the path.")
    files = read_files(path)
    if MANIFEST not in files:
        raise UserError(f"{path} has no {MANIFEST}", "a bundle that `convcraft export` made", "Check the path.")
    manifest = Manifest.from_bytes(files[MANIFEST], str(path))
    _refuse_changed(path, files, manifest)
    manifest.refuse_unusual()
    form = find_format(manifest.format)
    model = {name: _needed(files, name, path) for name in form.files}
    form.check(model)
    classes = _classes(files, path)
    preprocess = _preprocess(files, path)
    if preprocess.hash() != manifest.preprocess_sha256:
        received = f"{path}/{PREPROCESS} is not the preprocessing that the network was judged with"
        raise UserError(received, f"that of {manifest.preprocess_sha256[:12]}", EXPORT_AGAIN)
    expected = _expected(files, manifest, len(classes), path)
    return Bundle(
        path=path,
        sha256=hashlib.sha256(files[MANIFEST]).hexdigest(),
        manifest=manifest,
        form=form,
        model=model,
        classes=classes,
        preprocess=preprocess,
        trust=_trust(files, manifest, expected, path),
        probes=tuple(_needed(files, probe.file, path) for probe in manifest.probes),
        expected_logits=expected[LOGITS],
        expected_features=expected.get(FEATURES),
        parity=_parity(files, path),
        card=_card(files, path),
    )


def described(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """`Manifest.files` of contents."""
    return {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in sorted(files.items())
    }


def _refuse_changed(path: Path, files: Mapping[str, bytes], manifest: Manifest) -> None:
    found = described({name: content for name, content in files.items() if name != MANIFEST})
    for name in sorted(found.keys() | manifest.files.keys()):
        if name not in found:
            raise UserError(f"{path} without {name}", "every file of the bundle", EXPORT_AGAIN)
        if name not in manifest.files:
            received = f"{path} with {name}, which {MANIFEST} does not name"
            raise UserError(received, "the bundle's files and no other", f"Remove it. Or: {EXPORT_AGAIN}")
        if found[name] != manifest.files[name]:
            raise UserError(f"{path}: {name} was changed", f"the file that {MANIFEST} names", EXPORT_AGAIN)


def _needed(files: Mapping[str, bytes], name: str, path: Path) -> bytes:
    if name not in files:
        raise UserError(f"{path} without {name}", "every file of the bundle", EXPORT_AGAIN)
    return files[name]


def _parsed(data: bytes, where: str) -> Any:
    """JSON of which every text can be written: it can also name halves of characters."""
    try:
        value = json.loads(data)
        json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: {error}", "a bundle as it was exported", EXPORT_AGAIN) from error


def _classes(files: Mapping[str, bytes], path: Path) -> tuple[str, ...]:
    names = _parsed(_needed(files, CLASSES, path), f"{path}/{CLASSES}")
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}/{CLASSES} is no list of class names", "two names or more", EXPORT_AGAIN)
    return tuple(names)


def _preprocess(files: Mapping[str, bytes], path: Path) -> Preprocess:
    saved = _parsed(_needed(files, PREPROCESS, path), f"{path}/{PREPROCESS}")
    try:
        return Preprocess.from_dict(saved)
    except UserError:
        raise
    except ODD as error:
        raise UserError(f"{path}/{PREPROCESS}: {error}", "a bundle as it was exported", EXPORT_AGAIN) from error


def _parity(files: Mapping[str, bytes], path: Path) -> dict[str, Any]:
    saved = _parsed(_needed(files, PARITY, path), f"{path}/{PARITY}")
    if not isinstance(saved, dict):
        raise UserError(f"{path}/{PARITY} is no JSON object", "a bundle as it was exported", EXPORT_AGAIN)
    return saved


def _card(files: Mapping[str, bytes], path: Path) -> str:
    try:
        return _needed(files, CARD, path).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}/{CARD} is no UTF-8 text", "a bundle as it was exported", EXPORT_AGAIN) from error


def _expected(
    files: Mapping[str, bytes], manifest: Manifest, num_classes: int, path: Path
) -> dict[str, NDArray[np.float32]]:
    content = _needed(files, EXPECTED, path)
    check_safetensors(content, EXPECTED)
    try:
        tensors = load(content)
    except (SafetensorError, *ODD) as error:
        raise UserError(f"{path}/{EXPECTED}: {error}", "a bundle as it was exported", EXPORT_AGAIN) from error
    logits, features = tensors.get(LOGITS), tensors.get(FEATURES)
    wanted = (len(manifest.probes), num_classes)
    shaped = logits is not None and logits.shape == wanted and len(manifest.probes) > 0
    if not shaped or (features is not None and (features.ndim != 2 or len(features) != wanted[0])):
        received = f"{path}: probes that do not fit the classes"
        raise UserError(received, f"logits [{wanted[0]}, {wanted[1]}] of at least one probe", EXPORT_AGAIN)
    if not all(values.dtype == np.float32 and np.isfinite(values).all() for values in tensors.values()):
        raise UserError(f"{path}/{EXPECTED} of another kind", "finite numbers in float32", EXPORT_AGAIN)
    return tensors


def _trust(
    files: Mapping[str, bytes], manifest: Manifest, expected: Mapping[str, NDArray[np.float32]], path: Path
) -> Trust | None:
    if TRUST not in files:
        return None
    if TENSORS in files:
        check_safetensors(files[TENSORS], TENSORS)
    trust = trust_from_files(_parsed(files[TRUST], f"{path}/{TRUST}"), files.get(TENSORS), f"{path}/{TRUST}")
    trust.refuse_others(manifest.weights_sha256, manifest.preprocess_sha256)
    features = expected.get(FEATURES)
    num_features = None if features is None else features.shape[1]
    trust.refuse_unfit(manifest.loss, expected[LOGITS].shape[1], num_features)
    return trust
