"""Static models of token streams: which frequencies, how they are sent, and what all that costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedbound.codecs.entropy import rans

SHIFTS = (1, 2, 4, 8)  # low bits that may be sent as they are: they fill bytes without a rest
_MANY = 1 << 14  # values from which on that is worth a thought
_FEW = 50  # one value in so many may have bits that its token leaves open


@dataclass(frozen=True)
class Model:
    """The static model of one stream of tokens.

    Attributes:
        mantissa: M of the tokens.
        table_bits: the frequencies add up to 2^table_bits; 0 where there is one token only.
        frequency: int64 [number of tokens].
        packed: the frequencies as they are sent.
        raw_bits: bits that the tokens leave open, all together.
        cost: bits of all tokens, their raw bits and the table.
    """

    mantissa: int
    table_bits: int
    frequency: np.ndarray
    packed: bytes
    raw_bits: int
    cost: float


def cheapest(finest: np.ndarray) -> Model:
    """The cheapest model for the counts of the finest tokens, its own size included."""
    costs = [_estimate(finest, *rans.tokens_of(m)) for m in range(rans.FINEST + 1)]
    return model_of(finest, int(np.argmin(costs)))


@rans.compiled
def _estimate(finest: np.ndarray, base: np.ndarray, raw: np.ndarray, of_finest: np.ndarray) -> float:
    """Bits that the tokens of one M take: their entropy, raw bits, and nine bits for each that occurs."""
    size: Any = min(base.size, np.int64(of_finest[finest.size - 1]) + 2)  # both signs of the largest magnitude
    counts = np.zeros(size)
    for t in range(finest.size):
        counts[of_finest[t]] += finest[t]
    total, inner, rest = 0.0, 0.0, 0.0
    for t in range(size):
        if counts[t]:
            total += counts[t]
            inner += counts[t] * np.log2(counts[t])
            rest += counts[t] * raw[t] + 9
    return total * np.log2(total) - inner + rest


def shift_of(finest: np.ndarray) -> int:
    """How many low bits of every value are best sent as they are, by the counts of the finest tokens.

    Raw bits that only some values have are read one by one. So where more than one value in fifty has some, as many low
    bits of all values are sent as leave few with others, unless that costs more than a thousandth: near 0, where the
    tokens tell values apart, the density may not be smooth.
    """
    total = int(finest.sum())
    kind = rans.tokens_of(rans.FINEST)
    base, raw = kind.base[: finest.size], kind.raw[: finest.size]
    size = np.abs(base)
    if total < _MANY or _FEW * int(finest[size >= rans.DIRECT].sum()) <= total:
        return 0
    entropy = total * np.log2(total) - _x_log_x(finest) + float(finest @ raw)
    for shift in SHIFTS:
        few = _FEW * int(finest[size >= rans.DIRECT << shift].sum()) <= total
        if few or shift == SHIFTS[-1]:
            near = size < max(rans.DIRECT, 1 << shift)  # beyond, a token's own raw bits say as much
            merged = np.bincount((base[near] >> shift) + rans.DIRECT, finest[near])
            now = float(finest[near] @ raw[near]) - _x_log_x(finest[near])
            if shift * int(finest[near].sum()) - _x_log_x(merged) - now <= entropy / 1000:
                return shift
    return 0


def _x_log_x(counts: np.ndarray) -> float:
    found = counts[counts > 0]
    return float(found @ np.log2(found))


def model_of(finest: np.ndarray, mantissa: int) -> Model:
    """The model for the counts of the finest tokens (of any length) if they are made those of M = `mantissa`."""
    kind = rans.tokens_of(mantissa)
    counts = np.bincount(kind.of_finest[: finest.size], finest, kind.base.size).astype(np.int64)
    present = np.flatnonzero(counts)
    raw_bits = int(counts @ kind.raw)
    if present.size == 1:
        frequency = (counts > 0).astype(np.int64)
        packed = pack(frequency)
        return Model(mantissa, 0, frequency, packed, raw_bits, raw_bits + 8.0 * len(packed))
    bits, frequency, cost = scaled(counts, present)
    packed = pack(frequency)
    return Model(mantissa, bits, frequency, packed, raw_bits, cost + raw_bits + 8 * len(packed))


def scaled(counts: np.ndarray, present: np.ndarray) -> tuple[int, np.ndarray, float]:
    """Bits of the frequency table, the frequencies, and the bits that all tokens take with them.

    The smallest table that costs at most two thousandths more than the entropy: a small one stays in the cache.
    """
    found = counts[present]
    entropy = float(found @ (np.log2(found.sum()) - np.log2(found)))
    least = max(11, int(present.size).bit_length() + 1)
    for bits in (least, *(larger for larger in (13, 14, 16) if larger > least)):
        whole = np.empty(found.size, np.int64)
        cost = _spread(found, bits, whole)
        if cost <= 1.002 * entropy + 64:
            break
    frequency = np.zeros(counts.size, np.int64)
    frequency[present] = whole
    return bits, frequency, cost


@rans.compiled
def _spread(counts: np.ndarray, bits: int, whole: np.ndarray) -> float:
    """Counts (int64, above 0) scaled to the sum 2^bits into `whole`, none below 1; the bits that all tokens take."""
    total = 1 << bits
    share = total / counts.sum()
    missing = total
    for i in range(counts.size):
        whole[i] = max(1, np.int64(np.floor(counts[i] * share)))
        missing -= whole[i]
    gain = np.empty(counts.size)
    if missing > 0:  # to those for which one more saves most bits
        for i in range(counts.size):
            gain[i] = -counts[i] * np.log2((whole[i] + 1) / whole[i])
        order = np.argsort(gain, kind="mergesort")
        for i in order[:missing]:
            whole[i] += 1
        whole[order[0]] += max(0, missing - counts.size)
    while missing < 0:  # rare tokens were raised to 1: take it from the frequent ones, where it costs least
        able = 0
        for i in range(counts.size):
            able += whole[i] > 1
            gain[i] = counts[i] * np.log2(whole[i] / (whole[i] - 1)) if whole[i] > 1 else np.inf
        order = np.argsort(gain, kind="mergesort")[: max(1, min(-missing, able // 2))]
        for i in order:
            whole[i] -= 1
        missing += order.size
    cost = 0.0
    for i in range(counts.size):
        cost += counts[i] * (bits - np.log2(np.float64(whole[i])))
    return cost


def pack(frequency: np.ndarray) -> bytes:
    """Frequencies in order of tokens: varint of each, where a 0 is followed by the number of further zeros."""
    data = np.empty(4 * frequency.size + 8, np.uint8)
    return data[: rans.pack_table(frequency, data)].tobytes()


def unpack(data: memoryview, table_bits: int, tokens: int) -> np.ndarray:
    """int64, the frequencies that `pack` wrote, up to the last one above 0.

    Raises:
        ValueError: they are not those of at most so many `tokens`, or do not add up.
    """
    frequency = np.zeros(tokens, np.int64)
    count = _unpack(np.frombuffer(data, np.uint8), frequency)
    if count < 0:
        raise ValueError("its table is damaged")
    if frequency.sum() != 1 << table_bits or (table_bits and frequency.max() == 1 << table_bits):
        raise ValueError("its table does not add up")
    return frequency[:count]


@rans.compiled
def _unpack(data: np.ndarray, frequency: np.ndarray) -> Any:
    """Read varints of at most four bytes into `frequency`; how many tokens there are, -1 where they do not fit."""
    token: Any = 0
    at, zeros = 0, False
    while at < data.size:
        value: Any = 0
        shift = 0
        while True:
            if at >= data.size or shift > 21:
                return -1
            byte = np.int64(data[at])
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if zeros:
            token += value + 1
            zeros = False
        elif value:
            if token >= frequency.size:
                return -1
            frequency[token] = value
            token += 1
        else:
            zeros = True
    return -1 if zeros or token > frequency.size else token
