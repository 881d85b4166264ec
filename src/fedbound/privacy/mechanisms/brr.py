"""Bitwise randomised response: each bit of a dithered level by randomised response with its share of epsilon.

Source: as the baseline of Chaudhuri, Guo, Rabbat, "Privacy-aware compression for federated data analysis", UAI 2022
(arXiv 2203.08134): dither x to one of 2^b points, flip each of the b bits of its index with probability
1 / (e^{eps/b} + 1); an observed bit is decoded as -1 / (e^{eps/b} - 1) or e^{eps/b} / (e^{eps/b} - 1).
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedbound.privacy.kernels import Table
from fedbound.privacy.local import Local, LocalOptions
from fedbound.registry import MECHANISMS


class BRROptions(LocalOptions):
    """Options of `brr`."""

    bits: int = Field(default=3, ge=1, le=8, description="bits of one level")


@MECHANISMS.register("brr", BRROptions)
class BRR(Local):
    """Randomised response on every bit of 2^b dithered levels (local, pure epsilon-DP)."""

    name: ClassVar[str] = "brr"
    unbiased: ClassVar[bool] = True
    options: BRROptions

    def kernel(self, epsilon: float) -> Table:
        return table(epsilon, self.options.bits)


def table(epsilon: float, bits: int) -> Table:
    """The kernel of 2^bits levels."""
    levels = 1 << bits
    index = np.arange(levels)
    flips = np.array([[(i ^ j).bit_count() for j in range(levels)] for i in range(levels)])
    share = epsilon / bits
    rows = np.exp(-share * flips) / (1 + math.exp(-share)) ** bits
    ones = (index[:, None] >> np.arange(bits)) & 1
    decoded = (ones * math.exp(share) - (1 - ones)) / math.expm1(share)
    values = 2 * (decoded @ (1 << np.arange(bits))) / (levels - 1) - 1
    return Table(np.linspace(-1, 1, levels), rows, values)
