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
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from fedbound.codecs.lossy import Bounded
from fedbound.codecs.payload import require
from fedbound.registry import CODECS, Options

if TYPE_CHECKING:
    from fedbound.codecs.entropy.tables import Model

_HEAD = struct.Struct("<BdII")  # how the quanta are coded, step, outliers, quanta other than 0
_STREAM = struct.Struct("<BIIH")  # table bits | M << 5, 16-bit words, 64-bit raw words, bytes of the table
_GROUPED = struct.Struct("<IBBII")  # rows, M, groups, 16-bit words, 64-bit raw words
_TABLE = struct.Struct("<BI")  # table bits, bytes of the table
_STATE_BYTES = 24  # four states of 48 bits
_PLAIN, _RUN, _GROUP = 0, 1, 2  # how the quanta are coded
_RUNS = 8  # zeros are coded as runs where fewer than one in so many quanta is another,
_NARROW = 4  # rows and columns that a matrix has at least, for theirs to be told apart
_LONG = 1 << 20  # and among at least so many values: the runs' own table is worth its bytes only for the time it saves
_MOST = (1 << 32) - 1  # values per payload: indices of outliers are 32-bit
_scratch = threading.local()


class EbqOptions(Options):
    """Options of `ebq`."""

    scales: bool = Field(
        default=True,
        description="group the entries of a matrix by the scales of their row and column: smaller, half as fast",
    )


