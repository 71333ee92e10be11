"""What a network says of images, whichever engine computed it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Outputs:
    """Of N images. logits: float32 [N, K]. features: the classifier's input float32 [N, D], or None where they were not
    asked for or the classifier takes no rows."""

    logits: NDArray[np.float32]
    features: NDArray[np.float32] | None = None

    @classmethod
    def joined(cls, parts: Sequence[Outputs]) -> Outputs:
        """Batches in a row; at least one."""
        features = [part.features for part in parts if part.features is not None]
        return cls(np.concatenate([part.logits for part in parts]), np.concatenate(features) if features else None)
