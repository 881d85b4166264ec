"""CLDP: one bit of one coordinate.

Source: Girgis, Data, Diggavi, Kairouz, Suresh, "Shuffled Model of Differential Privacy in Federated Learning", AISTATS
2021 (arXiv 2008.07180), the L1 form: clip to an L1 norm c; with H the Hadamard matrix of entries +-1 (public), every
coordinate of y = Hx lies in [-c, c]; pick one, j, uniformly, and send j and U = +-1 with
P(U = 1) = 1/2 + y_j / (2 c C), C = (e^eps + 1) / (e^eps - 1). Decode c C U H_j. Error per coordinate: c^2 C^2 / n,
because every coordinate of H_j is +-1, less the mean squared coordinate of the clients' vectors over n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from fedbound.privacy import accounting, transforms
from fedbound.privacy.kernels import Table
from fedbound.privacy.local import kernel_accounts
from fedbound.privacy.mechanisms import Accounts, Adjacency, Guarantee, Norm, Setting, Trust
from fedbound.registry import MECHANISMS, Options


@MECHANISMS.register("cldp", Options)
class CLDP:
    """One randomised bit of one Hadamard coordinate of an L1-clipped vector (local, pure epsilon-DP)."""

    name: ClassVar[str] = "cldp"
    norm: ClassVar[Norm] = "L1"
    trust: ClassVar[Trust] = "local"
    adjacency: ClassVar[Adjacency] = "replace"

    def __init__(self, options: Options):
        self.options = options

    def calibrate(self, setting: Setting) -> CLDPRelease:
        """The bit's bias follows from epsilon alone."""
        setting.once(self.name)
        kernel = table(setting.epsilon)
        epsilon = min(setting.epsilon, kernel.pure_epsilon)
        guarantee = Guarantee(epsilon, setting.delta, accounting.PURE, self.adjacency, self.trust)
        return CLDPRelease(setting, kernel, guarantee)


def table(epsilon: float) -> Table:
    """The one-bit kernel: levels 0, 1 with values -C, C."""
    scale = 1 / math.tanh(epsilon / 2)
    high = 0.5 + 0.5 / scale
    return Table(np.array([-1.0, 1.0]), np.array([[high, 1 - high], [1 - high, high]]), np.array([-scale, scale]))


@dataclass(frozen=True)
class CLDPRelease:
    """One bit of one Hadamard coordinate per client."""

    setting: Setting
    kernel: Table
    guarantee: Guarantee

    @property
    def size(self) -> int:
        """Padded dimension D."""
        return transforms.padded(self.setting.dimension)

    @property
    def bits(self) -> float:
        """The coordinate is public randomness; without it it costs log2 D bits more."""
        return 1 / self.setting.dimension

    @cached_property
    def mse(self) -> float:
        """c^2 C^2 / n, less the mean squared coordinate of the vectors, for whose norm c^2 stands in: at most that."""
        return (self.setting.clip * self.kernel.values[1]) ** 2 / self.setting.clients

    @property
    def noise(self) -> float:
        """Standard deviation of the summed error per coordinate."""
        return math.sqrt(self.mse) * self.setting.clients

    def estimate(self, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self.setting.check(vectors)
        public, private = rng.spawn(2)
        root = math.sqrt(self.size)
        total = np.zeros(self.size)
        for block in transforms.blocks(vectors):
            chosen = public.integers(0, self.size, len(block))
            wide = np.zeros((len(block), self.size))
            wide[:, : block.shape[1]] = transforms.clip_l1(block, self.setting.clip)
            picked = transforms.hadamard(wide)[np.arange(len(block)), chosen] * root / self.setting.clip
            bits = self.kernel.sample(np.clip(picked, -1, 1), private)
            total += np.bincount(chosen, self.setting.clip * self.kernel.values[bits], self.size)
        return (transforms.hadamard(total[None, :])[0] * root)[: self.setting.dimension] / self.setting.clients

    def accounts(self) -> Accounts:
        return kernel_accounts(self.kernel, 1, self.setting.delta)

    def observe(self, values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
        return self.kernel.sample(np.full(draws, np.clip(values[0] / self.setting.clip, -1, 1)), rng)
