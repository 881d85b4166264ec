"""The steps of the private pipeline: clip, pad, rotate, round, wrap. Clients are rows; all steps work on many at once.

Source of the pipeline: Kairouz, Liu, Steinke, "The Distributed Discrete Gaussian Mechanism for Federated Learning with
Secure Aggregation", ICML 2021 (arXiv 2102.06387), Algorithms 1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

_BLOCK = 1 << 18  # values in a block of rows: small enough for the cache, large enough for numpy's loops
_SHRINK = 1 - 2.0**-50  # so that a vector scaled onto its bound does not lie a rounding error beyond it


def blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    """Views of `vectors` [n, d] by consecutive rows, so that temporaries stay small however many clients there are."""
    rows = max(1, _BLOCK // vectors.shape[1])
    return (vectors[start : start + rows] for start in range(0, len(vectors), rows))


def clip_l1(vectors: np.ndarray, bound: float) -> np.ndarray:
    """Scale each row of `vectors` [n, d] float64 to an L1 norm of at most `bound`; shorter rows stay as they are."""
    return _clip(vectors, bound, 1)


def clip_l2(vectors: np.ndarray, bound: float) -> np.ndarray:
    """Scale each row of `vectors` [n, d] float64 to an L2 norm of at most `bound`; shorter rows stay as they are."""
    return _clip(vectors, bound, 2)


def clip_linf(vectors: np.ndarray, bound: float) -> np.ndarray:
    """Cut each coordinate of `vectors` [n, d] float64 to a size of at most `bound`."""
    return np.clip(np.asarray(vectors, dtype=np.float64), -bound, bound)


def _clip(vectors: np.ndarray, bound: float, order: int) -> np.ndarray:
    clipped = np.array(vectors, dtype=np.float64)
    lengths = norms(clipped, order)
    while (beyond := lengths > bound).any():
        factors = bound / lengths[beyond] * _SHRINK
        clipped[beyond] *= factors[:, None]
        lengths = norms(clipped, order)
    return clipped


def norms(vectors: np.ndarray, order: int) -> np.ndarray:
    """L1 (order 1) or L2 (order 2) norm of each row of `vectors` [n, d], free of overflow and underflow: [n]."""
    peaks = np.abs(vectors).max(axis=1, initial=0.0)
    unit = vectors / np.where(peaks > 0, peaks, 1.0)[:, None]
    return peaks * (np.abs(unit).sum(axis=1) if order == 1 else np.sqrt(np.square(unit).sum(axis=1)))


def padded(dimension: int) -> int:
    """The smallest power of two that holds `dimension` coordinates."""
    return 1 << (dimension - 1).bit_length()


def random_signs(size: int, rng: np.random.Generator) -> np.ndarray:
    """Independent uniform signs, float64 [size]. Shared by clients and server, and public."""
    return 2.0 * rng.integers(0, 2, size) - 1.0


def hadamard(x: np.ndarray) -> np.ndarray:
    """Orthonormal Walsh-Hadamard transform of each row of `x` [n, D] in Sylvester's order; it is its own inverse.

    Raises:
        ValueError: D is no power of two.
    """
    rows, size = x.shape
    if padded(size) != size:
        raise ValueError(f"the Walsh-Hadamard transform needs a power of two of coordinates, not {size}")
    y = np.array(x.T, dtype=np.float64, order="C")  # coordinates first, so that every butterfly runs over whole rows
    half = 1
    while half < size:
        pairs = y.reshape(size // (2 * half), 2, half * rows)
        upper, lower = pairs[:, 0], pairs[:, 1]
        difference = upper - lower
        upper += lower
        lower[...] = difference
        half *= 2
    y *= 1 / math.sqrt(size)
    return np.ascontiguousarray(y.T)


def rotate(vectors: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Randomised Hadamard rotation H diag(signs) x / sqrt(D): [n, d] padded with zeros to [n, D], norms kept."""
    rows, dimension = vectors.shape
    wide = np.zeros((rows, len(signs)))
    np.multiply(vectors, signs[:dimension], out=wide[:, :dimension])
    return hadamard(wide)


