"""The layers of a network, found again among the nodes of its ONNX graph."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

WEIGHT, BIAS = ".weight", ".bias"
LAYERS = ("Conv", "Gemm", "MatMul")
WITH_BIAS = ("Conv", "Gemm")  # operators whose third input is a bias


def name_layers(model: Any) -> None:
    """Give convolutions and linear layers their module's name in place of a number; other nodes keep theirs.

    torch names weights after the module that holds them. A layer that is used twice has a number behind its name.

    Args:
        model: an onnx.ModelProto, changed in place.
    """
    used: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type in LAYERS and node.input[1].endswith(WEIGHT):
            name = node.input[1].removesuffix(WEIGHT)
            used[name] += 1
            node.name = name if used[name] == 1 else f"{name}#{used[name]}"


def without_rounding_errors(model: Any, errors: Mapping[str, NDArray[np.float32]], keep: Collection[str]) -> Any:
    """A copy whose biases are lower by what rounding the weights will add.

    Args:
        model: an onnx.ModelProto with named layers. errors: by layer, float32 [outputs]. keep: layers that will not be
            rounded.
    """
    from onnx import numpy_helper

    lowered = copy.deepcopy(model)
    biases = {tensor.name: tensor for tensor in lowered.graph.initializer if tensor.name.endswith(BIAS)}
    nodes = {node.name: node for node in lowered.graph.node if node.op_type in WITH_BIAS}
    for layer, error in errors.items():
        if layer in keep:
            continue
        name = layer + BIAS
        if name in biases:
            biases[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(biases[name]) - error, name))
        elif layer in nodes and len(nodes[layer].input) == 2:  # torch leaves out biases of zeros
            lowered.graph.initializer.append(numpy_helper.from_array(-error, name))
            nodes[layer].input.append(name)
    return lowered
