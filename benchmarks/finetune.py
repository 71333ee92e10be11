"""Claims: on ants and bees, `finetune` gets from a folder to a better network in a fraction of the usual time.

    python benchmarks/finetune.py [--seeds 3] [--threads N] [--only SIDE ...] [--epochs 20] [--images N]
    python benchmarks/finetune.py --prepare           # installs and tries the fastai environment, measures nothing

1. `--method probe`: at least 95 % in at most 30 s of wall time, the whole command; `auto --budget 5m`: at least 96 %,
   mean of the seeds, and in the paired comparison not below the probe.
2. Beside fastai's `vision_learner` (head alone, 20 epochs) with the same weights, images and cores: no less accurate in
   at most 1/25 of its time, both from data to fitted network without imports; beside the plain PyTorch loop: an epoch
   of `full` >= 2.2 times and of `last` >= 4.5 times as fast, no less accurate.

Every side is a process of its own, in turn (A B C A B C ...), once per seed. Ours starts with an empty cache each
time, makes its report and its proof, and all choices by cross-validation on train; `val/` serves as the test set and is
opened once per run, which is counted. fastai and the plain loop are judged by `val/` too. An epoch of ours is that of a
run with one round (no folds, no proof part): the seconds of its fit, what is computed once included, over epochs and
images. The result is written after every process; a bar that was not measured whole is None. --images takes so many per
class, to try the script, and writes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import finetune_fastai
from measured_on import DATA, convcraft_json, hardware, spread, stolen_seconds, versions, write_result

PHOTOS, NETWORK = DATA / "hymenoptera", finetune_fastai.NETWORK
WEIGHTS = DATA / "weights" / f"{NETWORK}_imagenet.safetensors"
PROBE_ACCURACY, PROBE_SECONDS = 0.95, 30.0
AUTO_ACCURACY, AUTO_BUDGET = 0.96, "5m"
FASTAI_RATIO = 25.0
EPOCH_RATIOS = {"full": 2.2, "last": 4.5}
OURS = ("probe", "auto", "full", "last")
PEERS = ("fastai", "plain head", "plain full", "plain last")
FASTAI_FULL_EPOCHS = 5
JOB_SECONDS = 3600
HERE = Path(__file__).resolve().parent
Runs = Mapping[str, Sequence[Mapping[str, Any]]]  # side -> its runs, seed by seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", "--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads and cores of every side")
    parser.add_argument("--only", nargs="+", default=[*OURS, *PEERS], choices=[*OURS, *PEERS], metavar="SIDE")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--images", type=int, default=0, help="per class; 0 takes all")
    parser.add_argument("--result", default="finetune", help="name of the result file, where sides are run apart")
    parser.add_argument("--prepare", action="store_true", help="make the fastai environment only")
    asked = parser.parse_args()
    problem = finetune_fastai.prepare() if "fastai" in asked.only or asked.prepare else None
    if asked.prepare:
        raise SystemExit(problem)
    share_cores(asked.threads)
    skipped = {} if problem is None else {"fastai": problem}
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in asked.only if side not in skipped}
    stolen_before = stolen_seconds()
    with tempfile.TemporaryDirectory() as folder:
        photos = PHOTOS
        if asked.images:
            photos = finetune_fastai.few_images(PHOTOS, Path(folder) / "photos", asked.images)
        for seed in range(asked.seeds):
            for side in list(found):
                try:
                    found[side].append(measure(side, photos, seed, asked, Path(folder)))
                    print(f"seed {seed} {side}: {found[side][-1]}", flush=True)
                except SideFailed as error:
                    skipped[f"{side}, seed {seed}"] = str(error)
                    print(f"seed {seed} {side} failed: {error}", flush=True)
                write(found, skipped, asked, stolen_seconds() - stolen_before)


def share_cores(threads: int) -> None:
    """Every side is a child of this process: as many threads, and no other cores than the rest."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


# Sides --------------------------------------------------------------------------------------------------------------


