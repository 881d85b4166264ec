"""QMGeo: stochastic rounding to a level, then a truncated geometric step away from it.

Source: Wang, Gursoy, "QMGeo: Differentially Private Federated Learning via Stochastic Quantization with Mixed Truncated
Geometric Distribution", 2023 (arXiv 2312.05761). Only the abstract could be read: the exact pmf here is a
**reconstruction**. With R levels g_i evenly on [-1, 1], x is rounded stochastically to one of its two neighbours i, and
level j is sent with probability proportional to rho^|j - i|, normalised over the R levels; nothing is added to the
level. Every epsilon is that of the exact pmf, and does not rest on the paper's proof.

The paper decodes a level as itself, which shrinks every x: biased. `debias` decodes the values a that solve
sum_j P_ij a_j = g_i instead, at a larger variance.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from fedbound.privacy import accounting
from fedbound.privacy.kernels import Table
from fedbound.privacy.local import Local, LocalOptions
from fedbound.registry import MECHANISMS

_LEAST, _MOST = 1e-9, 1 - 1e-9  # of rho


class QMGeoOptions(LocalOptions):
    """Options of `qmgeo`."""

    levels: int = Field(default=8, ge=2, le=64, description="levels R")
    debias: bool = Field(default=False, description="decode without bias, at a larger variance")


@MECHANISMS.register("qmgeo", QMGeoOptions)
class QMGeo(Local):
    """Stochastic rounding and a truncated geometric step (local, pure epsilon-DP; biased; a reconstruction)."""

    name: ClassVar[str] = "qmgeo"
    options: QMGeoOptions

    @property
    def unbiased(self) -> bool:
        return self.options.debias

    def kernel(self, epsilon: float) -> Table:
        levels = self.options.levels
        rho = accounting.least_noise(lambda rho: table(levels, rho).pure_epsilon, epsilon, _LEAST, _MOST)
        return table(levels, rho, self.options.debias)


def table(levels: int, rho: float, debias: bool = False) -> Table:
    """The kernel of R = `levels` levels whose steps of one level have a relative probability of `rho`."""
    grid = np.linspace(-1, 1, levels)
    distance = np.abs(np.subtract.outer(np.arange(levels), np.arange(levels)))
    rows = rho**distance
    rows /= rows.sum(axis=1, keepdims=True)
    return Table(grid, rows, np.linalg.solve(rows, grid) if debias else grid)
