"""A limit on the time of a preflight that nobody asked for: fewer images, then fewer checks, and what was left out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from convcraft.data.sample import Finding
from convcraft.doctor.preflight_finding import info, warning
from convcraft.doctor.preflight_trace import MISFITS

AUTOMATIC_SECONDS = 2.0  # before every run
RUN_SHARE = 0.05  # or this share of the run, where that is longer
# What a check costs, in passes of one image forward. Measured on CPUs (MobileNetV2, ResNet-18, ResNet-56, ConvNeXt):
# forward and backward in training mode, with a look at what every layer gives, is 4 to 6.
TRAINING_PASSES = 6
EVALUATION_PASSES = 4  # two images together, one alone, twice
FEWEST = 2  # images in training mode: batch norm takes no single one
TIMING_SHARE = 0.1  # of the limit, at most this goes into finding out how long an image takes
GROWTH = 4  # times as many images in each further timing: large batches cost less per image


@dataclass(frozen=True)
class Affordable:
    """num_images: tried forward and backward; 0 for none. evaluates: whether evaluation mode is tried."""

    num_images: int
    evaluates: bool

    def findings(self, wanted: int, image_seconds: float) -> list[Finding]:
        """What was left out, in words; nothing where all was done."""
        slow = f"preflight had too little time for this network ({image_seconds:.2g} s for an image)"
        again = "`convcraft doctor` with the same settings takes the time."
        if not self.num_images:
            left_out = "outputs, loss and gradients were not tried"
            more = "" if self.evaluates else ", nor evaluation mode"
            return [warning(f"{slow}: {left_out}{more}.", again)]
        if not self.evaluates:
            return [warning(f"{slow}: evaluation mode was not tried.", again)]
        if self.num_images < wanted:
            return [info(f"{slow}: it tried {self.num_images} images instead of {wanted}.", again)]
        return []


@dataclass(frozen=True)
class Clock:
    """seconds: the limit, counted from when the clock was made.

    run_passes: how often the run sends an image forward, at the least: a long run may wait longer for its check.
    """

    seconds: float
    run_passes: int = 0
    begun: float = field(default_factory=time.monotonic)

    def left(self, image_seconds: float) -> float:
        """Seconds, where one image takes so long forward."""
        allowed = max(self.seconds, RUN_SHARE * self.run_passes * image_seconds)
        return allowed - (time.monotonic() - self.begun)

    def image_seconds(self, twin: nn.Module, images: Tensor) -> float:
        """How long an image takes forward, as the quickest of ever larger batches shows; 0.0 where the network stops.

        Args:
            twin: a copy of the network; left in evaluation mode.
        """
        twin.eval()
        started, best, count = time.monotonic(), float("inf"), 1
        while True:
            begun = time.monotonic()
            try:
                with torch.no_grad():
                    twin(images[:count])
            except MISFITS:  # told by the checks themselves
                return 0.0
            best = min(best, (time.monotonic() - begun) / count)
            everything = (TRAINING_PASSES * len(images) + EVALUATION_PASSES) * best
            spent, count = time.monotonic() - started, GROWTH * count
            if everything <= self.left(best) or count > len(images):
                return best
            if spent + count * best > TIMING_SHARE * self.seconds:
                return best

    def affordable(self, wanted: int, image_seconds: float) -> Affordable:
        """How much fits into what is left; the pass in training mode, which shows most, goes before evaluation."""
        if image_seconds <= 0:
            return Affordable(wanted, evaluates=True)
        passes = self.left(image_seconds) / image_seconds
        least = min(FEWEST, wanted) * TRAINING_PASSES
        if passes < least:
            return Affordable(0, evaluates=passes >= EVALUATION_PASSES)
        evaluates = passes >= least + EVALUATION_PASSES
        count = int((passes - EVALUATION_PASSES * evaluates) / TRAINING_PASSES)
        return Affordable(min(wanted, count), evaluates)
