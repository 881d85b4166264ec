"""Exact draws of integer noise that has one law for all coordinates: tables that are looked up by random bits.

A law is held as cumulative probabilities in whole units of 2^-128, and a draw is the least outcome whose cumulative
probability exceeds a uniform number of 128 bits (inversion). Sixteen bits name one of 65,536 cells of equal
probability; where a cell lies within one outcome that is the draw, and no more bits are asked for. In the few cells
that several outcomes share, 112 more bits are drawn and the outcomes searched by bisection. The ideas, not the exact
procedures, are those of Chen, Asau, "On Generating Random Variates from an Empirical Distribution", AIIE Transactions 6
(1974), of inversion with a table of cells, and Marsaglia, Tsang, Wang, "Fast Generation of Discrete Random Variables",
Journal of Statistical Software 11(3), 2004, of looking bits up.

Laws of many outcomes are a mixture: blocks of 2^w neighbours with the probability of the least likely of them, in which
w more bits choose one, and with a probability of a per cent or so the rest, by the tables above (composition).

Exactness. Weights are integers of hundreds of bits, from recurrences; outcomes left out have together less than
2^-138, and rounding down to units of 2^-128 moves less than 2^-128 per outcome: the law drawn from differs from the
exact one by less than 2^-109 in total variation, given uniform bits. No floating-point number is compared. What the
bits are worth is the generator's matter.

Memory: a table takes 0.1 to 0.4 MB, and 16 bytes per outcome. Beyond `MOST_OUTCOMES` there is none.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np

MOST_OUTCOMES = 1 << 18  # 28 standard deviations: noise of a standard deviation up to some 9,400
UNIT_BITS = 128  # probabilities are multiples of 2^-128
_CELL_BITS = 16
_TAIL = 140  # outcomes are held as long as their tail may be above 2^-140
_NARROW = 1 << 11  # outcomes that are looked up without blocks
_AT_ONCE = 1 << 15  # draws in a block, so that temporaries stay in the cache
_FIXED = 320  # binary digits of fixed-point numbers that weights are computed with


class Inversion:
    """Laws on 0..k-1 that are drawn by inversion, from tables of cells.

    Args:
        cdfs: for each law the k cumulative probabilities in units of 2^-128; they grow, and end with 2^128.
        cell_bits: 2^this cells; at most 16.
    """

    def __init__(self, cdfs: Sequence[Sequence[int]], cell_bits: int = _CELL_BITS):
        self.outcomes, self.cell_bits = len(cdfs[0]), cell_bits
        full = (1 << UNIT_BITS) - 1
        packed = b"".join(min(units, full).to_bytes(16, "little") for cdf in cdfs for units in cdf)
        words = np.frombuffer(packed, "<u8").reshape(-1, 2).astype(np.uint64)
        self.low, self.high = np.ascontiguousarray(words[:, 0]), np.ascontiguousarray(words[:, 1])
        self.last = np.array([bisect_left(cdf, full + 1) for cdf in cdfs])  # held as `full`, and never exceeded
        kind = np.int16 if self.outcomes < 1 << 15 else np.int32
        self.known = np.concatenate([self._cells(row) for row in range(len(cdfs))]).astype(kind)

    def _cells(self, row: int) -> np.ndarray:
        """For each cell of a law its one outcome, or -1 where it may have several: int64 [cells]."""
        part = slice(row * self.outcomes, (row + 1) * self.outcomes)
        high, low = self.high[part], self.low[part]
        never = int(np.count_nonzero((high == 0) & (low == 0)))  # outcomes at the beginning without probability
        shift = np.uint64(64 - self.cell_bits)
        starts = np.arange(1 << self.cell_bits, dtype=np.uint64) << shift
        ends = starts | ((np.uint64(1) << shift) - np.uint64(1))
        # a number is below a cumulative probability where it is at most the whole number before that
        first = never + np.searchsorted(high[never:] - (low[never:] == 0), starts, side="left")
        last = np.minimum(np.searchsorted(high, ends, side="right"), self.last[row])
        return np.where(first == last, first, -1)

    def draw(self, count: int, rng: np.random.Generator, rows: np.ndarray | None = None) -> np.ndarray:
        """Outcomes int64 [count]; of the laws `rows`, int64 [count], or all of the only one."""
        cells = bits16(count, rng) >> np.uint16(16 - self.cell_bits)
        at = cells if rows is None else (rows << self.cell_bits) | cells
        found = self.known.take(at).astype(np.int64)
        shared = np.flatnonzero(found < 0)
        if len(shared):
            more = _words(2 * len(shared), rng).reshape(2, -1)
            high = cells[shared].astype(np.uint64) << np.uint64(64 - self.cell_bits)
            high |= more[0] >> np.uint64(self.cell_bits)
            found[shared] = self.invert(high, more[1], 0 if rows is None else rows[shared])
        return found

    def invert(self, high: np.ndarray, low: np.ndarray, rows: np.ndarray | int = 0) -> np.ndarray:
        """The least outcomes whose probability up to them exceeds 2^64 `high` + `low`, uint64 [n]: int64 [n]."""
        offsets = rows * self.outcomes
        least = np.zeros(len(high), np.int64)
        most = np.full(len(high), self.outcomes - 1)
        for _ in range(self.outcomes.bit_length()):
            middle = (least + most) >> 1
            held = self.high[offsets + middle]
            beyond = (high > held) | ((high == held) & (low >= self.low[offsets + middle]))
            least, most = np.where(beyond, middle + 1, least), np.where(beyond, most, middle)
        return np.minimum(least, self.last[rows])


@dataclass(frozen=True)
class IntegerLaw:
    """A law on consecutive integers.

    Attributes:
        lowest: the least of them.
        width_bits: blocks hold 2^this of them.
        blocks: which block; one more outcome stands for the rest where that is not None.
        rest: what blocks leave over, from `lowest` on.
    """

    lowest: int
    width_bits: int
    blocks: Inversion
    rest: Inversion | None

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Independent draws, int64 of `shape`."""
        drawn = np.empty(math.prod(shape), np.int64)
        for start in range(0, len(drawn), _AT_ONCE):
            part = drawn[start : start + _AT_ONCE]
            part[:] = self._some(len(part), rng)
        return drawn.reshape(shape)

    def _some(self, count: int, rng: np.random.Generator) -> np.ndarray:
        found = self.blocks.draw(count, rng)
        if self.rest is not None:
            left = np.flatnonzero(found == self.blocks.outcomes - 1)
            found <<= self.width_bits
            found |= bits16(count, rng) & np.uint16((1 << self.width_bits) - 1)
            found[left] = self.rest.draw(len(left), rng)
        found += self.lowest
        return found


