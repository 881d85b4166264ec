"""What holds for every registered mechanism: a new file in `privacy/mechanisms` is tested here without being named."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pytest
from privacy_cases import assert_closed_form, chi_square, errors_of

from fedbound.privacy import audit, mechanisms, stage, transforms
from fedbound.privacy.mechanisms import Continuous, Setting
from fedbound.registry import MECHANISMS

FEW = {
    **{name: {"bits": 11} for name in ("skellam", "ddgauss", "binomial", "smm")},
    "mvu": {"bits": 1},
    "pbm": {"bits": 7},
    "d2pfed": {"levels": 64},
    "shifted_layered": {},
}
NAMES = mechanisms.available()
OPTIONS = [
    {"name": "pbm", "bits": 7, "rotation": "kashin"},
    {"name": "pbm", "bits": 7, "rotation": "none"},
    {"name": "grr", "rotation": "kashin", "coordinates": 2},
    {"name": "grr", "rotation": "none"},
    {"name": "grr", "rotation": "none", "norm": "Linf"},
    {"name": "noisy_sign", "rotation": "none", "norm": "Linf", "coordinates": 3},
    {"name": "grr", "aggregate": "shuffle"},
    {"name": "cldp", "aggregate": "shuffle"},
    {"name": "sqkr", "aggregate": "shuffle"},
    {"name": "vqsgd", "aggregate": "shuffle", "repeats": 2},
    {"name": "qmgeo", "debias": True},
    {"name": "imvu", "bits": 3},
    {"name": "skellam", "bits": 11, "rotation": "none"},
]
CHOICES = [*({"name": name, **FEW.get(name, {})} for name in NAMES), *OPTIONS]


def label(choice):
    return " ".join(str(value) for value in choice.values())


@lru_cache
def _release(key, epsilon, clients, dimension):
    return MECHANISMS.make(dict(key)).calibrate(Setting(epsilon, 1e-5, clients, dimension, 2.0))


def release_of(choice, epsilon=2.0, clients=audit.CLIENTS, dimension=1):
    return _release(tuple(choice.items()), epsilon, clients, dimension)


def values_of(release):
    """Clients' numbers at the clip, inside and at 0."""
    return release.setting.clip * np.array([0.37, 1, -1, -0.8, 0.5, 0, 0.11, 0.9])


def binned(law):
    """A real law as pmf over 64 bins of about equal probability, and their edges."""
    fine = np.linspace(law.low, law.high, 200_001)
    edges = np.interp(np.arange(1, 64) / 64, law.cdf(fine), fine)
    return np.diff(np.concatenate([[0.0], law.cdf(edges), [1.0]])), edges


@pytest.mark.parametrize("choice", CHOICES, ids=label)
def test_what_is_seen_has_its_exact_law(choice):
    """The pmf sums to 1 (a distribution function goes from 0 to 1); chi-square of 20,000 draws at 1e-6 each."""
    release = release_of(choice)
    values = values_of(release)
    law, seen = release.law(values), release.observe(values, 20_000, np.random.default_rng(3))
    if isinstance(law, Continuous):
        assert law.cdf(np.array([law.low, law.high])) == pytest.approx([0, 1], abs=1e-9)
        pmf, edges = binned(law)
        observed = np.bincount(np.searchsorted(edges, seen), minlength=len(pmf))
    else:
        assert (np.diff(law.outcomes) > 0).all()
        assert (law.pmf >= 0).all()
        pmf = law.pmf
        assert pmf.sum() == pytest.approx(1, abs=1e-9)
        assert np.isin(seen, law.outcomes).all()
        observed = np.bincount(np.searchsorted(law.outcomes, seen), minlength=len(pmf))
        group = 1 + len(pmf) // 256  # of wide sums, neighbouring outcomes together
        starts = np.arange(0, len(pmf), group)
        pmf, observed = np.add.reduceat(pmf, starts), np.add.reduceat(observed, starts)
    statistic, limit = chi_square(observed, pmf / pmf.sum(), 1e-6)
    assert statistic < limit


@pytest.mark.parametrize("choice", CHOICES, ids=label)
def test_decoding_is_exactly_unbiased_and_has_the_stated_variance(choice):
    """Of one client's message its value, of a sum the mean; the error of values at the clip is the closed form's.

    Not where the outcome alone does not say what is decoded. In one dimension a frame misses what it cannot spread, and
    its coefficients' law is simulated.
    """
    release, made = release_of(choice), MECHANISMS.make(choice)
    if choice.get("rotation") == "kashin" or choice["name"] == "sqkr" or made.trust == "shuffler":
        return
    for values in (values_of(release), np.full(audit.CLIENTS, release.setting.clip)):
        law = release.law(values)
        target = values[0] if made.trust == "local" else values.mean()
        if isinstance(law, Continuous):
            edges = np.linspace(law.low, law.high, 200_001)
            pmf, decoded = np.diff(law.cdf(edges)), (edges[1:] + edges[:-1]) / 2
            decoded = decoded if made.trust == "local" else decoded / release.setting.clients
        else:
            pmf, decoded = law.pmf, law.decoded
        mean, scale = float(pmf @ decoded), math.sqrt(float(pmf @ np.square(decoded - target)))
        if made.unbiased:
            assert abs(mean - target) < 1e-6 * scale
        elif made.trust != "local":
            assert abs(mean - target) < 0.02 * scale  # rounding and wrapping
    error = float(pmf @ np.square(decoded - target)) / (release.setting.clients if made.trust == "local" else 1)
    if choice["name"] == "cldp":  # the paper's bound, which leaves the squared mean out
        assert error < release.mse <= error + release.setting.clip**2 / release.setting.clients
        return
    if made.norm == "Linf":  # the closed form is of uniform values
        return
    # sums are rounded, and the closed form takes rounded numbers as normal
    assert release.mse == pytest.approx(error, rel=1e-4 if made.trust == "local" else 0.02)
    if made.unbiased:
        assert release.gain == pytest.approx(1, abs=1e-6)
    elif made.trust == "local":
        assert release.gain == pytest.approx(mean / target, rel=1e-6)


