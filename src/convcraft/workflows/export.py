"""`convcraft export`: a run becomes bundles that answer as it does, or refuse to be made."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from convcraft.deploy.archive import write_folder, write_zip
from convcraft.deploy.bundle import MANIFEST
from convcraft.deploy.compress.gate import VariantJudged
from convcraft.deploy.export_network import ExportNetwork
from convcraft.deploy.formats.catalogue import find_format
from convcraft.deploy.formats.form import Format
from convcraft.deploy.make_bundle import MadeBundle, Source, make_bundle
from convcraft.deploy.parity import Parity
from convcraft.deploy.predictor import remember_made
from convcraft.deploy.probes import Picture, made_pictures
from convcraft.errors import UserError
from convcraft.evaluation.trade_off import TradeOff
from convcraft.evaluation.trust import TENSORS, TRUST, load_trust
from convcraft.evaluation.unknown import NearestNeighbours
from convcraft.training.run_folder import ResultWeights, RunDescription, read_run, read_summary
from convcraft.workflows.console import data_progress
from convcraft.workflows.evaluate_options import Asked
from convcraft.workflows.export_images import ExportImages, export_images, picture_of
from convcraft.workflows.load_model import load_model
from convcraft.workflows.model_card import model_card
from convcraft.workflows.weigh import BUNDLES, weigh

NUM_PROBES = 16
PROBES = ("made", "data")
FLOAT32_GROUPS = (
    "float32 is held to 1e-4 of the range of its logits, image by image; declared groups count in lower precision."
)


@dataclass(frozen=True)
class ExportAs:
    """A format in a precision: "onnx", "openvino:int8"."""

    form: Format
    precision: str

    @property
    def label(self) -> str:
        return f"{self.form.name}-{self.precision}"


@dataclass(frozen=True)
class Exported:
    """One bundle. bytes: of the model files; of the whole bundle. tolerance: what its probes may be off at load."""

    path: Path
    variant: ExportAs
    parity: Parity
    model_bytes: int
    bundle_bytes: int
    tolerance: float
    gate: VariantJudged | None = None
    kept: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "bundle": str(self.path),
            "format": self.variant.form.name,
            "precision": self.variant.precision,
            "parity": self.parity.to_dict(),
            "model_bytes": self.model_bytes,
            "bundle_bytes": self.bundle_bytes,
            "tolerance": self.tolerance,
            "gate": None if self.gate is None else self.gate.to_dict(),
            "kept_in_floating_point": list(self.kept),
        }


@dataclass(frozen=True)
class ExportResult:
    run: Path
    exported: tuple[Exported, ...]
    trade_off: TradeOff | None
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "run": str(self.run),
            "bundles": [exported.to_dict() for exported in self.exported],
            "trade_off": None if self.trade_off is None else self.trade_off.to_dict(),
            "notes": list(self.notes),
            "problems": list(self.problems),
            "seconds": self.seconds,
        }


def parse_variants(formats: Sequence[str], precision: str | None) -> tuple[ExportAs, ...]:
    """
    Args:
        formats: "onnx", or with a precision "openvino:int8". precision: of those that name none.

    Raises:
        UserError: an unknown format, a precision that it has not, or one twice.
    """
    variants: list[ExportAs] = []
    for given in formats:
        name, _, own = given.partition(":")
        form = find_format(name)
        wanted = own or precision or form.precisions[0]
        if wanted not in form.precisions:
            fix = f"For example: --format {form.name}:{form.precisions[0]}"
            raise UserError(f"{form.name} in {wanted!r}", f"one of {', '.join(form.precisions)}", fix)
        variant = ExportAs(form, wanted)
        if variant in variants:
            raise UserError(f"{variant.label} twice", "each variant once", "Leave one out.")
        variants.append(variant)
    return tuple(variants)


def export(
    run: Path,
    variants: Sequence[ExportAs],
    *,
    out: Path | None = None,
    as_zip: bool = True,
    probes: str = "made",
    normalises: bool = False,
    asked: Asked | None = None,
    weighs: bool = True,
    console: Console,
) -> ExportResult:
    """Write a run's network as bundles, each compared with it on images that are no test images.

    Args:
        out: a folder for the bundles; None: RUN/bundles.
        as_zip: one zip per bundle, or a folder.
        probes: "made": drawings; "data": images of the run's own data, which then travel with the bundle.
        normalises: the network takes uint8 pixels [B, H, W, C] and normalises by itself.
        asked: `slice_columns` and `class_groups` that the gate of lower precision judges beside the classes.
        weighs: afterwards all variants of the run are judged and timed beside each other (`weigh`).

    Raises:
        UserError: no finished run, images that are needed and gone, groups that do not fit them, a format that cannot
            carry the network, a place that cannot be written, or a bundle that is there already.
    """
    started = time.monotonic()
    if probes not in PROBES:
        raise UserError(f"probes {probes!r}", "made or data", "made needs no images of yours.")
    description = read_run(run)
    read_summary(run)
    model, weights = load_model(description)
    folder = out or run / BUNDLES
    places = [folder / f"{run.resolve().name}-{variant.label}{'.zip' if as_zip else ''}" for variant in variants]
    _refuse_taken(folder, places)
    exported: list[Exported] = []
    failed: list[tuple[ExportAs, UserError]] = []
    with data_progress(console) as progress:
        images = export_images(description, progress, asked)
        _refuse_missing(images, variants, probes, asked is not None and asked.has_slices, run)
        source, notes = _source(description, model, weights, normalises)
        if images.judges is not None and images.judges.groups and all(v.precision == "float32" for v in variants):
            notes = (*notes, FLOAT32_GROUPS)
        pictures = _pictures(description, images, probes)
        for done, (variant, place) in enumerate(zip(variants, places, strict=True)):
            progress(done, len(variants), "exporting")
            try:
                made = make_bundle(source, variant.form, variant.precision, pictures, images.judges, images.calibration)
            except UserError as error:
                failed.append((variant, error))
                continue
            folder.mkdir(parents=True, exist_ok=True)
            (write_zip if as_zip else write_folder)(place, made.files)
            remember_made(place)
            exported.append(_described(place, variant, made))
        progress(len(variants), len(variants), "exporting")
        if failed and not exported:
            raise failed[0][1]
        weighed = None
        if weighs and images.judges is not None and out is None:  # elsewhere, the run's page does not know of them
            weighed, left_out = weigh(description, images.judges, progress)
            notes = (*notes, *left_out)
    problems = tuple(f"{variant.label} was not made: {error.received}" for variant, error in failed)
    return ExportResult(run, tuple(exported), weighed, (*images.notes, *notes), problems, time.monotonic() - started)


def _refuse_taken(folder: Path, places: Sequence[Path]) -> None:
    """Before minutes of work: a folder that cannot be made or written to, and bundles that are there already."""
    nearest = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        why = "may not be written to" if nearest.is_dir() else "is no folder"
        raise UserError(f"--out {folder}: {nearest} {why}", "a folder to write bundles to", "Choose another --out.")
    for place in places:
        if place.exists():
            raise UserError(f"{place} is there already", "a new name", "Remove it, or choose another --out.")


def _refuse_missing(images: ExportImages, variants: Sequence[ExportAs], probes: str, grouped: bool, run: Path) -> None:
    """Ranges for int8, probes of real images and declared groups come from the run's data."""
    needing = [variant.label for variant in variants if variant.precision == "int8"]
    needing += ["--probes data"] if probes == "data" else []
    needing += ["declared groups"] if grouped else []
    if needing and images.judges is None:
        received = f"{', '.join(needing)} without the data of {run}"
        raise UserError(received, "the run's own images", "Put the data back, or leave that out.")


