"""The Skellam mixture mechanism: stochastic rounding and Skellam noise accounted as one mixture of shifted Skellams.

Source: Bao, Zhu, Xiao, Yang, Ooi, Tan, Aung, "Skellam Mixture Mechanism: a Novel Approach to Federated Learning with
Differential Privacy", VLDB 2022, as read in the code published with it. A scaled coordinate x with fraction p is
floor(x) + Bernoulli(p) + Skellam; what is bounded is the *mixture norm* sum(x^2 + p - p^2), the mean squared norm of
the rounded vector, so that rounding need not be repeated until a norm is met: no bias.

Here the pipeline is that of `fedbound.privacy.integer_noise`: clip to an L2 norm c, rotate, clip each coordinate to
c_inf, multiply by s, round once, add a Skellam share. sum(x^2 + p - p^2) <= s^2 c^2 + D/4 always holds.

The accounting is ours. The paper's RDP, (1.2 a + 1) C / (4 mu) with Skellam variance 2 mu, holds only where coordinates
are at most min(2 mu / a, sqrt(4 mu / (10.9 a^2 - 1.8 a - 9.1))), which in a few hundred dimensions costs ten times the
noise. Instead: exp((a-1) D_a) is convex in the mixture, a shift by z costs d(z) (`accounting.skellam_rdp` of one
coordinate), and coordinates are independent, so that a coordinate costs at most
h(x) = ln((1-p) e^{(a-1) d(k)} + p e^{(a-1) d(k+1)}) / (a-1), k = floor(x), and all of them at most
max_x h(x) / (x^2 + p - p^2) times the mixture norm. For a given k the ratio is that of a concave and a linear function
of p, and has one maximum, which is searched; k is taken at powers and at the largest, between which nothing is proved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedbound.privacy import accounting, integer_noise, transforms
from fedbound.privacy.integer_noise import IntegerNoise, IntegerNoiseOptions
from fedbound.privacy.mechanisms import Setting, skellam
from fedbound.registry import MECHANISMS

_GOLDEN = (math.sqrt(5) - 1) / 2


class SMMOptions(IntegerNoiseOptions):
    """Options of `smm`."""

    tail: float = Field(default=1e-3, gt=0, lt=1, description="probability that some rotated coordinate is clipped")


@dataclass(frozen=True)
class Parameters(skellam.Parameters):
    """Skellam shares on vectors that are rounded once; coordinates are within `reach`, in the integers' units."""

    reach: float = math.inf

    def _epsilon(self, delta: float, shares: int) -> float:
        rate = steepest(accounting.COARSE_ORDERS, shares * self.share_variance, math.floor(self.reach))
        finite = rate < 1e290  # far too high orders overflow
        if not finite.any():
            return math.inf
        orders = [order for order, use in zip(accounting.COARSE_ORDERS, finite, strict=True) if use]
        return accounting.rdp_epsilon(orders, self.rounds * self.limit * rate[finite], delta)

    def round(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return transforms.stochastic_round(np.clip(x, -self.reach, self.reach), rng)

    def rounded_pmf(self, x: float) -> np.ndarray:
        up = x - math.floor(x)
        return np.array([1 - up, up])


@MECHANISMS.register("smm", SMMOptions)
class SMM(IntegerNoise):
    """Skellam noise shares on vectors that are rounded once, accounted as a mixture, summed in b bits."""

    name: ClassVar[str] = "smm"
    parameters: ClassVar[type[integer_noise.Parameters]] = Parameters
    precision: ClassVar[float] = 1e-5
    options: SMMOptions

    def __init__(self, options: SMMOptions):
        super().__init__(options)

    def parameters_of(self, setting: Setting, options: IntegerNoiseOptions, noise: float) -> Parameters:
        made = super().parameters_of(setting, options, noise)
        reach = made.scale * transforms.coordinate_bound(setting.clip, made.size, self.options.tail)
        if options.rotation == "none":
            reach = made.scale * setting.clip
        return Parameters(made.noise, made.scale, made.limit, made.size, made.clients, made.honest, made.rounds, reach)

    def _limit(self, norm: float, size: int, options: IntegerNoiseOptions) -> float:
        """The mixture norm: x^2, and at most 1/4 of variance for each coordinate."""
        return norm**2 + size / 4


def steepest(orders: tuple[int, ...], variance: float, most: int) -> np.ndarray:
    """max h(x) / (x^2 + p - p^2) over coordinates x below `most` + 1, at each order: float64 [len(orders)]."""
    powers = np.unique(np.geomspace(1, max(most, 1), 24).astype(np.int64))
    k = np.unique(np.append(powers, [0, most]))[:, None]
    alpha = np.asarray(orders, dtype=np.float64)
    below, above = (alpha[None, :] - 1) * _shift(alpha, k, variance), (alpha - 1) * _shift(alpha, k + 1, variance)

    def ratio(p: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            mixed = np.logaddexp(np.log1p(-p) + below, np.log(p) + above)
        return np.asarray(mixed / (alpha - 1) / (k**2 + p * (2 * k + 1)))

    low, high = np.full(below.shape, 1e-9), np.ones(below.shape)
    for _ in range(40):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        rises = ratio(left) < ratio(right)
        low, high = np.where(rises, left, low), np.where(rises, high, right)
    found = np.maximum(ratio(low), ratio(high)).max(axis=0)
    # k = 0: the ratio falls from its limit at p -> 0
    with np.errstate(over="ignore"):
        first = np.expm1(above[0]) / (alpha - 1)
    return np.maximum(found, first)


def _shift(alpha: np.ndarray, z: np.ndarray, variance: float) -> np.ndarray:
    """d(z): the divergence of Skellam noise of `variance` moved by z >= 0, float64 [len(z), len(alpha)]."""
    z = z.astype(np.float64)
    excess = np.minimum(((2 * alpha - 1) * z**2 + 6 * z) / (4 * variance**2), 3 * z / (2 * variance))
    return np.asarray(alpha * z**2 / (2 * variance) + excess)
