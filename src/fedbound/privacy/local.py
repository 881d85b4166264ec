"""Local privacy of vectors by a kernel for numbers: rotate, pick few coordinates, send a level of each.

Client: clip to an L2 norm c, pad to D = 2^m, rotate (public random signs, then Hadamard), clip each coordinate to
c_inf = c sqrt(2 ln(2D/tail) / D), pick k coordinates with public randomness, send the kernel's level of each at
epsilon/k. Server: the decoded value times c_inf D/k at each coordinate, averaged, rotated back. k is chosen for the
least error. Nobody is trusted: the message of one client is epsilon-DP under replacement of its whole vector.

Papers define these kernels for numbers, or for vectors in other geometries; this vector form, that of sampled
coordinates (as in SQKR and CLDP), is ours, and the same for all kernels, so that they can be compared.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedbound.privacy import accounting, loss, transforms
from fedbound.privacy.kernels import Table
from fedbound.privacy.mechanisms import Accounts, Adjacency, Guarantee, Norm, Setting, Trust
from fedbound.registry import Options

MOST_COORDINATES = 12
MOST_CORNERS = 70  # of a kernel whose inputs are all paired; the noisy sign's ends are its worst


class LocalOptions(Options):
    """Options of local kernels."""

    coordinates: int = Field(default=0, ge=0, le=64, description="coordinates each client sends; 0: of least error")
    tail: float = Field(default=1e-3, gt=0, lt=1, description="probability that some rotated coordinate is clipped")


class Local(ABC):
    """A kernel at epsilon/k on k public random coordinates of the rotated vector."""

    name: ClassVar[str]
    norm: ClassVar[Norm] = "L2"
    trust: ClassVar[Trust] = "local"
    adjacency: ClassVar[Adjacency] = "replace"

    def __init__(self, options: LocalOptions):
        self.options = options

    @abstractmethod
    def kernel(self, epsilon: float) -> Table:
        """The kernel whose pure epsilon is at most `epsilon`."""

    def calibrate(self, setting: Setting) -> LocalRelease:
        """The kernel at epsilon/k, for the number k of coordinates of least error."""
        setting.once(self.name)
        size = transforms.padded(setting.dimension)
        most = min(size, MOST_COORDINATES)
        counts = [min(self.options.coordinates, size)] if self.options.coordinates else range(1, most + 1)
        best: LocalRelease | None = None
        for count in counts:
            kernel = self.kernel(setting.epsilon / count)
            epsilon = min(setting.epsilon, count * kernel.pure_epsilon)  # the product may round up
            guarantee = Guarantee(epsilon, setting.delta, accounting.PURE, self.adjacency, self.trust)
            release = LocalRelease(setting, kernel, count, self.options.tail, guarantee)
            if best is not None and release.mse >= best.mse:
                break  # the error has one minimum over k
            best = release
        assert best is not None
        return best


@dataclass(frozen=True)
class LocalRelease:
    """A kernel on `coordinates` of the rotated coordinates of each client."""

    setting: Setting
    kernel: Table
    coordinates: int
    tail: float
    guarantee: Guarantee

    @property
    def size(self) -> int:
        """Padded dimension D."""
        return transforms.padded(self.setting.dimension)

    @cached_property
    def reach(self) -> float:
        """c_inf: what rotated coordinates are clipped to."""
        return transforms.coordinate_bound(self.setting.clip, self.size, self.tail)

    @property
    def bits(self) -> float:
        """The coordinates are public randomness; without it each costs log2 D bits more."""
        return self.coordinates * math.log2(self.kernel.levels) / self.setting.dimension

    @cached_property
    def mse(self) -> float:
        """Mean squared error per coordinate for vectors of norm c in independent directions.

        One client's coordinate x, clipped to y: D/k c_inf^2 E[a^2 | y] - 2 x c_inf E[a | y] + x^2, averaged over the
        coordinates of a random direction; over n.
        """
        x = self.setting.clip * transforms.sphere_coordinates(self.size)
        y = np.clip(x / self.reach, -1, 1)
        squares = self.size / self.coordinates * self.reach**2 * self.kernel.square(y)
        return float(np.mean(squares - 2 * x * self.reach * self.kernel.mean(y) + x**2)) / self.setting.clients

    @property
    def noise(self) -> float:
        """Standard deviation of the summed error per coordinate."""
        return math.sqrt(self.mse) * self.setting.clients

    def estimate(self, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self.setting.check(vectors)
        public, private = rng.spawn(2)
        signs = transforms.random_signs(self.size, public)
        total = np.zeros(self.size)
        for block in transforms.blocks(vectors):
            chosen = pick(len(block), self.size, self.coordinates, public)
            total += self.decode(chosen, self.encode(block, signs, chosen, private))
        mean = total[None, :] / self.setting.clients
        return transforms.unrotate(mean, signs, self.setting.dimension)[0]

    def accounts(self) -> Accounts:
        return kernel_accounts(self.kernel, self.coordinates, self.setting.delta)

    def observe(self, values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
        first = np.full((draws, 1), values[0], dtype=np.float64)
        return self.encode(first, np.ones(1), np.zeros((draws, 1), dtype=np.int64), rng)[:, 0]

    def encode(
        self, vectors: np.ndarray, signs: np.ndarray, chosen: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """What each client sends: float64 vectors [r, d] and coordinates int64 [r, k] to levels int64 [r, k]."""
        rotated = transforms.rotate(transforms.clip_l2(vectors, self.setting.clip), signs)
        picked = np.take_along_axis(rotated, chosen, axis=1) / self.reach
        return self.kernel.sample(np.clip(picked, -1, 1), rng)

    def decode(self, chosen: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """The sum of the rotated vectors' estimates, float64 [D], from coordinates and levels [r, k]."""
        scale = self.reach * self.size / self.coordinates
        return np.bincount(chosen.ravel(), scale * self.kernel.values[levels.ravel()], self.size)


def pick(rows: int, size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` different coordinates of `size` for each of `rows` clients, uniformly: int64 [rows, count]."""
    if count == 1:
        return rng.integers(0, size, (rows, 1))
    if count == size:
        return np.tile(np.arange(size), (rows, 1))
    return np.argpartition(rng.random((rows, size)), count, axis=1)[:, :count]


def kernel_accounts(kernel: Table, coordinates: int, delta: float) -> Accounts:
    """Epsilon at `delta` of `coordinates` levels, by both accountants; neither can exceed the pure one by much."""
    pairs = kernel.pairs() if len(kernel.corners) <= MOST_CORNERS else [kernel.worst_pair()]
    mirrored = [pair for p, q in pairs for pair in ((p, q), (q, p))]
    pure = coordinates * kernel.pure_epsilon
    pld = loss.from_pairs(mirrored).compose(coordinates, delta * 1e-6).epsilon(delta)
    rdp = coordinates * np.max([loss.renyi(p, q, accounting.COARSE_ORDERS) for p, q in mirrored], axis=0)
    return Accounts(min(pure, pld), min(pure, accounting.rdp_epsilon(accounting.COARSE_ORDERS, rdp, delta)))
