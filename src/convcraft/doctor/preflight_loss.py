"""What a loss takes, and where outputs and labels do not meet it: the last step before the loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from convcraft.config import LOSSES
from convcraft.data.sample import Finding
from convcraft.doctor.preflight_finding import error, has_error, info, times, warning
from convcraft.doctor.preflight_trace import LossFunction, Trace, label
from convcraft.errors import UserError, first_line
from convcraft.models.output_check import SQUASHING, kind_of_values, loss_floor
from convcraft.tasks.classification import Classification

LOGITS, PROBABILITIES, LOG_PROBABILITIES = "logits", "probabilities", "log-probabilities"
INDICES, ROWS = "indices", "rows"

# Steps of autograd that move numbers and change none: what stands before them is the network's last step.
PASSES_ON = {"ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "SqueezeBackward0", "SqueezeBackward1"}
PASSES_ON |= {"UnsqueezeBackward0", "TransposeBackward0", "PermuteBackward0", "ToCopyBackward0", "CloneBackward0"}

MANY_LABELS = 32  # from so many labels on, they say something about the classes
OTHER_HEAD = 2  # a head of more than this many times the classes seen was made for other classes
FAR_OFF = 20.0  # a first loss of more than this many times that of equal scores


@dataclass(frozen=True)
class LossKind:
    """A loss as the checks see it.

    wants: logits, probabilities or log-probabilities; None where any number will do or nothing is known.
    labels: "indices" (int64 [B]) or "rows" (as large as the outputs); None where nothing is known.
    softmax: whether it is a cross-entropy over all classes, with softmax's floor.
    ignored: a label that the loss passes over.
    """

    name: str
    function: LossFunction
    wants: str | None = None
    labels: str | None = None
    softmax: bool = False
    ignored: int | None = None


_Known = tuple[str | None, str | None, bool]
_UNKNOWN: _Known = (None, None, False)
_KNOWN: dict[Any, _Known] = {
    nn.CrossEntropyLoss: (LOGITS, INDICES, True),
    functional.cross_entropy: (LOGITS, INDICES, True),
    nn.NLLLoss: (LOG_PROBABILITIES, INDICES, False),
    functional.nll_loss: (LOG_PROBABILITIES, INDICES, False),
    nn.MultiMarginLoss: (None, INDICES, False),
    nn.BCELoss: (PROBABILITIES, ROWS, False),
    functional.binary_cross_entropy: (PROBABILITIES, ROWS, False),
    nn.BCEWithLogitsLoss: (LOGITS, ROWS, False),
    functional.binary_cross_entropy_with_logits: (LOGITS, ROWS, False),
    nn.MSELoss: (None, ROWS, False),
    functional.mse_loss: (None, ROWS, False),
    nn.L1Loss: (None, ROWS, False),
}


def loss_kind(loss: LossFunction | Classification) -> LossKind:
    """What is known of a loss: torch's by type or function; ours take logits and class indices."""
    if isinstance(loss, Classification):
        wants = None if loss.loss_name == "mse" else LOGITS
        return LossKind(loss.loss_name, loss.loss, wants, INDICES, loss.loss_name in ("cross_entropy", "nll"))
    wants, labels, softmax = _KNOWN.get(type(loss) if isinstance(loss, nn.Module) else loss, _UNKNOWN)
    name = getattr(loss, "__name__", type(loss).__name__)
    ignored = -100 if loss in (functional.cross_entropy, functional.nll_loss) else getattr(loss, "ignore_index", None)
    return LossKind(name, loss, wants, labels, softmax, ignored)


def named_loss(name: str, num_classes: int) -> LossKind:
    """One of ours by name.

    Raises:
        UserError: no such loss.
    """
    if name not in LOSSES:
        raise UserError(f"loss {name!r}", f"one of {', '.join(LOSSES)}, or a loss function", "Name one of these.")
    return loss_kind(Classification(num_classes, loss_name=name))


def last_layer(trace: Trace) -> str:
    """The layer with weights that ran last, in words."""
    weighted = [call for call in trace.calls if any(True for _ in call.module.parameters())]
    return weighted[-1].label if weighted else "the last layer"


