"""Statistics that several tests of mechanisms share."""

from __future__ import annotations

import math

import numpy as np


def chi_square(observed: np.ndarray, pmf: np.ndarray, rate: float) -> tuple[float, float]:
    """Pearson's statistic of counts against a pmf, rare cells pooled, and its limit at the false-alarm `rate`."""
    from scipy.stats import chi2

    expected = pmf * observed.sum()
    common = expected > 10
    cells = np.append(observed[common], observed[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    if wanted[-1] < 1:  # an all but empty rest would not be chi-square distributed
        assert cells[-1] < 20
        cells, wanted = cells[:-1], wanted[:-1]
    assert len(cells) > 1
    return float((np.square(cells - wanted) / wanted).sum()), float(chi2.isf(rate, len(cells) - 1))


def errors_of(release, vectors: np.ndarray, trials: int, seed: int = 5) -> np.ndarray:
    """Errors of independent estimates, float64 [trials, d]."""
    mean = vectors.mean(axis=0)
    return np.array([release.estimate(vectors, np.random.default_rng([seed, t])) - mean for t in range(trials)])


def assert_closed_form(release, vectors: np.ndarray, trials: int, sigmas: float = 4.5, slack: float = 0.02) -> None:
    """z-test of the mean squared error over independent trials, plus `slack` of the closed form."""
    squared = np.square(errors_of(release, vectors, trials)).mean(axis=1)
    limit = sigmas * squared.std(ddof=1) / math.sqrt(trials) + slack * release.mse
    assert abs(squared.mean() - release.mse) < limit, (squared.mean(), release.mse, limit)
