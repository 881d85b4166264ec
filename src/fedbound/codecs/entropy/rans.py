"""Kernels of the codec `ebq`: quantising to tokens, and range ANS over four interleaved states.

Asymmetric numeral systems: Duda, "Asymmetric numeral systems: entropy coding combining speed of Huffman coding with
compression rate of arithmetic coding", 2013 (arXiv 1311.2540), the range variant (rANS); interleaving: Giesen,
"Interleaved entropy coders", 2014 (arXiv 1402.3392).

A state lies in [2^16, 2^32) and sheds 16 bits at a time, at most once per token. Four states take turns, so that four
tokens are in flight in the processor. What a state this short loses against the entropy is about 0.003 (2^b / 2^16)^2
bits per token with a table of 2^b. Coding works on unsigned 64-bit integers alone: numba makes floats of mixed signs,
and guards signed indices.

Tokens. A quantised value q is 0, or its sign and magnitude: magnitudes below 2^(M+1) are tokens of their own, larger
ones share a token per 2^-M of their octave and send the rest as raw bits. Within such a token a smooth density hardly
changes, and the alphabet stays below two thousand however wide the values spread. A smaller M makes a smaller table,
which pays where there are few values to learn it from. Where many magnitudes would leave bits open, the k lowest bits
of every q are sent as they are and its tokens are those of q >> k: the same, but at places known beforehand.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np

FINEST = 5  # M with which values are quantised first
DIRECT = 1 << (FINEST + 1)  # |q| below this are finest tokens of their own
LARGEST = (1 << 31) - 1  # of |q|
STATES = 4
MOST_BITS = 16  # of a frequency table
LOW = 1 << 16


def compiled(function: Any) -> Any:
    """Compile without Python's lock; on disk where there is a folder to write to, so that later processes load it."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither beside this file nor in the user's cache folder
        return numba.njit(nogil=True)(function)


class Tokens(NamedTuple):
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


_BLOCK = 2048  # values per step of quantising: they stay in the cache between its passes
_NONE, _FOUR, _U16 = np.uint64(0), np.uint64(4), np.uint64(16)
_ONE, _WORD, _LOW = np.uint64(1), np.uint64(0xFFFF), np.uint64(LOW)


@compiled
def _cast(value: float, like: np.ndarray) -> Any:
    return like.dtype.type(value)


def _short_tokens() -> np.ndarray:
    """Unsigned finest token of each short magnitude."""
    starts = np.abs(tokens_of(FINEST).base[::2])
    return (np.searchsorted(starts, np.arange(_SHORT_LIMIT), side="right") - 1).astype(np.uint16)


_SHORT_LIMIT = 1 << 12
_SHORT = _short_tokens()


@compiled
def _token(q: Any) -> Any:
    """The finest token of q."""
    a: Any = abs(q)
    if a < _SHORT_LIMIT:
        a = np.int64(_SHORT[a])
    else:
        extra = 12 - FINEST
        while a >> (extra + FINEST + 1):
            extra += 1
        a = DIRECT + (extra - 1) * (1 << FINEST) + ((a >> extra) & ((1 << FINEST) - 1))
    return 2 * a - (q > 0)


@compiled
def _round(x: np.ndarray, bound: float, inverse: float, step: float, q: np.ndarray) -> Any:
    """q = rint(x / step) of a block; whether some value would miss the bound, and the largest |q|. For vector units."""
    misses: Any = 0
    largest = np.int32(0)
    for i in range(x.size):
        scaled = np.float64(x[i]) * inverse
        whole = np.rint(min(max(scaled, -2147483647.0), 2147483647.0))
        back = _cast(whole * step, x)
        misses |= np.int64(np.float64(abs(x[i] - back)) > bound) | np.int64(abs(scaled) >= 2147483647.0)
        q[i] = np.int32(whole)
        largest = max(largest, abs(q[i]))
    return misses != 0, largest


