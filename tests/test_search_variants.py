"""`convcraft compress RUN --target-latency ...`: the mildest first, and no further than needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from convcraft.cli.app import main
from convcraft.config import RunConfig
from convcraft.deploy.compress.timing import milliseconds_per_image
from convcraft.errors import UserError
from convcraft.evaluation.trade_off import Variant
from convcraft.workflows import compress as compressing
from convcraft.workflows import search_variants as searching
from convcraft.workflows import weigh as weighing
from convcraft.workflows.search_variants import Targets, search_variants
from convcraft.workflows.train import train

pytest.importorskip("onnxscript", reason="exporting needs the export extra")
pytest.importorskip("torch_pruning", reason="pruning needs the compress extra")

QUIET = Console(quiet=True)
MILLISECONDS = {"as trained (torch)": 10.0, "onnx float32": 5.0, "run-pruned-50 (torch)": 4.0}
PRUNED_ONNX, PRUNED_TORCH = "run-pruned-50 onnx float32", "run-pruned-50 (torch)"


def injected(calls: Sequence[Any], progress: object) -> list[list[float]]:
    """As if measured: seconds of each variant for one image."""
    return [[MILLISECONDS.get(call.args[0].name, 2.0) / 1000] * 3 for call in calls]


@pytest.fixture(autouse=True)
def _injected_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are given; whatever is made, judged, weighed and chosen is real. One export and one share are enough."""
    monkeypatch.setattr(weighing, "seconds_in_turns", injected)
    monkeypatch.setattr(
        "convcraft.workflows.compress_result.milliseconds_per_image",
        lambda *given: milliseconds_per_image(*given, rounds=1),
    )
    monkeypatch.setattr(searching, "EXPORTS", (("onnx", "float32"),))
    monkeypatch.setattr(searching, "PRUNED_SHARES", (0.5,))


def trained(folder: Path) -> Path:
    config = RunConfig().changed(
        data={"source": "digits", "test_fraction": 0.6},
        model={"name": "lenet5"},
        training={"epochs": 6, "batch_size": 32, "device": "cpu", "precision": "32-true", "trackers": ()},
    )
    return train(config, folder / "run", console=QUIET).run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tests that use it go on from what the one before them left: a search is resumed by what lies there."""
    return trained(tmp_path_factory.mktemp("search"))


def there(run: Path) -> list[str]:
    """Bundles and runs that a search has made."""
    bundles = [path.name for path in run.parent.glob("*/bundles/*")]
    return sorted([*bundles, *(path.parent.name for path in run.parent.glob("*-pruned-*/summary.json"))])


def command(run: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON line, all of standard output."""
    with pytest.raises(SystemExit) as left:
        main(["compress", str(run), *options, "--epochs", "4", "--json", "--quiet"])
    out = capsys.readouterr().out
    told: dict[str, Any] = json.loads(out.splitlines()[-1])
    return int(left.value.code or 0), told, out


