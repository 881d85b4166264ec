"""The time of a message as a line in its size, by least squares, and how far the measured times are from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_LEAST = 1e-9  # seconds: a line through measured times may have no fixed part
_SHORTEST = 1e-6  # seconds that are told from nothing
_LEAST_SLOPE = 1e-15  # seconds per byte


@dataclass(frozen=True)
class Line:
    """fixed + each * bytes.

    Attributes:
        fixed: seconds of a message whatever its size.
        each: seconds per byte.
        sizes: (m,) bytes that were measured.
        medians: (m,) seconds, the median of each size's samples.
    """

    fixed: float
    each: float
    sizes: np.ndarray
    medians: np.ndarray

    def seconds(self, size: Any) -> Any:
        return self.fixed + self.each * size

    @property
    def residuals(self) -> np.ndarray:
        """(m,) measured over fitted, less one."""
        found: np.ndarray = self.medians / self.seconds(self.sizes) - 1
        return found


def line(samples: Mapping[int, Sequence[float]]) -> Line:
    """Least squares of the relative residuals through the median of each size, so that small messages count too.

    Neither coefficient is let below zero: where the best line has a negative one, the best without it is taken.

    Args:
        samples: seconds by message size; at least one size.
    """
    sizes = np.array(sorted(samples), np.float64)
    medians = np.maximum([np.median(samples[int(size)]) for size in sizes], _SHORTEST)
    design = np.stack([np.ones_like(sizes), sizes], axis=1) / medians[:, None]
    both = np.linalg.lstsq(design, np.ones(len(sizes)), rcond=None)[0]
    if len(sizes) == 1 or both[0] < 0 or both[1] < 0:
        alone = design.sum(axis=0) / (design**2).sum(axis=0)  # each coefficient's own least squares
        gaps = [((1 - design[:, i] * alone[i]) ** 2).sum() for i in range(2)]
        keep = 0 if len(sizes) == 1 or gaps[0] <= gaps[1] else 1
        both = np.where(np.arange(2) == keep, alone, 0.0)
    return Line(max(float(both[0]), _LEAST), max(float(both[1]), _LEAST_SLOPE), sizes, medians)


def rows(what: str, fitted: Line) -> list[dict[str, Any]]:
    """Rows of the table PROFILE_MESSAGES: the model and, for each size, what was measured and its residual."""
    return [
        {
            "what": what,
            "bytes": int(size),
            "measured": float(seconds),
            "fitted": float(fitted.seconds(size)),
            "residual": float(residual),
            "fixed_seconds": fitted.fixed,
            "byte_seconds": fitted.each,
        }
        for size, seconds, residual in zip(fitted.sizes, fitted.medians, fitted.residuals, strict=True)
    ]


def by_size(rows: Sequence[Mapping[str, Any]], key: str = "seconds") -> dict[int, list[float]]:
    """Samples of `key` by the rows' bytes."""
    found: dict[int, list[float]] = {}
    for row in rows:
        found.setdefault(int(row["bytes"]), []).append(float(row[key]))
    return found
