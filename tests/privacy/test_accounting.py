from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbound.privacy import accounting


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 1.0, 3.0, 8.0, 50.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-5, 1e-2])
def test_gaussian_multiplier_solves_balle_and_wangs_condition(epsilon, delta):
    multiplier = accounting.gaussian_multiplier(epsilon, delta)
    normal = lambda x: math.erfc(-x / math.sqrt(2)) / 2  # noqa: E731
    half, shift = 1 / (2 * multiplier), epsilon * multiplier
    exact = normal(half - shift) - math.exp(epsilon) * normal(-half - shift)
    assert exact == pytest.approx(delta, rel=1e-6, abs=1e-15)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 100), st.floats(1e-12, 0.4))
def test_gaussian_multiplier_agrees_with_the_library(epsilon, delta):
    import dp_accounting

    expected = dp_accounting.get_sigma_gaussian(epsilon, delta)
    assert accounting.gaussian_multiplier(epsilon, delta) == pytest.approx(expected, rel=1e-8)


def test_analytic_gaussian_known_values():
    # delta at epsilon 0 is the total variation distance 2 Phi(1/(2m)) - 1
    assert accounting.gaussian_delta(0.5, 0.0) == pytest.approx(math.erf(1 / math.sqrt(2)), rel=1e-14)
    # no more noise than the classic formula where that is valid
    assert accounting.gaussian_multiplier(1.0, 1e-5) < math.sqrt(2 * math.log(1.25e5))


@pytest.mark.parametrize("multiplier", [0.2, 1.0, 7.0, 300.0])
@pytest.mark.parametrize("delta", [1e-30, 1e-9, 1e-5])
def test_gaussian_epsilon_is_a_tight_upper_bound(multiplier, delta):
    epsilon = accounting.gaussian_epsilon(multiplier, delta)
    assert accounting.gaussian_delta(multiplier, epsilon) <= delta * (1 + 1e-6)
    # 0.1 % less epsilon would not hold any more
    assert accounting.gaussian_delta(multiplier, epsilon * 0.999) > delta


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 6.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-5, 1e-2])
def test_laplace_epsilon_against_its_closed_form(epsilon, delta):
    # delta(e) = 1 - exp((e - epsilon) / 2) for 0 <= e <= epsilon
    assert accounting.laplace_epsilon(1 / epsilon, delta) == pytest.approx(epsilon + 2 * math.log1p(-delta), rel=1e-4)


@pytest.mark.parametrize("parts", [2, 4, 16])
def test_laplace_in_one_dimension_dominates_the_same_l1_move_in_many(parts):
    """What lets a one-dimensional loss distribution stand for vectors, checked where the move is spread evenly."""
    from dp_accounting.pld import privacy_loss_distribution

    for epsilon in (0.5, 2.0, 6.0):
        spread = privacy_loss_distribution.from_laplace_mechanism(parts / epsilon).self_compose(parts)
        for delta in (1e-6, 1e-3, 0.1):
            assert spread.get_epsilon_for_delta(delta) <= accounting.laplace_epsilon(1 / epsilon, delta) + 1e-3


def test_laplace_rdp_against_integration():
    x = np.linspace(-60, 61, 1_000_001)
    log_p, log_q = -np.abs(x - 1) / 1.5, -np.abs(x) / 1.5
    for alpha in (2, 7):
        integral = np.exp(alpha * log_p + (1 - alpha) * log_q).sum() * (x[1] - x[0]) / 3.0
        assert accounting.laplace_rdp([alpha], 1.5)[0] == pytest.approx(math.log(integral) / (alpha - 1), rel=1e-4)


def test_skellam_rdp_by_hand():
    # alpha 2, l1 3, l2^2 4, variance 10: 2*4/20 + min((3*4 + 18)/400, 9/20)
    assert accounting.skellam_rdp([2], 3.0, 2.0, 10.0)[0] == pytest.approx(0.4 + 0.075)
    # alpha 50: the second bound is the smaller: 50*4/20 + 9/20 < 10 + (99*4 + 18)/400
    assert accounting.skellam_rdp([50], 3.0, 2.0, 10.0)[0] == pytest.approx(10.45)


