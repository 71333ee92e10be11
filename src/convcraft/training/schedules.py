"""The learning rate as a factor of its base value: a function of the step, except for plateau, which listens."""

from __future__ import annotations

import math
from dataclasses import dataclass

from convcraft.config import ScheduleConfig


def factor_at(config: ScheduleConfig, step: int, total_steps: int, steps_per_epoch: int) -> float:
    """The factor for optimiser step `step` (0 is the first) of total_steps.

    constant, step, cosine and plateau start with a linear warm-up; one_cycle has its own.
    """
    if config.name == "one_cycle":
        return _one_cycle(config, step, total_steps)
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if config.name == "step":
        return config.step_factor ** sum(step >= epoch * steps_per_epoch for epoch in config.step_epochs)
    if config.name == "cosine":
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return _cosine(1.0, config.final_fraction, progress)
    return 1.0  # constant; plateau's own factor is multiplied in by the loop


def _cosine(start: float, end: float, progress: float) -> float:
    """From start to end along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5)."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _one_cycle(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """Up to the peak, then down to the end (Smith & Topin 2018, arXiv:1708.07120), both along a cosine."""
    peak_step = config.peak_fraction * total_steps
    if step < peak_step:
        return _cosine(config.start_fraction, 1.0, step / peak_step)
    return _cosine(1.0, config.final_fraction, (step - peak_step) / (total_steps - peak_step))


@dataclass
class Plateau:
    """Lowers the rate when the validation loss stops falling; its state travels in the checkpoint."""

    factor: float = 1.0
    best_loss: float = math.inf
    bad_epochs: int = 0

    def update(self, config: ScheduleConfig, val_loss: float) -> None:
        if val_loss < self.best_loss:
            self.best_loss, self.bad_epochs = val_loss, 0
            return
        self.bad_epochs += 1
        if self.bad_epochs > config.plateau_patience_epochs:
            self.factor, self.bad_epochs = self.factor * config.step_factor, 0
