"""Laplace output perturbation of the sum by a trusted server.

Source: Dwork, McSherry, Nissim, Smith, "Calibrating Noise to Sensitivity in Private Data Analysis", TCC 2006:
independent Laplace noise of scale S/epsilon on every coordinate gives epsilon-DP, where S is the L1 sensitivity.

Here each client's vector is clipped to an L1 norm c and the sum is released, so that S = c: neighbouring data sets
differ in one client whose vector is replaced by zero, the number of clients being public. Noise: b = c/epsilon per
coordinate of the sum, variance 2 b^2; mean squared error of the mean: 2 b^2 / n^2 per coordinate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedbound.privacy import accounting, transforms
from fedbound.privacy.mechanisms import Accounts, Adjacency, Continuous, Guarantee, Norm, Setting, Trust
from fedbound.registry import MECHANISMS, Options


@MECHANISMS.register("laplace", Options)
class Laplace:
    """Laplace noise on the sum of L1-clipped vectors, added by a trusted server (pure epsilon-DP)."""

    name: ClassVar[str] = "laplace"
    norm: ClassVar[Norm] = "L1"
    trust: ClassVar[Trust] = "central server"
    adjacency: ClassVar[Adjacency] = "zero-out"
    unbiased: ClassVar[bool] = True

    def __init__(self, options: Options):
        self.options = options

    def calibrate(self, setting: Setting) -> LaplaceRelease:
        """Scale clip/epsilon: the target holds with delta 0, whatever delta the setting allows."""
        setting.once(self.name)
        scale = setting.clip / setting.epsilon
        # 1 / (1 / epsilon) may lie a rounding error above epsilon
        epsilon = min(setting.epsilon, accounting.laplace_epsilon(scale / setting.clip, setting.delta))
        guarantee = Guarantee(epsilon, setting.delta, accounting.PLD, self.adjacency, self.trust)
        return LaplaceRelease(setting, scale, guarantee)


@dataclass(frozen=True)
class LaplaceRelease:
    """Laplace noise of `scale` on every coordinate of the sum."""

    setting: Setting
    scale: float
    guarantee: Guarantee
    bits: float = 32.0  # the server is trusted, so clients send plain float32
    gain: float = 1.0

    @property
    def noise(self) -> float:
        return math.sqrt(2) * self.scale

    @property
    def mse(self) -> float:
        """2 b^2 / n^2."""
        return (self.noise / self.setting.clients) ** 2

    def estimate(self, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self.setting.check(vectors)
        total = np.zeros(self.setting.dimension)
        for block in transforms.blocks(vectors):
            sent = transforms.clip_l1(block, self.setting.clip).astype(np.float32)
            total += transforms.clip_l1(sent, self.setting.clip).sum(axis=0)  # the server trusts no client's norm
        return (total + rng.laplace(scale=self.scale, size=len(total))) / self.setting.clients

    def accounts(self) -> Accounts:
        rdp = accounting.laplace_rdp(accounting.ORDERS, self.scale / self.setting.clip)
        rdp_epsilon = accounting.rdp_epsilon(accounting.ORDERS, rdp, self.setting.delta)
        return Accounts(self.guarantee.epsilon, rdp_epsilon)

    def epsilon_of(self, present: int) -> float:
        return self.guarantee.epsilon  # the server adds the noise

    @property
    def epsilon_alone(self) -> float:
        return math.inf

    def observe(self, values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
        total = transforms.clip_l1(values[:, None], self.setting.clip).sum()
        return total + rng.laplace(scale=self.scale, size=draws)

    def law(self, values: np.ndarray) -> Continuous:
        middle, scale = float(np.sum(values)), self.scale

        def cdf(y: np.ndarray) -> np.ndarray:
            half = np.exp(-np.abs(y - middle) / scale) / 2
            return np.where(y < middle, half, 1 - half)

        return Continuous(cdf, middle - 30 * scale, middle + 30 * scale)
