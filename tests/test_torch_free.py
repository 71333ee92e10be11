"""A base install has no torch and no SciPy: what a saved trust is read and judged with must do without."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convcraft.evaluation.strangeness import Strangeness
from convcraft.evaluation.trust import TENSORS, TRUST, fit_trust, save_trust
from convcraft.evaluation.unknown import fit_neighbours

MODULES = (
    "convcraft.evaluation.answers",
    "convcraft.evaluation.conformal",
    "convcraft.evaluation.outputs",
    "convcraft.evaluation.reject",
    "convcraft.evaluation.strangeness",
    "convcraft.evaluation.temperature",
    "convcraft.evaluation.trust",
    "convcraft.evaluation.unknown",
    "convcraft.data.durable_files",
    "convcraft.data.given_pictures",
    "convcraft.data.preprocess",
)
# Refuses what only the train extra brings, whether or not it is installed.
BLOCK = """
import sys

ABSENT = {"torch", "torchvision", "timm", "scipy", "sklearn", "pandas", "matplotlib", "filelock", "lightning_fabric"}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ImportError(f"{name} is not part of a base install")

sys.meta_path.insert(0, Absent())
"""
JUDGE = """
import json
from pathlib import Path
import numpy as np
from convcraft.data.durable_files import read_json
from convcraft.evaluation.answers import answers_of
from convcraft.evaluation.outputs import Outputs
from convcraft.evaluation.trust import TENSORS, TRUST, load_trust, trust_from_files

run = Path(sys.argv[1])
arrays = np.load(run / "outputs.npz")
outputs = Outputs(arrays["logits"], arrays["features"])
trust = load_trust(run, "w", "p")
bundled = trust_from_files(read_json(run / TRUST), (run / TENSORS).read_bytes(), "bundle")
assert bundled.to_dict() == trust.to_dict()
names = [str(index) for index in range(len(outputs.logits))]
answers = answers_of(names, outputs, bundled, ("ant", "bee", "cat"), "cross_entropy")
print(json.dumps([answer.to_dict(top=3) for answer in answers]))
"""


def without_train_extra(script: str, *arguments: str) -> str:
    command = [sys.executable, "-c", BLOCK + script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("absent", ["torch", "scipy.special", "filelock"])
def test_the_block_holds(absent: str) -> None:
    with pytest.raises(AssertionError, match="not part of a base install"):
        without_train_extra(f"import {absent}")


def test_judging_modules_import_without_the_train_extra() -> None:
    for_each = f"import importlib\nfor name in {MODULES}: importlib.import_module(name)"
    without_train_extra(for_each)


def test_a_saved_trust_judges_without_the_train_extra(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    targets = np.arange(600) % 3
    centres = 6 * np.eye(3, 5, dtype=np.float32)
    features = (centres[targets] + random.normal(0, 1, (600, 5))).astype(np.float32)
    logits = features[:, :3] * 3
    scorer = fit_neighbours(features[:300])
    strangeness = Strangeness("nearest_neighbours", scorer, scorer.score(features[300:]), {})
    trust = fit_trust(
        logits[300:],
        targets[300:],
        loss="cross_entropy",
        weights_sha256="w",
        preprocess_sha256="p",
        strangeness=strangeness,
    )
    save_trust(tmp_path, trust)
    assert {TRUST, TENSORS} <= {file.name for file in tmp_path.iterdir()}
    shown = np.stack([centres[1], np.float32([0, 0, 0, -6, 6])])
    np.savez(tmp_path / "outputs.npz", logits=shown[:, :3] * 3, features=shown)
    known, strange = json.loads(without_train_extra(JUDGE, str(tmp_path)))
    assert (known["label"], known["set"], known["reason"]) == ("bee", ["bee"], None)
    expected = trust.temperature.probabilities(shown[:1, :3] * 3)
    assert known["probability"] == pytest.approx(float(expected[0, 1]), abs=1e-6)
    assert strange["reason"] == "unknown"
