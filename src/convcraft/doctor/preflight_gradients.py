"""The way back: start values, and layers that learn nothing because they are unused, cut off, dead or all alike."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from convcraft.data.sample import Finding
from convcraft.doctor.preflight_finding import error, some, warning
from convcraft.doctor.preflight_trace import LayerCall, LossFunction, Trace, is_layer, label, run_batch

TRIAL_STEPS = 3  # in which zeros that are meant (heads, adapters, residual branches) open the way
TRIAL_IMAGES = 16
TRIAL_MOVE = 0.02  # of a trial step, as a share of the size of the weights
LEAST_SIZE = 0.1  # taken as their size where they are zero


def start_value_findings(model: nn.Module) -> Iterator[Finding]:
    """Weights and statistics that are no finite numbers, and layers whose units all begin equal."""
    broken = [name for name, tensor in model.state_dict().items() if _has_non_finite(tensor)]
    if broken:
        message = f"{some(broken)} hold NaN or infinite values before the first step."
        yield error(message, "Load the weights anew, or initialise these layers.")
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and _units_equal(module):
            message = f"{label(name, module)}: all {len(module.weight)} units begin with the same weights"
            yield warning(f"{message}, get the same gradient and stay the same.", "Initialise them at random.")


def _has_non_finite(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())


def _units_equal(module: nn.Linear | nn.Conv2d) -> bool:
    """Whether all rows of a trained weight are one row, other than zeros (which are meant in heads and branches)."""
    weight = module.weight.detach()
    grouped = isinstance(module, nn.Conv2d) and module.groups > 1  # each unit reads another map
    if grouped or not module.weight.requires_grad or len(weight) < 2 or weight[0].numel() < 2:
        return False
    return bool((weight == weight[:1]).all()) and bool(weight.any())


def finite_findings(trace: Trace) -> Iterator[Finding]:
    """The first layer that makes NaN or infinity of finite numbers, and gradients that are not finite."""
    first = next((call for call in trace.calls if not call.finite), None)
    if first is not None:
        yield error(f"{first.label} gives NaN or infinite values.", "Check its weights and what reaches it.")
        return
    broken = [name for name, gradient in trace.gradients.items() if gradient is not None and _has_non_finite(gradient)]
    if broken:
        message = f"the gradient of {some(broken)} is NaN or infinite on the first batch."
        yield error(message, "Look for a division by 0, a log of 0 or a root of 0 behind that layer.")


def gradient_findings(
    model: nn.Module, trace: Trace, targets: Tensor, loss: LossFunction, *, takes_steps: bool = True
) -> Iterator[Finding]:
    """Layers that learn nothing: never used, cut off from the loss, or dead.

    A gradient of exactly zero may be meant: fresh heads, adapters and residual branches often begin at zero. So trial
    steps are taken on a copy; what is still without gradient after TRIAL_STEPS of them stays so.

    Args:
        model: a copy of the network that may be changed.
        trace: of that copy, with its loss.
        takes_steps: there is time for trial steps.
    """
    if not trace.gradients or trace.loss is None or trace.loss_error is not None:
        return
    none = sorted({_owner(name) for name, gradient in trace.gradients.items() if gradient is None})
    if all(gradient is None for gradient in trace.gradients.values()):
        message = "no gradient reaches any layer: the loss is cut off from the network's outputs."
        yield error(message, "Remove detach(), .data, .item(), argmax or no_grad() between network and loss.")
        return
    yield from _without_path(model, trace, [name for name in none if _all_none(trace, name)])
    zero = _zero_layers(trace.gradients)
    if zero and not takes_steps:
        message = f"no gradient reaches {some(sorted(zero))} in the first step, and there was no time for a second one"
        yield warning(f"{message}, which would tell whether that is meant.", "`convcraft doctor` takes the time.")
        return
    dead = _dead_layers(model, trace, targets, loss)
    if dead:
        yield _dead_finding(trace, dead)


def _owner(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _all_none(trace: Trace, layer: str) -> bool:
    return all(gradient is None for name, gradient in trace.gradients.items() if _owner(name) == layer)


def _without_path(model: nn.Module, trace: Trace, layers: list[str]) -> Iterator[Finding]:
    """Layers from which no path leads to the loss: those that did not run, and those behind a cut."""
    ran = {call.name for call in trace.calls}
    cut = [name for name in layers if name in ran]
    unused = [name for name in layers if name not in ran and is_layer(model.get_submodule(name))]
    if cut:
        cause = (
            "runs, but its result is cut off from the loss" if len(cut) == 1 else "run, but are cut off from the loss"
        )
        message = f"{'layer' if len(cut) == 1 else 'layers'} {some(cut)} {cause}: nothing in it can learn."
        yield error(message, "Remove detach(), .data or no_grad() behind it, or freeze it openly.")
    if unused:
        message = f"layers {some(unused)} have weights to train and are never used in the forward pass."
        yield warning(message, "Call them in forward, or remove them.")


def _dead_layers(model: nn.Module, trace: Trace, targets: Tensor, loss: LossFunction) -> list[str]:
    """Layers all of whose trainable tensors have a gradient of exactly zero, also after trial steps."""
    zero = _zero_layers(trace.gradients)
    trial = trace
    for _ in range(TRIAL_STEPS):
        if not zero or not trial.gradients:
            break
        _trial_step(model, trial.gradients)
        trial = run_batch(model, trace.images[:TRIAL_IMAGES], targets[:TRIAL_IMAGES], loss)
        zero &= _zero_layers(trial.gradients)
    return [call.name for call in _once(trace.calls) if call.name in zero]


def _zero_layers(gradients: dict[str, Tensor | None]) -> set[str]:
    largest: dict[str, float] = {}
    for name, gradient in gradients.items():
        if gradient is not None:
            size = float(gradient.abs().amax()) if gradient.numel() else 0.0
            largest[_owner(name)] = max(largest.get(_owner(name), 0.0), size)
    return {layer for layer, size in largest.items() if size == 0.0}


@torch.no_grad()
def _trial_step(model: nn.Module, gradients: dict[str, Tensor | None]) -> None:
    """Move each tensor by a small share of its size against its gradient."""
    parameters = dict(model.named_parameters())
    for name, gradient in gradients.items():
        if gradient is None or not gradient.numel() or not float(gradient.abs().amax()):
            continue
        parameter = parameters[name]
        size = max(float(parameter.square().mean().sqrt()), LEAST_SIZE)
        parameter.sub_(gradient, alpha=TRIAL_MOVE * size / float(gradient.abs().amax()))


def _once(calls: list[LayerCall]) -> list[LayerCall]:
    return list({call.name: call for call in calls}.values())


def _dead_finding(trace: Trace, dead: list[str]) -> Finding:
    """The layer where what differs between images was lost, and the layers that it starves."""
    killer = next((call for call in trace.calls if call.input_varies and not call.output_varies), None)
    heir = next((call for call in trace.calls if not call.input_varies), None)
    last = next(call for call in trace.calls if call.name == dead[-1])
    if killer is not None:
        where = f"{killer.label} gives the same for every image"
    elif heir is not None:
        where = f"between {last.label} and {heir.label} all images become the same (an activation that is 0 for all)"
    else:
        where = f"{last.label} gets a gradient of exactly 0"
    starved = f"{len(dead)} layers ({some(dead)})" if len(dead) > 1 else f"layer {dead[0]}"
    fix = "Initialise the layer anew (He et al. for ReLU), without a large negative bias; check the size of its input."
    return error(f"dead: {where}. No gradient reaches {starved}: nothing in it can learn.", fix)
