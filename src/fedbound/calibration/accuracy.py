"""The largest bound that keeps accuracy: bisection over a logarithmic grid, each point a paired test over seeds.

A reconstruction: FedCSpc (Z. Zhang et al., IEEE TPDS 2025) adapts its bound "to guarantee the model accuracy", but only
its abstract could be read; neither its algorithm nor its criterion is known to us. Ours: a scale is accepted when the
one-sided 95 % upper confidence limit of the accuracy drop (paired t over seeds) is within the tolerance, at it *and*
at the next smaller grid point, because near the knee the curve is noisy and not monotone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# 0.95 quantile of Student's t by degrees of freedom (Abramowitz & Stegun, table 26.10)
_T95 = {2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015, 6: 1.943, 7: 1.895, 8: 1.860, 9: 1.833, 14: 1.761, 19: 1.729, 29: 1.699}


@dataclass(frozen=True)
class Decision:
    """The outcome of the search.

    Attributes:
        accepted: the largest accepted scale; 0 where none was.
        refused: the smallest refused scale above it; NaN where none was refused.
    """

    accepted: float
    refused: float


def grid(smallest: float, largest: float, per_decade: int) -> list[float]:
    """Scales from `smallest` to `largest`, `per_decade` per factor of ten, rounded to three digits, ascending."""
    count = max(1, round(math.log10(largest / smallest) * per_decade))
    points = smallest * (largest / smallest) ** (np.arange(count + 1) / count)
    return [float(f"{point:.3g}") for point in points]


def upper_limit(drops: Sequence[float]) -> float:
    """One-sided 95 % upper confidence limit of the mean of paired differences (Student's t)."""
    n = len(drops)
    quantile = _T95[max(df for df in _T95 if df <= n - 1)]
    return float(np.mean(drops) + quantile * np.std(drops, ddof=1) / math.sqrt(n))


def search(scales: Sequence[float], keeps: Callable[[float], bool]) -> Decision:
    """Largest scale of an ascending grid at which `keeps` holds, as does it at the next smaller one.

    Bisection assumes a knee; the check of the neighbour moves the answer down where noise lifted one point.
    """
    low, high = -1, len(scales)  # low: known to keep (or nothing does), high: known to break (or beyond the grid)
    while high - low > 1:
        middle = (low + high) // 2
        if keeps(scales[middle]):
            low = middle
        else:
            high = middle
    while low > 0 and not keeps(scales[low - 1]):
        high, low = low - 1, low - 2
        while low >= 0 and not keeps(scales[low]):
            high, low = low, low - 1
    return Decision(scales[low] if low >= 0 else 0.0, scales[high] if high < len(scales) else math.nan)
