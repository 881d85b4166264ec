"""No compression: the array's own little-endian bytes. The baseline, and the way of the model down to the silos."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fedbound.registry import CODECS, Options


@CODECS.register("none")
class NoCodec:
    """Raw little-endian bytes, in C order."""

    name: ClassVar[str] = "none"
    id: ClassVar[int] = 0
    version: ClassVar[int] = 1
    error_bounded: ClassVar[bool] = False
    lossless: ClassVar[bool] = True

    def __init__(self, options: Options | None = None):
        pass

    def encode(self, x: np.ndarray, bound: float) -> bytes:
        return np.ascontiguousarray(x, x.dtype.newbyteorder("<")).tobytes()

    def decode(self, payload: bytes | memoryview, out: np.ndarray) -> np.ndarray:
        if len(payload) != out.nbytes:
            raise ValueError(f"{len(payload)} bytes where {out.nbytes} are needed")
        out[...] = np.frombuffer(payload, out.dtype.newbyteorder("<")).reshape(out.shape)
        return out
