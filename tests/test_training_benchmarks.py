"""What the training benchmarks conclude from their measurements, and that their sides run."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import choose_network  # noqa: E402
import cifar10_cpu  # noqa: E402
import keras_train_speed  # noqa: E402
import measured_on  # noqa: E402
import residual  # noqa: E402
import seeds  # noqa: E402
import train_speed  # noqa: E402

RATES = {
    "convcraft": [300.0, 330.0, 360.0],
    "textbook, 0 workers": [90.0, 100.0, 110.0],
    "textbook, 2 workers": [100.0, 110.0, 120.0],
    "keras jax, float32": [50.0, 60.0, 70.0],
    "keras torch, mixed_bfloat16": [150.0, 165.0, 170.0],
}
ACCURACY = {"convcraft": [0.990, 0.991], "textbook": [0.990, 0.992]}
needs_mnist = pytest.mark.skipif(not (measured_on.DATA / "mnist").is_dir(), reason="needs MNIST in CONVCRAFT_DATA")
needs_cifar = pytest.mark.skipif(not (measured_on.DATA / "cifar10").is_dir(), reason="needs CIFAR-10 in CONVCRAFT_DATA")


def test_speed_counts_against_the_better_textbook_and_the_best_keras() -> None:
    found = train_speed.judge(RATES, ACCURACY, complete=True)
    assert found["ratio_to_textbook"] == pytest.approx(3.0)
    assert found["ratio_by_round"]["values"] == pytest.approx([3.0, 3.0, 3.0])
    assert found["ratio_to_best_keras"] == pytest.approx(2.0)
    assert found["accuracy_gap"] == pytest.approx(-0.0005)
    assert found["met"] is True
    less_accurate = {"convcraft": [0.98], "textbook": [0.99]}
    assert train_speed.judge(RATES, less_accurate, complete=True)["met"] is False


def test_a_claim_that_was_measured_in_part_is_neither_met_nor_missed() -> None:
    assert train_speed.judge(RATES, ACCURACY, complete=False)["met"] is None
    assert train_speed.judge(RATES, {}, complete=True)["met"] is None
    assert train_speed.judge({"convcraft": [900.0], "textbook, 0 workers": [100.0]}, ACCURACY, True)["met"] is None
    assert train_speed.judge({"convcraft": [900.0]}, {}, complete=False) == {"met": None}


def test_a_textbook_that_left_early_counts_in_the_rounds_it_was_in() -> None:
    rates = {"convcraft": [300.0, 300.0], "textbook, 0 workers": [100.0, 100.0], "textbook, 2 workers": [150.0]}
    assert train_speed.judge(rates, {}, complete=False)["ratio_by_round"]["values"] == [2.0, 3.0]


def test_keras_variants_far_below_the_best_leave() -> None:
    rates = {"convcraft": 900.0, "textbook, 0 workers": 10.0, "keras a": 100.0, "keras b": 50.0, "keras c": 49.0}
    assert train_speed.slow_variants(rates) == ["keras c"]
    assert train_speed.slow_variants({"convcraft": 900.0}) == []


ECHO = """
import json, sys
for line in sys.stdin:
    print(json.dumps({"images_per_second": json.loads(line)["n"]}), flush=True)
