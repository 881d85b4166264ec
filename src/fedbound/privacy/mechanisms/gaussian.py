"""Analytic Gaussian output perturbation of the sum by a trusted server: the floor that others are held against.

Source: Balle, Wang, "Improving the Gaussian Mechanism for Differential Privacy: Analytical Calibration and Optimal
Denoising", ICML 2018 (arXiv 1805.06530), Theorem 8 and Algorithm 1. Unlike the classic sigma = S sqrt(2 ln(1.25/delta))
/ epsilon it is exact, and valid above epsilon = 1.

Each client's vector is clipped to an L2 norm c and the sum is released, so that the L2 sensitivity is S = c:
neighbouring data sets differ in one client whose vector is replaced by zero, the number of clients being public.
Mean squared error of the mean: sigma^2 / n^2 per coordinate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedbound.privacy import accounting, transforms
from fedbound.privacy.mechanisms import Accounts, Adjacency, Continuous, Guarantee, Norm, Setting, Trust
from fedbound.registry import MECHANISMS, Options


@MECHANISMS.register("gaussian", Options)
class Gaussian:
    """Gaussian noise on the sum of L2-clipped vectors, added by a trusted server (analytic calibration)."""

    name: ClassVar[str] = "gaussian"
    norm: ClassVar[Norm] = "L2"
    trust: ClassVar[Trust] = "central server"
    adjacency: ClassVar[Adjacency] = "zero-out"
    unbiased: ClassVar[bool] = True

    def __init__(self, options: Options):
        self.options = options

    def calibrate(self, setting: Setting) -> GaussianRelease:
        """The analytic noise, raised by the hair that the accountant's own grid costs."""
        # Gaussian releases compose to one of multiplier / sqrt(rounds)
        exact = multiplier = accounting.gaussian_multiplier(setting.epsilon, setting.delta)
        step = 1e-10
        while (epsilon := accounting.gaussian_epsilon(multiplier, setting.delta)) > setting.epsilon:
            multiplier = exact * (1 + step)
            step *= 4
        guarantee = Guarantee(epsilon, setting.delta, accounting.PLD, self.adjacency, self.trust)
        return GaussianRelease(setting, multiplier * setting.clip * math.sqrt(setting.rounds), guarantee)


@dataclass(frozen=True)
class GaussianRelease:
    """Gaussian noise of standard deviation `noise` on every coordinate of the sum."""

    setting: Setting
    noise: float
    guarantee: Guarantee
    bits: float = 32.0  # the server is trusted, so clients send plain float32
    gain: float = 1.0

    @property
    def mse(self) -> float:
        """sigma^2 / n^2."""
        return (self.noise / self.setting.clients) ** 2

    def estimate(self, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self.setting.check(vectors)
        total = np.zeros(self.setting.dimension)
        for block in transforms.blocks(vectors):
            sent = transforms.clip_l2(block, self.setting.clip).astype(np.float32)
            total += transforms.clip_l2(sent, self.setting.clip).sum(axis=0)  # the server trusts no client's norm
        return (total + rng.normal(scale=self.noise, size=len(total))) / self.setting.clients

    def accounts(self) -> Accounts:
        rdp = self.setting.rounds * np.array(accounting.ORDERS) / (2 * (self.noise / self.setting.clip) ** 2)
        delta = self.setting.delta
        return Accounts(self.guarantee.epsilon, accounting.rdp_epsilon(accounting.ORDERS, rdp, delta))

    def epsilon_of(self, present: int) -> float:
        return self.guarantee.epsilon  # the server adds the noise

    @property
    def epsilon_alone(self) -> float:
        return math.inf

    def observe(self, values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
        total = transforms.clip_l2(values[:, None], self.setting.clip).sum()
        return total + rng.normal(scale=self.noise, size=draws)

    def law(self, values: np.ndarray) -> Continuous:
        return normal_law(float(np.sum(values)), self.noise)


def normal_law(mean: float, deviation: float) -> Continuous:
    """The normal law."""
    from scipy.special import ndtr

    def cdf(y: np.ndarray) -> np.ndarray:
        return np.asarray(ndtr((y - mean) / deviation))

    return Continuous(cdf, mean - 8 * deviation, mean + 8 * deviation)
