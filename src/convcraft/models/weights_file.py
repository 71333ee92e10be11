"""The tensors of a weights file, by name: .safetensors, and the pickled .pt, .pth, .th, .bin and .ckpt.

A .safetensors file holds names, shapes and numbers, and nothing that could run. The others are pickles, which can: they
are read by torch.load(weights_only=True) alone, which builds tensors and plain containers and refuses all else before
it is run. No option turns that off.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from convcraft.errors import UserError, first_line

SAFETENSORS = ".safetensors"
PICKLED = (".pt", ".pth", ".th", ".bin", ".ckpt", ".tar")  # .pth.tar was usual once
# Under which keys checkpoints keep their state dict, best first: averaged weights are those that were judged.
STATE_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict", "model_state",
              "model", "net", "network", "module", "params", "weights")  # fmt: skip
DEEPEST = 3  # levels of dictionaries that are searched for it
# What DataParallel, torch.compile and modules that hold the network (Lightning and others) put before every name.
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
AVERAGE_COUNTER = "n_averaged"  # stands beside `module.` names in torch's AveragedModel
ENTRIES_SHOWN = 8


@dataclass(frozen=True)
class StoredWeights:
    """What a file holds."""

    tensors: dict[str, Tensor]  # by name, without the prefix
    entry: str = ""  # where in the file the state dict lies: "checkpoint.model_ema"; "" where it is the whole file
    prefix: str = ""  # was removed from all names
    left_out: tuple[str, ...] = ()  # names beside the prefix, entries that are no tensors, other state dicts
    notes: tuple[str, ...] = ()  # what else a person should know
    momenta: Mapping[str, float] = field(default_factory=dict)  # of batch norms by name, as torch counts; from Keras

    @property
    def remarks(self) -> tuple[str, ...]:
        """How the tensors were found, and the notes."""
        remarks = [f"taken from the file's entry {self.entry}"] if self.entry else []
        if self.prefix:
            remarks.append(f"{self.prefix!r} dropped from all names")
        return (*remarks, *self.notes)


def read_weights_file(path: Path, wanted: Collection[str] = ()) -> StoredWeights:
    """All tensors of a file, without what wrappers put before their names.

    Args:
        path: .safetensors, or a pickled state dict, bare or inside a checkpoint.
        wanted: the names of a network: they decide which prefixes are wrappers.

    Raises:
        UserError: no such file, another format, damage, code in it, no state dict or several.
    """
    suffix = path.suffix.lower()
    if suffix != SAFETENSORS and suffix not in PICKLED:
        raise UserError(
            f"weights file {path.name}",
            f"a {SAFETENSORS} file, a state dict of torch ({', '.join(PICKLED)}) or a Keras file (.h5, .keras)",
            "Save the weights with safetensors.torch.save_file(model.state_dict(), ...).",
        )
    if not path.is_file():
        raise UserError(f"weights file {path}, which is not there", "an existing file", "Check the path.")
    content = _read_safetensors(path) if suffix == SAFETENSORS else _unpickle_tensors(path)
    entry, others, tensors = _find_state_dict(path, content)
    _check_plain(path, tensors)
    prefix, beside = _wrapper(tensors, wanted)
    kept = {name.removeprefix(prefix): tensor.detach() for name, tensor in tensors.items() if name not in beside}
    return StoredWeights(kept, entry, prefix, (*beside, *others))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """The library checks header size, offsets and lengths."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"{path.name} cannot be read: {error}", "an undamaged safetensors file", "Fetch or save the file anew."
        ) from error


def _unpickle_tensors(path: Path) -> Any:
    """What torch.load gives without running anything."""
    fix = (
        "If you trust its source: load it there, and save the numbers alone, with "
        "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')."
    )
    _refuse_compressed(path, fix)
    try:
        # A Namespace holds the settings of the training script in many checkpoints, and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile pickle can make the reader raise anything
        reason = first_line(error)
        blocked = _blocked_name(error)
        received = f"{path.name} holds more than tensors ({blocked}), and could run code when it is read"
        if not blocked:
            received = f"{path.name} cannot be read without running what is in it: {reason}"
        raise UserError(received, "a state dict: names and tensors (.safetensors holds nothing else)", fix) from error


