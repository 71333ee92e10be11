"""Weights that Keras saved, brought into a network of ours: .h5 (old), .weights.h5 and .keras.

Only numbers and names are read. The layers' description in a file is parsed as JSON and compared, never built, and
pickled or Lambda code in it is never run. h5py is needed: pip install "convcraft[keras-files]".

What changes on the way:
- convolution: kernel [height, width, in, out] -> weight [out, in, height, width];
- dense: kernel [in, out] -> weight [out, in]; the first one after the maps besides gets its inputs in the order in
  which the network flattens its maps (Keras: height, width, channel);
- batch norm: gamma, beta, moving mean, moving variance -> weight, bias, running_mean, running_var. Keras adds 0.001 to
  the variance where torch adds 0.00001; the difference is put into running_var, so that evaluation gives the same.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.models.keras_architecture import check_architecture
from convcraft.models.network import Network

KINDS = {"Conv2d": "convolution", "Linear": "dense", "BatchNorm2d": "batch norm", "BatchNorm1d": "batch norm"}
KERAS_EPSILON = 1e-3  # Keras's default, where a file does not say (.weights.h5)
UNCHECKED = (
    "not checked, as this file does not describe its network: activations, pooling, strides, padding, layers without "
    "weights (only kinds, order and shapes of the weights were compared)"
)
LARGEST_BYTES = 4 << 30  # of what a .keras file unpacks to
Array = NDArray[np.float32]


@dataclass(frozen=True)
class KerasLayer:
    """One layer with weights as a file has it, in the file's order."""

    name: str
    kind: str  # a value of KINDS
    arrays: tuple[Array, ...]  # kernel, bias; or gamma, beta, moving mean, moving variance
    settings: dict[str, Any]  # its description in the file; empty where the file has none


@dataclass(frozen=True)
class KerasReport:
    """What was taken over: pairs of (layer in the file, layer of the network); `str` is for people.

    described: the file says what its layers are, and that was compared; .weights.h5 holds numbers alone.
    """

    path: Path
    pairs: tuple[tuple[str, str], ...]
    described: bool

    def __str__(self) -> str:
        text = f"{self.path.name}: " + ", ".join(f"{theirs} -> {ours}" for theirs, ours in self.pairs)
        return text if self.described else f"{text}; {UNCHECKED}"


def load_keras_weights(model: Network, path: Path) -> KerasReport:
    """Fill a network of the same architecture from a Keras file; layers are matched by kind and order.

    Args:
        model: one of our networks, of the same layers.
        path: .h5, .weights.h5 or .keras.

    Raises:
        UserError: no such file, another or a damaged format, layers, shapes or settings that do not fit (named),
            numbers that are not finite. The network is then unchanged.
    """
    stored, description = _read_file(path)
    if description:
        check_architecture(path.name, description, model)
    ours = [(name, module) for name, module in model.named_modules() if type(module).__name__ in KINDS]
    state: dict[str, Tensor] = {}
    pairs: list[tuple[str, str]] = []
    for kind in dict.fromkeys(KINDS.values()):
        theirs = [layer for layer in stored if layer.kind == kind]
        mine = [(name, module) for name, module in ours if KINDS[type(module).__name__] == kind]
        if len(theirs) != len(mine):
            found = f"{path.name} has {len(theirs)} {kind} layers with weights ({_names(theirs)})"
            expected = f"{len(mine)}, as {type(model).__name__} has"
            raise UserError(found, expected, "Choose the network that the file was saved from.")
        for number, (layer, (name, module)) in enumerate(zip(theirs, mine, strict=True)):
            order = _flatten_order(model, module) if kind == "dense" and number == 0 else None
            tensors = _converted(path, layer, name, module, order)
            state |= {f"{name}.{key}": tensor for key, tensor in tensors.items()}
            pairs.append((layer.name, name))
    model.load_state_dict(state, strict=False)  # every layer with weights has been matched; counters stay
    return KerasReport(path, tuple(pairs), described=bool(description))


def read_keras_layers(path: Path) -> list[KerasLayer]:
    """The layers with weights of a file, in the file's own order.

    Raises:
        UserError: as `load_keras_weights`.
    """
    return _read_file(path)[0]


