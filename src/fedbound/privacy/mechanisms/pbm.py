"""The Poisson-binomial mechanism: coins biased by the coordinate, summed by secure aggregation.

Source: Chen, Özgür, Kairouz, "The Poisson Binomial Mechanism for Unbiased Federated Learning with Secure Aggregation",
ICML 2022 (arXiv 2207.09916). Client: clip to an L2 norm c, rotate, clip each coordinate to c_inf, send
z_j ~ Bin(m, 1/2 + theta x_j / c_inf), theta <= 1/4. Server: c_inf (sum z - nm/2) / (n m theta), rotated back. Unbiased
but for the coordinate clip; the sum lies in 0..nm: nothing wraps. The paper takes a Kashin frame instead of the
rotation (`rotation: kashin`): then no coordinate is clipped, but all N of them may be at full scale together.

Accounting, ours (the theorem's constant could not be read): the exact pmfs of the sums. A coordinate of the others is a
sum of coins with biases within theta, a mixture of sums with every coin at one of the two ends, and divergences are
convex: so the worst others are k coins at the upper end and m(n-1) - k at the lower one, for some k; the maximum over
k on a grid is taken at each order. With g(t) the divergence between t c_inf and 0 there, and ||x||_2 <= c,
sum_j g(x_j / c_inf) <= max_t g(t)/t^2 (c/c_inf)^2: the coordinates share an L2 budget, and not all D of them can be at
full scale. Both maxima are on grids (K_GRID, T_GRID); between grid points nothing is proved, the functions are smooth.
Pmfs are cut at 16 standard deviations: what lies outside has a probability below 1e-55.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedbound.errors import InputError
from fedbound.privacy import accounting, coins, loss, transforms
from fedbound.privacy.local import SpreadOptions
from fedbound.privacy.mechanisms import Accounts, Adjacency, Guarantee, Law, Norm, Setting, Trust
from fedbound.privacy.rotation import Basis, Spread
from fedbound.registry import MECHANISMS

MOST_THETA = 0.25
K_GRID = 9  # numbers of the other clients' coins at the upper end
T_GRID = (1.0, 0.7, 0.4, 0.1)  # shares of c_inf
_REACH = 16  # standard deviations that pmfs of the others' sum hold
_NOTHING = 1e-250  # probabilities below are dropped: near the smallest float they lose their digits


class PBMOptions(SpreadOptions):
    """Options of `pbm`."""

    bits: int = Field(default=16, ge=1, le=20, description="bits per coordinate that hold the sum, log2(n m + 1)")


@MECHANISMS.register("pbm", PBMOptions)
class PBM:
    """Binomial counts biased by rotated coordinates, summed by secure aggregation without wrapping."""

    name: ClassVar[str] = "pbm"
    norm: ClassVar[Norm] = "L2"
    trust: ClassVar[Trust] = "secure aggregation"
    adjacency: ClassVar[Adjacency] = "zero-out"
    unbiased: ClassVar[bool] = True

    def __init__(self, options: PBMOptions):
        self.options = options

    def calibrate(self, setting: Setting) -> PBMRelease:
        """The largest theta within the target, to a relative 1e-3; 1/4 where the bits allow no more.

        Raises:
            InputError: the bits hold no coin per client, or theta would be all but 0.
        """
        trials = ((1 << self.options.bits) - 1) // setting.clients
        if trials < 1:
            raise InputError(
                f"privacy.mechanism.bits: {self.options.bits} bits do not hold a coin of each of {setting.clients} "
                f"clients; give at least {setting.clients.bit_length()}"
            )
        spread = Spread(self.options.rotation, setting.dimension, setting.clip, self.options.tail)
        budget = setting.rounds * spread.budget
        limit = 1 / accounting.gaussian_multiplier(setting.epsilon, setting.delta)
        theta = limit / math.sqrt(budget * 4 * trials / setting.clients)  # where the sum of coins were Gaussian
        theta, epsilon = _within(setting, trials, budget, min(theta, MOST_THETA))
        guarantee = Guarantee(epsilon, setting.delta, accounting.JOINT_RDP, self.adjacency, self.trust)
        return PBMRelease(setting, trials, theta, spread, guarantee)


def _within(setting: Setting, trials: int, budget: float, theta: float) -> tuple[float, float]:
    """The largest theta whose epsilon is within the target: epsilon is nearly proportional to theta."""
    low, low_epsilon, high = 0.0, 0.0, math.inf
    for _ in range(12):
        epsilon = joint_epsilon(setting.clients, trials, theta, budget, setting.delta)
        if epsilon <= setting.epsilon:
            low, low_epsilon = theta, epsilon
            if epsilon >= 0.999 * setting.epsilon or theta >= MOST_THETA:
                break
        else:
            high = theta
        step = theta * 0.9995 * setting.epsilon / epsilon
        theta = min(step if low < step < high else (low + min(high, MOST_THETA)) / 2, MOST_THETA)
    return low, low_epsilon


def joint_epsilon(clients: int, trials: int, theta: float, budget: float, delta: float) -> float:
    """Epsilon at `delta` of sums of `clients` times `trials` coins that share (c/c_inf)^2 = `budget`."""
    return accounting.rdp_epsilon(accounting.COARSE_ORDERS, budget * joint_renyi(clients, trials, theta), delta)


def joint_renyi(clients: int, trials: int, theta: float) -> np.ndarray:
    """max_t g(t)/t^2 at `accounting.COARSE_ORDERS`: Rényi divergence per unit of (c/c_inf)^2, float64."""
    orders = accounting.COARSE_ORDERS
    steepest = np.zeros(len(orders))
    for t, p, q in sum_pairs(clients, trials, theta, T_GRID):
        both = np.maximum(loss.renyi(p, q, orders), loss.renyi(q, p, orders))
        steepest = np.maximum(steepest, both / t**2)
    return steepest


def sum_pairs(
    clients: int, trials: int, theta: float, shares: Sequence[float] = (1.0,), highs: Sequence[int] = ()
) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """Pmf pairs of one coordinate's sum: the client at a share of c_inf against 0, for mixes of the others' coins.

    The mixes are `highs`, numbers of coins at the upper end, or a grid. The client at the lower end is the mirror image
    of the client at the upper one among mirrored others, and left out. Yields share, P and Q.
    """
    others = trials * (clients - 1)
    outcomes = np.arange(trials + 1)
    without = _binomial(outcomes, trials, 0.5)
    for high in highs or sorted({round(others * i / (K_GRID - 1)) for i in range(K_GRID)}):
        rest, cut = _rest(high, others - high, theta, trials)
        # where the rest was cut, outcomes that not all of the client's coins can reach within it would be distorted
        used = slice(cut[0] * trials, len(rest) + trials - cut[1] * trials)
        q = np.convolve(rest, without)[used]
        for share in shares:
            p = np.convolve(rest, _binomial(outcomes, trials, 0.5 + theta * share))[used]
            kept = (p > _NOTHING) & (q > _NOTHING)
            yield share, p[kept] / p[kept].sum(), q[kept] / q[kept].sum()


def _rest(high: int, low: int, theta: float, trials: int) -> tuple[np.ndarray, tuple[bool, bool]]:
    """Pmf of `high` coins at the upper and `low` at the lower bias, and whether it was cut below and above."""
    pmf, first = np.ones(1), 0
    for count, bias in ((high, 0.5 + theta), (low, 0.5 - theta)):
        reach = math.ceil((_REACH + 4) * math.sqrt(count * bias * (1 - bias)) + 1.5 * trials)
        middle = round(count * bias)
        start = max(0, middle - reach)
        pmf = np.convolve(pmf, _binomial(np.arange(start, min(count, middle + reach) + 1), count, bias))
        first += start
    total = high + low
    middle = round(total / 2 + theta * (high - low))
    reach = math.ceil(_REACH * math.sqrt(total * (0.25 - theta**2)) + 1.5 * trials)
    start, stop = max(0, middle - reach), min(total, middle + reach)
    return pmf[start - first : stop + 1 - first], (start > 0, stop < total)


def _binomial(outcomes: np.ndarray, count: int, bias: float) -> np.ndarray:
    from scipy.stats import binom

    return np.asarray(binom.pmf(outcomes, count, bias))


@dataclass(frozen=True)
class PBMRelease:
    """`trials` coins m per client and coordinate, biased by at most `theta`."""

    setting: Setting
    trials: int
    theta: float
    spread: Spread
    guarantee: Guarantee
    gain: float = 1.0

    @property
    def size(self) -> int:
        """Number D of coordinates that are sent."""
        return self.spread.size

    @property
    def reach(self) -> float:
        """c_inf: what a coordinate is at most."""
        return self.spread.reach

    @property
    def bits(self) -> float:
        """log2(nm + 1) for each of the D coordinates."""
        return math.log2(self.setting.clients * self.trials + 1) * self.size / self.setting.dimension

    @cached_property
    def mse(self) -> float:
        """(c_inf^2 / (4 m theta^2) - E y^2 / m + E (x - y)^2) / n: x a random direction's coordinate, clipped to y.

        A frame's d vectors are orthonormal, so that the error of its N coefficients is that of a coordinate, too.
        """
        if self.spread.kind == "hadamard":
            x = self.setting.clip * transforms.sphere_coordinates(self.size)
        else:
            x = self.spread.sample[1]
        y = np.clip(x, -self.reach, self.reach)
        spread = self.reach**2 / (4 * self.trials * self.theta**2) - float(np.mean(y**2)) / self.trials
        return (spread + float(np.mean((x - y) ** 2))) / self.setting.clients

    @property
    def noise(self) -> float:
        """Standard deviation of the summed error per coordinate."""
        return math.sqrt(self.mse) * self.setting.clients

    def estimate(self, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self.setting.check(vectors)
        public, private = rng.spawn(2)
        basis = self.spread.draw(public)
        total = np.zeros(self.size, dtype=np.int64)
        for block in transforms.blocks(vectors):
            total += self.encode(block, basis, private).sum(axis=0)
        return self.decode(total, basis)

    def accounts(self) -> Accounts:
        """By loss distributions: as many coordinates at full scale as the L2 norm allows."""
        setting = self.setting
        pairs = [(p, q) for _, p, q in sum_pairs(setting.clients, self.trials, self.theta)]
        full = min(self.size, max(1, int(self.spread.budget)))
        spread = loss.from_pairs(pairs).compose(full * setting.rounds, setting.delta * 1e-6)
        return Accounts(spread.epsilon(setting.delta), self.guarantee.epsilon)

    def epsilon_of(self, present: int) -> float:
        budget = self.setting.rounds * self.spread.budget
        return joint_epsilon(present, self.trials, self.theta, budget, self.setting.delta)

    @property
    def epsilon_alone(self) -> float:
        return self.epsilon_of(1)

    def observe(self, values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
        counts = self.encode(np.tile(values, draws)[:, None], self.spread.trivial, rng)[:, 0]
        return counts.reshape(draws, -1).sum(axis=1)

    def law(self, values: np.ndarray) -> Law:
        """The sum of the counts; of one of a frame's two coefficients where there are two."""
        pmf, outcomes = np.ones(1), np.arange(self.trials + 1)
        for value in values:
            inside = self.spread.trivial.coordinates(np.array([[value]]))[0, 0] / self.reach
            pmf = np.convolve(pmf, _binomial(outcomes, self.trials, 0.5 + self.theta * min(1.0, max(-1.0, inside))))
        n, m = self.setting.clients, self.trials
        totals = np.arange(len(pmf))
        one = self.spread.trivial.vectors(np.eye(self.size)[:1])[0, 0] * self.size
        return Law(totals, pmf, one * self.reach * (totals - n * m / 2) / (n * m * self.theta))

    def encode(self, vectors: np.ndarray, public: Basis | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What each client sends: float64 vectors [r, d] to counts int64 [r, D] in 0..m.

        `public` is the basis, or the random signs of the rotation.
        """
        spread = self.spread.basis(public).coordinates(transforms.clip_l2(vectors, self.setting.clip))
        bias = 0.5 + self.theta * np.clip(spread / self.reach, -1, 1)
        return coins.counts(self.trials, bias, self.theta, rng)

    def decode(self, total: np.ndarray, public: Basis | np.ndarray) -> np.ndarray:
        """The mean from the summed counts: int64 [D] to float64 [d]."""
        n, m = self.setting.clients, self.trials
        mean = self.reach * (total - n * m / 2) / (n * m * self.theta)
        return self.spread.basis(public).vectors(mean[None, :])[0]
