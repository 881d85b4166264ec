"""Student's t distribution for whole degrees of freedom, so that neither calibration nor report needs scipy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np


def within(t: float, freedom: int) -> float:
    """P(|T| < t) for Student's T with `freedom` >= 1 degrees of freedom.

    Abramowitz and Stegun, Handbook of Mathematical Functions, equations 26.7.3 and 26.7.4.
    """
    theta = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(theta), math.sin(theta)
    if freedom % 2 == 0:
        term = total = 1.0
        for k in range(2, freedom - 1, 2):
            term *= (k - 1) / k * cosine**2
            total += term
        return sine * total
    term, total = cosine, 0.0
    for k in range(1, freedom - 1, 2):
        total += term
        term *= (k + 1) / (k + 2) * cosine**2
    return 2 / math.pi * (theta + sine * total)


@cache
def quantile(probability: float, freedom: int) -> float:
    """The t that Student's T stays below with `probability` in (0.5, 1), by bisection to the last bits."""
    low, high = 0.0, 1.0
    inside = 2 * probability - 1
    while within(high, freedom) < inside:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, freedom) < inside else (low, middle)
    return (low + high) / 2


def upper_limit(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> float:
    """One-sided upper confidence limit of the mean of `values` (1-D); NaN for fewer than two."""
    count = len(values)
    if count < 2:
        return math.nan
    return float(np.mean(values) + quantile(confidence, count - 1) * np.std(values, ddof=1) / math.sqrt(count))
