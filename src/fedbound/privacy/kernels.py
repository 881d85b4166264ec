"""Finite kernels: a number in [-1, 1] becomes one of K levels at random, and each level has a decoded value.

A kernel is a table: pmfs at some corners of [-1, 1], and between two corners the mixture of theirs (round to a corner
stochastically, then draw from its row). Likelihood ratios and divergences are then largest at corners, so that every
epsilon is exact: a ratio of two linear functions is monotone between corners, and Rényi and hockey-stick divergences
are convex in the pair of pmfs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Table:
    """A kernel whose pmf is linear in x between its corners.

    Attributes:
        corners: rising from -1 to 1, float64 [G].
        rows: the pmf at each corner, float64 [G, K].
        values: decoded value of each level, float64 [K].
    """

    corners: np.ndarray
    rows: np.ndarray
    values: np.ndarray

    @property
    def levels(self) -> int:
        return len(self.values)

    def _mixture(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The corner below each x, and the weight of the one above."""
        below = np.clip(np.searchsorted(self.corners, x, side="right") - 1, 0, len(self.corners) - 2)
        return below, (x - self.corners[below]) / (self.corners[below + 1] - self.corners[below])

    def pmf(self, x: np.ndarray) -> np.ndarray:
        """Exact pmf at each x in [-1, 1]: float64 [m] to [m, K]."""
        below, weight = self._mixture(np.asarray(x, dtype=np.float64))
        return self.rows[below] * (1 - weight)[:, None] + self.rows[below + 1] * weight[:, None]

    def mean(self, x: np.ndarray) -> np.ndarray:
        """Mean decoded value at each x: float64 [m]."""
        return np.interp(x, self.corners, self.rows @ self.values)

    def square(self, x: np.ndarray) -> np.ndarray:
        """Mean squared decoded value at each x: float64 [m]."""
        return np.interp(x, self.corners, self.rows @ np.square(self.values))

    def variance(self, x: np.ndarray) -> np.ndarray:
        """Variance of the decoded value at each x: float64 [m]."""
        return self.square(x) - np.square(self.mean(x))

    @cached_property
    def _thresholds(self) -> np.ndarray:
        return np.cumsum(self.rows, axis=1)[:, :-1]

    def sample(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A level for each x in [-1, 1], int64 of the same shape."""
        flat = np.asarray(x, dtype=np.float64).ravel()
        below, weight = self._mixture(flat)
        row = below + (rng.random(len(flat)) < weight)
        drawn = rng.random(len(flat))
        level = np.zeros(len(flat), dtype=np.int64)
        for column in self._thresholds.T:
            level += drawn >= column[row]
        return level.reshape(np.shape(x))

    @cached_property
    def pure_epsilon(self) -> float:
        """The largest log ratio of one level's probabilities at two inputs; inf where it can rule an input out."""
        used = self.rows.max(axis=0) > 0
        with np.errstate(divide="ignore"):
            logs = np.log(self.rows[:, used])
        return float((logs.max(axis=0) - logs.min(axis=0)).max())

    def worst_pair(self) -> tuple[np.ndarray, np.ndarray]:
        """The pmfs at the two corners whose ratio at one level is the largest."""
        used = np.flatnonzero(self.rows.max(axis=0) > 0)
        with np.errstate(divide="ignore"):
            logs = np.log(self.rows)
        level = used[np.argmax(logs[:, used].max(axis=0) - logs[:, used].min(axis=0))]
        return self.rows[int(np.argmax(logs[:, level]))], self.rows[int(np.argmin(logs[:, level]))]

    def pairs(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The pmfs of every two corners, once per unordered pair."""
        count = len(self.corners)
        return [(self.rows[i], self.rows[j]) for i in range(count) for j in range(i)]

    def renyi(self, orders: Sequence[float]) -> np.ndarray:
        """The largest Rényi divergence between two inputs at each order: float64 [len(orders)]."""
        from fedbound.privacy import loss

        both = [loss.renyi(*pair, orders) for p, q in self.pairs() for pair in ((p, q), (q, p))]
        return np.asarray(np.max(both, axis=0))
