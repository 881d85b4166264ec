"""Lossless compression: byte shuffle, then Zstandard.

The bytes of equal significance are put together first ("shuffle", as in HDF5 and Blosc), because in floating-point
data the sign and exponent bytes repeat while the low bytes of the mantissa look random. Zstandard: RFC 8878.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedbound.codecs.payload import RAW, ZSTD, check_booleans, contiguous, copy_raw, require, target
from fedbound.registry import CODECS, Options

LEVEL = 3


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
    frame = _compressor(level).compress(_shuffle(x)) if x.size else b""
    if x.size and len(frame) < x.nbytes:
        return b"".join((bytes([ZSTD]), frame))
    return b"".join((bytes([RAW]), x.reshape(-1).view(np.uint8)))


def decode_exact(payload: bytes | memoryview, flat: np.ndarray) -> None:
    """Decode what `encode_exact` gave into the 1-D `flat`.

    Raises:
        ValueError: another tag, damaged, or of another size than `flat`; checked before anything is allocated.
    """
    view = memoryview(payload)
    tag = view[0] if len(view) else None
    if tag == RAW:
        copy_raw(view[1:], flat)
    elif tag == ZSTD:
        _unshuffle(_decompress(view[1:], flat.nbytes), flat)
        check_booleans(flat)
    else:
        raise ValueError("it is empty" if tag is None else f"unknown payload tag {tag}")


@functools.cache
def _compressor(level: int) -> Any:
    import zstandard

    # No threads: a frame then depends on the data and the level alone.
    return zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)


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
        # a frame of known size is refused by the library when it holds more or fewer bytes than it says
        return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"Zstandard refuses it: {error}") from None
