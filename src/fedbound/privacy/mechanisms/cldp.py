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

from fedbound.privacy import transforms
from fedbound.privacy.kernels import Table
from fedbound.privacy.local import MessageOptions, Messages, PerMessage, kernel_accounts
from fedbound.privacy.mechanisms import Accounts, Guarantee, Law, Norm, Setting
from fedbound.registry import MECHANISMS


class CLDPOptions(MessageOptions):
    """Options of `cldp`."""


@MECHANISMS.register("cldp", CLDPOptions)
class CLDP(PerMessage):
    """One randomised bit of one Hadamard coordinate of an L1-clipped vector (local, pure epsilon-DP)."""

    name: ClassVar[str] = "cldp"
    unbiased: ClassVar[bool] = True

    @property
    def norm(self) -> Norm:
        return "L1"

    def calibrate(self, setting: Setting) -> CLDPRelease:
        """The bit's bias follows from epsilon alone."""
        setting.once(self.name)
        message = self.message_epsilon(setting)
        kernel = table(message)
        message = min(message, kernel.pure_epsilon)
        return CLDPRelease(setting, kernel, message, self.claim(setting, message))


def table(epsilon: float) -> Table:
    """The one-bit kernel: levels 0, 1 with values -C, C."""
    scale = 1 / math.tanh(epsilon / 2)
    high = 0.5 + 0.5 / scale
    return Table(np.array([-1.0, 1.0]), np.array([[high, 1 - high], [1 - high, high]]), np.array([-scale, scale]))


@dataclass(frozen=True)
class CLDPRelease(Messages):
    """One bit of one Hadamard coordinate per client."""

    setting: Setting
    kernel: Table
    message: float
    guarantee: Guarantee
    gain: float = 1.0

    @property
    def size(self) -> int:
        """Padded dimension D."""
        return transforms.padded(self.setting.dimension)

    @property
    def bits(self) -> float:
        """The coordinate is public randomness; where it is not, it costs log2 D bits more."""
        sent = 1 + (math.log2(self.size) if self.guarantee.trust == "shuffler" else 0)
        return sent / self.setting.dimension

    @cached_property
    def mse(self) -> float:
        """c^2 C^2 / n, less the mean squared coordinate of the vectors, for whose norm c^2 stands in: at most that."""
        return (self.setting.clip * self.kernel.values[1]) ** 2 / self.setting.clients

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
        if self.guarantee.trust == "shuffler":
            return Accounts(self.guarantee.epsilon, math.nan)
        return kernel_accounts(self.kernel, 1, self.setting.delta)

    def observe(self, values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
        share = np.clip(values / self.setting.clip, -1, 1)
        if self.guarantee.trust == "local":
            return self.kernel.sample(np.full(draws, share[0]), rng)
        return self.kernel.sample(np.tile(share, (draws, 1)), rng).sum(axis=1)  # of what is shuffled, its sum

    def law(self, values: np.ndarray) -> Law:
        rows = self.kernel.pmf(np.clip(values / self.setting.clip, -1, 1))
        if self.guarantee.trust == "shuffler":
            return Law.of_sum(list(rows))
        return Law(np.arange(2), rows[0], self.setting.clip * self.kernel.values)
