"""Can a prediction be trusted? Calibration, conformal sets and unknown images, on CIFAR-10 with the cifar10-cpu recipe.

    CONVCRAFT_DATA=DATA python benchmarks/trust.py [--run FOLDER] [--epochs N]
    CONVCRAFT_DATA=DATA python benchmarks/trust.py --weights resnet20_cifar10.safetensors

Trains the recipe (seed 0; 5,000 of the train images are validation) unless --run has such a run already. --weights
judges one of the published networks of DATA/weights instead, in two minutes: it was trained on all train images (with
other pixels: see DATA/MANIFEST.md), so a drawn half of the test images is validation, and the other half is test. Then:

- calibration: the temperature from one half of the validation images, ECE on the test images; bar 0.03.
- conformal sets at 90 % from the other half, coverage on the test images; bar 88 to 92 %.
- unknown images: AUROC of each score between the test images and MNIST (test, as RGB at the run's size), uniform and
  Gaussian noise, each by itself; bar 0.90. What stands for the run is the score that was chosen on validation images
  and on unknowns made from train images; nothing here was chosen by looking at MNIST, noise or the test images.
- the reject rule: what it says of the test images and of the unknowns, at 5 % false rejects.

Result: benchmarks/results/trust.json, with --weights trust_weights.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured_on import DATA, convcraft_json, hardware, versions, write_result
from numpy.typing import NDArray

from convcraft.config import RunConfig
from convcraft.data.dataset import open_other_data, open_test_data, prepare_training_data
from convcraft.data.idx import read_labelled_images
from convcraft.data.image_set import ImageSet
from convcraft.data.preprocess import Preprocess, resolve
from convcraft.evaluation.conformal import coverage_band, fit_conformal, halves
from convcraft.evaluation.coverage import coverage_report
from convcraft.evaluation.probabilities import probabilities_of
from convcraft.evaluation.pseudo_unknowns import choose_score, pseudo_unknowns
from convcraft.evaluation.ranking import SortedScores, delong_interval
from convcraft.evaluation.reject import RejectRule
from convcraft.evaluation.reliability_diagram import reliability_diagram
from convcraft.evaluation.temperature import Temperature, fit_temperature
from convcraft.evaluation.unknown import energy, fit_mahalanobis, fit_neighbours, fit_threshold
from convcraft.models.build import build_model
from convcraft.models.classifier import only_classifier
from convcraft.models.pretrained import resolve_pretrained
from convcraft.models.weights import load_weights
from convcraft.training.run_folder import read_run
from convcraft.workflows.load_model import load_model

ERROR_BAR, COVERAGE, COVERAGE_TOLERANCE, AUROC_BAR = 0.03, 0.9, 0.02, 0.9
BATCH = 250
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN_IMAGES, PSEUDO_IMAGES, NOISE_IMAGES = 10_000, 1000, 10_000
METHODS = {"lac": {}, "aps": {}, "aps randomised": {"randomised": True}, "raps randomised": {"randomised": True}}


@dataclass(frozen=True)
class Seen:
    """What the network said of images: logits float32 [N, K], features (its classifier's input) float32 [N, D]."""

    logits: NDArray[np.float32]
    features: NDArray[np.float32]


class Network:
    """A run's network on pixels of its contract."""

    def __init__(self, model: torch.nn.Module, preprocess: Preprocess) -> None:
        self.model, self.preprocess, self.kept = model, preprocess, []
        only_classifier(model)[1].register_forward_pre_hook(lambda _, inputs: self.kept.append(inputs[0].numpy()))

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.uint8]) -> Seen:
        self.kept.clear()
        logits = [
            self.model(torch.from_numpy(self.preprocess.normalise(pixels[start : start + BATCH]))).numpy()
            for start in range(0, len(pixels), BATCH)
        ]
        return Seen(np.concatenate(logits), np.concatenate(self.kept))


@dataclass(frozen=True)
class Subject:
    """What is judged, and the images for it: train ones fit the features' scores, validation ones all thresholds."""

    network: Network
    preprocess: Preprocess
    loss: str
    train: ImageSet
    val: ImageSet
    test: ImageSet
    facts: dict[str, Any]


def of_run(run: Path) -> Subject:
    description = read_run(run)
    config = description.config
    data = prepare_training_data(config.data, config.preprocess)
    recorded = description.data["sha256"]
    if data.val is None or data.description["sha256"] != recorded:
        raise SystemExit(f"{run} was trained on other images, or without validation images")
    test = open_test_data(config.data, description.classes, description.preprocess, recorded["test"])
    facts = {
        "recipe": "cifar10-cpu",
        "epochs": config.training.epochs,
        "train_seconds": json.loads((run / "summary.json").read_text(encoding="utf-8"))["train_seconds"],
    }
    network = Network(load_model(description)[0], description.preprocess)
    return Subject(network, description.preprocess, config.training.loss, data.train, data.val, test, facts)


