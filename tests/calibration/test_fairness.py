"""Label entropy by hand; factors' direction, invariances and limits; the noised release's law."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbound.calibration import fairness
from fedbound.calibration.fairness import Facts, label_entropy

FACTS = st.lists(
    st.builds(Facts, st.integers(1, 10_000), st.floats(0, 1), st.floats(0, 1), st.integers(1, 500)),
    min_size=1,
    max_size=12,
)


def test_label_entropy_by_hand():
    assert label_entropy(np.array([3, 3, 3]), 10) == 0
    assert label_entropy(np.arange(10), 10) == pytest.approx(1)
    assert label_entropy(np.array([0, 0, 1, 1]), 4) == pytest.approx(0.5)
    assert label_entropy(np.array([], np.int64), 10) == 0


@given(FACTS, st.floats(0, 2), st.floats(0, 2), st.floats(0, 2))
def test_factors_stay_within_their_limits_and_a_silos_order_does_not_matter(facts, a, b, c):
    found = fairness.needs(facts, a, b, c)
    assert ((found >= 0.5) & (found <= 2)).all()
    np.testing.assert_allclose(fairness.needs(facts[::-1], a, b, c)[::-1], found, rtol=1e-6)
    assert ((fairness.weights(facts) >= 0.5) & (fairness.weights(facts) <= 2)).all()


def test_rich_or_underserved_silos_get_finer_bounds():
    poor, rich = Facts(100, 0.2, 0.9, 20), Facts(100, 0.9, 0.9, 20)
    assert np.diff(fairness.needs([poor, rich]))[0] < 0
    well, badly = Facts(100, 0.5, 0.95, 20), Facts(100, 0.5, 0.7, 20)
    assert np.diff(fairness.needs([well, badly]))[0] < 0
    small, large = Facts(50, 0.5, 0.9, 20), Facts(100, 0.5, 0.9, 20)
    assert np.diff(fairness.needs([small, large], 0, 0, 0.3))[0] < 0
    # standardised by hand: entropies 0.2 and 0.9 are -1 and +1 standard deviation
    np.testing.assert_allclose(fairness.needs([poor, rich]), [math.exp(0.3), math.exp(-0.3)])


def test_equal_silos_get_the_common_bound():
    assert list(fairness.needs([Facts(10, 0.5, 0.9, 5)] * 4)) == [1, 1, 1, 1]
    assert list(fairness.weights([Facts(10, 0.5, 0.9, 5)])) == pytest.approx([1])


def test_weights_have_fewest_bits_for_their_variance():
    """Of all bounds with the same aggregate variance none has a larger product (fewer bits at high rate)."""
    facts = [Facts(n, 0.5, 0.9, 5) for n in (80, 100, 130, 150)]
    w = np.array([80, 100, 130, 150]) / 460
    best = fairness.weights(facts)
    np.testing.assert_allclose(best * w, (best * w)[0])
    rng = np.random.default_rng(0)
    for _ in range(100):
        other = best * np.exp(rng.normal(size=4))
        other *= math.sqrt(np.sum((w * best) ** 2) / np.sum((w * other) ** 2))
        assert np.log(other).sum() <= np.log(best).sum() + 1e-9


@given(st.lists(st.integers(0, 4), min_size=3, max_size=40), st.integers(0, 39), st.integers(0, 4))
def test_one_sample_changes_the_entropy_by_at_most_its_sensitivity(labels, index, label):
    other = list(labels)
    other[index % len(labels)] = label
    n = len(labels)
    change = abs(label_entropy(np.array(labels), 5) - label_entropy(np.array(other), 5))
    assert change <= 2 * math.log(n) / n / math.log(5) + 1e-12


def test_noised_facts_have_laplace_noise_of_the_stated_scale():
    """20,000 draws: the mean absolute deviation of Laplace noise is its scale; 5 standard errors (1 in 2 million)."""
    rng = np.random.default_rng(0)
    fact = Facts(10_000, 0.5, 0.5, 1000)
    drawn = [fact.noised(2.0, 10, rng) for _ in range(20_000)]
    for key, scale in (("entropy", 2 * math.log(1e4) / 1e4 / math.log(10)), ("accuracy", 1 / 1000)):
        off = np.abs([getattr(one, key) - 0.5 for one in drawn])
        assert off.mean() == pytest.approx(scale, abs=5 * scale / math.sqrt(20_000))
    assert {one.samples for one in drawn} == {10_000}
