"""Design law 2: a bound is a promise, so every lossy payload is decoded and checked where it is made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedbound.codecs import Codec
from fedbound.codecs.payload import all_finite, check_bound, contiguous
from fedbound.registry import CODECS

_BLOCK = 1 << 16  # values per step of a comparison: its temporaries stay in the cache


@dataclass(frozen=True, slots=True)
class Checked:
    """One encoding that keeps its promise.

    Attributes:
        payload: what is sent.
        decoded: what the receiver will decode, bit for bit, in the shape and dtype of the input. Where that is the
            input itself, this is a read-only view of it: copy it before changing the input.
        codec_id: codec of the payload in the wire format; another than asked for after two violations.
        bound: the absolute bound promised; 0 for codecs that are lossless or promise none.
        violations: encodings that broke the bound and were thrown away (0, 1 or 2).
        error_over_bound: largest |x - decoded| / bound; 0 where nothing was lost or no bound is promised.
    """

    payload: bytes
    decoded: np.ndarray
    codec_id: int
    bound: float
    violations: int
    error_over_bound: float


def encode_checked(codec: Codec, x: np.ndarray, bound: float) -> Checked:
    """Encode `x`, decode it again and hold the result against the bound.

    A first violation is answered by half the bound, a second one by the lossless codec. The comparison is made in the
    dtype of `x`, the one in which the values are used. Codecs that promise no bound are decoded but not checked.

    Args:
        codec: any codec.
        x: values of any shape.
        bound: absolute bound in the unit of `x`; ignored by codecs that promise none.

    Raises:
        ValueError: `x` holds NaN or infinities and the codec is lossy, or the bound is no finite number >= 0.
    """
    x = contiguous(x)
    if codec.lossless:
        return Checked(codec.encode(x, 0.0), _frozen(x), codec.id, 0.0, 0, 0.0)
    if not all_finite(x):
        raise ValueError(f"the codec {codec.name!r} was given NaN or infinite values, which have no error bound")
    if not codec.error_bounded:
        payload = codec.encode(x, bound)
        return Checked(payload, codec.decode(payload, np.empty_like(x)), codec.id, 0.0, 0, 0.0)
    return _encode_bounded(codec, x, check_bound(bound))


def _encode_bounded(codec: Codec, x: np.ndarray, bound: float) -> Checked:
    for violations, tried in enumerate((bound, bound / 2)):
        payload = codec.encode(x, tried)
        decoded = _decoded(codec, payload, x)
        error = float("inf") if decoded is None else largest_error(x, decoded)
        if decoded is not None and error <= bound:
            return Checked(payload, decoded, codec.id, bound, violations, error / bound if error else 0.0)
    exact = CODECS.get("lossless")
    return Checked(exact.encode(x, 0.0), _frozen(x), exact.id, bound, 2, 0.0)


def _decoded(codec: Codec, payload: bytes, x: np.ndarray) -> np.ndarray | None:
    try:
        return codec.decode(payload, np.empty_like(x))
    except ValueError:
        return None  # a library that cannot read its own stream breaks the promise as well


def _frozen(x: np.ndarray) -> np.ndarray:
    view = x.view()
    view.flags.writeable = False
    return view


def largest_error(x: np.ndarray, decoded: np.ndarray) -> float:
    """max |x - decoded|, computed in the dtype of `x`; NaN where `decoded` holds one.

    Integers and booleans are either equal (0) or infinitely far apart, as no bound applies to them.

    Args:
        x: values of any shape.
        decoded: values of the same shape and dtype.
    """
    a, b = x.reshape(-1), decoded.reshape(-1)
    if a.dtype.kind != "f":
        return 0.0 if np.array_equal(a, b) else float("inf")
    worst = [0.0]
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, a.size, _BLOCK):
            difference = a[start : start + _BLOCK] - b[start : start + _BLOCK]
            worst.append(float(np.abs(difference, out=difference).max()))
    return float(np.max(worst))
