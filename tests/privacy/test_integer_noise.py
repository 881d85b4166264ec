"""Integer noise shares other than Skellam's: samplers against pmfs, accounting against exact and published values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from privacy_cases import assert_closed_form, chi_square

from fedbound.privacy import accounting, loss, mechanisms, stage
from fedbound.privacy.mechanisms import Setting, binomial, ddgauss


@pytest.mark.parametrize("sigma", [0.3, 1.0, 1.9, 7.5, 400.0])
def test_discrete_gaussian_has_its_pmf(sigma):
    """Chi-square at a false-alarm rate of 1e-5, against the pmf normalised over 12 standard deviations."""
    reach = math.ceil(12 * sigma + 2)
    pmf = np.exp(-np.square(np.arange(-reach, reach + 1)) / (2 * sigma**2))
    drawn = ddgauss.discrete_gaussian(sigma, (200, 1000), np.random.default_rng(1))
    assert (drawn.dtype, drawn.shape) == (np.int64, (200, 1000))
    observed = np.bincount(drawn.ravel() + reach, minlength=2 * reach + 1)
    statistic, limit = chi_square(observed, pmf / pmf.sum(), 1e-5)
    assert statistic < limit


def test_binomial_share_has_its_pmf():
    """Chi-square at a false-alarm rate of 1e-5."""
    from scipy.stats import binom

    p = binomial.Parameters(noise=3.0, scale=2.0, limit=4.0, size=4, clients=4, honest=4)
    assert p.trials == 36
    assert p.share_variance == 9.0
    observed = np.bincount(p.draw((100, 1000), np.random.default_rng(2)).ravel() + 18, minlength=37)
    statistic, limit = chi_square(observed, binom.pmf(np.arange(37), 36, 0.5), 1e-5)
    assert statistic < limit


def test_ddgauss_rdp_by_hand():
    """Two shares of variance 1/4: tau = 10 exp(-pi^2/4), root = sqrt(1/2)."""
    tau = 10 * math.exp(-(math.pi**2) / 4)
    l1, l2 = 3 * math.sqrt(2), 2 * math.sqrt(2)
    bounds = [1.5 * l2**2 + 8 * tau, 1.5 * (l2**2 + 2 * l1 * tau + 8 * tau**2), 1.5 * (l2 + math.sqrt(8) * tau) ** 2]
    assert accounting.ddgauss_rdp([3], 3.0, 2.0, 0.25, 2, 8)[0] == pytest.approx(min(bounds))
    # wide shares: the Gaussian's alpha l2^2 / (2 n sigma^2)
    assert accounting.ddgauss_rdp([5], 9.0, 3.0, 100.0, 10, 64)[0] == pytest.approx(5 * 9 / 2000, rel=1e-9)


@pytest.mark.parametrize("sigma2", [0.5, 1.0, 4.0])
def test_ddgauss_rdp_bounds_the_exact_divergence_of_a_sum(sigma2):
    z = np.arange(-60, 61)
    share = np.exp(-(z**2) / (2 * sigma2))
    share /= share.sum()
    total = np.array([1.0])
    for _ in range(5):
        total = np.convolve(total, share)
    p, q = np.append(0.0, total), np.append(total, 0.0)
    keep = (p > 1e-250) & (q > 1e-250)
    for alpha in (2, 5, 16):
        exact = loss.renyi(p[keep], q[keep], [alpha])[0]
        bound = accounting.ddgauss_rdp([alpha], 1.0, 1.0, sigma2, 5, 1)[0]
        assert exact <= bound * (1 + 1e-9)
        if sigma2 >= 1:
            assert bound <= 1.2 * exact


# multiples of the central Gaussian's error at epsilon 1, 3, 6 that the note measured (five repetitions, 5 to 10 %)
NOTED = {
    ("ddgauss", 1000, 10): (7.1, 28, 83),
    ("ddgauss", 1000, 12): (1.63, 2.13, 5.4),
    ("skellam", 1000, 10): (7.7, 10.8, 21),
    ("skellam", 1000, 12): (1.66, 1.82, 2.54),
    ("ddgauss", 100, 10): (1.31, 1.27, 1.18),
    ("skellam", 100, 12): (1.25, 1.28, 1.15),
}


@pytest.mark.parametrize("case", NOTED)
def test_published_mean_estimation(case):
    name, clients, bits = case
    for epsilon, noted in zip((1, 3, 6), NOTED[case], strict=True):
        setting = Setting(epsilon, 1e-5, clients, 250, 10.0)
        release = mechanisms.get(name, bits=bits, deviations=2).calibrate(setting)
        assert release.mse / mechanisms.get("gaussian").calibrate(setting).mse == pytest.approx(noted, rel=0.12)


@pytest.mark.parametrize("name", ["ddgauss", "binomial"])
@pytest.mark.parametrize(("options", "epsilon", "clients"), [({}, 3.0, 60), ({"bits": 10}, 6.0, 100)])
def test_error_is_the_closed_form(name, options, epsilon, clients):
    release = mechanisms.get(name, **options).calibrate(Setting(epsilon, 1e-5, clients, 100, 1.0))
    assert_closed_form(release, stage.clients(clients, 100, 1.0, "L2", seed=2), 60)


@pytest.mark.parametrize(("trials", "shift"), [(2000, 1), (400, 4), (10_000, 20)])
def test_binomial_epsilon_is_above_the_exact_one_and_close(trials, shift):
    from scipy.stats import binom

    pmf = binom.pmf(np.arange(trials + 1), trials, 0.5)
    p, q = np.append(np.zeros(shift), pmf), np.append(pmf, np.zeros(shift))
    exact = loss.from_pmfs(p, q).epsilon(1e-5)
    bound = accounting.binomial_epsilon(float(shift), trials, 1, 1e-5)
    assert exact <= bound <= 1.25 * exact


def test_binomial_exact_epsilon_is_the_notes_and_far_below_cpsgds_theorem():
    from scipy.stats import binom

    for trials, exact in ((2000, 0.1419), (10_000, 0.0586)):
        pmf = binom.pmf(np.arange(trials + 1), trials, 0.5)
        pair = loss.from_pmfs(np.append(0.0, pmf), np.append(pmf, 0.0))
        assert pair.epsilon(1e-5) == pytest.approx(exact, rel=2e-3)


def test_binomial_divergence_per_squared_move_grows_with_the_move():
    """Why the maximum over moves may be taken at the end: while alpha t stays inside the outputs, here 140 wide."""
    from scipy.stats import binom

    outputs = np.arange(60, 341)
    rates = []
    for t in range(1, 13):
        p, q = binom.pmf(outputs - t, 400, 0.5), binom.pmf(outputs, 400, 0.5)
        rates.append(loss.renyi(p / p.sum(), q / q.sum(), [2, 4, 8]) / t**2)
    assert (np.diff(rates, axis=0) > 0).all()


def test_binomial_with_too_few_coins_has_no_epsilon():
    assert accounting.binomial_epsilon(3.0, 20, 4, 1e-5) == math.inf
    assert accounting.binomial_epsilon(0.5, 20, 4, 1e-5) == 0.0


@pytest.mark.parametrize("name", ["skellam", "ddgauss", "binomial"])
def test_spread_neighbours_nearly_reach_the_gaussian_limit(name):
    """Shown beside the claim: the loss distribution of evenly spread neighbours, at fine scale the Gaussian's."""
    release = mechanisms.get(name, bits=20).calibrate(Setting(2.0, 1e-5, 50, 64, 1.0))
    limit = accounting.gaussian_exact(release.noise, 1e-5)
    assert limit * 0.98 < release.accounts().pld < limit * 1.02
    assert release.accounts().rdp == release.guarantee.epsilon


@pytest.mark.parametrize("name", ["skellam", "ddgauss", "binomial"])
def test_pmf_of_the_summed_noise(name):
    release = mechanisms.get(name, bits=12).calibrate(Setting(2.0, 1e-5, 50, 64, 1.0))
    parameters = release.parameters
    pmf = parameters.noise_pmf(50)
    z = np.arange(len(pmf)) - len(pmf) // 2
    assert pmf.sum() == pytest.approx(1, rel=1e-9)
    assert pmf @ z**2 == pytest.approx(50 * parameters.share_variance, rel=1e-3)
