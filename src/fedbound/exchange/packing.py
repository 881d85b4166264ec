"""Whole numbers of b bits each, packed without gaps: what a sum modulo 2^b is sent as."""

from __future__ import annotations

import numpy as np

MOST_BITS = 32
_BLOCK = 1 << 18  # values at a time, a multiple of 8: their bits fill whole bytes


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` numbers of `bits` bits take: ceil(count * bits / 8)."""
    return -(-count * bits // 8)


def pack(values: np.ndarray, bits: int) -> bytes:
    """The lowest `bits` bits of each integer (negative ones as two's complement), highest first, zeros at the end.

    Args:
        values: int64 [count].
        bits: 1 to 32.
    """
    parts = []
    for start in range(0, len(values), _BLOCK):
        words = (values[start : start + _BLOCK] & ((1 << bits) - 1)).astype(">u4")
        parts.append(np.packbits(np.unpackbits(words.view(np.uint8).reshape(-1, 4), axis=1)[:, 32 - bits :]))
    return b"".join(part.tobytes() for part in parts)


def unpack(payload: bytes | memoryview, count: int, bits: int) -> np.ndarray:
    """The numbers, int64 [count] in [0, 2^bits).

    Raises:
        ValueError: the payload is of another length, or the bits after the last number are not 0.
    """
    raw = np.frombuffer(payload, np.uint8)
    if len(raw) != packed_bytes(count, bits):
        raise ValueError(f"{len(raw)} bytes do not hold {count} numbers of {bits} bits")
    spare = 8 * len(raw) - count * bits
    if spare and raw[-1] & ((1 << spare) - 1):
        raise ValueError("the bits after the last number are not 0")
    values = np.empty(count, np.int64)
    for start in range(0, count, _BLOCK):
        stop = min(count, start + _BLOCK)
        part = raw[start * bits // 8 : packed_bytes(stop, bits)]
        wide = np.zeros((stop - start, 32), np.uint8)
        wide[:, 32 - bits :] = np.unpackbits(part, count=(stop - start) * bits).reshape(-1, bits)
        values[start:stop] = np.packbits(wide, axis=1).view(">u4")[:, 0]
    return values
