"""Generalised randomised response on a grid: keep the level with probability p, else any other one uniformly.

Source: as the baseline of Chaudhuri, Guo, Rabbat, "Privacy-aware compression for federated data analysis", UAI 2022
(arXiv 2203.08134): dither x to one of K = 2^b points g_i of [-1, 1], send it with p = e^eps / (e^eps + K - 1) and
each other one with q = 1 / (e^eps + K - 1); decode the values a that solve P a = g. By symmetry a = g / (p - q).
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedbound.privacy.kernels import Table
from fedbound.privacy.local import Local, LocalOptions
from fedbound.registry import MECHANISMS


class GRROptions(LocalOptions):
    """Options of `grr`."""

    bits: int = Field(default=3, ge=1, le=8, description="bits of one level")


@MECHANISMS.register("grr", GRROptions)
class GRR(Local):
    """Generalised randomised response on 2^b dithered levels (local, pure epsilon-DP)."""

    name: ClassVar[str] = "grr"
    unbiased: ClassVar[bool] = True
    options: GRROptions

    def kernel(self, epsilon: float) -> Table:
        return table(epsilon, self.options.bits)


def table(epsilon: float, bits: int) -> Table:
    """The kernel of 2^bits levels."""
    levels = 1 << bits
    grid = np.linspace(-1, 1, levels)
    other = 1 / (math.exp(epsilon) + levels - 1)
    keep = math.exp(epsilon) * other
    return Table(grid, np.full((levels, levels), other) + (keep - other) * np.eye(levels), grid / (keep - other))