def _source(
    run: RunDescription, model: nn.Module, weights: ResultWeights, normalises: bool
) -> tuple[Source, tuple[str, ...]]:
    """With the run's trust; its notes say what could not be taken along."""
    trust = load_trust(run.folder, weights.sha256, run.preprocess.hash())
    files = {name: (run.folder / name).read_bytes() for name in (TRUST, TENSORS) if (run.folder / name).exists()}
    notes: tuple[str, ...] = ()
    if trust is None:
        files = {}
        notes = ("The run has no trust.json: the bundle's probabilities are not calibrated, and nothing is rejected.",)
    elif isinstance(trust.scorer, NearestNeighbours):
        notes = ("Features of train images travel with the bundle: strangeness is the distance from them.",)
    network = ExportNetwork(
        model,
        run.preprocess,
        features=trust is not None and trust.needs_features,
        normalises=normalises,
        made_by=run.config.model,
    )
    about = {"network": run.config.model.name, "recipe": run.config.recipe, "data": run.data["name"]}
    source = Source(
        name=run.folder.resolve().name,
        network=network,
        classes=run.classes,
        loss=run.config.training.loss,
        weights_sha256=weights.sha256,
        trust=files,
        about=about,
        card=model_card(run, trust),
    )
    return source, notes


def _pictures(run: RunDescription, images: ExportImages, probes: str) -> tuple[Picture, ...]:
    if probes == "made" or images.judges is None:
        return made_pictures(run.preprocess.height, run.preprocess.width)
    return tuple(
        picture_of(pixels, f"image_{at:02d}.png") for at, pixels in enumerate(images.judges.pixels[:NUM_PROBES])
    )


def _described(place: Path, variant: ExportAs, made: MadeBundle) -> Exported:
    sizes = {name: len(content) for name, content in made.files.items()}
    written = place.stat().st_size if place.is_file() else sum(sizes.values())
    assert MANIFEST in sizes
    return Exported(
        place,
        variant,
        made.parity,
        sum(sizes[name] for name in variant.form.files),
        written,
        made.tolerance,
        made.gate,
        made.kept,
    )