"""
DIES = "raise ValueError('no such backend')"


def worker(program: str) -> train_speed.Worker:
    return train_speed.Worker([sys.executable, "-c", program], {})


def test_a_worker_answers_job_after_job_and_tells_why_it_died() -> None:
    good, bad, silent = worker(ECHO), worker(DIES), worker("import time; time.sleep(60)")
    assert [good.ask({"n": number})["images_per_second"] for number in (1, 2)] == [1, 2]
    with pytest.raises(train_speed.SideFailed, match="ValueError: no such backend"):
        bad.ask({})
    with pytest.raises(train_speed.SideFailed, match="no answer"):
        silent.ask({}, seconds=0.2)
    for each in (good, bad, silent):
        each.close()


def test_a_side_that_fails_is_left_out_with_its_reason_and_the_rest_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_on, "RESULTS", tmp_path)
    asked = {"rounds": 2, "round_images": 100, "threads": 1, "seeds": 0, "epochs": 1}
    measurement = train_speed.Measurement(asked, (), {})
    measurement.sides = {
        "convcraft": train_speed.Side(worker(ECHO), {"n": 300}),
        "textbook, 0 workers": train_speed.Side(worker(ECHO), {"n": 100}),
        "keras jax, float32": train_speed.Side(worker(DIES), {}),
        "keras torch, float32": train_speed.Side(worker(ECHO), {"n": 30}),
        "keras torch, mixed_bfloat16": train_speed.Side(worker(ECHO), {"n": 10}),
    }
    measurement.run()
    for side in measurement.sides.values():
        side.worker.close()
    result = json.loads((tmp_path / "train_speed.json").read_text())
    assert result["images_per_second"]["convcraft"]["values"] == [300.0, 300.0]
    assert set(result["images_per_second"]) == {"convcraft", "textbook, 0 workers", "keras torch, float32"}
    assert "no such backend" in result["skipped"]["keras jax, float32"]
    assert set(result["too_slow"]) == {"keras torch, mixed_bfloat16"}
    assert (result["ratio_to_textbook"], result["ratio_to_best_keras"], result["met"]) == (3.0, 10.0, None)


def test_the_line_with_the_error_is_shown() -> None:
    said = "Collecting x\nERROR: No matching distribution found for x\n[notice] a new release of pip\n"
    assert keras_train_speed.last_error(said) == "ERROR: No matching distribution found for x"
    assert keras_train_speed.last_error("one\ntwo\n") == "two"
    assert keras_train_speed.last_error("")


def test_every_keras_backend_is_measured_in_both_precisions() -> None:
    for backend in keras_train_speed.PACKAGES:
        jobs = keras_train_speed.variants(backend).values()
        assert {job["precision"] for job in jobs} == {"float32", "mixed_bfloat16"}


@needs_mnist
@pytest.mark.slow
def test_both_sides_train_and_say_with_what() -> None:
    ours = train_speed._ours(num_images=128, epochs=1, seed=0, judged=False)
    assert ours["num_images"] == 120  # twelve of each class
    assert ours["images_per_second"] > 0
    assert ours["precision"] in ("32-true", "bf16-mixed")
    textbook = train_speed._textbook(num_images=128, epochs=1, seed=0, judged=True)
    assert textbook["images_per_second"] > 0
    assert 0 < textbook["accuracy"] < 1
    assert ours["threads"] == textbook["threads"]


@needs_cifar
@pytest.mark.slow
def test_one_network_trains_and_gives_its_curves() -> None:
    run = residual.train_once("plain18", seed=0, epochs=1, images_per_class=10)
    assert len(run["train_loss"]) == len(run["val_accuracy"]) == 1
    assert run["threads"] >= 1
    assert residual.finished([run]) == [run]


def test_curves_are_means_of_each_epoch() -> None:
    records = [
        {"event": "train", "epoch": 1, "loss": 3.0},
        {"event": "train", "epoch": 1, "loss": 1.0},
        {"event": "val", "epoch": 1, "accuracy": 0.4},
        {"event": "train", "epoch": 2, "loss": 0.5},
        {"event": "val", "epoch": 2, "accuracy": 0.6},
    ]
    assert residual.curves(records) == {"train_loss": [2.0, 0.5], "val_accuracy": [0.4, 0.6]}


GOOD = {"train_loss": [2.0, 1.0], "val_accuracy": [0.3, 0.6], "seconds": 1.0}
BAD = {"train_loss": [2.1, 1.5], "val_accuracy": [0.3, 0.4], "seconds": 1.0}
DIVERGED = {"seed": 0, "diverged": "the loss is nan"}


def test_residual_must_be_ahead_in_loss_and_accuracy_at_every_seed() -> None:
    runs = {"resnet34": [GOOD, GOOD], "plain34": [BAD, GOOD], "plain18": [GOOD, BAD]}
    found = residual.judge(runs, seeds=2)
    assert found["resnet34_ahead_of_plain34"] == [True, False]
    assert found["plain34_behind_plain18"] == [True, False]
    assert found["met"] is False
    assert residual.judge(runs, seeds=3)["met"] is None


def test_a_network_that_diverged_is_behind_and_has_no_figures() -> None:
    runs = {"resnet34": [GOOD], "plain34": [DIVERGED], "plain18": [GOOD]}
    assert residual.judge(runs, seeds=1)["met"] is True
    assert residual.judge({**runs, "resnet34": [DIVERGED]}, seeds=1)["met"] is False
    assert residual.summarise([GOOD, DIVERGED])["final_val_accuracy"]["values"] == [0.6]


def test_a_cell_counts_its_diverged_runs_beside_the_others() -> None:
    runs = [{"accuracy": 0.9, "seconds": 2.0}, {"diverged": "the loss is nan"}]
    cell = choose_network.summarise({}, runs)
    assert (cell["validation_accuracy"]["values"], cell["diverged"]) == ([0.9], 1)
    assert "90.00 % (1 diverged)" in choose_network._row("", "base", cell)
    nothing_left = choose_network.summarise({}, runs[1:] * 2)
    assert nothing_left["validation_accuracy"] is None
    assert "| (2 diverged) |" in choose_network._row("", "base", nothing_left)


def test_cifar_is_judged_by_its_mean_accuracy_and_its_longest_run() -> None:
    run = {"accuracy": 0.9, "train_seconds": 800.0, "threads": 2, "precision": "bf16-mixed"}
    assert cifar10_cpu.judge([run, run], seeds=2)["met"] is True
    assert cifar10_cpu.judge([run], seeds=2)["met"] is None
    assert cifar10_cpu.judge([run, {**run, "train_seconds": 901.0}], seeds=2)["met"] is False
    assert cifar10_cpu.judge([run, {**run, "threads": 1}], seeds=2)["threads"] == [1, 2]


def test_the_articles_are_judged_together_once_all_are_there() -> None:
    measured = {seed_id: {"above_bar": True} if seed_id in seeds.BARS else {} for seed_id in seeds.SEEDS}
    assert seeds.conclude(measured, {})["met"] is True
    assert seeds.conclude({**measured, "003": {"above_bar": False}}, {})["met"] is False
    assert seeds.conclude(measured, {"000": "ended with 2"})["met"] is None
    assert seeds.conclude({"001": {"above_bar": True}}, {})["met"] is None
