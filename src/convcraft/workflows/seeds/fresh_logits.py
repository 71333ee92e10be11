"""Logits of a run in a process of its own.

python -m convcraft.workflows.seeds.fresh_logits RUN IMAGES.npy LOGITS.npy
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from convcraft.training.run_folder import read_run
from convcraft.workflows.load_model import load_model


def logits_of(run: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a run's saved network answers.

    Args:
        images: float32 [B, C, H, W], normalised.

    Returns:
        logits float32 [B, K].
    """
    model, _ = load_model(read_run(run))
    with torch.inference_mode():
        logits: NDArray[np.float32] = model(torch.from_numpy(images)).numpy()
    return logits


if __name__ == "__main__":
    run_folder, images_file, logits_file = (Path(argument) for argument in sys.argv[1:])
    np.save(logits_file, logits_of(run_folder, np.load(images_file, allow_pickle=False)))
