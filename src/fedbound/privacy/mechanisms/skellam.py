"""The Skellam mechanism: integer noise shares that clients add before a secure sum of b bits per coordinate.

Source: Agarwal, Kairouz, Liu, "The Skellam Mechanism for Differentially Private Federated Learning", NeurIPS 2021
(arXiv 2110.04995); pipeline and choice of scale: Kairouz, Liu, Steinke, ICML 2021 (arXiv 2102.06387), Algorithms 1
and 2 and eq. 61.

Client: clip to an L2 norm c, pad to D = 2^m, rotate (random signs, then Hadamard), multiply by the scale s, round to
integers stochastically until the norm is within its bound, add Poisson(l) - Poisson(l) with l = s^2 sigma^2 / (2n),
send modulo 2^b. Server: sum modulo 2^b, read it as a signed number, divide by s, rotate back, divide by n. The sum of
the shares is exactly Skellam of variance s^2 sigma^2, so that one client's share need not hide the client.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedbound.errors import InputError
from fedbound.privacy import accounting, transforms
from fedbound.privacy.mechanisms import Adjacency, Guarantee, Norm, Setting, Trust
from fedbound.registry import MECHANISMS, Options

MOST_BITS = 32  # sums of wrapped values stay far inside int64
MOST_NOISE = 30.0  # in units of the central Gaussian's: beyond, the bits and not the epsilon ask for the noise


class SkellamOptions(Options):
    """Options of `skellam`."""

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


@MECHANISMS.register("skellam", SkellamOptions)
class Skellam:
    """Skellam noise shares on rotated, rounded vectors, summed by secure aggregation in b bits."""

    name: ClassVar[str] = "skellam"
    norm: ClassVar[Norm] = "L2"
    trust: ClassVar[Trust] = "secure aggregation"
    adjacency: ClassVar[Adjacency] = "zero-out"

    def __init__(self, options: SkellamOptions):
        self.options = options

    def calibrate(self, setting: Setting) -> SkellamRelease:
        """The least noise by bisection; the scale follows from the noise, and the rounded norm from the scale.

        Raises:
            InputError: the field is too small for the clients' rounding, or for the epsilon.
        """
        options = self.options
        if not _reachable(setting, options):
            raise InputError(_too_few_bits(setting, options))
        central = _central_noise(setting, options)
        noise = accounting.least_noise(
            lambda noise: _parameters(setting, options, noise).epsilon(setting.delta),
            setting.epsilon,
            central,
            MOST_NOISE * central,
        )
        parameters = _parameters(setting, options, noise)
        epsilon = parameters.epsilon(setting.delta)
        guarantee = Guarantee(epsilon, setting.delta, accounting.RDP, self.adjacency, self.trust)
        return SkellamRelease(setting, options, parameters, guarantee)


@dataclass(frozen=True)
class Parameters:
    """What noise and field imply.

    Attributes:
        noise: standard deviation of all clients' summed noise per coordinate, in the vectors' units.
        scale: integers per unit of the vectors.
        limit: bound on the squared L2 norm of a client's rounded vector, in the integers' units.
        size: padded dimension D.
        clients: number of clients that add a share of the noise.
        honest: number of shares that are counted.
    """

    noise: float
    scale: float
    limit: float
    size: int
    clients: int
    honest: int

    @property
    def rate(self) -> float:
        """Rate l of the two Poisson variables of one client's share."""
        return (self.scale * self.noise) ** 2 / (2 * self.clients)

    def epsilon(self, delta: float, shares: int | None = None) -> float:
        """Epsilon at `delta` where only `shares` of the clients' noise shares are in the sum (default: the counted)."""
        variance = 2 * self.rate * (self.honest if shares is None else shares)
        l2 = math.sqrt(self.limit)
        l1 = l2 * min(math.sqrt(self.size), l2)  # in integers |z| <= z^2, hence L1 <= L2^2
        rdp = accounting.skellam_rdp(accounting.ORDERS, l1, l2, variance)
        return accounting.rdp_epsilon(accounting.ORDERS, rdp, delta)


