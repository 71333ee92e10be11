"""The delivering part of fine-tuning: choose, fit the choice to all images, prove it, write the run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.data.durable_files import replace_durably, write_json
from convcraft.evaluation.metrics import Report, classification_report
from convcraft.evaluation.predictions import Predictions
from convcraft.finetune.attempts import Attempt, Candidate, Fitted, trial_folder
from convcraft.finetune.judge import cross_chosen
from convcraft.finetune.learning_curve import LearningCurve, learning_curve
from convcraft.finetune.planner import best_of, name_outcomes
from convcraft.finetune.proof import Proof, Spent, prove
from convcraft.finetune.proof_files import save_proof, with_pictures
from convcraft.finetune.record import Trial, TuningRecord
from convcraft.models.build import num_parameters
from convcraft.training.checkpoint import CHECKPOINTS, Checkpoint, save_named
from convcraft.training.devices import accelerator_of, precision_of
from convcraft.training.run_folder import CONFIG, SUMMARY, read_run
from convcraft.workflows.before import save_before
from convcraft.workflows.draw_run import Shown, draw_run
from convcraft.workflows.finetune_search import CHOOSING, Tuning
from convcraft.workflows.train import machine_facts
from convcraft.workflows.trust_of_run import trust_from_pool

RESULT = "result"  # the folder among the checkpoints
METRICS = "metrics.jsonl"
BEFORE_LABEL = "pretrained network with a probe"
CURVE_IMAGES = 2_000  # a learning curve of more would take minutes and say little else


@dataclass(frozen=True)
class FinetuneResult:
    """What fine-tuning came to.

    report: where few images are cross-fitted, of all of them, each judged by networks that were fitted and chosen
        without it; in a large set of validation, which has chosen epoch and method (the proof has not). None where
        nothing could be held back.
    judged_on: what the report's images are, in words.
    chosen: name of the candidate that was taken.
    seconds: of all; fitted_seconds: from the start until the chosen network was fitted, without learning curve, proof
        and report; train_seconds: of the fits alone.
    """

    run: Path
    report: Report | None
    judged_on: str
    proof: Proof | None
    chosen: str
    trials: tuple[Trial, ...]
    freeze_passed: bool
    summary: dict[str, Any]
    seconds: float
    fitted_seconds: float
    train_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for scripts; accuracy is that of validation, None where nothing could be held back."""
        figures = {"accuracy": None, "interval": None, "per_class": None}
        return {
            **(figures if self.report is None else self.report.to_dict()),
            "run": str(self.run),
            "seconds": self.seconds,
            "fitted_seconds": self.fitted_seconds,
            "train_seconds": self.train_seconds,
            "chosen": self.chosen,
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
            "proof": None if self.proof is None else self.proof.to_dict(),
            "freeze": self.summary["finetune"]["freeze"],
            "trainable_parameters": self.summary["trainable_parameters"],
            "weights_sha256": self.summary["weights_sha256"],
        }


@dataclass(frozen=True)
class _Choice:
    """attempts: everything that was tried. after: what the choice says of images, float32 [N, K]."""

    attempts: Sequence[Attempt]
    chosen: Attempt
    after: NDArray[np.float32]
    before_fit: Fitted
    after_fit: Fitted
    freeze: dict[str, Any]


def deliver(tuning: Tuning, attempts: Sequence[Attempt]) -> FinetuneResult:
    """The result of a search: chosen, fitted, proven, written."""
    choice = _choose(tuning, attempts)
    fitted_seconds = time.monotonic() - tuning.budget.started
    curve = _learning_curve(tuning)
    spent = _spent(tuning, choice)
    proof = _prove(tuning, choice, spent)
    return _write(tuning, choice, curve, proof, spent, fitted_seconds)


