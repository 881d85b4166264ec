"""The wire format: typed header, fields, records, payloads and a CRC; nothing executable (design law 11).

Byte by byte in docs/wire-format.md. All numbers are little-endian. Sizes are checked against the buffer before
anything is allocated, and payloads are views into the buffer that was received.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any

import numpy as np

from fedbound.codecs.payload import DTYPES
from fedbound.errors import MessageError

MAGIC = b"FBND"
VERSION = 1
# magic, version, kind, flags, sender, round, model version, records, fields, text bytes, payload bytes
_HEADER = struct.Struct("<4sHBBiIQIIIQ")
_CRC = struct.Struct("<I")
_RECORD = struct.Struct("<IBBBBdQ")  # name, dtype, ndim, codec, codec version, bound, payload bytes
_FIELD = struct.Struct("<Id")
_START = _HEADER.size + _CRC.size
FIELD_BYTES = _FIELD.size
MAX_DIMENSIONS = 16
MAX_TEXT = 65536


class Kind(IntEnum):
    """What a message is."""

    HELLO = 1
    MODEL = 2
    UPDATE = 3
    EVALUATION = 4
    ACK = 5
    CHECKPOINT = 6
    STOP = 7
    FAILURE = 8
    RESYNC = 9


class Flags(IntFlag):
    """What the silo is to do with a model."""

    TRAIN = 1
    EVALUATE = 2
    CHECKPOINT = 4


FIELDS = (
    "samples", "steps", "train_loss", "test_samples", "test_correct", "test_loss", "validation_samples",
    "validation_correct", "train_seconds", "evaluate_seconds", "encode_seconds", "wait_seconds", "memory_bytes",
    "error_over_bound", "violations", "residual_norm", "raw_bytes", "checkpoint_label", "base_version", "base_crc",
    "decode_seconds", "global_loss", "releases", "bound_factor", "busy_seconds",
    "error_norm",
)  # fmt: skip  # a field's index here is its number on the wire: append only
# whole numbers >= 0; of the others only losses may be infinite or NaN, as those of a diverged training are
COUNTS = frozenset(name for name in FIELDS if name.endswith(("samples", "correct", "bytes"))) | {
    "steps",
    "violations",
    "releases",
}
LARGEST_COUNT = 2.0**53  # up to which a float64 holds every whole number
LOSSES = frozenset(name for name in FIELDS if name.endswith("loss"))


@dataclass(frozen=True)
class Record:
    """One encoded array: `name` is its index in the layout that both ends hold; `bound` is absolute, 0 if lossless."""

    name: int
    dtype: np.dtype
    shape: tuple[int, ...]
    codec: int
    codec_version: int
    bound: float
    payload: bytes | memoryview


@dataclass(frozen=True)
class Message:
    """One message; `sender` is the silo's number, -1 for the server."""

    kind: Kind
    sender: int
    round: int
    model_version: int
    records: list[Record]
    fields: dict[str, float]
    text: str = ""
    flags: Flags = field(default=Flags(0))


@dataclass(frozen=True)
class Header:
    """The fixed part of a message."""

    kind: Kind
    flags: Flags
    sender: int
    round: int
    model_version: int
    records: int
    fields: int
    text: int
    payload: int


@dataclass(frozen=True)
class Limits:
    """What a receiver is ready for.

    Attributes:
        expected: shape and dtype of each record by name index; None where any will do.
        records: most records in a message.
        bytes: most bytes in a message.
    """

    expected: Sequence[tuple[tuple[int, ...], np.dtype]] | None = None
    records: int = 1 << 20
    bytes: int = 1 << 40


def size(message: Message) -> int:
    """Bytes that `pack` will make of the message."""
    text = len(message.text.encode(errors="replace")[:MAX_TEXT])
    heads = sum(_RECORD.size + 8 * len(record.shape) for record in message.records)
    payload = sum(memoryview(record.payload).nbytes for record in message.records)
    return _START + len(message.fields) * _FIELD.size + text + heads + payload


def pack(message: Message) -> bytearray:
    """The message's bytes; each payload is copied once.

    Raises:
        ValueError: a dtype, field or number has no place in the format.
    """
    try:
        return _pack(message)
    except struct.error as error:
        raise ValueError(f"a number of the message has no place in the wire format: {error}") from None


def _pack(message: Message) -> bytearray:
    text = message.text.encode(errors="replace")[:MAX_TEXT]
    payload = sum(memoryview(record.payload).nbytes for record in message.records)
    header = _HEADER.pack(
        MAGIC, VERSION, message.kind, int(message.flags), message.sender, message.round, message.model_version,
        len(message.records), len(message.fields), len(text), payload,
    )  # fmt: skip
    parts: list[Any] = [header, b"\0" * _CRC.size]
    parts += [_FIELD.pack(FIELDS.index(key), _field_value(key, value)) for key, value in message.fields.items()]
    parts.append(text)
    for record in message.records:
        parts.append(_record_head(record))
    parts += [record.payload for record in message.records]
    buffer = bytearray().join(parts)
    _CRC.pack_into(buffer, _HEADER.size, _crc(buffer))
    return buffer


def _field_value(name: str, value: float) -> float:
    value = float(value)
    if name not in LOSSES and not math.isfinite(value):
        raise ValueError(f"the field {name!r} is {value}, which is not finite")
    if name in COUNTS and not (0 <= value <= LARGEST_COUNT and value % 1 == 0):
        raise ValueError(f"the field {name!r} is {value}, which is no count")
    return value


def _record_head(record: Record) -> bytes:
    code, length = DTYPES.index(np.dtype(record.dtype).newbyteorder("<")), memoryview(record.payload).nbytes
    head = _RECORD.pack(record.name, code, len(record.shape), record.codec, record.codec_version, record.bound, length)
    return head + struct.pack(f"<{len(record.shape)}Q", *record.shape)


