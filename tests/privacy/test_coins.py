"""Counts of coins biased one by one: against the binomial law, at every part of a cell of the grid."""

from __future__ import annotations

import numpy as np
import pytest
from privacy_cases import chi_square
from scipy.stats import binom

from fedbound.privacy import coins


@pytest.mark.parametrize(("trials", "theta"), [(1, 0.25), (16, 0.1), (163, 0.25), (400, 0.02)])
def test_counts_are_binomial_wherever_the_bias_lies_in_its_cell(trials, theta):
    """Chi-square at a false-alarm rate of 1e-6 for each of five biases: both ends, the middle, near a cell's ends."""
    shape = coins._shape(trials, theta)
    grid = coins._grid(trials, shape)
    cell = (shape.first + shape.biases // 2) / shape.steps
    for i, bias in enumerate((0.5 - theta, 0.5, 0.5 + theta, cell + 0.01 / shape.steps, cell + 0.99 / shape.steps)):
        drawn = grid.draw(np.full(100_000, bias), np.random.default_rng([7, i]))
        observed = np.bincount(drawn, minlength=trials + 1)
        statistic, limit = chi_square(observed, binom.pmf(np.arange(trials + 1), trials, bias), 1e-6)
        assert statistic < limit


def test_each_coordinate_has_its_own_bias():
    """Means of 20,000 counts at each of 64 biases: within 6 standard errors, false alarms below 1e-6 in all."""
    bias = np.linspace(0.35, 0.65, 64)
    drawn = coins.counts(16, np.tile(bias, (20_000, 1)), 0.15, np.random.default_rng(2))
    assert (drawn.dtype, drawn.shape) == (np.int64, (20_000, 64))
    error = drawn.mean(axis=0) - 16 * bias
    assert np.abs(error / np.sqrt(16 * bias * (1 - bias) / 20_000)).max() < 6


def test_second_chances_are_rare_and_bounded_as_said():
    """The bound on their probability, for all biases at the upper end of a cell, holds and is at most what is said."""
    for trials, theta, most in ((1, 0.25, 0.25), (16, 0.1, 0.25), (512, 0.03, 0.25), (163, 0.25, 0.5), (3, 0.0, 0.25)):
        shape = coins._shape(trials, theta)
        grid = (shape.first + np.arange(shape.biases)) / shape.steps
        again = np.minimum(1, 1 / shape.steps / (1 - grid))
        bound = trials / shape.steps / shape.least_failure
        assert (1 - (1 - again) ** trials <= bound).all()
        assert most / 2 < bound <= most
        assert grid[0] <= 0.5 - theta
        assert grid[-1] + 1 / shape.steps > 0.5 + theta


def test_truncated_inversion_is_the_survival_functions():
    rng = np.random.default_rng(3)
    trials, bias = rng.integers(1, 200, 500), rng.random(500) * 0.02
    uniform = rng.random(500) * 0.5
    found = coins._truncated(trials, bias, uniform)
    assert found.max() > 3
    assert (binom.sf(found, trials, bias) <= uniform + 1e-12).all()
    assert ((found == 0) | (binom.sf(found - 1, trials, bias) > uniform - 1e-12)).all()


NUMPYS = [
    (16, 0.1, 10_000),
    (512, 0.03, 100_000),
    (10_485, 0.0017, 30_000),
    (10_485, 0.0017, 500_000),
    (20_000, 0.1, 100_000),
    (40_000, 1e-4, 10_000),
]


@pytest.mark.parametrize(("trials", "theta", "size"), NUMPYS)
def test_few_counts_or_many_coins_are_numpys(trials, theta, size):
    bias = np.linspace(0.5 - theta, 0.5 + theta, size)
    drawn = coins.counts(trials, bias, theta, np.random.default_rng(1))
    assert np.array_equal(drawn, np.random.default_rng(1).binomial(trials, bias))


def test_a_table_takes_no_more_memory_than_said_and_is_not_made_for_few_counts(monkeypatch):
    """The largest that fit: by biases, and by outcomes."""
    table = coins._grid(512, coins._shape(512, 0.2)).table
    per_bias, per_outcome = 2 << coins._CELL_BITS, table.low.itemsize + table.high.itemsize
    biases = len(table.last)
    assert table.known.nbytes == biases * per_bias
    assert table.low.nbytes + table.high.nbytes == biases * 513 * per_outcome
    assert coins._MOST_BIASES * per_bias + coins._MOST_OUTCOMES * per_outcome < 17.5e6
    made = []
    monkeypatch.setattr(coins, "_grid", lambda trials, shape: made.append(trials * shape.biases) or Nothing)
    for trials in (1, 16, 163, 512, 2000, 10_485, 30_000):
        for theta in (1e-4, 0.0017, 0.03, 0.25, 0.4):
            biases = coins._shape(trials, theta).biases
            fits = biases <= coins._MOST_BIASES and biases * (trials + 1) <= coins._MOST_OUTCOMES
            worth = 3 * biases * (trials + 64)
            for size in (worth - 1, worth):
                made.clear()
                coins.counts(trials, np.broadcast_to(0.5, min(size, 2_000_000)), theta, Nothing)
                assert made == ([trials * biases] if fits and worth <= size <= 2_000_000 else [])


class Nothing:
    """Draws no time."""

    @staticmethod
    def binomial(trials, bias):
        return bias

    @staticmethod
    def draw(part, rng):
        return 0


def test_weights_are_the_binomials():
    weights = [float(weight) for weight in coins._weights(30, 13, 32)]
    assert np.allclose(np.array(weights) / sum(weights), binom.pmf(np.arange(31), 30, 13 / 32), rtol=1e-12)