def _choose(tuning: Tuning, attempts: Sequence[Attempt]) -> _Choice:
    search, pool = tuning.search, tuning.pool
    selectable = tuning.selectable(attempts)
    chosen = best_of(search, selectable) if pool.rounds and tuning.chooses else selectable[0]
    name_outcomes(search, attempts, chosen)
    tuning.say(f"chosen: {chosen.name}")
    if chosen is attempts[0] and len(attempts) > 1:
        tuning.say("nothing was shown to be better than the plain probe")
    after = chosen.verdicts.probabilities
    if pool.rounds and pool.cross_fitted and tuning.chooses:  # by the choice of the other folds
        complete = [attempt.verdicts for attempt in selectable if attempt.complete]
        after = cross_chosen(complete, pool.images.targets, pool.fold_of)
    if pool.cross_fitted:
        tuning.say(f"fitting {chosen.name} to all {len(pool.images):,} labelled images")
    before_fit = _final(tuning, attempts[0].candidate)[attempts[0].name]
    after_fit = _final(tuning, chosen.candidate)[chosen.name]
    for note in after_fit.notes:
        tuning.say(f"not treated by {chosen.method}: {note}")
    freeze = tuning.network.freeze_report(after_fit.network(), after_fit)
    freeze["passed"] = freeze["passed"] and chosen.freeze_passed
    return _Choice(attempts, chosen, after, before_fit, after_fit, freeze)


def _final(tuning: Tuning, candidate: Candidate) -> dict[str, Fitted]:
    """Fitted to the whole pool where it is cross-fitted, else as it was judged."""
    if tuning.pool.cross_fitted:
        return candidate.fit(np.arange(len(tuning.pool.images)), "final")
    return candidate.fit(tuning.pool.rounds[0].fit, "round-0")


def _spent(tuning: Tuning, choice: _Choice) -> Spent:
    """What either side cost. Before: a forward pass of each image, as timed on a few, and the fits of the probe."""
    first = choice.attempts[0]
    return Spent(
        before_seconds=tuning.passes.forward * len(tuning.pool.images) + first.seconds + choice.before_fit.seconds,
        after_seconds=tuning.budget.spent,
        before_trainable_parameters=choice.before_fit.num_trainable,
        after_trainable_parameters=choice.after_fit.num_trainable,
    )


def _learning_curve(tuning: Tuning) -> LearningCurve | None:
    """Whether more labels would help, as far as probes of these features can tell."""
    material = tuning.material
    if not tuning.pool.rounds or tuning.config.finetune.method not in CHOOSING or tuning.budget.left <= 0:
        return None
    if len(material.targets) > CURVE_IMAGES:
        return None
    curve = learning_curve(
        tuning.features.last[0], material.targets, material.num_classes, material.groups, material.seed
    )
    tuning.say(curve.verdict)
    return curve


def _prove(tuning: Tuning, choice: _Choice, spent: Spent) -> Proof | None:
    pool, ids = tuning.pool, tuning.pool.proves
    if not len(ids):
        return None
    proof = prove(
        tuning.data.classes,
        [pool.images.samples[index].source for index in ids],
        pool.images.targets[ids],
        choice.attempts[0].verdicts.probabilities[ids],
        choice.after[ids],
        how="cross-fitted" if pool.cross_fitted else "part",
        spent=spent,
        groups=pool.groups[ids],
        before_label=BEFORE_LABEL,
        after_label=choice.chosen.name,
    )
    save_proof(tuning.run, with_pictures(proof, pool.images, ids))
    return proof


