"""Claim: seed 001's network trains >= 3x as fast as in the textbook loop, no less accurate, and ahead of Keras 3.

    python benchmarks/train_speed.py [--rounds 5] [--seeds 3] [--epochs 3] [--threads 1] [--keras none]

Same network (benchmarks/keras_train_speed.py has it in Keras), batch 64, Adam 1e-3, cross-entropy, all in processes of
their own, in turn (A B C A B C ...), one round of warm-up before those that count. Textbook: torchvision's data set,
PIL transforms, DataLoader with 0 and with 2 workers (the better one counts), eager float32, loss.item() each step.
Ours: the public `train` workflow with precision auto (bfloat16 where the processor multiplies in it: not the
textbook's precision, which is part of the claim; the accuracies beside it say what it costs). Our clock runs over the
whole loop with its first step and its checkpoint; the others start theirs after WARMUP_STEPS steps.
Accuracy: both sides train fully, once per seed. Keras lives in a virtual environment under the user's cache folder.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from measured_on import DATA, hardware, spread, stolen_seconds, versions, write_result

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convcraft" / "bench-keras"
KERAS_PACKAGES = {"tensorflow": "tensorflow-cpu", "torch": "torch", "jax": "jax"}
BATCH_SIZE, WARMUP_STEPS = 64, 15
CLASSES, TRAIN_IMAGES = 10, 60_000
RATIO_BAR, ACCURACY_BAR = 3.0, 0.002
INSTALL_SECONDS = 1800


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--round-images", type=int, default=20_000, help="trained on per side and round, of 60,000")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3, help="of the runs that are judged by their accuracy")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of every side")
    parser.add_argument("--keras", nargs="*", default=list(KERAS_PACKAGES), choices=[*KERAS_PACKAGES, "none"])
    parser.add_argument("--child", metavar="JSON", help=argparse.SUPPRESS)  # one side's run, in a process of its own
    arguments = parser.parse_args()
    if arguments.child:
        job = json.loads(arguments.child)
        print(json.dumps({"ours": _ours, "textbook": _textbook}[job.pop("side")](**job)))
        return
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    stolen_before = stolen_seconds()
    sides, skipped = _sides(arguments.round_images, arguments.threads, arguments.keras)
    rates = measure_rates(sides, arguments.rounds)
    accuracy = measure_accuracy(arguments.seeds, arguments.epochs) if arguments.seeds else {}
    write_result(
        "train_speed",
        {
            "claim": f">= {RATIO_BAR:g} times the textbook's images per second, accuracy within {ACCURACY_BAR}",
            "images_per_second": {name: spread(values) for name, values in rates.items()},
            **judge(rates, accuracy),
            "test_accuracy": {name: spread(values) for name, values in accuracy.items()},
            "accuracy_epochs": arguments.epochs,
            "keras_skipped": skipped,
            "threads": arguments.threads,
            "round_images": arguments.round_images,
            "stolen_cpu_seconds": round(stolen_seconds() - stolen_before, 1),
            "hardware": hardware(),
            "versions": versions("convcraft", "torch", "torchvision", "numpy"),
        },
    )


def measure_rates(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Images per second of every side, in turn; the first round is warm-up and does not count."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            rate = run()
            if number > 0:
                rates[name].append(rate)
            print(f"round {number} {name}: {rate:.0f} images/s", flush=True)
    return rates


def measure_accuracy(seeds: int, epochs: int) -> dict[str, list[float]]:
    """Test accuracy of both sides after full training, by seed."""
    found: dict[str, list[float]] = {"convcraft": [], "textbook": []}
    for seed in range(seeds):
        for name, side in (("convcraft", "ours"), ("textbook", "textbook")):
            result = _child(side, num_images=TRAIN_IMAGES, epochs=epochs, seed=seed, judged=True)
            found[name].append(result["accuracy"])
            print(f"seed {seed} {name}: test accuracy {found[name][-1]:.4f}", flush=True)
    return found


def judge(rates: Mapping[str, list[float]], accuracy: Mapping[str, list[float]]) -> dict[str, Any]:
    """Medians against each other: the better textbook, the best Keras; and whether the bar is met.

    met is None where a part of the claim was not measured: a run without Keras or without accuracy proves nothing.
    """
    medians = {name: statistics.median(values) for name, values in rates.items()}
    textbook = max(value for name, value in medians.items() if name.startswith("textbook"))
    keras = [value for name, value in medians.items() if name.startswith("keras")]
    paired = [
        ours / max(rates[name][number] for name in rates if name.startswith("textbook"))
        for number, ours in enumerate(rates["convcraft"])
    ]
    gap = None
    if accuracy:
        gap = statistics.mean(accuracy["convcraft"]) - statistics.mean(accuracy["textbook"])
    ratio = medians["convcraft"] / textbook
    ratio_to_keras = medians["convcraft"] / max(keras) if keras else None
    met = None
    if gap is not None and ratio_to_keras is not None:
        met = ratio >= RATIO_BAR and abs(gap) <= ACCURACY_BAR and ratio_to_keras > 1
    return {
        "ratio_to_textbook": ratio,
        "ratio_by_round": spread(paired),
        "ratio_to_best_keras": ratio_to_keras,
        "accuracy_gap": gap,
        "met": met,
    }


# The sides ----------------------------------------------------------------------------------------------------------


def _sides(num_images: int, threads: int, keras: list[str]) -> tuple[dict[str, Callable[[], float]], dict[str, str]]:
    """Name -> one run; and which Keras backends are left out, with the reason."""

    def ours() -> float:
        return float(_child("ours", num_images=num_images, epochs=1, seed=0, judged=False)["images_per_second"])

    def textbook(workers: int) -> Callable[[], float]:
        job = {"num_images": num_images, "epochs": 1, "seed": 0, "judged": False, "workers": workers}
        return lambda: float(_child("textbook", **job)["images_per_second"])

    sides: dict[str, Callable[[], float]] = {"convcraft": ours}
    sides |= {f"textbook, {workers} workers": textbook(workers) for workers in (0, 2)}
    skipped: dict[str, str] = {}
    for backend in keras:
        if backend == "none":
            continue
        problem, python = _keras_python(backend)
        if problem is not None:
            skipped[backend] = problem
            print(f"keras on {backend} left out: {problem}", flush=True)
            continue
        for jit in (False, True) if backend == "tensorflow" else (backend == "jax",):
            name = f"keras {backend}" + (", jit" if jit else "")
            sides[name] = _keras_side(python, backend, jit, num_images, threads)
    return sides, skipped


def _keras_side(python: Path, backend: str, jit: bool, num_images: int, threads: int) -> Callable[[], float]:
    command = [str(python), str(HERE / "keras_train_speed.py"), str(DATA / "mnist"), str(num_images), str(threads)]
    environment = {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}

    def run() -> float:
        done = _run([*command, "jit" if jit else "nojit"], environment)
        return float(json.loads(done.splitlines()[-1])["images_per_second"])

    return run


def _keras_python(backend: str) -> tuple[str | None, Path]:
    """(why not, the Python of an environment with Keras and this backend), made on the first call."""
    folder = CACHE / backend
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = folder / "ready"
    if ready.exists():
        return None, python
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], capture_output=True, check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "keras>=3", KERAS_PACKAGES[backend]]
        subprocess.run(install, capture_output=True, text=True, check=True, timeout=INSTALL_SECONDS)
    except subprocess.CalledProcessError as error:
        said = str(error.stderr or error).strip().splitlines()
        return said[-1] if said else str(error), python
    except subprocess.TimeoutExpired:
        return f"pip took over {INSTALL_SECONDS} s", python
    ready.touch()
    return None, python


def _child(side: str, **job: Any) -> dict[str, Any]:
    done = _run([sys.executable, __file__, "--child", json.dumps({"side": side, **job})], dict(os.environ))
    result: dict[str, Any] = json.loads(done.splitlines()[-1])
    return result


def _run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"{command[:2]} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def _ours(num_images: int, epochs: int, seed: int, judged: bool) -> dict[str, float]:
    """`train` and, where the run is judged, `evaluate`."""
    from rich.console import Console

    from convcraft.config import DataConfig, ModelConfig, OptimConfig, RunConfig, ScheduleConfig, TrainingConfig
    from convcraft.workflows.evaluate import evaluate
    from convcraft.workflows.train import train

    some = num_images // CLASSES if num_images < TRAIN_IMAGES else None
    config = RunConfig(
        data=DataConfig(source="mnist", data_dir=str(DATA), labels_per_class=some, final=True),
        model=ModelConfig(name="seed_cnn"),
        optim=OptimConfig(name="adam", learning_rate=1e-3, weight_decay=0.0),
        schedule=ScheduleConfig(name="constant"),
        training=TrainingConfig(epochs=epochs, batch_size=BATCH_SIZE, select="last", seed=seed, device="cpu"),
    )
    console = Console(quiet=True, stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        result = train(config, Path(folder) / "run", console=console)
        figures = {"images_per_second": num_images * epochs / result.train_seconds}
        if judged:
            figures["accuracy"] = evaluate(result.run, console=console).report.accuracy
    return figures


def _textbook(num_images: int, epochs: int, seed: int, judged: bool, workers: int = 0) -> dict[str, float]:
    """What a tutorial writes. The clock starts after the warm-up and stops before the test images."""
    import torch
    from torch import nn
    from torchvision import datasets, transforms

    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for packed in (DATA / "mnist").glob("*.gz"):  # torchvision reads the unpacked files
            (raw / packed.name.removesuffix(".gz")).write_bytes(gzip.decompress(packed.read_bytes()))
        to_input = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
        train_images = datasets.MNIST(folder, train=True, transform=to_input)
        test_images = datasets.MNIST(folder, train=False, transform=to_input)
    part = torch.utils.data.Subset(train_images, range(num_images))
    loader = torch.utils.data.DataLoader(part, batch_size=BATCH_SIZE, shuffle=True, num_workers=workers)
    model, loss_of = _article_network(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    started, images_done, step = time.perf_counter(), 0, 0
    for _ in range(epochs):
        for inputs, labels in loader:
            if step == WARMUP_STEPS:
                started, images_done = time.perf_counter(), 0
            optimizer.zero_grad()
            loss = loss_of(model(inputs), labels)
            loss.backward()
            optimizer.step()
            loss.item()  # a tutorial prints it
            images_done += len(labels)
            step += 1
    figures = {"images_per_second": images_done / (time.perf_counter() - started)}
    if judged:
        model.eval()
        with torch.no_grad():
            batches = torch.utils.data.DataLoader(test_images, batch_size=512)
            right = sum(int((model(inputs).argmax(1) == labels).sum()) for inputs, labels in batches)
        figures["accuracy"] = right / len(test_images)
    return figures


def _article_network() -> Any:
    """The article's layers in the article's order, written as a tutorial would; our seed_cnn has the same shapes."""
    from torch import nn

    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),  # [B, 32, 13, 13]
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),  # [B, 64, 5, 5]
        *(nn.Flatten(), nn.Linear(1600, 128), nn.ReLU(), nn.Linear(128, CLASSES)),
    )


if __name__ == "__main__":
    if importlib.util.find_spec("torchvision") is None:
        raise SystemExit("this measurement needs torchvision: the textbook's data set comes from there")
    main()
