"""Tests of the claim that a codec's error protects privacy, on real codecs.

Error-bounded compression is deterministic: whoever holds two candidate inputs compresses both and compares. The
tests here give that a figure: how the error is distributed, how it goes with the data, how often recompressing tells
two neighbours apart, and a pair of inputs one floating-point step apart whose outputs never agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedbound.auditing.one_run import Release
from fedbound.codecs import Codec


@dataclass(frozen=True)
class ErrorLaw:
    """How decoded - x is distributed.

    Attributes:
        uniform: Kolmogorov-Smirnov distance from the uniform law on [-bound, bound].
        laplace: the same from the Laplace law of the same median and mean deviation.
        normal: the same from the normal law of the same mean and deviation.
        with_data: correlation of the error with -x; 0 for noise, 1 where everything became a constant.
        kept: share of values that did not decode to the commonest value.
    """

    uniform: float
    laplace: float
    normal: float
    with_data: float
    kept: float


def error_law(codec: Codec, x: np.ndarray, bound: float) -> ErrorLaw:
    """The law of the codec's error on float `x` at the absolute `bound`."""
    from scipy.stats import kstest, laplace, norm

    decoded = _decoded(codec, x, bound)
    errors = decoded.astype(np.float64) - x.astype(np.float64)
    middle = float(np.median(errors))
    spread = float(np.abs(errors - middle).mean()) or 1e-300
    deviation = float(errors.std()) or 1e-300
    _, counts = np.unique(decoded, return_counts=True)
    return ErrorLaw(
        uniform=float(kstest(errors, "uniform", args=(-bound, 2 * bound)).statistic),
        laplace=float(kstest(errors, laplace(middle, spread).cdf).statistic),
        normal=float(kstest(errors, norm(errors.mean(), deviation).cdf).statistic),
        with_data=float(np.corrcoef(errors, -x)[0, 1]) if errors.std() > 0 else 0.0,
        kept=1 - float(counts.max()) / decoded.size,
    )


def _decoded(codec: Codec, x: np.ndarray, bound: float) -> np.ndarray:
    return codec.decode(codec.encode(x, bound), np.empty_like(x))


@dataclass(frozen=True)
class Distinguished:
    """How often an attacker with both candidates told which one was sent.

    Attributes:
        advantage: 2 (share of right guesses) - 1: the largest delta at epsilon 0 that this attack shows.
        trials: pairs tried.
    """

    advantage: float
    trials: int


def recompress(
    codec: Codec, x: np.ndarray, bound: float, move: float, trials: int, rng: np.random.Generator
) -> Distinguished:
    """Move one random coordinate of `x` by `move`; the attacker compresses both and compares with the payload seen.

    Where both give the same bytes the guess is even; where they differ it is right.
    """
    seen = codec.encode(x, bound)
    told = 0
    for index in rng.integers(0, x.size, trials):
        other = x.copy()
        other.reshape(-1)[index] += move
        told += codec.encode(other, bound) != seen
    return Distinguished(told / trials, trials)


@dataclass(frozen=True)
class EdgePair:
    """Two inputs that differ in one coordinate by one floating-point step.

    Attributes:
        low: the coordinate's value in the one, float.
        high: the next larger float, its value in the other.
        outputs: the decoded values of the coordinate, which differ.
    """

    low: float
    high: float
    outputs: tuple[float, float]


def edge_pair(codec: Codec, x: np.ndarray, index: int, bound: float) -> EdgePair | None:
    """By bisection: neighbours as close as floats are, whose outputs differ always; None where a bisection fails.

    The codec is deterministic, so that between two values with different outputs there is a step. Such a pair has
    total variation 1: no finite epsilon holds at any delta below 1, whatever the sensitivity.
    """

    def output(value: float) -> float:
        moved = x.copy()
        moved.reshape(-1)[index] = value
        return float(_decoded(codec, moved, bound).reshape(-1)[index])

    start = float(x.reshape(-1)[index])
    low, high = x.dtype.type(start), x.dtype.type(start + 4 * bound)
    if output(low) == output(high):
        return None
    while np.nextafter(low, high) < high:
        middle = x.dtype.type((float(low) + float(high)) / 2)
        if not low < middle < high:
            break
        low, high = (middle, high) if output(middle) == output(low) else (low, middle)
    first, second = output(low), output(high)
    return EdgePair(float(low), float(high), (first, second)) if first != second else None


@dataclass(frozen=True)
class NoisedFirst:
    """Noise, then lossy encoding: post-processing, so that the noise's epsilon holds.

    Attributes:
        extra: mean squared error that encoding adds to the noise's, over sigma^2.
        expected: bound^2 / (3 sigma^2), that of a uniform error.
        bits: bits per value.
        exact_bits: bits per value of the noised values under the lossless codec.
    """

    extra: float
    expected: float
    bits: float
    exact_bits: float


def noised_first(codec: Codec, x: np.ndarray, sigma: float, bound: float, rng: np.random.Generator) -> NoisedFirst:
    """What encoding after noise costs in error and saves in bits, for float32 or float64 `x`."""
    from fedbound import codecs

    noised = (x + rng.normal(scale=sigma, size=x.shape)).astype(x.dtype)
    payload = codec.encode(noised, bound)
    decoded = codec.decode(payload, np.empty_like(noised))
    before, after = (float(np.mean(np.square(y.astype(np.float64) - x))) for y in (noised, decoded))
    return NoisedFirst(
        extra=(after - before) / sigma**2,
        expected=bound**2 / (3 * sigma**2),
        bits=8 * len(payload) / x.size,
        exact_bits=8 * len(codecs.get("lossless").encode(noised, 0.0)) / x.size,
    )


def compressed_sum(codec: Codec, bound: float) -> Release:
    """A "mechanism" that compresses the mean of its clients and adds no noise, for `one_run.sum_audit`."""

    def release(vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        mean = vectors.sum(axis=0)
        return _decoded(codec, np.ascontiguousarray(mean), bound)

    return release


def suggested_bound(sigma: float, share: float = 0.05) -> float:
    """The absolute bound at which encoding adds about `share` of the noise's variance: sigma sqrt(3 share)."""
    return sigma * math.sqrt(3 * share)
