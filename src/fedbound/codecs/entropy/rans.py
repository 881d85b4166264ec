"""Kernels of the codec `ebq`: quantising to tokens, and range ANS over four interleaved states.

Asymmetric numeral systems: Duda, "Asymmetric numeral systems: entropy coding combining speed of Huffman coding with
compression rate of arithmetic coding", 2013 (arXiv 1311.2540), the range variant (rANS); interleaving: Giesen,
"Interleaved entropy coders", 2014 (arXiv 1402.3392).

A state lies in [2^31, 2^47) and sheds 16 bits at a time, at most once per token. Four states take turns, so that four
tokens are in flight in the processor. All integers are signed 64-bit: numba makes floats of mixed signs.

Tokens. A quantised value q is 0, or its sign and magnitude: magnitudes below 2^(M+1) are tokens of their own, larger
ones share a token per 2^-M of their octave and send the rest as raw bits. Within such a token a smooth density hardly
changes, and the alphabet stays below two thousand however wide the values spread. A smaller M makes a smaller table,
which pays where there are few values to learn it from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numba
import numpy as np

FINEST = 5  # M with which values are quantised first
LARGEST = (1 << 31) - 1  # of |q|
STATES = 4
MOST_BITS = 16  # of a frequency table
LOW = 1 << 31


def compiled(function: Any) -> Any:
    """Compile without Python's lock; on disk where there is a folder to write to, so that later processes load it."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither beside this file nor in the user's cache folder
        return numba.njit(nogil=True)(function)


@dataclass(frozen=True)
class Tokens:
    """The tokens for one M.

    Attributes:
        base: int64, the signed q at which each token starts, the one next to 0.
        raw: int64, raw bits that follow each token.
        of_finest: uint16, the token to which each token of `FINEST` belongs.
    """

    base: np.ndarray
    raw: np.ndarray
    of_finest: np.ndarray


@cache
def tokens_of(mantissa: int) -> Tokens:
    """The tokens for M = `mantissa`, at most `FINEST`."""
    direct, octaves = 1 << (mantissa + 1), 31 - mantissa - 1
    magnitudes = list(range(direct))
    widths = [0] * direct
    for extra in range(1, octaves + 1):
        magnitudes += [((1 << mantissa) + part) << extra for part in range(1 << mantissa)]
        widths += [extra] * (1 << mantissa)
    base, raw = np.zeros(2 * len(widths) - 1, np.int64), np.zeros(2 * len(widths) - 1, np.int64)
    for t in range(1, len(widths)):
        base[2 * t - 1], base[2 * t] = magnitudes[t], -magnitudes[t]
        raw[2 * t - 1] = raw[2 * t] = widths[t]
    if mantissa == FINEST:
        return Tokens(base, raw, np.arange(base.size, dtype=np.uint16))
    finest = np.abs(tokens_of(FINEST).base)
    group = np.searchsorted(magnitudes, finest, side="right") - 1
    sign = (np.arange(finest.size) & 1).astype(np.int64)
    return Tokens(base, raw, (2 * group - sign).astype(np.uint16))


_DIRECT = 1 << (FINEST + 1)
_SHORT_LIMIT = 1 << 12


def _short_tokens() -> np.ndarray:
    """Unsigned finest token of each short magnitude."""
    starts = np.abs(tokens_of(FINEST).base[::2])
    return np.searchsorted(starts, np.arange(_SHORT_LIMIT), side="right") - 1


_SHORT = _short_tokens()


@compiled
def _cast(value: float, like: np.ndarray) -> Any:
    return like.dtype.type(value)


@compiled
def _long_token(a: int) -> int:
    extra = 12 - FINEST
    while a >> (extra + FINEST + 1):
        extra += 1
    return _DIRECT + (extra - 1) * (1 << FINEST) + ((a >> extra) & ((1 << FINEST) - 1))


@compiled
def quantise(
    x: np.ndarray, bound: float, step: float, tokens: np.ndarray, counts: np.ndarray, outliers: np.ndarray
) -> int:
    """The finest tokens of q = rint(x / step), and how often each occurs.

    A value whose reconstruction would miss the bound, in the dtype of `x`, becomes an outlier with token 0.

    Args:
        x: float32 or float64 [n], finite.
        tokens: uint16 [n], written.
        counts: int64 [4, number of the finest tokens], zeros, added to.
        outliers: uint32, written: their indices.

    Returns:
        The number of outliers; -1 when they do not fit.
    """
    inverse = 1.0 / step
    found = 0
    for i in range(x.size):
        scaled = np.float64(x[i]) * inverse
        token = 0
        if abs(scaled) < 2147483647.0:
            q = np.int64(np.rint(scaled))
            back = _cast(q * step, x)
            if np.float64(abs(x[i] - back)) <= bound:
                a = abs(q)
                t = _SHORT[a] if a < _SHORT_LIMIT else _long_token(a)
                token = 2 * t - (q > 0)
            else:
                token = -1
        else:
            token = -1
        if token < 0:
            if found >= outliers.size:
                return -1
            outliers[found] = i
            found += 1
            token = 0
        tokens[i] = token
        counts[i & 3, token] += 1
    return found


