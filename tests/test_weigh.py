"""What lies in a run's folder and beside it: what is weighed, what is left out, and what a user is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from convcraft.config import RunConfig
from convcraft.deploy.compress.timing import milliseconds_per_image, seconds_in_turns
from convcraft.deploy.judges import Judges
from convcraft.evaluation.trade_off import TradeOff
from convcraft.training.run_folder import read_run
from convcraft.workflows import weigh as weighing
from convcraft.workflows.compress import compress
from convcraft.workflows.compress_settings import choose_compression
from convcraft.workflows.export import export, parse_variants
from convcraft.workflows.export_images import export_images
from convcraft.workflows.train import train
from convcraft.workflows.weigh import read_trade_off, weigh

pytest.importorskip("onnxscript", reason="exporting needs the export extra")

QUIET = Console(quiet=True)
CONFIG = RunConfig().changed(
    data={"source": "digits", "test_fraction": 0.6},
    model={"name": "lenet5"},
    training={"epochs": 2, "device": "cpu", "trackers": ()},
)


@pytest.fixture(autouse=True)
def _quick_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rounds: how long it takes is no question here."""
    monkeypatch.setattr(
        weighing, "seconds_in_turns", lambda calls, progress: seconds_in_turns(calls, rounds=1, progress=progress)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, its bundle, and a run whose weights are in part zero."""
    root = tmp_path_factory.mktemp("weigh")
    train(CONFIG, root / "run", console=QUIET)
    export(root / "run", parse_variants(["onnx"], None), weighs=False, console=QUIET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "convcraft.workflows.compress_result.milliseconds_per_image",
            lambda *given: milliseconds_per_image(*given, rounds=1),
        )
        settings = choose_compression(root / "run", sparsity=0.3, training_settings={"epochs": 0})
        compress(settings, root / "sparse", console=QUIET)
    return root


@pytest.fixture(scope="module")
def judges(made: Path) -> Judges:
    found = export_images(read_run(made / "run")).judges
    assert found is not None
    return found


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy, in another place than the settings of `sparse` name."""
    shutil.copytree(made, tmp_path / "moved")
    return tmp_path / "moved"


def weighed(root: Path, judges: Judges) -> tuple[list[str], tuple[str, ...]]:
    """Names of the variants, and what was told of those left out."""
    found, notes = weigh(read_run(root / "run"), judges)
    assert read_trade_off(root / "run") == found
    return [variant.name for variant in found.variants], notes


ALL = ["as trained (torch)", "onnx float32", "sparse (torch)"]


def test_all_that_belongs_to_a_run_is_weighed(made: Path, judges: Judges) -> None:
    assert weighed(made, judges) == (ALL, ())


def test_folders_that_were_moved_together_still_belong_together(root: Path, judges: Judges) -> None:
    assert weighed(root, judges) == (ALL, ())


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _weights(root: Path) -> Path:
    name = json.loads((root / "sparse" / "summary.json").read_text())["checkpoint"]
    return root / "sparse" / "checkpoints" / str(name)


@pytest.mark.parametrize(
    ("damage", "left", "says"),
    [
        (lambda root: _cut(_weights(root) / "model.safetensors"), ALL[:2], "sparse was left out: damaged checkpoint"),
        (lambda root: shutil.rmtree(_weights(root)), ALL[:2], "sparse was left out: damaged checkpoint"),
        (lambda root: (root / "sparse" / "summary.json").write_text("{}"), ALL[:2], "names no weights"),
        (lambda root: (root / "sparse" / "summary.json").write_text("{"), ALL[:2], "sparse was left out"),
        (lambda root: (root / "sparse" / "classes.json").unlink(), ALL[:2], "sparse was left out"),
        (lambda root: (root / "sparse" / "preprocess.json").write_text("[]"), ALL[:2], "sparse was left out"),
        (
            lambda root: _cut(root / "run" / "bundles" / "run-onnx-float32.zip"),
            [ALL[0], ALL[2]],
            "run-onnx-float32.zip",
        ),
    ],
)
def test_what_is_damaged_is_left_out_and_named(
    damage: Callable[[Path], object], left: list[str], says: str, root: Path, judges: Judges
) -> None:
    damage(root)
    names, notes = weighed(root, judges)
    assert names == left
    assert len(notes) == 1
    assert says in notes[0]


def test_what_was_never_finished_or_is_no_run_is_passed_over(root: Path, judges: Judges) -> None:
    (root / "sparse" / "summary.json").unlink()
    (root / "notes.txt").write_text("no run")
    (root / "empty").mkdir()
    (root / "run" / "bundles" / "readme.txt").write_text("no bundle")
    assert weighed(root, judges) == (ALL[:2], ())
    shutil.rmtree(root / "sparse")
    assert weighed(root, judges) == (ALL[:2], ())


def test_other_weights_in_the_same_place_are_another_network(root: Path, judges: Judges) -> None:
    """The run was trained anew: its bundle and its compressed run are of what it was."""
    settings = (root / "sparse" / "config.yaml").read_text()
    named = RunConfig.load(root / "sparse" / "config.yaml").compress.source
    assert named is not None
    (root / "sparse" / "config.yaml").write_text(settings.replace(named, str(root / "run")))
    shutil.copytree(root / "run" / "bundles", root / "bundles")
    shutil.rmtree(root / "run")
    train(CONFIG.changed(training={"epochs": 1, "seed": 5}), root / "run", console=QUIET)
    shutil.copytree(root / "bundles", root / "run" / "bundles")
    names, notes = weighed(root, judges)
    assert names == ALL[:1]
    assert any("run-onnx-float32.zip was left out: it is of another network" in note for note in notes)
    assert any("sparse was left out: it was made from other weights" in note for note in notes)


def test_two_bundles_of_one_kind_have_two_names(root: Path, judges: Judges) -> None:
    bundles = root / "run" / "bundles"
    shutil.copy(bundles / "run-onnx-float32.zip", bundles / "copy.zip")
    names, _ = weighed(root, judges)
    assert names == [ALL[0], "onnx float32 (copy.zip)", *ALL[1:]]


def test_a_variant_that_is_worse_in_a_declared_group_says_so(
    made: Path, judges: Judges, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle's network answers 12 images of one group otherwise: four of each of three classes."""
    labels = weighing._labels
    own = labels(next(iter(weighing._candidates(read_run(made / "run"), []))), judges.pixels)
    group = np.zeros(len(own), bool)
    for label in np.unique(own)[:3]:
        group[np.flatnonzero(own == label)[:4]] = True
    monkeypatch.setattr(
        weighing,
        "_labels",
        lambda candidate, pixels: np.where(
            group & (candidate.name == "onnx float32"), (own + 1) % 10, labels(candidate, pixels)
        ),
    )
    declared = Judges("images", judges.pixels, own, held_out=True, groups={"night": group})
    found, _ = weigh(read_run(made / "run"), declared)
    assert "group night" in found.variants[1].worse
    assert found.variants[0].worse == ()
    assert TradeOff.from_dict(json.loads(json.dumps(found.to_dict()))) == found
