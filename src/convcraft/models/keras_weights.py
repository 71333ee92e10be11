"""Weights that Keras saved, brought into a network of the same layers.

What changes on the way:
- convolution: kernel [height, width, in, out] -> weight [out, in, height, width];
- dense: kernel [in, out] -> weight [out, in]; the first one after the maps besides gets its inputs in the order in
  which the network flattens its maps (Keras: height, width, channel);
- batch norm: gamma, beta, moving mean, moving variance -> weight, bias, running_mean, running_var. Keras adds 0.001 to
  the variance where torch adds 0.00001; the difference is put into running_var, so that evaluation gives the same.
  Keras's momentum m is the share of the old statistics that stays, torch's that of the new batch: it becomes 1 - m;
- a convolution's bias that our network leaves to the batch norm behind it is subtracted from the mean there;
- a first convolution for blue, green, red (the file's card says so) becomes one for red, green, blue.
Layers are matched by kind and order, or by name for the branched networks of `keras_applications`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.models.cards import read_card
from convcraft.models.keras_applications import Application, application_of, card_of_keras, check_application
from convcraft.models.keras_architecture import check_architecture
from convcraft.models.keras_file import Array, KerasLayer, read_keras_file
from convcraft.models.network import Network
from convcraft.models.weights_file import StoredWeights

KINDS = {"Conv2d": "convolution", "Linear": "dense", "BatchNorm2d": "batch norm", "BatchNorm1d": "batch norm"}
KERAS_EPSILON = 1e-3  # Keras's default, where a file does not say (.weights.h5)
KERAS_MOMENTUM = 0.99  # likewise
UNCHECKED = (
    "not checked, as this file does not describe its network: activations, pooling, strides, padding, layers without "
    "weights (only kinds, order and shapes of the weights were compared)"
)


@dataclass(frozen=True)
class KerasReport:
    """What was taken over: pairs of (layer in the file, layer of the network); `str` is for people.

    described: the file says what its layers are, and that was compared; .weights.h5 holds numbers alone.
    notes: what else a person should know.
    """

    path: Path
    pairs: tuple[tuple[str, str], ...]
    described: bool
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.path.name}: " + ", ".join(f"{theirs} -> {ours}" for theirs, ours in self.pairs)
        return "; ".join([text, *self.notes, *(() if self.described else (UNCHECKED,))])


@dataclass(frozen=True)
class Match:
    """A layer of the file and the module of ours that it becomes."""

    layer: KerasLayer
    name: str
    module: nn.Module


def load_keras_weights(model: Network, path: Path) -> KerasReport:
    """Fill a network of the same architecture from a Keras file; layers are matched by kind and order.

    Args:
        model: one of our networks, of the same layers.
        path: .h5, .weights.h5 or .keras.

    Raises:
        UserError: no such file, another or a damaged format, layers, shapes or settings that do not fit (named),
            numbers that are not finite. The network is then unchanged.
    """
    matches, described, application = _match(model, path)
    state = _convert(model, path, matches, application)
    momenta = _momenta(path, matches, application)
    model.load_state_dict(state, strict=False)  # every layer with weights has been matched; counters stay
    notes = (set_momenta(model, momenta),) if momenta else ()
    return KerasReport(path, tuple((match.layer.name, match.name) for match in matches), described, notes)


def read_keras_weights(model: nn.Module, path: Path) -> StoredWeights:
    """The tensors of a Keras file as a network of ours names and lays them out; the network is not changed.

    The last layer may have another number of outputs than the network's.

    Raises:
        UserError: as `load_keras_weights`.
    """
    matches, described, application = _match(model, path)
    state = _convert(model, path, matches, application, any_classes=True)
    notes = () if described else (UNCHECKED,)
    return StoredWeights(state, notes=notes, momenta=_momenta(path, matches, application))


def set_momenta(model: nn.Module, momenta: Mapping[str, float]) -> str:
    """Give batch norms their momentum, in torch's terms, for training that goes on; returns a sentence that says it."""
    for name, momentum in momenta.items():
        norm = model.get_submodule(name)
        assert isinstance(norm, (nn.BatchNorm2d, nn.BatchNorm1d))
        norm.momentum = momentum
    values = ", ".join(f"{1 - value:g} (here {value:g})" for value in sorted(set(momenta.values())))
    return f"{len(momenta)} batch norms go on with Keras's momentum {values}"


