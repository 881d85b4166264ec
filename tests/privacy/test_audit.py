"""Audits: known answers, no false alarm over all mechanisms, broken mechanisms caught."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedbound.bench import privacy_audits
from fedbound.privacy import accounting, audit, mechanisms

DRAWS = 40_000
LEVEL = 0.01 / 250  # the whole table below: at most 250 tests, two of each audit, at a false-alarm rate of 1 %
OPTIONS = {"mvu": {"bits": 1}, "pbm": {"bits": 7}}
SUMS = ("skellam", "ddgauss", "binomial", "smm")
OPTIONS |= {name: {"bits": 11} for name in SUMS}


@pytest.mark.parametrize("name", mechanisms.available())
def test_no_audit_exceeds_its_claim(name):
    for epsilon in privacy_audits.EPSILONS:
        found = audit.mechanism({"name": name, **OPTIONS.get(name, {})}, epsilon, 1e-5, DRAWS, LEVEL)
        assert found.audited <= found.exact <= found.claimed * (1 + 1e-9) <= epsilon * (1 + 1e-8)
        assert math.isnan(found.gaussian) or found.gaussian <= found.claimed


@pytest.mark.parametrize("name", ["cldp", "grr", "brr", "noisy_sign"])
def test_pure_mechanisms_are_audited_closely(name):
    """At epsilon 2 and 40,000 draws the limits are within 15 % of the claim."""
    found = audit.mechanism({"name": name}, 2.0, 1e-5, DRAWS, LEVEL)
    assert found.audited > 0.85 * found.claimed


@pytest.mark.parametrize("epsilon", privacy_audits.EPSILONS)
def test_gaussian_is_audited_closely_through_its_trade_off(epsilon):
    found = audit.mechanism({"name": "gaussian"}, epsilon, 1e-5, 4 * DRAWS, LEVEL)
    assert (0.6 if epsilon <= 1 else 0.85) * found.claimed < found.gaussian <= found.claimed


@pytest.mark.parametrize("name", privacy_audits.BREAKS)
@pytest.mark.parametrize("epsilon", privacy_audits.EPSILONS)
def test_a_third_of_the_noise_is_caught(name, epsilon):
    if name == "laplace" and epsilon > 4:
        epsilon = 4.0  # 20,000 draws of an event cannot show an epsilon above 7.6
    found = privacy_audits.audit_broken(name, epsilon, DRAWS, LEVEL)
    caught = found.audited if name == "laplace" else found.gaussian
    assert caught > found.claimed


def test_lower_bound_of_randomised_response():
    """One bit kept with probability 3/4: ln 3 from below; the same outputs twice give 0."""
    rng = np.random.default_rng(0)
    p, q = (rng.random(200_000) < 0.75).astype(float), (rng.random(200_000) < 0.25).astype(float)
    assert 0.96 * math.log(3) < audit.lower_bound(p, q, 0.0, 1e-4) < math.log(3)
    assert audit.lower_bound(p, p, 0.0, 1e-4) < 0.05
    # half of the mass may be given away by delta
    assert audit.lower_bound(p, q, 0.5, 1e-4) < 0.05


def test_false_alarms_are_as_rare_as_stated():
    """200 audits of a release that reaches its claim exactly, at level 0.05: at most 24 alarms (probability 2e-5)."""
    alarms = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        p, q = ((rng.random(2000) < probability).astype(float) for probability in (0.75, 0.25))
        alarms += audit.lower_bound(p, q, 0.0, 0.05) > math.log(3)
    assert alarms <= 24


def test_exact_gaussian_epsilon():
    for epsilon in (0.1, 1.0, 8.0):
        multiplier = accounting.gaussian_multiplier(epsilon, 1e-5)
        assert accounting.gaussian_exact(multiplier, 1e-5) == pytest.approx(epsilon, rel=1e-7)
    assert accounting.gaussian_exact(1e6, 1e-5) == 0.0