@compiled
def quantise(x: np.ndarray, bound: float, step: float, q: np.ndarray, outliers: np.ndarray) -> Any:
    """q = rint(x / step). A value whose reconstruction would miss the bound, in the dtype of `x`, becomes an outlier.

    Args:
        x: float32 or float64 [n], finite.
        q: int32 [n], written; 0 for outliers.
        outliers: uint32, written: their indices.

    Returns:
        The number of outliers, -1 when they do not fit; a number that no |q| exceeds.
    """
    inverse = 1.0 / step
    largest: Any = 0
    found = 0
    for first in range(0, x.size, _BLOCK):
        some, mine = x[first : first + _BLOCK], q[first : first + _BLOCK]
        misses, most = _round(some, bound, inverse, step, mine)
        largest = max(largest, most)
        if not misses:
            continue
        for i in range(some.size):
            scaled = np.float64(some[i]) * inverse
            back = _cast(mine[i] * step, x)
            if not (abs(scaled) < 2147483647.0 and np.float64(abs(some[i] - back)) <= bound):
                if found >= outliers.size:
                    return -1, 0
                outliers[found] = first + i
                found += 1
                mine[i] = 0
    return found, largest


@compiled
def _near_tokens(q: np.ndarray, shift: int, tokens: np.ndarray) -> Any:
    """Tokens of a block, right where |q >> shift| has one of its own; the largest such magnitude. For vector units."""
    largest = np.int32(0)
    for i in range(q.size):
        high = q[i] >> np.int32(shift)
        a = abs(high)
        tokens[i] = np.uint16(2 * a - np.int32(high > 0))
        largest = max(largest, a)
    return largest


@compiled
def tokenise(q: np.ndarray, shift: int, tokens: np.ndarray, counts: np.ndarray) -> None:
    """The finest tokens of q >> shift, and how often each occurs.

    Args:
        q: int32 [n].
        tokens: uint16 [n], written.
        counts: int32 [4, number of the finest tokens], added to: four, because a count waits for the one before it.
    """
    c0, c1, c2, c3 = counts[0], counts[1], counts[2], counts[3]
    for first in range(0, q.size, _BLOCK):
        some, mine = q[first : first + _BLOCK], tokens[first : first + _BLOCK]
        largest = _near_tokens(some, shift, mine)
        if largest >= _SHORT_LIMIT:
            for i in range(some.size):
                mine[i] = _token(np.int64(some[i]) >> shift)
        elif largest >= DIRECT:
            for i in range(some.size):
                high = some[i] >> np.int32(shift)
                mine[i] = 2 * _SHORT[np.uint32(abs(high))] - np.uint16(high > 0)
        whole = mine.size & ~3
        for i in range(0, whole, 4):
            four = mine[i : i + 4]
            c0[four[0]] += 1
            c1[four[1]] += 1
            c2[four[2]] += 1
            c3[four[3]] += 1
        for i in range(whole, mine.size):
            c0[mine[i]] += 1


@compiled
def merge_tokens(tokens: np.ndarray, of_finest: np.ndarray) -> None:
    """Make finest tokens (uint16) those of another M, in place."""
    for i in range(tokens.size):
        tokens[i] = of_finest[tokens[i]]


