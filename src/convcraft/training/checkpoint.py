"""Checkpoints that survive a kill at any moment: safetensors and JSON, no pickle, a hash for every byte.

One folder per moment, named by optimiser steps and epochs done (at an epoch's last step a run can be saved before
and after its validation). It is written as `step-N-epoch-M.tmp`, every file and the folder are flushed to the disk,
then it gets its name in one rename; a folder with its final name is therefore whole, and its manifest proves it.
`latest.json` is replaced last and serves people and tools; loading trusts the manifests alone and walks from the
newest down.

    checkpoints/step-00000400-epoch-0003/
        model.safetensors  optimizer.safetensors  [ema.safetensors]  state.json  manifest.json
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from convcraft.data.durable_files import replace_durably, sync_folder, write_durably
from convcraft.errors import UserError

CHECKPOINTS = "checkpoints"  # the folder of a run that holds them
MANIFEST = "manifest.json"
LATEST = "latest.json"
FORMAT_VERSION = 1
FOLDER_NAME = re.compile(r"step-\d{8,}-epoch-\d{4,}")

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """What one folder holds.

    tensors: named tensors by file stem ("model", "optimizer", "ema").
    state: plain values; "step" and "epoch" give the folder its name, "best_checkpoint" (a folder name or None) is
        kept for as long as a kept checkpoint points to it.
    """

    tensors: Mapping[str, Tensors]
    state: Mapping[str, Any]

    @property
    def name(self) -> str:
        return folder_name(self.state["step"], self.state["epoch"])


class DamagedCheckpoint(Exception):
    """A checkpoint folder that is not what its manifest says; the message names the file."""


def folder_name(step: int, epoch: int) -> str:
    """The name of the checkpoint made when `step` optimiser steps and `epoch` epochs were done."""
    return f"step-{step:08d}-epoch-{epoch:04d}"


def saved_checkpoints(checkpoints: Path) -> list[Path]:
    """The folders there are, newest first (damaged ones included)."""
    found = [path for path in checkpoints.glob("step-*-epoch-*") if path.is_dir() and FOLDER_NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name, reverse=True)


def save_checkpoint(checkpoints: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write one checkpoint so that it is there whole or not at all, then remove what is no longer needed.

    Args:
        keep: how many of the newest to keep beside the best.

    Raises:
        OSError: the disk is full or refuses; older checkpoints are untouched.
    """
    final = _write_folder(checkpoints, checkpoint.name, checkpoint)
    replace_durably(checkpoints / LATEST, _json_bytes({"folder": final.name}))
    _prune(checkpoints, keep)
    return final


def save_named(checkpoints: Path, name: str, checkpoint: Checkpoint) -> str:
    """Write weights that belong to no step of a training, such as a result that was computed from several.

    Args:
        name: of the folder; not of the form step-N-epoch-M. A folder of this name is replaced.

    Returns:
        SHA-256 of the file model.safetensors.
    """
    if FOLDER_NAME.fullmatch(name):
        raise ValueError(f"{name} is the name of a checkpoint of training")
    folder = _write_folder(checkpoints, name, checkpoint)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    sha256: str = manifest["files"]["model.safetensors"]["sha256"]
    return sha256


def _write_folder(checkpoints: Path, name: str, checkpoint: Checkpoint) -> Path:
    """All files, then the manifest, then the name, each on the disk before the next."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    final = checkpoints / name
    draft = final.with_name(final.name + ".tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        files = {f"{stem}.safetensors": _serialise(tensors) for stem, tensors in checkpoint.tensors.items()}
        files["state.json"] = _json_bytes(checkpoint.state)
        manifest = {
            "format_version": FORMAT_VERSION,
            "folder": name,
            "best_checkpoint": checkpoint.state.get("best_checkpoint"),
            "files": {file: {"bytes": len(data), "sha256": _sha256(data)} for file, data in files.items()},
        }
        for file, data in files.items():
            write_durably(draft / file, data)
        write_durably(draft / MANIFEST, _sealed(manifest))
        sync_folder(draft)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    if final.exists():  # a damaged folder, passed over when the run was resumed
        shutil.rmtree(final)
    draft.rename(final)
    sync_folder(checkpoints)
    verify_checkpoint(final)
    return final


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint, checking every byte against the manifest first.

    Raises:
        DamagedCheckpoint: something is missing, cut or changed.
    """
    files = _read_verified(folder)
    tensors = {
        name.removesuffix(".safetensors"): tensors_from_bytes(data)
        for name, data in files.items()
        if name.endswith(".safetensors")
    }
    return Checkpoint(tensors=tensors, state=json.loads(files["state.json"]))


