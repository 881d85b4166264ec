"""The Poisson-binomial mechanism: exact accounting against full enumeration, published values, the pipeline."""

from __future__ import annotations

import numpy as np
import pytest
from privacy_cases import assert_closed_form, chi_square

from fedbound.errors import InputError
from fedbound.privacy import accounting, loss, mechanisms, stage, transforms
from fedbound.privacy.mechanisms import Setting, pbm


def test_sum_pmfs_are_those_of_an_enumeration():
    """Three clients of two coins, theta 0.2: the client at 0.7 of its range, three of the others' coins at the top."""
    (share, p, q), *_ = pbm.sum_pairs(3, 2, 0.2, (0.7,), (3,))
    coins = [0.7, 0.7, 0.7, 0.3]
    for pmf, own in ((p, 0.5 + 0.2 * 0.7), (q, 0.5)):
        expected = np.ones(1)
        for bias in [*coins, own, own]:
            expected = np.convolve(expected, [1 - bias, bias])
        np.testing.assert_allclose(pmf, expected, rtol=1e-12)
    assert share == 0.7


def test_cut_pmfs_give_the_same_divergences_as_whole_ones(monkeypatch):
    orders = accounting.COARSE_ORDERS[:60]
    cut = [loss.renyi(p, q, orders) for _, p, q in pbm.sum_pairs(400, 8, 0.1, (1.0, 0.3))]
    monkeypatch.setattr(pbm, "_REACH", 1000)
    whole = [loss.renyi(p, q, orders) for _, p, q in pbm.sum_pairs(400, 8, 0.1, (1.0, 0.3))]
    np.testing.assert_allclose(cut, whole, rtol=1e-6)


def test_no_mix_of_the_others_exceeds_the_grid_by_much():
    """All mixes of 4 coins of 9 others against the nine of the grid: at each order within 1 %."""
    orders = accounting.COARSE_ORDERS[:40]
    every = [loss.renyi(p, q, orders) for _, p, q in pbm.sum_pairs(10, 4, 0.25, (1.0,), range(37))]
    grid = [loss.renyi(p, q, orders) for _, p, q in pbm.sum_pairs(10, 4, 0.25)]
    assert (np.max(grid, axis=0) >= 0.99 * np.max(every, axis=0)).all()


def test_renyi_of_the_note():
    """m 16, n 40, theta 0.1, replacement: order 2 exactly 0.0669; zero-out is a quarter of it for small theta."""
    from scipy.stats import binom

    worst = 0.0
    for high in range(0, 625, 39):
        rest = np.convolve(
            binom.pmf(np.arange(high + 1), high, 0.6), binom.pmf(np.arange(624 - high + 1), 624 - high, 0.4)
        )
        p, q = (np.convolve(rest, binom.pmf(np.arange(17), 16, bias)) for bias in (0.6, 0.4))
        worst = max(worst, loss.renyi(p, q, [2])[0])
    assert worst == pytest.approx(0.0669, abs=6e-4)
    zero_out = max(loss.renyi(p, q, [2])[0] for _, p, q in pbm.sum_pairs(40, 16, 0.1))
    assert zero_out == pytest.approx(worst / 4, rel=0.03)


# theta and multiple of the central Gaussian's error that the note found at n 100: bits, epsilon
NOTED = {(10, 1): (0.12, 1.36), (12, 3): (0.159, 1.33), (12, 6): (0.25, 1.72), (14, 1): (0.031, 1.21)}


@pytest.mark.parametrize("case", NOTED)
def test_published_mean_estimation(case):
    bits, epsilon = case
    theta, ratio = NOTED[case]
    setting = Setting(epsilon, 1e-5, 100, 250, 10.0)
    release = mechanisms.get("pbm", bits=bits).calibrate(setting)
    assert release.theta == pytest.approx(theta, rel=0.01)
    assert release.mse / mechanisms.get("gaussian").calibrate(setting).mse == pytest.approx(ratio, rel=0.1)
    assert release.guarantee.epsilon <= epsilon
    if theta < 0.25:
        assert release.guarantee.epsilon >= 0.998 * epsilon


@pytest.mark.parametrize(("bits", "epsilon", "clients", "dimension"), [(12, 2.0, 60, 100), (9, 1.0, 2, 16)])
def test_error_is_the_closed_form(bits, epsilon, clients, dimension):
    release = mechanisms.get("pbm", bits=bits).calibrate(Setting(epsilon, 1e-5, clients, dimension, 1.0))
    assert_closed_form(release, stage.clients(clients, dimension, 1.0, "L2", seed=2), 100, slack=0.03)


def test_messages_have_their_pmf_and_decode_to_the_mean():
    from scipy.stats import binom

    release = mechanisms.get("pbm", bits=12).calibrate(Setting(2.0, 1e-5, 100, 4, 1.0))
    counts = release.encode(np.zeros((20_000, 4)), np.ones(4), np.random.default_rng(3))
    pmf = binom.pmf(np.arange(release.trials + 1), release.trials, 0.5)
    statistic, limit = chi_square(np.bincount(counts.ravel(), minlength=release.trials + 1), pmf, 1e-5)
    assert statistic < limit
    # exact unbiasedness: the expected counts decode to the clipped vector
    x = np.array([[0.1, -0.2, 0.3, 0.0]])
    signs = np.ones(4)
    rotated = transforms.rotate(x, signs)
    total = 100 * release.trials * (0.5 + release.theta * rotated[0] / release.reach)
    np.testing.assert_allclose(release.decode(total, signs), x[0], atol=1e-12)


def test_too_few_bits_for_the_clients_are_refused():
    with pytest.raises(InputError, match=r"privacy.mechanism.bits: 6 bits do not hold .* 100 clients; give at least 7"):
        mechanisms.get("pbm", bits=6).calibrate(Setting(1.0, 1e-5, 100, 4, 1.0))
    assert mechanisms.get("pbm", bits=7).calibrate(Setting(1.0, 1e-5, 100, 4, 1.0)).trials == 1
