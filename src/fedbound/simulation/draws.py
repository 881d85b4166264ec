"""Random numbers that depend on what they are for, not on when they are asked for."""

from __future__ import annotations

import numpy as np

_MASK = 2**64 - 1


class Pool:
    """A distribution given by its values: draws from them with replacement.

    A draw is a function of (seed, subject, index) by the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014),
    so two engines that report simultaneous events in different order see the same draws, and a million clients need no
    state.

    Args:
        values: (m,) float64, equally likely.
        seed: of the draws.
    """

    def __init__(self, values: np.ndarray, seed: int = 0):
        self.values: list[float] = np.asarray(values, np.float64).tolist()
        self.start = _mixed(seed + 0x9E3779B97F4A7C15)

    def draw(self, subject: int, index: int) -> float:
        key = _mixed(self.start ^ _mixed(subject * 0x9E3779B97F4A7C15 + index * 0xD1342543DE82EF95 + 1))
        return self.values[key % len(self.values)]


def _mixed(x: int) -> int:
    x &= _MASK
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)
