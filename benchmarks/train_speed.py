"""Claim: seed 001's network trains >= 3x as fast as in the textbook loop, no less accurate, and ahead of Keras 3.

    python benchmarks/train_speed.py [--rounds 5] [--seeds 3] [--epochs 2] [--threads N] [--keras tensorflow|none ...]
    python benchmarks/train_speed.py --prepare        # installs and tries the Keras environments, measures nothing

Same network (benchmarks/keras_train_speed.py has it in Keras), batch 64, Adam 1e-3, cross-entropy, each side in a
process of its own on the same cores, in turn (A B C A B C ...), one round of warm-up before those that count.
Textbook: torchvision's data set, PIL transforms, DataLoader with 0 and with 2 workers (the better one counts), eager
float32, loss.item() each step. Ours: the public `train` workflow with precision auto (bfloat16 where the processor
multiplies in it: not the textbook's precision, which is part of the claim; the accuracies say what it costs). Keras: in
float32 and in mixed bfloat16, with and without jit; a variant under half of the best in the warm-up round leaves.
Our clock runs over the whole loop with its checkpoint; the others start theirs after WARMUP_STEPS steps or an epoch.
Accuracy: both sides train on all 60,000 images, once per seed. The result is written after every round and every seed;
`met` stays None until everything asked was measured.
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
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras_train_speed
from measured_on import DATA, hardware, spread, stolen_seconds, versions, write_result

KERAS_BACKENDS = tuple(keras_train_speed.PACKAGES)
BATCH_SIZE, WARMUP_STEPS = 64, 15
CLASSES, TRAIN_IMAGES = 10, 60_000
LEAST_OF_A_CLASS = 5_421  # a part of MNIST has equally many images of every class
RATIO_BAR, ACCURACY_BAR = 3.0, 0.002
SLOW_SHARE = 0.5  # of the best Keras variant
JOB_SECONDS = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--round-images", type=int, default=6_400, help="trained on per side and round, of 60,000")
    parser.add_argument("--seeds", type=int, default=3, help="runs judged by their accuracy; 0 leaves that part out")
    parser.add_argument("--epochs", type=int, default=2, help="of the runs that are judged by their accuracy")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads and cores of every side")
    parser.add_argument("--keras", nargs="*", default=list(KERAS_BACKENDS), choices=[*KERAS_BACKENDS, "none"])
    parser.add_argument("--prepare", action="store_true", help="install and try the Keras environments only")
    parser.add_argument("--serve", choices=["ours", "textbook"], help=argparse.SUPPRESS)  # one side's process
    arguments = parser.parse_args()
    if arguments.serve:
        serve({"ours": _ours, "textbook": _textbook}[arguments.serve])
        return
    if arguments.rounds < 1 or not CLASSES <= arguments.round_images <= CLASSES * LEAST_OF_A_CLASS:
        parser.error(f"--rounds is at least 1, --round-images {CLASSES} to {CLASSES * LEAST_OF_A_CLASS}")
    backends = [name for name in arguments.keras if name != "none"]
    skipped = prepare_keras(backends)
    if arguments.prepare:
        raise SystemExit(1 if skipped else 0)
    _share_cores(arguments.threads)
    measurement = Measurement(vars(arguments), backends, skipped)
    try:
        measurement.run()
    finally:
        for side in measurement.sides.values():
            side.worker.close()


def prepare_keras(backends: Sequence[str]) -> dict[str, str]:
    """Make every environment ready; backend -> why it is left out."""
    skipped: dict[str, str] = {}
    for backend in backends:
        problem = keras_train_speed.prepare(backend, DATA / "mnist")
        print(f"keras on {backend}: {problem or 'ready'}", flush=True)
        if problem is not None:
            skipped[f"keras {backend}"] = problem
    return skipped


def _share_cores(threads: int) -> None:
    """Every side is a child of this process: as many threads, and no other cores than the rest."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


# Processes ----------------------------------------------------------------------------------------------------------


class SideFailed(Exception):
    """A side's process ended or answered nothing in time; the message is its own last error."""


class Worker:
    """A process that answers each job, a line of JSON, with one. Started when first asked, or after it died."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self._command, self._environment = command, dict(environment)
        self._process: subprocess.Popen[str] | None = None
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  closed with the worker

    def ask(self, job: Mapping[str, Any], seconds: float = JOB_SECONDS) -> dict[str, Any]:
        """The answer to one job.

        Raises:
            SideFailed: no answer; the next job starts a new process.
        """
        if self._process is None:
            self._errors.truncate(0)
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                self._command, stdin=pipe, stdout=pipe, stderr=self._errors, text=True, env=self._environment
            )
        process, started = self._process, time.monotonic()
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if not line.endswith("\n"):
            self._stop()
            raise SideFailed(self._reason(process.returncode, time.monotonic() - started >= seconds, seconds))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        self._stop()
        self._errors.close()

    def _reason(self, code: int, late: bool, seconds: float) -> str:
        if late:
            return f"no answer in {seconds:.0f} s"
        self._errors.seek(0)
        return f"{keras_train_speed.last_error(self._errors.read())} (exit code {code})"

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def serve(side: Any) -> None:
    """The process of one side: a job per line in, its result per line out."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to stderr: stdout is for answers
    for line in sys.stdin:
        print(json.dumps(side(**json.loads(line))), file=answers, flush=True)


