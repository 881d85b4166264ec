"""The sender's check of the promise: every lossy payload is decoded and compared before it leaves (design law 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedbound.codecs.lossless import Lossless

if TYPE_CHECKING:
    from fedbound.codecs import Codec


@dataclass(frozen=True)
class Checked:
    """An encoding that keeps its bound.

    Attributes:
        payload: the bytes.
        decoded: what the receiver will decode, same shape and dtype as the input.
        codec_id: codec that made the payload: the one asked for, or the lossless one.
        bound: the bound that is kept; 0 where lossless.
        violations: encodings that were thrown away because they broke it.
        error_over_bound: largest |x - decoded| / bound; 0 where lossless.
    """

    payload: bytes
    decoded: np.ndarray
    codec_id: int
    bound: float
    violations: int
    error_over_bound: float


def encode_checked(codec: Codec, x: np.ndarray, bound: float) -> Checked:
    """Encode `x`, decode it, and fall back to half the bound, then to the lossless codec, if the bound is broken.

    Raises:
        ValueError: a lossy codec and values that are not finite.
    """
    if not codec.lossless and not np.isfinite(x).all():
        raise ValueError("values that are not finite cannot be encoded with an error bound")
    if not codec.error_bounded or bound == 0:
        payload = codec.encode(x, bound)
        return Checked(payload, codec.decode(payload, np.empty_like(x, order="C")), codec.id, 0.0, 0, 0.0)
    for violations, tighter in enumerate((bound, bound / 2)):
        payload = codec.encode(x, tighter)
        decoded = codec.decode(payload, np.empty_like(x, order="C"))
        error = _largest_error(x, decoded)
        if error <= bound:
            return Checked(payload, decoded, codec.id, bound, violations, error / bound)
    exact = Lossless()
    return Checked(exact.encode(x, 0.0), np.array(x, order="C"), exact.id, 0.0, 2, 0.0)


def _largest_error(x: np.ndarray, decoded: np.ndarray) -> float:
    """max |x - decoded| in the dtype that is used, NaN counting as infinite."""
    if not x.size:
        return 0.0
    with np.errstate(over="ignore"):
        error = float(np.abs(x - decoded).max())
    return error if error == error else float("inf")
