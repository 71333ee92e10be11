"""What every format gives: files of a network, a check of such files, and a session that runs them.

`catalogue` lists the formats. Importing one imports neither torch nor its runtime: each is fetched where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convcraft.evaluation.outputs import Outputs

if TYPE_CHECKING:
    from convcraft.deploy.export_network import ExportNetwork

Files = Mapping[str, bytes]  # name in the bundle -> content
# float32 [B, C, H, W] normalised, or uint8 [B, H, W, C] where the network normalises, to what it says.
Session = Callable[[NDArray[np.generic]], Outputs]
# Layers that stay in floating point, by their module's name in the ExportNetwork, to files in int8.
Quantise = Callable[[Collection[str]], dict[str, bytes]]

BATCH_SIZE = 16  # pictures at once, where nothing else is said or measured
LOGITS, FEATURES = "logits", "features"  # names of the outputs in every format


@dataclass(frozen=True)
class Runtime:
    """How a session computes. threads: None leaves it to the runtime (all cores)."""

    threads: int | None = None


@dataclass(frozen=True)
class Format:
    """One way to store a network and to run it.

    files: names of its files in a bundle.
    precisions: what `write` can make; "float32" first.
    package: the distribution whose version decides what comes out, e.g. "onnxruntime".
    base: it runs with the base install, without torch.
    native_code: loading it runs machine code of the bundle's maker.
    write: (network, images float32 [N, C, H, W] or uint8 [N, H, W, C], precision) -> files. int8 measures ranges on the
        images.
    check: raises UserError for files that must not reach the runtime.
    open: files -> session.
    quantiser: (network, images) -> int8 files for any choice of layers that stay in floating point, all from one
        tracing; None where the format has no int8. `write` in int8 leaves none.
    """

    name: str
    description: str
    files: tuple[str, ...]
    precisions: tuple[str, ...]
    package: str
    base: bool
    native_code: bool
    write: Callable[[ExportNetwork, NDArray[np.generic], str], dict[str, bytes]]
    check: Callable[[Files], None]
    open: Callable[[Files, str, Runtime], Session]
    quantiser: Callable[[ExportNetwork, NDArray[np.generic]], Quantise] | None = None
