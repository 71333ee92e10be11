"""A trained network as teacher of another one, in the training loop."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from convcraft.config import RunConfig
from convcraft.errors import UserError
from convcraft.tasks.classification import Classification
from convcraft.tasks.distillation import distillation_loss
from convcraft.training.devices import accelerator_of, precision_of

LOSSES = ("cross_entropy", "nll")  # read logits by softmax, as distillation does


def teacher_loss(
    teacher: nn.Module, task: Classification, config: RunConfig
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The loss of a run that distils: a `TuningHooks.loss`.

    Args:
        teacher: takes the run's images; it is moved to the run's device and frozen in evaluation mode.
        task: how labels count.

    Raises:
        UserError: a training loss whose logits are not read by softmax.
    """
    refuse_other_losses(config.training.loss)
    training, compress = config.training, config.compress
    place = accelerator_of(training.device)
    layout = torch.channels_last if training.channels_last else torch.contiguous_format
    frozen = teacher.to(place, memory_format=layout).eval().requires_grad_(False)  # type: ignore[call-overload]
    low = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision_of(training.precision, place))

    @torch.no_grad()
    def teach(images: Tensor) -> Tensor:
        with torch.autocast(place, low or torch.bfloat16, enabled=low is not None):
            logits: Tensor = frozen(images)
        return logits

    return distillation_loss(teach, task.loss, temperature=compress.temperature, weight=compress.distil_weight)


def refuse_other_losses(loss: str) -> None:
    """
    Raises:
        UserError: `training.loss` whose logits are not read by softmax.
    """
    if loss not in LOSSES:
        fix = "Leave --distil out, or train the run with training.loss: cross_entropy."
        raise UserError(f"distillation of a run with training.loss {loss}", " or ".join(LOSSES), fix)