# Measuring ----------------------------------------------------------------------------------------------------------


@dataclass
class Side:
    """One way of training, what it is asked for in a round, and what was found.

    out: why it takes no further part, None while it does. slow: it left because others of its kind are quicker.
    """

    worker: Worker
    job: dict[str, Any]
    rates: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)  # precision, threads, versions
    out: str | None = None
    slow: bool = False

    def measure(self, counts: bool) -> float | None:
        """Images per second of one more round; None where the side fails, which takes it out."""
        try:
            answer = self.worker.ask(self.job)
        except SideFailed as error:
            self.out = str(error)
            return None
        rate = float(answer["images_per_second"])
        self.facts = {name: answer[name] for name in ("precision", "threads", "versions") if name in answer}
        if counts:
            self.rates.append(rate)
        return rate


class Measurement:
    """Rounds and seeds, written to the result file as they come."""

    def __init__(self, asked: Mapping[str, Any], backends: Sequence[str], skipped: Mapping[str, str]) -> None:
        self.asked = asked
        self.skipped = dict(skipped)  # Keras backends and accuracy runs that could not be measured
        self.sides = make_sides(
            asked["round_images"], asked["threads"], [name for name in backends if f"keras {name}" not in skipped]
        )
        self.accuracy: dict[str, list[float]] = {"convcraft": [], "textbook": []}
        self.rounds_done = self.seeds_done = 0
        self.stolen_before = stolen_seconds()

    def run(self) -> None:
        for number in range(self.asked["rounds"] + 1):
            self.round(number)
            self.rounds_done = number
            if number > 0:
                self.write()
            if self.sides["convcraft"].out is not None:
                raise SystemExit(f"our own side failed: {self.sides['convcraft'].out}")
        for seed in range(self.asked["seeds"]):
            self.judge_seed(seed)
            self.seeds_done = seed + 1
            self.write()

    def round(self, number: int) -> None:
        """Every side once; the first round (0) is warm-up, after which slow Keras variants leave."""
        found: dict[str, float] = {}
        for name, side in self.sides.items():
            if side.out is not None:
                continue
            rate = side.measure(counts=number > 0)
            if rate is not None:
                found[name] = rate
            said = f"left out: {side.out}" if rate is None else f"{rate:.0f} images/s"
            print(f"round {number} {name}: {said}", flush=True)
        if number == 0:
            for name in slow_variants(found):
                side = self.sides[name]
                side.slow, side.out = True, f"{found[name]:.0f} images/s in the warm-up round, too slow to be the best"
                print(f"{name}: {side.out}", flush=True)

    def judge_seed(self, seed: int) -> None:
        """Both sides trained on everything, and their test accuracy."""
        job = {"num_images": TRAIN_IMAGES, "epochs": self.asked["epochs"], "seed": seed, "judged": True}
        rates = {name: side.rates for name, side in self.sides.items()}
        workers = _better_textbook(rates) or "textbook, 0 workers"
        for name, side, more in (
            ("convcraft", self.sides["convcraft"], {}),
            ("textbook", self.sides[workers], {"workers": self.sides[workers].job["workers"]}),
        ):
            try:
                self.accuracy[name].append(side.worker.ask({**job, **more})["accuracy"])
                print(f"seed {seed} {name}: test accuracy {self.accuracy[name][-1]:.4f}", flush=True)
            except SideFailed as error:
                self.skipped[f"accuracy of {name}, seed {seed}"] = str(error)
                print(f"seed {seed} {name}: {error}", flush=True)

    def write(self) -> None:
        """All that is known so far."""
        asked = self.asked
        rates = {name: side.rates for name, side in self.sides.items() if side.rates}
        failed = {name: str(side.out) for name, side in self.sides.items() if side.out is not None and not side.slow}
        done = self.rounds_done == asked["rounds"] and self.seeds_done == asked["seeds"]
        complete = done and not self.skipped and not failed
        accuracy = {name: spread(values) for name, values in self.accuracy.items() if values}
        write_result(
            "train_speed",
            {
                "claim": f">= {RATIO_BAR:g} times the textbook's images per second, accuracy within {ACCURACY_BAR}, "
                "quicker than the best Keras",
                "images_per_second": {name: spread(values) for name, values in rates.items()},
                **judge(rates, self.accuracy, complete),
                "test_accuracy": accuracy,
                "accuracy_epochs": asked["epochs"],
                "rounds_done": self.rounds_done,
                "seeds_done": self.seeds_done,
                "sides": {name: side.facts for name, side in self.sides.items()},
                "too_slow": {name: side.out for name, side in self.sides.items() if side.slow},
                "skipped": {**self.skipped, **failed},
                "threads": self.sides["convcraft"].facts.get("threads", asked["threads"]),
                "round_images": asked["round_images"],
                "stolen_cpu_seconds": round(stolen_seconds() - self.stolen_before, 1),
                "hardware": hardware(),
                "versions": versions("convcraft", "torch", "torchvision", "numpy"),
            },
        )


