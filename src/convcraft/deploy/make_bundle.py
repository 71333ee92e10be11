"""A network, its contract and its trust become the files of a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from convcraft.data.durable_files import json_bytes
from convcraft.data.preprocess import Preprocess
from convcraft.deploy.bundle import (
    CARD,
    CLASSES,
    EXACT,
    EXPECTED,
    LARGEST_TOLERANCE,
    MANIFEST,
    PARITY,
    PREPROCESS,
    VERSION,
    Manifest,
    ProbeEntry,
    described,
)
from convcraft.deploy.compress.gate import VariantJudged
from convcraft.deploy.export_network import ExportNetwork
from convcraft.deploy.export_trust import trust_fitted_again
from convcraft.deploy.formats.form import FEATURES, LOGITS, Format, Runtime
from convcraft.deploy.gated_files import TOO_FAR_OFF, gated_files
from convcraft.deploy.judges import Judges, session_outputs, source_outputs
from convcraft.deploy.machine import versions
from convcraft.deploy.parity import Parity, compare_logits
from convcraft.deploy.privacy import refuse_private
from convcraft.deploy.probe_check import feature_differences
from convcraft.deploy.probes import FOLDER, Picture, pixels_sha256
from convcraft.errors import UserError
from convcraft.evaluation.outputs import Outputs

THIS_NETWORK, SOURCE = "this network", "the float32 network"  # whose answers the trust was fitted on
ROOM = 1.5  # times what was measured: another processor rounds low precision in another way


@dataclass(frozen=True, eq=False)
class Source:
    """What is exported.

    network: of the run, in evaluation mode, on the CPU. loss: that it was trained by. trust: files as the run has them.
    about: for people, goes into the manifest. card: MODEL_CARD.md.
    """

    name: str
    network: ExportNetwork
    classes: tuple[str, ...]
    loss: str
    weights_sha256: str
    trust: Mapping[str, bytes]
    about: Mapping[str, Any]
    card: str

    @property
    def preprocess(self) -> Preprocess:
        return self.network.preprocess


@dataclass(frozen=True, eq=False)
class MadeBundle:
    """files: of the bundle, with bundle.json. parity: on real images, or on the probes where there were none.

    gate: class by class against the source, in lower precision than float32; None without images. kept: layers that
    int8 left in floating point so that the gate passes.
    """

    files: dict[str, bytes]
    parity: Parity
    tolerance: float
    gate: VariantJudged | None
    kept: tuple[str, ...]


def make_bundle(
    source: Source,
    form: Format,
    precision: str,
    pictures: Sequence[Picture],
    judges: Judges | None,
    calibration: NDArray[np.uint8],
) -> MadeBundle:
    """Write the network in a format, run it there, and hold it against the source.

    Args:
        pictures: the probes. judges: None: compared on the probes alone.
        calibration: uint8 [N, H, W, C], on which int8 measures the ranges of activations.

    Raises:
        UserError: float32 that is not the source's within 1e-4 of the logit range, or low precision that is far off, or
            that makes a class worse.
    """
    network = source.network
    probes = np.stack([source.preprocess.pixels(picture.content) for picture in pictures])
    before = None if judges is None else source_outputs(network, judges.pixels)
    gated = gated_files(network, form, precision, source.classes, judges, before, network.inputs_of(calibration))
    model = gated.files
    form.check(model)
    session = form.open(model, precision, Runtime())
    expected = source_outputs(network, probes)
    got = session_outputs(session, network, probes)
    on_probes = compare_logits(expected.logits, got.logits, f"{len(probes)} probes")
    tolerance = _tolerance(form, precision, expected, got, on_probes)
    parity, trust, trust_of = on_probes, source.trust, SOURCE
    if judges is not None and before is not None:
        after = session_outputs(session, network, judges.pixels)
        parity = compare_logits(before.logits, after.logits, judges.name, judges.targets, source.classes)
        if precision != "float32" and judges.held_out and trust:
            trust, trust_of = trust_fitted_again(trust, after, judges.targets), THIS_NETWORK
    files = {
        **model,
        **trust,
        CLASSES: json_bytes(list(source.classes)),
        PREPROCESS: json_bytes(source.preprocess.as_dict()),
        PARITY: json_bytes(
            {
                "real": parity.to_dict() if judges is not None else None,
                "probes": on_probes.to_dict(),
                "trust": trust_of if trust and precision != "float32" else THIS_NETWORK,
                "gate": None if gated.gate is None else gated.gate.to_dict(),
                "kept_in_floating_point": list(gated.kept),
            }
        ),
        CARD: source.card.encode(),
        EXPECTED: save(_expected(expected)),
        **{f"{FOLDER}/{picture.name}": picture.content for picture in pictures},
    }
    labels = [source.classes[label] for label in expected.logits.argmax(axis=1)]
    manifest = Manifest(
        version=VERSION,
        name=source.name,
        format=form.name,
        precision=precision,
        normalises=network.normalises,
        loss=source.loss,
        weights_sha256=source.weights_sha256,
        preprocess_sha256=source.preprocess.hash(),
        tolerance=tolerance,
        probes=tuple(
            ProbeEntry(file=f"{FOLDER}/{picture.name}", pixels_sha256=pixels_sha256(pixels), label=label)
            for picture, pixels, label in zip(pictures, probes, labels, strict=True)
        ),
        source=dict(source.about),
        made_with=versions(form.package, "torch", "timm"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        files=described(files),
    )
    refuse_private({MANIFEST: manifest.to_bytes(), **files})
    return MadeBundle({MANIFEST: manifest.to_bytes(), **files}, parity, tolerance, gated.gate, gated.kept)


def _tolerance(form: Format, precision: str, expected: Outputs, got: Outputs, parity: Parity) -> float:
    """How far logits and features may be off at load, as a share of the logit range and of the features' length."""
    for outputs in (expected, got):
        arrays = [outputs.logits] if outputs.features is None else [outputs.logits, outputs.features]
        if not all(np.isfinite(array).all() for array in arrays):
            received = f"{form.name} in {precision}: the network answers a probe with NaN or infinity"
            raise UserError(received, "finite logits and features", "Train again; check the weights for NaN.")
    found, part = parity.relative_difference, "logit range"
    if expected.features is not None and got.features is not None:
        of_features = float(feature_differences(expected.features, got.features).max())
        found, part = max((found, part), (of_features, "features' length, twice"))
    what = f"{form.name} in {precision}"
    if precision == "float32":
        if not found <= EXACT:
            received = f"{what} differs from the run's network by {found:.2g} of the {part}"
            raise UserError(received, f"at most {EXACT:g}", "Choose another format; this one cannot carry the network.")
        return EXACT
    tolerance = max(EXACT, ROOM * found)
    if not tolerance <= LARGEST_TOLERANCE:
        received = f"{what} differs from the run's network by {found:.0%} of the {part} on the probes"
        raise UserError(received, f"at most {LARGEST_TOLERANCE / ROOM:.0%}", TOO_FAR_OFF)
    return tolerance


def _expected(outputs: Outputs) -> dict[str, NDArray[np.float32]]:
    found = {LOGITS: np.ascontiguousarray(outputs.logits)}
    return found if outputs.features is None else {**found, FEATURES: np.ascontiguousarray(outputs.features)}
