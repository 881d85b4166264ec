"""Screening, the sequential test and the walk: exact on clean curves, and on noisy ones no more errors than stated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedbound.calibration.accuracy import Verdict, confirm, grid, limits, screen, sequential

SCALES = st.lists(st.floats(1e-4, 1), min_size=1, max_size=30, unique=True).map(sorted)


@given(SCALES, st.integers(0, 30))
def test_screening_finds_a_clean_knee_with_few_probes(scales, knee):
    knee = min(knee, len(scales))
    asked = []
    found = screen(scales, lambda scale: asked.append(scale) or (0.0 if scales.index(scale) < knee else 9.0), 1.0)
    assert found == knee - 1
    assert len(asked) <= math.log2(len(scales) + 1) + 1


@given(st.lists(st.floats(0, 2), min_size=1, max_size=25))
def test_screening_ends_at_a_scale_that_keeps_below_one_that_does_not(drops):
    scales = [float(i + 1) for i in range(len(drops))]
    found = screen(scales, lambda scale: drops[int(scale) - 1], 1.0)
    assert found == -1 or drops[found] <= 1
    assert found + 1 == len(scales) or drops[found + 1] > 1


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(-1, 19), st.integers(1, 5))
def test_the_walk_ends_at_a_confirmed_scale_and_spends_no_more_than_alpha(keeps, start, doubt):
    """On any curve: what is accepted was tested and kept; levels of tests that could be wrong add up to alpha."""
    scales = [float(i + 1) for i in range(len(keeps))]
    start = min(start, len(keeps) - 1)
    tested = []

    def test(scale: float, level: float) -> Verdict:
        tested.append((scale, level, keeps[int(scale) - 1]))
        return Verdict(scale, keeps[int(scale) - 1], np.zeros((3, 1)), level)

    found = confirm(scales, start, test, 0.05, min(start + doubt, len(keeps)) if start >= 0 else None)
    assert len({scale for scale, _, _ in tested}) == len(tested)
    # walking up stops at the first refusal: of the tests of a wrong scale at one level, only the first one counts
    assert sum({level for _, level, _ in tested}) <= 0.05 + 1e-12
    if found.accepted:
        assert (found.accepted, True) in {(scale, kept) for scale, _, kept in tested}
        assert found.verdict is not None
        assert math.isnan(found.refused) or found.refused > found.accepted
    else:
        assert not any(kept for _, _, kept in tested)
        assert found.refused == 1.0


def test_the_walk_by_hand():
    def walk(keeping: set[float], start: int, ceiling: int | None = None) -> tuple[float, float]:
        found = confirm(
            [1.0, 2.0, 3.0, 4.0, 5.0],
            start,
            lambda s, level: Verdict(s, s in keeping, np.zeros((3, 1)), level),
            0.05,
            ceiling,
        )
        return found.accepted, found.refused

    assert walk({1.0, 2.0, 3.0, 4.0}, 1) == (4.0, 5.0)
    assert walk({1.0, 2.0, 3.0, 4.0}, 1, ceiling=2) == (2.0, 3.0)
    assert walk({1.0, 2.0}, 3) == (1.0, 3.0)  # down by one, then by two
    assert walk({1.0}, 0) == (1.0, 2.0)
    assert walk(set(), 4) == (0.0, 1.0)
    assert walk({1.0, 2.0, 3.0, 4.0, 5.0}, 4)[0] == 5.0


def test_limits_by_hand():
    """Two seeds, two samples: A = var(1, 3) / 2 = 1, B = var(0, 4) / 2 = 4; (1 + 4)^2 / (1 + 16) = 1.47 -> 1 degree."""
    low, high = limits(np.array([[-1.0, 3.0], [1.0, 5.0]]), 0.05)
    assert high == pytest.approx(2 + stats.t.ppf(0.95, 1) * math.sqrt(5))
    assert low == pytest.approx(2 - stats.t.ppf(0.95, 1) * math.sqrt(5))


def test_limits_of_one_sample_are_students():
    drops = np.array([[0.0], [0.0], [2.0], [2.0]])
    assert limits(drops, 0.05)[1] == pytest.approx(1 + stats.t.ppf(0.95, 3) * math.sqrt(4 / 3) / 2)
    assert limits(np.full((3, 5), 0.7), 0.01) == pytest.approx((0.7, 0.7))


def draw(rng: np.random.Generator, seeds: int, samples: int, mean: float) -> np.ndarray:
    """Drops with effects of seeds, of samples and of both, percentage points."""
    return (
        mean
        + 0.3 * rng.normal(size=(seeds, 1))
        + 6 * rng.normal(size=(1, samples))
        + 6 * rng.normal(size=(seeds, samples))
    )


def test_limits_cover_new_seeds_and_new_samples():
    """4,000 draws of 3 seeds and 200 samples: at most 5 % beyond the limit; false alarms 1 in a million (z = 4.75)."""
    rng = np.random.default_rng(0)
    n = 4000
    missed = sum(limits(draw(rng, 3, 200, 0.0), 0.05)[1] < 0 for _ in range(n))
    assert missed <= 0.05 * n + 4.75 * math.sqrt(n * 0.05 * 0.95)
    assert missed >= 0.005 * n  # and not uselessly wide


@pytest.mark.parametrize("seeds", [3, 5])
def test_one_scale_is_accepted_wrongly_no_more_often_than_its_level(seeds):
    """True drop exactly at the tolerance, level 5 %, 2,000 draws, looks at 3 seeds and later ones; z = 4.75."""
    rng = np.random.default_rng(1)
    n = 2000
    wrong = 0
    for _ in range(n):
        drops = draw(rng, seeds, 100, 1.0)
        wrong += sequential(0.1, drops.__getitem__, seeds, 1.0, 0.05).keeps
    assert wrong <= 0.05 * n + 4.75 * math.sqrt(n * 0.05 * 0.95)


def test_the_whole_calibration_is_wrong_no_more_often_than_stated():
    """Search and confirmation over 13 scales whose true drop passes the tolerance in the middle, not monotonely.

    2,000 calibrations at 95 %: an accepted scale whose true drop exceeds 1.0 at most 5 times in 100; z = 4.75.
    """
    truth = [0.0, 0.1, 0.0, 0.3, 0.2, 0.6, 1.05, 0.9, 1.2, 2.0, 5.0, 12.0, 40.0]
    scales = [float(i) for i in range(len(truth))]
    rng = np.random.default_rng(2)
    n, wrong, useful = 2000, 0, 0
    for _ in range(n):
        noise = draw(rng, 4, 60, 0.0)
        own = 0.2 * rng.normal(size=(4, len(truth)))

        def drop(scale: float, seed: int, noise: np.ndarray = noise, own: np.ndarray = own) -> np.ndarray:
            return truth[int(scale)] + own[seed, int(scale)] + noise[seed] / 4

        start = screen(scales, lambda scale: drop(scale, 0).mean(), 1.0)
        found = confirm(
            scales,
            start,
            lambda scale, level: sequential(scale, lambda i: drop(scale, i + 1), 3, 1.0, level),
            0.05,
        )
        wrong += bool(found.accepted) and truth[int(found.accepted)] > 1
        useful += found.accepted >= 3
    assert wrong <= 0.05 * n + 4.75 * math.sqrt(n * 0.05 * 0.95)
    assert useful > 0.3 * n


def test_a_hopeless_scale_costs_one_seed_and_a_clear_one_as_many_as_the_first_look():
    asked: list[int] = []

    def far(i: int) -> np.ndarray:
        asked.append(i)
        return np.full(50, 40.0)

    assert not sequential(0.1, far, 6, 1.0, 0.05).keeps
    assert asked == [0]
    assert len(sequential(0.1, lambda i: np.full(50, 0.0), 6, 1.0, 0.05).drops) == 3
    assert len(sequential(0.1, lambda i: np.full(50, 1.5 + i % 2 / 10), 6, 1.0, 0.05).drops) == 2


def test_grid_is_logarithmic_and_includes_both_ends():
    assert grid(0.001, 1.0, 1) == [0.001, 0.01, 0.1, 1.0]
    assert len(grid(0.001, 1.0, 4)) == 13
