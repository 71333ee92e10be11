"""Changes of light and colour on images float32 [B, C, H, W] in 0..1, in place; the result stays in 0..1."""

from __future__ import annotations

import torch
from torch import Tensor

from convcraft.config import AugmentConfig
from convcraft.data.augment_draws import BRIGHT, CONTRAST, HUE, NOISE, SATURATION, signed

LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601, in the digits that torchvision uses


def as_rows(images: Tensor) -> Tensor:
    """Channels-last images as rows of pixels, the same memory: float32 [B, C, H, W] to [B, H, W * C].

    What differs between channels or columns is then one long row instead of C numbers at a time: four times as fast.
    """
    batch, _, height, _ = images.shape
    return images.permute(0, 2, 3, 1).view(batch, height, -1)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(images - mean) / std, in place; mean and std float32 [C]."""
    width = images.shape[3]
    as_rows(images).sub_(mean.to(images.device).repeat(width)).div_(std.to(images.device).repeat(width))
    return images


def change_light(images: Tensor, pixels: Tensor, draws: Tensor, config: AugmentConfig) -> Tensor:
    """Brightness multiplies, contrast stretches about the mean level of the image.

    Args:
        pixels: uint8 [B, H, W, C], of which the mean level over all channels is taken.
    """
    bright = (1 + config.brightness * signed(draws, BRIGHT)).to(images.device)
    if not config.contrast:
        return images.mul_(bright[:, None, None, None]).clamp_(0, 1)
    stretch = (1 + config.contrast * signed(draws, CONTRAST)).to(images.device)
    pixel_sums = pixels.sum(dim=(1, 2, 3))  # whole numbers: the same however many threads add them up
    mean_level = pixel_sums.to(torch.float32) / (255 * pixels[0].numel())
    slope = (bright * stretch)[:, None, None, None]
    offset = (bright * (1 - stretch) * mean_level)[:, None, None, None]
    return images.mul_(slope).add_(offset).clamp_(0, 1)


def change_colour(images: Tensor, draws: Tensor, config: AugmentConfig) -> Tensor:
    """Saturation stretches about the grey of the same luma, hue turns the colour circle; one channel stays as it is."""
    if images.shape[1] != 3:
        return images
    if config.saturation:
        factor = (1 + config.saturation * signed(draws, SATURATION)).to(images.device)[:, None, None, None]
        red, green, blue = images.unbind(1)
        grey = (red * LUMA[0]).add_(green * LUMA[1]).add_(blue * LUMA[2])[:, None]
        images = images.mul_(factor).add_(grey.mul_(1 - factor)).clamp_(0, 1)
    if config.hue:
        images = turn_hue(images, (config.hue * signed(draws, HUE)).to(images.device))
    return images


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn each image's colours about the HSV circle; value and saturation stay.

    Args:
        images: float32 [B, 3, H, W] in 0..1.
        turns: float32 [B], in full turns.
    """
    value, chroma, sixths = _value_chroma_hue(images)
    sixths = sixths + 6 * turns[:, None, None]
    turned = torch.empty_like(images)
    for channel, start in enumerate((5, 3, 1)):  # red, green, blue (Alvy Ray Smith 1978, in closed form)
        along = (sixths + start) % 6
        turned[:, channel] = value - chroma * torch.minimum(along, 4 - along).clamp_(0, 1)
    return turned


def _value_chroma_hue(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Largest channel, largest minus smallest, and hue in sixths of the circle: float32 [B, H, W] each."""
    red, green, blue = images.unbind(1)
    smallest, value = images.aminmax(dim=1)
    chroma = value - smallest
    safe = torch.where(chroma == 0, 1.0, chroma)  # without chroma any hue gives the same grey
    from_red, from_green = (green - blue) / safe, (blue - red) / safe + 2
    from_blue = (red - green) / safe + 4
    sixths = torch.where(value == red, from_red, torch.where(value == green, from_green, from_blue))
    return value, chroma, sixths


def add_noise(images: Tensor, draws: Tensor, config: AugmentConfig) -> Tensor:
    """Gaussian noise, drawn for each pixel and channel from a generator that the sample's own draw seeds."""
    _, channels, height, width = images.shape
    generator = torch.Generator()
    noise = torch.empty((len(images), height, width, channels))
    for row, seed in zip(noise, (draws[:, NOISE] * 2**32).long().tolist(), strict=True):
        row.normal_(generator=generator.manual_seed(seed))
    return images.add_(noise.mul_(config.noise_std).to(images.device).permute(0, 3, 1, 2)).clamp_(0, 1)
