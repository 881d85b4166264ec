"""Encoding and decoding all blocks of a flat vector: what both directions have in common."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from fedbound import codecs
from fedbound.codecs.guard import Checked, encode_checked
from fedbound.codecs.payload import all_finite, contiguous
from fedbound.codecs.wire import Message, Record
from fedbound.errors import FederationError, MessageError
from fedbound.exchange.bounds import BoundRule, Ratio
from fedbound.exchange.layout import Block, Layout, State

NonFinite = Literal["reject", "lossless"]


@dataclass
class Encoding:
    """What one encoding gave.

    Attributes:
        records: one record per block, then one per integer tensor.
        decoded: flat float32 vector that the receiver will decode, bit for bit.
        violations: blocks whose first encoding broke the bound and was replaced.
        error_over_bound: largest |v - decoded| / bound over the lossy blocks.
    """

    records: list[Record]
    decoded: np.ndarray
    violations: int
    error_over_bound: float


@dataclass(frozen=True)
class Encoder:
    """How the blocks of one direction are encoded.

    Attributes:
        layout: the model's layout, the same at both ends.
        codec: codec of the float blocks.
        rule: gives each block's absolute bound.
        non_finite: what becomes of a block that holds NaN or infinities: "reject" refuses it, "lossless" sends it as
            it is, since no bound makes sense for it.
    """

    layout: Layout
    codec: codecs.Codec
    rule: BoundRule | Ratio
    non_finite: NonFinite = "reject"

    def encode(self, v: np.ndarray, integers: list[np.ndarray], factor: float = 1.0) -> Encoding:
        """Encode the flat float32 vector `v` block by block, and integer tensors losslessly.

        `factor` multiplies every bound; 0 makes the encoding exact.

        Blocks are encoded by OMP_NUM_THREADS threads where the codec's library lets go of Python's lock.

        Raises:
            FederationError: `v` holds NaN or infinite values and those are to be rejected.
        """
        encoding = Encoding([], np.empty_like(v), 0, 0.0)
        rule = self.rule.prepare(self.layout, v, self.codec) if isinstance(self.rule, Ratio) else self.rule
        for index, (block, checked) in enumerate(zip(self.layout.blocks, self._checked(v, rule, factor), strict=True)):
            encoding.decoded[block.start : block.stop] = checked.decoded.reshape(-1)
            encoding.violations += checked.violations
            encoding.error_over_bound = max(encoding.error_over_bound, checked.error_over_bound)
            values = v[block.start : block.stop]
            encoding.records.append(_record(index, values, checked.codec_id, checked.bound, checked.payload))
        encoding.records += self.integer_records(integers)
        return encoding

    def check(self, v: np.ndarray) -> None:
        """Raise FederationError, with the tensor's name, where the flat float32 vector `v` holds NaN or infinities."""
        for block in self.layout.blocks:
            values = v[block.start : block.stop]
            if not all_finite(values):
                raise self._refused(block, values)

    def _checked(self, v: np.ndarray, rule: BoundRule, factor: float) -> list[Checked]:
        def one(block: Block) -> Checked:
            return self._encode_block(block, v[block.start : block.stop].reshape(block.shape), rule, factor)

        workers = threads() if getattr(self.codec, "releases_gil", False) else 1
        if workers == 1 or len(self.layout.blocks) == 1:
            return [one(block) for block in self.layout.blocks]
        return list(_pool(workers).map(one, self.layout.blocks))

    def _encode_block(self, block: Block, values: np.ndarray, rule: BoundRule, factor: float) -> Checked:
        if all_finite(values):
            return encode_checked(self.codec, values, factor * rule.absolute(block, values))
        if self.non_finite == "lossless":
            return encode_checked(codecs.get("lossless"), values, 0.0)
        raise self._refused(block, values)

    def _refused(self, block: Block, values: np.ndarray) -> FederationError:
        return FederationError(
            f"the update of tensor {self._culprit(block, values)!r} holds NaN or infinite values; "
            "lower the learning rate or check the data"
        )

    def _culprit(self, block: Block, values: np.ndarray) -> str:
        slices = self.layout.slices
        flat = values.reshape(-1)
        inside = ((n, flat[slices[n].start - block.start : slices[n].stop - block.start]) for n in block.tensors)
        return next(name for name, part in inside if not np.isfinite(part).all())

    def integer_records(self, integers: list[np.ndarray]) -> list[Record]:
        """Records of a model's integer tensors, lossless."""
        codec = codecs.get("lossless")
        first = len(self.layout.blocks)
        return [
            _record(first + i, array, codec.id, 0.0, codec.encode(array, 0.0))
            for i, array in enumerate(map(contiguous, integers))
        ]