def _match(model: nn.Module, path: Path) -> tuple[list[Match], bool, Application | None]:
    """Each layer with its module, whether the file describes itself, and the application that it is of."""
    stored, description = read_keras_file(path)
    application = application_of([layer.name for layer in stored])
    if application is not None:
        check_application(path.name, application, description, model)
        return _match_by_name(model, path, stored, application), bool(description), application
    if not isinstance(model, Network):
        fix = "Choose one of our own networks, or save the weights with torch."
        raise UserError(f"{path.name} and a network of timm", "a network that both sides have", fix)
    if description:
        check_architecture(path.name, description, model)
    return _match_by_order(model, path, stored), bool(description), None


def _match_by_order(model: nn.Module, path: Path, stored: list[KerasLayer]) -> list[Match]:
    ours = [(name, module) for name, module in model.named_modules() if type(module).__name__ in KINDS]
    matches: list[Match] = []
    for kind in dict.fromkeys(KINDS.values()):
        theirs = [layer for layer in stored if layer.kind == kind]
        mine = [(name, module) for name, module in ours if KINDS[type(module).__name__] == kind]
        if len(theirs) != len(mine):
            found = f"{path.name} has {len(theirs)} {kind} layers with weights ({_names(theirs)})"
            expected = f"{len(mine)}, as {type(model).__name__} has"
            raise UserError(found, expected, "Choose the network that the file was saved from.")
        matches += [Match(layer, name, module) for layer, (name, module) in zip(theirs, mine, strict=True)]
    return matches


def _match_by_name(model: nn.Module, path: Path, stored: list[KerasLayer], application: Application) -> list[Match]:
    """By Keras's names; the one dense layer is the classifier, whatever its name, and may be missing."""
    modules = dict(model.named_modules())
    classifier = next(name for name, module in reversed(modules.items()) if isinstance(module, nn.Linear))
    matches: list[Match] = []
    for layer in stored:
        name = classifier if layer.kind == "dense" else application.our_name(layer.name)
        if name is None or name not in modules or any(match.name == name for match in matches):
            found = f"{path.name}: layer {layer.name} ({layer.kind})"
            fix = f"Choose the network of the same depth; of dense layers, Keras's {application.name} has one."
            raise UserError(found, f"a layer of Keras's {application.name} that {type(model).__name__} has too", fix)
        matches.append(Match(layer, name, modules[name]))
    kinds = (nn.Conv2d, nn.BatchNorm2d)
    absent = {name for name, module in modules.items() if isinstance(module, kinds)} - {match.name for match in matches}
    if absent:
        found = f"{path.name} lacks {len(absent)} layers, among them {min(absent)}"
        raise UserError(found, f"all layers of {type(model).__name__}", "Choose the network of the same depth.")
    return matches


def _names(layers: Sequence[KerasLayer]) -> str:
    return ", ".join(layer.name for layer in layers) or "none"


def _convert(
    model: nn.Module, path: Path, matches: list[Match], application: Application | None, *, any_classes: bool = False
) -> dict[str, Tensor]:
    """All tensors as the network wants them, checked against it (any_classes: but for its number of classes)."""
    card = read_card(path) or card_of_keras(path)
    if card is not None and card.channel_order == "bgr":
        matches = _red_first(matches)
    if application is not None:
        matches = _without_biases(path, matches)
    epsilon = KERAS_EPSILON if application is None else application.epsilon
    dense = [match.name for match in matches if match.layer.kind == "dense"]
    state: dict[str, Tensor] = {}
    for match in matches:
        first = application is None and match.name in dense[:1]
        order = _flatten_order(model, match.module) if first else None
        tensors = _converted(path, match, order, epsilon, any_outputs=any_classes and match.name in dense[-1:])
        state |= {f"{match.name}.{key}": tensor for key, tensor in tensors.items()}
    return state


def _red_first(matches: list[Match]) -> list[Match]:
    """The first convolution for red, green, blue instead of blue, green, red: its kernel is [h, w, in, out]."""
    first = next(match for match in matches if match.layer.kind == "convolution")
    kernel, *rest = first.layer.arrays
    turned = replace(first, layer=replace(first.layer, arrays=(kernel[:, :, ::-1], *rest)))
    return [turned if match is first else match for match in matches]


def _without_biases(path: Path, matches: list[Match]) -> list[Match]:
    """conv + bias, then batch norm: the same as conv, then batch norm with a mean that is smaller by the bias."""
    biases = {
        match.layer.name.removesuffix("_conv") + "_bn": match.layer.arrays[1]
        for match in matches
        if match.layer.kind == "convolution" and len(match.layer.arrays) == 2
    }
    changed: list[Match] = []
    for match in matches:
        arrays = match.layer.arrays
        if match.layer.kind == "convolution":
            arrays = arrays[:1]
        elif match.layer.name in biases and biases[match.layer.name].shape == arrays[2].shape:
            arrays = (*arrays[:2], arrays[2] - biases.pop(match.layer.name), arrays[3])
        changed.append(replace(match, layer=replace(match.layer, arrays=arrays)))
    if biases:
        found = f"{path.name}: {min(biases)}, which the biases before it need, is missing or of another size"
        raise UserError(found, "each convolution with its batch norm", "Save the whole network again.")
    return changed


