"""Integer noise shares under secure aggregation: the pipeline of the distributed discrete Gaussian.

Source: Kairouz, Liu, Steinke, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation", ICML 2021 (arXiv 2102.06387), Algorithms 1 and 2 and eq. 61.

Client: clip to an L2 norm c, pad to D = 2^m, rotate (random signs, then Hadamard), multiply by the scale s, round to
integers stochastically until the norm is within its bound, add a share of integer noise of variance s^2 sigma^2 / n,
send modulo 2^b. Server: sum modulo 2^b, read it as a signed number, divide by s, rotate back, divide by n.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from pydantic import Field, field_validator

from fedbound.errors import InputError
from fedbound.privacy import accounting, loss, transforms
from fedbound.privacy.mechanisms import Accounts, Adjacency, Guarantee, Law, Norm, Setting, Trust
from fedbound.privacy.rotation import Basis, Kind, Spread
from fedbound.registry import Options

MOST_BITS = 32  # sums of wrapped values stay far inside int64
MOST_NOISE = 30.0  # in units of the central Gaussian's: beyond, the bits and not the epsilon ask for the noise


class IntegerNoiseOptions(Options):
    """Options of mechanisms with integer noise shares."""

    bits: int = Field(default=16, ge=2, le=MOST_BITS, description="bits per coordinate of the secure sum's field")
    deviations: float = Field(
        default=4.0, ge=1, le=100, description="standard deviations of the sum that the field holds on either side"
    )
    beta: float = Field(
        default=math.exp(-0.5), gt=0, le=0.9, description="largest probability that one rounding attempt is repeated"
    )
    honest: float = Field(
        default=1.0, gt=0, le=1, description="share of clients whose noise is counted: the others may drop out or lie"
    )
    rotation: Kind = Field(default="hadamard", description="how a vector is spread before rounding: hadamard or none")

    @field_validator("rotation")
    @classmethod
    def _keeps_norms(cls, value: Kind) -> Kind:
        if value == "kashin":
            raise ValueError("Kashin's coefficients may be 1.86 times as long as the vector; give hadamard or none")
        return value


class IntegerNoise:
    """Integer noise shares on rotated, rounded vectors, summed by secure aggregation in b bits."""

    name: ClassVar[str]
    norm: ClassVar[Norm] = "L2"
    trust: ClassVar[Trust] = "secure aggregation"
    adjacency: ClassVar[Adjacency] = "zero-out"
    unbiased: ClassVar[bool] = False  # rounding until the norm is within its bound, and wrapping, bias a little
    parameters: ClassVar[type[Parameters]]
    precision: ClassVar[float] = 1e-12  # relative, to which the least noise is found

    def __init__(self, options: IntegerNoiseOptions):
        self.options = options

    def calibrate(self, setting: Setting) -> IntegerNoiseRelease:
        """The least noise by bisection; the scale follows from the noise, and the rounded norm from the scale.

        Raises:
            InputError: the field is too small for the clients' rounding, or for the epsilon.
        """
        options = self.options
        if not self._reachable(setting, options):
            raise InputError(self._too_few_bits(setting, options))
        central = _central_noise(setting, options)
        noise = accounting.least_noise(
            lambda noise: self.parameters_of(setting, options, noise).epsilon(setting.delta),
            setting.epsilon,
            central,
            MOST_NOISE * central,
            self.precision,
        )
        parameters = self.parameters_of(setting, options, noise)
        epsilon = parameters.epsilon(setting.delta)
        guarantee = Guarantee(epsilon, setting.delta, accounting.RDP, self.adjacency, self.trust)
        return IntegerNoiseRelease(setting, options, parameters, guarantee)

    def parameters_of(self, setting: Setting, options: IntegerNoiseOptions, noise: float) -> Parameters:
        """What a standard deviation `noise` of the sum implies, in the vectors' units.

        The field must hold the sum's rounding: 4^bits above deviations^2 times clients.
        """
        size = _spread(setting, options).size
        scale = _scale(setting, options, noise, size)
        limit = self._limit(scale * setting.clip, size, options)
        honest = max(1, math.floor(options.honest * setting.clients))
        return self.parameters(noise, scale, limit, size, setting.clients, honest, setting.rounds)

    def _limit(self, norm: float, size: int, options: IntegerNoiseOptions) -> float:
        """Bound on the squared L2 norm of a rounded vector of `norm`, in the integers' units."""
        return transforms.rounded_norm_squared(norm, size, options.beta)

    def _reachable(self, setting: Setting, options: IntegerNoiseOptions) -> bool:
        if 4.0**options.bits <= options.deviations**2 * setting.clients:
            return False
        most = MOST_NOISE * _central_noise(setting, options)
        return self.parameters_of(setting, options, most).epsilon(setting.delta) <= setting.epsilon

    def _too_few_bits(self, setting: Setting, options: IntegerNoiseOptions) -> str:
        more = range(options.bits + 1, MOST_BITS + 1)
        trials = ((bits, options.model_copy(update={"bits": bits})) for bits in more)
        enough = next((bits for bits, trial in trials if self._reachable(setting, trial)), None)
        mend = f"give at least {enough} bits" if enough else "raise epsilon, or lower clients or dimension"
        return (
            f"privacy.mechanism.bits: {options.bits} bits are too few for {self.name} with {setting.clients} clients, "
            f"dimension {setting.dimension}, epsilon {setting.epsilon:g}: rounding or wrap-around would dominate; "
            f"{mend}"
        )


