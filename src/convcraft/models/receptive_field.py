"""Which pixels each element of each tensor depends on, followed operation by operation through a real forward pass.

Along one image axis, element p of a map depends on the pixels first + p * jump .. last + p * jump. A window (kernel k,
stride s, padding q, dilation d) turns this into

    first' = first - q * jump,    last' = last + (d * (k - 1) - q) * jump,    jump' = s * jump,

so last - first + 1, the receptive field, grows by d * (k - 1) * jump. Where branches meet (residual sums, concatenated
maps) the result spans them all. Where positions are summed (global pooling, a linear layer on flattened maps) it spans
the first to the last position. Padding lies outside of the image: a field may be larger than the image.

Operations whose fields depend on their input or are not an interval (attention, shifted windows, resizing) give None,
and so does everything after them. Source of the arithmetic: Araujo, Norris, Sim 2019, "Computing Receptive Fields of
Convolutional Neural Networks", Distill 4(11), with each branch's own start kept where that article assumes alignment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

Shape = Sequence[int]


@dataclass(frozen=True)
class Axis:
    """One image axis as the elements of a tensor see it.

    Element p depends on the pixels first + p * jump .. last + p * jump; pixel 0 is the image's first.

    dim: the tensor's dimension along which p runs; None where all elements see the same pixels (jump is 0 then).
    inner: flattened maps only: p runs within `dim`, behind so many other indices (channels).
    """

    first: Fraction
    last: Fraction
    jump: Fraction
    size: int  # values of p
    dim: int | None
    inner: int = 1

    def everywhere(self) -> Axis:
        """What all positions together see."""
        last = self.last + (self.size - 1) * self.jump
        return replace(self, last=last, jump=Fraction(0), size=1, dim=None, inner=1)

    def window(self, kernel: int, stride: int, padding: int, dilation: int, size: int) -> Axis:
        if self.dim is None:
            return self
        first = self.first - padding * self.jump
        last = self.last + (dilation * (kernel - 1) - padding) * self.jump
        return replace(self, first=first, last=last, jump=stride * self.jump, size=size)


Field = tuple[Axis, Axis]  # height, width
Rule = Callable[[Field, tuple[Any, ...], Mapping[str, Any], Tensor], "Field | None"]


def image_field(images: Tensor) -> Field:
    """Of the images themselves [B, C, H, W]: every element sees its own pixel."""
    zero, one = Fraction(0), Fraction(1)
    return Axis(zero, zero, one, images.shape[2], dim=2), Axis(zero, zero, one, images.shape[3], dim=3)


def pixels_seen(axis: Axis, side: int) -> tuple[int, bool]:
    """(length of the field in pixels, whether every element sees all `side` pixels of the image)."""
    if axis.dim is not None:
        return math.ceil(axis.last - axis.first) + 1, False
    first, last = max(math.floor(axis.first), 0), min(math.ceil(axis.last), side - 1)
    return max(last - first + 1, 0), last - first + 1 == side


def field_after(
    operation: torch._ops.OpOverload,
    arguments: tuple[Any, ...],
    keywords: Mapping[str, Any],
    output: Tensor,
    field_of: Callable[[Tensor], Field | None],
) -> Field | None:
    """The field of an operation's output.

    Args:
        operation: one of ATen's. arguments, keywords: what it was called with, at least one tensor with a known field.
        output: one of the tensors that it gave.
        field_of: the field of a tensor; None for weights and other constants.

    Returns: None where the operation's field is not known.
    """
    name = operation._schema.name.removeprefix("aten::").rstrip("_")
    if torch.Tag.pointwise in operation.tags or name in SAME_PLACES:
        return _union(_tensors(arguments), output, field_of)
    if name == "cat":
        return _concatenated(arguments, output, field_of)
    if name in PRODUCTS:
        return _product(arguments[-2], arguments[-1], field_of)
    source, rule = arguments[0], RULES.get(name)
    field = field_of(source) if isinstance(source, Tensor) else None
    only_source = all(field_of(tensor) is None for tensor in _tensors(arguments[1:]))
    return rule(field, arguments, keywords, output) if rule and field and only_source else None


# --- several inputs ---


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _tensors(value)
    return found


def _union(tensors: Sequence[Tensor], output: Tensor, field_of: Callable[[Tensor], Field | None]) -> Field | None:
    """Of element by element operations, with broadcasting."""
    fields: list[list[Axis]] = []
    for tensor in tensors:
        field = field_of(tensor)
        if field is not None:
            fields.append([_broadcast(axis, tensor.shape, output.shape) for axis in field])
    if not fields:
        return None
    heights, widths = zip(*fields, strict=True)
    return _span(heights), _span(widths)


def _broadcast(axis: Axis, shape: Shape, wanted: Shape) -> Axis:
    if axis.dim is None:
        return axis
    dim = axis.dim + len(wanted) - len(shape)
    return replace(axis, dim=dim) if wanted[dim] == shape[axis.dim] else axis.everywhere()


def _span(axes: Sequence[Axis]) -> Axis:
    """From the first pixel that any of the branches sees to the last."""
    places = {(axis.dim, axis.inner, axis.jump, axis.size) for axis in axes}
    if len(places) > 1:  # as in x * gate(all of x): what one position sees is no longer a moving window
        axes = [axis.everywhere() for axis in axes]
    return replace(axes[0], first=min(axis.first for axis in axes), last=max(axis.last for axis in axes))


def _concatenated(
    arguments: tuple[Any, ...], output: Tensor, field_of: Callable[[Tensor], Field | None]
) -> Field | None:
    tensors = _tensors(arguments[:1])
    dim = (arguments[1] if len(arguments) > 1 else 0) % output.dim()
    for tensor in tensors:
        if any(axis.dim == dim for axis in field_of(tensor) or ()):
            return None  # positions of different places in one row
    parts = [field for field in map(field_of, tensors) if field is not None]
    heights, widths = zip(*parts, strict=True)
    return _span(heights), _span(widths)


def _product(left: Tensor, right: Tensor, field_of: Callable[[Tensor], Field | None]) -> Field | None:
    """Of matrix products with weights; of two tensors that both depend on the image (attention) it is not known."""
    field, other = field_of(left), field_of(right)
    if field is not None and other is None:
        return _summed(field, {left.dim() - 1})
    if field is None and other is not None:
        return _summed(other, {right.dim() - 2})
    return None


# --- one input ---


def _summed(field: Field, dims: Iterable[int]) -> Field:
    """Positions along `dims` are summed up (or each reads them all)."""
    dims = set(dims)
    height, width = (axis.everywhere() if axis.dim in dims else axis for axis in field)
    return height, width


def _moved(field: Field, new_dim: Callable[[int], int]) -> Field:
    height, width = (axis if axis.dim is None else replace(axis, dim=new_dim(axis.dim)) for axis in field)
    return height, width


def _windows(field: Field, output: Tensor, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape) -> Any:
    """Of a 2-d window over dimensions 2 and 3."""
    if any(axis.dim not in (None, dim) or axis.inner != 1 for dim, axis in enumerate(field, start=2)):
        return None
    settings = [list(setting) * 2 if len(setting) == 1 else list(setting) for setting in (kernel, stride, padding)]
    gaps = list(dilation) * 2 if len(dilation) == 1 else list(dilation)
    columns = zip(field, *settings, gaps, output.shape[2:], strict=True)
    return tuple(axis.window(*numbers) for axis, *numbers in columns)


def _convolution(field: Field, arguments: tuple[Any, ...], _keywords: Any, output: Tensor) -> Field | None:
    _, weight, _, stride, padding, dilation, transposed = arguments[:7]
    if transposed or weight.dim() != 4:
        return None
    result: Field | None = _windows(field, output, weight.shape[2:], stride, padding, dilation)
    return result


def _pool(field: Field, arguments: tuple[Any, ...], _keywords: Any, output: Tensor) -> Field | None:
    """max_pool2d_with_indices(x, kernel, stride, padding, dilation ...), avg_pool2d(x, kernel, stride, padding ...)."""
    kernel = arguments[1]
    stride = (arguments[2] if len(arguments) > 2 else None) or kernel
    padding = arguments[3] if len(arguments) > 3 else [0]
    dilation = arguments[4] if len(arguments) > 4 and isinstance(arguments[4], list) else [1]
    result: Field | None = _windows(field, output, kernel, stride, padding, dilation)
    return result


def _adaptive_pool(field: Field, _arguments: Any, _keywords: Any, output: Tensor) -> Field | None:
    """Windows from floor(i * size / bins) to ceil((i + 1) * size / bins); the longest counts."""
    axes = []
    for dim, axis in enumerate(field, start=2):
        bins = output.shape[dim]
        if axis.dim is None or bins == 1:
            axes.append(axis.everywhere())
            continue
        if axis.dim != dim or axis.inner != 1:
            return None
        longest = max(-(-(i + 1) * axis.size // bins) - i * axis.size // bins for i in range(bins))
        step = axis.jump * Fraction(axis.size, bins)
        axes.append(replace(axis, last=axis.last + (longest - 1) * axis.jump, jump=step, size=bins))
    return axes[0], axes[1]


def _reduced(field: Field, arguments: tuple[Any, ...], keywords: Mapping[str, Any], output: Tensor) -> Field | None:
    """mean(x, dims, keepdim) and its like; norms have their order before the dims."""
    source, *others = arguments
    given = next((other for other in others if isinstance(other, list)), keywords.get("dim"))
    if given is None and any(type(other) is int for other in others):
        return None  # max(x, dim) and others that give indices, too
    dims = {dim % source.dim() for dim in given} if given else set(range(source.dim()))
    summed = _summed(field, dims)
    if output.dim() == source.dim():
        return summed
    return _moved(summed, lambda dim: dim - sum(gone < dim for gone in dims))


def _softmax(field: Field, arguments: tuple[Any, ...], _keywords: Any, output: Tensor) -> Field | None:
    return _summed(field, {arguments[1] % output.dim()})


def _layer_norm(field: Field, arguments: tuple[Any, ...], _keywords: Any, output: Tensor) -> Field | None:
    return _summed(field, range(output.dim() - len(arguments[1]), output.dim()))


def _group_norm(field: Field, _arguments: Any, _keywords: Any, output: Tensor) -> Field | None:
    return _summed(field, range(1, output.dim()))


def _reshaped(field: Field, arguments: tuple[Any, ...], _keywords: Any, output: Tensor) -> Field | None:
    """Elements keep their order in memory; an axis is found again by how many indices come before it."""
    axes = []
    for number, axis in enumerate(field):
        place = None if axis.dim is None else _find(axis, arguments[0].shape, output.shape, last=number == 1)
        if axis.dim is not None and place is None and axis.size > 1:
            return None
        axes.append(axis.everywhere() if place is None else replace(axis, dim=place[0], inner=place[1]))
    return axes[0], axes[1]


def _find(axis: Axis, old: Shape, new: Shape, *, last: bool) -> tuple[int, int] | None:
    """(dim, inner) of an axis after a reshape.

    An axis of size 1 fits nearly anywhere: it is found only where a dimension of size 1 stands, never in the batch; of
    several such places height takes the first and width the last.
    """
    lead = math.prod(old[: axis.dim]) * axis.inner
    places: list[tuple[int, int]] = []
    for dim, size in enumerate(new):
        before = math.prod(new[:dim])
        if before <= lead and lead % before == 0 and lead * axis.size <= before * size:
            places.append((dim, lead // before))
    clean = [(dim, inner) for dim, inner in places if inner == 1 and new[dim] == axis.size]
    best = clean or places
    if axis.size == 1:
        best = [place for place in clean if place[0] > 0]
    return best[-1 if last else 0] if best else None


def _permuted(field: Field, arguments: tuple[Any, ...], _keywords: Any, output: Tensor) -> Field | None:
    order = [dim % output.dim() for dim in arguments[1]]
    return _moved(field, order.index)


def _transposed(field: Field, arguments: tuple[Any, ...], _keywords: Any, output: Tensor) -> Field | None:
    first, second = (dim % output.dim() for dim in arguments[1:3]) if len(arguments) > 1 else (0, 1)
    return _moved(field, lambda dim: {first: second, second: first}.get(dim, dim))


def _padded(field: Field, arguments: tuple[Any, ...], _keywords: Any, output: Tensor) -> Field | None:
    """constant_pad_nd(x, [before, after of the last dimension, before, after of the one before it ...])."""
    axes = []
    for axis in field:
        place = None if axis.dim is None else 2 * (output.dim() - 1 - axis.dim)
        if axis.dim is not None and place is not None and place < len(arguments[1]):
            if axis.inner != 1 or axis.size != arguments[0].shape[axis.dim]:
                return None
            shift = arguments[1][place] * axis.jump
            axis = replace(axis, first=axis.first - shift, last=axis.last - shift, size=output.shape[axis.dim])
        axes.append(axis)
    return axes[0], axes[1]


def _sliced(field: Field, arguments: tuple[Any, ...], _keywords: Any, output: Tensor) -> Field | None:
    """slice(x, dim, start, end, step)."""
    source = arguments[0]
    settings: list[Any] = [0, None, None, 1]
    settings[: len(arguments) - 1] = arguments[1:]
    dim, start, _, step = settings
    axes = []
    for axis in field:
        if axis.dim == dim % output.dim():
            if axis.inner != 1 or axis.size != source.shape[dim]:
                return None
            begin = start or 0
            shift = max(begin + axis.size if begin < 0 else begin, 0) * axis.jump
            axis = replace(
                axis, first=axis.first + shift, last=axis.last + shift, jump=step * axis.jump, size=output.shape[dim]
            )
        axes.append(axis)
    return axes[0], axes[1]


def _split(field: Field, arguments: tuple[Any, ...], _keywords: Any, output: Tensor) -> Field | None:
    dim = (arguments[2] if len(arguments) > 2 else 0) % output.dim()
    return None if any(axis.dim == dim for axis in field) else field


def _selected(field: Field, arguments: tuple[Any, ...], _keywords: Any, output: Tensor) -> Field | None:
    """select(x, dim, index) and unbind(x, dim): one dimension less."""
    gone = (arguments[1] if len(arguments) > 1 else 0) % arguments[0].dim()
    return None if any(axis.dim == gone for axis in field) else _moved(field, lambda dim: dim - (dim > gone))


def _batch_norm(field: Field, arguments: tuple[Any, ...], _keywords: Any, output: Tensor) -> Field | None:
    """native_batch_norm(x, weight, bias, mean, var, training ...); the form for inference has no such argument."""
    measures = isinstance(arguments[5], bool) and arguments[5]
    return _summed(field, range(2, output.dim())) if measures else field


def _restrided(field: Field, arguments: tuple[Any, ...], _keywords: Any, output: Tensor) -> Field | None:
    """as_strided: the same elements where it only renames strides of dimensions of size 1 (global pooling does)."""
    same = output.shape == arguments[0].shape and all(axis.dim is None for axis in field)
    return field if same else None


# Operations that change neither shape nor place, beyond those that ATen tags as pointwise.
SAME_PLACES = frozenset({"clone", "detach", "alias", "_to_copy", "expand", "hardswish", "_prelu_kernel"})
PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm", "mv", "addmv"})  # the two factors are the last two arguments

RULES: dict[str, Rule] = {
    "convolution": _convolution,
    "max_pool2d_with_indices": _pool,
    "avg_pool2d": _pool,
    "_adaptive_avg_pool2d": _adaptive_pool,
    "adaptive_max_pool2d": _adaptive_pool,
    **dict.fromkeys(("mean", "sum", "amax", "amin", "var_mean", "std", "var", "linalg_vector_norm", "norm"), _reduced),
    **dict.fromkeys(("_softmax", "_log_softmax"), _softmax),
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm"), _batch_norm),
    "_native_batch_norm_legit_no_training": lambda field, *_: field,
    **dict.fromkeys(("view", "_unsafe_view", "_reshape_alias", "unsqueeze", "squeeze"), _reshaped),
    "permute": _permuted,
    **dict.fromkeys(("transpose", "t"), _transposed),
    "as_strided": _restrided,
    "constant_pad_nd": _padded,
    "slice": _sliced,
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    **dict.fromkeys(("select", "unbind"), _selected),
}