def _converted(
    path: Path, match: Match, order: NDArray[np.int64] | None, epsilon: float, *, any_outputs: bool
) -> dict[str, Tensor]:
    """A layer's tensors as the module wants them, checked against it (any_outputs: but for their number)."""
    layer, module = match.layer, match.module
    where = f"{path.name}: layer {layer.name} (here {match.name})"
    arrays = list(layer.arrays)
    if layer.kind == "batch norm":
        arrays[3] = _variance(where, layer, module, epsilon)
        keys = ["weight", "bias", "running_mean", "running_var"]
    else:
        arrays[0] = arrays[0].transpose(_axes(layer, module))
        if order is not None and order.size == arrays[0].shape[1]:
            arrays[0] = arrays[0][:, order]
        keys = ["weight", "bias"][: len(arrays)]
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in keys and key != "num_batches_tracked"]
    if missing:
        raise UserError(
            f"{where} has no {', '.join(missing)}", f"what the network has: {', '.join(wanted)}", "Compare."
        )
    tensors = {key: torch.tensor(array.copy(), dtype=torch.float32) for key, array in zip(keys, arrays, strict=True)}
    for key, tensor in tensors.items():
        _check_tensor(where, key, tensor, wanted.get(key), any_outputs=any_outputs)
    return tensors


def _axes(layer: KerasLayer, module: nn.Module) -> tuple[int, ...]:
    """The order of Keras's axes in ours: [h, w, in, out] or, one kernel per map, [h, w, out, 1]; [in, out]."""
    if layer.kind == "dense":
        return 1, 0
    depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
    return (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)


def _variance(where: str, layer: KerasLayer, module: nn.Module, epsilon: float) -> Array:
    """The moving variance, with the difference of what the two sides add to it."""
    assert isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d))
    added = float(layer.settings.get("epsilon", epsilon)) - module.eps
    variance = layer.arrays[3].astype(np.float64) + added
    if (variance < 0).any():
        raise UserError(f"{where} has a variance below 0", "a variance as training leaves it", "Save it again.")
    return variance.astype(np.float32)


def _momenta(path: Path, matches: Sequence[Match], application: Application | None) -> dict[str, float]:
    """By the names of our batch norms, in torch's terms; what a file does not say is Keras's default.

    Raises:
        UserError: a momentum that is no number of 0..1.
    """
    usual = KERAS_MOMENTUM if application is None else application.momentum
    momenta: dict[str, float] = {}
    for match in matches:
        if match.layer.kind != "batch norm":
            continue
        theirs = match.layer.settings.get("momentum", usual)
        if isinstance(theirs, bool) or not isinstance(theirs, (int, float)) or not 0 <= theirs <= 1:
            found = f"{path.name}: layer {match.layer.name} with momentum {theirs!r}"
            raise UserError(found, "a number of 0 to 1", "Save the file again.")
        momenta[match.name] = round(1 - theirs, 12)  # 0.01, not 0.010000000000000009
    return momenta


def _check_tensor(where: str, key: str, tensor: Tensor, wanted: Tensor | None, *, any_outputs: bool) -> None:
    """Shape (any_outputs: but for its first axis) and numbers."""
    fits = wanted is not None and tensor.dim() == wanted.dim()
    if wanted is None or not fits or tensor.shape[any_outputs:] != wanted.shape[any_outputs:]:
        expected = f"no {key}" if wanted is None else f"{list(wanted.shape)}"
        fix = "Choose the network, image size and number of classes that the file was saved from."
        raise UserError(f"{where}: {key} of shape {list(tensor.shape)}", expected, fix)
    if not bool(torch.isfinite(tensor).all()):
        raise UserError(f"{where}: {key} has NaN or infinity", "finite weights", "Save it again.")


def _flatten_order(model: nn.Module, first_dense: nn.Module) -> NDArray[np.int64] | None:
    """For each input of the first dense layer, which number of Keras's flattened maps (height, width, channel) it is.

    Found by sending numbered maps through the network's head: so it holds for any order of flattening. None where the
    head does not flatten (global pooling leaves one number per channel, in the same order in both).
    """
    assert isinstance(model, Network)
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
