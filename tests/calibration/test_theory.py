"""Bound and variance of the aggregate's error: exact by hand, and by codecs and residuals on drawn values.

Statistical tests compare second moments of n values whose relative standard error is below sqrt(2 / n); they allow
five of those, a false alarm in 2 million.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbound.calibration import theory

SILOS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 10)), min_size=1, max_size=8)


def quantize(x: np.ndarray, bound: float) -> np.ndarray:
    return 2 * bound * np.rint(x / (2 * bound)) if bound else x.copy()


def test_equal_weights_by_hand():
    """K equal silos: bound b, standard deviation b / sqrt(3 K)."""
    found = theory.aggregated([0.25] * 4, [0.3] * 4)
    assert found.bound == pytest.approx(0.3)
    assert found.sd == pytest.approx(0.3 / math.sqrt(12))


def test_unequal_weights_moments_and_correlation_by_hand():
    found = theory.aggregated([0.5, 0.25], [2.0, 4.0], moments=[1.0, 4.0], correlation=0.5)
    assert found.bound == pytest.approx(2.0)
    assert found.variance == pytest.approx(0.25 * 1 + 0.0625 * 4 + 0.5 * (2 * 0.5 * 0.25 * 1 * 2))


@given(SILOS, st.integers(0, 2**32 - 1))
def test_the_bound_holds_for_any_errors_within_the_silos_bounds(silos, seed):
    weights, bounds = (np.array(column) for column in zip(*silos, strict=True))
    rng = np.random.default_rng(seed)
    errors = rng.choice([-1.0, 1.0, 0.3], size=(len(silos), 50)) * bounds[:, None]
    found = theory.aggregated(weights, bounds)
    assert np.abs(weights @ errors).max() <= found.bound * (1 + 1e-12) + 1e-300
    assert np.abs(weights @ np.broadcast_to(bounds[:, None], (len(silos), 1))).max() == pytest.approx(found.bound)


@given(SILOS, st.floats(-0.1, 1))
def test_correlation_is_the_inverse_of_the_variance(silos, rho):
    weights, moments = zip(*silos, strict=True)
    variance = theory.aggregated(weights, np.sqrt(moments), moments, rho).variance
    found = theory.correlation(weights, moments, variance)
    alone = float(np.square(weights) @ np.array(moments))
    together = float(np.array(weights) @ np.sqrt(moments)) ** 2 - alone
    assert found == (pytest.approx(rho, abs=1e-6 + 1e-9 * alone / together) if together > 1e-6 * alone else found)
    assert math.isfinite(found)


def test_quantizing_normal_values_at_half_a_standard_deviation_gives_the_uniform_variance():
    """The premise: at b = sd / 2 the second moment of the error is that of the uniform law within 2 %."""
    n = 200_000
    x = np.random.default_rng(0).normal(size=(6, n))
    weights = np.array([0.1, 0.1, 0.15, 0.15, 0.2, 0.3])
    bounds = [0.5, 0.4, 0.3, 0.2, 0.1, 0.5]
    error = sum(w * (x_k - quantize(x_k, b)) for w, x_k, b in zip(weights, x, bounds, strict=True))
    found = theory.aggregated(weights, bounds)
    assert np.abs(error).max() <= found.bound
    assert error.std() / found.sd == pytest.approx(1, abs=0.02)


def test_beyond_that_the_silos_second_moments_still_predict_it():
    """At b = 3 sd the uniform law is far off; the reported moments are not (errors of silos are independent here)."""
    n = 100_000
    x = np.random.default_rng(1).laplace(size=(5, n))
    errors = np.stack([x_k - quantize(x_k, 3 * 2**0.5) for x_k in x])
    weights = np.full(5, 0.2)
    moments = np.square(errors).mean(1)
    measured = np.square(weights @ errors).mean()
    kurtosis = 6  # Laplace; the mean of five has less, which only makes the test stricter
    assert theory.aggregated(weights, [3 * 2**0.5] * 5).variance > 1.5 * measured
    assert measured == pytest.approx(
        theory.aggregated(weights, moments, moments).variance, rel=5 * (kurtosis / n) ** 0.5
    )
    assert abs(theory.correlation(weights, moments, measured)) < 5 * (kurtosis / n) ** 0.5


@pytest.mark.parametrize("feedback", [True, False])
def test_error_feedback_telescopes(feedback):
    """Over 20 rounds: exact identity of the sum, and its variance with and without feedback."""
    rng = np.random.default_rng(2)
    silos, rounds, n = 4, 20, 50_000
    weights = np.array([0.4, 0.3, 0.2, 0.1])
    bounds = rng.uniform(0.05, 0.3, size=(rounds, silos))
    residual = np.zeros((silos, n))
    wanted, sent = np.zeros(n), np.zeros(n)
    before = np.zeros(silos)
    for bound in bounds:
        x = rng.normal(size=(silos, n))
        v = x + residual if feedback else x
        decoded = np.stack([quantize(one, b) for one, b in zip(v, bound, strict=True)])
        step = weights @ (decoded - x)
        one = theory.one_round(weights, bound, before if feedback else np.zeros(silos))
        assert np.abs(step).max() <= one.bound * (1 + 1e-12)
        assert np.square(step).mean() == pytest.approx(one.variance, rel=5 * math.sqrt(2 / n) + 0.01)
        if feedback:
            residual = v - decoded
        wanted, sent = wanted + weights @ x, sent + weights @ decoded
        before = bound
    if feedback:
        np.testing.assert_allclose(sent - wanted, -(weights @ residual), atol=1e-12)
    found = theory.whole_run(weights, list(bounds), feedback)
    assert np.abs(sent - wanted).max() <= found.bound
    assert np.square(sent - wanted).mean() == pytest.approx(found.variance, rel=5 * math.sqrt(2 / n) + 0.01)


def test_a_ring_that_encodes_at_every_hop_reaches_k_minus_1_bounds():
    """Partial sums pass K - 1 links and are encoded at each; with values that round the same way the bound is met."""
    silos, bound, n = 8, 0.25, 4000
    rng = np.random.default_rng(3)

    def ring(x: np.ndarray) -> np.ndarray:
        total = x[0]
        for x_k in x[1:]:
            total = quantize(total, bound) + x_k
        return total

    x = rng.normal(size=(silos, n))
    error = ring(x) - x.sum(0)
    assert np.abs(error).max() <= (silos - 1) * bound
    assert np.square(error).mean() == pytest.approx((silos - 1) * bound**2 / 3, rel=5 * math.sqrt(2 / n) + 0.01)
    worst = np.full((silos, 1), bound * (1 - 1e-9))  # each partial sum is just below half a step: all round down
    assert (worst.sum(0) - ring(worst))[0] == pytest.approx((silos - 1) * bound)


def test_misfits_are_refused():
    with pytest.raises(ValueError, match="one of each per silo"):
        theory.aggregated([0.5, 0.5], [1.0])
    with pytest.raises(ValueError, match="not negative"):
        theory.aggregated([0.5, 0.5], [1.0, -1.0])
    assert theory.correlation([1.0], [2.0], 2.0) == 0.0
