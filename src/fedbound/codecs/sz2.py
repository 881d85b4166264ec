"""SZ2, the compressor of FedSZ, as a baseline.

Sources: Liang et al., "Error-Controlled Lossy Compression Optimized for High Compression Ratios of Scientific
Datasets", IEEE BigData 2018 (SZ 2.x); Wilkins et al., "FedSZ", ICDCS 2024 (arXiv 2312.13461). Library: SZ 2.1.12 in
the HDF5 plugin `libh5sz` of the package hdf5plugin, called in memory through SZ's C interface (sz.h).
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import threading
from ctypes import c_char_p, c_double, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fedbound.codecs.lossless import compressor
from fedbound.codecs.lossy import Bounded
from fedbound.errors import InputError
from fedbound.registry import CODECS, Options

_ABS = 0  # sz.h: error bound mode
_VERSION = bytes((2, 1, 12))  # SZ ends the whole process when a stream opens with another version
_UNWRITTEN = 19  # in the parameters that a stream opens with; uninitialised memory otherwise
_LEVEL = 3  # SZ2's own level of the Zstandard frame around a stream, unless all values are alike
_ZSTD_MAGIC = bytes.fromhex("28b52ffd")
_LOCK = threading.Lock()  # SZ2 keeps its parameters in globals, and ctypes lets go of the interpreter's lock


class Sz2Options(Options):
    """Options of `sz2`: there are none."""


@CODECS.register("sz2", Sz2Options)
class Sz2(Bounded):
    """SZ 2.1 with an absolute error bound, in 1-D (what FedSZ uses)."""

    name: ClassVar[str] = "sz2"
    id: ClassVar[int] = 4
    version: ClassVar[int] = 1
    smallest: ClassVar[int] = 64  # for up to 20 values SZ_compress_args returns its own input, which nobody may free
    Options: ClassVar[type[Options]] = Sz2Options

    def __init__(self, options: Sz2Options | None = None):
        super().__init__()
        self.options = options or Sz2Options()
        self._library = _load()

    def _compress(self, flat: np.ndarray, bound: float) -> bytes:
        if bound < np.finfo(flat.dtype).tiny:
            raise ValueError("SZ2 crashes on subnormal bounds")
        length = c_size_t()
        with _LOCK:
            address = self._library.SZ_compress_args(
                _kind(flat), flat.ctypes.data, ctypes.byref(length), _ABS, bound, 0.0, 0.0, 0, 0, 0, 0, flat.size
            )
            return _settled(_take(address, length.value))

    def _decompress(self, body: memoryview, flat: np.ndarray) -> None:
        opening = _unframed(body, len(_VERSION)) if body[:4] == _ZSTD_MAGIC else bytes(body[: len(_VERSION)])
        if opening != _VERSION:
            raise ValueError("its stream is not of SZ 2.1.12")
        stream = bytes(body)
        with _LOCK:
            address = self._library.SZ_decompress(_kind(flat), stream, len(stream), 0, 0, 0, 0, flat.size)
            if not address:
                raise ValueError("SZ2 returned nothing")
            ctypes.memmove(flat.ctypes.data, address, flat.nbytes)
            _free(address)


def _settled(stream: bytes) -> bytes:
    """The stream with the one byte that SZ2 never writes set to 0, as the same values must give the same bytes."""
    framed = stream.startswith(_ZSTD_MAGIC)
    inner = bytearray(_unframed(memoryview(stream)) if framed else stream)
    inner[_UNWRITTEN] = 0
    return compressor(_LEVEL).compress(inner) if framed else bytes(inner)


def _unframed(frame: memoryview, length: int = -1) -> bytes:
    """The first `length` bytes of what a Zstandard frame holds; all of them for -1."""
    import zstandard

    try:
        return zstandard.ZstdDecompressor().stream_reader(frame).read(length)
    except zstandard.ZstdError as error:
        raise ValueError(f"Zstandard refuses it: {error}") from None


def _kind(flat: np.ndarray) -> int:
    return 0 if flat.dtype == np.float32 else 1  # sz.h: SZ_FLOAT, SZ_DOUBLE


def _take(address: int | None, length: int) -> bytes:
    if not address:
        raise RuntimeError("SZ2 returned nothing")
    stream = ctypes.string_at(address, length)
    _free(address)
    return stream


def _free(address: int) -> None:
    _libc().free(c_void_p(address))


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None)


@functools.cache
def _load() -> Any:
    # the package itself is not imported: it would register all its filters with HDF5
    found = importlib.util.find_spec("hdf5plugin")
    if found is None or not found.submodule_search_locations:
        raise InputError(
            "the codec 'sz2' needs the package 'hdf5plugin'; install it with: pip install 'fedbound[codecs]'"
        )
    files = sorted(Path(found.submodule_search_locations[0]).glob("plugins/libh5sz.*"))
    if not files:
        raise InputError("this hdf5plugin holds no libh5sz; install one from PyPI: pip install 'fedbound[codecs]'")
    library = ctypes.CDLL(str(files[0]))
    library.SZ_Init.argtypes = [c_char_p]
    library.SZ_compress_args.restype = c_void_p
    library.SZ_compress_args.argtypes = [
        *(c_int, c_void_p, ctypes.POINTER(c_size_t), c_int),
        *[c_double] * 3,
        *[c_size_t] * 5,
    ]
    library.SZ_decompress.restype = c_void_p
    library.SZ_decompress.argtypes = [c_int, c_char_p, c_size_t, *[c_size_t] * 5]
    library.SZ_Init(None)
    return library