def make_sides(num_images: int, threads: int, backends: Sequence[str]) -> dict[str, Side]:
    """Name -> side. The variants of one Keras backend share a process, as both textbooks do."""

    def own(which: str) -> Worker:
        return Worker([sys.executable, str(Path(__file__).resolve()), "--serve", which], os.environ)

    job = {"num_images": num_images, "epochs": 1, "seed": 0, "judged": False}
    textbook = own("textbook")
    sides = {"convcraft": Side(own("ours"), job)}
    sides |= {f"textbook, {workers} workers": Side(textbook, {**job, "workers": workers}) for workers in (0, 2)}
    for backend in backends:
        worker = Worker(*keras_train_speed.server_command(backend, DATA / "mnist", threads))
        for name, variant in keras_train_speed.variants(backend).items():
            sides[name] = Side(worker, {**variant, "num_images": num_images})
    return sides


def slow_variants(rates: Mapping[str, float]) -> list[str]:
    """Keras sides far below the best one: they cannot become the best, and cost most of the time."""
    keras = {name: rate for name, rate in rates.items() if name.startswith("keras")}
    return [name for name, rate in keras.items() if rate < SLOW_SHARE * max(keras.values())]


def judge(rates: Mapping[str, list[float]], accuracy: Mapping[str, list[float]], complete: bool) -> dict[str, Any]:
    """Medians against each other: the better textbook, the best Keras; and whether the bar is met.

    Empty where ours or every textbook is missing. met is None until the measurement is complete, and where a part of
    the claim was not asked for: a run without Keras or without accuracy proves nothing.
    """
    if not rates.get("convcraft") or _better_textbook(rates) is None:
        return {"met": None}
    medians = {name: statistics.median(values) for name, values in rates.items()}
    keras = [value for name, value in medians.items() if name.startswith("keras")]
    textbooks = [values for name, values in rates.items() if name.startswith("textbook")]
    by_round = [
        ours / max(values[number] for values in textbooks if number < len(values))
        for number, ours in enumerate(rates["convcraft"])
        if any(number < len(values) for values in textbooks)
    ]
    gap = None
    if accuracy.get("convcraft") and accuracy.get("textbook"):
        gap = statistics.mean(accuracy["convcraft"]) - statistics.mean(accuracy["textbook"])
    ratio = medians["convcraft"] / medians[str(_better_textbook(rates))]
    ratio_to_keras = medians["convcraft"] / max(keras) if keras else None
    met = None
    if complete and gap is not None and ratio_to_keras is not None:
        met = ratio >= RATIO_BAR and abs(gap) <= ACCURACY_BAR and ratio_to_keras > 1
    return {
        "ratio_to_textbook": ratio,
        "ratio_by_round": spread(by_round),
        "ratio_to_best_keras": ratio_to_keras,
        "accuracy_gap": gap,
        "met": met,
    }


def _better_textbook(rates: Mapping[str, list[float]]) -> str | None:
    """The name of the quicker textbook, by its median."""
    medians = {name: statistics.median(values) for name, values in rates.items() if values and "textbook" in name}
    return max(medians, key=medians.__getitem__, default=None)


# The sides ----------------------------------------------------------------------------------------------------------


def _ours(num_images: int, epochs: int, seed: int, judged: bool) -> dict[str, Any]:
    """`train` and, where the run is judged, `evaluate`."""
    from rich.console import Console

    from convcraft.config import DataConfig, ModelConfig, OptimConfig, RunConfig, ScheduleConfig, TrainingConfig
    from convcraft.training.run_folder import read_run
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
        trained_on = read_run(result.run).data["num_images"]["train"]
        figures = {
            "images_per_second": trained_on * epochs / result.train_seconds,
            "num_images": trained_on,
            "precision": result.summary["precision"],
            "threads": result.summary["threads"],
        }
        if judged:
            figures["accuracy"] = evaluate(result.run, console=console).report.accuracy
    return figures


def _textbook(num_images: int, epochs: int, seed: int, judged: bool, workers: int = 0) -> dict[str, Any]:
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
    figures: dict[str, Any] = {
        "images_per_second": images_done / (time.perf_counter() - started),
        "precision": "float32",
        "threads": torch.get_num_threads(),
    }
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
