"""Ice on a window pane, drawn: a film of ice from a plasma fractal, and feathers of crystals that grow on it.

The authors of ImageNet-C lay photographs of frost over images. These textures stand in for them, so that figures for
frost compare with others of convcraft, and with nothing else.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from convcraft.data.plasma import plasma

NUM_TEXTURES, TEXTURE_PIXELS = 5, 512
NUM_FEATHERS, TWIG_DEGREES, TWIG_STEP_PIXELS = 220, 60.0, 5.0  # ice grows at 60 degrees
TINT = np.array([0.86, 0.94, 1.0])
FILM, CRYSTALS, GLOW = 0.75, 0.8, 0.9  # how much each adds
FREE, COVERED = 0.2, 0.6  # shares of the pane: without ice, and from where ice is at its thickest
EXPOSURE = 1.8  # thick ice nears white without reaching it


@functools.lru_cache(maxsize=NUM_TEXTURES)
def frost_texture(number: int) -> Image.Image:
    """Texture 0 to NUM_TEXTURES - 1: RGB, 512 x 512; the same on every call."""
    random = np.random.default_rng([number, TEXTURE_PIXELS])
    film = plasma(TEXTURE_PIXELS, 1.35, random)
    heights = plasma(TEXTURE_PIXELS, 1.8, random)
    ranks = np.argsort(np.argsort(heights, axis=None)).reshape(heights.shape) / heights.size
    where = np.clip((ranks - FREE) / (COVERED - FREE), 0, 1)
    canvas = Image.new("L", (TEXTURE_PIXELS, TEXTURE_PIXELS))
    pen = ImageDraw.Draw(canvas)
    for _ in range(NUM_FEATHERS):
        _draw_feather(pen, random)
    crystals = gaussian_filter(np.asarray(canvas, dtype=np.float64) / 255, 0.7)
    ice = where * (FILM * film + CRYSTALS * crystals + GLOW * gaussian_filter(crystals, 6) ** 1.5) + 0.15 * film
    ice = 1 - np.exp(-EXPOSURE * ice)
    return Image.fromarray(np.rint(255 * np.clip(ice[..., None] * TINT, 0, 1)).astype(np.uint8))


def _draw_feather(pen: ImageDraw.ImageDraw, random: np.random.Generator) -> None:
    """A stem that wanders a little, twigs to both sides that shorten towards its tip, and needles on those."""
    x, y = random.uniform(0, TEXTURE_PIXELS, 2)
    heading, bend = random.uniform(0, 2 * math.pi), random.uniform(-0.05, 0.05)
    length, level = random.uniform(30, 130), int(random.integers(90, 256))
    steps = int(length / TWIG_STEP_PIXELS)
    for step in range(steps):
        ahead = (x + TWIG_STEP_PIXELS * math.cos(heading), y + TWIG_STEP_PIXELS * math.sin(heading))
        pen.line([(x, y), ahead], level, width=2)
        for side in (-1, 1):
            twig = 0.35 * length * (1 - step / steps) * random.uniform(0.2, 1.0)
            turned = heading + side * math.radians(TWIG_DEGREES + random.normal(0, 9))
            _draw_twig(pen, ahead, turned, twig, level, random)
        (x, y), heading = ahead, heading + bend + random.normal(0, 0.08)


def _draw_twig(
    pen: ImageDraw.ImageDraw,
    start: tuple[float, float],
    heading: float,
    length: float,
    level: int,
    random: np.random.Generator,
) -> None:
    level = int(level * random.uniform(0.4, 1.0))
    across, down = math.cos(heading), math.sin(heading)
    pen.line([start, (start[0] + length * across, start[1] + length * down)], level)
    for along in np.arange(TWIG_STEP_PIXELS, length, TWIG_STEP_PIXELS):
        x, y = start[0] + along * across, start[1] + along * down
        for side in (-1, 1):
            needle = (length - along) * random.uniform(0.1, 0.5)
            turned = heading + side * math.radians(TWIG_DEGREES)
            pen.line([(x, y), (x + needle * math.cos(turned), y + needle * math.sin(turned))], int(0.8 * level))
