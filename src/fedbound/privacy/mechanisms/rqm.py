"""RQM, the randomised quantization mechanism: stochastic rounding between levels that were kept at random.

Source: Youn, Hu, Ziani, Abernethy, "Randomized Quantization is All You Need for Differential Privacy in Federated
Learning", 2023 (arXiv 2306.11913; the abstract and an independent implementation could be read). Levels
B_i = -X + 2iX/(m-1), X = 1 + Delta; the two ends are always kept, each other one with probability q; x is rounded
stochastically between its kept neighbours, hence unbiased. The closed form of the pmf is ours, checked by enumeration:
with x in [B_j, B_{j+1}], the neighbours a <= j < b are kept nearest with probability w_a w_b,

    w_a = (1-q)^j          if a = 0,    else q (1-q)^(j-a)
    w_b = (1-q)^(m-2-j)    if b = m-1,  else q (1-q)^(b-j-1)

The pmf is linear in x between levels, so that divergences are largest at levels or ends, not always at +-1 as the paper
has it. Claimed here locally only; under secure aggregation the worst other clients are not known in closed form.
For a given epsilon, Delta follows from q by bisection, and q is that of the least mean variance.
"""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedbound.errors import InputError
from fedbound.privacy import accounting
from fedbound.privacy.kernels import Table
from fedbound.privacy.local import Local, LocalOptions
from fedbound.registry import MECHANISMS

_KEPT = (0.1, 0.2, 0.3, 0.42, 0.57, 0.7, 0.85, 0.95)  # probabilities q that are tried
_LEAST, _MOST = 1e-9, 1e4  # of Delta


class RQMOptions(LocalOptions):
    """Options of `rqm`."""

    levels: int = Field(default=16, ge=3, le=64, description="levels m")


@MECHANISMS.register("rqm", RQMOptions)
class RQM(Local):
    """Stochastic rounding between randomly kept levels (local, pure epsilon-DP)."""

    name: ClassVar[str] = "rqm"
    unbiased: ClassVar[bool] = True
    options: RQMOptions

    def kernel(self, epsilon: float) -> Table:
        return best(epsilon, self.options.levels)


def table(levels: int, margin: float, kept: float) -> Table:
    """The kernel of m = `levels` levels on [-1 - margin, 1 + margin], inner ones kept with probability `kept`."""
    grid = np.linspace(-1 - margin, 1 + margin, levels)
    corners = np.concatenate([[-1.0], grid[np.abs(grid) < 1], [1.0]])
    cells = np.clip(np.searchsorted(grid, corners, side="right") - 1, 0, levels - 2)
    return Table(corners, np.stack([_row(grid, x, j, kept) for x, j in zip(corners, cells, strict=True)]), grid)


def _row(grid: np.ndarray, x: float, j: int, kept: float) -> np.ndarray:
    last = len(grid) - 1
    a, b = np.arange(j + 1), np.arange(j + 1, last + 1)
    below = np.where(a == 0, (1 - kept) ** j, kept * (1 - kept) ** (j - a))
    above = np.where(b == last, (1 - kept) ** (last - 1 - j), kept * (1 - kept) ** (b - j - 1))
    weight = below[:, None] * above[None, :]
    up = (x - grid[a])[:, None] / (grid[b][None, :] - grid[a][:, None])
    return np.concatenate([(weight * (1 - up)).sum(axis=1), (weight * up).sum(axis=0)])


@lru_cache(maxsize=256)
def best(epsilon: float, levels: int) -> Table:
    """The kernel of pure epsilon at most `epsilon` and the least mean variance over [-1, 1] among the q tried.

    Raises:
        InputError: no q reaches epsilon.
    """
    x = np.linspace(-1, 1, 201)
    found: list[tuple[float, Table]] = []
    for kept in _KEPT:
        loss = lambda margin, kept=kept: table(levels, margin, kept).pure_epsilon  # noqa: E731
        if loss(_MOST) <= epsilon:
            made = table(levels, accounting.least_noise(loss, epsilon, _LEAST, _MOST, 1e-6), kept)
            found.append((float(made.variance(x).mean()), made))
    if not found:
        raise InputError(
            f"privacy.mechanism.levels: {levels} levels cannot reach epsilon {epsilon:g} with rqm; give another number"
        )
    return min(found, key=lambda pair: pair[0])[1]
