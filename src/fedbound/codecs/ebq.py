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
from functools import cache
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedbound.codecs.lossy import Bounded
from fedbound.codecs.payload import require
from fedbound.registry import CODECS, Options

_HEAD = struct.Struct("<BdII")  # how the quanta are coded, step, outliers, quanta other than 0
_GROUPED = struct.Struct("<IB")  # rows, groups
_PLAIN, _RUN, _GROUP = 0, 1, 2  # how the quanta are coded
_RUNS = 8  # zeros are coded as runs where fewer than one in so many quanta is another,
_NARROW = 4  # rows and columns that a matrix has at least, for theirs to be told apart
_LONG = 1 << 20  # and among at least so many values: the runs' own table is worth its bytes only for the time it saves
_MOST = (1 << 32) - 1  # values per payload: indices of outliers are 32-bit


class EbqOptions(Options):
    """Options of `ebq`."""

    scales: bool = Field(
        default=True,
        description="group the entries of a matrix by the scales of their row and column: smaller, but slower",
    )


@CODECS.register("ebq", EbqOptions)
class Ebq(Bounded):
    """Our own: uniform quantizer with step 2 * bound, coded at its entropy by range ANS."""

    name: ClassVar[str] = "ebq"
    id: ClassVar[int] = 5
    version: ClassVar[int] = 3
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
        from fedbound.codecs.entropy import rans, streams

        step = 2.0 * bound
        q, outliers = streams.buffer("q", flat.size, np.int32), np.empty(flat.size // 16 + 16, np.uint32)
        found, largest = rans.quantise(flat, bound, step, q, outliers)
        if found < 0:
            raise ValueError("too many values are beyond what the quantizer can keep within the bound")
        kind, present, stream = self._quanta(q, largest, shape)
        exact = outliers[:found]
        head = _HEAD.pack(kind, step, found, present)
        return b"".join((head, stream, exact.tobytes(), flat[exact].tobytes()))

    def _quanta(self, q: np.ndarray, largest: int, shape: tuple[int, ...]) -> tuple[int, int, bytes]:
        from fedbound.codecs.entropy import streams

        alphabet = streams.tokens_for(largest)
        if self.options.scales and len(shape) > 1 and min(shape[0], q.size // shape[0]) >= _NARROW and largest:
            grouped = _encode_grouped(q, alphabet, (shape[0], q.size // shape[0]))
            if grouped is not None:
                return _GROUP, *grouped
        tokens = streams.buffer("tokens", q.size, np.uint16)
        counts = streams.tokenised(q, 0, tokens, alphabet)
        present = q.size - int(counts[0])
        if q.size >= _LONG and _RUNS * present < q.size:
            return _RUN, present, _encode_runs(q, present)
        return _PLAIN, present, streams.write([streams.fit(q, tokens, counts)])

    def _decompress(self, body: memoryview, flat: np.ndarray) -> None:
        from fedbound.codecs.entropy import streams

        kind, step, found, present = _HEAD.unpack_from(_cut(body, 0, _HEAD.size))
        if not 0 < step < np.inf:
            raise ValueError(f"its quantizer has the step {step}")
        if kind > _GROUP or max(found, present) > flat.size:
            raise ValueError("its head is impossible")
        if kind == _GROUP:
            at = _decode_grouped(body, _HEAD.size, step, flat)
        elif kind == _RUN:
            at = _decode_runs(body, _HEAD.size, step, present, flat)
        else:
            reader = streams.Reader(body, _HEAD.size, 1)
            reader.take(flat, step)
            at = reader.finish()
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


def _encode_runs(q: np.ndarray, present: int) -> bytes:
    """Where most quanta are 0: the zeros before each other one, and these, a fraction of the work."""
    from fedbound.codecs.entropy import rans, streams

    if not present:
        return b""
    gaps, kept = np.empty(present, np.int32), np.empty(present, np.int32)
    rans.split_runs(q, gaps, kept)
    parts = []
    for one in (gaps, kept):
        tokens = np.empty(present, np.uint16)
        largest = max(int(one.max()), -int(one.min()))
        parts.append(streams.fit(one, tokens, streams.tokenised(one, 0, tokens, streams.tokens_for(largest))))
    return streams.write(parts)


def _decode_runs(body: memoryview, at: int, step: float, present: int, out: np.ndarray) -> int:
    """Decode what `_encode_runs` gave into `out`; returns where it ends."""
    from fedbound.codecs.entropy import rans, streams

    if not present:
        out[:] = 0
        return at
    gaps, kept = np.empty(present, np.int32), np.empty(present, out.dtype)
    reader = streams.Reader(body, at, 2)
    reader.take(gaps)
    reader.take(kept, step)
    if not rans.join_runs(gaps, kept, out):
        raise ValueError("its runs are longer than the array")
    return reader.finish()


def _encode_grouped(q: np.ndarray, alphabet: int, shape: tuple[int, int]) -> tuple[int, bytes] | None:
    """The number of quanta other than 0, and the entries of a matrix, group by group of like scale.

    None where there are no scales, or one table for all takes no more.
    """
    from fedbound.codecs.entropy import scales, streams, tables

    found = scales.groups_of(q, shape, alphabet)
    if found is None:
        return None
    counts = found.counts.sum(0, dtype=np.int64)
    counts[0] += q.size - int(found.sizes.sum())
    classes = np.concatenate((found.rows, found.columns)).astype(np.int32)
    class_tokens = np.empty(classes.size, np.uint16)
    parts = [streams.fit(classes, class_tokens, streams.tokenised(classes, 0, class_tokens, 2 * scales.CLASSES))]
    ends = np.cumsum(found.sizes)
    costs = _GROUPED.size * 8 + parts[0].model.cost + found.cost
    if costs + streams.PART_BITS * (1 + ends.size) >= tables.cheapest(counts).cost + streams.PART_BITS:
        return None
    for counted, size, end in zip(found.counts, found.sizes, ends, strict=True):
        mine = slice(int(end - size), int(end))
        parts.append(streams.fit(found.sorted[mine], found.tokens[mine], counted))
    stream = _GROUPED.pack(shape[0], ends.size) + bytes(found.starts) + streams.write(parts)
    return q.size - int(counts[0]), stream


def _decode_grouped(body: memoryview, at: int, step: float, out: np.ndarray) -> int:
    """Decode what `_encode_grouped` gave into `out`; returns where it ends."""
    from fedbound.codecs.entropy import scales, streams

    rows, groups = _GROUPED.unpack(_cut(body, at, _GROUPED.size))
    at += _GROUPED.size
    if not 0 < rows <= out.size or out.size % rows or not 0 < groups < scales.CONTEXTS:
        raise ValueError("its head is impossible")
    starts = list(_cut(body, at, groups))
    reader = streams.Reader(body, at + groups, 1 + groups)
    classes = np.empty(rows + out.size // rows, np.int32)
    reader.take(classes)
    if starts != sorted(set(starts)) or classes.min() < 0 or classes.max() >= scales.CLASSES:
        raise ValueError("its scales are impossible")
    of_rows, of_columns = np.split(classes.astype(np.uint8), [rows])
    sizes = scales.group_sizes(scales.context_sizes(of_rows, of_columns), starts)
    ends = np.cumsum(sizes)
    values = streams.buffer(f"sorted {out.dtype}", int(ends[-1]), out.dtype.type)
    for end, size in zip(ends, sizes, strict=True):
        reader.take(values[end - size : end], step)
    scales.ungroup(values, of_rows, of_columns, out)
    return reader.finish()


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
