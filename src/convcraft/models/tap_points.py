"""Which layers of a network are worth reading beside its last one: the outputs of its blocks, from stem to end."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from convcraft.models.classifier import linear_classifier

MOST_TAPS = 24
CONTAINERS = (nn.Sequential, nn.ModuleList)
SILENT = ("Pool", "Dropout", "DropPath", "Flatten", "Identity")  # in the names of layers that end no segment


def tap_points(network: nn.Module) -> tuple[str, ...]:
    """Default layers for `LayerHead`, in the order of their registration, at most MOST_TAPS.

    Blocks count as one layer each (a residual block, a mobile block, a transformer block); outside of blocks, a layer
    with weights and the norm and activation behind it count as one, read at its end. Where there are too many, evenly
    spaced ones are taken, the last among them. The classifier is none of them.

    Args:
        network: with `get_classifier()`, as ours and timm's have.

    Raises:
        UserError: a network without one last linear layer.
    """
    found = [name for name, _ in _points(network, "", linear_classifier(network)[1])]
    if len(found) <= MOST_TAPS:
        return tuple(found)
    step = (len(found) - 1) / (MOST_TAPS - 1)
    return tuple(found[round(position * step)] for position in range(MOST_TAPS))


def _points(parent: nn.Module, prefix: str, classifier: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The end of each segment among the children; containers and stages are entered."""
    pending: tuple[str, nn.Module] | None = None  # the end so far of a layer with weights and what belongs to it
    for name, child in parent.named_children():
        path = f"{prefix}{name}"
        if child is classifier or _is_silent(child):
            continue
        if _holds(child, classifier) and not _is_container(child):
            continue  # a head with its own pooling
        if _is_container(child) or _is_stage(child):
            if pending:
                yield pending
            pending = None
            yield from _points(child, f"{path}.", classifier)
            continue
        if pending and _has_kernel(child):
            yield pending
            pending = None
        if pending or _has_kernel(child):
            pending = path, child
    if pending:
        yield pending


def _is_container(module: nn.Module) -> bool:
    """Whether a module is no more than the sequence of its children."""
    return isinstance(module, CONTAINERS) and type(module).forward in {c.forward for c in CONTAINERS}


def _is_stage(module: nn.Module) -> bool:
    """Whether a module of its own class is a row of alike blocks with something before or behind."""
    for child in module.children():
        kinds = [type(part) for part in child.children()] if _is_container(child) else []
        blocks = [kind for kind in kinds if not issubclass(kind, CONTAINERS)]
        if (
            len(blocks) >= 2
            and len(set(blocks)) == 1
            and all(len(list(part.children())) > 1 for part in child.children())
        ):
            return True
    return False


def _is_silent(module: nn.Module) -> bool:
    """Pooling comes anyway, dropout and reshaping change no mean: a layer's end is what stands before them."""
    return any(word in type(module).__name__ for word in SILENT) and not list(module.parameters())


def _has_kernel(module: nn.Module) -> bool:
    """Whether there is a convolution or a linear layer (or a block with one) in it: norms alone have vectors only."""
    return any(parameter.dim() > 1 for parameter in module.parameters())


def _holds(module: nn.Module, part: nn.Module) -> bool:
    return any(inner is part for inner in module.modules())