@compiled
def split_runs(x: np.ndarray, tokens: np.ndarray, gaps: np.ndarray, others: np.ndarray, kept: np.ndarray) -> int:
    """Tokens other than 0 into `others`, their values into `kept`, the zeros before each, as floats, into `gaps`."""
    found = 0
    before = 0
    for i in range(tokens.size):
        if tokens[i]:
            others[found] = tokens[i]
            kept[found] = x[i]
            gaps[found] = i - before
            before = i + 1
            found += 1
    return found


@compiled
def join_runs(gaps: np.ndarray, kept: np.ndarray, out: np.ndarray) -> bool:
    """The values `kept` into `out`, and zeros between them; False where they reach beyond `out`."""
    out[:] = 0
    at: Any = 0
    for i in range(kept.size):
        if not 0 <= gaps[i] < out.size:
            return False
        at += np.int64(gaps[i])
        if at >= out.size:
            return False
        out[at] = kept[i]
        at += 1
    return True


@compiled
def raw_bits(x: np.ndarray, step: float, tokens: np.ndarray, raw: np.ndarray, words: np.ndarray) -> None:
    """The bits of |q| that the tokens leave open, least significant first, into `words` (int64, zeros)."""
    inverse = 1.0 / step
    position = 0
    for i in range(x.size):
        width = raw[tokens[i]]
        if width:
            rest = abs(np.int64(np.rint(np.float64(x[i]) * inverse))) & ((1 << width) - 1)
            word, offset = position >> 6, position & 63
            words[word] |= rest << offset
            if offset + width > 64:
                words[word + 1] |= rest >> (64 - offset)
            position += width


@compiled
def _push(state: int, frequency: int, start: int, reciprocal: float, table_bits: int) -> Any:
    """One rANS step; the quotient comes from a float that rounds down, is at most one too small, and is mended."""
    quotient = np.int64(state * reciprocal)
    rest = state - quotient * frequency
    over = np.int64(rest >= frequency)
    return ((quotient + over) << table_bits) + rest - over * frequency + start


@compiled
def encode(
    tokens: np.ndarray,
    frequency: np.ndarray,
    start: np.ndarray,
    table_bits: int,
    out: np.ndarray,
    at: int,
    states: np.ndarray,
) -> int:
    """Code `tokens` back to front, so that a decoder goes front to back; streams chain, the last one coded first.

    Args:
        tokens: uint16 [n].
        frequency: int64 [number of tokens], sum 2^table_bits, above 0 for each token that occurs, below 2^table_bits.
        start: int64 [number of tokens], sum of the frequencies before.
        out: uint16, at least n words before `at`; filled from there backwards.
        at: where the words coded so far begin; `out.size` before the first stream.
        states: int64 [4], `LOW` before the first stream; they are moved on.

    Returns:
        Index in `out` at which the words now begin.
    """
    reciprocal = np.empty(frequency.size, np.float64)
    for t in range(frequency.size):
        reciprocal[t] = (1.0 - 2.0**-50) / frequency[t] if frequency[t] else 0.0
    limit_shift = 47 - table_bits
    a, b, c, d = states[0], states[1], states[2], states[3]
    n = tokens.size
    i = n
    while i & 3:  # the tail, one token at a time
        i -= 1
        lane = i & 3
        state = a if lane == 0 else b if lane == 1 else c
        t = tokens[i]
        if state >= frequency[t] << limit_shift:
            at -= 1
            out[at] = state & 0xFFFF
            state >>= 16
        state = _push(state, frequency[t], start[t], reciprocal[t], table_bits)
        if lane == 0:
            a = state
        elif lane == 1:
            b = state
        else:
            c = state
    while i:
        i -= 4
        td, tc, tb, ta = tokens[i + 3], tokens[i + 2], tokens[i + 1], tokens[i]
        out[at - 1] = d & 0xFFFF
        full = d >= frequency[td] << limit_shift
        at -= full
        d >>= 16 * full
        d = _push(d, frequency[td], start[td], reciprocal[td], table_bits)
        out[at - 1] = c & 0xFFFF
        full = c >= frequency[tc] << limit_shift
        at -= full
        c >>= 16 * full
        c = _push(c, frequency[tc], start[tc], reciprocal[tc], table_bits)
        out[at - 1] = b & 0xFFFF
        full = b >= frequency[tb] << limit_shift
        at -= full
        b >>= 16 * full
        b = _push(b, frequency[tb], start[tb], reciprocal[tb], table_bits)
        out[at - 1] = a & 0xFFFF
        full = a >= frequency[ta] << limit_shift
        at -= full
        a >>= 16 * full
        a = _push(a, frequency[ta], start[ta], reciprocal[ta], table_bits)
    states[0], states[1], states[2], states[3] = a, b, c, d
    return at