class SideFailed(Exception):
    """A side's process ended with an error; the message is its own last one."""


def measure(side: str, photos: Path, seed: int, asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One run of one side, and the wall time of its whole process.

    Raises:
        SideFailed: its process did not end well.
    """
    if side in OURS:
        run = folder / f"{side}-{seed}"
        try:
            return our_run(side, photos, run, seed, asked.epochs)
        except SystemExit as error:  # the command's own message
            raise SideFailed(str(error).replace(str(folder), "FOLDER")) from error
    words = [str(photos), str(WEIGHTS)]
    numbers = [str(asked.epochs), str(seed), str(asked.threads), "0"]
    if side == "fastai":
        more = [str(FASTAI_FULL_EPOCHS)]
        command = [str(finetune_fastai.python()), str(HERE / "finetune_fastai.py"), *words, numbers[0], *more]
        return peer_run([*command, *numbers[1:]])
    command = [sys.executable, str(HERE / "finetune_plain.py"), *words, side.removeprefix("plain ")]
    return peer_run([*command, *numbers])


def our_run(method: str, photos: Path, run: Path, seed: int, epochs: int) -> dict[str, Any]:
    """Fine-tune and judge once. `seconds`: from data to the fitted network, as for the peers; then proof and report."""
    words = [str(photos), "--model", NETWORK, "--weights", str(WEIGHTS), "--test-split", "val", "--method", method]
    words += ["--seed", str(seed), "--out", str(run)]
    if method == "auto":
        words += ["--budget", AUTO_BUDGET]
    if method in EPOCH_RATIOS:
        words += ["--epochs", str(epochs), "--set", "finetune.cross_fit_below=0", "--set", "finetune.proof_fraction=0"]
    with empty_cache():
        started = time.monotonic()
        result = convcraft_json("finetune", *words)
        process_seconds = time.monotonic() - started
        judged = convcraft_json("evaluate", str(run))
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    found = {
        "seconds": result["fitted_seconds"],
        "finished_seconds": result["seconds"],
        "process_seconds": process_seconds,
        "accuracy": judged["accuracy"],
        "chosen": result["chosen"],
        "test_openings": evaluation["test_reads"],
        "gained_over_probe": len(evaluation["proof"]["gained"]),
        "lost_to_probe": len(evaluation["proof"]["lost"]),
        "frozen_as_proven": result["freeze"]["passed"],
    }
    if method in EPOCH_RATIOS:
        counts = json.loads((run / "data.json").read_text(encoding="utf-8"))["num_images"]
        trial = next(trial for trial in result["trials"] if trial["chosen"])
        found["image_seconds"] = trial["seconds"] / (epochs * counts["train"])
    return found


@contextlib.contextmanager
def empty_cache() -> Iterator[None]:
    """Commands within find nothing remembered: no scan of the files, no features."""
    before = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["XDG_CACHE_HOME"]
            else:
                os.environ["XDG_CACHE_HOME"] = before


def peer_run(command: Sequence[str]) -> dict[str, Any]:
    """Run a peer's program; its answer, flattened, with the wall time of its process."""
    started = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=JOB_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise SideFailed(f"no answer in {JOB_SECONDS} s") from error
    if done.returncode != 0:
        raise SideFailed((done.stderr.strip().splitlines() or ["nothing was said"])[-1][:500])
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**answer.pop("head", {}), **answer, "process_seconds": time.monotonic() - started}


# Judging ------------------------------------------------------------------------------------------------------------


