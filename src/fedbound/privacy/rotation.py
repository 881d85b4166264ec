"""How a client's vector is spread over coordinates before it is quantized: three ways, one interface.

- `hadamard`: random signs and the Hadamard transform (Kairouz, Liu, Steinke, ICML 2021). Norms are kept; coordinates
  are small with high probability, and what exceeds that is clipped.
- `kashin`: coefficients in a tight frame of N >= 2d vectors, each at most K c / sqrt(N) in size (Lyubarskii, Vershynin,
  "Uncertainty Principles and Vector Quantization", 2010; K = 1/((1 - eta) sqrt(delta)), eta = 0.4, delta = 0.8, and the
  frame are those of the code published with Shah et al., AISTATS 2022). That code finds them by Lyubarskii and
  Vershynin's iteration and clips what exceeds K; here they are found by alternating projections, which meet the level.
  No coordinate needs a clip, but the coefficients' L2 norm may be up to K c.
- `none`: the vector as it is; a coordinate may be as large as the clip.

Signs and frame are public.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from fedbound.privacy import transforms

Kind = Literal["hadamard", "kashin", "none"]

ETA, DELTA = 0.4, 0.8
LEVEL = 1 / ((1 - ETA) * math.sqrt(DELTA))  # K
_PROJECTIONS = 30
_SIMULATED = 40_000  # coefficients whose law stands in for all


@dataclass(frozen=True)
class Spread:
    """How vectors of an L2 norm of at most `clip` are spread.

    Attributes:
        kind: hadamard, kashin or none.
        dimension: coordinates d of a vector.
        clip: bound on its L2 norm.
        tail: probability that some coordinate of a rotated vector exceeds `reach` (hadamard).
    """

    kind: Kind
    dimension: int
    clip: float
    tail: float = 1e-3

    @property
    def size(self) -> int:
        """Number N of coordinates that a vector is spread over."""
        if self.kind == "none":
            return self.dimension
        return transforms.padded(self.dimension) if self.kind == "hadamard" else frame_size(self.dimension)

    @property
    def reach(self) -> float:
        """c_inf: what a coordinate is at most, or is clipped to."""
        if self.kind == "none":
            return self.clip
        if self.kind == "kashin":
            return LEVEL * self.clip / math.sqrt(self.size)
        return transforms.coordinate_bound(self.clip, self.size, self.tail)

    @property
    def budget(self) -> float:
        """(L2 norm of the coordinates / c_inf)^2: how many of them can be at full scale together."""
        return float(self.size) if self.kind == "kashin" else (self.clip / self.reach) ** 2

    def draw(self, rng: np.random.Generator) -> Basis:
        """The public signs, or the frame."""
        if self.kind == "kashin":
            return Basis(self, random_frame(self.dimension, rng), np.empty(0))
        return Basis(self, None, transforms.random_signs(self.size, rng) if self.kind == "hadamard" else np.empty(0))

    def basis(self, public: Basis | np.ndarray) -> Basis:
        """The basis itself, or that of a rotation by its random signs, float64 [N]."""
        return public if isinstance(public, Basis) else Basis(self, None, public)

    @property
    def trivial(self) -> Basis:
        """For one coordinate: no random signs."""
        frame = Frame(np.ones(1), np.zeros(1, dtype=np.int64), self.size) if self.kind == "kashin" else None
        return Basis(self, frame, np.ones(self.size))

    @property
    def sample(self) -> tuple[np.ndarray, np.ndarray, Basis]:
        """Vectors of norm c in random directions, their coordinates, and the basis: by a fixed seed."""
        return _sample(self)


@dataclass(frozen=True)
class Basis:
    """A drawn rotation or frame."""

    spread: Spread
    frame: Frame | None
    signs: np.ndarray

    def coordinates(self, vectors: np.ndarray) -> np.ndarray:
        """Coordinates of vectors [r, d] that are clipped already, unclipped themselves: float64 [r, N]."""
        if self.frame is not None:
            return kashin(vectors, self.frame, self.spread.clip)
        return transforms.rotate(vectors, self.signs) if self.spread.kind == "hadamard" else vectors

    def vectors(self, coordinates: np.ndarray) -> np.ndarray:
        """Back from coordinates [r, N]: float64 [r, d]."""
        if self.frame is not None:
            return self.frame.vectors(coordinates)
        if self.spread.kind == "none":
            return coordinates
        return transforms.unrotate(coordinates, self.signs, self.spread.dimension)


@lru_cache(maxsize=64)
def _sample(spread: Spread) -> tuple[np.ndarray, np.ndarray, Basis]:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((max(1, _SIMULATED // spread.size), spread.dimension))
    vectors *= (spread.clip / transforms.norms(vectors, 2))[:, None]
    basis = spread.draw(rng)
    return vectors, basis.coordinates(vectors), basis


def frame_size(dimension: int) -> int:
    """N: at least twice the dimension."""
    return 2 * transforms.padded(dimension)


@dataclass(frozen=True)
class Frame:
    """A tight frame of N vectors in d dimensions: signed columns of the Hadamard matrix, drawn at random, public.

    The columns must be drawn: the first d of N = 2d hold every row twice, so that nothing could be spread.
    """

    signs: np.ndarray
    places: np.ndarray
    size: int

    def coefficients(self, vectors: np.ndarray) -> np.ndarray:
        """T x: float64 [r, d] to [r, N], norms kept."""
        wide = np.zeros((len(vectors), self.size))
        wide[:, self.places] = vectors * self.signs
        return transforms.hadamard(wide)

    def vectors(self, coefficients: np.ndarray) -> np.ndarray:
        """T^t a: float64 [r, N] to [r, d]."""
        return transforms.hadamard(coefficients)[:, self.places] * self.signs


def random_frame(dimension: int, rng: np.random.Generator) -> Frame:
    """A frame of N = 2^(ceil(log2 d) + 1) vectors."""
    size = frame_size(dimension)
    return Frame(transforms.random_signs(dimension, rng), rng.permutation(size)[:dimension], size)


def kashin(vectors: np.ndarray, frame: Frame, clip: float) -> np.ndarray:
    """Coefficients [r, N] within K clip/sqrt(N) and with T^t a = x for rows x [r, d] of L2 norm at most `clip`.

    By projecting in turn on the coefficients of x and on the box. What has not ended after `_PROJECTIONS` is clipped:
    T^t a then misses x by what the clip took, which is little.
    """
    level = LEVEL * clip / math.sqrt(frame.size)
    found = frame.coefficients(vectors)
    for _ in range(_PROJECTIONS):
        clipped = np.clip(found, -level, level)
        missing = vectors - frame.vectors(clipped)
        if np.abs(missing).max(initial=0.0) <= 1e-4 * clip / math.sqrt(frame.size):
            break
        found = clipped + frame.coefficients(missing)
    return np.clip(found, -level, level)