def unrotate(rotated: np.ndarray, signs: np.ndarray, dimension: int) -> np.ndarray:
    """Undo `rotate`: [n, D] to [n, dimension]."""
    return (hadamard(rotated) * signs)[:, :dimension]


def rounded_norm_squared(norm: float, dimension: int, beta: float) -> float:
    """Bound on the squared L2 norm after stochastic rounding of a vector of L2 norm `norm` in the integers' units.

    An attempt exceeds it with probability at most `beta`. Source: Kairouz, Liu, Steinke 2021, eq. 1 (Algorithm 1):
    min((norm + sqrt D)^2, norm^2 + D/4 + sqrt(2 ln(1/beta)) (norm + sqrt(D)/2)).
    """
    root = math.sqrt(dimension)
    certain = (norm + root) ** 2
    return min(certain, norm**2 + dimension / 4 + math.sqrt(2 * math.log(1 / beta)) * (norm + root / 2))


def stochastic_round(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Round `x` to integers, up with the probability of the fraction: int64 of its shape, unbiased."""
    floor = np.floor(x)
    return np.asarray(floor + (rng.random(x.shape) < x - floor)).astype(np.int64)


def conditional_round(x: np.ndarray, limit: float, rng: np.random.Generator) -> np.ndarray:
    """Round each row of `x` [n, D] stochastically to integers until its squared L2 norm is at most `limit`: int64.

    One attempt is unbiased (up with the probability of the fraction); conditioning on the norm leaves a small bias.
    `limit` comes from `rounded_norm_squared`, so that an attempt succeeds with probability at least 1 - beta.

    Source: Kairouz, Liu, Steinke 2021, Algorithm 1.
    """
    limit *= 1 - 1e-12  # the norms below are float64: their rounding must not let a vector pass that is too long
    floor = np.floor(x)
    fraction = x - floor
    rounded = floor + (rng.random(x.shape) < fraction)
    long = np.flatnonzero(np.square(rounded).sum(axis=1) > limit)
    while len(long):
        again = floor[long] + (rng.random((len(long), x.shape[1])) < fraction[long])
        rounded[long] = again
        long = long[np.square(again).sum(axis=1) > limit]
    return rounded.astype(np.int64)


def wrap(x: np.ndarray, bits: int) -> np.ndarray:
    """Int64 `x` modulo 2^bits, in [-2^(bits-1), 2^(bits-1)): what a field of `bits` bits keeps."""
    half = 1 << (bits - 1)
    return ((x + half) & ((1 << bits) - 1)) - half


def coordinate_bound(clip: float, size: int, tail: float) -> float:
    """What no coordinate of a randomly rotated vector of L2 norm `clip` exceeds, but with probability about `tail`.

    clip sqrt(2 ln(2 size / tail) / size), a union bound over `size` normal coordinates; never more than `clip`.
    """
    return clip * min(1.0, math.sqrt(2 * math.log(2 * size / tail) / size))


def sphere_coordinates(size: int, points: int = 4000) -> np.ndarray:
    """Coordinates of a uniform direction in `size` dimensions at equally likely points: float64 [points]."""
    if size == 1:
        return np.ones(points)
    from scipy.special import betaincinv

    u = (np.arange(points // 2) + 0.5) / (points // 2)
    half = np.sqrt(betaincinv(0.5, (size - 1) / 2, u))  # the square is Beta(1/2, (D-1)/2)
    half *= math.sqrt(1 / size / float(np.mean(half**2)))  # the squares add up to 1 over the vector
    return np.concatenate([-half[::-1], half])


def cube_coordinates(points: int = 4000) -> np.ndarray:
    """Coordinates of a uniform point of the cube [-1, 1]^d at equally likely points: float64 [points]."""
    return (2 * np.arange(points) + 1) / points - 1
