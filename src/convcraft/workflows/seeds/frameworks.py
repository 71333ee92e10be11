"""The convolutions of other frameworks behind one signature, each where it is installed, beside ours.

Nothing is imported but NumPy and our engine, so that it runs in an environment without torch, too.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.scratch.conv_algorithms.catalogue import convolve_with
from convcraft.scratch.convolution import conv2d

Array = NDArray[np.float64]
Convolution = Callable[..., Array | None]  # (images, kernels, bias, **settings) -> maps, or None where it cannot

SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"stride": 2},
    {"padding": 1},
    {"dilation": 2},
    {"groups": 2},
    {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2},
)


def torch_conv2d(images: Array, kernels: Array, bias: Array | None = None, **settings: Any) -> Array | None:
    """torch.nn.functional.conv2d on float64."""
    import torch

    shift = None if bias is None else torch.from_numpy(bias)
    result: Array = torch.conv2d(torch.from_numpy(images), torch.from_numpy(kernels), shift, **settings).numpy()
    return result


def keras_conv2d(images: Array, kernels: Array, bias: Array | None = None, **settings: Any) -> Array | None:
    """keras.ops.conv on float64, channels last, on whatever backend Keras runs (TensorFlow by default).

    Keras takes no numbers as padding, so zeros are put around first. TensorFlow computes no grouped convolution on a
    CPU: None.
    """
    import keras

    if settings.get("groups", 1) > 1:
        return None
    rows, columns = _pair(settings.get("padding", 0))
    padded = np.pad(images, ((0, 0), (0, 0), (rows, rows), (columns, columns))).transpose(0, 2, 3, 1)
    strides, dilation = _pair(settings.get("stride", 1)), _pair(settings.get("dilation", 1))
    if max(strides) > 1 and max(dilation) > 1:
        return None  # Keras refuses both at once
    maps = keras.ops.conv(
        padded, kernels.transpose(2, 3, 1, 0), strides, "valid", "channels_last", dilation_rate=dilation
    )
    result: Array = np.asarray(keras.ops.convert_to_numpy(maps)).transpose(0, 3, 1, 2)
    return result if bias is None else result + bias[:, None, None]


def jax_conv2d(images: Array, kernels: Array, bias: Array | None = None, **settings: Any) -> Array | None:
    """jax.lax.conv_general_dilated on float64."""
    import jax

    jax.config.update("jax_enable_x64", True)
    rows, columns = _pair(settings.get("padding", 0))
    maps = jax.lax.conv_general_dilated(
        images,
        kernels,
        _pair(settings.get("stride", 1)),
        ((rows, rows), (columns, columns)),
        rhs_dilation=_pair(settings.get("dilation", 1)),
        feature_group_count=settings.get("groups", 1),
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
        precision="highest",
    )
    result = np.asarray(maps)
    return result if bias is None else result + bias[:, None, None]


FRAMEWORKS: dict[str, tuple[str, Convolution]] = {  # name -> the package that brings it, its convolution
    "torch": ("torch", torch_conv2d),
    "Keras with TensorFlow": ("tensorflow", keras_conv2d),
    "JAX": ("jax", jax_conv2d),
}


def installed() -> dict[str, Convolution]:
    """The frameworks that can be compared with on this machine."""
    found = {}
    for name, (package, convolution) in FRAMEWORKS.items():
        if importlib.util.find_spec(package) is not None:
            found[name] = convolution
    return found


def compare(convolution: Convolution, settings: dict[str, Any]) -> float | None:
    """Largest difference of the loop and of the engine to a framework, on 2 images with 4 channels and 6 kernels.

    None where the framework cannot compute these settings.
    """
    rng = np.random.default_rng(0)
    images, bias = rng.standard_normal((2, 4, 13, 12)), rng.standard_normal(6)
    kernels = rng.standard_normal((6, 4 // settings.get("groups", 1), 3, 3))
    theirs = convolution(images, kernels, bias, **settings)
    if theirs is None:
        return None
    loop = convolve_with("direct", images, kernels, **settings) + bias[:, None, None]
    return max(gap(loop, theirs), gap(conv2d(images, kernels, bias, **settings), theirs))


def gap(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Largest difference of two arrays of one shape."""
    assert left.shape == right.shape
    return float(np.abs(left - right).max())


def words(settings: dict[str, Any]) -> str:
    """The settings of a convolution, to print."""
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "plain"


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
