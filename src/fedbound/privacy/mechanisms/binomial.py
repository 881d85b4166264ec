"""The binomial mechanism of cpSGD: shares of centred binomial noise under secure aggregation.

Source: Agarwal et al., "cpSGD: Communication-efficient and differentially-private distributed SGD", NeurIPS
2018 (arXiv 1805.10559), with p = 1/2, here in the pipeline of `fedbound.privacy.integer_noise` (rotation,
stochastic rounding, a field of b bits); the paper sends rounded value plus noise without a modulus.

A share is Bin(m, 1/2) - m/2 with m the even number next above 4 s^2 sigma^2 / n, so that n shares are Bin(nm, 1/2).
Its support is finite: neighbouring inputs can be told apart with certainty with some small probability, which is taken
off delta. Epsilon is computed from the pmf (`accounting.binomial_epsilon`); the paper's Theorem 1 is two to four times
as large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedbound.privacy import accounting, integer_noise, integer_sampler
from fedbound.privacy.integer_noise import IntegerNoise, IntegerNoiseOptions
from fedbound.registry import MECHANISMS


class BinomialOptions(IntegerNoiseOptions):
    """Options of `binomial`."""


@dataclass(frozen=True)
class Parameters(integer_noise.Parameters):
    """Binomial shares."""

    @property
    def trials(self) -> int:
        """Fair coins m of one share and coordinate: even, so that half of them is an integer."""
        return 2 * math.ceil(2 * (self.scale * self.noise) ** 2 / self.clients)

    @property
    def share_variance(self) -> float:
        return self.trials / 4

    def _epsilon(self, delta: float, shares: int) -> float:
        return accounting.binomial_epsilon(self.l2, shares * self.trials, self.size, delta, self.rounds)

    def noise_pmf(self, shares: int) -> np.ndarray:
        from scipy.stats import binom

        coins = shares * self.trials
        outcomes = integer_noise.support(coins / 4) + coins // 2
        return np.asarray(binom.pmf(outcomes, coins, 0.5))

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        law = integer_sampler.centred_binomial(self.trials)
        return rng.binomial(self.trials, 0.5, shape) - self.trials // 2 if law is None else law.draw(shape, rng)


@MECHANISMS.register("binomial", BinomialOptions)
class Binomial(IntegerNoise):
    """Binomial noise shares on rotated, rounded vectors, summed by secure aggregation in b bits (cpSGD's noise)."""

    name: ClassVar[str] = "binomial"
    parameters: ClassVar[type[integer_noise.Parameters]] = Parameters
    precision: ClassVar[float] = 1e-4