@pytest.mark.parametrize("choice", CHOICES, ids=label)
def test_the_claim_is_not_below_the_exact_epsilon_of_the_audited_pair(choice):
    """No draws, no rate of false alarms: the law of what is seen, for the worst pair of neighbours in one dimension."""
    for epsilon in (0.5, 1.0, 2.0, 4.0, 8.0):
        release = release_of(choice, epsilon)
        assert 0 < audit.exact(release) <= release.guarantee.epsilon * (1 + 1e-9) <= epsilon * (1 + 1e-8)


def test_exact_epsilon_of_known_pairs():
    assert audit.exact(release_of({"name": "cldp"}, 2.0)) == pytest.approx(2.0, rel=1e-4)  # pure, delta a little below
    assert audit.exact(release_of({"name": "gaussian"}, 1.0)) == pytest.approx(1.0, rel=1e-4)
    kept = np.array([0.9, 0.1])
    assert audit.loss_at(kept, kept[::-1], 0.0) == pytest.approx(math.log(9), abs=1e-9)
    assert audit.loss_at(kept, kept[::-1], 0.5) == pytest.approx(math.log(4), abs=1e-9)  # 0.9 - e^eps 0.1 = 0.5
    assert audit.loss_at(np.array([1.0, 0.0]), np.array([0.5, 0.5]), 0.1) == pytest.approx(math.log(1.8), abs=1e-9)
    assert audit.loss_at(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 0.1) == math.inf


@pytest.mark.parametrize("choice", CHOICES, ids=label)
def test_release_states_all_that_its_epsilon_needs(choice):
    release, made = release_of(choice, 2.0, 30, 48), MECHANISMS.make(choice)
    guarantee = release.guarantee
    # few bits cap what pbm can use
    assert (0.5 if choice["name"] == "pbm" else 0.99) * 2.0 <= guarantee.epsilon <= 2.0
    assert (guarantee.delta, guarantee.trust, guarantee.adjacency) == (1e-5, made.trust, made.adjacency)
    assert guarantee.unit
    assert guarantee.accountant
    assert guarantee.sampling
    assert release.bits > 0
    assert release.noise > 0
    accounts = release.accounts()
    assert accounts.pld > 0
    assert math.isnan(accounts.rdp) or accounts.pld <= accounts.rdp * 1.001


@pytest.mark.parametrize("choice", CHOICES, ids=label)
def test_error_bias_and_repetition(choice):
    """z-tests over 60 independent trials at 4.5 sigma (7e-6): the error against the closed form, plus 4 % for its
    approximations; the error along the clients' mean against the gain. The same generator gives the same estimate."""
    release, made = release_of(choice, 2.0, 30, 48), MECHANISMS.make(choice)
    vectors = stage.clients(30, 48, 2.0, made.norm, seed=2)
    assert_closed_form(release, vectors, 60, slack=0.04)
    aligned = np.abs(vectors)
    mean = aligned.mean(axis=0)
    along = errors_of(release, aligned, 60) @ mean / float(mean @ mean)
    assert abs(along.mean() - (release.gain - 1)) < 4.5 * along.std(ddof=1) / math.sqrt(60) + 0.02
    first, again, other = (release.estimate(vectors, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (first.dtype, first.shape) == (np.float64, (48,))


@pytest.mark.parametrize("choice", CHOICES, ids=label)
def test_vectors_of_another_shape_or_with_nan_are_refused_and_long_ones_are_clipped(choice):
    release, made = release_of(choice, 2.0, 30, 48), MECHANISMS.make(choice)
    with pytest.raises(ValueError, match="calibrated for"):
        release.estimate(np.zeros((9, 48)), np.random.default_rng(0))
    vectors = stage.clients(30, 48, 1.0, made.norm, seed=4)
    vectors[3] *= 1e200
    clip = {"L1": transforms.clip_l1, "L2": transforms.clip_l2, "Linf": transforms.clip_linf}[made.norm]
    long, short = (release.estimate(v, np.random.default_rng(1)) for v in (vectors, clip(vectors, 2.0)))
    np.testing.assert_allclose(long, short, rtol=1e-6, atol=1e-6 * np.abs(short).max())
    vectors[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        release.estimate(vectors, np.random.default_rng(0))
