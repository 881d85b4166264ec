"""vqSGD: a random vertex of the cross-polytope around the ball, by randomised response.

Source: Gandikota, Kane, Maity, Mazumdar, "vqSGD: Vector Quantized Stochastic Gradient Descent", AISTATS 2021
(arXiv 1911.07971), the cross-polytope form, as an independent reading has it: the unit L2 ball lies within the convex
hull of the 2d vertices +-sqrt(d) e_i; x / c is the mean of a random vertex whose coefficients are
|x_i| / (c sqrt d) on the side of x_i, plus gamma / 2d on every vertex, gamma = 1 - ||x||_1 / (c sqrt d). Its private
form by randomised response over the vertices is a **reconstruction**: the vertex is kept with probability
lambda = (e^eps - 1) / (e^eps + 2d - 1), else replaced by a uniform one, whose mean is 0. Decode c v / lambda:
unbiased.

r repetitions at epsilon / r each are averaged; r is that of least error. Error per coordinate and client:
(c^2 / lambda^2 - mean x^2) / r. (The code published by a third party, rajkmaity/vqsgd, overwrites its input by noise.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedbound.privacy import transforms
from fedbound.privacy.local import MessageOptions, Messages, PerMessage, response_accounts
from fedbound.privacy.mechanisms import Accounts, Guarantee, Law, Setting
from fedbound.registry import MECHANISMS

MOST_REPEATS = 16


class VqSGDOptions(MessageOptions):
    """Options of `vqsgd`."""

    repeats: int = Field(default=0, ge=0, le=MOST_REPEATS, description="vertices a client sends; 0: of least error")


@MECHANISMS.register("vqsgd", VqSGDOptions)
class VqSGD(PerMessage):
    """Randomised response on the vertices of the cross-polytope (local, pure epsilon-DP; a reconstruction)."""

    name: ClassVar[str] = "vqsgd"
    unbiased: ClassVar[bool] = True
    options: VqSGDOptions

    def __init__(self, options: VqSGDOptions):
        super().__init__(options)

    def calibrate(self, setting: Setting) -> VqSGDRelease:
        """The number of repetitions of least error; lambda follows from it and epsilon."""
        setting.once(self.name)
        counts = [self.options.repeats] if self.options.repeats else range(1, MOST_REPEATS + 1)
        message = self.message_epsilon(setting)
        guarantee = self.claim(setting, message)
        releases = (VqSGDRelease(setting, count, message, guarantee) for count in counts)
        return min(releases, key=lambda release: release.mse)


@dataclass(frozen=True)
class VqSGDRelease(Messages):
    """`repeats` vertices per client, each kept with probability `kept`."""

    setting: Setting
    repeats: int
    message: float
    guarantee: Guarantee
    gain: float = 1.0

    @property
    def vertices(self) -> int:
        """2d: vertex i is +sqrt(d) e_i, vertex d + i its opposite."""
        return 2 * self.setting.dimension

    @property
    def kept(self) -> float:
        """lambda: the probability that a vertex is not replaced by a uniform one."""
        share = self.message / self.repeats
        return -math.expm1(-share) / (1 + (self.vertices - 1) * math.exp(-share))

    @property
    def bits(self) -> float:
        """log2(2d) for each vertex."""
        return self.repeats * math.log2(self.vertices) / self.setting.dimension

    @cached_property
    def mse(self) -> float:
        """(c^2 / lambda^2 - c^2 / d) / (n r) for vectors of norm c."""
        own = self.setting.clip**2 * (1 / self.kept**2 - 1 / self.setting.dimension)
        return own / (self.setting.clients * self.repeats)

    def pmf(self, vectors: np.ndarray) -> np.ndarray:
        """Probabilities of the vertices sent for vectors [r, d] of L2 norm at most c: float64 [r, 2d]."""
        share = vectors / (self.setting.clip * math.sqrt(self.setting.dimension))
        rest = np.maximum(0.0, 1 - np.abs(share).sum(axis=1, keepdims=True)) / self.vertices
        coefficients = np.concatenate([np.maximum(share, 0), np.maximum(-share, 0)], axis=1) + rest
        coefficients /= coefficients.sum(axis=1, keepdims=True)
        return self.kept * coefficients + (1 - self.kept) / self.vertices

    def estimate(self, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self.setting.check(vectors)
        d, counts = self.setting.dimension, np.zeros(self.vertices)
        for block in transforms.blocks(vectors):
            counts += np.bincount(self.encode(block, rng).ravel(), minlength=self.vertices)
        scale = self.setting.clip * math.sqrt(d) / (self.kept * self.repeats * self.setting.clients)
        return scale * (counts[:d] - counts[d:])

    def accounts(self) -> Accounts:
        """Of `repeats` vertices: two inputs that are vertices themselves."""
        if self.guarantee.trust == "shuffler":
            return Accounts(self.guarantee.epsilon, math.nan)
        other = (1 - self.kept) / self.vertices
        kept = self.kept + other
        return response_accounts(kept, other, self.vertices, self.repeats, self.message, self.setting.delta)

    def observe(self, values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
        def message(value: float) -> np.ndarray:
            sent = self.encode(np.full((draws, 1), value, dtype=np.float64), rng)
            return sent @ (1 << np.arange(self.repeats))

        if self.guarantee.trust == "local":
            return message(values[0])
        return np.sum([message(value) for value in values], axis=0)  # of what is shuffled, its sum

    def law(self, values: np.ndarray) -> Law:
        """Outcomes are the vertices, + as 0 and - as 1, as digits."""
        pmfs = []
        for value in values:
            pmf, one = np.ones(1), self.pmf(np.array([[value]]))[0]
            for _ in range(self.repeats):
                pmf = np.outer(one, pmf).ravel()
            pmfs.append(pmf)
        if self.guarantee.trust == "shuffler":
            return Law.of_sum(pmfs)
        outcomes = np.arange(2**self.repeats)
        minus = ((outcomes[:, None] >> np.arange(self.repeats)) & 1).sum(axis=1)
        return Law(outcomes, pmfs[0], self.setting.clip / self.kept * (1 - 2 * minus / self.repeats))

    def encode(self, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What each client sends: float64 vectors [r, d] to vertices int64 [r, repeats]."""
        sums = np.cumsum(self.pmf(transforms.clip_l2(vectors, self.setting.clip)), axis=1)
        drawn = rng.random((len(vectors), self.repeats)) * sums[:, -1:]
        return np.array([np.searchsorted(row, u, side="right") for row, u in zip(sums, drawn, strict=True)])