def _read_file(path: Path) -> tuple[list[KerasLayer], list[dict[str, Any]]]:
    """The layers with weights, and the description of all layers: empty where the file has none."""
    h5py = _h5py()
    if not path.is_file():
        raise UserError(f"weights file {path}, which is not there", "a Keras file", "Check the path.")
    try:
        if zipfile.is_zipfile(path):
            config, content = _unpack(path)
            described = _described_layers(config)
            with h5py.File(io.BytesIO(content), "r") as file:
                return list(_numbered_layers(path, file, h5py, _by_name(described))), described
        with h5py.File(path, "r") as file:
            group = file.get("model_weights", file)
            if "layer_names" in group.attrs:
                described = _described_layers(json.loads(file.attrs.get("model_config", "{}")))
                return list(_named_layers(path, group, h5py, _by_name(described))), described
            return list(_numbered_layers(path, file, h5py, {})), []
    except UserError:
        raise
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, zipfile.BadZipFile) as error:
        expected = "an undamaged file that Keras saved (.h5, .weights.h5 or .keras)"
        raise UserError(f"{path.name} cannot be read: {error}", expected, "Save it again.") from error


def _names(layers: list[KerasLayer]) -> str:
    return ", ".join(layer.name for layer in layers) or "none"


def _h5py() -> Any:
    try:
        import h5py
    except ModuleNotFoundError as error:
        fix = 'Install it with: pip install "convcraft[keras-files]"'
        raise UserError("h5py is not installed", "h5py, which reads Keras files", fix) from error
    return h5py


def _unpack(path: Path) -> tuple[dict[str, Any], bytes]:
    """config.json and model.weights.h5 of a .keras file."""
    with zipfile.ZipFile(path) as archive:
        if sum(info.file_size for info in archive.infolist()) > LARGEST_BYTES:
            raise UserError(
                f"{path.name} unpacks to more than {LARGEST_BYTES >> 30} GiB", "a smaller file", "Check it."
            )
        return json.loads(archive.read("config.json")), archive.read("model.weights.h5")


def _described_layers(config: Any) -> list[dict[str, Any]]:
    """The layers of a model's description, weightless ones too, in order; empty where there is none."""
    if not isinstance(config, dict) or not config:
        return []
    return list(config["config"]["layers"])


