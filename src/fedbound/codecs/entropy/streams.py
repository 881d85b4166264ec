"""Sequences of integers coded one after another by one range ANS coder, each with a table of its own.

In bytes: the head and the table of each part; the number of words; the coder's states; the words; each part's raw words
and low bits (docs/wire-format.md).
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from fedbound.codecs.entropy import rans, tables
from fedbound.codecs.entropy.tables import Model

_PART = struct.Struct("<BBHI")  # table bits, M | low bits << 4, bytes of the table, 64-bit raw words
_WORDS = struct.Struct("<I")  # 16-bit words
_STATE_BYTES = 4 * rans.STATES
HEAD_BITS = 8 * (_PART.size + _WORDS.size + _STATE_BYTES)  # of a stream of one part; each further part adds
PART_BITS = 8 * _PART.size
_scratch = threading.local()


@dataclass(frozen=True)
class Part:
    """One sequence, ready to be coded.

    Attributes:
        tokens: uint16, those of `model.mantissa`.
        model: their table.
        shift: low bits of each integer that are sent as they are.
        raw: int64, the bits that the tokens leave open.
        low: uint8, the low bits.
    """

    tokens: np.ndarray
    model: Model
    shift: int
    raw: np.ndarray
    low: np.ndarray


def buffer(name: str, size: int, dtype: type) -> np.ndarray:
    """Scratch memory of this thread, kept between calls: fresh pages cost as much as coding them."""
    kept = getattr(_scratch, name, None)
    if kept is None or kept.size < size:
        kept = np.empty(size, dtype)
        setattr(_scratch, name, kept)
    return kept[:size]


def tokens_for(largest: int) -> int:
    """How many finest tokens there are for |q| <= `largest`, and for these shifted."""
    return 2 * int(np.searchsorted(_magnitudes(), largest + 1, side="right")) - 1


@cache
def _magnitudes() -> np.ndarray:
    return np.abs(rans.tokens_of(rans.FINEST).base[::2])


def tokenised(q: np.ndarray, shift: int, tokens: np.ndarray, alphabet: int) -> np.ndarray:
    """Write the finest tokens of q >> shift; how often each of the first `alphabet` ones occurs, int64."""
    lanes = np.zeros((4, alphabet), np.int32)
    rans.tokenise(q, shift, tokens, lanes)
    return lanes.sum(0, dtype=np.int64)


def fit(q: np.ndarray, tokens: np.ndarray, counts: np.ndarray) -> Part:
    """Choose how a sequence is coded.

    Args:
        q: int32 [n], n > 0.
        tokens: uint16 [n], the finest tokens of q; overwritten by those that are coded.
        counts: how often each occurs.
    """
    shift = tables.shift_of(counts)
    low = np.zeros(-(-q.size * shift // 8), np.uint8)
    if shift:
        rans.pack_low(q, shift, low)
        model = tables.model_of(tokenised(q, shift, tokens, counts.size), rans.FINEST)
    else:
        model = tables.cheapest(counts)
    kind = rans.tokens_of(model.mantissa)
    if model.mantissa != rans.FINEST:
        rans.merge_tokens(tokens, kind.of_finest)
    raw = np.zeros((model.raw_bits + 63) // 64, np.int64)
    if raw.size:
        rans.raw_bits(q, shift, tokens, kind.raw, raw)
    return Part(tokens, model, shift, raw, low)


def write(parts: Sequence[Part]) -> bytes:
    """All parts as one stream."""
    words, states = _coded(parts)
    models = [part.model for part in parts]
    heads = [
        _PART.pack(model.table_bits, model.mantissa | part.shift << 4, len(model.packed), part.raw.size) + model.packed
        for part, model in zip(parts, models, strict=True)
    ]
    ends = states.astype("<u4").tobytes() if any(model.table_bits for model in models) else b""
    rest = [piece for part in parts for piece in (part.raw.tobytes(), part.low.tobytes())]
    return b"".join((*heads, _WORDS.pack(words.size), ends, words.tobytes(), *rest))


def _coded(parts: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
    """The words of all parts, in the order of decoding, and the states that a decoder begins with."""
    out = buffer("words", sum(part.tokens.size for part in parts) + 2 * rans.STATES, np.uint16)
    at, states = out.size, np.full(rans.STATES, rans.LOW, np.uint64)
    for part in reversed(parts):
        bits = part.model.table_bits
        if bits:
            frequency = part.model.frequency.astype(np.uint64)
            start = np.cumsum(frequency) - frequency
            reciprocal = -(-(1 << (32 + bits)) // np.maximum(part.model.frequency, 1))
            at = rans.encode(part.tokens, frequency, start, reciprocal.astype(np.uint64), bits, out, at, states)
    return out[at:], states


class Reader:
    """The parts of a stream, one after the other.

    Raises:
        ValueError: in all methods; the stream is truncated, damaged or impossible.
    """

    def __init__(self, body: memoryview, at: int, parts: int):
        self.body, self.at = body, at
        self.heads = [self._head() for _ in range(parts)]
        (self.used,) = _WORDS.unpack(self._cut(_WORDS.size))
        coded = any(bits for bits, *_ in self.heads)
        self.states = np.full(rans.STATES, rans.LOW, np.uint64)
        if coded:
            self.states[:] = np.frombuffer(self._cut(_STATE_BYTES), "<u4")
        words = np.frombuffer(self._cut(2 * self.used), np.uint16)
        self.words = buffer("words", self.used + 2 * rans.STATES, np.uint16)
        self.words[: self.used] = words
        self.word = self.part = 0

    def _cut(self, size: int) -> memoryview:
        if self.at + size > len(self.body):
            raise ValueError("its stream is truncated")
        self.at += size
        return self.body[self.at - size : self.at]

    def _head(self) -> tuple[int, int, int, int, np.ndarray]:
        bits, kinds, packed, raw = _PART.unpack(self._cut(_PART.size))
        mantissa, shift = kinds & 15, kinds >> 4
        if bits > rans.MOST_BITS or mantissa > rans.FINEST or shift not in (0, *tables.SHIFTS):
            raise ValueError("its head is impossible")
        frequency = tables.unpack(self._cut(packed), bits, rans.tokens_of(mantissa).base.size)
        return bits, mantissa, shift, raw, frequency

    def take(self, out: np.ndarray, step: float | None = None) -> None:
        """Decode the next part into `out`: int32, or with a step float32 or float64 multiples of it."""
        bits, mantissa, shift, raw, frequency = self.heads[self.part]
        self.part += 1
        kind = rans.tokens_of(mantissa)
        rest, low = self._cut(8 * raw), self._cut(-(-out.size * shift // 8))
        base, width = kind.base[: frequency.size], kind.raw[: frequency.size]
        open_bits = bool(width[frequency > 0].any())
        if not (shift or open_bits or raw):
            with np.errstate(over="ignore"):  # tokens that do not occur, or a sender that lies
                meaning = (base if step is None else base * step).astype(out.dtype)
            self._take(frequency, bits, meaning, out)
            return
        q = out if step is None else buffer("decoded", out.size, np.int32)
        if open_bits or raw:
            tokens = buffer("tokens", out.size, np.uint16)
            self._take(frequency, bits, np.arange(frequency.size, dtype=np.uint16), tokens)
            words = np.zeros(raw + 1, np.int64)
            words[:raw] = np.frombuffer(rest, np.int64)
            if not rans.integers(tokens, base, width, words, raw, q):
                raise ValueError("its raw bits are damaged")
        else:
            self._take(frequency, bits, base.astype(np.int32), q)
        if shift:
            rans.add_low(q, shift, np.frombuffer(low, np.uint8))
        if step is not None:
            rans.dequantise(q, step, out)

    def _take(self, frequency: np.ndarray, bits: int, meaning: np.ndarray, out: np.ndarray) -> None:
        if not bits:
            out[:] = meaning[int(frequency.argmax())]
            return
        steps, table = np.empty(1 << bits, np.uint32), np.empty(1 << bits, meaning.dtype)
        rans.slots(frequency, meaning, steps, table)
        self.word = rans.decode(self.words, self.word, self.used, self.states, steps, table, bits, out)
        if self.word < 0:
            raise ValueError("its coded values are damaged")

    def finish(self) -> int:
        """Where the stream ends; all words must be used, and the states those that a coder began with."""
        if self.word != self.used or (self.states != rans.LOW).any():
            raise ValueError("its coded values are damaged")
        return self.at
