"""Where fine-tuning and compression reach into the loop: five places, empty unless asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class TuningHooks:
    """What happens besides batch -> logits -> loss -> backward -> step.

    before_epoch: called with the epoch (0 is the first) when the network has been put into training mode, also after a
        resume in the middle of that epoch: it must follow from the epoch alone.
    perturb: (images, targets) -> images of the same shape, just before the forward pass.
    before_step: called when all gradients of a step are there, before they are clipped; may change them.
    loss: (images, logits, targets) -> mean loss of the batch, in place of the task's.
    after_step: called with the number of optimiser steps done; may change the weights. Like all hooks it must follow
        from weights and step alone, so that a run that was stopped goes on exactly.
    """

    before_epoch: Callable[[int], None] | None = None
    perturb: Callable[[Tensor, Tensor], Tensor] | None = None
    before_step: Callable[[], None] | None = None
    loss: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    after_step: Callable[[int], None] | None = None