def _refuse_compressed(path: Path, fix: str) -> None:
    """torch never compresses; a small file that unpacks to much would fill the memory."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked_bytes = sum(info.file_size for info in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path.name} cannot be read: {error}", "an undamaged file", fix) from error
    if unpacked_bytes > path.stat().st_size:
        raise UserError(f"{path.name} is compressed", "a file as torch.save writes it", fix)


def _blocked_name(error: Exception) -> str:
    """The class or function that torch refused to touch, as its message names it."""
    _, found, rest = str(error).partition("GLOBAL ")
    return rest.split()[0] if found and rest.split() else ""


def _find_state_dict(path: Path, content: Any) -> tuple[str, tuple[str, ...], dict[str, Tensor]]:
    """Where it lies, what is left out (its entries that are no tensors, other state dicts), and its tensors."""
    found = dict(_state_dicts(content, _all_tensors)) or dict(_state_dicts(content, _mostly_tensors))
    if not found:
        entries = list(content)[:ENTRIES_SHOWN] if isinstance(content, Mapping) else type(content).__name__
        fix = "Save model.state_dict(), and name the file with it."
        raise UserError(f"{path.name} holds no state dict but {entries}", "names and tensors", fix)
    usual = [name for key in STATE_KEYS for name in found if name.rpartition(".")[2] == key]
    if len(found) > 1 and not usual:
        fix = "Save the one that is meant in a file of its own."
        raise UserError(f"{path.name} holds several state dicts: {', '.join(found)}", "one of them", fix)
    name = usual[0] if usual else next(iter(found))
    tensors = {key: value for key, value in found[name].items() if isinstance(value, Tensor)}
    beside = (key for key in found[name] if key not in tensors)
    return name, (*beside, *(other for other in found if other != name)), tensors


def _state_dicts(
    content: Any, is_one: Callable[[Mapping[str, Any]], bool], where: str = "", depth: int = 0
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every dictionary that counts as one of names and tensors, with the keys that lead to it."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        return
    if is_one(content):
        yield where, dict(content)
    elif depth < DEEPEST:
        for key, value in content.items():
            yield from _state_dicts(value, is_one, f"{where}.{key}" if where else key, depth + 1)


def _all_tensors(entries: Mapping[str, Any]) -> bool:
    return all(isinstance(value, Tensor) for value in entries.values())


def _mostly_tensors(entries: Mapping[str, Any]) -> bool:
    """Tensors, and a few other things beside them: the number of steps, a module's extra state; no dictionaries."""
    count = sum(isinstance(value, Tensor) for value in entries.values())
    return 2 * count > len(entries) and not any(isinstance(value, Mapping) for value in entries.values())


def _check_plain(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Dense numbers that really lie in the file: a view may claim any size over a few stored bytes."""
    for name, tensor in tensors.items():
        dense = tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_quantized
        if not dense or tensor.device.type != "cpu":
            kind = "quantised" if tensor.is_quantized else f"{tensor.layout} on {tensor.device}"
            raise UserError(f"{path.name}: {name} is {kind}", "dense tensors", "Save them as dense numbers.")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            received = f"{path.name}: {name} claims {tensor.numel():,} numbers, more than are stored"
            raise UserError(received, "every number in the file", "Save tensors with .contiguous().")


def _wrapper(names: Collection[str], wanted: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """The prefix that wrappers put before the names, and the names that stand beside it."""
    prefix, beside = "", []
    inner = list(names)
    while inner and set(wanted).isdisjoint(inner):
        for wrapper in WRAPPERS:
            inside = [name.removeprefix(wrapper) for name in inner if name.startswith(wrapper)]
            outside = [name for name in inner if not name.startswith(wrapper)]
            if inside and (set(outside) <= {AVERAGE_COUNTER} or not set(wanted).isdisjoint(inside)):
                beside += [prefix + name for name in outside]
                prefix, inner = prefix + wrapper, inside
                break
        else:
            break
    return prefix, tuple(beside)
