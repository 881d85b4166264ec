"""The wire format: exact round trips, and a clear rejection of everything else."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbound.codecs import wire
from fedbound.errors import MessageError


def _values(field: str) -> st.SearchStrategy[float]:
    if field in wire.COUNTS:
        return st.integers(0, 2**53).map(float)
    return st.floats(allow_nan=False, allow_infinity=field in wire.LOSSES)


RECORDS = st.builds(
    lambda name, dtype, shape, codec, bound, payload: wire.Record(name, dtype, shape, codec, 1, bound, payload),
    st.integers(0, 2**32 - 1),
    st.sampled_from(wire.DTYPES),
    st.lists(st.integers(0, 2**40), max_size=4).map(tuple),
    st.sampled_from([0, 1, 2]),
    st.floats(0, 1e30),
    st.binary(max_size=50),
)
MESSAGES = st.builds(
    wire.Message,
    st.sampled_from(wire.Kind),
    st.integers(-1, 2**31 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.lists(RECORDS, max_size=4),
    st.fixed_dictionaries({}, optional={name: _values(name) for name in wire.FIELDS}),
    st.text(max_size=40),
    st.integers(0, 7).map(wire.Flags),
)


@given(MESSAGES)
def test_round_trip(message):
    assert wire.unpack(wire.pack(message), limits=wire.Limits()) == message


def sample() -> wire.Message:
    x = np.arange(6, dtype="<f4")
    records = [
        wire.Record(0, x.dtype, (6,), 0, 1, 0.0, x.tobytes()),
        wire.Record(1, x.dtype, (6,), 2, 1, 0.1, b"abcdef"),
    ]
    return wire.Message(wire.Kind.UPDATE, 3, 7, 6, records, {"samples": 5.0, "train_loss": 0.25}, "note")


def test_truncation_at_every_offset_and_surplus_are_rejected():
    packed = bytes(wire.pack(sample()))
    for size in range(len(packed)):
        with pytest.raises(MessageError):
            wire.unpack(packed[:size], limits=wire.Limits())
    with pytest.raises(MessageError, match="silo 3"):
        wire.unpack(packed + b"\0", limits=wire.Limits())


def test_every_single_bit_flip_is_rejected():
    packed = bytes(wire.pack(sample()))
    for bit in range(8 * len(packed)):
        damaged = bytearray(packed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(MessageError):
            wire.unpack(damaged, limits=wire.Limits())


def forged(**header: int) -> bytearray:
    """A message whose header lies, with a CRC that fits the lie."""
    packed = wire.pack(sample())
    names = (
        "magic",
        "version",
        "kind",
        "flags",
        "sender",
        "round",
        "model_version",
        "records",
        "fields",
        "text",
        "payload",
    )
    values = dict(zip(names, wire._HEADER.unpack_from(packed), strict=True)) | header
    wire._HEADER.pack_into(packed, 0, *values.values())
    wire._CRC.pack_into(packed, wire._HEADER.size, wire._crc(packed))
    return packed


@pytest.mark.parametrize("lie", [
    {"payload": 2**60}, {"records": 2**32 - 1}, {"records": 2**19}, {"fields": 2**32 - 1}, {"text": 2**31},
    {"kind": 0}, {"kind": 77}, {"flags": 64}, {"version": 2}, {"records": 1}, {"records": 3}, {"fields": 1},
])  # fmt: skip
def test_lies_are_rejected_without_allocation(lie):
    packed = forged(**lie)
    tracemalloc.start()
    with pytest.raises(MessageError, match="silo 3"):
        wire.unpack(packed, limits=wire.Limits())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def replaced(**changes: object) -> wire.Message:
    message = sample()
    first = message.records[0]
    values = {
        key: getattr(first, key) for key in ("name", "dtype", "shape", "codec", "codec_version", "bound", "payload")
    }
    message.records[0] = wire.Record(**(values | changes))
    return message


@pytest.mark.parametrize(("change", "words"), [
    ({"codec": 200}, "unknown codec 200"), ({"codec_version": 9}, "version 9"), ({"bound": float("nan")}, "bound nan"),
    ({"bound": -1.0}, "bound -1"), ({"bound": float("inf")}, "bound inf"),
    ({"shape": (2**40,)}, "which the model has not"),
    ({"shape": (2, 3)}, "which the model has not"), ({"dtype": np.dtype("<f8")}, "which the model has not"),
    ({"name": 5}, "which the model has not"),
])  # fmt: skip
def test_wrong_records_are_rejected(change, words):
    limits = wire.Limits(expected=[((6,), np.dtype("<f4"))] * 2)
    wire.unpack(wire.pack(sample()), limits=limits)
    with pytest.raises(MessageError, match=f"silo 3.*{words}"):
        wire.unpack(wire.pack(replaced(**change)), limits=limits)


def test_peek_refuses_what_is_no_message():
    for junk in (b"", b"FBND", b"x" * 100, struct.pack("<4sH", b"FBND", 9) + bytes(60)):
        with pytest.raises(MessageError):
            wire.peek(junk)


def test_payloads_are_views():
    packed = wire.pack(sample())
    assert wire.unpack(packed, limits=wire.Limits()).records[1].payload.obj is packed


@pytest.mark.parametrize(("field", "value"), [
    ("samples", -1.0), ("samples", 0.5), ("steps", float("inf")), ("train_seconds", float("nan")), ("no_such", 1.0),
])  # fmt: skip
def test_impossible_fields_are_not_sent(field, value):
    message = sample()
    message.fields[field] = value
    with pytest.raises(ValueError, match=r"."):
        wire.pack(message)


@pytest.mark.parametrize(("index", "value", "words"), [
    (0, -5.0, "'samples' is -5"), (0, float("inf"), "'samples' is inf"), (2, 1.0, "'train_loss' twice"),
    (9999, 1.0, "unknown field 9999"),
])  # fmt: skip
def test_forged_fields_are_rejected(index, value, words):
    packed = wire.pack(sample())
    wire._FIELD.pack_into(packed, wire._START, index, value)
    wire._CRC.pack_into(packed, wire._HEADER.size, wire._crc(packed))
    with pytest.raises(MessageError, match=f"silo 3.*{words}"):
        wire.unpack(packed, limits=wire.Limits())


def test_a_diverged_loss_is_a_result_and_travels():
    message = sample()
    message.fields["train_loss"] = float("nan")
    assert np.isnan(wire.unpack(wire.pack(message), limits=wire.Limits()).fields["train_loss"])


def test_oversized_messages_are_rejected_before_their_checksum():
    packed = wire.pack(sample())
    packed[-1] ^= 1
    with pytest.raises(MessageError, match=r"silo 3.*100 bytes allowed"):
        wire.unpack(packed, limits=wire.Limits(bytes=100))


def test_impossible_sender_is_rejected():
    with pytest.raises(MessageError, match="impossible sender -2"):
        wire.peek(forged(sender=-2))


@pytest.mark.parametrize("change", [{"round": -1}, {"model_version": 2**64}, {"sender": 2**31}])
def test_numbers_without_a_place_are_a_value_error(change):
    message = wire.Message(
        **({"kind": wire.Kind.ACK, "sender": 0, "round": 0, "model_version": 0} | change), records=[], fields={}
    )
    with pytest.raises(ValueError, match="no place"):
        wire.pack(message)


def test_a_failure_text_always_goes_out():
    for text in ("é" * 50_000, "\udc80 broken", "x" * 70_000):
        message = wire.Message(wire.Kind.FAILURE, 1, 0, 0, [], {}, text)
        got = wire.unpack(wire.pack(message), limits=wire.Limits()).text
        assert got[:6] == text[:6].replace("\udc80", "?")
        assert len(got.encode()) <= wire.MAX_TEXT + 3  # a character cut in two becomes one replacement mark


def test_payloads_of_any_item_size_are_counted_in_bytes():
    x = np.arange(6, dtype="<f4")
    message = wire.Message(wire.Kind.MODEL, -1, 0, 0, [wire.Record(0, x.dtype, (6,), 0, 1, 0.0, x.data)], {})
    record = wire.unpack(wire.pack(message), limits=wire.Limits()).records[0]
    assert bytes(record.payload) == x.tobytes()
    assert record.payload.readonly


def test_lengths_beyond_two_gibibytes_are_representable():
    packed = forged(payload=2**33)
    assert wire.peek(packed).payload == 2**33
    wire._RECORD.pack(0, 0, 1, 0, 1, 0.0, 2**40)
