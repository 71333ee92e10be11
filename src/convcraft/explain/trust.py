"""Whether a heat map may be believed, for this network and these images, in a number and a sentence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from convcraft.explain.centre_blob import Wins, centre_blob, share_of_wins
from convcraft.explain.deletion import Method, deletion_curves
from convcraft.explain.sanity import Sanity, randomise_weights

SANITY_IMAGES = 8  # the rank correlation differs little from image to image, and each costs several maps


@dataclass(frozen=True)
class Trust:
    """What two checks say of a method.

    wins: against a blob in the centre, by the area under the deletion curve.
    sanity: whether the maps depend on the weights.
    """

    wins: Wins
    sanity: Sanity

    @property
    def verdict(self) -> str:
        """trusted, unproven (too few images to tell, or no better than the blob), or broken (not about this network).

        Trusted needs both: maps that depend on the weights, and an interval of wins that lies above one half.
        """
        if not self.sanity.passed:
            return "broken"
        return "trusted" if self.wins.interval[0] > 0.5 else "unproven"

    @property
    def trusted(self) -> bool:
        """Where it is False, a picture made by the method should come with `sentence`."""
        return self.verdict == "trusted"

    @property
    def sentence(self) -> str:
        """What was found, in plain words."""
        wins, (low, high) = self.wins, self.wins.interval
        correlation = self.sanity.stages[-1].correlation
        if not self.sanity.passed:
            return (
                f"Do not believe these maps: with random weights they look much the same (rank correlation "
                f"{correlation:.2f}), so they show the image, or a habit of the method, not what was learned."
            )
        measured = f"{wins.share:.0%} of {wins.num_images} images (95 % interval {low:.0%} to {high:.0%})"
        depends = f"and they change with the network's weights (rank correlation {correlation:.2f} with random ones)"
        if low > 0.5:
            return f"These maps find what the network uses better than a blob in the centre on {measured}, {depends}."
        if high < 0.5:
            return (
                f"Do not rely on these maps: a blob in the centre finds what the network uses better; they win on "
                f"{measured} only."
            )
        return (
            f"Read these maps with care: they beat a blob in the centre on {measured}, which may be chance, {depends}."
        )


def check(
    method: Method,
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    fill: str = "blur",
    steps: int = 20,
    loss: str = "cross_entropy",
    seed: int = 0,
) -> Trust:
    """Put a method to two tests: deletion against the centre blob, and randomised weights.

    The model stays as it was, as far as the method leaves it alone. It costs one map of each image and two of at most
    SANITY_IMAGES more, and 2 (steps + 1) forward passes per image.

    Args:
        method: gives heat [B, H, W] of (model, images, targets).
        images: float32 [B, C, H, W], normalised as for the model; at least a dozen, of which the network gets the
            class right: what a wrong answer rests on is another question.
        targets: int64 [B], the classes that the maps explain.
        fill, steps, loss: as for `deletion_curves`.
        seed: of the random weights.

    Raises:
        UserError: arguments that do not fit each other, or maps that are not finite.
    """
    ours, theirs = (
        deletion_curves(model, images, targets, heat, fill=fill, steps=steps, loss=loss).areas
        for heat in (method(model, images, targets), centre_blob(model, images, targets))
    )
    # Spread over all of them: images often come sorted by class.
    few = np.unique(np.linspace(0, len(images) - 1, SANITY_IMAGES).round().astype(np.int64))
    sanity = randomise_weights(method, model, images[few], targets[few], num_stages=1, seed=seed)
    return Trust(share_of_wins(ours, theirs), sanity)
