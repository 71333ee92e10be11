"""Networks that torch itself runs: from arrays to arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convcraft.deploy.formats.form import Runtime, Session
from convcraft.evaluation.outputs import Outputs

if TYPE_CHECKING:
    from torch import Tensor


def torch_session(network: Callable[[Tensor], Any], runtime: Runtime) -> Session:
    """
    Args:
        network: tensor to logits, or to (logits, features).
        runtime: its threads hold for all of torch in this process.
    """
    import torch

    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)

    def run(images: NDArray[np.generic]) -> Outputs:
        with torch.inference_mode():
            answer = network(torch.from_numpy(np.ascontiguousarray(images)))
        parts = answer if isinstance(answer, (tuple, list)) else (answer,)
        logits, *features = (part.float().numpy() for part in parts)
        return Outputs(logits, features[0] if features else None)

    return run
