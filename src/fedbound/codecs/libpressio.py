"""Any error-bounded compressor of an installed LibPressio: `codec: libpressio:zfp`, `libpressio:mgard` and so on.

Source: Underwood et al., "Productive and Performant Generic Lossy Data Compression with LibPressio", DRBSD-7, 2021;
<https://github.com/robertu94/libpressio>, its own Python API (`libpressio.PressioCompressor`). No wheel brings it:
`envs/spack.yaml` does, and docs/codecs.md says how Python finds it.
"""

from __future__ import annotations

import importlib
import importlib.util
import struct
import threading
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedbound.codecs.lossy import Bounded
from fedbound.errors import InputError, nearest
from fedbound.registry import CODECS, Options

BOUND = "pressio:abs"  # LibPressio's own name of an absolute error bound, whatever the compressor calls it
_HEAD = struct.Struct("<Hd")  # bytes of the text that says who made the stream, bound
_MOST_TEXT = 512


class LibpressioOptions(Options):
    """Options of `libpressio`."""

    variant: ClassVar[str] = "compressor"  # `libpressio:zfp` is short for {name: libpressio, compressor: zfp}

    compressor: str = Field(min_length=1, max_length=64, description="LibPressio's id of the compressor, such as zfp")
    early: dict[str, float | str | list[str]] = Field(
        default={}, description="LibPressio's early_config: what the compressor is made of, such as meta-compressors"
    )
    config: dict[str, float | str | list[str]] = Field(
        default={}, description="LibPressio's compressor_config: values of its options, such as pressio:nthreads"
    )


@CODECS.register("libpressio", LibpressioOptions)
class Libpressio(Bounded):
    """A compressor of an installed LibPressio, with an absolute error bound: `libpressio:zfp` and others."""

    name: ClassVar[str] = "libpressio"
    id: ClassVar[int] = 8
    version: ClassVar[int] = 1
    smallest: ClassVar[int] = 32
    Options: ClassVar[type[Options]] = LibpressioOptions

    def __init__(self, options: LibpressioOptions):
        super().__init__()
        self.options = options
        self._library = _library(options.compressor)
        self._lock = threading.Lock()  # one object holds one set of options
        self._compressor = self._make()
        known = self._compressor.get_options()
        if BOUND not in known:
            raise InputError(
                f"codec 'libpressio': the compressor {options.compressor!r} takes no {BOUND!r}, so that it has no "
                "absolute error bound; choose another one"
            )
        self._made_by = _made_by(options.compressor, self._compressor.get_compile_config())

    @staticmethod
    def check(choice: dict[str, Any]) -> None:
        """Refuse a study whose codec needs LibPressio where Python cannot find it; imports nothing.

        Raises:
            InputError: saying what to install.
        """
        if importlib.util.find_spec("libpressio") is None:
            raise _missing(str(choice.get("compressor", "")), "Python finds no module 'libpressio'")

    def _make(self) -> Any:
        chosen = self.options
        try:
            return self._library.PressioCompressor.from_config(
                {
                    "compressor_id": chosen.compressor,
                    "early_config": dict(chosen.early),
                    "compressor_config": dict(chosen.config),
                }
            )
        except (self._library.PressioException, TypeError) as error:
            raise InputError(f"codec 'libpressio': {chosen.compressor!r} refuses its options: {error}") from None

    def _compress(self, flat: np.ndarray, bound: float) -> Any:
        with self._lock:
            try:
                self._compressor.set_options({BOUND: bound})
                stream = self._compressor.encode(flat)
            except self._library.PressioException as error:
                raise ValueError(str(error)) from None
            return b"".join((_HEAD.pack(len(self._made_by), bound), self._made_by, np.asarray(stream).tobytes()))

    def _decompress(self, body: memoryview, flat: np.ndarray) -> None:
        if len(body) < _HEAD.size:
            raise ValueError("its head is missing")
        length, bound = _HEAD.unpack_from(body)
        made_by = bytes(body[_HEAD.size : _HEAD.size + min(length, _MOST_TEXT)])
        # never a compressor of the sender's choice: some of LibPressio's start programs
        if made_by != self._made_by:
            text = made_by.decode("utf-8", "replace")
            raise ValueError(f"it was made by {text!r}, and here is {self._made_by.decode()!r}")
        stream = np.frombuffer(body[_HEAD.size + length :], np.uint8)
        if not stream.size or not 0 < bound < np.inf:
            raise ValueError("its stream or its bound is missing")
        out = np.empty_like(flat)
        with self._lock:
            try:
                self._compressor.set_options({BOUND: bound})  # zfp's stream, for one, does not hold it
                decoded = self._compressor.decode(stream.copy(), out)
            except self._library.PressioException as error:
                raise ValueError(str(error)) from None
        if decoded.dtype != flat.dtype or decoded.size != flat.size:
            raise ValueError(f"it decodes to {decoded.size} values of {decoded.dtype}")
        flat[:] = decoded.reshape(-1)


def _library(compressor: str) -> Any:
    try:
        library = importlib.import_module("libpressio")
    except (ImportError, ValueError) as error:  # numcodecs, which it needs, raises ValueError beside some versions
        raise _missing(compressor, str(error)) from None
    known = library.supported_compressors()
    if compressor not in known:
        raise InputError(f"this LibPressio has no compressor {compressor!r}; {nearest(compressor, sorted(known))}")
    return library


def _missing(compressor: str, why: str) -> InputError:
    return InputError(
        f"the codec 'libpressio:{compressor}' needs LibPressio with its Python module ({why}); install it with "
        "envs/spack.yaml and see 'LibPressio' in docs/codecs.md, or choose 'ebq' or 'sz3'"
    )


def _made_by(compressor: str, compiled: dict[str, Any]) -> bytes:
    """Compressor and versions: streams of different ones must not meet."""
    found = [f"{key.split(':')[-1]} {compiled[key]}" for key in sorted(compiled) if key.endswith(("version", "commit"))]
    return "; ".join([compressor, *found]).encode()[:_MOST_TEXT]
