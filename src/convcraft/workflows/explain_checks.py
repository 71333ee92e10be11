"""Whether heat maps of a method may be believed for one run: checked once, then remembered in the run folder.

RUN/explain_checks.json holds what was found, by the weights' SHA-256, the method, the layer and the seed. Checks on the
run's own images are remembered; one on a handful of given pictures speaks of these alone and is made anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from convcraft import __version__
from convcraft.data.durable_files import write_json
from convcraft.explain.deletion import Method
from convcraft.explain.trust import check

CHECKS = "explain_checks.json"
STEPS = 10  # of the deletion curves, each a forward pass per image


@dataclass(frozen=True)
class MethodCheck:
    """What the checks say of one method.

    verdict: trusted, unproven or broken (`explain.trust.Trust.verdict`).
    sentence: the finding in plain words.
    images: on what it was checked, in words.
    win_share, win_interval: of the images, on how many the maps beat a blob in the centre; 95 % interval.
    rank_correlation: of the maps with those of a network of random weights, 0 to 1.
    """

    verdict: str
    sentence: str
    images: str
    win_share: float
    win_interval: tuple[float, float]
    rank_correlation: float

    @property
    def trusted(self) -> bool:
        return self.verdict == "trusted"

    @property
    def warning(self) -> str | None:
        """What must stand beside the maps, or None."""
        return None if self.trusted else f"{self.sentence} Checked on {self.images}."


@dataclass(frozen=True)
class CheckImages:
    """What methods are checked on.

    images: float32 [N, C, H, W], normalised. targets: int64 [N]. words: which images they are.
    lasting: whether they are the run's own, so that the finding is worth remembering.
    """

    images: Tensor
    targets: Tensor
    words: str
    lasting: bool


def run_check(method: Method, model: nn.Module, on: CheckImages, *, loss: str, seed: int) -> MethodCheck:
    """Deletion against the centre blob, and randomised weights. The model stays as it was.

    Args:
        loss: `training.loss` of the run.
        seed: of the random weights.
    """
    trust = check(method, model, on.images, on.targets, steps=STEPS, loss=loss, seed=seed)
    correlation = trust.sanity.stages[-1].correlation
    return MethodCheck(trust.verdict, trust.sentence, on.words, trust.wins.share, trust.wins.interval, correlation)


class RememberedChecks:
    """The checks of one run's result weights, as far as they were made before."""

    def __init__(self, run: Path, weights_sha256: str) -> None:
        self._path, self._weights = run / CHECKS, weights_sha256

    def find(self, method: str, layer: str | None, seed: int) -> MethodCheck | None:
        """The finding of this version of convcraft, or None. A file that cannot be read counts as absent."""
        entry = self._entries().get(self._key(method, layer, seed))
        if not isinstance(entry, dict):
            return None
        try:
            return MethodCheck(**{**entry, "win_interval": tuple(entry["win_interval"])})
        except (TypeError, KeyError):  # not what this version writes
            return None

    def add(self, method: str, layer: str | None, seed: int, found: MethodCheck) -> None:
        """Keep a finding. A run folder that cannot be written to keeps none, and the next call checks again."""
        entries = {**self._entries(), self._key(method, layer, seed): dataclasses.asdict(found)}
        with contextlib.suppress(OSError):
            write_json(self._path, {"version": __version__, "checks": entries})

    def _key(self, method: str, layer: str | None, seed: int) -> str:
        return f"{self._weights} {method} {layer or 'pixels'} seed {seed} steps {STEPS}"

    def _entries(self) -> Mapping[str, Any]:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        fits = isinstance(content, dict) and content.get("version") == __version__
        entries = content.get("checks") if fits else None
        return entries if isinstance(entries, dict) else {}
