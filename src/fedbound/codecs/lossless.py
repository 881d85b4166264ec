"""Lossless compression: byte shuffle, then Zstandard.

The bytes of equal significance are put together first ("shuffle", as in HDF5 and Blosc), because in floating-point
data the sign and exponent bytes repeat while the low bytes of the mantissa look random. Zstandard: RFC 8878.
"""

from __future__ import annotations

import functools
import struct
import zlib
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedbound.codecs.payload import RAW, ZSTD, check_booleans, contiguous, copy_raw, require, target
from fedbound.registry import CODECS, Options

LEVEL = 3
_RAW = struct.Struct("<BI")  # tag, CRC-32 of the values


class LosslessOptions(Options):
    """Options of `lossless`."""

    level: int = Field(default=LEVEL, ge=1, le=22, description="Zstandard level: higher is smaller and slower")


@CODECS.register("lossless", LosslessOptions)
class Lossless:
    """Byte shuffle and Zstandard: exact, any dtype."""

    name: ClassVar[str] = "lossless"
    id: ClassVar[int] = 1
    version: ClassVar[int] = 1
    error_bounded: ClassVar[bool] = False
    lossless: ClassVar[bool] = True
    Options: ClassVar[type[Options]] = LosslessOptions

    def __init__(self, options: LosslessOptions | None = None):
        self.options = options or LosslessOptions()
        require_zstandard(self.name)

    def encode(self, x: np.ndarray, bound: float = 0.0) -> bytes:
        """Encode `x`, of any dtype that can be sent, bit for bit; `bound` is ignored."""
        return encode_exact(contiguous(x), self.options.level)

    def decode(self, payload: bytes | memoryview, out: np.ndarray) -> np.ndarray:
        """Decode into `out`; raises ValueError unless the payload fills it exactly."""
        decode_exact(payload, target(out))
        return out


def require_zstandard(codec: str) -> None:
    """Raise InputError where the package zstandard is missing."""
    require("zstandard", codec, "train")


def encode_exact(x: np.ndarray, level: int = LEVEL) -> bytes:
    """A C-contiguous array as tag + Zstandard frame, or as tag + raw values where that is no longer."""
    frame = compressor(level).compress(_shuffle(x)) if x.size else b""
    if x.size and len(frame) < x.nbytes:
        return b"".join((bytes([ZSTD]), frame))
    raw = x.reshape(-1).view(np.uint8).data
    return b"".join((_RAW.pack(RAW, zlib.crc32(raw)), raw))


def decode_exact(payload: bytes | memoryview, flat: np.ndarray) -> None:
    """Decode what `encode_exact` gave into the 1-D `flat`.

    Raises:
        ValueError: another tag, damaged, or of another size than `flat`; checked before anything is allocated.
    """
    view = memoryview(payload)
    tag = view[0] if len(view) else None
    if tag == RAW:
        copy_raw(_checked_raw(view), flat)
    elif tag == ZSTD:
        _unshuffle(_decompress(view[1:], flat.nbytes), flat)
        check_booleans(flat)
    else:
        raise ValueError("it is empty" if tag is None else f"unknown payload tag {tag}")


def _checked_raw(payload: memoryview) -> memoryview:
    body = payload[_RAW.size :]
    if len(payload) < _RAW.size or _RAW.unpack_from(payload)[1] != zlib.crc32(body):
        raise ValueError("its checksum does not match")
    return body


@functools.cache
def compressor(level: int) -> Any:
    """A single-threaded Zstandard compressor, whose frames say their size and carry a checksum."""
    import zstandard

    return zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=True)


def _shuffle(x: np.ndarray) -> np.ndarray:
    planes = x.reshape(-1).view(np.uint8).reshape(-1, x.itemsize).T
    return np.ascontiguousarray(planes)


def _unshuffle(planes: bytes, flat: np.ndarray) -> None:
    rows = np.frombuffer(planes, np.uint8).reshape(flat.itemsize, -1)
    flat.view(np.uint8).reshape(-1, flat.itemsize)[:] = rows.T


def _decompress(frame: memoryview, size: int) -> bytes:
    import zstandard

    try:
        claimed = zstandard.get_frame_parameters(frame).content_size
        if claimed != size:  # an unknown size reads as 2^64 - 1
            raise ValueError(f"it claims {claimed} bytes where {size} are expected")
        planes = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"Zstandard refuses it: {error}") from None
    if len(planes) != size:
        raise ValueError(f"it holds {len(planes)} bytes where {size} are expected")
    return planes
