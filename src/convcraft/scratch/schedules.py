"""Learning rates that change: factors of the base rate as plain functions of the step.

optimizer.groups[0]["learning_rate"] = base_rate * cosine(step, total_steps, warmup_steps=100)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from convcraft.scratch.checks import refuse


def warmup(step: int, warmup_steps: int) -> float:
    """From nearly 0 to 1 in a straight line: (step + 1) / (warmup_steps + 1), then 1. Goyal et al. 2017."""
    _check(step, warmup_steps)
    return min(1.0, (step + 1) / (warmup_steps + 1))


def step_decay(step: int, milestones: Sequence[int], factor: float = 0.1, warmup_steps: int = 0) -> float:
    """Times `factor` at each milestone (a step number), after a warm-up. He et al. 2016 train so."""
    _check(step, warmup_steps)
    return warmup(step, warmup_steps) * factor ** sum(step >= milestone for milestone in milestones)


def cosine(step: int, total_steps: int, warmup_steps: int = 0, final_factor: float = 0.0) -> float:
    """From 1 to final_factor along half a cosine after a warm-up. Loshchilov & Hutter 2017, arXiv 1608.03983."""
    _check(step, warmup_steps)
    if step < warmup_steps:
        return warmup(step, warmup_steps)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final_factor + (1 - final_factor) * (1 + math.cos(math.pi * progress)) / 2


def _check(step: int, warmup_steps: int) -> None:
    if step < 0 or warmup_steps < 0:
        raise refuse(f"step={step}, warmup_steps={warmup_steps}", "numbers of at least 0", "The first step is 0.")