@pytest.mark.parametrize(("shift", "rate"), [(1, 2.0), (1, 30.0), (3, 20.0), (10, 200.0)])
def test_skellam_rdp_bounds_the_exact_divergence(shift, rate):
    """The published bound against the divergence of the exact pmf in one dimension: above it, and close."""
    from scipy.special import ive

    k = np.arange(-1500, 1501)
    log_pmf = lambda x: np.log(np.maximum(ive(np.abs(x), 2 * rate), 1e-300))  # noqa: E731
    log_p, log_q = log_pmf(k - shift), log_pmf(k)
    keep = (log_p > -600) & (log_q > -600)
    for alpha in (2, 3, 8, 20):
        exponent = (alpha * log_p + (1 - alpha) * log_q)[keep]
        exact = np.logaddexp.reduce(exponent) / (alpha - 1)
        bound = accounting.skellam_rdp([alpha], shift, shift, 2 * rate)[0]
        assert exact <= bound
        if rate >= 20 and alpha <= 8:
            assert bound <= 1.2 * exact


def test_skellam_rdp_tends_to_the_gaussians():
    orders = np.array([2, 16, 128])
    rdp = accounting.skellam_rdp(orders, 1e3, 1e3, 1e9)
    np.testing.assert_allclose(rdp, orders * 1e6 / 2e9, rtol=1e-2)


def test_rdp_epsilon_by_hand():
    # Canonne, Kamath, Steinke, Proposition 12: rdp + ln(1 - 1/a) - ln(delta a)/(a - 1)
    expected = 0.5 + math.log(1 - 1 / 10) - math.log(1e-5 * 10) / 9
    assert accounting.rdp_epsilon([10], [0.5], 1e-5) == pytest.approx(expected, rel=1e-12)


def test_orders_reach_small_epsilon():
    """For the Gaussian the conversion stays within 25 % of the exact epsilon over four decades."""
    for epsilon in (0.001, 0.1, 1.0, 10.0):
        multiplier = accounting.gaussian_multiplier(epsilon, 1e-6)
        rdp = np.array(accounting.ORDERS) / (2 * multiplier**2)
        converted = accounting.rdp_epsilon(accounting.ORDERS, rdp, 1e-6)
        assert epsilon <= converted <= 1.25 * epsilon
    assert list(accounting.ORDERS) == sorted(set(accounting.ORDERS))


def test_least_noise():
    assert accounting.least_noise(lambda x: 1 / x, 0.25, 1.0, 100.0) == pytest.approx(4.0, rel=1e-11)
    assert 1 / accounting.least_noise(lambda x: 1 / x, 0.3, 1.0, 100.0) <= 0.3
    assert accounting.least_noise(lambda x: 1 / x, 2.0, 1.0, 100.0) == 1.0
    with pytest.raises(ValueError, match="no noise"):
        accounting.least_noise(lambda x: 1 / x, 0.001, 1.0, 100.0)


def test_shuffled_epsilon_is_within_the_published_bounds():
    """apple/ml-shuffling-amplification: 0.1675385583 to 0.1727905508."""
    assert 0.16753 < accounting.shuffled_epsilon(100_000, 4.0, 1e-6) < 0.17280
    assert accounting.shuffled_epsilon(1, 1.0, 1e-6) == 1.0  # alone, nothing is amplified
    assert accounting.shuffled_epsilon(1000, 1.0, 1e-6) < accounting.shuffled_epsilon(100, 1.0, 1e-6) < 1.0


def test_importing_the_stage_is_light():
    code = (
        "import sys, fedbound.privacy.stage, fedbound.privacy.mechanisms as m; m.available();"
        "print([x for x in ('dp_accounting', 'scipy', 'torch', 'pandas', 'absl') if x in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
