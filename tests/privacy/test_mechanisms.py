from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from fedbound.errors import InputError
from fedbound.privacy import accounting, integer_noise, mechanisms, stage, transforms
from fedbound.privacy.mechanisms import Setting, skellam

NAMES = ("gaussian", "laplace", "skellam", "ddgauss", "binomial")
ANCHOR = Setting(epsilon=3.0, delta=1e-5, clients=100, dimension=250, clip=10.0)


def test_every_file_registers_a_mechanism_of_its_name():
    folder = Path(mechanisms.__file__).parent
    assert mechanisms.available() == sorted(file.stem for file in folder.glob("*.py") if file.stem != "__init__")


def test_unknown_name_and_parameter_are_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'skellam'"):
        mechanisms.get("skelam")
    with pytest.raises(InputError, match="did you mean 'bits'"):
        mechanisms.get("skellam", bit=8)
    with pytest.raises(InputError, match="bits"):
        mechanisms.get("skellam", bits=40)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("epsilon", [0.1, 1 / 3, 1.0, 3.0, 8.0])
def test_calibrated_epsilon_is_within_one_percent_below_the_target(name, epsilon):
    release = mechanisms.get(name).calibrate(Setting(epsilon, 1e-5, 100, 250, 10.0))
    guarantee = release.guarantee
    assert 0.99 * epsilon <= guarantee.epsilon <= epsilon
    assert guarantee.delta == 1e-5
    assert release.mse > 0
    assert (guarantee.trust, guarantee.adjacency) == (mechanisms.get(name).trust, "zero-out")
    assert guarantee.unit
    assert guarantee.accountant
    assert guarantee.sampling


@pytest.mark.parametrize(("epsilon", "published"), [(1, 0.1392), (3, 0.01934), (6, 0.005831)])
def test_central_gaussian_of_the_published_mean_estimation(epsilon, published):
    """Setting of the DDG and Skellam papers' mean estimation: n 100, d 250, c 10, delta 1e-5."""
    release = mechanisms.get("gaussian").calibrate(Setting(epsilon, 1e-5, 100, 250, 10.0))
    assert release.mse == pytest.approx(published, rel=5e-4)
    skellam16 = mechanisms.get("skellam", bits=16).calibrate(Setting(epsilon, 1e-5, 100, 250, 10.0))
    assert 1.0 < skellam16.mse / release.mse < 1.3


@pytest.mark.parametrize(("shares", "epsilon"), [(100, 3.0), (99, 3.018), (90, 3.177), (70, 3.673), (50, 4.441)])
def test_skellam_epsilon_when_noise_shares_are_missing(shares, epsilon):
    parameters = mechanisms.get("skellam").calibrate(ANCHOR).parameters
    assert parameters.epsilon(1e-5, shares) == pytest.approx(epsilon, abs=6e-4)


def test_skellam_without_secure_aggregation_protects_little():
    assert mechanisms.get("skellam").calibrate(ANCHOR).parameters.epsilon(1e-5, 1) == pytest.approx(54.8, abs=0.1)


def test_skellam_noise_and_sensitivities_are_those_of_the_paper():
    p = skellam.Parameters(noise=3.0, scale=2.0, limit=6.25, size=4, clients=10, honest=8)
    assert p.rate == pytest.approx(6.0**2 / 20)  # a Skellam share of variance 2 l, ten of them: (scale * noise)^2
    for limit, l1 in ((6.25, 2.5 * 2), (2.25, 1.5 * 1.5)):  # sqrt(D) l2 above l2 = sqrt(D), l2^2 below
        p = skellam.Parameters(noise=3.0, scale=2.0, limit=limit, size=4, clients=10, honest=8)
        rdp = accounting.skellam_rdp(accounting.ORDERS, l1, math.sqrt(limit), 36.0 * 8 / 10)
        assert p.epsilon(1e-5) == pytest.approx(accounting.rdp_epsilon(accounting.ORDERS, rdp, 1e-5), rel=1e-12)


def test_skellam_counts_only_honest_shares():
    release = mechanisms.get("skellam", honest=0.7).calibrate(ANCHOR)
    assert release.guarantee.epsilon == pytest.approx(3.0, rel=1e-9)
    assert release.parameters.epsilon(1e-5, 70) == release.guarantee.epsilon
    assert release.parameters.epsilon(1e-5, 100) < 3.0
    full = mechanisms.get("skellam").calibrate(ANCHOR)
    assert release.mse / full.mse == pytest.approx(1 / 0.7, rel=0.02)


def test_laplace_is_pure():
    release = mechanisms.get("laplace").calibrate(Setting(2.0, 1e-5, 50, 8, 3.0))
    assert release.scale == 3.0 / 2.0
    assert release.mse == pytest.approx(2 * 1.5**2 / 50**2)


