"""The shifted layered quantizer: dithered quantization whose error is exactly Gaussian.

Source: Hegazy, Leluc, Li, Dieuleveut, "Compression with Exact Error Distribution for Federated Learning", AISTATS 2024
(arXiv 2310.20682), individual mechanism; the same coupler in Yan et al. (arXiv 2312.07060). With N ~ N(0, s^2), uniform
U and u, all shared by client and server: Y = exp(-N^2 / (2 s^2)) U, or 1 - Y where N <= 0; L = -s sqrt(-2 ln(1 - Y)),
R = s sqrt(-2 ln Y), step = R - L >= 2 s sqrt(ln 4). Client sends m = round(x/step + u); server decodes
(m - u) step + (R + L)/2. The error is N(0, s^2), independent of x, without any noise being added.

Each of n clients has s = sigma / sqrt(n), so that the sum's error is the central Gaussian's. The server knows the
dither, so that it could undo it: the server must be trusted, and the guarantee is against those who see the mean. Used
under a weaker model it would protect nothing. Bits: Elias's gamma code of |m| + 1, and a sign.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from fedbound.privacy import accounting, transforms
from fedbound.privacy.mechanisms import Accounts, Adjacency, Continuous, Guarantee, Norm, Setting, Trust
from fedbound.privacy.mechanisms.gaussian import Gaussian, normal_law
from fedbound.registry import MECHANISMS, Options


@MECHANISMS.register("shifted_layered", Options)
class ShiftedLayered:
    """Dithered quantization with exactly Gaussian error, decoded by a trusted server."""

    name: ClassVar[str] = "shifted_layered"
    norm: ClassVar[Norm] = "L2"
    trust: ClassVar[Trust] = "central server"
    adjacency: ClassVar[Adjacency] = "zero-out"
    unbiased: ClassVar[bool] = True

    def __init__(self, options: Options):
        self.options = options

    def calibrate(self, setting: Setting) -> ShiftedLayeredRelease:
        """The central Gaussian's noise."""
        central = Gaussian(self.options).calibrate(setting)
        return ShiftedLayeredRelease(setting, central.noise, central.guarantee)


@dataclass(frozen=True)
class ShiftedLayeredRelease:
    """Quantization errors that sum to Gaussian noise of standard deviation `noise` per coordinate."""

    setting: Setting
    noise: float
    guarantee: Guarantee
    gain: float = 1.0

    @property
    def mse(self) -> float:
        """sigma^2 / n^2."""
        return (self.noise / self.setting.clients) ** 2

    @property
    def share(self) -> float:
        """s: standard deviation of one client's error."""
        return self.noise / math.sqrt(self.setting.clients)

    @cached_property
    def bits(self) -> float:
        """Mean code length over coordinates of random directions, by 40,000 draws of the dither from a fixed seed."""
        x = self.setting.clip * transforms.sphere_coordinates(self.setting.dimension)
        rng = np.random.default_rng(0)
        return float(np.mean([code_bits(quantize(x, dither(x.shape, self.share, rng))).mean() for _ in range(10)]))

    def estimate(self, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self.setting.check(vectors)
        total = np.zeros(self.setting.dimension)
        for block in transforms.blocks(vectors):
            shared = dither(block.shape, self.share, rng)
            sent = quantize(transforms.clip_l2(block, self.setting.clip), shared)
            total += decode(sent, shared).sum(axis=0)
        return total / self.setting.clients

    def accounts(self) -> Accounts:
        rdp = self.setting.rounds * np.array(accounting.ORDERS) / (2 * (self.noise / self.setting.clip) ** 2)
        delta = self.setting.delta
        return Accounts(self.guarantee.epsilon, accounting.rdp_epsilon(accounting.ORDERS, rdp, delta))

    def epsilon_of(self, present: int) -> float:
        multiplier = self.share * math.sqrt(present / self.setting.rounds) / self.setting.clip
        return max(self.guarantee.epsilon, accounting.gaussian_exact(multiplier, self.setting.delta))

    @property
    def epsilon_alone(self) -> float:
        return math.inf

    def observe(self, values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
        clipped = transforms.clip_l2(np.tile(values, draws)[:, None], self.setting.clip)[:, 0]
        shared = dither(clipped.shape, self.share, rng)
        return decode(quantize(clipped, shared), shared).reshape(draws, -1).sum(axis=1)

    def law(self, values: np.ndarray) -> Continuous:
        return normal_law(float(np.sum(values)), self.noise)


@dataclass(frozen=True)
class Dither:
    """What client and server share, each float64 of the data's shape: step, offset of the decoded value, dither."""

    step: np.ndarray
    offset: np.ndarray
    uniform: np.ndarray


def dither(shape: tuple[int, ...], deviation: float, rng: np.random.Generator) -> Dither:
    """Shared randomness for errors of standard deviation `deviation`."""
    normal = rng.standard_normal(shape)
    y = np.exp(-np.square(normal) / 2) * (1 - rng.random(shape))
    y = np.where(normal > 0, y, 1 - y)
    y = np.clip(y, 1e-300, 1 - 2.0**-53)
    left, right = -np.sqrt(-2 * np.log1p(-y)), np.sqrt(-2 * np.log(y))
    return Dither(deviation * (right - left), deviation * (right + left) / 2, rng.random(shape) - 0.5)


def quantize(x: np.ndarray, shared: Dither) -> np.ndarray:
    """What a client sends: int64 of the data's shape."""
    return np.round(x / shared.step + shared.uniform).astype(np.int64)


def decode(sent: np.ndarray, shared: Dither) -> np.ndarray:
    """The data plus Gaussian errors, float64."""
    return (sent - shared.uniform) * shared.step + shared.offset


def code_bits(sent: np.ndarray) -> np.ndarray:
    """Bits of Elias's gamma code of |m| + 1, and one for the sign."""
    return 2 * np.floor(np.log2(np.abs(sent) + 1)) + 2
