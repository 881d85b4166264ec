"""JoPEQ: Laplace noise, then subtractive dithered quantization whose error is part of the intended noise.

Source: Lang, Sofer, Shaked, Shlezinger, "Joint Privacy Enhancement and Quantization in Federated Learning", 2023
(arXiv 2208.10888), in the scalar form of the code published with it, which differs from the theorem: the noise added
is Laplace of variance 2 b^2 - w^2/12, so that with the dithered quantizer's error, uniform of width w, the variance is
Laplace's with scale b. Exactly Laplace noise cannot be had so: the characteristic function of a uniform variable has
zeros, Laplace's has none. A **reconstruction**, accounted again:

- The sum of Laplace noise of scale b' and a uniform variable has the largest likelihood ratio e^{S/b'} of the Laplace
  noise alone (in its tails), S the L1 sensitivity. The paper's S/b is too small; quantization adds error, no privacy.
- b' = S/epsilon is what holds, and holds for single messages too, against a server that knows the dither: what follows
  the noise is then post-processing. So nobody is trusted, and the error is 2 b'^2 + w^2/12.

Client: clip to an L1 norm c (S = 2c, replacement), add Laplace(b') and the dither u, uniform within +-w/2, send
q = floor(./w) within 2^R levels; server: (q + 1/2) w - u. Only noise beyond b' ln(1/tail) can leave the levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedbound.privacy import accounting, transforms
from fedbound.privacy.mechanisms import Accounts, Adjacency, Continuous, Guarantee, Norm, Setting, Trust
from fedbound.registry import MECHANISMS, Options


class JoPEQOptions(Options):
    """Options of `jopeq`."""

    bits: int = Field(default=4, ge=1, le=16, description="bits R of one coordinate")
    tail: float = Field(default=1e-4, gt=0, lt=0.5, description="probability that the noise exceeds the levels")


@MECHANISMS.register("jopeq", JoPEQOptions)
class JoPEQ:
    """Laplace noise and dithered quantization of every coordinate (local, pure epsilon-DP; a reconstruction)."""

    name: ClassVar[str] = "jopeq"
    norm: ClassVar[Norm] = "L1"
    trust: ClassVar[Trust] = "local"
    adjacency: ClassVar[Adjacency] = "replace"
    unbiased: ClassVar[bool] = True  # but for the rare noise beyond the levels

    def __init__(self, options: JoPEQOptions):
        self.options = options

    def calibrate(self, setting: Setting) -> JoPEQRelease:
        """Laplace noise of scale 2c/epsilon before the quantizer."""
        setting.once(self.name)
        guarantee = Guarantee(setting.epsilon, setting.delta, accounting.PURE, self.adjacency, self.trust)
        return JoPEQRelease(setting, self.options, 2 * setting.clip / setting.epsilon, guarantee)


@dataclass(frozen=True)
class JoPEQRelease:
    """Laplace noise of `scale` b' on every coordinate of every client, and R bits of each."""

    setting: Setting
    options: JoPEQOptions
    scale: float
    guarantee: Guarantee
    gain: float = 1.0

    @property
    def bits(self) -> float:
        return float(self.options.bits)

    @property
    def width(self) -> float:
        """w: the distance of two levels."""
        reach = self.setting.clip + self.scale * math.log(1 / self.options.tail)
        return 2 * reach / (2**self.options.bits - 1)

    @property
    def mse(self) -> float:
        """(2 b'^2 + w^2/12) / n."""
        return (2 * self.scale**2 + self.width**2 / 12) / self.setting.clients

    @property
    def noise(self) -> float:
        """Standard deviation of the summed error per coordinate."""
        return math.sqrt(self.mse) * self.setting.clients

    @property
    def published_epsilon(self) -> float:
        """What the paper would claim for this noise: S/b with 2 b^2 = 2 b'^2 + w^2/12."""
        return 2 * self.setting.clip / math.sqrt(self.scale**2 + self.width**2 / 24)

    def estimate(self, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self.setting.check(vectors)
        public, private = rng.spawn(2)
        total = np.zeros(self.setting.dimension)
        for block in transforms.blocks(vectors):
            total += self.messages(block, public, private).sum(axis=0)
        return total / self.setting.clients

    def accounts(self) -> Accounts:
        """Of the Laplace noise alone, as against a server that knows the dither."""
        multiplier, delta = self.scale / (2 * self.setting.clip), self.setting.delta
        rdp = accounting.laplace_rdp(accounting.ORDERS, multiplier)
        pld = min(self.guarantee.epsilon, accounting.laplace_epsilon(multiplier, delta))
        return Accounts(pld, accounting.rdp_epsilon(accounting.ORDERS, rdp, delta))

    def epsilon_of(self, present: int) -> float:
        return self.guarantee.epsilon

    @property
    def epsilon_alone(self) -> float:
        return self.guarantee.epsilon

    def observe(self, values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
        return self.messages(np.full((draws, 1), values[0], dtype=np.float64), rng, rng)[:, 0]

    def law(self, values: np.ndarray) -> Continuous:
        """What is decoded: Laplace noise and a uniform error, whatever lies beyond the levels left out."""
        x, b, half = float(values[0]), self.scale, self.width / 2

        def integral(y: np.ndarray) -> np.ndarray:
            """Of Laplace's distribution function from 0, an antiderivative."""
            return np.where(y < 0, b / 2 * np.exp(-np.abs(y) / b), y + b / 2 * np.exp(-np.abs(y) / b))

        def cdf(y: np.ndarray) -> np.ndarray:
            return np.asarray((integral(y - x + half) - integral(y - x - half)) / (2 * half))

        return Continuous(cdf, x - 30 * b, x + 30 * b)

    def messages(self, vectors: np.ndarray, public: np.random.Generator, private: np.random.Generator) -> np.ndarray:
        """What the server decodes of each client's vector [r, d]: float64 [r, d]."""
        x = transforms.clip_l1(vectors, self.setting.clip)
        dither = self.width * (public.random(x.shape) - 0.5)
        level = np.floor((x + private.laplace(scale=self.scale, size=x.shape) + dither) / self.width)
        half = 1 << (self.options.bits - 1)
        return np.asarray((np.clip(level, -half, half - 1) + 0.5) * self.width - dither)
