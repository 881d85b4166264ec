"""Entropy of quantised values, the yardstick of every codec; `rans.py` beside it codes at that entropy."""

from __future__ import annotations

import numpy as np


def entropy_bits(values: np.ndarray, bound: float) -> float:
    """Empirical entropy of round(x / (2 bound)), bits per value: the least that coding them one by one can take.

    Args:
        values: float32 or float64 values of any shape.
        bound: absolute bound; with 0 the values are exact and take the bits of their dtype.
    """
    if not values.size:
        return 0.0
    if bound <= 0:
        return 8.0 * values.itemsize
    symbols = np.rint(values.reshape(-1).astype(np.float64) / (2 * bound))
    counts = np.unique(symbols, return_counts=True)[1]
    share = counts / values.size
    return max(0.0, float(-(share * np.log2(share)).sum()))
