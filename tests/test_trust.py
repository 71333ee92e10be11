"""Every run carries its trust: fitted at its end, exact on disk, refused for other weights, and used by predict."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss
from small_run import QUIET, bars, stop_after

from convcraft.cli.app import _run
from convcraft.config import RunConfig
from convcraft.data.dataset import open_test_data
from convcraft.errors import UserError
from convcraft.evaluation.outputs import Outputs
from convcraft.evaluation.predictions import Predictions, softmax
from convcraft.evaluation.probabilities import probabilities_of
from convcraft.evaluation.strangeness import Strangeness
from convcraft.evaluation.trust import TRUST, Trust, fit_trust, load_trust, log_of, save_trust
from convcraft.evaluation.unknown import SCORES, energy
from convcraft.training.run_folder import read_run
from convcraft.training.stops import Interrupted
from convcraft.workflows.finetune import finetune
from convcraft.workflows.load_model import load_model
from convcraft.workflows.network_outputs import outputs_of
from convcraft.workflows.predict import predict
from convcraft.workflows.train import train
from convcraft.workflows.trust_of_run import find_trust
from convcraft.workflows.trust_report import trust_report

CONFIG = RunConfig().changed(
    data={"source": "digits"},
    model={"name": "lenet5"},
    training={"epochs": 2, "batch_size": 32, "device": "cpu", "trackers": ()},
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(CONFIG, tmp_path_factory.mktemp("trust") / "run", console=QUIET).run


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copied"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty digits, and a picture of none."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("pictures")
    for index, image in enumerate(load_digits().images[-30:]):
        Image.fromarray((image * 15).astype(np.uint8)).save(folder / f"{index}.png")
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(folder / "white.png")
    return folder


def loaded(run: Path) -> Trust:
    description = read_run(run)
    trust = load_trust(run, load_model(description)[1].sha256, description.preprocess.hash())
    assert trust is not None
    return trust


def drawn(num: int, seed: int = 0, sharpness: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are too sure, and targets drawn from the softmax of a third of them."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (num, 4))
    rows = softmax(logits)
    targets = np.array([random.choice(4, p=row / row.sum()) for row in rows.astype(np.float64)])
    return (sharpness * logits).astype(np.float32), targets


def fitted(logits: np.ndarray, targets: np.ndarray, **changed: Any) -> Trust:
    usual = {"loss": "cross_entropy", "weights_sha256": "w", "preprocess_sha256": "p"}
    score = Strangeness("energy", None, energy(logits), {})
    return fit_trust(logits, targets, **{**usual, "strangeness": score, **changed})


def as_sklearn(rows: np.ndarray) -> np.ndarray:
    """float64 rows that sum to 1 in float64."""
    wide = rows.astype(np.float64)
    return wide / wide.sum(axis=1, keepdims=True)


# --- fitting ---


def test_the_temperature_is_that_of_the_least_log_loss() -> None:
    logits, targets = drawn(4000)
    trust = fitted(logits, targets)
    assert trust.temperature.value == pytest.approx(3.0, abs=0.25)
    assert not trust.shared
    half = np.random.default_rng(0).permutation(4000)[:2000]

    def loss(temperature: float) -> float:
        return float(log_loss(targets[half], as_sklearn(softmax(logits[half] / temperature)), labels=range(4)))

    best = minimize_scalar(loss, bounds=(0.5, 10), method="bounded").x
    assert trust.temperature.value == pytest.approx(best, rel=0.01)


def test_sets_cover_new_images_as_promised() -> None:
    trust = fitted(*drawn(4000))
    logits, targets = drawn(4000, seed=1)
    sets = trust.judge(Outputs(logits)).sets
    assert sets is not None
    assert trust.coverage == 0.9
    assert sets[np.arange(4000), targets].mean() == pytest.approx(0.9, abs=0.02)


def test_sets_of_a_network_that_is_mostly_right_are_not_empty() -> None:
    """At 90 % each tenth image of a network of 97 % would be rejected for an empty set."""
    random = np.random.default_rng(0)
    targets = random.integers(0, 4, 2000)
    shown = np.where(random.random(2000) < 0.97, targets, (targets + 1) % 4)
    logits = (6 * np.eye(4)[shown] + random.normal(0, 1, (2000, 4))).astype(np.float32)
    trust = fitted(logits, targets)
    assert trust.coverage == 0.98
    sets = trust.judge(Outputs(logits)).sets
    assert sets is not None
    assert (sets.sum(axis=1) == 0).mean() < 0.01


@pytest.mark.parametrize(("num_images", "has_sets"), [(8, False), (9, True)])
def test_too_few_images_promise_nothing(num_images: int, has_sets: bool) -> None:
    trust = fitted(*drawn(num_images))
    assert (trust.coverage is not None) == has_sets
    judged = trust.judge(Outputs(drawn(50, seed=2)[0]))
    assert (judged.sets is not None) == has_sets
    assert any("no sets" in note for note in trust.notes) == (not has_sets)
    if not has_sets:
        assert judged.reasons == [None] * 50  # nothing that was not measured is held against an image


def test_probabilities_serve_where_there_are_no_logits() -> None:
    logits, targets = drawn(1000)
    with_logits = fitted(logits, targets, strangeness=None)
    without = fitted(log_of(softmax(logits)), targets, strangeness=None)
    assert without.temperature.value == pytest.approx(with_logits.temperature.value, rel=1e-4)
    given = with_logits.judge(Outputs(logits)).probabilities
    np.testing.assert_allclose(with_logits.calibrated(softmax(logits)), given, atol=2e-6)
    assert without.rule.unknown is None
    assert any("not recognised" in note for note in without.notes)


@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_calibrated_probabilities_agree_for_every_loss(loss: str) -> None:
    logits, targets = drawn(500, sharpness=0.7)
    trust = fitted(logits, targets, loss=loss, strangeness=None)
    expected = trust.judge(Outputs(logits)).probabilities
    np.testing.assert_allclose(trust.calibrated(probabilities_of(logits, loss)), expected, atol=2e-6)


# --- the run folder ---


def test_a_run_carries_its_trust_and_it_comes_back_exactly(run: Path, copied: Path) -> None:
    trust = loaded(run)
    summary = json.loads((run / "summary.json").read_text())
    assert trust.weights_sha256 == summary["weights_sha256"]
    assert trust.num_images == summary["validation"]["num_images"]
    assert trust.temperature.log_loss_before == pytest.approx(summary["validation"]["log_loss"], abs=1e-6)
    assert set(trust.aurocs) == set(SCORES)
    means = {name: np.mean(list(kinds.values())) for name, kinds in trust.aurocs.items()}
    assert trust.rule.unknown is not None
    assert trust.rule.unknown.score == max(means, key=lambda name: means[name])
    save_trust(copied, trust)
    for name in (TRUST, "trust.safetensors"):
        assert (copied / name).exists() == (run / name).exists()
        if (run / name).exists():
            assert (copied / name).read_bytes() == (run / name).read_bytes()
    assert loaded(copied).to_dict() == trust.to_dict()


def test_tensors_of_a_distance_come_back_exactly(copied: Path) -> None:
    description = read_run(copied)
    model, _ = load_model(description)
    test = open_test_data(description.config.data, description.classes, description.preprocess)
    outputs = outputs_of(model, test, features=True)
    trust = loaded(copied)
    assert trust.scorer is not None, "lenet5 on digits: a distance beats energy"
    before = trust.unknown_scores(outputs)
    save_trust(copied, trust)
    np.testing.assert_array_equal(loaded(copied).unknown_scores(outputs), before)
    (copied / "trust.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match="is not what"):
        loaded(copied)


def test_other_weights_and_other_preprocessing_are_refused(copied: Path) -> None:
    trust = loaded(copied)
    for changed in ({"weights_sha256": "0" * 64}, {"preprocess_sha256": "0" * 64}):
        save_trust(copied, replace(trust, **changed))
        with pytest.raises(UserError, match="of other"):
            predict(copied, [str(_digit(copied))])


def _digit(folder: Path) -> Path:
    path = folder / "digit.png"
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(path)
    return path


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"version": 2}', '{"version": 1}', '{"version": 1, "rule": {}, "temperature": {}}'],
)
def test_damaged_files_are_named(copied: Path, text: str) -> None:
    (copied / TRUST).write_text(text)
    with pytest.raises(UserError):
        loaded(copied)


def test_entries_of_another_time_are_refused(copied: Path) -> None:
    saved = json.loads((copied / TRUST).read_text())
    (copied / TRUST).write_text(json.dumps({**saved, "surplus": 1}))
    with pytest.raises(UserError, match=r"trust\.json"):
        loaded(copied)


def test_a_stopped_run_goes_on_to_the_same_trust(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stop_after(monkeypatch, 50), pytest.raises(Interrupted):
        train(CONFIG, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run" / TRUST).exists()
    train(RunConfig(), tmp_path / "run", resume=True, console=QUIET)
    assert (tmp_path / "run" / TRUST).read_bytes() == (run / TRUST).read_bytes()


def test_an_old_run_gets_its_trust_when_its_data_are_opened(copied: Path, run: Path) -> None:
    (copied / TRUST).unlink()
    description = read_run(copied)
    model, weights = load_model(description)
    lazily, at_once = find_trust(description, model, weights), loaded(run)
    assert lazily is not None
    assert loaded(copied).to_dict() == lazily.to_dict()
    # Not bit for bit: the network that was just trained lies in memory channels last.
    assert lazily.temperature.value == pytest.approx(at_once.temperature.value, rel=1e-4)
    assert (lazily.num_images, lazily.coverage) == (at_once.num_images, at_once.coverage)
    assert lazily.rule.unknown is not None
    assert at_once.rule.unknown is not None
    assert lazily.rule.unknown.score == at_once.rule.unknown.score
    (copied / TRUST).unlink()
    moved = replace(description, config=description.config.changed(data={"source": "nowhere"}))
    assert find_trust(moved, model, weights) is None


def test_a_run_without_validation_has_none_and_predict_says_so(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = CONFIG.changed(data={"final": True}, training={"select": "last", "epochs": 1})
    done = train(config, tmp_path / "run", console=QUIET)
    assert done.report is None
    assert not (done.run / TRUST).exists()
    description = read_run(done.run)
    assert find_trust(description, *load_model(description)) is None
    assert _run(["predict", str(done.run), str(pictures / "0.png"), "--json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["calibrated"] is False
    assert "not calibrated" in err
    [answer] = told["predictions"]
    assert (answer["set"], answer["reject"], answer["reason"]) == (None, None, None)
    assert trust_report(done.run, _predictions(done.run)) is None


def test_the_numpy_engine_leaves_its_trust_too(tmp_path: Path) -> None:
    config = CONFIG.changed(training={"engine": "numpy", "epochs": 1})
    done = train(config, tmp_path / "run", console=QUIET)
    assert loaded(done.run).num_images == done.report.num_images  # type: ignore[union-attr]


# --- fine-tuning ---


@pytest.mark.parametrize("method", ["head", "full"])
def test_fine_tuning_fits_it_on_images_that_were_held_out(tmp_path: Path, method: str) -> None:
    config = RunConfig().changed(
        data={"source": "digits", "labels_per_class": 8},
        model={"weights": "mnist-lenet5"},
        training={"epochs": 2, "device": "cpu", "trackers": ()},
        finetune={"method": method, "views": 0},
    )
    done = finetune(config, tmp_path / "run", console=QUIET)
    trust = loaded(done.run)
    assert trust.source == "cross-fitted"
    assert done.report is not None
    assert trust.num_images == done.report.num_images == 80
    assert trust.temperature.log_loss_before == pytest.approx(done.report.log_loss, abs=1e-5)
    if method == "full":  # the network has changed everywhere, and has learned from all images
        assert trust.rule.unknown is None
    else:  # a frozen body owes nothing to the labels
        assert trust.scorer is not None
        assert set(trust.aurocs) <= set(SCORES) - {"energy"}
    assert predict(done.run, [str(_digit(tmp_path))])[0].calibrated
    description = read_run(done.run)
    (done.run / TRUST).unlink()
    assert find_trust(description, *load_model(description)) is None  # no image is left that it did not learn from


def test_a_large_set_is_fitted_on_its_validation_images(tmp_path: Path) -> None:
    config = RunConfig().changed(
        data={"source": "digits"},
        model={"weights": "mnist-lenet5"},
        training={"epochs": 1, "device": "cpu", "trackers": ()},
        finetune={"method": "head", "views": 0, "cross_fit_below": 0},
    )
    done = finetune(config, tmp_path / "run", console=QUIET)
    trust = loaded(done.run)
    assert trust.source == "validation"
    assert done.report is not None
    assert trust.num_images == done.report.num_images
    assert set(trust.aurocs) == set(SCORES)
    (done.run / TRUST).unlink()
    description = read_run(done.run)
    again = find_trust(description, *load_model(description))  # the same images: none of them was learned from
    assert again is not None
    assert again.num_images == trust.num_images
    assert again.temperature.value == pytest.approx(trust.temperature.value, rel=1e-3)


# --- predict ---


def test_predict_calibrates_and_keeps_the_ranking(copied: Path, pictures: Path) -> None:
    calibrated = predict(copied, [str(pictures)])
    trust = loaded(copied)
    (copied / TRUST).unlink()
    raw = predict(copied, [str(pictures)])
    assert all(answer.calibrated for answer in calibrated)
    assert not any(answer.calibrated for answer in raw)
    for now, before in zip(calibrated, raw, strict=True):
        assert [label for label, _ in now.ranking] == [label for label, _ in before.ranking]
        shares = np.array([share for _, share in before.ranking], np.float64) ** (1 / trust.temperature.value)
        np.testing.assert_allclose([share for _, share in now.ranking], shares / shares.sum(), atol=1e-5)
        assert now.possible is not None
        assert [label for label, _ in now.ranking[: len(now.possible)]] == list(now.possible)
        assert (now.reason == "ambiguous") <= (len(now.possible) > 1)
    [white] = [answer for answer in calibrated if answer.image.endswith("white.png")]
    assert white.reason == "unknown"


def test_predict_prints_reasons_and_json(run: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["predict", str(run), str(pictures / "white.png"), "--json", "--top", "2"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["calibrated"] is True
    [answer] = told["predictions"]
    assert set(answer) == {
        "image", "label", "probability", "probabilities", "set", "reject", "reason", "explanation",
    }  # fmt: skip
    assert answer["probability"] == answer["probabilities"][answer["label"]] == max(answer["probabilities"].values())
    assert (answer["reject"], answer["reason"], len(answer["probabilities"])) == (True, "unknown", 2)
    assert _run(["predict", str(run), str(pictures / "white.png")]) == 0
    out, err = capsys.readouterr()
    assert out.rstrip().endswith("it may be of none of its classes")
    assert "not calibrated" not in err


def test_ambiguous_answers_name_the_classes(run: Path, pictures: Path) -> None:
    answer = predict(run, [str(pictures / "0.png")])[0]
    two = replace(answer, reason="ambiguous", possible=("8", "3"))
    assert two.explanation == "ambiguous: may be 8 or 3"
    seven = replace(two, possible=tuple("8352017"))
    assert seven.explanation == "ambiguous: may be 8, 3, 5, 2, 0 or 2 more"


# --- the report of test images ---


def _outputs(run: Path) -> tuple[Outputs, np.ndarray]:
    description = read_run(run)
    expected = description.data["sha256"]["test"]
    images = open_test_data(description.config.data, description.classes, description.preprocess, expected)
    return outputs_of(load_model(description)[0], images, features=True), images.targets


def _predictions(run: Path) -> Predictions:
    outputs, targets = _outputs(run)
    names = tuple(str(index) for index in range(len(targets)))
    return Predictions(read_run(run).classes, probabilities_of(outputs.logits), targets, names)


def test_the_report_counts_what_the_rule_says(run: Path) -> None:
    trust, (outputs, targets) = loaded(run), _outputs(run)
    predictions = _predictions(run)
    report = trust_report(run, predictions, unknown_scores=trust.unknown_scores(outputs))
    assert report is not None
    judged = trust.judge(outputs)
    reasons = np.array([reason or "answered" for reason in judged.reasons])
    correct = outputs.logits.argmax(axis=1) == targets
    assert sum(group.num_images for group in report.groups) == len(targets)
    for group in report.groups:
        own = reasons == group.reason
        assert abs(group.num_images - own.sum()) <= 1  # a float32 log more or less at a threshold
        if own.any() and group.num_images == own.sum():
            assert group.accuracy == pytest.approx(correct[own].mean())
    assert report.answered.accuracy is not None
    assert report.answered.accuracy > report.accuracy
    assert report.rejected.num_images == len(targets) - report.answered.num_images
    assert judged.sets is not None
    assert report.coverage == pytest.approx(judged.sets[np.arange(len(targets)), targets].mean(), abs=0.003)
    expected = log_loss(targets, as_sklearn(predictions.probabilities), labels=range(10))
    assert report.before.log_loss == pytest.approx(expected, rel=1e-5)
    assert report.before.error_interval[0] <= report.before.error <= report.before.error_interval[1]
    told = json.loads(json.dumps(report.to_dict()))
    assert told["rejected"]["num_images"] == report.rejected.num_images
    assert f"{report.answered.share:.1%}" in report.sentence


def test_the_report_says_what_it_could_not_judge(run: Path) -> None:
    predictions = _predictions(run)
    report = trust_report(loaded(run), predictions)
    assert report is not None
    assert report.unknown_score is None
    assert {group.reason: group.num_images for group in report.groups}["unknown"] == 0
    assert any("not computed" in note for note in report.notes)
    with pytest.raises(UserError, match="no targets"):
        trust_report(loaded(run), replace(predictions, targets=None))
    with pytest.raises(UserError, match="5 targets"):
        trust_report(loaded(run), predictions, predictions.targets[:5])  # type: ignore[index]


def test_networks_whose_classifier_takes_no_rows_have_no_features() -> None:
    class Maps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = torch.nn.Conv2d(1, 3, 8)

        def get_classifier(self) -> torch.nn.Module:
            return self.last

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.last(images).flatten(1)
            return logits

    outputs = outputs_of(Maps(), bars(9), features=True)
    assert outputs.logits.shape == (9, 3)
    assert outputs.features is None