def estimates(release, vectors, trials, seed=5):
    return np.array([release.estimate(vectors, np.random.default_rng([seed, t])) for t in range(trials)])


@pytest.mark.parametrize(("name", "kurtosis"), [("gaussian", 3), ("laplace", 6)])
def test_output_perturbation_error_is_the_closed_form(name, kurtosis):
    """z-test of the mean squared error over 400,000 independent errors at 5 sigma: false alarm 6e-7."""
    setting = Setting(1.5, 1e-5, 20, 4000, 2.0)
    mechanism = mechanisms.get(name)
    release = mechanism.calibrate(setting)
    vectors = stage.clients(20, 4000, 2.0, mechanism.norm, seed=1)
    squared = np.square(estimates(release, vectors, 100) - vectors.mean(axis=0)).ravel()
    assert release.mse == pytest.approx((release.noise / 20) ** 2, rel=1e-14)
    assert abs(squared.mean() - release.mse) < 5 * release.mse * math.sqrt((kurtosis - 1) / len(squared))


@pytest.mark.parametrize(
    ("options", "epsilon", "clients"),
    [
        ({}, 3.0, 100),  # noise dominates
        ({"bits": 10}, 6.0, 300),  # rounding dominates
        ({"bits": 12, "deviations": 1.5}, 0.3, 50),  # one sum in ten wraps around
        ({"bits": 20}, 1.0, 1),  # a single client
    ],
)
def test_skellam_error_is_the_closed_form(options, epsilon, clients):
    """z-test over independent trials at 4.5 sigma (7e-6), plus 2 % for taking rotated coordinates as normal."""
    setting = Setting(epsilon, 1e-5, clients, 200, 1.0)
    release = mechanisms.get("skellam", **options).calibrate(setting)
    vectors = stage.clients(clients, 200, 1.0, "L2", seed=2)
    squared = np.square(estimates(release, vectors, 120) - vectors.mean(axis=0)).mean(axis=1)
    assert abs(squared.mean() - release.mse) < 4.5 * squared.std(ddof=1) / math.sqrt(120) + 0.02 * release.mse


def test_the_three_cases_above_are_what_they_say():
    def shares(setting, **options):
        release = mechanisms.get("skellam", **options).calibrate(setting)
        p, n = release.parameters, setting.clients
        noise = (p.noise / n) ** 2
        rounding = integer_noise.rounding_variance((p.scale * setting.clip) ** 2 / p.size) / (n * p.scale**2)
        return noise / release.mse, rounding / release.mse, 1 - (noise + rounding) / release.mse

    assert shares(Setting(3.0, 1e-5, 100, 200, 1.0))[0] > 0.99
    assert shares(Setting(6.0, 1e-5, 300, 200, 1.0), bits=10)[1] > 0.1
    # where noise is most of the sum, wrapping bounds the squared error, at the price of an estimate shrunk to nothing
    assert shares(Setting(0.3, 1e-5, 50, 200, 1.0), bits=12, deviations=1.5)[2] < -0.4


