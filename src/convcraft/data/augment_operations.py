"""The fourteen operations of TrivialAugment and RandAugment, on batches in which each image has its own.

Images are grouped by operation, so that a batch costs a handful of passes and not one call per image. Each operation
gives what torchvision.transforms.v2.functional gives for uint8 (the tests name the tolerances). Sums are of whole
numbers and products are never fused with sums, so that an image comes out the same in any batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from convcraft.data.augment_geometry import gather_pixels

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
(_, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE) = range(6)
(BRIGHTNESS, COLOR, CONTRAST, SHARPNESS, POSTERIZE, SOLARIZE, AUTOCONTRAST, EQUALIZE) = range(6, 14)

# uint8 [n, H, W, C], operation int64 [n], magnitude float64 [n] (both on the CPU) -> uint8 [n, H, W, C]
Change = Callable[[Tensor, Tensor, Tensor], Tensor]


def apply_operations(pixels: Tensor, operations: Tensor, magnitudes: Tensor) -> Tensor:
    """Change each image by its own operation.

    Args:
        pixels: uint8 [B, H, W, C] with C 1 or 3; not changed.
        operations: int64 [B], positions in OPERATIONS, on the CPU.
        magnitudes: float64 [B], with its sign: slope (shear), pixels (translate), degrees (rotate), distance of the
            factor from 1 (brightness, color, contrast, sharpness), bits (posterize), share of 255 (solarize).

    Returns:
        uint8 [B, H, W, C].
    """
    changed = pixels.clone()
    for members, change in _GROUPS:
        chosen = torch.isin(operations, torch.tensor(members)).nonzero()[:, 0]
        if len(chosen):
            index = chosen.to(pixels.device)
            some = change(pixels.index_select(0, index), operations[chosen], magnitudes[chosen])
            changed.index_copy_(0, index, some)
    return changed


# --- place ---


def _affine(pixels: Tensor, operations: Tensor, magnitudes: Tensor) -> Tensor:
    """Shears about the upper left corner (as torchvision's policies do), whole-pixel shifts, turns about the centre.

    The nearest pixel is taken, as in torchvision's default: uint8 values stay as they are.
    """
    _, height, width, _ = pixels.shape
    matrix = _matrices(operations, magnitudes, height, width).to(torch.float32).to(pixels.device)[..., None]
    across = torch.arange(width, device=pixels.device) - (width - 1) / 2  # [W], from the centre
    down = torch.arange(height, device=pixels.device) - (height - 1) / 2  # [H]
    places = []
    for axis, size in ((1, height), (0, width)):
        by_column = matrix[:, axis, 0] * across  # [n, W]
        by_row = matrix[:, axis, 1] * down + (matrix[:, axis, 2] + (size - 1) / 2)  # [n, H]
        places.append((by_column[:, None, :] + by_row[:, :, None]).round_().to(torch.int32))
    return gather_pixels(pixels, *places)


def _matrices(operations: Tensor, magnitudes: Tensor, height: int, width: int) -> Tensor:
    """From a place in the result to its place in the image, in pixels from the centre: float64 [n, 2, 3]."""
    matrix = torch.eye(2, 3, dtype=torch.float64).repeat(len(operations), 1, 1)
    shear_x, shear_y = ((magnitudes * (operations == which)) for which in (SHEAR_X, SHEAR_Y))
    matrix[:, 0, 1], matrix[:, 0, 2] = shear_x, shear_x * height / 2
    matrix[:, 1, 0], matrix[:, 1, 2] = shear_y, shear_y * width / 2
    matrix[:, 0, 2] -= (magnitudes * (operations == TRANSLATE_X)).trunc()
    matrix[:, 1, 2] -= (magnitudes * (operations == TRANSLATE_Y)).trunc()
    angle = torch.deg2rad(magnitudes * (operations == ROTATE))
    matrix[:, 0, 0] *= angle.cos()
    matrix[:, 1, 1] *= angle.cos()
    matrix[:, 0, 1] -= angle.sin()
    matrix[:, 1, 0] += angle.sin()
    return matrix


# --- light and colour ---


def _brightness(pixels: Tensor, _operations: Tensor, magnitudes: Tensor) -> Tensor:
    return _to_uint8(pixels.to(torch.float32).mul_(_per_image(1 + magnitudes, pixels)))


def _color(pixels: Tensor, _operations: Tensor, magnitudes: Tensor) -> Tensor:
    if pixels.shape[3] == 1:
        return pixels
    return _blend(pixels, _grey(pixels), 1 + magnitudes)


def _contrast(pixels: Tensor, _operations: Tensor, magnitudes: Tensor) -> Tensor:
    grey = _grey(pixels) if pixels.shape[3] == 3 else pixels
    level = grey.flatten(1).sum(1, dtype=torch.int64).to(torch.float32) / grey[0].numel()
    return _blend(pixels, level[:, None, None, None], 1 + magnitudes)


def _blend(pixels: Tensor, other: Tensor, factors: Tensor) -> Tensor:
    """factor * pixels + (1 - factor) * other."""
    blended = pixels.to(torch.float32).mul_(_per_image(factors, pixels))
    return _to_uint8(blended.add_(other * _per_image(1 - factors, pixels)))


def _grey(pixels: Tensor) -> Tensor:
    """ITU-R 601 luma, whole numbers as float32 [n, H, W, 1]; summed as whole numbers, so exact in float32."""
    red, green, blue = pixels.to(torch.float32).unbind(3)
    return (red * 2989).add_(green * 5870).add_(blue * 1140).mul_(1e-4).floor_()[..., None]


def _sharpness(pixels: Tensor, _operations: Tensor, magnitudes: Tensor) -> Tensor:
    """Away from (or towards) a blur of 3x3, the centre counting five times; the outermost pixels stay."""
    if min(pixels.shape[1:3]) <= 2:
        return pixels
    whole = pixels.to(torch.int16)
    rows = whole[:, :-2] + whole[:, 1:-1] + whole[:, 2:]
    inner = whole[:, 1:-1, 1:-1]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * inner
    blurred = (sums.to(torch.float32) / 13).round_()
    sharper = inner + (blurred - inner).mul_(_per_image(-magnitudes, pixels))
    changed = pixels.clone()
    changed[:, 1:-1, 1:-1] = _to_uint8(sharper)
    return changed


def _posterize(pixels: Tensor, _operations: Tensor, magnitudes: Tensor) -> Tensor:
    """Keep only the highest bits."""
    masks = 256 - 2 ** (8 - magnitudes.long())
    return pixels & masks.to(torch.uint8).to(pixels.device)[:, None, None, None]


def _solarize(pixels: Tensor, _operations: Tensor, magnitudes: Tensor) -> Tensor:
    """Invert what is at least as bright as the threshold."""
    thresholds = (255 * magnitudes).to(torch.float32).ceil().to(torch.uint8).to(pixels.device)
    return torch.where(pixels >= thresholds[:, None, None, None], pixels.bitwise_not(), pixels)


def _autocontrast(pixels: Tensor, _operations: Tensor, _magnitudes: Tensor) -> Tensor:
    """Stretch each channel to 0..255; a channel of one value stays."""
    lowest = pixels.amin(dim=(1, 2), keepdim=True).to(torch.float32)
    span = pixels.amax(dim=(1, 2), keepdim=True) - lowest
    flat = span == 0
    lowest, scale = torch.where(flat, 0.0, lowest), torch.where(flat, 1.0, span * (1 / 255))
    return _to_uint8((pixels - lowest).div_(scale))


def _equalize(pixels: Tensor, _operations: Tensor, _magnitudes: Tensor) -> Tensor:
    """Spread each channel's histogram evenly, by Pillow's rule in whole numbers."""
    number, height, width, channels = pixels.shape
    planes = number * channels
    first = torch.arange(planes, device=pixels.device).view(number, 1, 1, channels) * 256
    places = (pixels + first).reshape(-1)  # int64: each plane counts in bins of its own
    counts = torch.bincount(places, minlength=planes * 256).view(planes, 256)
    brightest = 255 - (counts > 0).flip(1).to(torch.uint8).argmax(dim=1, keepdim=True)
    step = (height * width - counts.gather(1, brightest)) // 255  # [planes, 1]
    below = counts.cumsum(1) - counts  # pixels darker than each value
    table = ((below + step // 2) // step.clamp(min=1)).clamp(0, 255)
    table = torch.where(step == 0, torch.arange(256, device=pixels.device), table).to(torch.uint8)
    return table.reshape(-1)[places].view(pixels.shape)


def _per_image(values: Tensor, pixels: Tensor) -> Tensor:
    """float64 [n] as float32 [n, 1, 1, 1], where the pixels are."""
    return values.to(torch.float32).to(pixels.device)[:, None, None, None]


def _to_uint8(values: Tensor) -> Tensor:
    """Cut off to 0..255 and to whole numbers, downwards as torchvision does."""
    return values.clamp_(0, 255).to(torch.uint8)


_GROUPS: tuple[tuple[tuple[int, ...], Change], ...] = (
    ((SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE), _affine),
    ((BRIGHTNESS,), _brightness),
    ((COLOR,), _color),
    ((CONTRAST,), _contrast),
    ((SHARPNESS,), _sharpness),
    ((POSTERIZE,), _posterize),
    ((SOLARIZE,), _solarize),
    ((AUTOCONTRAST,), _autocontrast),
    ((EQUALIZE,), _equalize),
)