@compiled
def pack_low(q: np.ndarray, shift: int, out: np.ndarray) -> None:
    """The `shift` (1, 2, 4 or 8) lowest bits of each q.

    Args:
        q: int32 [n].
        out: uint8 [m], m = ceil(n * shift / 8), zeros; the bits of value i go to byte i mod m, which vector units like.
    """
    mask, size = (1 << shift) - 1, out.size
    for plane in range(8 // shift):
        part = q[plane * size : (plane + 1) * size]
        for i in range(part.size):
            out[i] |= np.uint8((part[i] & mask) << (plane * shift))


@compiled
def add_low(high: np.ndarray, shift: int, low: np.ndarray) -> None:
    """Make q of q >> shift (int32), in place; `low` as `pack_low` gives it."""
    mask, size = (1 << shift) - 1, low.size
    for plane in range(8 // shift):
        part = high[plane * size : (plane + 1) * size]
        for i in range(part.size):
            part[i] = (part[i] << shift) | ((low[i] >> (plane * shift)) & mask)


@compiled
def split_runs(q: np.ndarray, gaps: np.ndarray, kept: np.ndarray) -> None:
    """The q other than 0 into `kept`, and the number of zeros before each into `gaps` (all int32)."""
    found = 0
    before = 0
    for i in range(q.size):
        if q[i]:
            kept[found] = q[i]
            gaps[found] = i - before
            before = i + 1
            found += 1


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
def raw_bits(q: np.ndarray, shift: int, tokens: np.ndarray, raw: np.ndarray, words: np.ndarray) -> None:
    """The bits of |q >> shift| that the tokens leave open, least significant first, into `words` (int64, zeros)."""
    position = 0
    for i in range(q.size):
        width = raw[tokens[i]]
        if width:
            rest = abs(np.int64(q[i]) >> shift) & ((1 << width) - 1)
            word, offset = position >> 6, position & 63
            words[word] |= rest << offset
            if offset + width > 64:
                words[word + 1] |= rest >> (64 - offset)
            position += width


@compiled
def integers(
    tokens: np.ndarray, base: np.ndarray, raw: np.ndarray, words: np.ndarray, limit: int, out: np.ndarray
) -> bool:
    """The integers of tokens and raw bits into `out` (int32); False unless the bits are exactly `limit` words' worth.

    Args:
        words: int64, one more than the `limit` ones.
    """
    position = 0
    for i in range(tokens.size):
        t = tokens[i]
        width = raw[t]
        found = base[t]
        if width:
            word, offset = position >> 6, position & 63
            if word >= limit:
                return False
            rest = (words[word] >> offset) & ((1 << (64 - offset)) - 1 if offset else -1)
            if offset + width > 64:
                rest |= words[word + 1] << (64 - offset)
            rest &= (1 << width) - 1
            position += width
            found = found + rest if found > 0 else found - rest
        out[i] = found
    return (position + 63) >> 6 == limit


@compiled
def dequantise(q: np.ndarray, step: float, out: np.ndarray) -> None:
    """out = q * step, in double precision, rounded to the dtype of `out`."""
    for i in range(q.size):
        out[i] = q[i] * step


@compiled
def _push(
    state: Any, frequency: Any, start: Any, reciprocal: Any, down: Any, up: Any, whole: Any, out: np.ndarray, at: Any
) -> Any:
    """One rANS step; the quotient of the state and the frequency is exact, as it is below 2^(32 - table bits)."""
    out[at - _ONE] = state & _WORD
    full = np.uint64(state >= frequency << up)  # no branch: it could not be foretold
    at -= full
    state >>= full << _FOUR
    return state + start + ((state * reciprocal) >> down) * (whole - frequency), at


@compiled
def encode(
    tokens: np.ndarray,
    frequency: np.ndarray,
    start: np.ndarray,
    reciprocal: np.ndarray,
    table_bits: int,
    out: np.ndarray,
    at: int,
    states: np.ndarray,
) -> Any:
    """Code `tokens` back to front, so that a decoder goes front to back; streams chain, the last one coded first.

    Args:
        tokens: uint16 [n].
        frequency: uint64 [number of tokens], sum 2^table_bits, above 0 for each token that occurs, below 2^table_bits.
        start: uint64 [number of tokens], sum of the frequencies before.
        reciprocal: uint64 [number of tokens], 2^(32 + table_bits) / frequency, rounded up.
        out: uint16, more than n words before `at`; filled from there backwards.
        at: where the words coded so far begin; `out.size` before the first stream.
        states: uint64 [4], `LOW` before the first stream; they are moved on.

    Returns:
        Index in `out` at which the words now begin.
    """
    down, up, whole = np.uint64(32 + table_bits), np.uint64(32 - table_bits), _ONE << np.uint64(table_bits)
    f, s, r = frequency, start, reciprocal
    a, b, c, d = states[0], states[1], states[2], states[3]
    word = np.uint64(at)
    n = tokens.size
    i = n
    while i & 3:  # the tail, one token at a time
        i -= 1
        lane = i & 3
        state = a if lane == 0 else b if lane == 1 else c
        t = tokens[i]
        state, word = _push(state, f[t], s[t], r[t], down, up, whole, out, word)
        if lane == 0:
            a = state
        elif lane == 1:
            b = state
        else:
            c = state
    while i:
        i -= 4
        four = tokens[i : i + 4]
        td, tc, tb, ta = four[3], four[2], four[1], four[0]
        d, word = _push(d, f[td], s[td], r[td], down, up, whole, out, word)
        c, word = _push(c, f[tc], s[tc], r[tc], down, up, whole, out, word)
        b, word = _push(b, f[tb], s[tb], r[tb], down, up, whole, out, word)
        a, word = _push(a, f[ta], s[ta], r[ta], down, up, whole, out, word)
    states[0], states[1], states[2], states[3] = a, b, c, d
    return np.int64(word)


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
def slots(frequency: np.ndarray, meaning: np.ndarray, steps: np.ndarray, table: np.ndarray) -> None:
    """What each of the 2^table_bits slots stands for.

    Args:
        frequency: int64 [number of tokens].
        meaning: [number of tokens], what `decode` is to write for each.
        steps: uint32 [2^table_bits], written: frequency of the slot's token << 16 | slot - start of the token.
        table: of the dtype of `meaning` [2^table_bits], written: the meaning of the slot's token.
    """
    at = 0
    for t in range(frequency.size):
        for inside in range(frequency[t]):
            steps[at] = frequency[t] << 16 | inside
            table[at] = meaning[t]
            at += 1


@compiled
def _pull(state: Any, step: Any, table_bits: Any, words: np.ndarray, at: Any) -> Any:
    state = (step >> _U16) * (state >> table_bits) + (step & _WORD)
    low, next_word = np.uint64(state < _LOW), np.uint64(words[at])  # no branch: it could not be foretold
    return (state << (low << _FOUR)) | (next_word & (_NONE - low)), at + low


@compiled
def decode(
    words: np.ndarray,
    at: int,
    used: int,
    states: np.ndarray,
    steps: np.ndarray,
    table: np.ndarray,
    table_bits: int,
    out: np.ndarray,
) -> Any:
    """Decode what tokens mean, front to back.

    Args:
        words: uint16, at least 8 more than the `used` ones.
        at: the next word.
        states: uint64 [4], those that `encode` gave; they are moved on, to `LOW` after the last stream.
        steps, table: from `slots`.
        out: [n] of the dtype of `table`, written.

    Returns:
        The next word; -1 where there were too few.
    """
    bits, mask = np.uint64(table_bits), (_ONE << np.uint64(table_bits)) - _ONE
    a, b, c, d = states[0], states[1], states[2], states[3]
    word, end = np.uint64(at), np.uint64(used)
    whole = out.size & ~3
    for i in range(0, whole, 4):
        if word > end:
            return -1
        four = out[i : i + 4]
        slot = a & mask
        four[0] = table[slot]
        a, word = _pull(a, np.uint64(steps[slot]), bits, words, word)
        slot = b & mask
        four[1] = table[slot]
        b, word = _pull(b, np.uint64(steps[slot]), bits, words, word)
        slot = c & mask
        four[2] = table[slot]
        c, word = _pull(c, np.uint64(steps[slot]), bits, words, word)
        slot = d & mask
        four[3] = table[slot]
        d, word = _pull(d, np.uint64(steps[slot]), bits, words, word)
    if word > end:
        return -1
    for i in range(whole, out.size):
        lane = i & 3
        state = a if lane == 0 else b if lane == 1 else c
        slot = state & mask
        out[i] = table[slot]
        state, word = _pull(state, np.uint64(steps[slot]), bits, words, word)
        if lane == 0:
            a = state
        elif lane == 1:
            b = state
        else:
            c = state
    states[0], states[1], states[2], states[3] = a, b, c, d
    return np.int64(word) if word <= end else -1