@lru_cache(maxsize=8)
def skellam(variance: float) -> IntegerLaw | None:
    """Poisson(v/2) - Poisson(v/2); None where the table would be too large.

    Probabilities are in proportion to the Bessel functions I_z(v), which are computed downwards, where that is stable:
    I_{z-1} = I_{z+1} + (2z/v) I_z (Miller).
    """
    reach = _reach(lambda z: z * math.asinh(z / variance) - z**2 / (math.hypot(z, variance) + variance))
    if reach is None:
        return None
    numerator, denominator = variance.as_integer_ratio()
    per = (denominator << (_FIXED + 1)) // numerator  # 2/v
    above, here = 0, 1 << 192
    weights = [here]
    for z in range(reach, 0, -1):
        above, here = here, above + ((here * z * per) >> _FIXED)
        weights.append(here)
    return _symmetric(weights[::-1])


@lru_cache(maxsize=8)
def discrete_gaussian(variance: float) -> IntegerLaw | None:
    """P(z) in proportion to exp(-z^2 / 2v); None where the table would be too large."""
    reach = _reach(lambda z: z**2 / (2 * variance))
    if reach is None:
        return None
    exact = Context(prec=160, Emin=-(10**6), Emax=10**6)
    per = exact.divide(Decimal(-1), Decimal(2 * variance))
    ratio, change = (
        int(exact.multiply(exact.exp(power), Decimal(1 << _FIXED))) for power in (per, exact.multiply(per, 2))
    )
    weights = [1 << _FIXED]
    for _ in range(reach):
        weights.append((weights[-1] * ratio) >> _FIXED)
        ratio = (ratio * change) >> _FIXED  # exp(-(2z+1)/2v) for the next z
    return _symmetric(weights)


@lru_cache(maxsize=8)
def centred_binomial(trials: int) -> IntegerLaw | None:
    """Bin(m, 1/2) - m/2 for an even m = `trials`; None where the table would be too large."""
    half = trials // 2
    reach = _reach(lambda z: 2 * z**2 / trials)  # Hoeffding
    if reach is None:
        return None
    weights = [1 << _FIXED]
    for z in range(min(reach, half)):
        weights.append(weights[-1] * (half - z) // (half + z + 1))
    return _symmetric(weights)


def cumulative(weights: Sequence[int]) -> list[int]:
    """Cumulative probabilities in units of 2^-128, rounded down, of outcomes with these weights."""
    sums = list(accumulate(weights))
    return [(part << UNIT_BITS) // sums[-1] for part in sums]


def bits16(count: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform uint16 [count], the same on every machine."""
    return _words(-(-count // 4), rng).astype("<u8", copy=False).view("<u2")[:count]


def _words(count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, (1 << 64) - 1, count, dtype=np.uint64, endpoint=True)


def _reach(exponent: Callable[[float], float]) -> int | None:
    """The least z up to which outcomes are held: exp(-exponent(z)) bounds the tail from z on. None: too many."""
    low, high = 0, MOST_OUTCOMES // 2
    wanted = _TAIL * math.log(2)
    if exponent(high) < wanted:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if exponent(middle) < wanted else (low, middle)
    return high


def _symmetric(half: list[int]) -> IntegerLaw:
    """The law on -r..r whose weights from 0 on are these r + 1."""
    cdf = cumulative(half[:0:-1] + half)
    lowest = 1 - len(half)
    if len(cdf) <= _NARROW:
        return IntegerLaw(lowest, 0, Inversion([cdf]), None)
    width_bits = (len(cdf) - 1).bit_length() - (_NARROW.bit_length() - 1)
    width = 1 << width_bits
    pmf = [upper - lower for lower, upper in pairwise([0, *cdf])]
    floors = [min(pmf[start : start + width]) for start in range(0, len(pmf) - width + 1, width)]
    blocks = list(accumulate(width * floor for floor in floors))
    rest = [units - floors[i >> width_bits] if i >> width_bits < len(floors) else units for i, units in enumerate(pmf)]
    return IntegerLaw(lowest, width_bits, Inversion([[*blocks, 1 << UNIT_BITS]]), Inversion([cumulative(rest)]))
