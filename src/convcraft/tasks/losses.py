"""What a mistake costs, beside torch's own cross-entropy: losses of one interface, from logits.

Every function takes logits float32 [B, K], targets float32 [B, K] (rows sum to 1: one-hot, smoothed or mixed) and
gives one loss per image, float32 [B]. None takes probabilities: each applies its own softmax or sigmoid, in a form
that bears large logits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """One classifier per class against all others, through a sigmoid; mean over the classes.

    Wightman et al. 2021 (arXiv:2110.00476) train ResNet-50 with it: under mixing, an image may be fully of two classes.
    """
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)


def squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Distance of the logits themselves from the labels, mean over the classes (Hui & Belkin 2020, arXiv:2006.07322).

    No softmax: the network learns to answer with 1 for the class and 0 for the others.
    """
    return (logits - targets).square().mean(dim=1)


def negative_log_likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy written out: log-softmax, then the negative log-likelihood. The same numbers but for rounding.

    In torch the two differ in what they take (`cross_entropy` logits, `nll_loss` log-probabilities), and networks that
    end in a log-softmax are fed to the wrong one. Here both take logits, so the name is kept for those who look for it.
    """
    return -(targets * torch.log_softmax(logits, dim=1)).sum(dim=1)


LOSS_FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nll": negative_log_likelihood,
    "bce": binary_cross_entropy,
    "mse": squared_error,
}


def as_distribution(targets: Tensor, num_classes: int) -> Tensor:
    """Labels int64 [B] as one-hot rows; mixed labels float32 [B, K] as they are."""
    if targets.ndim == 2:
        return targets
    return functional.one_hot(targets, num_classes).to(torch.float32)
