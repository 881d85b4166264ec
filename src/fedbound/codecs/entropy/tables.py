"""Static models of token streams: which frequencies, how they are sent, and what all that costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedbound.codecs.entropy import rans


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
    best = model_of(finest, rans.FINEST)
    if 8 * len(best.packed) < best.cost / 500:
        return best  # a smaller table cannot gain what it would lose
    return min((best, *(model_of(finest, m) for m in range(rans.FINEST))), key=lambda model: model.cost)


def model_of(finest: np.ndarray, mantissa: int) -> Model:
    kind = rans.tokens_of(mantissa)
    counts = np.bincount(kind.of_finest, finest, kind.base.size).astype(np.int64)
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

    The smallest table that costs at most a thousandth more than the entropy: a small one stays in the cache.
    """
    found = counts[present]
    entropy = float(found @ (np.log2(found.sum()) - np.log2(found)))
    least = max(11, int(present.size).bit_length() + 1)
    for bits in (least, *(larger for larger in (13, 14, 16) if larger > least)):
        frequency = _frequencies(counts, present, bits)
        cost = float(found @ (bits - np.log2(frequency[present])))
        if cost <= 1.001 * entropy + 64:
            break
    return bits, frequency, cost


def _frequencies(counts: np.ndarray, present: np.ndarray, bits: int) -> np.ndarray:
    """Counts scaled to the sum 2^bits, none of a token that occurs below 1."""
    total = 1 << bits
    scaled = counts[present] * (total / counts.sum())
    whole = np.maximum(1, np.floor(scaled)).astype(np.int64)
    missing = total - int(whole.sum())
    if missing > 0:  # to those for which one more saves most bits
        gain = counts[present] * np.log2((whole + 1) / whole)
        whole[np.argsort(-gain, kind="stable")[:missing]] += 1
        whole[gain.argmax()] += total - int(whole.sum())
    while missing < 0:  # rare tokens were raised to 1: take it from the frequent ones, where it costs least
        loss = np.where(whole > 1, counts[present] * np.log2(whole / np.maximum(whole - 1, 0.5)), np.inf)
        order = np.argsort(loss, kind="stable")[: max(1, min(-missing, int((whole > 1).sum()) // 2))]
        whole[order] -= 1
        missing += order.size
    frequency = np.zeros(counts.size, np.int64)
    frequency[present] = whole
    return frequency


def pack(frequency: np.ndarray) -> bytes:
    """Frequencies in order of tokens: varint of each, where a 0 is followed by the number of further zeros."""
    data = np.empty(4 * frequency.size + 8, np.uint8)
    return data[: rans.pack_table(frequency, data)].tobytes()


def unpack(data: memoryview, table_bits: int, tokens: int) -> np.ndarray:
    frequency = np.zeros(tokens, np.int64)
    token, at = 0, 0
    while at < len(data):
        value, at = _read_varint(data, at)
        if value:
            if token >= tokens:
                raise ValueError("its table has more tokens than there are")
            frequency[token] = value
            token += 1
        else:
            more, at = _read_varint(data, at)
            token += more + 1
    if frequency.sum() != 1 << table_bits or (table_bits and frequency.max() == 1 << table_bits):
        raise ValueError("its table does not add up")
    return frequency


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 28:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("its table is damaged")
