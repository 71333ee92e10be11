"""Blur: out of focus, through frosted glass, by motion, by zooming."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import correlate1d, gaussian_filter1d

from convcraft.data.corruption_severity import Constants, Corruption, Image, as_picture, as_pixels, as_shares

LARGE_DISC_PIXELS = 8  # above this radius the disc's edge is smoothed over five pixels, else over three


def defocus_blur(image: Image, constants: Constants, random: np.random.Generator) -> Image:
    """A disc instead of each point. Constants: radius of the disc, and sigma by which its edge is smoothed, pixels."""
    radius, sigma = constants
    return as_pixels(convolve(as_shares(image), disc_kernel(radius, sigma)))


def glass_blur(image: Image, constants: Constants, random: np.random.Generator) -> Image:
    """Pixels trade places with near ones, between two Gaussian blurs.

    Constants: sigma of the blur, farthest trade, both in pixels; rounds. The authors' script goes through the pixels
    row by row; here those go together whose trades cannot touch one another, group by group.
    """
    sigma, farthest, rounds = constants[0], max(1, round(constants[1])), max(1, round(constants[2]))
    blurred = gaussian(as_shares(image), sigma)
    height, width, channels = blurred.shape
    places = np.arange(height * width).reshape(height, width)
    for _ in range(rounds):
        _trade(places, farthest, random)
    traded = blurred.reshape(-1, channels)[places.ravel()].reshape(blurred.shape)
    return as_pixels(gaussian(traded, sigma))


def _trade(places: NDArray[np.int64], farthest: int, random: np.random.Generator) -> None:
    """Each pixel once, with one up to `farthest` before and `farthest` - 1 behind it along both axes; in place."""
    height, width = places.shape
    rows, columns = (np.arange(farthest, size - farthest + 1) for size in (height, width))
    moves = random.integers(-farthest, farthest, (2, len(rows), len(columns)))
    reach = 2 * farthest  # pixels so far apart never want the same partner
    for first in range(min(reach, len(rows))):
        for second in range(min(reach, len(columns))):
            down, right = moves[:, first::reach, second::reach]
            row, column = np.meshgrid(rows[first::reach], columns[second::reach], indexing="ij")
            partner = (row + down, column + right)
            kept = places[row, column]
            places[row, column] = places[partner]
            places[partner] = kept


def motion_blur(image: Image, constants: Constants, random: np.random.Generator) -> Image:
    """Along a line up to 45 degrees off the horizontal. Constants: radius and sigma of the line, pixels."""
    radius, sigma = constants
    return as_pixels(convolve(as_shares(image), motion_kernel(radius, sigma, random.uniform(-45, 45))))


def zoom_blur(image: Image, constants: Constants, random: np.random.Generator) -> Image:
    """Mean of the image and ever larger ones. Constants: the largest factor, and the step from one to the next."""
    largest, step = constants
    picture = as_picture(image)
    factors = np.arange(1, largest + step / 2, step)
    total = image.astype(np.float32)
    for factor in factors:
        total += np.asarray(zoomed(picture, float(factor))).reshape(image.shape)
    return as_pixels(total / (255 * (len(factors) + 1)))


# --- kernels ---


def disc_kernel(radius: float, sigma: float) -> NDArray[np.float32]:
    """A disc that sums to 1, float32 [K, K], its edge smoothed by a Gaussian of few taps."""
    reach, taps = math.ceil(radius) + 2, 1 if radius <= LARGE_DISC_PIXELS else 2
    steps = np.arange(-reach, reach + 1)
    disc = (steps[:, None] ** 2 + steps**2 <= radius**2).astype(np.float64)
    smoothing = np.exp(-(np.arange(-taps, taps + 1) ** 2) / (2 * max(sigma, 1e-3) ** 2))
    for axis in (0, 1):
        disc = correlate1d(disc, smoothing, axis=axis, mode="constant")
    return (disc / disc.sum()).astype(np.float32)


def motion_kernel(radius: float, sigma: float, degrees: float) -> NDArray[np.float32]:
    """Half a Gaussian along a line of 2 * radius pixels from the centre, as ImageMagick's: float32 [K, K], sums to 1.

    Each point of the line is shared out among the four pixels around it. degrees: from the horizontal.
    """
    along = np.arange(2 * round(radius) + 1)
    along = along[along <= 4 * sigma]  # beyond, weights below 1/3000
    weights = np.exp(-(along**2) / (2 * sigma**2))
    reach = len(along)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    down, right = along * math.sin(math.radians(degrees)), along * math.cos(math.radians(degrees))
    top, left = np.floor(down).astype(int), np.floor(right).astype(int)
    for row, in_row in ((top, 1 - (down - top)), (top + 1, down - top)):
        for column, in_column in ((left, 1 - (right - left)), (left + 1, right - left)):
            np.add.at(kernel, (row + reach, column + reach), weights * in_row * in_column)
    return (kernel / kernel.sum()).astype(np.float32)


def convolve(image: NDArray[np.float32], kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """The image [H, W, C] with a kernel [K, K] of odd side, mirrored at the edges; through Fourier transforms."""
    reach = len(kernel) // 2
    rows, columns = (_mirrored(size, reach) for size in image.shape[:2])
    planes = image.transpose(2, 0, 1)[:, rows[:, None], columns]
    shape = [next_fast_len(size, real=True) for size in planes.shape[1:]]
    spectrum = rfft2(planes, shape)
    spectrum *= rfft2(kernel, shape)
    height, width = image.shape[:2]
    # The product wraps around; what it spoils lies in the first 2 * reach rows and columns.
    whole = irfft2(spectrum, shape)[:, 2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width]
    return np.ascontiguousarray(whole.transpose(1, 2, 0))


def _mirrored(size: int, reach: int) -> NDArray[np.int64]:
    """Places 0 to size - 1 with `reach` more at both ends, the edge itself repeated once."""
    places = np.arange(-reach, size + reach) % (2 * size)
    return np.minimum(places, 2 * size - 1 - places)


def gaussian(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Gaussian blur of [H, W, C], over four sigma, the edge repeated."""
    for axis in (0, 1):
        image = gaussian_filter1d(image, sigma, axis=axis, mode="nearest")
    return image


def zoomed(picture: PillowImage.Image, factor: float) -> PillowImage.Image:
    """The middle of a picture, enlarged to its full size; bilinear."""
    width, height = picture.size
    left, top = width * (1 - 1 / factor) / 2, height * (1 - 1 / factor) / 2
    return picture.resize(picture.size, PillowImage.Resampling.BILINEAR, (left, top, width - left, height - top))


BLURS = (
    Corruption(
        "defocus_blur",
        defocus_blur,
        small=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        large=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        pixel_lengths=(0, 1),
    ),
    Corruption(
        "glass_blur",
        glass_blur,
        small=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        large=((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        pixel_lengths=(0, 1),
    ),
    Corruption(
        "motion_blur",
        motion_blur,
        small=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        large=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        pixel_lengths=(0, 1),
    ),
    Corruption(
        "zoom_blur",
        zoom_blur,
        small=((1.05, 0.01), (1.10, 0.01), (1.15, 0.01), (1.20, 0.01), (1.25, 0.01)),
        large=((1.10, 0.01), (1.15, 0.01), (1.20, 0.02), (1.24, 0.02), (1.30, 0.03)),
    ),
)
