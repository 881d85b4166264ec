"""No compression: the values as they are, little-endian."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fedbound.codecs.payload import contiguous, copy_raw, target
from fedbound.registry import CODECS, Options


class NoneOptions(Options):
    """Options of `none`: there are none."""


@CODECS.register("none", NoneOptions)
class Uncompressed:
    """No compression: raw little-endian values, exact."""

    name: ClassVar[str] = "none"
    id: ClassVar[int] = 0
    version: ClassVar[int] = 1
    error_bounded: ClassVar[bool] = False
    lossless: ClassVar[bool] = True
    Options: ClassVar[type[Options]] = NoneOptions

    def __init__(self, options: NoneOptions | None = None):
        self.options = options or NoneOptions()

    def encode(self, x: np.ndarray, bound: float = 0.0) -> bytes:
        """The bytes of `x`, of any dtype that can be sent; `bound` is ignored."""
        return contiguous(x).tobytes()

    def decode(self, payload: bytes | memoryview, out: np.ndarray) -> np.ndarray:
        """Copy the payload into `out`; raises ValueError unless it fills `out` exactly."""
        copy_raw(payload, target(out))
        return out
