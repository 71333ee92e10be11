"""Starting weights from a .safetensors file, and the card (.json) beside it.

Only safetensors is read: the format holds names, shapes and numbers, and no code that could run.
Everything is checked against the network first; the network changes only when all of it fits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from convcraft.errors import UserError

COUNTER = "num_batches_tracked"  # batch norm's step counter: many files lack it, and eval mode never uses it
PARALLEL_PREFIX = "module."  # what torch's DataParallel puts before every name
NAMES_SHOWN = 5
LARGEST_CARD_BYTES = 8 << 20


@dataclass(frozen=True)
class WeightsReport:
    """What `load_weights` did; `str(report)` is for people.

    loaded: names of the network that got their values from the file.
    skipped: names in the file that were not used (a classifier for other classes, superfluous counters).
    remade: names of the classifier that keep fresh start values, because the file's has other classes or is missing.
    """

    path: Path
    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    remade: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.path.name}: {len(self.loaded)} tensors loaded"
        if self.remade:
            text += f"; the classifier starts afresh, it does not fit the file's classes ({', '.join(self.remade)})"
        if self.skipped:
            text += f"; not used: {_few(self.skipped)}"
        return text


@dataclass(frozen=True)
class Card:
    """What a weights file is and how its input is prepared (timm's config.json)."""

    architecture: str
    num_classes: int
    model_args: dict[str, Any]
    input_size: tuple[int, int, int]  # channels, height, width
    mean: tuple[float, ...]  # per channel, of pixels in 0..1
    std: tuple[float, ...]
    interpolation: str  # "none" where no resize is meant
    crop_pct: float  # side of the centre crop as a share of the resized shorter side
    label_names: tuple[str, ...] | None


def load_weights(model: nn.Module, path: Path) -> WeightsReport:
    """Fill a freshly built network from a file.

    A leading `module.` in names is dropped. `num_batches_tracked` may be missing. Where the file's classifier has
    another number of classes or is missing, the network keeps its own fresh one and the report says so. All else must
    fit exactly.

    Args:
        model: fresh from `build_model`; offers `get_classifier()` (ours and timm's do).
        path: a .safetensors file.

    Raises:
        UserError: another format, a damaged file, names or shapes that do not fit (listed), numbers that are not
            finite. The network is then unchanged.
    """
    stored = _read_tensors(path)
    wanted = model.state_dict()
    remade = _classifier_to_remake(model, stored, wanted)
    _check_fit(path, stored, wanted, remade)
    values = {name: tensor for name, tensor in stored.items() if name in wanted and name not in remade}
    model.load_state_dict(values, strict=False)  # _check_fit has been stricter
    return WeightsReport(
        path=path,
        loaded=tuple(name for name in wanted if name in values),
        skipped=tuple(name for name in stored if name not in values),
        remade=tuple(name for name in wanted if name in remade),
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, by name without `module.`; the library checks header size, offsets and lengths."""
    if path.suffix.lower() != ".safetensors":
        raise UserError(
            f"weights file {path.name}",
            "a .safetensors file (pickled formats such as .pt and .pth can run code; .h5 is Keras's)",
            "Save the weights with safetensors.torch.save_file(model.state_dict(), ...).",
        )
    if not path.is_file():
        raise UserError(f"weights file {path}, which is not there", "a .safetensors file", "Check the path.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"{path.name} cannot be read: {error}", "an undamaged safetensors file", "Fetch or save the file anew."
        ) from error
    named = {name.removeprefix(PARALLEL_PREFIX): tensor for name, tensor in tensors.items()}
    if len(named) < len(tensors):
        raise UserError(f"{path.name} has names both with and without {PARALLEL_PREFIX}", "one of them", "Save anew.")
    return named


def _classifier_to_remake(model: nn.Module, stored: dict[str, Tensor], wanted: dict[str, Tensor]) -> set[str]:
    """The names of the network's classifier where the file's has other classes or none; else nothing."""
    get_classifier = cast("Callable[[], nn.Module] | None", getattr(model, "get_classifier", None))
    classifier = get_classifier() if get_classifier else None
    prefix = next((f"{name}." for name, module in model.named_modules() if name and module is classifier), None)
    if prefix is None:
        return set()
    names = {name for name in wanted if name.startswith(prefix)}
    if not names & stored.keys():
        return names
    given = [stored[name] for name in names if name in stored]
    num_classes = {tensor.shape[0] for tensor in given if tensor.dim() > 0}
    same_inputs = all(stored[name].shape[1:] == wanted[name].shape[1:] for name in names if name in stored)
    other_classes = len(num_classes) == 1 and num_classes != {wanted[name].shape[0] for name in names}
    return names if len(given) == len(names) and same_inputs and other_classes else set()


def _check_fit(path: Path, stored: dict[str, Tensor], wanted: dict[str, Tensor], remade: set[str]) -> None:
    """Raise unless every tensor that will be used has its place, its shape and finite numbers."""
    missing = [name for name in wanted if name not in stored and name not in remade and not name.endswith(COUNTER)]
    unknown = [name for name in stored if name not in wanted and not name.endswith(COUNTER)]
    used = [name for name in stored if name in wanted and name not in remade]
    shapes = [
        f"{name} {list(stored[name].shape)} instead of {list(wanted[name].shape)}"
        for name in used
        if stored[name].shape != wanted[name].shape
    ]
    faults = [
        f"{what}: {_few(names)}"
        for what, names in (("missing", missing), ("not in the network", unknown), ("other shapes", shapes))
        if names
    ]
    if faults:
        raise UserError(
            f"{path.name} does not fit the network ({'; '.join(faults)})",
            "the same names and shapes",
            "Choose the network that the weights were made for (the card beside the file names it).",
        )
    kinds = [name for name in used if stored[name].is_floating_point() != wanted[name].is_floating_point()]
    broken = [name for name in used if name not in kinds and not _finite(stored[name])]
    if kinds or broken:
        what = f"numbers of another kind: {_few(kinds)}" if kinds else f"NaN or infinity: {_few(broken)}"
        raise UserError(f"{path.name} has {what}", "finite weights", "Fetch or save the file anew.")


def _finite(tensor: Tensor) -> bool:
    # float8 has no isfinite; float32 holds every smaller format exactly.
    wide = tensor if tensor.dtype == torch.float64 or not tensor.is_floating_point() else tensor.float()
    return bool(torch.isfinite(wide).all())


def _few(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def read_card(path: Path) -> Card | None:
    """The card beside a weights file (same name, .json), or None where there is none.

    Class names are taken from `label_names`, or from the text file that `label_file` names in the same folder.

    Raises:
        UserError: not JSON, or an entry is missing or of the wrong kind (it is named).
    """
    card_path = path.with_suffix(".json")
    if not card_path.is_file():
        return None
    entries = _read_json(card_path)
    inputs = _entry(card_path, entries, "pretrained_cfg", dict)
    num_classes = _entry(card_path, entries, "num_classes", int)
    channels, height, width = _numbers(card_path, inputs, "input_size", length=3)
    if min(channels, height, width) < 1 or any(side != int(side) for side in (channels, height, width)):
        raise _bad_card(card_path, "input_size", "three whole numbers of at least 1")
    size = (int(channels), int(height), int(width))
    std = _numbers(card_path, inputs, "std", length=size[0])
    if min(std) <= 0:
        raise _bad_card(card_path, "std", "numbers above 0")
    crop_pct = inputs.get("crop_pct")
    if type(crop_pct) not in (int, float) or not 0 < crop_pct <= 1:
        raise _bad_card(card_path, "crop_pct", "a number above 0 and up to 1")
    return Card(
        architecture=_entry(card_path, entries, "architecture", str),
        num_classes=num_classes,
        model_args=_entry(card_path, entries, "model_args", dict, {}),
        input_size=size,
        mean=_numbers(card_path, inputs, "mean", length=size[0]),
        std=std,
        interpolation=_entry(card_path, inputs, "interpolation", str),
        crop_pct=float(crop_pct),
        label_names=_label_names(card_path, entries, num_classes),
    )


def _read_json(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path.name}: {error}", "a JSON file", "Correct or remove the card.") from error
    if not isinstance(entries, dict):
        raise UserError(f"{path.name} holds {type(entries).__name__}", "a JSON object", "Correct or remove the card.")
    return entries


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_CARD_BYTES:
            raise UserError(f"{path.name} of {path.stat().st_size} bytes", "a small text file", "Check the file.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name}: {error}", "a readable UTF-8 file", "Check the file.") from error


_REQUIRED: Any = object()


def _entry(path: Path, entries: dict[str, Any], key: str, kind: type, default: Any = _REQUIRED) -> Any:
    value = entries.get(key, default)
    if value is _REQUIRED or type(value) is not kind:
        raise _bad_card(path, key, f"a value of type {kind.__name__}")
    return value


def _numbers(path: Path, entries: dict[str, Any], key: str, *, length: int) -> tuple[float, ...]:
    values = entries.get(key)
    if not isinstance(values, list) or len(values) != length:
        raise _bad_card(path, key, f"{length} numbers")
    if not all(type(value) in (int, float) and abs(value) < math.inf for value in values):
        raise _bad_card(path, key, "finite numbers")
    return tuple(float(value) for value in values)


def _label_names(path: Path, entries: dict[str, Any], num_classes: int) -> tuple[str, ...] | None:
    names = entries.get("label_names")
    file_name = entries.get("label_file")
    if names is None and file_name is not None:
        if not isinstance(file_name, str) or Path(file_name).name != file_name:
            raise _bad_card(path, "label_file", "the name of a file in the same folder")
        names = _read_text(path.parent / file_name).splitlines()
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) != num_classes:
        raise _bad_card(path, "label_names", f"{num_classes} names")
    return tuple(names)


def _bad_card(path: Path, key: str, expected: str) -> UserError:
    return UserError(f"{path.name} has no usable {key}", expected, f"Correct {key} in the card, or remove the card.")