def write(
    found: Runs,
    skipped: Mapping[str, str],
    asked: argparse.Namespace,
    stolen: float,
) -> None:
    complete = {side: runs for side, runs in found.items() if len(runs) == asked.seeds}
    if asked.images:
        return
    write_result(
        asked.result,
        {
            "claim": "ants/bees, MobileNetV2: probe >= 95 % in <= 30 s, auto >= 96 %; <= 1/25 of fastai's time; "
            "an epoch of full >= 2.2 times and of last >= 4.5 times as fast as the plain loop",
            "bars": {bar.name: bar.judge(complete) for bar in BARS},
            "sides": {side: summary(runs) for side, runs in found.items() if runs},
            "runs": found,
            "test_openings": sum(run.get("test_openings", 0) for runs in found.values() for run in runs),
            "skipped": skipped,
            "epochs": asked.epochs,
            "threads": asked.threads,
            "stolen_cpu_seconds": round(stolen, 1),
            "hardware": hardware(),
            "versions": versions("convcraft", "torch", "torchvision", "timm", "numpy"),
        },
    )


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Spread of the figures that every run of a side has."""
    names = ("accuracy", "seconds", "finished_seconds", "process_seconds", "validation_seconds", "image_seconds")
    found = {name: spread([run[name] for run in runs]) for name in names if all(name in run for run in runs)}
    if all("epoch_seconds" in run for run in runs):  # the plain loop; the first epoch starts its workers
        found["image_seconds"] = spread([plain_image_seconds(run) for run in runs])
    return found


def plain_image_seconds(run: Mapping[str, Any]) -> float:
    return sum(run["epoch_seconds"]) / (len(run["epoch_seconds"]) * run["num_train_images"])


@dataclass(frozen=True)
class Bar:
    """figure: of the sides' runs; met where it is at least `least` and at most `most`."""

    name: str
    sides: tuple[str, ...]
    figure: Callable[[Runs], float]
    least: float = float("-inf")
    most: float = float("inf")

    def judge(self, runs: Runs) -> dict[str, Any]:
        """found and met; both None where a side was not measured whole."""
        if any(side not in runs for side in self.sides):
            return {"found": None, "met": None}
        found = self.figure(runs)
        return {"found": found, "met": self.least <= found <= self.most}


def mean(runs: Runs, side: str, figure: str) -> float:
    value: float = summary(runs[side])[figure]["mean"]
    return value


def no_less_accurate(ours: str, peer: str) -> Bar:
    def ahead(runs: Runs) -> float:
        return mean(runs, ours, "accuracy") - mean(runs, peer, "accuracy")

    return Bar(f"accuracy of {ours} minus {peer}", (ours, peer), ahead, least=0)


def as_fast(ours: str, peer: str, figure: str, ratio: float) -> Bar:
    def times(runs: Runs) -> float:
        return mean(runs, peer, figure) / mean(runs, ours, figure)

    return Bar(f"{figure} of {peer} over {ours} >= {ratio:g}", (ours, peer), times, least=ratio)


def slowest_probe(runs: Runs) -> float:
    return max(run["process_seconds"] for run in runs["probe"])


def gained_by_auto(runs: Runs) -> float:
    """Test images right only with what auto chose, minus those right only with the probe that it began with."""
    return sum(run["gained_over_probe"] - run["lost_to_probe"] for run in runs["auto"])


BARS = (
    Bar("accuracy of probe", ("probe",), lambda runs: mean(runs, "probe", "accuracy"), least=PROBE_ACCURACY),
    Bar("slowest process_seconds of probe", ("probe",), slowest_probe, most=PROBE_SECONDS),
    Bar("accuracy of auto", ("auto",), lambda runs: mean(runs, "auto", "accuracy"), least=AUTO_ACCURACY),
    Bar("images that auto gained minus lost against the probe", ("auto",), gained_by_auto, least=0),
    as_fast("probe", "fastai", "seconds", FASTAI_RATIO),
    as_fast("probe", "plain head", "seconds", FASTAI_RATIO),
    no_less_accurate("probe", "fastai"),
    no_less_accurate("probe", "plain head"),
    *(as_fast(part, f"plain {part}", "image_seconds", ratio) for part, ratio in EPOCH_RATIOS.items()),
    *(no_less_accurate(part, f"plain {part}") for part in EPOCH_RATIOS),
)


if __name__ == "__main__":
    main()
