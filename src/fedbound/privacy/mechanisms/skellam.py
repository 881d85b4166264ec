"""The Skellam mechanism: integer noise shares that clients add before a secure sum of b bits per coordinate.

Source: Agarwal, Kairouz, Liu, "The Skellam Mechanism for Differentially Private Federated Learning", NeurIPS 2021
(arXiv 2110.04995), in the pipeline of `fedbound.privacy.integer_noise`.

A share is Poisson(l) - Poisson(l) with l = s^2 sigma^2 / (2n). The sum of the shares is exactly Skellam of variance
s^2 sigma^2, so that one client's share need not hide the client.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedbound.privacy import accounting, integer_noise, integer_sampler
from fedbound.privacy.integer_noise import IntegerNoise, IntegerNoiseOptions
from fedbound.registry import MECHANISMS


class SkellamOptions(IntegerNoiseOptions):
    """Options of `skellam`."""


@dataclass(frozen=True)
class Parameters(integer_noise.Parameters):
    """Skellam shares."""

    @property
    def rate(self) -> float:
        """Rate l of the two Poisson variables of one client's share."""
        return self.share_variance / 2

    def renyi(self, shares: int) -> np.ndarray:
        return accounting.skellam_rdp(accounting.ORDERS, self.l1, self.l2, shares * self.share_variance)

    def _epsilon(self, delta: float, shares: int) -> float:
        return accounting.rdp_epsilon(accounting.ORDERS, self.rounds * self.renyi(shares), delta)

    def noise_pmf(self, shares: int) -> np.ndarray:
        """Skellam's; above a variance of 10^5 a discrete Gaussian's, whose kurtosis differs by 1/variance."""
        from scipy.special import ive

        variance = shares * self.share_variance
        z = integer_noise.support(variance)
        if variance > 1e5:
            return np.exp(-np.square(z) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
        pmf = ive(np.abs(z), variance)
        return np.where(pmf > 1e-250, pmf, 0.0)

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        law = integer_sampler.skellam(self.share_variance)
        return two_poisson(self.rate, shape, rng) if law is None else law.draw(shape, rng)


@MECHANISMS.register("skellam", SkellamOptions)
class Skellam(IntegerNoise):
    """Skellam noise shares on rotated, rounded vectors, summed by secure aggregation in b bits."""

    name: ClassVar[str] = "skellam"
    parameters: ClassVar[type[integer_noise.Parameters]] = Parameters


def two_poisson(rate: float, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Poisson(rate) - Poisson(rate) as numpy draws them, in floating point: int64 of `shape`."""
    noise = rng.poisson(rate, shape)
    noise -= rng.poisson(rate, shape)
    return noise