@compiled
def _put_varint(data: np.ndarray, at: int, value: int) -> int:
    while value > 127:
        data[at] = value & 127 | 128
        value >>= 7
        at += 1
    data[at] = value
    return at + 1


@compiled
def pack_table(frequency: np.ndarray, data: np.ndarray) -> int:
    """Write the varints of `frequency` (int64), up to the last one above 0, into `data` (uint8); returns the bytes."""
    last = frequency.size - 1
    while last > 0 and not frequency[last]:
        last -= 1
    at = 0
    zeros = 0
    for t in range(last + 1):
        if frequency[t]:
            if zeros:
                data[at] = 0
                at = _put_varint(data, at + 1, zeros - 1)
                zeros = 0
            at = _put_varint(data, at, frequency[t])
        else:
            zeros += 1
    return at


@compiled
def slots(frequency: np.ndarray, table: np.ndarray) -> None:
    """Which token each of the 2^table_bits slots belongs to, into `table` (uint16)."""
    at = 0
    for t in range(frequency.size):
        for _ in range(frequency[t]):
            table[at] = t
            at += 1


@compiled
def decode(
    words: np.ndarray,
    at: int,
    used: int,
    states: np.ndarray,
    table: np.ndarray,
    frequency: np.ndarray,
    start: np.ndarray,
    table_bits: int,
    out: np.ndarray,
) -> int:
    """Decode tokens front to back.

    Args:
        words: uint16, at least 8 more than the `used` ones.
        at: the next word.
        states: int64 [4], those that `encode` gave; they are moved on, to `LOW` after the last stream.
        table: uint16 [2^table_bits] from `slots`.
        out: uint16 [n], written.

    Returns:
        The next word; -1 where there were too few.
    """
    mask = (1 << table_bits) - 1
    a, b, c, d = states[0], states[1], states[2], states[3]
    n = out.size
    whole = n & ~3
    for i in range(0, whole, 4):
        if at > used:
            return -1
        slot = a & mask
        t = table[slot]
        out[i] = t
        a = frequency[t] * (a >> table_bits) + slot - start[t]
        low = a < LOW
        a = (a << 16) | words[at] if low else a
        at += low
        slot = b & mask
        t = table[slot]
        out[i + 1] = t
        b = frequency[t] * (b >> table_bits) + slot - start[t]
        low = b < LOW
        b = (b << 16) | words[at] if low else b
        at += low
        slot = c & mask
        t = table[slot]
        out[i + 2] = t
        c = frequency[t] * (c >> table_bits) + slot - start[t]
        low = c < LOW
        c = (c << 16) | words[at] if low else c
        at += low
        slot = d & mask
        t = table[slot]
        out[i + 3] = t
        d = frequency[t] * (d >> table_bits) + slot - start[t]
        low = d < LOW
        d = (d << 16) | words[at] if low else d
        at += low
    for i in range(whole, n):
        lane = i & 3
        state = a if lane == 0 else b if lane == 1 else c
        slot = state & mask
        t = table[slot]
        out[i] = t
        state = frequency[t] * (state >> table_bits) + slot - start[t]
        if state < LOW:
            state = (state << 16) | words[at]
            at += 1
        if lane == 0:
            a = state
        elif lane == 1:
            b = state
        else:
            c = state
    states[0], states[1], states[2], states[3] = a, b, c, d
    return at if at <= used else -1


@compiled
def values(
    tokens: np.ndarray, base: np.ndarray, raw: np.ndarray, words: np.ndarray, limit: int, step: float, out: np.ndarray
) -> bool:
    """Values of tokens and raw bits into `out`; False where the bits are not exactly `limit` words' worth.

    Args:
        words: int64, one more than the `limit` ones.
    """
    plain = np.empty(base.size, out.dtype)
    for t in range(base.size):
        plain[t] = base[t] * step
    position = 0
    for i in range(tokens.size):
        t = tokens[i]
        width = raw[t]
        if width:
            word, offset = position >> 6, position & 63
            if word >= limit:
                return False
            rest = (words[word] >> offset) & ((1 << (64 - offset)) - 1 if offset else -1)
            if offset + width > 64:
                rest |= words[word + 1] << (64 - offset)
            rest &= (1 << width) - 1
            position += width
            q = base[t] + rest if base[t] > 0 else base[t] - rest
            out[i] = q * step
        else:
            out[i] = plain[t]
    return (position + 63) >> 6 == limit