def _parameters(setting: Setting, options: SkellamOptions, noise: float) -> Parameters:
    size = transforms.padded(setting.dimension)
    scale = _scale(setting, options, noise, size)
    limit = transforms.rounded_norm_squared(scale * setting.clip, size, options.beta)
    honest = max(1, math.floor(options.honest * setting.clients))
    return Parameters(noise, scale, limit, size, setting.clients, honest)


def _scale(setting: Setting, options: SkellamOptions, noise: float, size: int) -> float:
    """The largest scale at which the field holds `deviations` standard deviations of the sum on either side.

    Kairouz, Liu, Steinke 2021, eq. 61: 2^b = 2k sqrt(s^2 (c^2 n^2 / D + sigma^2) + n/4), which allows for all clients
    pointing the same way and for the largest variance that rounding can have.
    """
    n, k = setting.clients, options.deviations
    spread = (setting.clip * n) ** 2 / size + noise**2
    return math.sqrt((4.0**options.bits - 4 * k**2 * n / 4) / (4 * k**2 * spread))


def _central_noise(setting: Setting, options: SkellamOptions) -> float:
    """The central Gaussian's noise, raised so that the counted shares alone hold it: less can never be enough."""
    honest = max(1, math.floor(options.honest * setting.clients))
    multiplier = accounting.gaussian_multiplier(setting.epsilon, setting.delta)
    return multiplier * setting.clip * math.sqrt(setting.clients / honest)


def _reachable(setting: Setting, options: SkellamOptions) -> bool:
    if 4.0**options.bits <= options.deviations**2 * setting.clients:
        return False
    most = MOST_NOISE * _central_noise(setting, options)
    return _parameters(setting, options, most).epsilon(setting.delta) <= setting.epsilon


def _too_few_bits(setting: Setting, options: SkellamOptions) -> str:
    more = range(options.bits + 1, MOST_BITS + 1)
    enough = next((bits for bits in more if _reachable(setting, options.model_copy(update={"bits": bits}))), None)
    mend = f"give at least {enough} bits" if enough else "raise epsilon, or lower clients or dimension"
    return (
        f"privacy.mechanism.bits: {options.bits} bits are too few for skellam with {setting.clients} clients, "
        f"dimension {setting.dimension}, epsilon {setting.epsilon:g}: rounding or wrap-around would dominate; {mend}"
    )


@dataclass(frozen=True)
class SkellamRelease:
    """Skellam noise shares and a secure sum of `options.bits` bits per coordinate."""

    setting: Setting
    options: SkellamOptions
    parameters: Parameters
    guarantee: Guarantee

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
        error = 2 * n * p.rate + n * rounding_variance(signal)
        total = error + n * signal
        return (error + wrap_error(error, total, self.options.bits)) / (p.scale * n) ** 2

    def estimate(self, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self.setting.check(vectors)
        public, private = rng.spawn(2)  # the rotation is known to all; the noise must not follow from it
        p, bits = self.parameters, self.options.bits
        signs = transforms.random_signs(p.size, public)
        total = np.zeros(p.size, dtype=np.int64)
        for block in transforms.blocks(vectors):
            messages = self.encode(block, signs, private)
            total = transforms.wrap(total + messages.sum(axis=0), bits)
        return self.decode(total, signs)

    def encode(self, vectors: np.ndarray, signs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What each client sends: float64 vectors [k, d] to int64 [k, D] in [-2^(b-1), 2^(b-1))."""
        p = self.parameters
        rotated = transforms.rotate(transforms.clip_l2(vectors, self.setting.clip), signs)
        rounded = transforms.conditional_round(rotated * p.scale, p.limit, rng)
        rounded += rng.poisson(p.rate, rounded.shape)
        rounded -= rng.poisson(p.rate, rounded.shape)
        return transforms.wrap(rounded, self.options.bits)

    def decode(self, total: np.ndarray, signs: np.ndarray) -> np.ndarray:
        """The mean from the wrapped sum: int64 [D] to float64 [d]."""
        mean = total[None, :] / (self.parameters.scale * self.setting.clients)
        return transforms.unrotate(mean, signs, self.setting.dimension)[0]


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
