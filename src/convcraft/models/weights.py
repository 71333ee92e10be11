"""Starting weights from a file into a network.

Formats: .safetensors, pickled state dicts (read without running anything, `weights_file`), and what Keras saved of
networks that both sides have (`keras_weights`). Everything is checked against the network first; the network changes
only when all of it fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.models.cards import Card, read_card
from convcraft.models.classifier import classifier_names
from convcraft.models.stages import is_part
from convcraft.models.weights_file import StoredWeights, read_weights_file

__all__ = ["Card", "WeightsReport", "load_weights", "read_card"]

COUNTER = "num_batches_tracked"  # batch norm's step counter: many files lack it, and eval mode never uses it
KERAS = (".h5", ".hdf5", ".keras")
NAMES_SHOWN = 5


@dataclass(frozen=True)
class WeightsReport:
    """What `load_weights` did; `str(report)` is for people.

    loaded: names of the network that got their values from the file.
    skipped: names in the file that were not used (a classifier for other classes, superfluous counters, an optimiser's
        or a loss function's numbers).
    remade: names of the classifier that keep fresh start values, because the file's has other classes or is missing.
    notes: where in the file the weights lay, what was removed from their names, what could not be checked.
    """

    path: Path
    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    remade: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.path.name}: {len(self.loaded)} tensors loaded"
        if self.remade:
            text += f"; the classifier starts afresh, it does not fit the file's classes ({', '.join(self.remade)})"
        if self.skipped:
            text += f"; not used: {_few(self.skipped)}"
        return "; ".join([text, *self.notes])


def load_weights(model: nn.Module, path: Path) -> WeightsReport:
    """Fill a freshly built network from a file.

    What DataParallel, torch.compile and enclosing modules put before all names is dropped; of a checkpoint, the one
    state dict is taken. `num_batches_tracked` may be missing. Where the file's classifier has another number of classes
    or is missing, the network keeps its own fresh one. Batch norms get the momentum of a Keras file. All that is in the
    report; all else must fit exactly.

    Args:
        model: fresh from `build_model`; offers `get_classifier()` (ours and timm's do).
        path: .safetensors; .pt, .pth, .th, .bin or .ckpt; .h5, .weights.h5 or .keras.

    Raises:
        UserError: another format, a damaged file, one that would run code, names or shapes that do not fit (listed),
            numbers that are not finite. The network is then unchanged.
    """
    wanted = model.state_dict()
    stored = _read(model, path, wanted)
    tensors = stored.tensors
    remade = _classifier_to_remake(model, tensors, wanted)
    _check_fit(path, tensors, wanted, remade)
    values = {name: tensor for name, tensor in tensors.items() if name in wanted and name not in remade}
    model.load_state_dict(values, strict=False)  # _check_fit has been stricter
    return WeightsReport(
        path=path,
        loaded=tuple(name for name in wanted if name in values),
        skipped=(*(name for name in tensors if name not in values), *stored.left_out),
        remade=tuple(name for name in wanted if name in remade),
        notes=(*stored.remarks, *_set_momenta(model, stored.momenta)),
    )


def _read(model: nn.Module, path: Path, wanted: dict[str, Tensor]) -> StoredWeights:
    if path.suffix.lower() not in KERAS:
        return read_weights_file(path, wanted)
    from convcraft.models.keras_weights import read_keras_weights

    return read_keras_weights(model, path)


def _set_momenta(model: nn.Module, momenta: Mapping[str, float]) -> Iterator[str]:
    """Give batch norms the momentum that they were trained with, which no tensor holds; say it."""
    if momenta:
        from convcraft.models.keras_weights import set_momenta

        yield set_momenta(model, momenta)


def _classifier_tensors(model: nn.Module) -> set[str]:
    """The names of a network's last layer (or both of two) in its state dict; nothing where it does not tell."""
    try:
        heads = classifier_names(model)
    except UserError:  # then all of the file has to fit
        return set()
    return {name for name in model.state_dict() if is_part(name, heads)}


def _classifier_to_remake(model: nn.Module, stored: dict[str, Tensor], wanted: dict[str, Tensor]) -> set[str]:
    """The names of the network's classifier where the file's has other classes or none; else nothing."""
    names = _classifier_tensors(model)
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
    misfits = [name for name in used if stored[name].shape != wanted[name].shape]
    shapes = [f"{name} {list(stored[name].shape)} instead of {list(wanted[name].shape)}" for name in misfits]
    faults = [
        f"{what}: {_few(names)}"
        for what, names in (("missing", missing), ("not in the network", unknown), ("other shapes", shapes))
        if names
    ]
    if faults:
        raise UserError(
            f"{path.name} does not fit the network ({'; '.join(faults)})",
            "the same names and shapes",
            _fix(misfits if not missing and not unknown else [], stored, wanted),
        )
    kinds = [name for name in used if stored[name].is_floating_point() != wanted[name].is_floating_point()]
    broken = [name for name in used if name not in kinds and not _finite(stored[name])]
    if kinds or broken:
        what = f"numbers of another kind: {_few(kinds)}" if kinds else f"NaN or infinity: {_few(broken)}"
        raise UserError(f"{path.name} has {what}", "finite weights", "Fetch or save the file anew.")


def _fix(misfits: Sequence[str], stored: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """Where the first convolution alone differs, in nothing but its input channels, the images are meant."""
    if len(misfits) == 1:
        (name,) = misfits
        theirs, ours = stored[name].shape, wanted[name].shape
        if len(theirs) == len(ours) == 4 and (theirs[0], *theirs[2:]) == (ours[0], *ours[2:]):
            return f"Set preprocess.channels to {theirs[1]}: images are converted to what the weights were made for."
    return "Choose the network that the weights were made for (the card beside the file names it)."


def _finite(tensor: Tensor) -> bool:
    # float8 has no isfinite; float32 holds every smaller format exactly.
    wide = tensor if tensor.dtype == torch.float64 or not tensor.is_floating_point() else tensor.float()
    return bool(torch.isfinite(wide).all())


def _few(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
