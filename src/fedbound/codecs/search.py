"""Bound search: the largest bound for a target ratio, the smallest bound for a byte budget.

After FRaZ (Underwood et al., IPDPS 2020, arXiv 2001.06139), which searches the bound of a target ratio by trial
compressions. Here the first guess comes from the entropy of the quantised values, which says within some per cent what
a codec without prediction reaches, and the search is a bisection on a fixed geometric grid: what is found depends on
the values alone and not on the guess, so that a resumed run finds the same. It assumes that a larger bound does not
take more bytes; where a codec breaks that near the answer, the bound found is one at which the next grid point crosses
the target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedbound.codecs import Codec
from fedbound.codecs.entropy import entropy_bits

PER_OCTAVE = 16  # grid points per factor of two: neighbouring bounds are 4.4 % apart
_LOWEST = -40 * PER_OCTAVE  # finest grid point: 2^-40 of the unit, below float32's own resolution
_SAMPLE = 1 << 17  # values that the entropy is predicted from
_HEAD_BITS = 8 * 40  # what a payload takes besides its values, roughly


@dataclass(frozen=True)
class Found:
    """A bound, the bytes it takes, and the encodings that were tried to find it."""

    bound: float
    size: int
    tried: int


def for_budget(codec: Codec, x: np.ndarray, budget: int, guess: float | None = None) -> Found:
    """The smallest bound of the grid at which `x` takes at most `budget` bytes.

    Args:
        codec: an error-bounded codec.
        x: finite float32 or float64 values of any shape.
        budget: bytes of the payload.
        guess: a bound to start from, such as the last round's; predicted from the entropy where it is None.

    Raises:
        ValueError: not even the loosest bound, at which all values decode to 0, takes so few bytes.
    """
    return smallest_scale(codec, [x], [_magnitude(x)], budget, guess)


def for_ratio(codec: Codec, x: np.ndarray, ratio: float, guess: float | None = None) -> Found:
    """The largest bound of the grid at which raw bytes over payload bytes do not exceed `ratio`.

    Raises:
        ValueError: the ratio is below what the finest bound gives, or not above 0.
    """
    if not ratio > 0:
        raise ValueError(f"the target ratio {ratio} is not above 0")
    trial = _Trial(codec, [x], [_magnitude(x)])
    least = x.nbytes / ratio
    start = _grid_point(trial, least, guess)
    edge = _edge(lambda k: trial.size(k) < least, start)
    if edge == _LOWEST:
        raise ValueError(f"a ratio of {ratio:g} is exceeded at the finest bound; send the values losslessly")
    return trial.found(edge - 1)


def smallest_scale(
    codec: Codec, parts: Sequence[np.ndarray], units: Sequence[float], budget: float, guess: float | None = None
) -> Found:
    """The smallest common scale at which all parts together take at most `budget` bytes, bound_i = scale * units_i.

    Args:
        codec: an error-bounded codec.
        parts: arrays of finite values.
        units: what the scale multiplies, one per array, such as value ranges; an array of unit 0 is sent exactly.
        budget: bytes of all payloads together.
        guess: a scale to start from.

    Returns:
        `bound` is the scale.

    Raises:
        ValueError: not even scale 1 takes so few bytes.
    """
    trial = _Trial(codec, parts, units)
    edge = _edge(lambda k: trial.size(k) <= budget, _grid_point(trial, budget, guess))
    if edge > 0:
        raise ValueError(
            f"{budget:.0f} bytes cannot hold {sum(part.size for part in parts)} values with {codec.name!r}: "
            f"the loosest bound takes {trial.size(0)}; allow more bytes"
        )
    return trial.found(edge)


class _Trial:
    """Sizes of grid points, each encoded at most once."""

    def __init__(self, codec: Codec, parts: Sequence[np.ndarray], units: Sequence[float]):
        self.codec = codec
        self.parts = parts
        self.units = units
        self.scaled = max(units, default=0.0) if len(units) == 1 else 1.0
        self.sizes: dict[int, int] = {}

    def size(self, k: int) -> int:
        if k not in self.sizes:
            scale = _scale(k)
            pairs = zip(self.parts, self.units, strict=True)
            self.sizes[k] = sum(len(self.codec.encode(part, scale * unit)) for part, unit in pairs)
        return self.sizes[k]

    def predicted(self, k: int) -> float:
        """Bytes by the entropy of at most 2^17 values of each part."""
        bits = 0.0
        for part, unit in zip(self.parts, self.units, strict=True):
            flat = part.reshape(-1)[:: max(1, part.size // _SAMPLE)]
            bits += part.size * _bits_per_value(flat, unit, k) + _HEAD_BITS
        return bits / 8

    def found(self, k: int) -> Found:
        size = self.size(k)
        return Found(_scale(k) * self.scaled, size, len(self.sizes))


def _scale(k: int) -> float:
    return 2.0 ** (k / PER_OCTAVE)


def _bits_per_value(sample: np.ndarray, unit: float, k: int) -> float:
    """Entropy at grid point `k`; where quanta hardly repeat it says little, and each octave takes one more bit."""
    if not unit or not sample.size:
        return 8.0 * sample.itemsize
    more = 0
    found = entropy_bits(sample, _scale(k) * unit)
    while found > max(1.0, math.log2(sample.size) - 5) and k + more * PER_OCTAVE < 0:
        more += 1
        found = entropy_bits(sample, _scale(k + more * PER_OCTAVE) * unit)
    return found + more


def _grid_point(trial: _Trial, budget: float, guess: float | None) -> int:
    """Where to start: the point nearest to the guess, or the one whose predicted size meets the budget."""
    if guess and guess > 0 and trial.scaled > 0:
        return max(_LOWEST, min(0, round(PER_OCTAVE * math.log2(guess / trial.scaled))))
    low, high = _LOWEST, 0
    while low < high:
        middle = (low + high) // 2
        if trial.predicted(middle) <= budget:
            high = middle
        else:
            low = middle + 1
    return low


def _edge(holds: Callable[[int], bool], start: int) -> int:
    """The smallest grid point from which `holds` is true, found outwards from `start`; 1 where it is true nowhere."""
    step = 1
    if holds(start):
        high, low = start, start - 1
        while low >= _LOWEST and holds(low):
            high, low, step = low, low - 2 * step, 2 * step
        low = max(low, _LOWEST - 1)
    else:
        low, high = start, start + 1
        while high <= 0 and not holds(high):
            low, high, step = high, high + 2 * step, 2 * step
        high = min(high, 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _magnitude(x: np.ndarray) -> float:
    """max |x|: with this bound every quantum is 0."""
    return max(abs(float(x.max())), abs(float(x.min()))) if x.size else 0.0
