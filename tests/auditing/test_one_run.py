from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from fedbound import codecs
from fedbound.auditing import compression, one_run
from fedbound.privacy import mechanisms
from fedbound.privacy.mechanisms import Setting


def test_p_value_by_hand():
    """Three guesses, all right, epsilon ln 3: (3/4)^3; delta adds 2 m delta max(P[2], P[2..1]/2, P[2..0]/3)."""
    pure = one_run.p_value(3, 3, 10, math.log(3), 0.0)
    assert pure == pytest.approx(27 / 64)
    with_delta = one_run.p_value(3, 3, 10, math.log(3), 1e-3)
    assert with_delta == pytest.approx(27 / 64 + 2 * 10 * 1e-3 * 27 / 64)  # P[2] = 27/64 is the largest


def test_lower_bound_solves_the_p_value():
    epsilon = one_run.lower_bound(90, 100, 200, 1e-6, 0.05)
    assert one_run.p_value(90, 100, 200, epsilon, 1e-6) <= 0.05
    assert one_run.p_value(90, 100, 200, epsilon + 1e-4, 1e-6) > 0.05
    assert one_run.lower_bound(50, 100, 200, 1e-6, 0.05) == 0.0
    # a pure bound, by hand: all of r right has probability q^r
    q = 0.05 ** (1 / 100)
    assert one_run.lower_bound(100, 100, 100, 0.0, 0.05) == pytest.approx(math.log(q / (1 - q)), abs=1e-5)


def release_of(name, epsilon, size=512):
    return mechanisms.get(name).calibrate(Setting(epsilon, 1e-8, size, size, 1.0))


@pytest.mark.parametrize("name", ["gaussian", "skellam"])
@pytest.mark.parametrize("epsilon", [1.0, 4.0, 8.0])
def test_claims_hold_in_one_run(name, epsilon):
    """At level 1e-3 a run: false alarm of the six 0.6 %."""
    release = release_of(name, epsilon)
    found = one_run.sum_audit(release.estimate, 512, 1.0, 1e-8, 1e-3, np.random.default_rng(0))
    assert found.audited <= release.guarantee.epsilon
    assert found.audited <= found.cap
    assert found.canaries == 512
    if epsilon == 8:
        assert found.audited > 1


def test_a_tenth_of_the_noise_is_caught():
    release = release_of("gaussian", 1.0)
    broken = dataclasses.replace(release, noise=release.noise / 10)
    found = one_run.sum_audit(broken.estimate, 512, 1.0, 1e-8, 1e-3, np.random.default_rng(0))
    assert found.audited > 1.5


@pytest.mark.parametrize("canaries", [1, 2, 3, 64, 150, 1000])
def test_the_cap_is_what_right_guesses_of_all_canaries_show(canaries):
    """No more are guessed than there are: of 1000 eleven numbers of guesses are left, the largest 2 x 397."""
    included = np.arange(canaries) < canaries // 2
    found = one_run.audit(included.astype(float), included, 1e-5, 0.05)
    assert found.audited == found.cap
    assert found.right == found.guesses <= canaries
    assert (found.cap > 0) == (canaries >= 64)
    if canaries == 1000:
        assert found.guesses == 794
        assert found.cap == one_run.lower_bound(794, 794, 1000, 1e-5, 0.05 / 11)


def test_false_alarms_of_guesses_without_information():
    """100 audits of random scores at level 0.05: at most 15 positive bounds (probability 4e-5)."""
    rng = np.random.default_rng(0)
    alarms = sum(one_run.audit(rng.random(64), rng.random(64) < 0.5, 0.0, 0.05).audited > 0 for _ in range(100))
    assert alarms <= 15


def test_a_compressed_sum_without_noise_shows_all_it_can_and_a_dead_zone_hides_it():
    """At a bound below the canaries every guess is right; above them none can be, though epsilon is infinite."""
    codec = codecs.get("ebq")
    rng = np.random.default_rng(0)
    fine = one_run.sum_audit(compression.compressed_sum(codec, 0.1), 512, 1.0, 1e-8, 0.05, rng)
    assert fine.right == fine.guesses
    assert fine.audited > 4
    blind = one_run.sum_audit(compression.compressed_sum(codec, 2.0), 512, 1.0, 1e-8, 0.05, np.random.default_rng(1))
    assert blind.audited == 0
