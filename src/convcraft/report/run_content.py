"""What the page of a run is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.data.sample import Finding
from convcraft.evaluation.agreement import Agreement
from convcraft.evaluation.attack_curves import AttackReport
from convcraft.evaluation.metrics import Mistake, Report
from convcraft.evaluation.reliability_diagram import ReliabilityDiagram
from convcraft.evaluation.robustness import CorruptionReport, Curve, FlipReport
from convcraft.evaluation.slices import SliceReport
from convcraft.evaluation.trade_off import TradeOff
from convcraft.finetune.proof_files import ShownProof
from convcraft.finetune.record import TuningRecord
from convcraft.report.cell_pictures import Cells
from convcraft.report.text import count

SPLIT_NAMES = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header; shown as they are."""

    header: Sequence[object]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class DataFacts:
    """classes: K names. class_counts: for each split ("train", "val", "test") K numbers of images."""

    classes: Sequence[str]
    class_counts: Mapping[str, Sequence[int]]
    findings: Sequence[Finding] = ()


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """image: uint8 [H, W, C], as the model saw it. maps: float32 [C', h, w], signed, from `first_layer_maps`."""

    image: NDArray[np.uint8]
    maps: NDArray[np.float32]
    layer: str
    class_name: str


@dataclass(frozen=True, eq=False)
class Heat:
    """Heat over the mistakes. maps: float32 [n, h, w] in 0..1, one per mistake, or None with the reason in `note`.

    note: what the check of the method found, or why there are no maps.
    believed: False where the check found that they are not about this network: then they show only when asked for.
    """

    method: str
    maps: NDArray[np.float32] | None
    note: str = ""
    believed: bool = True


@dataclass(frozen=True, eq=False)
class FeaturePlaces:
    """Where images lie in the space of the last features.

    planes: float64 [n, 2] by name of the projection. targets, labels: int64 [n]. names: n.
    note: what was done with which images.
    """

    planes: Mapping[str, NDArray[np.float64]]
    targets: NDArray[np.int64]
    labels: NDArray[np.int64]
    names: Sequence[str]
    note: str = ""


@dataclass(frozen=True)
class ModelCard:
    """What a model is for, by what is known of it. Entries that nobody has stated are said to be unknown.

    data: name of the data. weights_source, weights_licence: of the weights that training began with; None: unknown.
    from_scratch: whether it began with random weights. preprocessing: rows (what, value).
    """

    data: str
    from_scratch: bool
    weights_source: str | None = None
    weights_licence: str | None = None
    preprocessing: Sequence[tuple[str, object]] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class ReportContent:
    """What a page is made from. Parts that are None or empty are left out of it.

    title: of the page. summary: rows (what, value), such as model, parameters, seed, time, hardware.
    records: of metrics.jsonl: "event" ("train" or "val"), "epoch", "step", "loss", "accuracy", "learning_rate".
    evaluation: of `split`; mistakes: from `top_losses`, mistake_pixels: one uint8 [H, W, C] for each of them.
    split_note: a sentence beside the accuracy. void: why the figures say too much.
    cells: the images behind the confusion matrix. reliability: diagrams by name ("as the network says", "calibrated").
    trust: `to_dict` of what is said of single predictions. comparisons, tuning: of a fine-tuned run.
    compared: with other sets of predictions. curves: turned, shifted, zoomed and mirrored images.
    trade_off: what the run was made into.
    model: table of the network's layers. environment: rows (what, value). config_yaml: the settings as text.
    reproduce: command lines.
    """

    title: str
    summary: Sequence[tuple[str, object]] = ()
    data: DataFacts | None = None
    model: Table | None = None
    records: Sequence[Mapping[str, Any]] = ()
    evaluation: Report | None = None
    split: str = "test"
    split_note: str = ""
    void: Sequence[str] = ()
    comparisons: Sequence[ShownProof] = ()
    tuning: TuningRecord | None = None
    mistakes: Sequence[Mistake] = ()
    mistake_pixels: NDArray[np.uint8] | Sequence[NDArray[np.uint8]] = field(default=())
    heat: Heat | None = None
    cells: Cells | None = None
    reliability: Mapping[str, ReliabilityDiagram] = field(default_factory=dict)
    trust: Mapping[str, Any] | None = None
    slices: SliceReport | None = None
    robustness: CorruptionReport | None = None
    attacks: AttackReport | None = None
    curves: Sequence[Curve | FlipReport] = ()
    compared: Sequence[Agreement] = ()
    trade_off: TradeOff | None = None
    places: FeaturePlaces | None = None
    feature_maps: FeatureMaps | None = None
    card: ModelCard | None = None
    environment: Sequence[tuple[str, object]] = ()
    config_yaml: str = ""
    reproduce: Sequence[str] = ()

    @property
    def split_name(self) -> str:
        return SPLIT_NAMES.get(self.split, self.split)

    @property
    def measured_on(self) -> str:
        """ "360 images of the test split"."""
        images = 0 if self.evaluation is None else self.evaluation.num_images
        return f"{count(images, 'image')} of the {self.split_name} split"
