"""Learning from another network's answers beside the labels, or in their place.

Hinton, Vinyals, Dean 2015 (arXiv:1503.02531): the answers of both networks are softened by a temperature, so that the
small probabilities of wrong classes count; the divergence is multiplied by its square, so that gradients keep their
size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def soft_answers_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the softened answers, mean over the batch: float32 scalar, 0 where they agree.

    Args:
        logits, teacher_logits: float [B, K], read by softmax; no gradient goes to the teacher.
        temperature: T, above 0; 1 leaves the answers as they are.
    """
    student = torch.log_softmax(logits.float() / temperature, dim=1)
    teacher = torch.log_softmax(teacher_logits.detach().float() / temperature, dim=1)
    return temperature**2 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def distillation_loss(
    teach: Callable[[Tensor], Tensor],
    label_loss: Callable[[Tensor, Tensor], Tensor],
    *,
    temperature: float,
    weight: float,
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A `TuningHooks.loss`: weight parts the teacher's answers, the rest the labels.

    The teacher sees the images that the student sees, augmented and mixed, at every step: answers to other views would
    be wrong answers, and ever new views make the student match the function, not some of its values (Beyer et al. 2022,
    arXiv:2106.05237).

    Args:
        teach: images [B, C, H, W] -> teacher's logits [B, K].
        label_loss: (logits, targets) -> mean loss of the batch.
        weight: 0..1, of the teacher.
    """

    def loss(images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        from_teacher = soft_answers_loss(logits, teach(images), temperature)
        if weight == 1:
            return from_teacher
        return weight * from_teacher + (1 - weight) * label_loss(logits, targets)

    return loss