def _write(
    tuning: Tuning,
    choice: _Choice,
    curve: LearningCurve | None,
    proof: Proof | None,
    spent: Spent,
    fitted_seconds: float,
) -> FinetuneResult:
    """The run folder. config.yaml changes next to last and summary.json is last: until then the run can go on."""
    run, chosen = tuning.run, choice.chosen
    config = tuning.config.changed(model=dict(choice.after_fit.model_settings))
    network = choice.after_fit.network()
    before = choice.before_fit.network()
    save_before(run, before, tuning.config.model, label=BEFORE_LABEL, after_label=chosen.name, spent=spent)
    state = {"step": 0, "epoch": 0, "method": chosen.method, "chosen": chosen.name, "freeze": choice.freeze}
    sha256 = save_named(run / CHECKPOINTS, RESULT, Checkpoint({"model": dict(network.state_dict())}, state))
    trials = tuple(
        Trial.of(attempt, tuning.search.targets, tuning.pool.chooses, chosen=attempt is chosen)
        for attempt in choice.attempts
    )
    TuningRecord(trials, tuple(tuning.said), _freeze_line(choice.freeze), curve).save(run)
    _keep_metrics(tuning, chosen)
    shown = _judged(tuning, choice)
    summary = _summarise(tuning, choice, num_parameters(network), sha256, shown)
    settled = dataclasses.replace(read_run(run), config=config)
    device = tuning.config.training.device
    trust_from_pool(settled, network, sha256, tuning.pool, choice.after, tuning.features.last[0], device)
    config.save(run / CONFIG)
    write_json(run / SUMMARY, summary)
    draw_run(read_run(run), network, summary, shown)
    return FinetuneResult(
        run=run,
        report=None if shown is None else shown.report,
        judged_on=_judged_on(tuning),
        proof=proof,
        chosen=chosen.name,
        trials=trials,
        freeze_passed=choice.freeze["passed"],
        summary=summary,
        seconds=time.monotonic() - tuning.budget.started,
        fitted_seconds=fitted_seconds,
        train_seconds=summary["train_seconds"],
    )


def _summarise(tuning: Tuning, choice: _Choice, parameters: int, sha256: str, shown: Shown | None) -> dict[str, Any]:
    fits = {id(attempt.candidate): attempt.seconds for attempt in choice.attempts}  # variants share their fits
    final = choice.after_fit.seconds if tuning.pool.cross_fitted else 0.0
    place = accelerator_of(tuning.config.training.device)
    summary = {
        "epochs": choice.after_fit.epochs,
        "steps": 0,
        "train_seconds": sum(fits.values()) + final,
        "parameters": parameters,
        "trainable_parameters": choice.after_fit.num_trainable,
        "checkpoint": RESULT,
        "weights_file": "model.safetensors",
        "weights_sha256": sha256,
        **machine_facts(place, precision_of(tuning.config.training.precision, place)),
        "finetune": {"method": choice.chosen.method, "chosen": choice.chosen.name, "freeze": choice.freeze},
    }
    return summary if shown is None else summary | {"validation": shown.report.to_dict()}


def _keep_metrics(tuning: Tuning, chosen: Attempt) -> None:
    """The curves of the training that made the result (of the first, where it is a mean), if there was one."""
    folder = trial_folder(tuning.run, chosen.candidate, "final" if tuning.pool.cross_fitted else "round-0")
    logs = [path for path in (folder / METRICS, folder / "model-0" / METRICS) if path.is_file()]
    replace_durably(tuning.run / METRICS, logs[0].read_bytes() if logs else b"")


def _judged(tuning: Tuning, choice: _Choice) -> Shown | None:
    """The figures on the images that choose; with their features, where the network was not changed before them."""
    pool, ids = tuning.pool, tuning.pool.chooses
    if not len(ids):
        return None
    images = pool.images.subset(ids)
    predictions = Predictions(tuning.data.classes, choice.after[ids], images.targets, images.names)
    name = "cross-fitted validation" if pool.cross_fitted else "validation"
    is_probe = choice.chosen.method == "probe" and not choice.after_fit.model_settings
    features = tuning.features.last[0][ids] if is_probe else None
    return Shown(name, images, predictions, classification_report(predictions), features=features)


def _judged_on(tuning: Tuning) -> str:
    if tuning.pool.cross_fitted:
        return "images, each judged by networks that never saw it"
    return "validation images, which have chosen"


def _freeze_line(freeze: dict[str, Any]) -> str:
    if not freeze["passed"]:
        names = [*freeze["changed"], *freeze["differs_in_train_mode"]]
        return f"The freeze ledger FAILED: {', '.join(names[:10]) or 'in a round of cross-fitting'}"
    return f"Freeze ledger: {freeze['num_frozen_tensors']:,} frozen tensors are bit for bit what they were before."