def _by_name(described: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings of each layer by its name."""
    return {entry["config"]["name"]: entry["config"] for entry in described}


def _named_layers(path: Path, group: Any, h5py: Any, settings: dict[str, dict[str, Any]]) -> Iterator[KerasLayer]:
    """Of the old .h5: the attribute layer_names gives the order, weight_names the weights of each."""
    for raw in group.attrs["layer_names"]:
        name = raw.decode() if isinstance(raw, bytes) else str(raw)
        layer = _hard(path, group, name, h5py)
        weight_names = [item.decode() if isinstance(item, bytes) else str(item) for item in layer.attrs["weight_names"]]
        arrays = [_read(path, layer, weight, h5py) for weight in weight_names]
        yield from _typed(path, name, [array for array in arrays if array is not None], settings.get(name, {}))


def _numbered_layers(path: Path, file: Any, h5py: Any, settings: dict[str, dict[str, Any]]) -> Iterator[KerasLayer]:
    """Of .weights.h5 and .keras: groups layers/conv2d, layers/conv2d_1 ... numbered in the model's order, by kind."""
    top = _hard(path, file, "layers", h5py)
    for key in sorted(top, key=_number_last):
        layer = _hard(path, top, key, h5py)
        if "vars" not in layer:
            continue
        values = _hard(path, layer, "vars", h5py)
        arrays = [_read(path, values, name, h5py) for name in sorted(values, key=int)]
        name = str(values.attrs.get("name", key))
        if "layers" in layer and not arrays:
            raise UserError(f"{path.name} has a model inside a model ({name})", "a plain stack of layers", "Unnest it.")
        yield from _typed(path, name, [array for array in arrays if array is not None], settings.get(name, {}))


def _number_last(key: str) -> tuple[str, int]:
    """conv2d, conv2d_1, conv2d_2, ... conv2d_10: by name, then by number."""
    stem, _, number = key.rpartition("_")
    return (stem, int(number)) if stem and number.isdigit() else (key, 0)


def _hard(path: Path, group: Any, name: str, h5py: Any) -> Any:
    """A member that lies in this very file: links to other files are not followed."""
    here = group
    for part in name.split("/"):
        if not isinstance(here.get(part, getlink=True), h5py.HardLink):
            raise UserError(
                f"{path.name}: {name} is a link or missing", "plain data in the file itself", "Save it again."
            )
        here = here[part]
    return here


def _read(path: Path, group: Any, name: str, h5py: Any) -> Array | None:
    """One array as float32; None for the integers that random layers keep (seeds)."""
    data = _hard(path, group, name, h5py)
    plain = isinstance(data, h5py.Dataset) and not data.is_virtual and not data.external
    if not plain or data.dtype.kind not in "fiu":
        raise UserError(
            f"{path.name}: {name} is no plain array of numbers", "weights as Keras saves them", "Save again."
        )
    if data.dtype.kind != "f":
        return None
    if data.nbytes > LARGEST_BYTES:
        raise UserError(f"{path.name}: {name} has {data.nbytes:,} bytes", "a weight of usual size", "Check the file.")
    return np.asarray(data[()], dtype=np.float32)


def _typed(path: Path, name: str, arrays: list[Array], settings: dict[str, Any]) -> Iterator[KerasLayer]:
    """The layer, known by the shapes of its arrays; nothing for layers without weights."""
    shapes = [array.ndim for array in arrays]
    if not arrays:
        return
    if shapes[0] == 4 and shapes[1:] in ([], [1]):
        kind = "convolution"
    elif shapes[0] == 2 and shapes[1:] in ([], [1]):
        kind = "dense"
    elif shapes == [1, 1, 1, 1]:
        kind = "batch norm"
    else:
        found = f"{path.name}: layer {name} with weights of shapes {[list(array.shape) for array in arrays]}"
        raise UserError(found, "convolutions, dense layers and batch norms", "This kind of layer is not known here.")
    yield KerasLayer(name, kind, tuple(arrays), settings)


def _converted(
    path: Path, layer: KerasLayer, name: str, module: nn.Module, order: NDArray[np.int64] | None
) -> dict[str, Tensor]:
    """A layer's tensors as the module wants them, checked against it."""
    where = f"{path.name}: layer {layer.name} (here {name})"
    arrays = [array.astype(np.float64) for array in layer.arrays]
    if layer.kind == "batch norm":
        assert isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d))
        epsilon = float(layer.settings.get("epsilon", KERAS_EPSILON))
        arrays[3] = arrays[3] + (epsilon - module.eps)
        keys = ["weight", "bias", "running_mean", "running_var"]
        if (arrays[3] < 0).any():
            raise UserError(f"{where} has a variance below 0", "a variance as training leaves it", "Save it again.")
    else:
        axes = (3, 2, 0, 1) if layer.kind == "convolution" else (1, 0)
        arrays[0] = arrays[0].transpose(axes)
        if order is not None and order.size == arrays[0].shape[1]:
            arrays[0] = arrays[0][:, order]
        keys = ["weight", "bias"][: len(arrays)]
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in keys and key != "num_batches_tracked"]
    if missing:
        raise UserError(
            f"{where} has no {', '.join(missing)}", f"what the network has: {', '.join(wanted)}", "Compare."
        )
    tensors = {key: torch.tensor(array, dtype=torch.float32) for key, array in zip(keys, arrays, strict=True)}
    for key, tensor in tensors.items():
        if key not in wanted or tensor.shape != wanted[key].shape:
            expected = f"{list(wanted[key].shape)}" if key in wanted else f"no {key}"
            fix = "Choose the network, image size and number of classes that the file was saved from."
            raise UserError(f"{where}: {key} of shape {list(tensor.shape)}", expected, fix)
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{where}: {key} has NaN or infinity", "finite weights", "Save it again.")
    return tensors


def _flatten_order(model: Network, first_dense: nn.Module) -> NDArray[np.int64] | None:
    """For each input of the first dense layer, which number of Keras's flattened maps (height, width, channel) it is.

    Found by sending numbered maps through the network's head: so it holds for any order of flattening. None where the
    head does not flatten (global pooling leaves one number per channel, in the same order in both).
    """
    seen: list[Tensor] = []
    modes = [(module, module.training) for module in model.modules()]
    handle = first_dense.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    model.eval()
    try:
        with torch.no_grad():
            maps = model.forward_features(torch.zeros(1, model.in_channels, *model.image_size))
            numbers = torch.arange(maps[0].numel(), dtype=torch.float32)
            channels, height, width = maps.shape[1:]
            model.forward_head(numbers.reshape(1, height, width, channels).permute(0, 3, 1, 2))
    finally:
        handle.remove()
        for module, training in modes:
            module.training = training
    order = seen[0].reshape(-1)
    return order.long().numpy() if torch.equal(order.sort().values, numbers) else None
