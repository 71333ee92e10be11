"""Helper of train_speed.py, run by the Python of an environment that has Keras and one backend, not by hand.

    KERAS_BACKEND=jax python keras_train_speed.py MNIST_FOLDER NUM_IMAGES THREADS jit|nojit

Seed 001's network, batch 64, Adam 1e-3, through `fit` on arrays in memory: Keras' own quickest documented way. Knows
nothing of convcraft. One whole epoch before the clock starts, so that tracing and compiling stay outside.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    folder, num_images, threads, jit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "jit"
    backend = os.environ["KERAS_BACKEND"]
    _limit_threads(backend, threads)
    import keras
    import numpy as np

    def read(name: str, header_bytes: int) -> np.ndarray:
        return np.frombuffer(gzip.decompress((folder / name).read_bytes()), np.uint8, offset=header_bytes)

    pixels = read("train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)[:num_images]
    images = ((pixels / 255 - 0.1307) / 0.3081).astype("float32")
    labels = read("train-labels-idx1-ubyte.gz", 8)[:num_images].astype("int64")
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            *(layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(2)),
            *(layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D(2)),
            *(layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(10)),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit,
    )
    model.fit(images, labels, batch_size=64, epochs=1, verbose=0)
    started = time.perf_counter()
    model.fit(images, labels, batch_size=64, epochs=1, verbose=0)
    print(json.dumps({"images_per_second": len(images) / (time.perf_counter() - started), "keras": keras.__version__}))


def _limit_threads(backend: str, threads: int) -> None:
    """As many threads as the other sides have; JAX has no setting of its own, so its process gets so many cores."""
    if backend == "tensorflow":
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    elif backend == "torch":
        import torch

        torch.set_num_threads(threads)
    elif hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


if __name__ == "__main__":
    main()
