"""What a network says of images, whichever engine computed it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Outputs:
    """Of N images. logits: float32 [N, K]. features: the classifier's input float32 [N, D], or None where they were not
    asked for or the classifier takes no rows."""

    logits: NDArray[np.float32]
    features: NDArray[np.float32] | None = None