def test_it_stops_at_the_first_that_reaches_and_says_where_none_does(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The run itself is quick enough: nothing is made.
    code, told, _ = command(run, capsys, "--target-latency", "11")
    assert (code, told["found"]["name"], there(run)) == (0, "as trained (torch)", [])

    # The first export is: nothing is pruned.
    code, told, out = command(run, capsys, "--target-latency", "6")
    assert (code, told["found"]["name"]) == (0, "onnx float32")
    assert there(run) == ["run-onnx-float32.zip"]
    assert "convcraft export run --format onnx:float32" in out

    # What is there is not made again, and is taken where it reaches the targets.
    kept = (run / "bundles" / "run-onnx-float32.zip").stat().st_mtime_ns
    code, told, out = command(run, capsys, "--target-latency", "5")
    assert (code, told["found"]["name"], there(run)) == (0, "onnx float32", ["run-onnx-float32.zip"])
    assert f"found        onnx float32: {run / 'bundles' / 'run-onnx-float32.zip'}" in out
    assert (run / "bundles" / "run-onnx-float32.zip").stat().st_mtime_ns == kept

    # Nothing reaches it: all is shown, and the command says no.
    monkeypatch.setattr(searching, "PRUNED_SHARES", ())
    code, told, out = command(run, capsys, "--target-latency", "0.5")
    assert (code, told["found"]) == (1, None)
    assert "found        none" in out
    assert len(told["trade_off"]["variants"]) == 2
    assert (run / "variants.json").is_file()


@pytest.mark.slow
def test_it_goes_on_with_pruning_and_exports_of_what_is_left(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told, _ = command(run, capsys, "--target-latency", "3", "--max-drop", "0.5")
    assert (code, told["found"]["name"]) == (0, PRUNED_ONNX)
    weighed = {entry["name"]: entry for entry in told["trade_off"]["variants"]}
    assert list(weighed) == ["as trained (torch)", "onnx float32", PRUNED_TORCH, PRUNED_ONNX]
    assert weighed[PRUNED_ONNX]["accuracy"] == pytest.approx(weighed[PRUNED_TORCH]["accuracy"], abs=0.01)
    assert weighed[PRUNED_ONNX]["size_bytes"] < weighed["onnx float32"]["size_bytes"]
    made = ["run-onnx-float32.zip", "run-pruned-50", "run-pruned-50-onnx-float32.zip"]
    assert there(run) == made
    code, told, _ = command(run, capsys, "--target-latency", "0.5", "--max-drop", "0.5")
    assert (code, told["found"], there(run)) == (1, None, made)


@pytest.mark.slow
def test_a_search_that_was_stopped_while_it_trained_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path)
    targets = Targets(milliseconds=4.5, max_drop=0.9)
    with monkeypatch.context() as patch:

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(compressing, "fit", stop)
        with pytest.raises(KeyboardInterrupt):
            search_variants(run, targets, epochs=4, console=QUIET)
    assert (tmp_path / "run-pruned-50" / "config.yaml").is_file()
    assert there(run) == ["run-onnx-float32.zip"]
    result = search_variants(run, targets, epochs=4, console=QUIET)
    assert "run-pruned-50" in there(run)
    assert result.trade_off.variants[2].name == PRUNED_TORCH
    assert result.found is not None
    assert result.found.name == PRUNED_TORCH


def test_what_cannot_be_made_is_told_and_the_search_goes_on(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "PRUNED_SHARES", (0.999,))
    result = search_variants(run, Targets(milliseconds=0.1), console=QUIET)
    assert result.found is None
    assert any("at least" in note for note in result.notes)


OWN = Variant(
    name="run",
    accuracy=0.9,
    interval=(0.88, 0.92),
    num_images=500,
    agreement=1.0,
    milliseconds=10.0,
    quick=9.0,
    slow=11.0,
    size_bytes=4_000_000,
    command="convcraft train",
)


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"milliseconds": 10.1}, ["10.1 ms"]),
        ({"size_bytes": 4_500_000}, ["4.5 MB"]),
        ({"accuracy": 0.89}, []),  # exactly what may be lost
        ({"accuracy": 0.888}, ["1.2 points less right"]),
        ({"worse": ("class cat", "group night")}, ["worse in class cat", "worse in group night"]),
        ({"milliseconds": 11, "accuracy": 0.5}, ["11 ms", "40.0 points less right"]),
    ],
)
def test_what_a_variant_lacks(changes: dict[str, Any], missed: list[str]) -> None:
    targets = Targets(milliseconds=10, size_bytes=4_000_000)
    assert targets.missed_by(Variant(**{**vars(OWN), **changes}), OWN) == missed


@pytest.mark.parametrize(
    "given", [{}, {"milliseconds": 0}, {"size_bytes": -1}, {"milliseconds": 1, "max_drop": 1.0}, {"max_drop": 0.1}]
)
def test_targets_that_are_none_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Targets(**given)


def test_the_search_chooses_by_itself(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--prune", "0.5"], ["--out", str(tmp_path / "out")], ["--distil"]):
        with pytest.raises(SystemExit) as left:
            main(["compress", str(run), "--target-size", "1", *options])
        assert left.value.code == 2
        assert "the search chooses" in capsys.readouterr().err
