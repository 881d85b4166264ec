"""EBQ, an error-bounded quantizer coded at its entropy: ours.

Flattened updates are close to independent draws, so neither prediction nor context helps and the empirical entropy of
round(x / (2 bound)) is what can be reached. SZ3 without predictor quantises in the same way and codes by Huffman and
Zstandard, which costs most where most values are zero: there a Huffman code spends at least one bit, an arithmetic one
a fraction. Deltas with error feedback are of that kind.

Quantizer: uniform, mid-tread, step 2 * bound. Coder: range ANS with a static table (see `entropy/rans.py`). Values that
the quantizer cannot keep within the bound in their own dtype are stored as they are.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from fedbound.codecs.lossy import Bounded
from fedbound.codecs.payload import require
from fedbound.registry import CODECS, Options

_HEAD = struct.Struct("<BdII")  # whether zeros are coded as runs, step, outliers, quanta other than 0
_STREAM = struct.Struct("<BIIH")  # table bits | M << 5, 16-bit words, 64-bit raw words, bytes of the table
_STATE_BYTES = 24  # four states of 48 bits
_RUNS = 8  # zeros are coded as runs where fewer than one in so many quanta is another,
_LONG = 1 << 20  # and among at least so many values: the runs' own table is worth its bytes only for the time it saves
_MOST = (1 << 32) - 1  # values per payload: indices of outliers are 32-bit
_scratch = threading.local()


@CODECS.register("ebq")
class Ebq(Bounded):
    """Our own: uniform quantizer with step 2 * bound, coded at its entropy by range ANS."""

    name: ClassVar[str] = "ebq"
    id: ClassVar[int] = 5
    version: ClassVar[int] = 1
    smallest: ClassVar[int] = 8
    releases_gil: ClassVar[bool] = True

    def __init__(self, options: Options | None = None):
        super().__init__()
        require("numba", self.name, "train")

    @staticmethod
    def warm_up() -> None:
        """Compile the kernels, or load them from disk, so that no timed round does."""
        _warm_up()

    def _compress(self, flat: np.ndarray, bound: float) -> Any:
        if flat.size > _MOST:
            raise ValueError(f"{flat.size} values are more than one payload of ebq holds")
        step = 2.0 * bound
        tokens = _buffer("tokens", flat.size, np.uint16)
        outliers = np.empty(flat.size // 16 + 16, np.uint32)
        counts, found = _quantise(flat, bound, step, tokens, outliers)
        present = flat.size - int(counts[0])
        runs = flat.size >= _LONG and _RUNS * present < flat.size
        streams = _sparse(flat, step, tokens, counts, present) if runs else (_encode(flat, step, tokens, counts),)
        exact = outliers[:found]
        head = _HEAD.pack(runs, step, found, present)
        return b"".join((head, *streams, exact.tobytes(), flat[exact].tobytes()))

    def _decompress(self, body: memoryview, flat: np.ndarray) -> None:
        from fedbound.codecs.entropy import rans

        runs, step, found, present = _HEAD.unpack_from(_cut(body, 0, _HEAD.size))
        if not 0 < step < np.inf:
            raise ValueError(f"its quantizer has the step {step}")
        if runs > 1 or max(found, present) > flat.size:
            raise ValueError("its head is impossible")
        if runs:
            gaps, kept = np.empty(present, np.float64), np.empty(present, flat.dtype)
            at = _decode(body, _HEAD.size, 1.0, gaps)
            at = _decode(body, at, step, kept)
            if not rans.join_runs(gaps, kept, flat):
                raise ValueError("its runs are longer than the array")
        else:
            at = _decode(body, _HEAD.size, step, flat)
        exact = np.frombuffer(_cut(body, at, 4 * found), np.uint32)
        values = np.frombuffer(_cut(body, at + 4 * found, flat.itemsize * found), flat.dtype)
        if at + exact.nbytes + values.nbytes != len(body):
            raise ValueError("its stream does not have the length that it claims")
        if found and exact.max() >= flat.size:
            raise ValueError("an exact value lies outside of the array")
        flat[exact] = values


def _cut(body: memoryview, at: int, size: int) -> memoryview:
    if at + size > len(body):
        raise ValueError("its stream is truncated")
    return body[at : at + size]


def _quantise(
    x: np.ndarray, bound: float, step: float, tokens: np.ndarray, outliers: np.ndarray
) -> tuple[np.ndarray, int]:
    """Write the finest tokens of `x`; how often each occurs, and the number of outliers."""
    from fedbound.codecs.entropy import rans

    lanes = np.zeros((rans.STATES, rans.tokens_of(rans.FINEST).base.size), np.int64)
    found = rans.quantise(x, bound, step, tokens, lanes, outliers)
    if found < 0:
        raise ValueError("too many values are beyond what the quantizer can keep within the bound")
    return lanes.sum(0), found


def _sparse(x: np.ndarray, step: float, tokens: np.ndarray, counts: np.ndarray, present: int) -> tuple[bytes, bytes]:
    """Where most tokens are 0: the runs of zeros as one stream, all else as another, a fraction of the work."""
    from fedbound.codecs.entropy import rans

    gaps, kept = np.empty(present, np.float64), np.empty(present, x.dtype)
    others, gap_tokens = np.empty(present, np.uint16), np.empty(present, np.uint16)
    rans.split_runs(x, tokens, gaps, others, kept)
    gap_counts, _ = _quantise(gaps, 0.5, 1.0, gap_tokens, np.empty(0, np.uint32))
    counts[0] = 0
    return _encode(gaps, 1.0, gap_tokens, gap_counts), _encode(kept, step, others, counts)


def _encode(x: np.ndarray, step: float, tokens: np.ndarray, counts: np.ndarray) -> bytes:
    """One stream: head, states, table, coded tokens, raw bits. `tokens` are the finest ones; they are overwritten."""
    from fedbound.codecs.entropy import rans

    if not x.size:
        return b""
    model = _model(counts)
    kind = rans.tokens_of(model.mantissa)
    if model.mantissa != rans.FINEST:
        tokens[:] = kind.of_finest[tokens]
    raw = np.zeros((model.raw_bits + 63) // 64, np.int64)
    if raw.size:
        rans.raw_bits(x, step, tokens, kind.raw, raw)
    words, states = np.empty(0, np.uint16), b""
    if model.table_bits:
        out, ends = _buffer("words", x.size + 2 * rans.STATES, np.uint16), np.empty(rans.STATES, np.int64)
        at = rans.encode(tokens, model.frequency, _starts(model.frequency), model.table_bits, out, ends)
        words, states = out[at:], _pack_states(ends)
    head = _STREAM.pack(model.table_bits | model.mantissa << 5, words.size, raw.size, len(model.packed))
    return b"".join((head, states, model.packed, words.tobytes(), raw.tobytes()))


def _decode(body: memoryview, at: int, step: float, out: np.ndarray) -> int:
    """Decode the stream that begins at `at` into `out`; returns where it ends.

    Raises:
        ValueError: it is not one of `out.size` values.
    """
    from fedbound.codecs.entropy import rans

    if not out.size:
        return at
    kinds, words, raw, packed = _STREAM.unpack_from(_cut(body, at, _STREAM.size))
    table_bits, mantissa = kinds & 31, kinds >> 5
    if table_bits > rans.MOST_BITS or mantissa > rans.FINEST or words > out.size or (words and not table_bits):
        raise ValueError("its head is impossible")
    kind = rans.tokens_of(mantissa)
    at += _STREAM.size
    sizes = (_STATE_BYTES if table_bits else 0, packed, 2 * words, 8 * raw)
    states, table, coded, rest = (_cut(body, at + sum(sizes[:i]), size) for i, size in enumerate(sizes))
    frequency = _unpack_table(table, table_bits, kind.base.size)
    tokens = _buffer("tokens", out.size, np.uint16)
    if table_bits:
        slots = np.empty(1 << table_bits, np.uint16)
        rans.slots(frequency, slots)
        padded = _buffer("words", words + 2 * rans.STATES, np.uint16)
        padded[:words] = np.frombuffer(coded, np.uint16)
        ends, starts = _unpack_states(states), _starts(frequency)
        if not rans.decode(padded, words, ends, slots, frequency, starts, table_bits, tokens):
            raise ValueError("its coded values are damaged")
    else:
        tokens[:] = int(frequency.argmax())
    bits = np.zeros(raw + 1, np.int64)
    bits[:raw] = np.frombuffer(rest, np.int64)
    if not rans.values(tokens, kind.base, kind.raw, bits, raw, step, out):
        raise ValueError("its raw bits are damaged")
    return at + sum(sizes)


@cache
def _warm_up() -> None:
    codec = Ebq()
    for dtype in (np.float32, np.float64):
        x = np.linspace(-1, 1, 1000).astype(dtype)
        for bound in (1e-1, 1e-6):
            codec.decode(codec.encode(x, bound), np.empty_like(x))
        sparse = np.zeros(_LONG, dtype)
        sparse[::100] = 1.0
        codec.decode(codec.encode(sparse, 0.1), np.empty_like(sparse))


def _buffer(name: str, size: int, dtype: type) -> np.ndarray:
    """Scratch memory of this thread, kept between calls: fresh pages cost as much as coding them."""
    kept = getattr(_scratch, name, None)
    if kept is None or kept.size < size:
        kept = np.empty(size, dtype)
        setattr(_scratch, name, kept)
    return kept[:size]


def _starts(frequency: np.ndarray) -> np.ndarray:
    return np.cumsum(frequency) - frequency


@dataclass(frozen=True)
class _Model:
    """The static model of one payload: which tokens, and how frequent each is."""

    mantissa: int
    table_bits: int
    frequency: np.ndarray
    packed: bytes
    raw_bits: int
    cost: float


def _model(finest: np.ndarray) -> _Model:
    """The cheapest model for the counts of the finest tokens, its own size included."""
    from fedbound.codecs.entropy import rans

    best = _model_of(finest, rans.FINEST)
    if 8 * len(best.packed) < best.cost / 500:
        return best  # a smaller table cannot gain what it would lose
    return min((best, *(_model_of(finest, m) for m in range(rans.FINEST))), key=lambda model: model.cost)


def _model_of(finest: np.ndarray, mantissa: int) -> _Model:
    from fedbound.codecs.entropy import rans

    kind = rans.tokens_of(mantissa)
    counts = np.bincount(kind.of_finest, finest, kind.base.size).astype(np.int64)
    present = np.flatnonzero(counts)
    raw_bits = int(counts @ kind.raw)
    if present.size == 1:
        frequency = (counts > 0).astype(np.int64)
        packed = _pack_table(frequency)
        return _Model(mantissa, 0, frequency, packed, raw_bits, raw_bits + 8.0 * len(packed))
    bits, frequency, cost = _table(counts, present)
    packed = _pack_table(frequency)
    return _Model(mantissa, bits, frequency, packed, raw_bits, cost + raw_bits + 8 * len(packed))


def _table(counts: np.ndarray, present: np.ndarray) -> tuple[int, np.ndarray, float]:
    """Bits of the frequency table, the frequencies, and the bits that all tokens take with them.

    The smallest table that costs at most a thousandth more than the largest one: a small one stays in the cache.
    """
    least = max(11, int(present.size).bit_length() + 1)
    tables = {bits: _frequencies(counts, present, bits) for bits in (least, 13, 14, 16) if bits >= least}
    costs = {bits: float(counts[present] @ (bits - np.log2(f[present]))) for bits, f in tables.items()}
    bits = min(bits for bits, cost in costs.items() if cost <= 1.001 * costs[16] + 64)
    return bits, tables[bits], costs[bits]


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


def _pack_states(states: np.ndarray) -> bytes:
    return b"".join(int(state).to_bytes(6, "little") for state in states)


def _unpack_states(data: memoryview) -> np.ndarray:
    return np.array([int.from_bytes(data[i : i + 6], "little") for i in range(0, _STATE_BYTES, 6)], np.int64)


def _pack_table(frequency: np.ndarray) -> bytes:
    """Frequencies in order of tokens: varint of each, where a 0 is followed by the number of further zeros."""
    data = bytearray()
    last = int(np.flatnonzero(frequency)[-1])
    zeros = 0
    for value in frequency[: last + 1].tolist():
        if not value:
            zeros += 1
            continue
        if zeros:
            data.append(0)
            _varint(data, zeros - 1)
            zeros = 0
        _varint(data, value)
    return bytes(data)


def _varint(data: bytearray, value: int) -> None:
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    data.append(value)


def _unpack_table(data: memoryview, table_bits: int, tokens: int) -> np.ndarray:
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
