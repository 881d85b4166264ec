"""Interpolated MVU: levels by a softmax that is linear in the input, private by its Fisher information.

Source: Guo, Chaudhuri, Stock, Rabbat, "Privacy-Aware Compression for Federated Learning Through Numerical Mechanism
Design", ICML 2023 (arXiv 2211.03942), as read in the code published with it: P(x) = softmax((1-x) eta_1 + x eta_2) for
x in [0, 1], eta_2 the reverse of eta_1; no dither to an input grid. Here x is in [-1, 1] and

    P_j(x) proportional to exp(kappa x z_j - mu z_j^2),   z evenly on [-1, 1],

the family with two parameters of that form: a **reconstruction**, because the paper optimises all of eta_1, by a
program that could not be had. mu is that of least error. Decoded values are those of least squares for a mean of x on
[-1, 1], which is not exactly unbiased.

Guarantee: with f the log-normaliser, the Rényi divergence of P(x) from P(y) is
(f(ax + (1-a)y) - a f(x) - (1-a) f(y)) / (a - 1) <= a M (x-y)^2 / 2, M the supremum of f'' = Var(kappa z) over the whole
line (the point ax + (1-a)y lies outside of [-1, 1]). Coordinates add up to a M ||x-y||_2^2 / 2: all of them are sent,
and share the L2 budget. It holds for single messages, so nobody is trusted. M is taken on a grid and raised by what it
can rise between two points (|f'''| <= 2 kappa f'').
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedbound.privacy import accounting, loss, transforms
from fedbound.privacy.local import TAIL, coordinate_error, coordinate_gain
from fedbound.privacy.mechanisms import Accounts, Adjacency, Guarantee, Law, Norm, Setting, Trust
from fedbound.privacy.rotation import Basis, Spread
from fedbound.registry import MECHANISMS, Options

_CURVATURES = (-1.0, 0.0, 0.5, 1.0, 2.0, 4.0)  # mu that are tried
_STEP = 0.005  # of kappa x, in the search for M


class IMVUOptions(Options):
    """Options of `imvu`."""

    bits: int = Field(default=1, ge=1, le=6, description="bits of one level")
    tail: float = TAIL


@dataclass(frozen=True)
class Softmax:
    """The kernel: P_j(x) proportional to exp(kappa x z_j - mu z_j^2), and a decoded value of each level."""

    kappa: float
    mu: float
    bits: int

    @property
    def positions(self) -> np.ndarray:
        """z, float64 [2^bits]."""
        return np.linspace(-1, 1, 1 << self.bits)

    def pmf(self, x: np.ndarray) -> np.ndarray:
        """Exact pmf at each real x: float64 [m] to [m, K]."""
        z = self.positions
        exponent = self.kappa * np.asarray(x, dtype=np.float64)[:, None] * z - self.mu * z**2
        rows = np.exp(exponent - exponent.max(axis=1, keepdims=True))
        return np.asarray(rows / rows.sum(axis=1, keepdims=True))

    @cached_property
    def values(self) -> np.ndarray:
        """Decoded values, float64 [K]: of least error for the means of x on [-1, 1], odd in the level."""
        x = np.linspace(-1, 1, 201)
        pmf = self.pmf(x)
        # little weight on the variance chooses among values whose means are equally right
        ridge = 1e-3 * np.diag(pmf.mean(axis=0))
        found = np.linalg.solve(pmf.T @ pmf / len(x) + ridge, pmf.T @ x / len(x))
        odd = (found - found[::-1]) / 2
        means = pmf @ odd
        return np.asarray(odd * float(means @ x) / float(means @ means))

    def mean(self, x: np.ndarray) -> np.ndarray:
        """Mean decoded value at each x: float64 [m]."""
        return np.asarray(self.pmf(x) @ self.values)

    def square(self, x: np.ndarray) -> np.ndarray:
        """Mean squared decoded value at each x: float64 [m]."""
        return np.asarray(self.pmf(x) @ np.square(self.values))

    def sample(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A level for each x, int64 of the same shape."""
        flat = np.asarray(x, dtype=np.float64).ravel()
        drawn = rng.random(len(flat))
        level = np.zeros(len(flat), dtype=np.int64)
        for column in np.cumsum(self.pmf(flat), axis=1)[:, :-1].T:
            level += drawn >= column
        return level.reshape(np.shape(x))

    @cached_property
    def information(self) -> float:
        """M: an upper bound, within 1 %, of the Fisher information of any real input.

        With w = 1 - z and theta = kappa x - 2 max(mu, 0), levels weigh at most e^(-theta w) against the end level, so
        that the variance is at most sum w^2 e^(-theta w): far out it is below what was found.
        """
        z, gap, reach = self.positions, 2 / ((1 << self.bits) - 1), 12.0
        while True:
            scaled = np.arange(0, reach + 2 * max(self.mu, 0.0) + _STEP, _STEP)  # kappa x
            pmf = self.pmf(scaled / self.kappa)
            found = float((pmf @ z**2 - np.square(pmf @ z)).max()) * math.exp(_STEP)
            q = math.exp(-reach * gap)
            if gap**2 * q * (1 + q) / (1 - q) ** 3 <= found:
                return self.kappa**2 * found
            reach *= 1.5


