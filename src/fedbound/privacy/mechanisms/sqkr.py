"""SQKR: subsampled and quantized Kashin's representation, one bit of each sampled coordinate, by randomised response.

Source: Chen, Kairouz, Özgür, "Breaking the Communication-Privacy-Accuracy Trilemma", NeurIPS 2020 (arXiv 2007.11707);
the level K and the frame are those of the code published with Shah et al., AISTATS 2022: eta = 0.4, delta = 0.8, a
randomised Hadamard frame of N = 2^(ceil(log2 d) + 1) coordinates. That code finds the representation by Lyubarskii and
Vershynin's iteration and clips what exceeds K; here it is found by alternating projections, which meet the level.

Client: clip to an L2 norm c; find a with x = T^t a and |a_j| <= K c / sqrt(N), K = 1 / ((1 - eta) sqrt(delta)); round
each of k public random coordinates to +-K c / sqrt(N); send the k bits by randomised response on their 2^k strings:
kept with probability lambda = (e^eps - 1) / (e^eps + 2^k - 1), else uniform. Server: N / (k lambda) times the bits,
averaged, T^t. k is that of least error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedbound.privacy import transforms
from fedbound.privacy.local import MessageOptions, Messages, PerMessage, pick, response_accounts
from fedbound.privacy.mechanisms import Accounts, Guarantee, Law, Setting
from fedbound.privacy.rotation import LEVEL, Frame, frame_size, kashin, random_frame
from fedbound.registry import MECHANISMS

MOST_COORDINATES = 30


class SQKROptions(MessageOptions):
    """Options of `sqkr`."""

    coordinates: int = Field(default=0, ge=0, le=MOST_COORDINATES, description="bits a client sends; 0: of least error")


@MECHANISMS.register("sqkr", SQKROptions)
class SQKR(PerMessage):
    """Randomised response on single bits of sampled Kashin coordinates (local, pure epsilon-DP)."""

    name: ClassVar[str] = "sqkr"
    unbiased: ClassVar[bool] = True
    options: SQKROptions

    def __init__(self, options: SQKROptions):
        super().__init__(options)

    def calibrate(self, setting: Setting) -> SQKRRelease:
        """The number of bits of least error; lambda follows from it and epsilon."""
        setting.once(self.name)
        most = min(MOST_COORDINATES, frame_size(setting.dimension))
        counts = [min(self.options.coordinates, most)] if self.options.coordinates else range(1, most + 1)
        message = self.message_epsilon(setting)
        guarantee = self.claim(setting, message)
        releases = (SQKRRelease(setting, count, message, guarantee) for count in counts)
        return min(releases, key=lambda release: release.mse)


@dataclass(frozen=True)
class SQKRRelease(Messages):
    """`coordinates` bits per client."""

    setting: Setting
    coordinates: int
    message: float
    guarantee: Guarantee
    gain: float = 1.0

    @property
    def size(self) -> int:
        """Coordinates N of the frame."""
        return frame_size(self.setting.dimension)

    @property
    def kept(self) -> float:
        """lambda: the probability that the string of bits is not replaced by a uniform one."""
        return math.expm1(self.message) / (math.exp(self.message) + 2**self.coordinates - 1)

    @property
    def bits(self) -> float:
        """The coordinates are public randomness; where they are not, each costs log2 N bits more."""
        sent = 1 + (math.log2(self.size) if self.guarantee.trust == "shuffler" else 0)
        return self.coordinates * sent / self.setting.dimension

    @cached_property
    def mse(self) -> float:
        """(d K^2 / (k lambda^2) + (1 - 1/k)/lambda (1 - d/N) - 1) c^2 / (d n), for |a| about c.

        The bits' own squares, the pairs of bits of one string, and the squared mean.
        """
        d, k = self.setting.dimension, self.coordinates
        own = d * LEVEL**2 / (k * self.kept**2)
        pairs = (1 - 1 / k) / self.kept * (1 - d / self.size)
        return (own + pairs - 1) * self.setting.clip**2 / (d * self.setting.clients)

    def string_pmf(self) -> np.ndarray:
        """Probabilities of the sent string given the rounded one: kept, and each other string: float64 [2]."""
        other = (1 - self.kept) / 2**self.coordinates
        return np.array([self.kept + other, other])

    def estimate(self, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self.setting.check(vectors)
        public, private = rng.spawn(2)
        frame = random_frame(self.setting.dimension, public)
        step = LEVEL * self.setting.clip / math.sqrt(self.size)
        total = np.zeros(self.size)
        for block in transforms.blocks(vectors):
            chosen = pick(len(block), self.size, self.coordinates, public)
            bits = self.encode(block, frame, chosen, private)
            scale = step * self.size / (self.coordinates * self.kept)
            total += np.bincount(chosen.ravel(), scale * bits.ravel(), self.size)
        return frame.vectors(total[None, :] / self.setting.clients)[0]

    def accounts(self) -> Accounts:
        """Of the sent string given two rounded ones: either of them, or any of the others, which tell nothing."""
        if self.guarantee.trust == "shuffler":
            return Accounts(self.guarantee.epsilon, math.nan)
        kept, other = self.string_pmf()
        return response_accounts(kept, other, 2**self.coordinates, 1, self.message, self.setting.delta)

    def observe(self, values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
        frame = self._plain()
        chosen = np.tile(np.arange(self.coordinates), (draws, 1))

        def message(value: float) -> np.ndarray:
            bits = self.encode(np.full((draws, 1), value, dtype=np.float64), frame, chosen, rng) > 0
            return bits @ (1 << np.arange(self.coordinates))

        if self.guarantee.trust == "local":
            return message(values[0])
        return np.sum([message(value) for value in values], axis=0)  # of what is shuffled, its sum

    def law(self, values: np.ndarray) -> Law:
        """Outcomes are strings of bits, read as numbers."""
        pmfs = [self._string_law(value) for value in values]
        if self.guarantee.trust == "shuffler":
            return Law.of_sum(pmfs)
        strings = np.arange(2**self.coordinates)
        signs = 2.0 * ((strings[:, None] >> np.arange(self.coordinates)) & 1) - 1
        scale = LEVEL * self.setting.clip * math.sqrt(self.size) / (self.coordinates * self.kept)
        wide = np.pad(signs, ((0, 0), (0, self.size - self.coordinates)))
        return Law(strings, pmfs[0], self._plain().vectors(scale * wide)[:, 0])

    def _string_law(self, value: float) -> np.ndarray:
        coefficients = kashin(np.array([[value]]), self._plain(), self.setting.clip)[0, : self.coordinates]
        up = (1 + np.clip(coefficients * math.sqrt(self.size) / (LEVEL * self.setting.clip), -1, 1)) / 2
        pmf = np.ones(1)
        for probability in up:
            pmf = np.outer([1 - probability, probability], pmf).ravel()
        return np.asarray(self.kept * pmf + (1 - self.kept) / len(pmf))

    def _plain(self) -> Frame:
        """For one coordinate."""
        return Frame(np.ones(1), np.zeros(1, dtype=np.int64), self.size)

    def encode(self, vectors: np.ndarray, frame: Frame, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What each client sends: float64 vectors [r, d] and coordinates int64 [r, k] to signs float64 [r, k]."""
        coefficients = kashin(transforms.clip_l2(vectors, self.setting.clip), frame, self.setting.clip)
        step = LEVEL * self.setting.clip / math.sqrt(self.size)
        share = np.clip(np.take_along_axis(coefficients, chosen, axis=1) / step, -1, 1)
        bits = np.where(rng.random(chosen.shape) < (1 + share) / 2, 1.0, -1.0)
        uniform = 2.0 * rng.integers(0, 2, chosen.shape) - 1.0
        return np.where(rng.random((len(bits), 1)) < self.kept, bits, uniform)
