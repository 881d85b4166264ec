"""SZ3, an error-bounded compressor made of predictor, quantizer, Huffman coder and Zstandard.

Source: Liang et al., "SZ3: A Modular Framework for Composing Prediction-Based Error-Bounded Lossy Compressors",
IEEE Trans. Big Data 2023 (arXiv 2111.02925); library: szcompressor/SZ3 3.4 through its own package pysz 1.1.
"""

from __future__ import annotations

import functools
import importlib.metadata
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedbound.codecs.lossy import Bounded
from fedbound.codecs.payload import require
from fedbound.errors import InputError
from fedbound.registry import CODECS, Options

_ALGORITHMS = {"nopred": "NOPRED", "interp_lorenzo": "INTERP_LORENZO", "interp": "INTERP", "lorenzo_reg": "LORENZO_REG"}
_PYSZ = "1.1."  # streams of 1.0 and 1.1 differ: `Sz3.version` must grow with this
_FIXED = 24  # bytes before the inner Zstandard frame: magic, version, payload size, inner size
_INNER_SLACK = 8 << 20  # bytes: Huffman tree and tables of an inner stream, generously


class Sz3Options(Options):
    """Options of `sz3`."""

    predictor: Literal["nopred", "interp_lorenzo", "interp", "lorenzo_reg"] = Field(
        default="nopred", description="SZ3's predictor; model parameters have no neighbours worth predicting from"
    )


@CODECS.register("sz3", Sz3Options)
class Sz3(Bounded):
    """SZ3 with an absolute error bound; arrays are flattened, since model tensors have no smooth direction."""

    name: ClassVar[str] = "sz3"
    id: ClassVar[int] = 2
    version: ClassVar[int] = 1
    # Below, the stream's fixed 70 bytes leave no gain, and SZ3's interpolation reads out of bounds (SZ3 issue 48).
    smallest: ClassVar[int] = 32
    Options: ClassVar[type[Options]] = Sz3Options

    def __init__(self, options: Sz3Options | None = None):
        super().__init__()
        self.options = options or Sz3Options()
        self._pysz = require("pysz", self.name, "train")
        _check_version()

    def _compress(self, flat: np.ndarray, bound: float) -> Any:
        config = self._pysz.szConfig(flat.shape)
        config.errorBoundMode = self._pysz.szErrorBoundMode.ABS
        config.absErrorBound = bound
        config.cmprAlgo = getattr(self._pysz.szAlgorithm, _ALGORITHMS[self.options.predictor])
        return self._pysz.sz.compress(flat, config)[0]

    def _decompress(self, body: memoryview, flat: np.ndarray) -> None:
        # SZ3 allocates what this field says, whatever the array's size
        inner = int.from_bytes(body[_FIXED - 8 : _FIXED], "little")
        if len(body) < _FIXED or inner > 2 * flat.nbytes + _INNER_SLACK:
            raise ValueError(f"its inner stream claims {inner} bytes")
        stream = np.frombuffer(body, np.uint8)
        flat[:] = self._pysz.sz.decompress(stream, flat.dtype, flat.shape)[0]


@functools.cache
def _check_version() -> None:
    found = importlib.metadata.version("pysz")
    if not found.startswith(_PYSZ):
        raise InputError(
            f"the codec 'sz3' needs pysz {_PYSZ}x, whose streams all ranks must share, and {found} is installed; "
            "install it with: pip install 'pysz>=1.1,<1.2'"
        )
