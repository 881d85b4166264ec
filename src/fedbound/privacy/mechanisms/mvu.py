"""MVU, the minimum variance unbiased mechanism: pmfs and decoded values by optimisation.

Source: Chaudhuri, Guo, Rabbat, "Privacy-aware compression for federated data analysis", UAI 2022 (arXiv 2203.08134):
dither x to a grid g of B_in points, send level j with probability P_ij, decode a_j; (P, a) minimise
sum_ij P_ij (g_i - a_j)^2 subject to P_ij <= e^eps P_i'j, rows that sum to 1, and P a = g (unbiased). With one bit this
is Duchi's, CLDP's kernel. The problem is not convex: here P is a linear program given a, and the values a, taken as
symmetric, are searched by Nelder and Mead's simplex from several starts. What is found is feasible, and an upper bound
of the optimum. The metric-DP form for vectors is not here; see `fedbound.privacy.local`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedbound.privacy import accounting
from fedbound.privacy.kernels import Table
from fedbound.privacy.local import Local, LocalOptions
from fedbound.privacy.mechanisms import grr
from fedbound.registry import MECHANISMS

_STARTS = ((1.02, 1.0), (1.3, 1.0), (1.3, 2.5))  # largest value over that of one bit, and power of the spacing
_INFEASIBLE = 1e9


class MVUOptions(LocalOptions):
    """Options of `mvu`."""

    bits: int = Field(default=3, ge=1, le=3, description="bits of one level; the input grid has as many points")


@MECHANISMS.register("mvu", MVUOptions)
class MVU(Local):
    """Unbiased quantization of least variance, found by linear programming (local, pure epsilon-DP)."""

    name: ClassVar[str] = "mvu"
    unbiased: ClassVar[bool] = True
    options: MVUOptions

    def kernel(self, epsilon: float) -> Table:
        return optimal(epsilon, self.options.bits)


@lru_cache(maxsize=256)
def optimal(epsilon: float, bits: int) -> Table:
    """The kernel of 2^bits levels on a grid of 2^bits points; the one-bit kernel where more bits find none better."""
    from scipy.optimize import minimize

    grid = np.linspace(-1, 1, 1 << bits)
    one_bit = 1 / math.tanh(epsilon / 2)
    if bits == 1:
        return _table(grid, np.array([-one_bit, one_bit]), epsilon)

    def objective(gaps: np.ndarray) -> float:
        solved = _program(grid, _values(gaps), epsilon)
        return _INFEASIBLE if solved is None else float(solved.fun)

    half = 1 << (bits - 1)
    share = (np.arange(half) + 1) / half
    starts = [grr.table(epsilon, bits).values[half:], *(one_bit * r * share**p for r, p in _STARTS)]
    options = {"maxfev": 40 * half, "xatol": 3e-3, "fatol": 1e-5 * one_bit**2}
    found = [
        minimize(objective, np.log(np.diff(np.append(0.0, start))), method="Nelder-Mead", options=options)
        for start in starts
    ]
    return _table(grid, _values(min(found, key=lambda one: one.fun).x), epsilon)


def _values(gaps: np.ndarray) -> np.ndarray:
    """Symmetric rising values from the logarithms of their gaps."""
    positive = np.cumsum(np.exp(gaps))
    return np.concatenate([-positive[::-1], positive])


def _program(grid: np.ndarray, values: np.ndarray, epsilon: float) -> Any:
    """The linear program for P given a; None where it is infeasible."""
    from scipy import sparse
    from scipy.optimize import linprog

    inputs, levels = len(grid), len(values)
    cells = inputs * levels
    cost = np.append(np.square(grid[:, None] - values[None, :]).ravel(), np.zeros(levels))
    # for each input, probabilities that sum to 1, and that decode to it
    columns = np.repeat(np.arange(cells).reshape(inputs, levels), 2, axis=0).ravel()
    rows = np.tile(np.append(np.ones(levels), values), inputs), columns, np.arange(0, 2 * cells + 1, levels)
    solved = linprog(
        cost,
        A_ub=_ratios(inputs, levels, epsilon),
        b_ub=np.zeros(2 * cells),
        A_eq=sparse.csr_matrix(rows, shape=(2 * inputs, cells + levels)),
        b_eq=np.stack([np.ones(inputs), grid], axis=1).ravel(),
        method="highs",
    )
    return solved if solved.status == 0 else None


@lru_cache(maxsize=8)
def _ratios(inputs: int, levels: int, epsilon: float) -> Any:
    """m_j <= P_ij <= e^eps m_j as a sparse matrix, with m_j a variable: the least probability of level j."""
    from scipy import sparse

    identity = sparse.identity(inputs * levels)
    least = sparse.kron(np.ones((inputs, 1)), sparse.identity(levels))
    return sparse.bmat([[-identity, least], [identity, -math.exp(epsilon) * least]]).tocsr()


def _table(grid: np.ndarray, values: np.ndarray, epsilon: float) -> Table:
    """The kernel of the program, mixed with the uniform one until the program's tolerance breaks no ratio.

    The values are symmetric, so that the uniform kernel decodes to 0 on average, and values / (1 - share) keep the
    mixture unbiased.
    """
    rows = _program(grid, values, epsilon).x[: len(grid) * len(values)].reshape(len(grid), len(values))
    rows = np.maximum(rows, 0)
    rows /= rows.sum(axis=1, keepdims=True)

    def mixed(share: float) -> Table:
        return Table(grid, (1 - share) * rows + share / len(values), values / (1 - share))

    return mixed(accounting.least_noise(lambda share: mixed(share).pure_epsilon, epsilon, 1e-12, 0.5, 1e-3))
