"""The distributed discrete Gaussian: shares of discrete Gaussian noise, whose sum is nearly one.

Source: Kairouz, Liu, Steinke, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation", ICML 2021 (arXiv 2102.06387), in the pipeline of `fedbound.privacy.integer_noise`.

A share is discrete Gaussian: P(z) proportional to exp(-z^2 / (2 v)), v = s^2 sigma^2 / n. A sum of such variables is no
discrete Gaussian; the accounting pays for the difference with tau (`accounting.ddgauss_rdp`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedbound.privacy import accounting, integer_noise, integer_sampler
from fedbound.privacy.integer_noise import IntegerNoise, IntegerNoiseOptions
from fedbound.registry import MECHANISMS


class DDGaussOptions(IntegerNoiseOptions):
    """Options of `ddgauss`."""


@dataclass(frozen=True)
class Parameters(integer_noise.Parameters):
    """Discrete Gaussian shares."""

    def renyi(self, shares: int) -> np.ndarray:
        return accounting.ddgauss_rdp(accounting.ORDERS, self.l1, self.l2, self.share_variance, shares, self.size)

    def _epsilon(self, delta: float, shares: int) -> float:
        return accounting.rdp_epsilon(accounting.ORDERS, self.rounds * self.renyi(shares), delta)

    def noise_pmf(self, shares: int) -> np.ndarray:
        """That of one discrete Gaussian of the summed variance, which the sum is close to."""
        variance = shares * self.share_variance
        pmf = np.exp(-np.square(integer_noise.support(variance)) / (2 * variance))
        return pmf / pmf.sum()

    def sum_pmf(self, shares: int) -> np.ndarray:
        """By convolution: the law of the sum itself."""
        reach = integer_noise.support(self.share_variance)
        one = np.exp(-np.square(reach) / (2 * self.share_variance))
        return integer_noise.power(one / one.sum(), shares)

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        law = integer_sampler.discrete_gaussian(self.share_variance)
        return discrete_gaussian(math.sqrt(self.share_variance), shape, rng) if law is None else law.draw(shape, rng)


@MECHANISMS.register("ddgauss", DDGaussOptions)
class DDGauss(IntegerNoise):
    """Discrete Gaussian noise shares on rotated, rounded vectors, summed by secure aggregation in b bits."""

    name: ClassVar[str] = "ddgauss"
    parameters: ClassVar[type[integer_noise.Parameters]] = Parameters


def discrete_gaussian(sigma: float, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Variables with P(z) proportional to exp(-z^2 / (2 sigma^2)), int64 of `shape`.

    Rejection from discrete Laplace variables of scale t = floor(sigma) + 1, as Canonne, Kamath, Steinke ("The Discrete
    Gaussian for Differential Privacy", NeurIPS 2020, Algorithm 3), but in floating point: their sampler is exact, this
    one is statistical. For deviations that `integer_sampler` has no table for.
    """
    t = math.floor(sigma) + 1
    fail = -math.expm1(-1 / t)
    count = math.prod(shape)
    found = np.empty(count, dtype=np.int64)
    done = 0
    while done < count:
        ask = int(1.5 * (count - done)) + 16  # about three in four are accepted
        y = rng.geometric(fail, ask) - rng.geometric(fail, ask)
        accept = rng.random(ask) < np.exp(-np.square(np.abs(y) - sigma**2 / t) / (2 * sigma**2))
        taken = y[accept][: count - done]
        found[done : done + len(taken)] = taken
        done += len(taken)
    return found.reshape(shape)