def test_skellam_noise_share_is_skellam():
    """Chi-square of one client's message for a zero vector against the exact pmf at a false-alarm rate of 1e-5."""
    from scipy.special import ive
    from scipy.stats import chi2

    release = mechanisms.get("skellam", bits=8).calibrate(Setting(3.0, 1e-5, 20, 4, 1.0))
    rate = release.parameters.rate
    messages = release.encode(np.zeros((50_000, 4)), np.ones(4), np.random.default_rng(8)).ravel()
    # a zero vector is rounded to zero with certainty, so the message is the wrapped noise alone
    pmf = np.zeros(256)
    support = np.arange(-5000, 5001)
    np.add.at(pmf, transforms.wrap(support, 8) + 128, ive(np.abs(support), 2 * rate))
    assert pmf.sum() == pytest.approx(1.0, abs=1e-9)
    expected = pmf * len(messages)
    observed = np.bincount(messages + 128, minlength=256)
    common = expected > 10
    cells = np.append(observed[common], observed[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    assert common.sum() > 5
    if wanted[-1] < 1:  # an all but empty rest would not be chi-square distributed
        cells, wanted = cells[:-1], wanted[:-1]
    statistic = (np.square(cells - wanted) / wanted).sum()
    assert statistic < chi2.isf(1e-5, len(cells) - 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_long_vector_moves_the_estimate_no_further_than_its_clip(name):
    """With the same generator the noise is the same, so that what one huge client adds can be seen directly."""
    setting = Setting(1e4, 1e-5, 10, 16, 1.0)
    mechanism = mechanisms.get(name)
    release = mechanism.calibrate(setting)
    vectors = stage.clients(10, 16, 1.0, mechanism.norm, seed=4)
    without, huge = vectors.copy(), vectors.copy()
    without[0] = 0.0
    huge[0] *= 1e250
    moved = release.estimate(huge, np.random.default_rng(1)) - release.estimate(without, np.random.default_rng(1))
    length = transforms.norms(moved[None, :], 1 if mechanism.norm == "L1" else 2)[0]
    slack = 0.02 if name in ("skellam", "ddgauss", "binomial") else 1e-9  # roundings and draws differ after a client
    assert length <= setting.clip / 10 * (1 + slack)
    assert length > setting.clip / 10 * 0.9


def test_skellam_messages_fit_the_field_and_sum_to_the_estimate():
    release = mechanisms.get("skellam", bits=12).calibrate(ANCHOR)
    vectors = stage.clients(100, 250, 10.0, "L2", seed=6)
    signs = transforms.random_signs(256, np.random.default_rng(0))
    messages = release.encode(vectors, signs, np.random.default_rng(1))
    assert messages.shape == (100, 256)
    assert messages.min() >= -2048
    assert messages.max() < 2048
    mean = release.decode(transforms.wrap(messages.sum(axis=0), 12), signs)
    assert np.square(mean - vectors.mean(axis=0)).mean() < 3 * release.mse
    assert release.bits == pytest.approx(12 * 256 / 250)


def test_skellam_rounded_vectors_keep_the_sensitivity_that_is_accounted():
    release = mechanisms.get("skellam", bits=10).calibrate(ANCHOR)
    p = release.parameters
    rng = np.random.default_rng(2)
    vectors = stage.clients(2000, 250, 10.0, "L2", seed=9)
    rotated = transforms.rotate(transforms.clip_l2(vectors, 10.0), transforms.random_signs(256, rng)) * p.scale
    rounded = transforms.conditional_round(rotated, p.limit, rng)
    l2 = math.sqrt(p.limit)
    assert np.square(rounded).sum(axis=1).max() <= p.limit
    assert np.abs(rounded).sum(axis=1).max() <= l2 * min(math.sqrt(p.size), l2)


@pytest.mark.parametrize(
    ("setting", "options"),
    [
        (Setting(1.0, 1e-5, 10_000, 256, 1.0), {"bits": 4}),  # the clients' rounding alone overflows the field
        (Setting(0.05, 1e-5, 100, 4096, 1.0), {"bits": 6}),  # no noise within the field reaches epsilon
    ],
)
def test_skellam_refuses_a_field_that_is_too_small_and_says_what_would_do(setting, options):
    with pytest.raises(
        InputError, match=r"privacy.mechanism.bits: \d+ bits are too few.*give at least (\d+) bits"
    ) as e:
        mechanisms.get("skellam", **options).calibrate(setting)
    enough = int(str(e.value).split("at least ")[1].split()[0])
    assert mechanisms.get("skellam", bits=enough).calibrate(setting).guarantee.epsilon <= setting.epsilon
    with pytest.raises(InputError):
        mechanisms.get("skellam", bits=enough - 1).calibrate(setting)


@pytest.mark.parametrize("variance", [1e-6, 9.9e-4, 1.01e-3, 0.03, 0.3, 2.0])
def test_rounding_variance_against_quadrature(variance):
    x = np.linspace(-12, 12, 2_400_001) * math.sqrt(variance)
    fraction = x - np.floor(x)
    density = np.exp(-(x**2) / (2 * variance))
    expected = (fraction * (1 - fraction) * density).sum() / density.sum()
    assert integer_noise.rounding_variance(variance) == pytest.approx(expected, rel=1e-3)


def test_wrap_error_against_quadrature():
    """Sum X of variance V, its noise part e given X normal with mean (v/V) X: the squared error by integration."""
    noise, total, bits = 9.0, 25.0, 4
    x = np.linspace(-40, 40, 800_001)
    density = np.exp(-(x**2) / (2 * total))
    density /= density.sum()
    shift = np.floor((x + 8) / 16) * 16  # what wrapping into [-8, 8) takes off
    given = noise / total * x
    exact = (density * (noise * (1 - noise / total) + np.square(given - shift))).sum() - noise
    one_wrap = integer_noise.wrap_error(noise, total, bits)
    assert one_wrap == pytest.approx(exact, rel=0.02)  # a second wrap has probability 0.2 %
    assert integer_noise.wrap_error(noise, total, 10) == pytest.approx(0.0, abs=1e-12)


def test_nothing_beats_the_central_gaussian_at_the_same_guarantee():
    for epsilon in (0.5, 2.0, 8.0):
        setting = Setting(epsilon, 1e-5, 100, 256, 1.0)
        floor = (accounting.gaussian_multiplier(epsilon, 1e-5) / 100) ** 2
        assert mechanisms.get("gaussian").calibrate(setting).mse == pytest.approx(floor, rel=1e-5)
        assert mechanisms.get("skellam").calibrate(setting).mse > floor
