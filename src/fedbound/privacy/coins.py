"""Counts of biased coins, another bias for each coordinate: what the Poisson-binomial mechanism sends.

Bin(m, p) is Bin(m, g) + Bin(m - first, (p - g)/(1 - g)) for any g <= p: a coin that failed at bias g gets a second
chance. With g the next lower of a grid of biases the first term is looked up (`integer_sampler`), and the second is 0
but for a few coordinates in a hundred (of many coins, in ten), where it is found by inversion. Grid, p - g and the
first term are exact; the second is as exact as float64 is. Source: `integer_sampler`; the split is the usual thinning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fedbound.privacy import integer_sampler
from fedbound.privacy.integer_sampler import Inversion, bits16

_CELL_BITS = 12
_MOST_BIASES = 1100  # of the grid: 9 MB of cells
_MOST_OUTCOMES = 1 << 19  # of all biases together: 8 MB of probabilities
_SECOND = (0.25, 0.5, 1.0)  # most second successes that are expected: the finest grid of these that is not too large
_WORTH = 3  # counts per outcome for which making a table is worth while: it pays when it has been used some 8 times
_OF_BIAS = 64  # outcomes that take as long to make as the cells of a bias do
_AT_ONCE = 1 << 15  # counts in a block, so that temporaries stay in the cache


def counts(trials: int, bias: np.ndarray, theta: float, rng: np.random.Generator) -> np.ndarray:
    """Bin(trials, bias), int64 of the shape of `bias`, which is float64 within `theta` < 1/2 of 1/2.

    Few counts, or coins so many that a grid's table would take more than 17 MB, are numpy's to draw.
    """
    shape = _shape(trials, theta)
    if not _fits(trials, shape.biases) or bias.size < _WORTH * shape.biases * (trials + _OF_BIAS):
        return rng.binomial(trials, bias)
    grid = _grid(trials, shape)
    flat, drawn = bias.ravel(), np.empty(bias.size, np.int64)
    for start in range(0, bias.size, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        drawn[part] = grid.draw(flat[part], rng)
    return drawn.reshape(bias.shape)


@dataclass(frozen=True)
class _Shape:
    """A grid of biases first/steps, (first + 1)/steps, ...; `steps` is a power of two, so that they are exact."""

    steps: int
    first: int
    biases: int
    least_failure: float  # lower bound on 1 - bias


def _shape(trials: int, theta: float) -> _Shape:
    least = 0.5 - theta
    for second in _SECOND:
        steps = 1 << max(1, math.ceil(math.log2(trials / (second * least))))
        first = math.floor(least * steps)
        biases = math.floor((0.5 + theta) * steps) - first + 1
        if _fits(trials, biases):
            break
    return _Shape(steps, first, biases, least)


def _fits(trials: int, biases: int) -> bool:
    return biases <= _MOST_BIASES and biases * (trials + 1) <= _MOST_OUTCOMES and trials < 1 << 15


@dataclass(frozen=True)
class Grid:
    """Counts of `trials` coins at each bias of a grid, as tables."""

    trials: int
    shape: _Shape
    table: Inversion

    def draw(self, bias: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Bin(trials, bias), float64 [n] to int64 [n]."""
        scaled = bias * self.shape.steps - self.shape.first
        rows = scaled.astype(np.int64)
        np.clip(rows, 0, self.shape.biases - 1, out=rows)
        found = self.table.draw(len(bias), rng, rows)
        above = scaled - rows
        np.maximum(above, 0.0, out=above)  # a bias that rounding put below the grid
        left = self.trials - found
        # P(second > 0) <= left above / steps / (1 - bias) <= ceiling / 2^16
        ceiling = above * (65536 / (self.shape.steps * self.shape.least_failure))
        ceiling *= left
        ceiling += 1
        chosen = np.flatnonzero(bits16(len(bias), rng) < ceiling)
        grid = (rows[chosen] + self.shape.first) / self.shape.steps
        again = above[chosen] / self.shape.steps / (1 - grid)
        certain = np.minimum(np.ceil(ceiling[chosen]), 65536) / 65536  # the probability of having been chosen
        found[chosen] += _truncated(left[chosen], again, certain * rng.random(len(chosen)))
        return found


def _truncated(trials: np.ndarray, bias: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Numbers k with P(Bin(trials, bias) > k) <= uniform, float64 [n], small ones are few: int64 [n]."""
    found = np.zeros(len(trials), np.int64)
    odds = bias / (1 - bias)
    pmf = np.exp(trials * np.log1p(-bias))
    tail = -np.expm1(trials * np.log1p(-bias))  # P(more than `found`)
    active = np.flatnonzero(uniform < tail)
    while len(active):
        found[active] += 1
        k = found[active]
        pmf[active] *= odds[active] * (trials[active] - k + 1) / k
        tail[active] -= pmf[active]
        active = active[(uniform[active] < tail[active]) & (k < trials[active])]
    return found


@lru_cache(maxsize=4)
def _grid(trials: int, shape: _Shape) -> Grid:
    biases = range(shape.first, shape.first + shape.biases)
    cdfs = [integer_sampler.cumulative(_weights(trials, bias, shape.steps)) for bias in biases]
    return Grid(trials, shape, Inversion(cdfs, _CELL_BITS))


def _weights(trials: int, numerator: int, denominator: int) -> list[int]:
    """In proportion to the pmf of Bin(trials, numerator/denominator), with some 190 digits' bits at the likeliest."""
    success, failure = numerator, denominator - numerator
    middle = trials * numerator // denominator
    upper = [1 << 192]
    for z in range(middle, trials):
        upper.append(upper[-1] * ((trials - z) * success) // ((z + 1) * failure))
    lower = [1 << 192]
    for z in range(middle, 0, -1):
        lower.append(lower[-1] * (z * failure) // ((trials - z + 1) * success))
    return lower[:0:-1] + upper
