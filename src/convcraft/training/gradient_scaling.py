"""float16 gradients: scaled up before they underflow, scaled down before they move a weight.

float16 ends at 6e-8 below and 65,504 above. The loss is multiplied by a power of two, gradients come out as many times
larger, and are divided again before the step. Where one overflows, the step is left out and the scale halved; after
many good steps it is doubled (Micikevicius et al. 2018, "Mixed precision training", arXiv:1710.03740). So infinite
gradients are part of the method, and only a scale that keeps falling is an error. Fabric holds the scaler; bfloat16 and
float32 have none.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning_fabric import Fabric
from torch.amp import GradScaler

from convcraft.training.stops import NonFinite

# From the start scale, 2^16, twenty-six overflows in a row lead here: no number of the network's fits any more.
SMALLEST_SCALE = 2.0**-10


def scaler_of(fabric: Fabric) -> GradScaler | None:
    """The scaler that Fabric's backward and step go through, where the precision needs one."""
    scaler: GradScaler | None = getattr(fabric.strategy.precision, "scaler", None)
    return scaler


def clip_gradients(fabric: Fabric, optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    """Shorten the gradient of all parameters together to at most max_norm.

    Scaled gradients are brought back to their true size first, and the step that follows knows. (Fabric's own clipping
    refuses the fused optimisers here.)

    Args:
        optimizer: the plain one, not Fabric's wrapper.
    """
    scaler = scaler_of(fabric)
    if scaler is not None:
        scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], max_norm)


def check_scale(fabric: Fabric) -> None:
    """After a step.

    Raises:
        NonFinite: gradients overflow however far they are scaled down.
    """
    scaler = scaler_of(fabric)
    if scaler is not None and scaler.get_scale() < SMALLEST_SCALE:
        raise NonFinite("gradients are not finite at any scale of the loss")


def state_of(fabric: Fabric) -> dict[str, Any] | None:
    """Scale and count of good steps, for the checkpoint; None where nothing is scaled."""
    scaler = scaler_of(fabric)
    return None if scaler is None else scaler.state_dict()


def load_state(fabric: Fabric, state: dict[str, Any] | None) -> None:
    """Put back what `state_of` gave."""
    scaler = scaler_of(fabric)
    if scaler is not None and state is not None:
        scaler.load_state_dict(state)
