"""What lossy codecs share: when they go the exact way, and how their streams are sealed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from fedbound.codecs.lossless import decode_exact, encode_exact, require_zstandard
from fedbound.codecs.payload import LOSSY, SEAL_BYTES, all_finite, check_bound, contiguous, seal, target, unseal

#: Up to this many bytes, or where a stream saves less than a quarter, the exact encoding is tried too.
_SMALL = 4096
_LIBRARY_ERRORS = (RuntimeError, ValueError, TypeError, ArithmeticError, IndexError, MemoryError)


class Lossy(ABC):
    """A lossy codec whose payloads are exact where that is shorter, or where its method does not apply.

    Subclasses give `_compress` and `_decompress` for finite float32 and float64 values in one dimension. Everything
    that they cannot do is encoded exactly: other dtypes, NaN and infinities, fewer than `smallest` values, an encoder
    that fails, and arrays for which the exact encoding is shorter. The first byte of the payload says which it is.
    """

    name: ClassVar[str]
    error_bounded: ClassVar[bool]
    lossless: ClassVar[bool] = False
    smallest: ClassVar[int]

    def __init__(self) -> None:
        require_zstandard(self.name)

    def encode(self, x: np.ndarray, bound: float) -> bytes:
        """Encode an array of any shape; where the codec is bounded, so that |x - decoded| <= bound.

        Args:
            x: the values; a copy is made only where they are not C-contiguous and little-endian.
            bound: absolute error bound in the unit of `x`, finite. 0 means exact for a bounded codec; others ignore
                the bound.

        Raises:
            ValueError: the bound is negative, infinite or NaN, or the dtype cannot be sent.
        """
        bound = check_bound(bound)
        x = contiguous(x)
        body = self._lossy(x, bound)
        if body is None:
            return encode_exact(x)
        length = SEAL_BYTES + len(body)
        if x.nbytes <= _SMALL or 4 * length > 3 * x.nbytes:
            exact = encode_exact(x)
            if len(exact) < length:
                return exact
        return seal(x, body)

    def decode(self, payload: bytes | memoryview, out: np.ndarray) -> np.ndarray:
        """Decode into `out` and return it.

        Raises:
            ValueError: the payload is truncated, damaged, or not of the dtype and size of `out`.
        """
        flat = target(out)
        view = memoryview(payload)
        if not len(view) or view[0] != LOSSY:
            decode_exact(view, flat)
            return out
        body = unseal(view, out)
        try:
            self._decompress(body, flat)
        except _LIBRARY_ERRORS as error:
            raise ValueError(f"{self.name} refuses it: {error}") from None
        return out

    def _lossy(self, x: np.ndarray, bound: float) -> Any | None:
        flat = x.reshape(-1)
        possible = flat.dtype in (np.float32, np.float64) and flat.size >= self.smallest
        if not (possible and (bound > 0 or not self.error_bounded) and all_finite(flat)):
            return None
        try:
            return self._compress_shaped(flat, bound, x.shape)
        except _LIBRARY_ERRORS:
            return None

    def _compress_shaped(self, flat: np.ndarray, bound: float, shape: tuple[int, ...]) -> Any:
        """`_compress`, for codecs that gain from knowing the array's shape."""
        return self._compress(flat, bound)

    @abstractmethod
    def _compress(self, flat: np.ndarray, bound: float) -> Any:
        """The library's stream, a flat buffer of bytes, for finite 1-D float32 or float64 values."""

    @abstractmethod
    def _decompress(self, body: memoryview, flat: np.ndarray) -> None:
        """Decode the library's stream into all of `flat`."""


class Bounded(Lossy):
    """An error-bounded codec, always in absolute-error mode; a bound of 0 goes the exact way."""

    error_bounded: ClassVar[bool] = True


class Unbounded(Lossy):
    """A codec that promises no bound: a published baseline to compare with."""

    error_bounded: ClassVar[bool] = False
