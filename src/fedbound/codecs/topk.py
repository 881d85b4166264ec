"""Top-k sparsification: the largest magnitudes as they are, all else 0. A baseline without error bound.

Source: Aji and Heafield, "Sparse Communication for Distributed Gradient Descent", EMNLP 2017 (arXiv 1704.05021); Stich,
Cordonnier and Jaggi, "Sparsified SGD with Memory", NeurIPS 2018 (arXiv 1809.07599), whose memory is the error feedback
of the exchange, `error_feedback: true`. k = ceil(fraction * n) of each block's n values are sent, the first ones among
equals. Values go out exactly; the gaps between their places go to the range ANS of `ebq`.
"""

from __future__ import annotations

import math
import struct
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedbound.codecs.ebq import Ebq
from fedbound.codecs.lossy import Unbounded
from fedbound.registry import CODECS, Options

_TINY = 1e-9  # 0.07 of 100 is 7, not 8
_HEAD = struct.Struct("<Q")  # values kept


class TopkOptions(Options):
    """Options of `topk`."""

    fraction: float = Field(default=0.01, gt=0, le=1, description="share of each block's values that is sent")


@CODECS.register("topk", TopkOptions)
class Topk(Unbounded):
    """Top-k sparsification (Aji and Heafield 2017, Stich et al. 2018), without error bound; a baseline."""

    name: ClassVar[str] = "topk"
    id: ClassVar[int] = 7
    version: ClassVar[int] = 2
    smallest: ClassVar[int] = 1
    releases_gil: ClassVar[bool] = True
    Options: ClassVar[type[Options]] = TopkOptions

    def __init__(self, options: TopkOptions | None = None):
        super().__init__()
        self.options = options or TopkOptions()
        self._coder = Ebq()

    @staticmethod
    def warm_up() -> None:
        """Compile the entropy coder's kernels, so that no timed round does."""
        Ebq.warm_up()

    def _compress(self, flat: np.ndarray, bound: float) -> Any:
        places = largest(flat, max(1, math.ceil(self.options.fraction * flat.size - _TINY)))
        gaps = np.diff(places, prepend=-1).astype(np.float64) - 1.0
        body = self._coder._compress(gaps, 0.5)
        return b"".join((_HEAD.pack(places.size), flat[places].tobytes(), body))

    def _decompress(self, body: memoryview, flat: np.ndarray) -> None:
        if len(body) < _HEAD.size:
            raise ValueError("its head is missing")
        (kept,) = _HEAD.unpack_from(body)
        end = _HEAD.size + kept * flat.itemsize
        if not 0 < kept <= flat.size or len(body) < end:
            raise ValueError(f"it claims {kept} values of {flat.size}")
        gaps = np.empty(kept, np.float64)
        self._coder._decompress(body[end:], gaps)
        # each gap is checked before the sum: a crafted one must not wrap around
        if not ((gaps >= 0) & (gaps < flat.size)).all() or gaps.sum() + kept > flat.size:
            raise ValueError("its places lie outside of the array")
        flat[:] = 0
        flat[np.cumsum(gaps.astype(np.int64) + 1) - 1] = np.frombuffer(body[_HEAD.size : end], flat.dtype)


def largest(flat: np.ndarray, count: int) -> np.ndarray:
    """Ascending places of the `count` largest magnitudes, the first ones among equals; int64."""
    size = np.abs(flat)
    threshold = np.partition(size, flat.size - count)[flat.size - count]
    above = np.flatnonzero(size > threshold)
    equal = np.flatnonzero(size == threshold)[: count - above.size]
    return np.sort(np.concatenate((above, equal)))