def _record(index: int, values: np.ndarray, codec_id: int, bound: float, payload: bytes) -> Record:
    version = codecs.by_id(codec_id).version
    return Record(index, values.dtype, values.shape, codec_id, version, bound, payload)


def threads() -> int:
    """Threads that one rank may use: OMP_NUM_THREADS, one where it is unset."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(text)) if text.isdigit() else 1


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="fedbound-encode")


Decoders = Mapping[int, codecs.Codec]


def decoders(codec: codecs.Codec | None = None) -> Decoders:
    """What a receiver decodes: the exact codecs and the one agreed on, so that no sender chooses another decoder."""
    agreed = [codecs.get("none"), codecs.get("lossless"), *([codec] if codec else [])]
    return {one.id: one for one in agreed}


def decode_records(
    layout: Layout, message: Message, out: np.ndarray, accepted: Decoders, extras: Sequence[np.ndarray] = ()
) -> list[np.ndarray]:
    """Decode all of a message's records: float blocks into `out` and `extras`, integer tensors into the list returned.

    Raises:
        MessageError: the records are not exactly the layout's, one is of a codec that is not among the `accepted`, or
            does not decode.
    """
    who = "the server" if message.sender < 0 else f"silo {message.sender}"
    count = layout.extra(len(extras))
    if sorted(record.name for record in message.records) != list(range(count)):
        raise MessageError(f"message from {who} does not hold exactly the model's {count} records; it is rejected")
    integers = [np.empty(tuple(s.shape), np.dtype(s.dtype)) for s in layout.integers]
    for record in message.records:
        _decode_record(who, record, _target(layout, record.name, out, integers, extras), accepted)
    return integers


def decode_integers(layout: Layout, message: Message) -> list[np.ndarray]:
    """Decode the records of a silo's message that carries the model's integer tensors alone.

    Raises:
        MessageError: the records are others, one is of a codec that is not exact, or does not decode.
    """
    who, first = f"silo {message.sender}", len(layout.blocks)
    if sorted(record.name for record in message.records) != list(range(first, layout.extra(0))):
        raise MessageError(f"message from {who} holds other records than the model's integer tensors; it is rejected")
    integers = [np.empty(tuple(s.shape), np.dtype(s.dtype)) for s in layout.integers]
    for record in message.records:
        _decode_record(who, record, integers[record.name - first], decoders())
    return integers


def _decode_record(who: str, record: Record, target: np.ndarray, accepted: Decoders) -> None:
    decoder = accepted.get(record.codec)
    if decoder is None:
        name = codecs.by_id(record.codec).name
        raise MessageError(
            f"message from {who}: record {record.name} is of the codec {name!r}, which this run does not use; "
            "it is rejected"
        )
    try:
        decoder.decode(record.payload, target)
    except ValueError as error:
        raise MessageError(
            f"message from {who}: record {record.name} does not decode ({error}); it is rejected"
        ) from None


def _target(
    layout: Layout, name: int, out: np.ndarray, integers: list[np.ndarray], extras: Sequence[np.ndarray]
) -> np.ndarray:
    """Where the record with this name index is decoded to."""
    blocks = len(layout.blocks)
    if blocks <= name < layout.extra(0):
        return integers[name - blocks]
    number, index = (-1, name) if name < blocks else divmod(name - layout.extra(0), blocks)
    block = layout.blocks[index]
    return (out if number < 0 else extras[number])[block.start : block.stop]


def payload_bytes(records: list[Record]) -> int:
    """Bytes of the records' payloads."""
    return sum(len(record.payload) for record in records)


def exact(layout: Layout, state: State) -> list[Record]:
    """Records of a model as it is: float blocks uncompressed, integer tensors too."""
    codec = codecs.get("none")
    arrays = [state.vector[b.start : b.stop] for b in layout.blocks] + list(state.integers)
    return [_record(i, array, codec.id, 0.0, codec.encode(array, 0.0)) for i, array in enumerate(arrays)]
