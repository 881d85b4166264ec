"""Private sums: exact where nothing is noised, composed as by hand, never cheaper with fewer shares."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedbound.errors import InputError
from fedbound.privacy import accounting, mechanisms, sums, transforms
from fedbound.privacy.mechanisms import Setting
from fedbound.privacy.sums import Members, Plan

DELTA = 1e-5


def plan(mechanism: str, **changes) -> Plan:
    settings = {"members": Members(8, 8), "dimension": 20, "clip": 2.0, "bits": 16, "delta": DELTA, "rounds": 4}
    return Plan(mechanism, **{**settings, **changes})


def summed(made: sums.Sum, parts: list[np.ndarray], absent: int = 0) -> np.ndarray:
    """What the server decodes of silos' vectors, each [k, d], added modulo 2^bits."""
    p = made.plan
    signs = transforms.random_signs(p.size, np.random.default_rng(1))
    total = np.zeros(p.size, np.int64)
    for i, vectors in enumerate(parts):
        total += made.encode(vectors, absent, signs, np.random.default_rng([2, i]))
        total %= 1 << p.bits
    return made.decode(total, sum(len(part) + absent for part in parts), signs)


@pytest.mark.parametrize("name", ["skellam", "ddgauss"])
def test_the_least_noise_is_the_mechanisms_own(name):
    made = sums.solve(plan(name), 2.0)
    assert made.epsilon({made.plan.members: 4}) <= 2.0
    ours = mechanisms.get(name, bits=16).calibrate(Setting(2.0, DELTA, 8, 20, 2.0, 4))
    assert made.noise == pytest.approx(ours.noise, rel=1e-3)


def test_pbms_coins_are_the_mechanisms_own_where_the_bits_are_few():
    made = sums.solve(plan("pbm", bits=8), 2.0)
    assert 1.99 < made.epsilon({made.plan.members: 4}) <= 2.0
    ours = mechanisms.get("pbm", bits=8).calibrate(Setting(2.0, DELTA, 8, 20, 2.0, 4))
    assert made.theta == pytest.approx(ours.theta, rel=5e-3)


@pytest.mark.parametrize("name", ["skellam", "ddgauss", "binomial"])
def test_without_noise_the_sum_is_exact_to_the_rounding(name):
    """Noise of a variance near 0: what is left is one rounding per vector, at most a grid step each."""
    made = sums.of_noise(plan(name, bits=30, members=Members(3, 12)), 1e-9)
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(4, 20)) * 0.2 for _ in range(3)]
    error = summed(made, parts) - np.sum(np.concatenate(parts), axis=0)
    assert np.abs(error).max() <= (12 * math.sqrt(made.plan.size) + 3) / made.parameters.scale
    assert made.parameters.scale > 1e5


@pytest.mark.parametrize("name", sums.MECHANISM_NAMES)
def test_the_sum_is_the_sum_and_its_noise_as_said(name):
    """Mean of 1024 coordinates' squared errors within 5 standard errors (normal errors): false alarms below 1e-6."""
    made = sums.of_noise(plan(name, dimension=1024, members=Members(4, 20), bits=20, clip=1.0), 1.5)
    rng = np.random.default_rng(3)
    parts = [rng.normal(size=(5, 1024)) / 40 for _ in range(4)]  # norms of 0.8, within the clip
    error = summed(made, parts) - np.sum(np.concatenate(parts), axis=0)
    assert np.mean(error**2) == pytest.approx(made.noise**2, rel=5 * math.sqrt(2 / 1024))


def test_absent_vectors_of_pbm_flip_fair_coins():
    made = sums.of_noise(plan("pbm", members=Members(3, 30), bits=14), 3.0)
    parts = [np.full((2, 20), 0.1)] * 3
    errors = summed(made, parts, absent=8) - 0.6
    assert np.abs(errors).max() < 6 * made.noise  # 20 normal values: false alarms below 1e-7


def test_rounds_compose_by_adding_renyi_divergences():
    made = sums.of_noise(plan("skellam"), 6.0)
    by_hand = sum(
        count * accounting.skellam_rdp(
            accounting.ORDERS, made.parameters.l1, made.parameters.l2, shares * made.parameters.share_variance
        )
        for shares, count in ((8, 3), (5, 2))
    )  # fmt: skip
    found = made.epsilon({Members(8, 8): 3, Members(5, 5): 2})
    assert found == pytest.approx(accounting.rdp_epsilon(accounting.ORDERS, by_hand, DELTA), rel=1e-12)
    assert made.epsilon({}) == made.epsilon({Members(8, 8): 0}) == 0.0


@pytest.mark.parametrize("name", sums.MECHANISM_NAMES)
def test_fewer_shares_cost_more(name):
    made = sums.of_noise(plan(name, bits=10 if name == "pbm" else 16), 8.0)
    whole, without = made.epsilon({Members(8, 8): 4}), made.epsilon({Members(8, 8): 3, Members(6, 6): 1})
    assert whole < without < made.epsilon({Members(6, 6): 4}) * (1 + 1e-12) or name == "binomial"
    assert without > whole
    lying = sums.of_noise(plan(name, bits=10 if name == "pbm" else 16, honest=0.75), 8.0)
    assert lying.epsilon({Members(8, 8): 4}) == pytest.approx(made.epsilon({Members(6, 6): 4}), rel=0.02)


def test_sampling_amplifies_where_it_is_proved():
    for name in ("skellam", "ddgauss"):
        noise = [sums.solve(plan(name, members=Members(4, 400), rate=rate), 2.0).noise for rate in (1.0, 0.1)]
        assert noise[1] < 0.5 * noise[0]
    binomial = [sums.of_noise(plan("binomial", members=Members(4, 40), rate=rate), 8.0) for rate in (1.0, 0.1)]
    assert binomial[1].epsilon({Members(4, 40): 2}) == pytest.approx(binomial[0].epsilon({Members(4, 40): 2}), rel=0.05)


def test_too_few_bits_are_refused():
    for name in ("skellam", "pbm"):
        with pytest.raises(InputError, match=r"training\.privacy\.bits: 6 bits"):
            sums.solve(plan(name, bits=6, members=Members(400, 400)), 1.0)
    with pytest.raises(InputError, match="raise it to"):
        sums.of_noise(plan("pbm", bits=6), 1e-3)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_largest_finds_where_a_growing_loss_meets_its_target(power):
    calls = []

    def loss(x: float) -> float:
        calls.append(x)
        return 3 * x**power

    found = sums.largest(loss, 2.0, 0.3, 10.0)
    assert 0.997 * 2.0 <= loss(found) <= 2.0
    assert len(calls) < 12
    assert sums.largest(loss, 1e9, 0.3, 10.0) == 10.0
