"""D2P-Fed: k-level stochastic quantization and discrete Gaussian shares, accounted again.

Source: Wang, Jia, Song, "D2P-Fed: Differentially Private Federated Learning with Efficient Communication", 2020
(arXiv 2006.13039; the abstract could be read): rotate, quantize stochastically to k levels, add discrete Gaussian
noise, sum. A **reconstruction** in the pipeline of `fedbound.privacy.integer_noise`. Two things differ from `ddgauss`:
rounding is done once, to a grid of k levels on [-c_inf, c_inf], which fixes the scale s = (k-1) / (2 c_inf); and the
field is as wide as the sum of levels and noise needs, so that the bits follow from k.

The paper takes a sum of discrete Gaussians for a discrete Gaussian. It is not one (Kairouz, Liu, Steinke, ICML 2021),
and the difference, tau, is paid for here. A vector rounded once has an L2 norm of at most s c + sqrt(D).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedbound.errors import InputError
from fedbound.privacy import accounting, transforms
from fedbound.privacy.integer_noise import MOST_BITS, IntegerNoiseOptions, IntegerNoiseRelease
from fedbound.privacy.mechanisms import Adjacency, Guarantee, Norm, Setting, Trust, ddgauss
from fedbound.registry import MECHANISMS, Options

_MOST_NOISE = 1e6  # in units of the central Gaussian's


class D2PFedOptions(Options):
    """Options of `d2pfed`."""

    levels: int = Field(default=256, ge=2, le=65536, description="levels k of one client's coordinate")
    deviations: float = Field(
        default=6.0, ge=1, le=100, description="standard deviations of the sum that the field holds on either side"
    )
    honest: float = Field(
        default=1.0, gt=0, le=1, description="share of clients whose noise is counted: the others may drop out or lie"
    )
    tail: float = Field(default=1e-3, gt=0, lt=1, description="probability that some rotated coordinate has no level")


@dataclass(frozen=True)
class Parameters(ddgauss.Parameters):
    """Discrete Gaussian shares on vectors that are rounded once."""

    def round(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return transforms.stochastic_round(x, rng)

    def rounded_pmf(self, x: float) -> np.ndarray:
        up = x - math.floor(x)
        return np.array([1 - up, up])


@MECHANISMS.register("d2pfed", D2PFedOptions)
class D2PFed:
    """k-level quantization with discrete Gaussian shares under secure aggregation (a reconstruction, re-accounted)."""

    name: ClassVar[str] = "d2pfed"
    norm: ClassVar[Norm] = "L2"
    trust: ClassVar[Trust] = "secure aggregation"
    adjacency: ClassVar[Adjacency] = "zero-out"
    unbiased: ClassVar[bool] = True

    def __init__(self, options: D2PFedOptions):
        self.options = options

    def calibrate(self, setting: Setting) -> IntegerNoiseRelease:
        """The least noise at the scale that the levels fix.

        Raises:
            InputError: the sum needs more bits than are held, or no noise reaches the target.
        """
        central = accounting.gaussian_multiplier(setting.epsilon, setting.delta) * setting.clip
        noise = accounting.least_noise(
            lambda noise: self._parameters(setting, noise).epsilon(setting.delta),
            setting.epsilon,
            central * math.sqrt(setting.rounds),
            _MOST_NOISE * central,
        )
        parameters = self._parameters(setting, noise)
        options = IntegerNoiseOptions(bits=self._bits(parameters, setting), honest=self.options.honest)
        epsilon = parameters.epsilon(setting.delta)
        guarantee = Guarantee(epsilon, setting.delta, accounting.RDP, self.adjacency, self.trust)
        return IntegerNoiseRelease(setting, options, parameters, guarantee)

    def _parameters(self, setting: Setting, noise: float) -> Parameters:
        size = transforms.padded(setting.dimension)
        reach = transforms.coordinate_bound(setting.clip, size, self.options.tail)
        scale = (self.options.levels - 1) / (2 * reach)
        limit = (scale * setting.clip + math.sqrt(size)) ** 2
        honest = max(1, math.floor(self.options.honest * setting.clients))
        return Parameters(noise, scale, limit, size, setting.clients, honest, setting.rounds)

    def _bits(self, parameters: Parameters, setting: Setting) -> int:
        """Of a field that holds `deviations` standard deviations of the sum, clients aligned."""
        n, p = setting.clients, parameters
        spread = (p.scale * setting.clip * n) ** 2 / p.size + n * p.share_variance + n / 4
        bits = max(2, math.ceil(math.log2(2 * self.options.deviations * math.sqrt(spread))))
        if bits > MOST_BITS:
            raise InputError(
                f"privacy.mechanism.levels: sums of {self.options.levels} levels need {bits} bits, at most {MOST_BITS} "
                "are held; give fewer levels"
            )
        return bits
