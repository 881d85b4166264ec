"""SZ3: prediction, linear-scale quantization, Huffman and Zstandard, with an absolute error bound.

Source: Liang et al., "SZ3: A Modular Framework for Composing Prediction-Based Error-Bounded Lossy Compressors", IEEE
Trans. Big Data 9(2), 2023; library: pysz 1.1 (SZ3 3.4). The default predictor is `nopred`: flattened updates are
nearly i.i.d., so prediction only adds noise (measured in docs/codecs.md).
"""

from __future__ import annotations

import struct
import zlib
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fedbound.codecs.lossless import Lossless
from fedbound.errors import InputError
from fedbound.registry import CODECS, Options

_HEAD = struct.Struct("<BBQI")  # way, dtype, values, CRC-32 of the stream
_LOSSLESS, _SZ3 = 0, 1
_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
_SMALLEST = 8  # pysz refuses empty arrays, and below this its own header outweighs the values


class Sz3Options(Options):
    """Options of `sz3`."""

    predictor: Literal["nopred", "interp", "interp_lorenzo", "lorenzo_reg"] = Field(
        default="nopred", description="SZ3's algorithm"
    )


@CODECS.register("sz3", Sz3Options)
class Sz3:
    """SZ3 with an absolute bound; bound 0, tiny and non-finite arrays go the lossless way."""

    name: ClassVar[str] = "sz3"
    id: ClassVar[int] = 2
    version: ClassVar[int] = 1
    error_bounded: ClassVar[bool] = True
    lossless: ClassVar[bool] = False

    def __init__(self, options: Sz3Options | None = None):
        self.predictor = (options or Sz3Options()).predictor
        self._exact = Lossless()

    def encode(self, x: np.ndarray, bound: float) -> bytes:
        if x.dtype not in _DTYPES:
            raise ValueError(f"sz3 takes float32 and float64, not {x.dtype}")
        if bound <= 0 or x.size < _SMALLEST or not np.isfinite(x).all() or not _resolves(x, bound):
            stream = self._exact.encode(x, 0.0)
            way = _LOSSLESS
        else:
            stream = self._compress(np.ascontiguousarray(x).reshape(-1), bound)
            way = _SZ3
        return _HEAD.pack(way, _DTYPES.index(x.dtype), x.size, zlib.crc32(stream)) + stream

    def _compress(self, flat: np.ndarray, bound: float) -> bytes:
        sz, config, algorithm, mode = _library()
        settings = config((flat.size,))
        settings.errorBoundMode = mode.ABS
        settings.absErrorBound = bound
        settings.cmprAlgo = getattr(algorithm, self.predictor.upper())
        stream, _ = sz.compress(flat, settings)
        return bytes(stream)

    def decode(self, payload: bytes | memoryview, out: np.ndarray) -> np.ndarray:
        if len(payload) < _HEAD.size:
            raise ValueError("the payload is shorter than its header")
        way, code, size, crc = _HEAD.unpack_from(payload)
        stream = memoryview(payload)[_HEAD.size :]
        # SZ3 trusts its stream: nothing that was altered may reach it
        if code >= len(_DTYPES) or way not in (_LOSSLESS, _SZ3) or zlib.crc32(stream) != crc:
            raise ValueError("the payload was altered")
        if size != out.size or _DTYPES[code] != out.dtype:
            raise ValueError(f"{size} values of {_DTYPES[code]} where {out.size} of {out.dtype} are needed")
        if way == _LOSSLESS:
            return self._exact.decode(stream, out)
        sz, *_ = _library()
        values, _ = sz.decompress(np.frombuffer(stream, np.uint8), out.dtype, (out.size,))
        out[...] = values.reshape(out.shape)
        return out


def _resolves(x: np.ndarray, bound: float) -> bool:
    """Whether the bound is coarse enough for SZ3's quantizer: below the dtype's own spacing it cannot be kept."""
    largest = float(np.abs(x).max())
    return bound > 4 * np.finfo(x.dtype).eps * largest and bound > 4 * np.finfo(x.dtype).tiny


def _library():  # type: ignore[no-untyped-def]
    try:
        from pysz import sz, szAlgorithm, szConfig, szErrorBoundMode
    except ImportError:
        raise InputError("the codec 'sz3' needs the package pysz; install it with pip install 'fedbound[train]'") from None
    return sz, szConfig, szAlgorithm, szErrorBoundMode
