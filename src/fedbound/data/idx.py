"""Reader of IDX files, the format of MNIST: big-endian header, then the values (bytes only, as in all MNIST kin).

Layout (LeCun, Cortes, Burges, "The MNIST database"): two zero bytes, type code 0x08 (unsigned byte), number of
dimensions, then each dimension as a 32-bit big-endian integer, then the values in C order.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from fedbound.errors import InputError

_UNSIGNED_BYTE = 0x08
_MAX_EXPANSION = 1100  # gzip cannot exceed about 1030:1, so a larger claim is damage, refused before allocation


def read_shape(path: Path) -> tuple[int, ...]:
    """Dimensions of the IDX file (plain or .gz) from its header.

    Raises:
        InputError: the file is missing, damaged or no IDX file of bytes.
    """
    return _read(path, values=False)[0]


def read_idx(path: Path) -> np.ndarray:
    """All values of the IDX file (plain or .gz), uint8.

    Raises:
        InputError: the file is missing, damaged, truncated, too long, or no IDX file of bytes.
    """
    shape, content = _read(path, values=True)
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _read(path: Path, values: bool) -> tuple[tuple[int, ...], bytes]:
    try:
        with _open(path) as file:
            shape = _header(file, path)
            return shape, _values(file, shape, path) if values else b""
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {str(path)!r} ({error}); put an undamaged copy there") from None


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else open(path, "rb")


def _header(file: BinaryIO, path: Path) -> tuple[int, ...]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:3] != bytes([0, 0, _UNSIGNED_BYTE]):
        raise InputError(f"{str(path)!r} is no IDX file of bytes (it starts with {magic!r}); put the original there")
    dimensions = file.read(4 * magic[3])
    if len(dimensions) < 4 * magic[3]:
        raise InputError(f"{str(path)!r} ends within its header; put an undamaged copy there")
    return struct.unpack(f">{magic[3]}I", dimensions)


def _values(file: BinaryIO, shape: tuple[int, ...], path: Path) -> bytes:
    size = math.prod(shape)
    if size > path.stat().st_size * (_MAX_EXPANSION if path.suffix == ".gz" else 1):
        raise InputError(f"{str(path)!r} is too short for the {size} values it announces; put an undamaged copy there")
    content = file.read(size)
    if len(content) != size or file.read(1):
        more = "more" if len(content) == size else f"only {len(content)}"
        raise InputError(f"{str(path)!r} announces {size} values and holds {more}; put an undamaged copy there")
    return content