def load_newest(checkpoints: Path) -> tuple[Checkpoint, list[str]]:
    """The newest checkpoint that its manifest proves whole, and what was wrong with newer ones.

    Raises:
        UserError: there is none.
    """
    problems: list[str] = []
    for folder in saved_checkpoints(checkpoints):
        try:
            return load_checkpoint(folder), problems
        except DamagedCheckpoint as error:
            problems.append(str(error))
    received = f"no usable checkpoint in {checkpoints}" + "".join(f"\n  {problem}" for problem in problems)
    raise UserError(received, "a folder of a run that saved at least once", "Start again without --resume.")


def set_aside_newer(checkpoints: Path, name: str) -> None:
    """Rename the damaged folders that are newer than the one a run goes on from.

    They are kept to be looked at, but must not count among the newest when old checkpoints are pruned.
    """
    for folder in saved_checkpoints(checkpoints):
        if folder.name > name:
            aside = folder.with_name(f"damaged-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)


def verify_checkpoint(folder: Path) -> None:
    """Raise DamagedCheckpoint unless every file is as the manifest says."""
    _read_verified(folder)


def _read_verified(folder: Path) -> dict[str, bytes]:
    """The files of a checkpoint by name, after their sizes and hashes were found right."""
    try:
        written = (folder / MANIFEST).read_bytes()
        manifest = json.loads(written)
        expected: dict[str, dict[str, Any]] = manifest["files"]
        if written != _sealed({key: value for key, value in manifest.items() if key != "sha256"}):
            raise DamagedCheckpoint(f"{folder.name}/{MANIFEST}: changed after it was written")
        if manifest["format_version"] != FORMAT_VERSION or manifest["folder"] != folder.name:
            raise DamagedCheckpoint(f"{folder.name}/{MANIFEST}: of another checkpoint or format")
        if "state.json" not in expected or not all(_is_plain_name(name) for name in expected):
            raise DamagedCheckpoint(f"{folder.name}/{MANIFEST}: lists other files than a checkpoint has")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(f"{folder.name}/{MANIFEST}: {error}") from error
    files: dict[str, bytes] = {}
    for name, facts in expected.items():
        try:
            data = (folder / name).read_bytes()
        except OSError as error:
            raise DamagedCheckpoint(f"{folder.name}/{name}: {error.strerror}") from error
        if _sha256(data) != facts.get("sha256"):
            raise DamagedCheckpoint(f"{folder.name}/{name}: {len(data)} bytes that do not match the saved hash")
        files[name] = data
    return files


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    """A manifest's bytes with its own hash in it: one changed bit, even of white space, shows."""
    return _json_bytes({**manifest, "sha256": _sha256(_json_bytes(manifest))})


def _is_plain_name(name: str) -> bool:
    return Path(name).name == name and (name == "state.json" or name.endswith(".safetensors"))


def _prune(checkpoints: Path, keep: int) -> None:
    """Remove drafts and old folders; keep the newest ones and every best one that they point to."""
    for draft in checkpoints.glob("step-*.tmp"):
        shutil.rmtree(draft, ignore_errors=True)
    folders = saved_checkpoints(checkpoints)
    kept = {folder.name for folder in folders[:keep]}
    for folder in folders[:keep]:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # a damaged one points nowhere
            kept.add(json.loads((folder / MANIFEST).read_bytes())["best_checkpoint"])
    for folder in folders:
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def _serialise(tensors: Tensors) -> bytes:
    return tensors_to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