def of_weights(name: str) -> Subject:
    found = resolve_pretrained(None, str(DATA / "weights" / name))
    assert found.card is not None
    config = RunConfig().changed(
        data={"source": "cifar10", "data_dir": str(DATA)},
        model={"name": found.architecture},
        preprocess=found.card.preprocess_settings(RunConfig().preprocess),
    )
    preprocess = resolve(config.preprocess, sizes={(32, 32)}, all_grey=False)
    train, test = (
        open_other_data(replace(config.data, test_split=split), CIFAR10, preprocess)[0] for split in ("train", "test")
    )
    model = build_model(config.model, num_classes=len(CIFAR10), in_channels=3, image_size=(32, 32))
    load_weights(model, found.path)
    part = halves(len(test), seed=1)
    facts = {"weights": name, "validation": "a half of the test images"}
    val, test = test.subset(part.temperature), test.subset(part.conformal)
    return Subject(Network(model.eval(), preprocess), preprocess, "cross_entropy", train, val, test, facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=None, help="a finished run, or where to train one")
    parser.add_argument("--epochs", type=int, default=None, help="other than the recipe's 10")
    parser.add_argument("--weights", default=None, help="judge this file of DATA/weights instead of a run")
    options = parser.parse_args()
    if options.weights is not None:
        write_result("trust_weights", measure(of_weights(options.weights)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        run = options.run or Path(temporary) / "run"
        if not (run / "summary.json").exists():
            more = () if options.epochs is None else ("--epochs", str(options.epochs))
            convcraft_json("train", "cifar10", "--recipe", "cifar10-cpu", *more, "--out", str(run))
        write_result("trust", measure(of_run(run)))


def measure(subject: Subject) -> dict[str, Any]:
    network, loss, test = subject.network, subject.loss, subject.test
    chosen = np.sort(np.random.default_rng(0).choice(len(subject.train), TRAIN_IMAGES, replace=False))
    train_images = subject.train.subset(chosen)
    train, val, tested = (network(all_pixels(images)) for images in (train_images, subject.val, test))
    accuracy = float((tested.logits.argmax(axis=1) == test.targets).mean())
    print(f"test accuracy {accuracy:.4f}", flush=True)

    part = halves(len(subject.val))
    temperature = fit_temperature(val.logits[part.temperature], subject.val.targets[part.temperature], loss)
    calibration = judge_calibration(temperature, tested, test)
    own, of_test = temperature.probabilities(val.logits[part.conformal]), temperature.probabilities(tested.logits)
    conformal = judge_conformal(own, subject.val.targets[part.conformal], of_test, test.targets)

    scorers = fitted_scores(train, train_images.targets, loss)
    of_val = {name: score(val) for name, score in scorers.items()}
    made = pseudo_unknowns(all_pixels(train_images)[:PSEUDO_IMAGES], train_images.targets[:PSEUDO_IMAGES])
    pseudo = {kind: network(pixels) for kind, pixels in made.items()}
    best, table = choose_score(of_val, {n: {k: s(seen) for k, seen in pseudo.items()} for n, s in scorers.items()})
    unknown = {name: network(pixels) for name, pixels in real_unknowns(subject.preprocess)}
    auroc = {
        name: {kind: judge_auroc(score(tested), score(seen)) for kind, seen in unknown.items()}
        for name, score in scorers.items()
    }
    thresholds = {name: fit_threshold(of_val[name], name) for name in scorers}
    rule = RejectRule(
        conformal=fit_conformal(own, subject.val.targets[part.conformal], COVERAGE), unknown=thresholds[best]
    )
    said = {"test": tested, **unknown}
    least = min(entry["auroc"] for entry in auroc[best].values())
    return {
        "claim": "ECE <= 0.03 on test, conformal coverage 90 +- 2 %, AUROC >= 0.90 on each kind of unknown images",
        "met": {
            "calibration": calibration["after"]["expected_calibration_error"] <= ERROR_BAR,
            "coverage": abs(conformal["lac"]["coverage"] - COVERAGE) <= COVERAGE_TOLERANCE,
            "unknown": least >= AUROC_BAR,
        },
        "network": {
            **subject.facts,
            "test_accuracy": accuracy,
            "images": {"train": len(subject.train), "val": len(subject.val), "test": len(test)},
        },
        "calibration": {"temperature": temperature.to_dict(), **calibration},
        "conformal": {
            "num_images": len(part.conformal),
            "expected_band": list(coverage_band(len(part.conformal), COVERAGE)),
            **conformal,
        },
        "unknown": {
            "chosen_score": best,
            "auroc_on_pseudo_unknowns": table,
            "auroc": auroc,
            "share_called_unknown": {
                name: {kind: float(thresholds[name].unknown(score(seen)).mean()) for kind, seen in said.items()}
                for name, score in scorers.items()
            },
        },
        "reject": {
            kind: judge_rule(rule, temperature.probabilities(seen.logits), scorers[best](seen), targets)
            for kind, seen, targets in [("test", tested, test.targets), *((k, s, None) for k, s in unknown.items())]
        },
        "hardware": hardware(),
        "versions": versions("convcraft", "torch", "numpy"),
    }


def all_pixels(images: ImageSet) -> NDArray[np.uint8]:
    return images.pixels_of(np.arange(len(images)))


def judge_calibration(temperature: Temperature, seen: Seen, images: ImageSet) -> dict[str, Any]:
    figures = {}
    before, after = probabilities_of(seen.logits, temperature.loss), temperature.probabilities(seen.logits)
    for name, rows in (("before", before), ("after", after)):
        diagram = reliability_diagram(rows.max(axis=1), rows.argmax(axis=1) == images.targets).to_dict()
        wanted = ("expected_calibration_error", "expected_calibration_error_interval", "chance_error")
        of_target = rows[np.arange(len(rows)), images.targets].astype(np.float64)
        figures[name] = {**{key: diagram[key] for key in wanted}, "log_loss": float(-np.log(of_target).mean())}
        print(f"{name}: {figures[name]}", flush=True)
    return figures


def judge_conformal(
    own: NDArray[np.float32], targets: NDArray[np.int64], rows: NDArray[np.float32], test_targets: NDArray[np.int64]
) -> dict[str, Any]:
    figures = {}
    for name, options in METHODS.items():
        for per_class in (False, True):
            fitted = fit_conformal(
                own, targets, COVERAGE, method=name.split()[0], class_conditional=per_class, **options
            )
            report = coverage_report(fitted.sets(rows), test_targets)
            of_classes = [entry[1] for entry in report.per_class if entry[1] is not None]
            figures[name + (" per class" if per_class else "")] = {
                "coverage": report.coverage,
                "interval": list(report.interval),
                "mean_size": report.mean_size,
                "share_single": report.share_single,
                "share_empty": report.share_empty,
                "lowest_class_coverage": min(of_classes),
            }
    for name, entry in figures.items():
        print(f"{name}: coverage {entry['coverage']:.4f}, mean size {entry['mean_size']:.2f}", flush=True)
    return figures


def fitted_scores(train: Seen, targets: NDArray[np.int64], loss: str) -> dict[str, Any]:
    """Score name -> function of `Seen`, all fitted on train images alone."""
    plain = fit_mahalanobis(train.features, targets)
    relative = fit_mahalanobis(train.features, targets, relative=True)
    neighbours = fit_neighbours(train.features)
    return {
        "energy": lambda seen: energy(seen.logits, loss),
        "mahalanobis": lambda seen: plain.score(seen.features),
        "relative_mahalanobis": lambda seen: relative.score(seen.features),
        "nearest_neighbours": lambda seen: neighbours.score(seen.features),
    }


def real_unknowns(preprocess: Preprocess) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """MNIST test images by the run's preprocessing, and noise of the run's size: uint8 [N, H, W, 3]."""
    digits, _ = read_labelled_images(
        DATA / "mnist" / "t10k-images-idx3-ubyte.gz", DATA / "mnist" / "t10k-labels-idx1-ubyte.gz"
    )
    yield "mnist", np.stack([preprocess.pixels(image) for image in digits])
    shape = (NOISE_IMAGES, preprocess.height, preprocess.width, preprocess.channels)
    random = np.random.default_rng(1)
    yield "uniform noise", random.integers(0, 256, shape, dtype=np.uint8)
    yield "gaussian noise", np.clip(random.normal(127.5, 64, shape).round(), 0, 255).astype(np.uint8)


def judge_auroc(known: NDArray[np.float64], unknown: NDArray[np.float64]) -> dict[str, Any]:
    is_unknown = np.arange(len(known) + len(unknown)) >= len(known)
    ranked = SortedScores.of(np.concatenate([known, unknown]), is_unknown)
    found = ranked.auroc()
    assert found is not None
    interval = delong_interval(ranked)
    return {"auroc": found.figure, "interval": None if interval is None else list(interval)}


def judge_rule(
    rule: RejectRule, rows: NDArray[np.float32], scores: NDArray[np.float64], targets: NDArray[np.int64] | None
) -> dict[str, Any]:
    """Share of images per reason, and how often those without one are right."""
    reasons = np.array([reason or "answered" for reason in rule.reasons(rows, scores)])
    shares = {name: float((reasons == name).mean()) for name in ("answered", "unknown", "low confidence", "ambiguous")}
    if targets is None:
        return shares
    answered = reasons == "answered"
    return {**shares, "accuracy_of_answered": float((rows.argmax(axis=1) == targets)[answered].mean())}


if __name__ == "__main__":
    main()
