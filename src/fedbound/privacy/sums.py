"""Private sums in training: a silo's integers for a sum modulo 2^b, the sum's way back, and what rounds of them cost.

Each silo clips, rotates, scales and rounds its vectors (its one update, or one gradient per record), adds them up, adds
its share of the noise, and sends the result modulo 2^b. The sum over all silos modulo 2^b is all that may be seen:
secure aggregation. The mechanisms are those of `fedbound.privacy.mechanisms`; here the vectors of a silo may be many,
and the noise shares are still one per silo.

Unit. One vector is protected, against its absence (zero-out: it is replaced by zero, and how many there are is public).
Where a vector is an update that is a whole silo; where it is a record's gradient it is that record.

Composition. Releases may hold different numbers of noise shares (silos drop out): their Rényi divergences add up order
by order. Where each vector takes part with a secret probability q (Poisson), each release's divergence is amplified
first (`accounting.sampled_rdp`). The binomial mechanism has no finite divergence: there every release is charged with
the fewest shares of any, and no amplification.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np

from fedbound.errors import InputError
from fedbound.privacy import accounting, coins, integer_noise, transforms
from fedbound.privacy.integer_noise import IntegerNoise
from fedbound.privacy.mechanisms import Setting, pbm
from fedbound.registry import MECHANISMS

MECHANISM_NAMES = ("skellam", "ddgauss", "binomial", "pbm")
_MOST_NOISE = 100.0  # in units of the central Gaussian's: beyond, the bits and not the epsilon ask for the noise
_MOST_TRIALS = 512  # pbm's coins per vector: more would not change the error at an epsilon, only the accounting's time


class Members(NamedTuple):
    """Who is in a sum: silos, each with one noise share, and vectors, those that are 0 or not sampled among them."""

    silos: int
    vectors: int


Vectors = np.ndarray | Iterable[np.ndarray]  # float64 [k, d]
Rounds = Mapping[Members, int]  # how many releases there were of each kind of sum


@dataclass(frozen=True)
class Plan:
    """What is to be summed.

    Attributes:
        mechanism: its registered name.
        members: of each sum, when nobody drops out.
        dimension: coordinates of each vector.
        clip: bound on each vector's L2 norm.
        bits: of the field that the sum is taken in, per coordinate.
        delta: at which epsilon is stated.
        rounds: releases planned.
        honest: share of the silos (pbm: of the vectors) whose noise is counted.
        rate: probability with which each vector takes part.
    """

    mechanism: str
    members: Members
    dimension: int
    clip: float
    bits: int
    delta: float
    rounds: int
    honest: float = 1.0
    rate: float = 1.0

    @property
    def size(self) -> int:
        """Padded dimension D."""
        return transforms.padded(self.dimension)

    @property
    def present(self) -> int:
        """Vectors that take part in one sum: 6 standard deviations above the mean where they are sampled."""
        n = self.members.vectors
        return min(n, math.ceil(n * self.rate + 6 * math.sqrt(n * self.rate * (1 - self.rate))))

    def counted(self, number: int) -> int:
        """Shares that are counted of so many."""
        return max(1, math.floor(self.honest * number))


class Sum(Protocol):
    """A mechanism with its noise fixed."""

    @property
    def plan(self) -> Plan:
        """What it was made for."""
        ...

    @property
    def noise(self) -> float:
        """Standard deviation of the summed noise per coordinate, in the vectors' units."""
        ...

    def encode(self, vectors: Vectors, absent: int, signs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A silo's message before the modulus: float64 vectors [k, d] to int64 [D].

        Args:
            vectors: those that take part; they may come a few rows at a time.
            absent: number of the silo's vectors that were not sampled.
            signs: of the rotation, float64 [D]; public.
            rng: the noise's, secret.
        """
        ...

    def decode(self, total: np.ndarray, vectors: int, signs: np.ndarray) -> np.ndarray:
        """The sum of the vectors, float64 [d], from the sum modulo 2^bits, int64 [D] in [0, 2^bits), of `vectors`."""
        ...

    def epsilon(self, rounds: Rounds) -> float:
        """Epsilon of all these releases together; 0 for none."""
        ...


@dataclass(frozen=True)
class IntegerSum:
    """Rounded vectors and integer noise shares: skellam, ddgauss, binomial."""

    plan: Plan
    parameters: integer_noise.Parameters
    _curves: dict[int, np.ndarray | None] = field(default_factory=dict, compare=False)

    @property
    def noise(self) -> float:
        return self.parameters.noise

    def encode(self, vectors: Vectors, absent: int, signs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        p = self.parameters
        total = p.draw((p.size,), rng)
        for block in _blocks(vectors):
            rotated = transforms.rotate(transforms.clip_l2(block, self.plan.clip), signs)
            total += transforms.conditional_round(rotated * p.scale, p.limit, rng).sum(axis=0)
        return total

    def decode(self, total: np.ndarray, vectors: int, signs: np.ndarray) -> np.ndarray:
        signed = transforms.wrap(total, self.plan.bits)
        return transforms.unrotate(signed[None, :] / self.parameters.scale, signs, self.plan.dimension)[0]

    def epsilon(self, rounds: Rounds) -> float:
        used = {members: count for members, count in rounds.items() if count}
        if not used:
            return 0.0
        curves = [(self._curve(self.plan.counted(one.silos)), count) for one, count in used.items()]
        known = [count * curve for curve, count in curves if curve is not None]
        if len(known) == len(curves):
            return accounting.rdp_epsilon(accounting.ORDERS, np.sum(known, axis=0), self.plan.delta)
        fewest = self.plan.counted(min(one.silos for one in used))
        return dataclasses.replace(self.parameters, rounds=sum(used.values())).epsilon(self.plan.delta, fewest)

    def _curve(self, shares: int) -> np.ndarray | None:
        if shares not in self._curves:
            plain = self.parameters.renyi(shares)
            self._curves[shares] = (
                None if plain is None else accounting.sampled_rdp(accounting.ORDERS, plain, self.plan.rate)
            )
        return self._curves[shares]


@dataclass(frozen=True)
class PBMSum:
    """Coins biased by the vectors: those that are absent flip fair ones."""

    plan: Plan
    trials: int
    theta: float
    _curves: dict[int, np.ndarray] = field(default_factory=dict, compare=False)

    @property
    def reach(self) -> float:
        """Bound on each rotated coordinate, c_inf."""
        return pbm_reach(self.plan)

    @property
    def noise(self) -> float:
        """That of fair coins, an upper bound: c_inf sqrt(n) / (2 sqrt(m) theta)."""
        return self.reach * math.sqrt(self.plan.members.vectors / self.trials) / (2 * self.theta)

    def encode(self, vectors: Vectors, absent: int, signs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        total = rng.binomial(self.trials * absent, 0.5, self.plan.size)
        for block in _blocks(vectors):
            rotated = transforms.rotate(transforms.clip_l2(block, self.plan.clip), signs)
            bias = 0.5 + self.theta * np.clip(rotated / self.reach, -1, 1)
            total += coins.counts(self.trials, bias, self.theta, rng).sum(axis=0)
        return total

    def decode(self, total: np.ndarray, vectors: int, signs: np.ndarray) -> np.ndarray:
        found = self.reach * (total - vectors * self.trials / 2) / (self.trials * self.theta)
        return transforms.unrotate(found[None, :], signs, self.plan.dimension)[0]

    def epsilon(self, rounds: Rounds) -> float:
        used = [(self._curve(self.plan.counted(one.vectors)), count) for one, count in rounds.items() if count]
        if not used:
            return 0.0
        total = np.sum([count * curve for curve, count in used], axis=0)
        return accounting.rdp_epsilon(accounting.COARSE_ORDERS, total, self.plan.delta)

    def _curve(self, vectors: int) -> np.ndarray:
        if vectors not in self._curves:
            budget = (self.plan.clip / self.reach) ** 2
            plain = budget * pbm.joint_renyi(vectors, self.trials, self.theta)
            self._curves[vectors] = accounting.sampled_rdp(accounting.COARSE_ORDERS, plain, self.plan.rate)
        return self._curves[vectors]


@cache
def solve(plan: Plan, epsilon: float) -> Sum:
    """The least noise at which the planned rounds cost at most `epsilon`.

    Raises:
        InputError: the bits are too few.
    """
    planned = {plan.members: plan.rounds}
    if plan.mechanism == "pbm":
        return _solve_pbm(plan, epsilon)
    central = accounting.gaussian_multiplier(epsilon, plan.delta) * plan.clip * math.sqrt(plan.rounds)
    try:
        noise = accounting.least_noise(
            lambda noise: of_noise(plan, noise).epsilon(planned),
            epsilon,
            central * min(1.0, plan.rate) / 4,
            _MOST_NOISE * central,
            1e-4,
        )
    except ValueError:
        raise _too_few_bits(plan, f"epsilon {epsilon:g}") from None
    return of_noise(plan, noise)


def of_noise(plan: Plan, noise: float) -> Sum:
    """The sum whose noise has this standard deviation per coordinate, in the vectors' units.

    Raises:
        InputError: the bits are too few, or pbm's coins cannot be as little noise as that.
    """
    if plan.mechanism == "pbm":
        trials = _trials(plan)
        theta = pbm_reach(plan) * math.sqrt(plan.members.vectors / trials) / (2 * noise)
        if theta > pbm.MOST_THETA:
            raise InputError(
                f"training.privacy.noise_multiplier: {noise / plan.clip:g} is less noise than pbm's coins have in "
                f"{plan.bits} bits; raise it to {noise / plan.clip * theta / pbm.MOST_THETA:.3g}, or raise the bits"
            )
        return PBMSum(plan, trials, theta)
    mechanism = _mechanism(plan)
    setting = Setting(1.0, plan.delta, plan.present, plan.dimension, plan.clip)
    if 4.0**plan.bits <= mechanism.options.deviations**2 * plan.present:
        raise _too_few_bits(plan, f"{plan.present} vectors")
    p = mechanism.parameters_of(setting, mechanism.options, noise)
    silos = plan.members.silos
    return IntegerSum(plan, dataclasses.replace(p, clients=silos, honest=plan.counted(silos)))


def _mechanism(plan: Plan) -> IntegerNoise:
    found: Any = MECHANISMS.get(plan.mechanism, bits=plan.bits)
    assert isinstance(found, IntegerNoise)
    return found


def _too_few_bits(plan: Plan, what: str) -> InputError:
    return InputError(
        f"training.privacy.bits: {plan.bits} bits are too few for {plan.mechanism} with {what} in {plan.rounds} rounds "
        f"of {plan.members.vectors} vectors of {plan.dimension} values: rounding or wrap-around would dominate; raise "
        "bits or epsilon"
    )


def _blocks(vectors: Vectors) -> Iterator[np.ndarray]:
    for some in (vectors,) if isinstance(vectors, np.ndarray) else vectors:
        yield from transforms.blocks(some)


def pbm_reach(plan: Plan) -> float:
    """PBM's bound on a rotated coordinate, c_inf."""
    return transforms.coordinate_bound(plan.clip, plan.size, pbm.PBMOptions().tail)


def _trials(plan: Plan) -> int:
    trials = ((1 << plan.bits) - 1) // plan.members.vectors
    if trials < 1:
        raise InputError(
            f"training.privacy.bits: {plan.bits} bits do not hold a coin of each of {plan.members.vectors} vectors; "
            f"give at least {plan.members.vectors.bit_length()}"
        )
    return min(trials, _MOST_TRIALS)


def _solve_pbm(plan: Plan, epsilon: float) -> Sum:
    """The largest theta; where the sum of coins were Gaussian and nothing sampled it would be `start`."""
    trials, planned = _trials(plan), {plan.members: plan.rounds}
    budget = plan.rounds * (plan.clip / pbm_reach(plan)) ** 2 * plan.rate**2
    limit = 1 / accounting.gaussian_multiplier(epsilon, plan.delta)
    start = limit / math.sqrt(budget * 4 * trials / plan.members.vectors)
    theta = largest(lambda theta: PBMSum(plan, trials, theta).epsilon(planned), epsilon, start, pbm.MOST_THETA)
    if not theta:
        raise InputError(f"training.privacy.epsilon: pbm does not reach {epsilon:g} here; raise it, or lower bits")
    return PBMSum(plan, trials, theta)


def largest(loss: Callable[[float], float], target: float, start: float, most: float) -> float:
    """The largest x up to `most` with loss(x) <= `target`, to a relative 2e-3 of the loss, which grows with x; 0: none.

    Regula falsi on logarithms, with the end that stays halved (Illinois): two or three losses where it is proportional.
    """
    goal = math.log(target * 0.999)
    below: tuple[float, float] | None = None  # ln x, ln loss - goal
    above: tuple[float, float] | None = None
    x, best = math.log(min(start, most)), 0.0
    for _ in range(40):
        value = loss(math.exp(x))
        found = math.log(max(value, 1e-300)) - goal
        if value <= target:
            best = max(best, min(math.exp(x), most))
            if value >= 0.998 * target or x >= math.log(most):
                break
            above = (above[0], above[1] / 2) if above and below else above
            below = (x, found)
        else:
            below = (below[0], below[1] / 2) if below and above else below
            above = (x, found)
        if below and above:
            x = below[0] + (above[0] - below[0]) * -below[1] / (above[1] - below[1])
        else:
            x = min(x - max(-1.0, min(1.0, found)), math.log(most))
    return best
