"""The Keras side of train_speed.py: the environments, and the program that runs in them. Not run by hand.

    KERAS_BACKEND=jax python keras_train_speed.py MNIST_FOLDER THREADS

Seed 001's network, batch 64, Adam 1e-3, through `fit` on arrays in memory: Keras' own quickest documented way. The
program knows nothing of convcraft. It reads jobs, one JSON object per line, and answers each with one line of JSON. A
job's network is built and trained for one whole epoch before its first clock starts: compiling stays outside.
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convcraft-bench"
INSTALL_SECONDS, SMOKE_SECONDS, SMOKE_IMAGES = 1800, 900, 640
PACKAGES = {"tensorflow": ("tensorflow-cpu", "tensorflow"), "jax": ("jax",), "torch": ()}  # the first that installs
BESIDE_TORCH = ("keras>=3", "absl-py", "namex", "optree", "ml-dtypes", "h5py", "typing-extensions")
PRECISIONS = ("float32", "mixed_bfloat16")
JITS = {"tensorflow": (False, True), "jax": (True,), "torch": (False,)}  # JAX always compiles


def variants(backend: str) -> dict[str, dict[str, Any]]:
    """Name -> job: every way in which this backend is measured; the best counts."""
    return {
        f"keras {backend}, {precision}" + (", jit" if jit and backend == "tensorflow" else ""): {
            "precision": precision,
            "jit": jit,
        }
        for precision in PRECISIONS
        for jit in JITS[backend]
    }


# Environments -------------------------------------------------------------------------------------------------------


def server_command(backend: str, mnist: Path, threads: int) -> tuple[list[str], dict[str, str]]:
    """Command and environment variables of the program below."""
    folder = CACHE / f"keras-{backend}"
    environment = {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {"JAX_PLATFORMS": "cpu", "NPROC": str(threads)}  # NPROC: XLA's number of threads
    environment.pop("PYTHONPATH", None)
    if backend == "torch":  # this Python's own torch: no second copy of it
        environment["PYTHONPATH"] = str(folder)
        python = sys.executable
    else:
        python = str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    return [python, str(Path(__file__).resolve()), str(mnist), str(threads)], environment


def prepare(backend: str, mnist: Path) -> str | None:
    """Install Keras with this backend and try every variant on a few images, once; returns why it cannot be used."""
    folder = CACHE / f"keras-{backend}"
    ready = folder / "ready"
    if ready.exists():
        return None
    problem = _install(backend, folder)
    if problem is None:
        command, environment = server_command(backend, mnist, 1)
        jobs = [{**job, "num_images": SMOKE_IMAGES} for job in variants(backend).values()]
        lines = "".join(json.dumps(job) + "\n" for job in jobs)
        problem = _problem(command, SMOKE_SECONDS, environment, lines, answers=len(jobs))
    if problem is None:
        ready.touch()
    return problem


def _install(backend: str, folder: Path) -> str | None:
    """Keras into a virtual environment, or beside this Python's torch; what failed, or None."""
    pip = ["-m", "pip", "install", "--quiet"]
    if backend == "torch":
        if (folder / "keras").is_dir():
            return None
        return _problem([sys.executable, *pip, "--no-deps", "--target", str(folder), *BESIDE_TORCH], INSTALL_SECONDS)
    python = server_command(backend, folder, 1)[0][0]
    if not Path(python).exists():
        problem = _problem([sys.executable, "-m", "venv", "--clear", str(folder)], INSTALL_SECONDS)
        if problem is not None:
            return problem
    for package in PACKAGES[backend]:
        problem = _problem([python, *pip, "keras>=3", package], INSTALL_SECONDS)
        if problem is None:
            return None
    return problem


def _problem(
    command: list[str], seconds: float, environment: dict[str, str] | None = None, said: str = "", answers: int = 0
) -> str | None:
    """Run a command; the line that tells what went wrong, None if nothing did."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, input=said, timeout=seconds
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0 and len(done.stdout.splitlines()) >= answers:
        return None
    return f"{last_error(done.stderr)} (exit code {done.returncode})"


def last_error(text: str) -> str:
    """The last line with an error in it, else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["nothing was said"])[-1][:500]


# The program in the environment -------------------------------------------------------------------------------------


def main() -> None:
    folder, threads = Path(sys.argv[1]), int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to stderr: stdout is for answers
    backend = os.environ["KERAS_BACKEND"]
    _limit_threads(backend, threads)
    import keras
    import numpy as np

    def read(name: str, header_bytes: int) -> np.ndarray:
        return np.frombuffer(gzip.decompress((folder / name).read_bytes()), np.uint8, offset=header_bytes)

    pixels = read("train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
    all_labels = read("train-labels-idx1-ubyte.gz", 8).astype("int64")
    found = {"python": platform.python_version(), "keras": keras.__version__, backend: version(_package(backend))}
    built: dict[tuple[str, bool, int], Any] = {}
    for line in sys.stdin:
        job = json.loads(line)
        key = job["precision"], job["jit"], job["num_images"]
        images = ((pixels[: key[2]] / 255 - 0.1307) / 0.3081).astype("float32")
        labels = all_labels[: key[2]]
        if key not in built:
            built[key] = build(*key[:2])
            built[key].fit(images, labels, batch_size=64, epochs=1, verbose=0)
        started = time.perf_counter()
        history = built[key].fit(images, labels, batch_size=64, epochs=1, verbose=0)
        rate = len(images) / (time.perf_counter() - started)
        answer = {
            "images_per_second": rate,
            "loss": history.history["loss"][-1],
            "precision": key[0],
            "versions": found,
        }
        print(json.dumps({**answer, "threads": threads}), file=answers, flush=True)


def build(precision: str, jit: bool) -> Any:
    """The article's network, compiled for `fit`."""
    import keras

    keras.mixed_precision.set_global_policy(precision)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            *(layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(2)),
            *(layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D(2)),
            *(layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(10, dtype="float32")),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit,
    )
    return model


def _package(backend: str) -> str:
    """The installed package that holds the backend."""
    from importlib.metadata import packages_distributions

    return packages_distributions()[backend][0]


def _limit_threads(backend: str, threads: int) -> None:
    """As many threads as the other sides have (JAX takes the number of cores that its process may use)."""
    if backend == "tensorflow":
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    elif backend == "torch":
        import torch

        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
