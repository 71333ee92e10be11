"""Random numbers that are a pure function of (seed, epoch, sample): nothing to save, nothing to replay on resume.

A counter is hashed instead of a generator being advanced (the idea of Salmon et al. 2011, "Parallel random numbers: as
easy as 1, 2, 3"), so that any worker, in any order, draws the same numbers for the same image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: SplitMix64's increment


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): every input bit reaches every output bit."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def uniforms(seed: int, epoch: int, ids: NDArray[np.int64], num_draws: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) for each sample.

    Args:
        ids: int64 [B], index of each sample in its set.
        num_draws: numbers per sample; draw j of a sample does not depend on num_draws.

    Returns:
        float64 [B, num_draws].
    """
    run = _mix(np.array([seed], np.uint64) * _GOLDEN + np.uint64(1))
    moment = _mix(run + np.array([epoch], np.uint64) * _GOLDEN)
    keys = _mix(moment ^ _mix(ids.astype(np.uint64) * _GOLDEN + np.uint64(2)))
    counters = np.arange(1, num_draws + 1, dtype=np.uint64) * _GOLDEN
    words = _mix(keys[:, None] + counters)  # [B, num_draws]
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def epoch_order(seed: int, epoch: int, num_samples: int) -> NDArray[np.int64]:
    """The order in which an epoch visits the samples: int64 [num_samples], a permutation."""
    return np.random.default_rng([seed, epoch]).permutation(num_samples)
