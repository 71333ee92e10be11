"""A network's files in a format, let through only where no class and no declared group pays for the lower precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convcraft.deploy.compress.gate import VariantJudged, judge_variant
from convcraft.deploy.compress.repair import repair
from convcraft.deploy.compress.rounding import layer_sensitivity
from convcraft.deploy.export_network import ExportNetwork
from convcraft.deploy.formats.form import Format, Runtime
from convcraft.deploy.judges import Judges, session_outputs
from convcraft.errors import UserError
from convcraft.evaluation.outputs import Outputs

TOO_FAR_OFF = "Choose a higher precision, or train the network for it: convcraft compress RUN --int8."


@dataclass(frozen=True, eq=False)
class GatedFiles:
    """files: of the model. gate: None in float32, which is held to 1e-4 instead, and where there were no images.

    kept: layers that int8 left in floating point.
    """

    files: dict[str, bytes]
    gate: VariantJudged | None = None
    kept: tuple[str, ...] = ()


def gated_files(
    network: ExportNetwork,
    form: Format,
    precision: str,
    classes: tuple[str, ...],
    judges: Judges | None,
    before: Outputs | None,
    calibration: NDArray[np.generic],
) -> GatedFiles:
    """Write the network; in lower precision, judge each class and group against the source, and in int8 mend a failure.

    Args:
        before: what the source says of the judges' images; None where there are none.

    Raises:
        UserError: a class or group is shown to be worse, and giving layers back did not help. The table is part of
            the message.
    """
    if judges is None or before is None or precision == "float32":
        return GatedFiles(form.write(network, calibration, precision))
    images, called = judges, before.logits.argmax(axis=1)

    def judge(files: dict[str, bytes]) -> VariantJudged:
        session = form.open(files, precision, Runtime())
        after = session_outputs(session, network, images.pixels).logits.argmax(axis=1)
        return judge_variant(called, after, images.targets, images.groups, classes=classes)

    if precision == "int8" and form.quantiser is not None:
        mended = repair(
            form.quantiser(network, calibration),
            lambda: [layer.name for layer in layer_sensitivity(network, calibration)],
            judge,
        )
        found = GatedFiles(mended.files, mended.verdict, mended.kept)
    else:
        files = form.write(network, calibration, precision)
        found = GatedFiles(files, judge(files))
    if found.gate is not None and not found.gate.passed:
        raise UserError(
            _rejected(form, precision, found.gate), "no class or group that pays for the lower precision", TOO_FAR_OFF
        )
    return found


def _rejected(form: Format, precision: str, gate: VariantJudged) -> str:
    widths = [max(map(len, column)) for column in zip(*gate.table, strict=True)]
    rows = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in gate.table
    ]
    reasons = " ".join(sentence for sentence in gate.sentences if sentence.startswith("Failed"))
    return "\n".join([f"{form.name} in {precision}. {reasons}", *rows])