@lru_cache(maxsize=256)
def _kernel(information: float, bits: int, mu: float) -> Softmax:
    """The kernel of curvature `mu` whose M is at most `information`."""
    root = math.sqrt(information)
    kappa = 1 / accounting.least_noise(
        lambda noise: Softmax(1 / noise, mu, bits).information, information, 0.01 / root, 4 / root, 1e-4
    )
    return Softmax(kappa, mu, bits)


@MECHANISMS.register("imvu", IMVUOptions)
class IMVU:
    """Softmax-quantized coordinates that share an L2 budget (local, by Rényi divergence; a reconstruction)."""

    name: ClassVar[str] = "imvu"
    norm: ClassVar[Norm] = "L2"
    trust: ClassVar[Trust] = "local"
    adjacency: ClassVar[Adjacency] = "replace"
    unbiased: ClassVar[bool] = False

    def __init__(self, options: IMVUOptions):
        self.options = options

    def calibrate(self, setting: Setting) -> IMVURelease:
        """The largest M within the target, and mu of least error."""
        spread = Spread("hadamard", setting.dimension, setting.clip, self.options.tail)
        moved = 4 * spread.budget  # squared L2 distance of two clients, in units of c_inf

        def epsilon(noise: float) -> float:
            rdp = setting.rounds * np.array(accounting.ORDERS) * moved / (2 * noise)
            return accounting.rdp_epsilon(accounting.ORDERS, rdp, setting.delta)

        central = setting.rounds * moved * accounting.gaussian_multiplier(setting.epsilon, setting.delta) ** 2
        noise = accounting.least_noise(epsilon, setting.epsilon, central / 4, 16 * central, 1e-6)  # 1/M
        guarantee = Guarantee(epsilon(noise), setting.delta, accounting.RDP, self.adjacency, self.trust)
        curvatures = _CURVATURES if self.options.bits > 1 else (0.0,)
        kernels = (_kernel(1 / noise, self.options.bits, mu) for mu in curvatures)
        releases = [IMVURelease(setting, kernel, spread, guarantee) for kernel in kernels]
        return min(releases, key=lambda release: release.mse)


@dataclass(frozen=True)
class IMVURelease:
    """A softmax kernel on every rotated coordinate of each client."""

    setting: Setting
    kernel: Softmax
    spread: Spread
    guarantee: Guarantee

    @property
    def bits(self) -> float:
        """A level of each of the D coordinates."""
        return self.kernel.bits * self.spread.size / self.setting.dimension

    @cached_property
    def mse(self) -> float:
        return coordinate_error(self.kernel, self.typical, self.spread.reach, 1.0) / self.setting.clients

    @cached_property
    def gain(self) -> float:
        return coordinate_gain(self.kernel, self.typical, self.spread.reach)

    @property
    def typical(self) -> np.ndarray:
        """Coordinates of a random direction after rotation, unclipped: float64 [m]."""
        return self.setting.clip * transforms.sphere_coordinates(self.spread.size)

    @property
    def noise(self) -> float:
        """Standard deviation of the summed error per coordinate."""
        return math.sqrt(self.mse) * self.setting.clients

    def estimate(self, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self.setting.check(vectors)
        public, private = rng.spawn(2)
        basis = self.spread.draw(public)
        total = np.zeros(self.spread.size)
        for block in transforms.blocks(vectors):
            total += self.kernel.values[self.encode(block, basis, private)].sum(axis=0)
        return basis.vectors(self.spread.reach * total[None, :] / self.setting.clients)[0]

    def accounts(self) -> Accounts:
        """By loss distributions: two clients at opposite ends, spread evenly over all coordinates."""
        t = self.setting.clip / (math.sqrt(self.spread.size) * self.spread.reach)
        p, q = self.kernel.pmf(np.array([t, -t]))
        lost = self.setting.delta * 1e-6
        pair = loss.from_pmfs(p, q).compose(self.setting.rounds * self.spread.size, lost)
        return Accounts(pair.epsilon(self.setting.delta), self.guarantee.epsilon)

    def epsilon_of(self, present: int) -> float:
        return self.guarantee.epsilon

    @property
    def epsilon_alone(self) -> float:
        return self.guarantee.epsilon

    def observe(self, values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
        first = np.full((draws, 1), values[0], dtype=np.float64)
        return self.encode(first, self.spread.trivial, rng)[:, 0]

    def law(self, values: np.ndarray) -> Law:
        pmf = self.kernel.pmf(values[:1] / self.spread.reach)[0]
        return Law(np.arange(len(pmf)), pmf, self.spread.reach * self.kernel.values)

    def encode(self, vectors: np.ndarray, basis: Basis, rng: np.random.Generator) -> np.ndarray:
        """What each client sends: float64 vectors [r, d] to levels int64 [r, D]."""
        rotated = basis.coordinates(transforms.clip_l2(vectors, self.setting.clip)) / self.spread.reach
        return self.kernel.sample(np.clip(rotated, -1, 1), rng)
