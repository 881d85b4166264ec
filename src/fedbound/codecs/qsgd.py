"""QSGD: stochastic, unbiased quantization of each bucket to a few levels of its norm. A baseline without error bound.

Source: Alistarh et al., "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding", NeurIPS 2017
(arXiv 1610.02132), section 3.1, with the buckets of section 4:

    Q_s(v_i) = |v| sign(v_i) xi_i,   xi_i = (l + 1) / s with probability s |v_i| / |v| - l, else l / s

where l = floor(s |v_i| / |v|), |v| is the Euclidean norm of v_i's bucket and s the number of levels. Unbiased, with
E |Q(v) - v|^2 <= min(d / s^2, sqrt(d) / s) |v|^2 for buckets of d values (lemma 3.1). The paper codes the integers by
Elias' code; here they go to the range ANS of `ebq`, which takes no more bits, so that the baseline does not lose by its
coder.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedbound.codecs.ebq import Ebq
from fedbound.codecs.lossy import Unbounded
from fedbound.registry import CODECS, Options

_HEAD = struct.Struct("<HI")  # levels, bucket


class QsgdOptions(Options):
    """Options of `qsgd`."""

    levels: int = Field(default=7, ge=1, le=32767, description="quantization levels s besides 0, per sign")
    bucket: int = Field(default=512, ge=1, le=2**31, description="consecutive values that share a norm")
    seed: int = Field(default=0, ge=0, le=2**63 - 1, description="seed of the stochastic rounding")


@CODECS.register("qsgd", QsgdOptions)
class Qsgd(Unbounded):
    """QSGD's stochastic quantization (Alistarh et al. 2017): unbiased, without error bound; a baseline."""

    name: ClassVar[str] = "qsgd"
    id: ClassVar[int] = 6
    version: ClassVar[int] = 2
    smallest: ClassVar[int] = 1
    releases_gil: ClassVar[bool] = True
    Options: ClassVar[type[Options]] = QsgdOptions

    def __init__(self, options: QsgdOptions | None = None):
        super().__init__()
        self.options = options or QsgdOptions()
        self._coder = Ebq()

    @staticmethod
    def warm_up() -> None:
        """Compile the entropy coder's kernels, so that no timed round does."""
        Ebq.warm_up()

    def _compress(self, flat: np.ndarray, bound: float) -> Any:
        levels, bucket = self.options.levels, self.options.bucket
        norms = _norms(flat, bucket)
        scaled = np.abs(flat) * _per_value(_over(levels, norms), flat.size, bucket)
        # the draw is a function of the values, so that a resumed run rounds as the first one did
        rng = np.random.Generator(np.random.Philox(key=[self.options.seed, zlib.crc32(flat.view(np.uint8).data)]))
        quanta = np.floor(scaled + rng.random(flat.size))
        np.minimum(quanta, levels, out=quanta)  # |v_i| = |v| plus rounding
        np.copysign(quanta, flat, out=quanta)
        body = self._coder._compress(quanta.astype(np.float32), 0.5)
        return b"".join((_HEAD.pack(levels, bucket), norms.tobytes(), body))

    def _decompress(self, body: memoryview, flat: np.ndarray) -> None:
        if len(body) < _HEAD.size:
            raise ValueError("its head is missing")
        levels, bucket = _HEAD.unpack_from(body)
        if not (0 < levels <= 32767 and bucket > 0):
            raise ValueError(f"its head claims {levels} levels in buckets of {bucket} values")
        count = -(-flat.size // bucket)
        end = _HEAD.size + count * flat.itemsize
        if len(body) < end:
            raise ValueError("its norms are truncated")
        norms = np.frombuffer(body[_HEAD.size : end], flat.dtype)
        quanta = np.empty(flat.size, np.float32)
        self._coder._decompress(body[end:], quanta)
        flat[:] = quanta * _per_value(norms / levels, flat.size, bucket)


def _norms(flat: np.ndarray, bucket: int) -> np.ndarray:
    """Euclidean norm of each bucket; scaled by the largest value, so that squares neither overflow nor vanish.

    Raises:
        ValueError: a norm is beyond the dtype.
    """
    scale = float(np.abs(flat).max()) or 1.0
    parts = flat.astype(np.float64) / scale
    with np.errstate(over="ignore"):
        norms = (np.sqrt(np.add.reduceat(parts * parts, np.arange(0, flat.size, bucket))) * scale).astype(flat.dtype)
    if not np.isfinite(norms).all():
        raise ValueError("a bucket's norm is beyond the range of its dtype")
    return norms


def _over(levels: int, norms: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", over="ignore"):
        inverse = levels / norms.astype(np.float64)
    return np.where(np.isfinite(inverse), inverse, 0.0)


def _per_value(of_bucket: np.ndarray, size: int, bucket: int) -> np.ndarray:
    return np.repeat(of_bucket, bucket)[:size] if bucket < size else np.full(size, of_bucket[0])