@dataclass(frozen=True)
class Parameters(ABC):
    """What noise and field imply. A mechanism says what a share of noise is, and which epsilon it gives.

    Attributes:
        noise: standard deviation of all clients' summed noise per coordinate, in the vectors' units.
        scale: integers per unit of the vectors.
        limit: bound on the squared L2 norm of a client's rounded vector, in the integers' units.
        size: padded dimension D.
        clients: number of clients that add a share of the noise.
        honest: number of shares that are counted.
        rounds: number of releases.
    """

    noise: float
    scale: float
    limit: float
    size: int
    clients: int
    honest: int
    rounds: int = 1

    @property
    def share_variance(self) -> float:
        """Variance of one client's noise share per coordinate, in the integers' units squared."""
        return (self.scale * self.noise) ** 2 / self.clients

    @property
    def l2(self) -> float:
        """L2 sensitivity in the integers' units."""
        return math.sqrt(self.limit)

    @property
    def l1(self) -> float:
        """L1 sensitivity: at most L2^2 too, because |z| <= z^2 in integers."""
        return self.l2 * min(math.sqrt(self.size), self.l2)

    def epsilon(self, delta: float, shares: int | None = None) -> float:
        """Epsilon at `delta` where only `shares` of the clients' noise shares are in the sum (default: the counted)."""
        return self._epsilon(delta, self.honest if shares is None else shares)

    def renyi(self, shares: int) -> np.ndarray | None:
        """Rényi divergence of one release with so many noise shares, float64 at `accounting.ORDERS`; None: infinite."""
        return None

    @abstractmethod
    def _epsilon(self, delta: float, shares: int) -> float:
        """Epsilon at `delta` with so many noise shares in the sum."""

    @abstractmethod
    def noise_pmf(self, shares: int) -> np.ndarray:
        """Pmf of the sum of `shares` noise shares of one coordinate, over consecutive integers, the far tails cut."""

    def spread_epsilon(self, delta: float) -> float:
        """Epsilon at `delta` by loss distributions where the client's norm is spread evenly over coordinates.

        As many coordinates as the bound allows move by t = ceil(L2 / sqrt(D)) each; the rest of the norm is left out.
        """
        step = max(1, math.ceil(self.l2 / math.sqrt(self.size)))
        pmf = self.noise_pmf(self.honest)
        pair = loss.from_pmfs(np.append(np.zeros(step), pmf), np.append(pmf, np.zeros(step)))
        return pair.compose(self.rounds * max(1, int(self.limit / step**2)), delta * 1e-6).epsilon(delta)

    def round(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Scaled vectors [r, D] to integers within `limit`, int64 [r, D]."""
        return transforms.conditional_round(x, self.limit, rng)

    def rounded_pmf(self, x: float) -> np.ndarray:
        """Exact pmf of floor(x) and the next integer, in one dimension: float64 [2]."""
        up = x - math.floor(x)
        kept = np.array([1 - up, up]) * [z**2 <= self.limit for z in (math.floor(x), math.floor(x) + 1)]
        return kept / kept.sum()

    def sum_pmf(self, shares: int) -> np.ndarray:
        """Exact pmf of the sum of `shares` shares over consecutive integers around 0; here `noise_pmf`."""
        return self.noise_pmf(shares)

    @abstractmethod
    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Noise shares, int64 of `shape`."""


def _scale(setting: Setting, options: IntegerNoiseOptions, noise: float, size: int) -> float:
    """The largest scale at which the field holds `deviations` standard deviations of the sum on either side.

    Kairouz, Liu, Steinke 2021, eq. 61: 2^b = 2k sqrt(s^2 (c^2 n^2 / D + sigma^2) + n/4), which allows for all clients
    pointing the same way and for the largest variance that rounding can have.
    """
    n, k = setting.clients, options.deviations
    spread = (setting.clip * n) ** 2 / size + noise**2
    return math.sqrt((4.0**options.bits - 4 * k**2 * n / 4) / (4 * k**2 * spread))


def _spread(setting: Setting, options: IntegerNoiseOptions) -> Spread:
    return Spread(options.rotation, setting.dimension, setting.clip)


def _central_noise(setting: Setting, options: IntegerNoiseOptions) -> float:
    """The central Gaussian's noise, raised so that the counted shares alone hold it: less can never be enough."""
    honest = max(1, math.floor(options.honest * setting.clients))
    multiplier = accounting.gaussian_multiplier(setting.epsilon, setting.delta)
    return multiplier * setting.clip * math.sqrt(setting.rounds * setting.clients / honest)


@dataclass(frozen=True)
class IntegerNoiseRelease:
    """Noise shares and a secure sum of `options.bits` bits per coordinate."""

    setting: Setting
    options: IntegerNoiseOptions
    parameters: Parameters
    guarantee: Guarantee
    gain: float = 1.0  # but for conditional rounding and for sums that wrap

    @property
    def spread(self) -> Spread:
        """How vectors are spread over the D coordinates."""
        return _spread(self.setting, self.options)

    @property
    def noise(self) -> float:
        return self.parameters.noise

    @property
    def bits(self) -> float:
        """The padded coordinates are sent too."""
        return self.options.bits * self.parameters.size / self.setting.dimension

    @cached_property
    def mse(self) -> float:
        """Noise, rounding and wrap-around of the sum over n^2, for vectors of norm c in independent directions.

        Rotated coordinates are taken as normal. Rounding then has the mean variance E[f(1-f)] of the fraction f of a
        normal variable; a wrapped coordinate X of the sum is off by one field M, which is correlated with its error:
        E[(e - M sign X 1)^2] = v + M^2 P(|X| > M/2) - 2 M (v / V) E[|X| 1(|X| > M/2)], v = Var e, V = Var X.
        """
        p, n = self.parameters, self.setting.clients
        signal = (p.scale * self.setting.clip) ** 2 / p.size
        error = n * p.share_variance + n * rounding_variance(signal)
        total = error + n * signal
        return (error + wrap_error(error, total, self.options.bits)) / (p.scale * n) ** 2

    def estimate(self, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self.setting.check(vectors)
        public, private = rng.spawn(2)  # the rotation is known to all; the noise must not follow from it
        p, bits = self.parameters, self.options.bits
        basis = self.spread.draw(public)
        total = np.zeros(p.size, dtype=np.int64)
        for block in transforms.blocks(vectors):
            messages = self.encode(block, basis, private)
            total = transforms.wrap(total + messages.sum(axis=0), bits)
        return self.decode(total, basis)

    def accounts(self) -> Accounts:
        return Accounts(self.parameters.spread_epsilon(self.setting.delta), self.guarantee.epsilon)

    def epsilon_of(self, present: int) -> float:
        """No more shares are counted than are `honest`."""
        return self.parameters.epsilon(self.setting.delta, min(present, self.parameters.honest))

    @property
    def epsilon_alone(self) -> float:
        return self.parameters.epsilon(self.setting.delta, 1)

    def observe(self, values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
        messages = self.encode(np.tile(values, draws)[:, None], self.spread.trivial, rng)
        return transforms.wrap(messages.reshape(draws, -1).sum(axis=1), self.options.bits)

    def law(self, values: np.ndarray) -> Law:
        """The noise's pmf, shifted by the clients' roundings, wrapped."""
        p, bits = self.parameters, self.options.bits
        pmf = p.sum_pmf(self.setting.clients)
        lowest = -(len(pmf) // 2)
        for x in np.asarray(values, dtype=np.float64) * p.scale:
            pmf, lowest = np.convolve(pmf, p.rounded_pmf(float(x))), lowest + math.floor(x)
        half = 1 << (bits - 1)
        field = np.bincount(transforms.wrap(lowest + np.arange(len(pmf)), bits) + half, pmf, 2 * half)
        outcomes = np.arange(-half, half)
        return Law(outcomes, field, outcomes / (p.scale * self.setting.clients))

    def encode(self, vectors: np.ndarray, public: Basis | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What each client sends: float64 vectors [k, d] to int64 [k, D] in [-2^(b-1), 2^(b-1)).

        `public` is the basis, or the random signs of the rotation.
        """
        p = self.parameters
        rotated = self.spread.basis(public).coordinates(transforms.clip_l2(vectors, self.setting.clip))
        rounded = p.round(rotated * p.scale, rng)
        rounded += p.draw(rounded.shape, rng)
        return transforms.wrap(rounded, self.options.bits)

    def decode(self, total: np.ndarray, public: Basis | np.ndarray) -> np.ndarray:
        """The mean from the wrapped sum: int64 [D] to float64 [d]."""
        return self.spread.basis(public).vectors(total[None, :] / (self.parameters.scale * self.setting.clients))[0]


def rounding_variance(variance: float) -> float:
    """Mean variance of stochastic rounding to integers of a centred normal variable of `variance`.

    E[f(1-f)] for the fraction f, from the Fourier series of the second Bernoulli polynomial:
    1/6 - sum_m exp(-2 pi^2 m^2 variance) / (pi m)^2; 1/6 where the variable spans many integers.
    """
    if variance < 1e-3:  # there the series converges slowly, and |x|(1 - |x|) around 0 is all there is
        return math.sqrt(2 * variance / math.pi) - variance
    terms = (math.exp(-2 * (math.pi * m) ** 2 * variance) / (math.pi * m) ** 2 for m in range(1, 200))
    return 1 / 6 - sum(terms)


def wrap_error(error: float, total: float, bits: int) -> float:
    """What wrapping adds to the squared error of a normal sum of variance `total`, `error` of it noise and rounding."""
    field = 2.0**bits
    deviations = field / 2 / math.sqrt(total)
    probability = math.erfc(deviations / math.sqrt(2))
    tail = 2 * math.sqrt(total) * math.exp(-(deviations**2) / 2) / math.sqrt(2 * math.pi)
    return field**2 * probability - 2 * field * (error / total) * tail


def support(variance: float) -> np.ndarray:
    """Integers within 12 standard deviations of 0, and some more where these are few."""
    reach = math.ceil(12 * math.sqrt(variance)) + 30
    return np.arange(-reach, reach + 1)


def power(pmf: np.ndarray, count: int) -> np.ndarray:
    """Pmf of the sum of `count` independent variables of `pmf` (an odd number of integers around 0), likewise."""
    if count == 1:
        return pmf
    from scipy.signal import fftconvolve

    half = power(pmf, count // 2)
    total = np.maximum(fftconvolve(half, half), 0.0)
    if count % 2:
        total = np.maximum(fftconvolve(total, pmf), 0.0)
    return np.asarray(total / total.sum())
