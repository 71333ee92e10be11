"""What a fine-tuning run keeps of its comparison: proof.json, and small pictures of the images that changed sides.

The pictures are kept because the page of the run is drawn again after `evaluate`, when those images are not at hand.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convcraft.data.durable_files import read_json, replace_durably, write_json
from convcraft.data.image_set import ImageSet
from convcraft.errors import UserError
from convcraft.finetune.proof import Proof

PROOF = "proof.json"
PICTURES = "proof_pictures.npy"  # uint8 [n, h, w, C]: of the first gained images, then of the first lost
SHOWN_CHANGES = 12  # of either kind
PICTURE_PIXELS = 160  # longest side


@dataclass(frozen=True, eq=False)
class ShownProof:
    """A comparison and what its page shows: uint8 [h, w, C] for the first images gained, and for the first lost."""

    proof: Proof
    gained_pixels: NDArray[np.uint8]
    lost_pixels: NDArray[np.uint8]


def with_pictures(proof: Proof, images: ImageSet, ids: NDArray[np.int64] | None = None) -> ShownProof:
    """A comparison with pictures of the first images that changed sides.

    Args:
        images: as the networks saw them before normalisation.
        ids: int64 [N]: where each row of the comparison stands in `images`; None where the two have the same order.
    """
    num_gained = len(proof.gained[:SHOWN_CHANGES])
    changes = (*proof.gained[:SHOWN_CHANGES], *proof.lost[:SHOWN_CHANGES])
    rows = np.array([change.index for change in changes], np.int64)
    preprocess = images.preprocess
    pixels = np.empty((0, preprocess.height, preprocess.width, preprocess.channels), np.uint8)
    if len(rows):
        pixels = np.stack([_reduced(image) for image in images.pixels_of(rows if ids is None else ids[rows])])
    return ShownProof(proof, pixels[:num_gained], pixels[num_gained:])


def save_proof(run: Path, shown: ShownProof) -> None:
    """Write proof.json and its pictures into a run folder, each whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate([shown.gained_pixels, shown.lost_pixels]))
    replace_durably(run / PICTURES, buffer.getvalue())
    write_json(run / PROOF, shown.proof.to_dict())


def read_proof(run: Path) -> ShownProof | None:
    """What `save_proof` wrote; None for a run without a comparison.

    Raises:
        UserError: files that are damaged or do not belong together.
    """
    if not (run / PROOF).exists():
        return None
    proof = Proof.from_dict(read_json(run / PROOF))
    num_gained, num_lost = (len(changes[:SHOWN_CHANGES]) for changes in (proof.gained, proof.lost))
    try:
        pixels = np.load(run / PICTURES, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{run / PICTURES}: {error}", "a complete run folder", "Restore the file.") from error
    if len(pixels) != num_gained + num_lost:
        received = f"{run / PICTURES} has {len(pixels)} pictures"
        raise UserError(received, f"{num_gained + num_lost}, as {PROOF} says", "Restore both files.")
    return ShownProof(proof, pixels[:num_gained], pixels[num_gained:])


def _reduced(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [h, w, C] of at most PICTURE_PIXELS a side."""
    if max(pixels.shape[:2]) <= PICTURE_PIXELS:
        return pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    return np.asarray(image).reshape(image.height, image.width, pixels.shape[2])
