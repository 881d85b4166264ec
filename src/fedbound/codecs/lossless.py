"""Lossless: bytes shuffled by significance, then Zstandard (RFC 8878). For small, integer and incompressible data.

The shuffle puts the first bytes of all values together, then the second ones, and so on (Alted, Blosc): exponents of
neighbouring values are alike, which an entropy coder only sees when they stand together.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from fedbound.registry import CODECS, Options


class LosslessOptions(Options):
    """Options of `lossless`."""

    level: int = Field(default=3, ge=1, le=22, description="Zstandard level")


@CODECS.register("lossless", LosslessOptions)
class Lossless:
    """Byte shuffle and Zstandard: exact for every dtype, NaN payloads and signed zeros included."""

    name: ClassVar[str] = "lossless"
    id: ClassVar[int] = 1
    version: ClassVar[int] = 1
    error_bounded: ClassVar[bool] = False
    lossless: ClassVar[bool] = True

    def __init__(self, options: LosslessOptions | None = None):
        self.level = (options or LosslessOptions()).level

    def encode(self, x: np.ndarray, bound: float) -> bytes:
        import zstandard

        raw = np.ascontiguousarray(x, x.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
        shuffled = np.ascontiguousarray(raw.reshape(-1, x.dtype.itemsize).T)
        return zstandard.ZstdCompressor(level=self.level, write_checksum=True).compress(shuffled.data)

    def decode(self, payload: bytes | memoryview, out: np.ndarray) -> np.ndarray:
        import zstandard

        try:
            if zstandard.get_frame_parameters(payload).content_size != out.nbytes:
                raise ValueError("the frame has another size than the array")
            raw = zstandard.ZstdDecompressor().decompress(payload, max_output_size=out.nbytes)
        except zstandard.ZstdError as error:
            raise ValueError(f"no Zstandard frame: {error}") from None
        if len(raw) != out.nbytes:
            raise ValueError(f"{len(raw)} bytes where {out.nbytes} are needed")
        bytes_ = np.frombuffer(raw, np.uint8).reshape(out.dtype.itemsize, -1).T
        out[...] = np.ascontiguousarray(bytes_).reshape(-1).view(out.dtype.newbyteorder("<")).reshape(out.shape)
        return out
