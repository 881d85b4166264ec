"""zfp in fixed-accuracy mode, a transform-based baseline.

Source: Lindstrom, "Fixed-Rate Compressed Floating-Point Arrays", IEEE TVCG 2014; library: LLNL/zfp through zfpy.
"""

from __future__ import annotations

import math
import struct
from typing import Any, ClassVar

import numpy as np

from fedbound.codecs.lossy import Bounded
from fedbound.codecs.payload import require
from fedbound.registry import CODECS, Options

_TOLERANCE = struct.Struct("<d")


class ZfpOptions(Options):
    """Options of `zfp`: there are none."""


@CODECS.register("zfp", ZfpOptions)
class Zfp(Bounded):
    """zfp with an absolute tolerance, in 1-D: 3x3 kernels fill its 4x4 blocks badly, and other tensors gain little."""

    name: ClassVar[str] = "zfp"
    id: ClassVar[int] = 3
    version: ClassVar[int] = 1
    smallest: ClassVar[int] = 1  # zfpy crashes on an empty array
    Options: ClassVar[type[Options]] = ZfpOptions

    def __init__(self, options: ZfpOptions | None = None):
        super().__init__()
        self.options = options or ZfpOptions()
        self._zfpy = require("zfpy", self.name, "codecs")

    def _compress(self, flat: np.ndarray, bound: float) -> Any:
        # without zfp's own header: its shape and mode would have to be distrusted
        stream = self._zfpy.compress_numpy(flat, tolerance=bound, write_header=False)
        return b"".join((_TOLERANCE.pack(bound), stream))

    def _decompress(self, body: memoryview, flat: np.ndarray) -> None:
        if len(body) < _TOLERANCE.size:
            raise ValueError("its tolerance is missing")
        (tolerance,) = _TOLERANCE.unpack_from(body)
        if not (math.isfinite(tolerance) and tolerance > 0):
            raise ValueError(f"its tolerance is {tolerance}")
        kind = self._zfpy.dtype_to_ztype(flat.dtype)
        self._zfpy._decompress(_padded(body[_TOLERANCE.size :], flat), kind, flat.shape, out=flat, tolerance=tolerance)


def _padded(stream: memoryview, flat: np.ndarray) -> np.ndarray:
    """The stream, followed by zeros as far as zfp can read: it does not look for the end.

    A block of 4 values takes at most 12 bits and 9 bits per bit plane: 297 bits of 128 (float32), 588 of 256 (float64).
    """
    longest = 3 * flat.nbytes + 256
    if len(stream) > longest:
        raise ValueError(f"{len(stream)} bytes are more than {flat.size} values can take")
    buffer = np.zeros(longest, np.uint8)
    buffer[: len(stream)] = np.frombuffer(stream, np.uint8)
    return buffer
