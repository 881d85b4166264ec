"""What the codecs' payloads have in common: dtype codes, tags, and the sealed header of lossy streams.

The layouts are documented byte by byte in docs/wire-format.md.
"""

from __future__ import annotations

import importlib
import math
import struct
import zlib
from typing import Any

import numpy as np

from fedbound.errors import InputError

#: Number of each dtype in payloads and messages: its place in this tuple. Only ever appended to.
DTYPES = tuple(
    np.dtype(code) for code in ("<f4", "<f8", "<f2", "i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u4", "<u8", "?")
)

RAW, ZSTD, LOSSY = 0, 1, 2
_SEAL = struct.Struct("<BBQI")
_SEALED = struct.Struct("<BBQ")  # the part of the seal that its CRC covers, before the body
SEAL_BYTES = _SEAL.size


def dtype_code(dtype: np.dtype) -> int:
    """The number of `dtype` in payloads and messages; raises ValueError for one that cannot be sent."""
    try:
        return DTYPES.index(dtype)
    except ValueError:
        raise ValueError(f"arrays of dtype {dtype} cannot be sent") from None


def contiguous(x: np.ndarray) -> np.ndarray:
    """`x` itself where it is C-contiguous and little-endian, else a copy that is; raises ValueError on other dtypes."""
    x = np.asarray(x, dtype=x.dtype.newbyteorder("<"), order="C")
    dtype_code(x.dtype)
    return x


def check_bound(bound: float) -> float:
    """The absolute bound as float; raises ValueError unless it is finite and at least 0."""
    bound = float(bound)
    if not math.isfinite(bound) or bound < 0:
        raise ValueError(f"the error bound {bound!r} is no finite number >= 0")
    return bound


def all_finite(x: np.ndarray) -> bool:
    """Whether a float array holds neither NaN nor infinities; needs no temporary array."""
    return x.size == 0 or x.dtype.kind != "f" or bool(np.isfinite(x.min()) and np.isfinite(x.max()))


def target(out: np.ndarray) -> np.ndarray:
    """`out` as a writable 1-D view, to decode into.

    Raises:
        ValueError: `out` is not C-contiguous, not writable or of a dtype that cannot be sent.
    """
    dtype_code(out.dtype)
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError("an array to decode into must be C-contiguous and writable")
    return out.reshape(-1)


def copy_raw(body: bytes | memoryview, flat: np.ndarray) -> None:
    """Copy raw little-endian values into `flat`; raises ValueError unless they fill it exactly."""
    if len(body) != flat.nbytes:
        raise ValueError(f"{len(body)} bytes do not fill {flat.size} values of {flat.dtype}")
    flat.view(np.uint8)[:] = np.frombuffer(body, np.uint8)
    check_booleans(flat)


def check_booleans(flat: np.ndarray) -> None:
    """Refuse booleans that are neither 0 nor 1, of which numpy makes no sense."""
    if flat.dtype == np.bool_ and flat.size and flat.view(np.uint8).max() > 1:
        raise ValueError("a boolean is neither 0 nor 1")


def seal(x: np.ndarray, body: Any) -> bytes:
    """A lossy payload: tag, dtype code, number of values, CRC-32 of all else, then the library's stream."""
    head = _SEALED.pack(LOSSY, dtype_code(x.dtype), x.size)
    crc = zlib.crc32(body, zlib.crc32(head))
    return b"".join((head, struct.pack("<I", crc), body))


def unseal(payload: bytes | memoryview, out: np.ndarray) -> memoryview:
    """The library's stream in a lossy payload, once its seal agrees with `out`.

    Native decoders trust what they read, so nothing reaches them that is damaged or meant for another array.

    Raises:
        ValueError: truncated, damaged, or of another dtype or number of values.
    """
    view = memoryview(payload)
    if len(view) < SEAL_BYTES:
        raise ValueError(f"a payload of {len(view)} bytes is truncated")
    tag, code, size, crc = _SEAL.unpack_from(view)
    body = view[SEAL_BYTES:]
    if tag != LOSSY:
        raise ValueError(f"unknown payload tag {tag}")
    if code != dtype_code(out.dtype) or size != out.size:
        raise ValueError(f"it holds {size} values of dtype code {code}, not {out.size} of {out.dtype}")
    if zlib.crc32(body, zlib.crc32(view[: _SEALED.size])) != crc:
        raise ValueError("its checksum does not match")
    return body


def require(module: str, codec: str, extra: str) -> Any:
    """Import an optional package; raises InputError that says what to install for `codec`."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(
            f"the codec {codec!r} needs the package {module!r}; install it with: pip install 'fedbound[{extra}]'"
        ) from None