def output_findings(trace: Trace, kind: LossKind, targets: Tensor, num_classes: int | None) -> Iterator[Finding]:
    """Outputs of the traced batch against classes, labels and loss.

    Args:
        targets: of the traced batch.
        num_classes: None where only the labels tell.
    """
    if not isinstance(trace.outputs, Tensor):
        message = f"the network returns a {type(trace.outputs).__name__}, where the loss takes a tensor."
        yield error(message, "Return the scores of the classes, [B, K], alone.")
        return
    if trace.gradients and not trace.outputs.requires_grad:
        message = f"the network's outputs are cut off from its weights after {last_layer(trace)}: nothing can learn."
        yield error(message, "Remove argmax, detach(), .data, round or no_grad() from its forward method.")
        return
    found = [
        *count_findings(trace, kind, targets, num_classes),
        *_rows(trace.outputs, kind, targets),
        *_squashed(trace, kind),
    ]
    yield from found
    if not has_error(found):  # else the loss fails of what is named already
        yield from _loss_value(trace, kind)


def count_findings(trace: Trace, kind: LossKind, targets: Tensor, num_classes: int | None) -> Iterator[Finding]:
    """Number of outputs against the classes that are given, or seen in the labels."""
    is_index = targets.ndim == 1 and not targets.is_floating_point() and len(targets) > 0
    seen = int(targets.max()) + 1 if is_index else 0
    if trace.outputs.ndim != 2 or not (num_classes or seen):
        return
    made, wanted, last = trace.outputs.shape[1], num_classes or seen, last_layer(trace)
    one_for_two = made == 1 and wanted <= 2 and kind.labels != INDICES
    if made < wanted and not one_for_two:
        whose = f"{num_classes} classes" if num_classes else f"labels up to {seen - 1}"
        message = f"{last} makes {made} output{'s' * (made > 1)} for {whose}: labels lie outside the head."
        yield error(message, f"Give it {wanted} outputs, one for each class.")
    elif num_classes is not None and made > num_classes:
        message = f"{last} makes {made:,} outputs for {num_classes} classes: a head made for other classes."
        yield error(message, f"Replace it by a fresh layer with {num_classes} outputs.")
    elif num_classes is None and len(targets) >= MANY_LABELS and made > OTHER_HEAD * seen:
        message = f"{last} makes {made:,} outputs, but the labels use only 0 to {seen - 1}."
        yield warning(message, f"If there are {seen} classes, replace it by a fresh layer with {seen} outputs.")


def unreached_head_findings(trace: Trace, num_classes: int | None) -> Iterator[Finding]:
    """The last linear layer of a network that stopped before it: too few outputs for the classes."""
    linear = [(name, module) for name, module in trace.network.named_modules() if isinstance(module, nn.Linear)]
    if linear and num_classes is not None and 1 < linear[-1][1].out_features < num_classes:
        name, head = linear[-1]
        message = f"{label(name, head)} makes {head.out_features} outputs for {num_classes} classes"
        yield error(f"{message}: labels lie outside the head.", f"Give it {num_classes} outputs, one for each class.")


def _rows(outputs: Tensor, kind: LossKind, targets: Tensor) -> Iterator[Finding]:
    """Labels of another shape than the outputs, or outside 0..1, where the loss compares number by number."""
    if kind.labels != ROWS:
        return
    made, given = times(tuple(outputs.shape)), times(tuple(targets.shape))
    if outputs.shape != targets.shape:
        if outputs.ndim == 2 and outputs.shape[1] > 1 and targets.ndim == 1:
            fix = f"Use cross-entropy, which takes indices, or functional.one_hot(targets, {outputs.shape[1]}).float()."
            yield error(f"{kind.name} compares rows ({made}); the labels are class indices ({given}).", fix)
        else:
            yield error(f"{kind.name} compares outputs {made} with labels {given}.", "Bring both to one shape.")
    elif kind.wants is not None and len(targets) and (float(targets.min()) < 0 or float(targets.max()) > 1):
        most = f"{float(targets.max()):g}"
        message = f"{kind.name} tells yes (1) from no (0), but labels go from {float(targets.min()):g} to {most}."
        yield error(message, "Use cross-entropy over one output for each class.")