def _crc(buffer: bytes | bytearray | memoryview) -> int:
    view = memoryview(buffer)
    return zlib.crc32(view[_START:], zlib.crc32(view[: _HEADER.size]))


def peek(buffer: bytes | bytearray | memoryview) -> Header:
    """The header alone, without the CRC check: to refuse early.

    Raises:
        MessageError: no message of this format.
    """
    if len(buffer) < _START:
        raise MessageError(f"a message of {len(buffer)} bytes is shorter than its header; it is rejected")
    magic, version, kind, flags, sender, *numbers = _HEADER.unpack_from(buffer)
    if magic != MAGIC:
        raise MessageError("a message does not begin as one of fedbound; it is rejected")
    if sender < -1:
        raise MessageError(f"a message names the impossible sender {sender}; it is rejected")
    who = _who(sender)
    if version != VERSION:
        raise MessageError(f"{who} has wire version {version} and this fedbound speaks {VERSION}; use one version")
    if kind not in Kind._value2member_map_:
        raise MessageError(f"{who} has the unknown kind {kind}; it is rejected")
    if flags & ~7:
        raise MessageError(f"{who} has unknown flags {flags}; it is rejected")
    return Header(Kind(kind), Flags(flags), sender, *numbers)


def _who(sender: int) -> str:
    return "message from the server" if sender == -1 else f"message from silo {sender}"


def unpack(buffer: bytes | bytearray | memoryview, *, limits: Limits) -> Message:
    """The message in `buffer`; payloads are views into it.

    Raises:
        MessageError: truncated, altered, oversized, or not what `limits` expects; the sender is named.
    """
    header = peek(buffer)
    who = _who(header.sender)
    view = memoryview(buffer).toreadonly()
    fixed = _START + header.fields * _FIELD.size + header.text + header.records * _RECORD.size
    if header.fields > len(FIELDS) or header.text > MAX_TEXT or header.records > limits.records:
        raise MessageError(f"{who} claims more fields, text or records than allowed; it is rejected")
    if max(len(view), fixed + header.payload) > limits.bytes:
        raise MessageError(f"{who} is larger than the {limits.bytes} bytes allowed; it is rejected")
    if fixed + header.payload > len(view):
        raise MessageError(f"{who} is truncated at {len(view)} bytes; it is rejected")
    (crc,) = _CRC.unpack_from(view, _HEADER.size)
    if _crc(view) != crc:
        raise MessageError(f"{who} was altered on its way (CRC); it is rejected")
    at = _START
    fields = {}
    for _ in range(header.fields):
        key, value = _FIELD.unpack_from(view, at)
        if key >= len(FIELDS):
            raise MessageError(f"{who} has the unknown field {key}; it is rejected")
        if FIELDS[key] in fields:
            raise MessageError(f"{who} has the field {FIELDS[key]!r} twice; it is rejected")
        try:
            fields[FIELDS[key]] = _field_value(FIELDS[key], value)
        except ValueError as error:
            raise MessageError(f"{who}: {error}; it is rejected") from None
        at += _FIELD.size
    text = str(view[at : at + header.text], "utf-8", "replace")
    heads, at = _heads(view, at + header.text, header, who)
    records = []
    for name, dtype, shape, codec, version, bound, length in heads:
        if length > len(view) - at:
            raise MessageError(f"{who}: record {name} claims {length} bytes, more than there are; it is rejected")
        _check(who, limits, name, dtype, shape, codec, version, bound)
        records.append(Record(name, dtype, shape, codec, version, bound, view[at : at + length]))
        at += length
    if at != len(view):
        raise MessageError(f"{who} has {len(view) - at} bytes too many; it is rejected")
    return Message(header.kind, header.sender, header.round, header.model_version, records, fields, text, header.flags)


def _heads(view: memoryview, at: int, header: Header, who: str) -> tuple[list[tuple[Any, ...]], int]:
    heads = []
    for _ in range(header.records):
        if at + _RECORD.size > len(view):
            raise MessageError(f"{who} is truncated in its records; it is rejected")
        name, code, dimensions, codec, version, bound, length = _RECORD.unpack_from(view, at)
        at += _RECORD.size
        if code >= len(DTYPES) or dimensions > MAX_DIMENSIONS or at + 8 * dimensions > len(view):
            raise MessageError(f"{who}: record {name} has an impossible dtype or shape; it is rejected")
        shape = struct.unpack_from(f"<{dimensions}Q", view, at)
        at += 8 * dimensions
        heads.append((name, DTYPES[code], shape, codec, version, bound, length))
    return heads, at


def _check(
    who: str, limits: Limits, name: int, dtype: np.dtype, shape: tuple[int, ...], codec: int, version: int, bound: float
) -> None:
    from fedbound.codecs import by_id

    if not (math.isfinite(bound) and bound >= 0):
        raise MessageError(f"{who}: record {name} has the bound {bound}; it is rejected")
    try:
        ours = by_id(codec).version
    except ValueError:
        raise MessageError(f"{who}: record {name} has the unknown codec {codec}; it is rejected") from None
    if version != ours:
        raise MessageError(
            f"{who}: record {name} has version {version} of codec {codec} and this fedbound reads {ours}; "
            "use one version of fedbound everywhere"
        )
    if limits.expected is None:
        return
    if name >= len(limits.expected) or (tuple(shape), dtype) != (
        tuple(limits.expected[name][0]),
        np.dtype(limits.expected[name][1]).newbyteorder("<"),
    ):
        raise MessageError(f"{who}: record {name} has {dtype} {tuple(shape)}, which the model has not; it is rejected")
