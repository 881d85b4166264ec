"""SQKR: subsampled and quantized Kashin's representation, one bit of each sampled coordinate, by randomised response.

Source: Chen, Kairouz, Özgür, "Breaking the Communication-Privacy-Accuracy Trilemma", NeurIPS 2020 (arXiv 2007.11707);
the level K and the frame are those of the code published with Shah et al., AISTATS 2022: eta = 0.4, delta = 0.8, a
randomised Hadamard frame of N = 2^(ceil(log2 d) + 1) coordinates. That code finds the representation by Lyubarskii and
Vershynin's iteration and clips what exceeds K; here it is found by alternating projections, which meet the level.

Client: clip to an L2 norm c; find a with x = T^t a and |a_j| <= K c / sqrt(N), K = 1 / ((1 - eta) sqrt(delta)); round
each of k public random coordinates to +-K c / sqrt(N); send the k bits by randomised response on their 2^k strings:
kept with probability lambda = (e^eps - 1) / (e^eps + 2^k - 1), else uniform. Server: N / (k lambda) times the bits,
averaged, T^t. k is that of least error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedbound.privacy import accounting, loss, transforms
from fedbound.privacy.local import pick
from fedbound.privacy.mechanisms import Accounts, Adjacency, Guarantee, Norm, Setting, Trust
from fedbound.registry import MECHANISMS, Options

ETA, DELTA = 0.4, 0.8
LEVEL = 1 / ((1 - ETA) * math.sqrt(DELTA))  # K
MOST_COORDINATES = 30
_PROJECTIONS = 30


class SQKROptions(Options):
    """Options of `sqkr`."""

    coordinates: int = Field(default=0, ge=0, le=MOST_COORDINATES, description="bits a client sends; 0: of least error")


@MECHANISMS.register("sqkr", SQKROptions)
class SQKR:
    """Randomised response on single bits of sampled Kashin coordinates (local, pure epsilon-DP)."""

    name: ClassVar[str] = "sqkr"
    norm: ClassVar[Norm] = "L2"
    trust: ClassVar[Trust] = "local"
    adjacency: ClassVar[Adjacency] = "replace"

    def __init__(self, options: SQKROptions):
        self.options = options

    def calibrate(self, setting: Setting) -> SQKRRelease:
        """The number of bits of least error; lambda follows from it and epsilon."""
        setting.once(self.name)
        most = min(MOST_COORDINATES, frame_size(setting.dimension))
        counts = [min(self.options.coordinates, most)] if self.options.coordinates else range(1, most + 1)
        guarantee = Guarantee(setting.epsilon, setting.delta, accounting.PURE, self.adjacency, self.trust)
        return min((SQKRRelease(setting, count, guarantee) for count in counts), key=lambda release: release.mse)


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


@dataclass(frozen=True)
class SQKRRelease:
    """`coordinates` bits per client."""

    setting: Setting
    coordinates: int
    guarantee: Guarantee

    @property
    def size(self) -> int:
        """Coordinates N of the frame."""
        return frame_size(self.setting.dimension)

    @property
    def kept(self) -> float:
        """lambda: the probability that the string of bits is not replaced by a uniform one."""
        return math.expm1(self.setting.epsilon) / (math.exp(self.setting.epsilon) + 2**self.coordinates - 1)

    @property
    def bits(self) -> float:
        """The coordinates are public randomness; without it each costs log2 N bits more."""
        return self.coordinates / self.setting.dimension

    @cached_property
    def mse(self) -> float:
        """(d K^2 / (k lambda^2) + (1 - 1/k)/lambda (1 - d/N) - 1) c^2 / (d n), for |a| about c.

        The bits' own squares, the pairs of bits of one string, and the squared mean.
        """
        d, k = self.setting.dimension, self.coordinates
        own = d * LEVEL**2 / (k * self.kept**2)
        pairs = (1 - 1 / k) / self.kept * (1 - d / self.size)
        return (own + pairs - 1) * self.setting.clip**2 / (d * self.setting.clients)

    @property
    def noise(self) -> float:
        """Standard deviation of the summed error per coordinate."""
        return math.sqrt(self.mse) * self.setting.clients

    def string_pmf(self) -> np.ndarray:
        """Probabilities of the sent string given the rounded one: kept, and each other string: float64 [2]."""
        other = (1 - self.kept) / 2**self.coordinates
        return np.array([self.kept + other, other])

    def estimate(self, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self.setting.check(vectors)
        public, private = rng.spawn(2)
        frame = random_frame(self.setting.dimension, public)
        step = LEVEL * self.setting.clip / math.sqrt(self.size)
        total = np.zeros(self.size)
        for block in transforms.blocks(vectors):
            chosen = pick(len(block), self.size, self.coordinates, public)
            bits = self.encode(block, frame, chosen, private)
            scale = step * self.size / (self.coordinates * self.kept)
            total += np.bincount(chosen.ravel(), scale * bits.ravel(), self.size)
        return frame.vectors(total[None, :] / self.setting.clients)[0]

    def accounts(self) -> Accounts:
        """Of the sent string given two rounded ones: either of them, or any of the others, which tell nothing."""
        kept, other = self.string_pmf()
        rest = (2**self.coordinates - 2) * other
        p, q = np.array([kept, other, rest]), np.array([other, kept, rest])
        if not rest:
            p, q = p[:2], q[:2]
        rdp = loss.renyi(p, q, accounting.COARSE_ORDERS)
        epsilons = (
            loss.from_pmfs(p, q).epsilon(self.setting.delta),
            accounting.rdp_epsilon(accounting.COARSE_ORDERS, rdp, self.setting.delta),
        )
        return Accounts(*(min(self.setting.epsilon, epsilon) for epsilon in epsilons))

    def observe(self, values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
        frame = Frame(np.ones(1), np.zeros(1, dtype=np.int64), self.size)
        chosen = np.tile(np.arange(self.coordinates), (draws, 1))
        bits = self.encode(np.full((draws, 1), values[0], dtype=np.float64), frame, chosen, rng) > 0
        return bits @ (1 << np.arange(self.coordinates))

    def encode(self, vectors: np.ndarray, frame: Frame, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What each client sends: float64 vectors [r, d] and coordinates int64 [r, k] to signs float64 [r, k]."""
        coefficients = kashin(transforms.clip_l2(vectors, self.setting.clip), frame, self.setting.clip)
        step = LEVEL * self.setting.clip / math.sqrt(self.size)
        share = np.clip(np.take_along_axis(coefficients, chosen, axis=1) / step, -1, 1)
        bits = np.where(rng.random(chosen.shape) < (1 + share) / 2, 1.0, -1.0)
        uniform = 2.0 * rng.integers(0, 2, chosen.shape) - 1.0
        return np.where(rng.random((len(bits), 1)) < self.kept, bits, uniform)