def _squashed(trace: Trace, kind: LossKind) -> Iterator[Finding]:
    """Softmax, sigmoid, tanh or ReLU between the last layer and a loss that wants something else."""
    outputs, last = trace.outputs, last_layer(trace)
    if kind.wants is None or outputs.ndim not in (1, 2):
        return
    step = _last_step(outputs)
    several = outputs.ndim == 2 and outputs.shape[1] > 1
    got = SQUASHING.get(step) or (kind_of_values(outputs.detach()) if several else None) or LOGITS
    if got == kind.wants:
        yield from _bounded(step, outputs.shape[-1], last) if kind.softmax else ()
    elif got == LOG_PROBABILITIES and kind.softmax:
        message = f"log_softmax after {last}: {kind.name} applies it again, which changes nothing."
        yield info(message, "Return the logits: one step less.")
    elif got == PROBABILITIES and kind.wants == LOGITS:
        floor = f"; with {outputs.shape[1]} classes it cannot fall below {loss_floor(outputs.shape[1]):.4f}"
        message = f"a softmax or sigmoid after {last}: {kind.name} applies its own{floor if kind.softmax else ''}."
        yield error(message, "Return the logits, without softmax or sigmoid.")
    else:
        fix = {
            LOGITS: "Return the last layer's outputs as they are.",
            LOG_PROBABILITIES: "Use CrossEntropyLoss on the logits, or end the network in log_softmax.",
            PROBABILITIES: "Use BCEWithLogitsLoss on the logits, or end the network in a sigmoid.",
        }[kind.wants]
        yield error(f"{kind.name} takes {kind.wants}, but gets {got} from {last}.", fix)


def _last_step(outputs: Tensor) -> str:
    """What autograd calls the last step that changed numbers."""
    node = outputs.grad_fn
    while node is not None and type(node).__name__ in PASSES_ON and node.next_functions:
        node = node.next_functions[0][0]
    return type(node).__name__


def _bounded(step: str, num_classes: int, last: str) -> Iterator[Finding]:
    """Logits that are cut or bounded: training runs, but not to where it could."""
    fix = "Return the last layer's outputs as they are."
    if step in ("TanhBackward0", "HardtanhBackward0") and num_classes > 1:
        floor = math.log1p((num_classes - 1) * math.exp(-2.0))  # one score 1, all others -1
        yield warning(f"tanh after {last} keeps scores in -1..1: the loss cannot fall below {floor:.4f}.", fix)
    elif step == "ReluBackward0":
        yield warning(f"ReLU after {last}: scores below 0 are cut off and get no gradient.", fix)


def _loss_value(trace: Trace, kind: LossKind) -> Iterator[Finding]:
    """A loss that fails, is no single number, or is cut off from the network."""
    shape = times(tuple(trace.outputs.shape))
    loss = trace.loss
    if trace.loss_error is not None:
        cause = first_line(trace.loss_error)
        yield error(f"{kind.name} stops on outputs {shape}: {cause}", "Give it the outputs and labels that it takes.")
    elif not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"{times(tuple(loss.shape))} numbers" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        yield error(f"{kind.name} gives {got}, not one number.", "Take the mean, and keep it a tensor (no .item()).")
    elif bool(torch.isfinite(trace.outputs).all()) and not bool(torch.isfinite(loss)):
        yield error(f"{kind.name} is {loss.item()} on finite outputs.", "Use a loss that takes logits: no log of 0.")


def start_loss_findings(trace: Trace, kind: LossKind, targets: Tensor) -> Iterator[Finding]:
    """A first loss far above that of equal scores: scores that begin large, and mostly wrong.

    Source: Karpathy 2019, "A Recipe for Training Neural Networks": verify the loss at initialisation.
    """
    if trace.loss is None or kind.wants != LOGITS or not bool(torch.isfinite(trace.loss).all()):
        return
    equal = float(kind.function(torch.zeros_like(trace.outputs), targets))
    if equal > 0 and trace.loss.item() > FAR_OFF * equal:
        message = f"begins with scores far too large: the first loss is {trace.loss.item():.1f}, equal scores cost"
        fix = "Normalise the images, and begin the last layer with small weights."
        yield warning(f"{last_layer(trace)} {message} {equal:.2f}.", fix)