@CODECS.register("ebq", EbqOptions)
class Ebq(Bounded):
    """Our own: uniform quantizer with step 2 * bound, coded at its entropy by range ANS."""

    name: ClassVar[str] = "ebq"
    id: ClassVar[int] = 5
    version: ClassVar[int] = 2
    smallest: ClassVar[int] = 8
    releases_gil: ClassVar[bool] = True

    Options: ClassVar[type[Options]] = EbqOptions

    def __init__(self, options: EbqOptions | None = None):
        super().__init__()
        self.options = options or EbqOptions()
        require("numba", self.name, "train")

    @staticmethod
    def warm_up() -> None:
        """Compile the kernels, or load them from disk, so that no timed round does."""
        _warm_up()

    def _compress(self, flat: np.ndarray, bound: float) -> Any:
        return self._compress_shaped(flat, bound, flat.shape)

    def _compress_shaped(self, flat: np.ndarray, bound: float, shape: tuple[int, ...]) -> Any:
        if flat.size > _MOST:
            raise ValueError(f"{flat.size} values are more than one payload of ebq holds")
        step = 2.0 * bound
        tokens = _buffer("tokens", flat.size, np.uint16)
        outliers = np.empty(flat.size // 16 + 16, np.uint32)
        counts, found = _quantise(flat, bound, step, tokens, outliers)
        present = flat.size - int(counts[0])
        kind, stream = self._quanta(flat, step, tokens, counts, present, shape)
        exact = outliers[:found]
        head = _HEAD.pack(kind, step, found, present)
        return b"".join((head, stream, exact.tobytes(), flat[exact].tobytes()))

    def _quanta(
        self,
        flat: np.ndarray,
        step: float,
        tokens: np.ndarray,
        counts: np.ndarray,
        present: int,
        shape: tuple[int, ...],
    ) -> tuple[int, bytes]:
        if self.options.scales and len(shape) > 1 and min(shape[0], flat.size // shape[0]) >= _NARROW:
            grouped = _encode_grouped(flat, step, tokens, counts, (shape[0], flat.size // shape[0]))
            if grouped is not None:
                return _GROUP, grouped
        if flat.size >= _LONG and _RUNS * present < flat.size:
            return _RUN, b"".join(_sparse(flat, step, tokens, counts, present))
        return _PLAIN, _encode(flat, step, tokens, counts)

    def _decompress(self, body: memoryview, flat: np.ndarray) -> None:
        from fedbound.codecs.entropy import rans

        kind, step, found, present = _HEAD.unpack_from(_cut(body, 0, _HEAD.size))
        if not 0 < step < np.inf:
            raise ValueError(f"its quantizer has the step {step}")
        if kind > _GROUP or max(found, present) > flat.size:
            raise ValueError("its head is impossible")
        if kind == _GROUP:
            at = _decode_grouped(body, _HEAD.size, step, flat)
        elif kind == _RUN:
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
    from fedbound.codecs.entropy import tables

    if not x.size:
        return b""
    model = tables.cheapest(counts)
    raw = _raw_bits(x, step, tokens, model.mantissa, model.raw_bits)
    words, states = np.empty(0, np.uint16), b""
    if model.table_bits:
        words, ends = _coded([tokens], [model])
        states = _pack_states(ends)
    head = _STREAM.pack(model.table_bits | model.mantissa << 5, words.size, raw.size, len(model.packed))
    return b"".join((head, states, model.packed, words.tobytes(), raw.tobytes()))


def _raw_bits(x: np.ndarray, step: float, tokens: np.ndarray, mantissa: int, count: int) -> np.ndarray:
    """Make the finest `tokens` those of M = `mantissa`, in place; the `count` bits that they leave open, in words."""
    from fedbound.codecs.entropy import rans

    kind = rans.tokens_of(mantissa)
    if mantissa != rans.FINEST:
        tokens[:] = kind.of_finest[tokens]
    raw = np.zeros((count + 63) // 64, np.int64)
    if raw.size:
        rans.raw_bits(x, step, tokens, kind.raw, raw)
    return raw


def _coded(streams: Sequence[np.ndarray], models: Sequence[Model]) -> tuple[np.ndarray, np.ndarray]:
    """The words of all streams, in the order of decoding, and the states that a decoder begins with."""
    from fedbound.codecs.entropy import rans

    out = _buffer("words", sum(stream.size for stream in streams) + 2 * rans.STATES, np.uint16)
    at, states = out.size, np.full(rans.STATES, rans.LOW, np.int64)
    for tokens, model in zip(reversed(streams), reversed(models), strict=True):
        if model.table_bits:
            at = rans.encode(tokens, model.frequency, _starts(model.frequency), model.table_bits, out, at, states)
    return out[at:], states


class _Words:
    """A decoder of chained streams."""

    def __init__(self, words: memoryview, states: memoryview):
        from fedbound.codecs.entropy import rans

        self.used = len(words) // 2
        self.words = _buffer("words", self.used + 2 * rans.STATES, np.uint16)
        self.words[: self.used] = np.frombuffer(words, np.uint16)
        self.states = _unpack_states(states)
        self.at = 0

    def take(self, frequency: np.ndarray, table_bits: int, tokens: np.ndarray) -> None:
        """Decode the next stream into `tokens`.

        Raises:
            ValueError: there are too few words.
        """
        from fedbound.codecs.entropy import rans

        if not table_bits:
            tokens[:] = int(frequency.argmax())
            return
        slots = np.empty(1 << table_bits, np.uint16)
        rans.slots(frequency, slots)
        starts = _starts(frequency)
        self.at = rans.decode(self.words, self.at, self.used, self.states, slots, frequency, starts, table_bits, tokens)
        if self.at < 0:
            raise ValueError("its coded values are damaged")

    def finish(self) -> None:
        """Raise ValueError unless all words are used and the states are those that a coder began with."""
        from fedbound.codecs.entropy import rans

        if self.at != self.used or (self.states != rans.LOW).any():
            raise ValueError("its coded values are damaged")


def _decode(body: memoryview, at: int, step: float, out: np.ndarray) -> int:
    """Decode the stream that begins at `at` into `out`; returns where it ends.

    Raises:
        ValueError: it is not one of `out.size` values.
    """
    from fedbound.codecs.entropy import rans, tables

    if not out.size:
        return at
    kinds, words, raw, packed = _STREAM.unpack_from(_cut(body, at, _STREAM.size))
    table_bits, mantissa = kinds & 31, kinds >> 5
    if table_bits > rans.MOST_BITS or mantissa > rans.FINEST or words > out.size or (words and not table_bits):
        raise ValueError("its head is impossible")
    at += _STREAM.size
    sizes = (_STATE_BYTES if table_bits else 0, packed, 2 * words, 8 * raw)
    states, table, coded, rest = (_cut(body, at + sum(sizes[:i]), size) for i, size in enumerate(sizes))
    frequency = tables.unpack(table, table_bits, rans.tokens_of(mantissa).base.size)
    tokens = _buffer("tokens", out.size, np.uint16)
    if table_bits:
        decoder = _Words(coded, states)
        decoder.take(frequency, table_bits, tokens)
        decoder.finish()
    else:
        tokens[:] = int(frequency.argmax())
    _values(tokens, mantissa, rest, step, out)
    return at + sum(sizes)


def _values(tokens: np.ndarray, mantissa: int, rest: memoryview, step: float, out: np.ndarray) -> None:
    from fedbound.codecs.entropy import rans

    kind, raw = rans.tokens_of(mantissa), len(rest) // 8
    bits = np.zeros(raw + 1, np.int64)
    bits[:raw] = np.frombuffer(rest, np.int64)
    if not rans.values(tokens, kind.base, kind.raw, bits, raw, step, out):
        raise ValueError("its raw bits are damaged")


def _encode_grouped(
    x: np.ndarray, step: float, tokens: np.ndarray, counts: np.ndarray, shape: tuple[int, int]
) -> bytes | None:
    """The entries of a matrix, group by group of like scale; None where one table for all takes no more."""
    from fedbound.codecs.entropy import rans, scales, tables

    if counts[0] == x.size:
        return None
    found = scales.groups_of(tokens, shape)
    if found is None:
        return None
    plain = tables.cheapest(counts)
    classes = np.concatenate((found.rows, found.columns)).astype(np.uint16)
    models = [tables.model_of(np.bincount(2 * classes, minlength=counts.size), rans.FINEST)]
    models += [tables.model_of(one, plain.mantissa) for one in found.counts]
    head_bits = 8 * (_GROUPED.size + len(found.starts) + _TABLE.size * len(models) + _STATE_BYTES)
    if sum(model.cost for model in models) + head_bits >= plain.cost + 8 * (_STREAM.size + _STATE_BYTES):
        return None
    of_context = scales.group_of_context(found.starts)
    sizes = found.counts.sum(1)
    ends = np.cumsum(sizes)
    grouped, values = _buffer("grouped", int(ends[-1]), np.uint16), np.empty(int(ends[-1]), x.dtype)
    scales.gather(tokens, x, found.rows, found.columns, of_context, ends - sizes, grouped, values)
    raw = _raw_bits(values, step, grouped, plain.mantissa, sum(model.raw_bits for model in models[1:]))
    streams = [2 * classes, *(grouped[end - size : end] for end, size in zip(ends, sizes, strict=True))]
    words, states = _coded(streams, models)
    head = _GROUPED.pack(shape[0], plain.mantissa, len(sizes), words.size, raw.size)
    packed = [_TABLE.pack(model.table_bits, len(model.packed)) + model.packed for model in models]
    return b"".join((head, bytes(found.starts), *packed, _pack_states(states), words.tobytes(), raw.tobytes()))


def _decode_grouped(body: memoryview, at: int, step: float, out: np.ndarray) -> int:
    """Decode what `_encode_grouped` gave into `out`; returns where it ends."""
    from fedbound.codecs.entropy import rans, scales, tables

    rows, mantissa, groups, words, raw = _GROUPED.unpack_from(_cut(body, at, _GROUPED.size))
    at += _GROUPED.size
    if not 0 < rows <= out.size or out.size % rows or mantissa > rans.FINEST or not 0 < groups < scales.CONTEXTS:
        raise ValueError("its head is impossible")
    starts = list(_cut(body, at, groups))
    at += groups
    models = []
    for mine in (rans.FINEST, *[mantissa] * groups):
        table_bits, size = _TABLE.unpack_from(_cut(body, at, _TABLE.size))
        if table_bits > rans.MOST_BITS:
            raise ValueError("its head is impossible")
        table = _cut(body, at + _TABLE.size, size)
        models.append((tables.unpack(table, table_bits, rans.tokens_of(mine).base.size), table_bits))
        at += _TABLE.size + size
    parts = (_STATE_BYTES, 2 * words, 8 * raw)
    states, coded, rest = (_cut(body, at + sum(parts[:i]), size) for i, size in enumerate(parts))
    decoder = _Words(coded, states)
    classes = np.empty(rows + out.size // rows, np.uint16)
    decoder.take(*models[0], classes)
    if starts != sorted(set(starts)) or (classes & 1).any() or classes.max() >= 2 * scales.CLASSES:
        raise ValueError("its scales are impossible")
    of_rows, of_columns = np.split((classes // 2).astype(np.uint8), [rows])
    of_context = scales.group_of_context(starts)
    sizes = scales.sizes(of_rows, of_columns, of_context, groups)
    ends = np.cumsum(sizes)
    tokens = _buffer("grouped", int(ends[-1]), np.uint16)
    for (frequency, table_bits), end, size in zip(models[1:], ends, sizes, strict=True):
        decoder.take(frequency, table_bits, tokens[end - size : end])
    decoder.finish()
    values = np.empty(tokens.size, out.dtype)
    _values(tokens, mantissa, rest, step, values)
    scales.scatter(values, of_rows, of_columns, of_context, ends - sizes, out)
    return at + sum(parts)


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
        uneven = np.resize(x, (64, 64)) * np.exp2(-(np.arange(64) % 8)).astype(dtype)[:, None]
        codec.decode(codec.encode(uneven, 0.01), np.empty_like(uneven))


def _buffer(name: str, size: int, dtype: type) -> np.ndarray:
    """Scratch memory of this thread, kept between calls: fresh pages cost as much as coding them."""
    kept = getattr(_scratch, name, None)
    if kept is None or kept.size < size:
        kept = np.empty(size, dtype)
        setattr(_scratch, name, kept)
    return kept[:size]


def _starts(frequency: np.ndarray) -> np.ndarray:
    return np.cumsum(frequency) - frequency


def _pack_states(states: np.ndarray) -> bytes:
    return b"".join(int(state).to_bytes(6, "little") for state in states)


def _unpack_states(data: memoryview) -> np.ndarray:
    return np.array([int.from_bytes(data[i : i + 6], "little") for i in range(0, _STATE_BYTES, 6)], np.int64)
