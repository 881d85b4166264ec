"""Screening, the sequential test, walk and margin: exact on clean curves, on noisy ones no more errors than stated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedbound.calibration.accuracy import (
    Verdict,
    confirm,
    grid,
    limits,
    margin,
    repeated,
    screen,
    sequential,
    upper_limit,
)

SCALES = st.lists(st.floats(1e-4, 1), min_size=1, max_size=30, unique=True).map(sorted)


@given(SCALES, st.integers(0, 30))
def test_screening_finds_a_clean_knee_with_few_probes(scales, knee):
    knee = min(knee, len(scales))
    asked = []
    found = screen(scales, lambda scale: asked.append(scale) or (0.0 if scales.index(scale) < knee else 9.0), 1.0)
    assert found == knee - 1
    assert len(asked) <= math.log2(len(scales) + 1) + 1


@given(SCALES, st.integers(0, 30), st.integers(0, 30))
def test_a_good_guess_makes_the_search_short_and_a_bad_one_not_wrong(scales, knee, guess):
    knee, guess = min(knee, len(scales)), min(guess, len(scales) - 1)
    asked = []
    found = screen(scales, lambda s: asked.append(s) or (0.0 if scales.index(s) < knee else 9.0), 1.0, guess)
    assert found == knee - 1
    assert len(asked) == len(set(asked)) <= 2 * math.log2(abs(guess - found) + 2) + 2


@given(st.lists(st.floats(0, 2), min_size=1, max_size=25))
def test_screening_ends_at_a_scale_that_keeps_below_one_that_does_not(drops):
    scales = [float(i + 1) for i in range(len(drops))]
    found = screen(scales, lambda scale: drops[int(scale) - 1], 1.0)
    assert found == -1 or drops[found] <= 1
    assert found + 1 == len(scales) or drops[found + 1] > 1


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(-1, 19), st.integers(1, 5), st.integers(0, 3))
def test_the_walk_ends_at_a_confirmed_scale_and_spends_no_more_than_alpha(keeps, start, doubt, down):
    """On any curve: what is accepted was tested and kept; levels of tests that could be wrong add up to alpha."""
    scales = [float(i + 1) for i in range(len(keeps))]
    start = min(start, len(keeps) - 1)
    tested = []

    def test(scale: float, level: float) -> Verdict:
        tested.append((scale, level, keeps[int(scale) - 1]))
        return Verdict(scale, keeps[int(scale) - 1], np.zeros((3, 1)), level)

    found = confirm(scales, start, test, 0.05, min(start + doubt, len(keeps)) if start >= 0 else None)
    found = margin(found, [s for s in reversed(scales) if s < found.accepted][:down], test, lambda verdict: False)
    assert len({scale for scale, _, _ in tested}) == len(tested)
    # walking up stops at the first refusal: of the tests of a wrong scale at one level, only the first one counts
    assert sum({level for _, level, _ in tested}) <= 0.05 + 1e-12
    if found.accepted:
        assert (found.accepted, True) in {(scale, kept) for scale, _, kept in tested}
        assert found.verdict is not None
        assert math.isnan(found.refused) or found.refused > found.largest
        assert found.accepted <= found.largest
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


def test_the_margin_by_hand():
    """Confirmed scales are taken as they are, others tested at what is left, up to the first refusal."""
    scales, tested = [1.0, 2.0, 3.0, 4.0, 5.0], []

    def narrowed(keeping: set[float], start: int, enough: set[float]) -> tuple[float, float, list[float]]:
        def test(scale: float, level: float) -> Verdict:
            tested.append((scale, level))
            return Verdict(scale, scale in keeping, np.zeros((3, 1)), level)

        found = confirm(scales, start, test, 0.05)
        tested.clear()
        finer = [scale for scale in reversed(scales) if scale < found.accepted]
        found = margin(found, finer, test, lambda verdict: verdict.scale in enough)
        assert all(level == pytest.approx(0.01) for _, level in tested)
        return found.accepted, found.largest, [scale for scale, _ in tested]

    assert narrowed({1.0, 2.0, 3.0, 4.0}, 3, {4.0}) == (4.0, 4.0, [])
    assert narrowed({1.0, 2.0, 3.0, 4.0}, 1, {2.0}) == (2.0, 4.0, [])
    assert narrowed({1.0, 2.0, 3.0, 4.0}, 2, {1.0}) == (1.0, 4.0, [2.0, 1.0])
    assert narrowed({1.0, 2.0, 3.0, 4.0}, 2, set()) == (1.0, 4.0, [2.0, 1.0])
    assert narrowed({1.0, 3.0, 4.0}, 2, {1.0}) == (3.0, 4.0, [2.0])
    assert narrowed(set(), 2, {1.0}) == (0.0, 0.0, [])


def test_a_repetition_by_hand():
    """Two seeds, two samples: their means 0 and 4 have variance 8, and the seeds agree about them."""
    drops = np.array([[-1.0, 3.0], [1.0, 5.0]])
    own = stats.t.ppf(0.95, 1) * 1.0  # A = 1
    # same samples: B = 4, and C = 8 / 4 on 4 others: 2 A + B + C = 8, 64 / (4 + 36) = 1.6 -> 1 degree
    assert repeated(drops, 0.05, None, 4) == pytest.approx(2 + stats.t.ppf(0.95, 1) * math.sqrt(8) + own)
    # different samples: B = 0, C = 2: 16 / (4 + 4) = 2 degrees
    assert repeated(drops, 0.05, [0, 1], 4) == pytest.approx(2 + stats.t.ppf(0.95, 2) * math.sqrt(4) + own)
    # what one seed loses and the other gains is chance of training: of a mean over two seeds it is 0
    swapped = np.array([[-1.0, 1.0], [1.0, -1.0]])
    assert repeated(swapped, 0.05, None, 4) == 0


def test_limits_by_hand():
    """Two seeds, two samples: A = var(1, 3) / 2 = 1, B = var(0, 4) / 2 = 4; (1 + 4)^2 / (1 + 16) = 1.47 -> 1 degree."""
    low, high = limits(np.array([[-1.0, 3.0], [1.0, 5.0]]), 0.05)
    assert high == pytest.approx(2 + stats.t.ppf(0.95, 1) * math.sqrt(5))
    assert low == pytest.approx(2 - stats.t.ppf(0.95, 1) * math.sqrt(5))


def test_limits_of_one_sample_or_of_different_folds_are_students():
    drops = np.array([[0.0], [0.0], [2.0], [2.0]])
    students = 1 + stats.t.ppf(0.95, 3) * math.sqrt(4 / 3) / 2
    assert limits(drops, 0.05)[1] == pytest.approx(students)
    assert limits(np.full((3, 5), 0.7), 0.01) == pytest.approx((0.7, 0.7))
    many = np.random.default_rng(0).normal(size=(4, 50))
    many += drops - many.mean(1, keepdims=True)
    assert limits(many, 0.05, [3, 1, 2, 0])[1] == pytest.approx(students)
    assert limits(many, 0.05, [0, 0, 1, 2])[1] > students


def draw(rng: np.random.Generator, folds: Sequence[int], samples: int, mean: float) -> np.ndarray:
    """Drops [seeds, samples] with effects of seeds, of samples and of both, percentage points."""
    seeds, parts = len(folds), 6 * rng.normal(size=(max(folds) + 1, samples))
    own = 0.3 * rng.normal(size=(seeds, 1)) + 6 * rng.normal(size=(seeds, samples))
    return mean + own + parts[list(folds)]


ONE, SOME, ALL = [0, 0, 0], [0, 1, 2, 0, 1], [0, 1, 2, 3, 4]


@pytest.mark.parametrize("folds", [ONE, SOME, ALL])
def test_limits_cover_new_seeds_and_new_samples(folds):
    """3,000 draws, 200 samples a fold: at most 5 % beyond the limit; false alarms 1 in a million (z = 4.75)."""
    rng = np.random.default_rng(0)
    n = 3000
    missed = sum(limits(draw(rng, folds, 200, 0.0), 0.05, folds)[1] < 0 for _ in range(n))
    assert missed <= 0.05 * n + 4.75 * math.sqrt(n * 0.05 * 0.95)
    assert missed >= 0.005 * n  # and not uselessly wide


@pytest.mark.parametrize("folds", [SOME, ALL])
def test_repetitions_stay_below_what_is_said_of_them(folds):
    """1,000 draws of 200 samples a fold, repeated on 100 others: at most 5 % have a larger limit, z = 4.75."""
    rng = np.random.default_rng(3)
    n, above, plain = 1000, 0, 0
    for _ in range(n):
        drops = draw(rng, folds, 200, 0.0)
        found = upper_limit(draw(rng, [0] * len(folds), 100, 0.0).mean(1))
        above += found > repeated(drops, 0.05, folds, 100)
        plain += found > limits(drops, 0.05, folds)[1]
    assert above <= 0.05 * n + 4.75 * math.sqrt(n * 0.05 * 0.95)
    assert plain > 0.2 * n  # the first test's own limit says little of a second one's


@pytest.mark.parametrize("folds", [SOME, ALL, [0, 1, 2, 3, 4, 0, 1, 2, 3]])
def test_one_scale_is_accepted_wrongly_no_more_often_than_its_level(folds):
    """True drop exactly at the tolerance, level 5 %, 1,500 draws, with a look halfway for nine seeds; z = 4.75."""
    rng = np.random.default_rng(1)
    n = 1500
    wrong = 0
    for _ in range(n):
        drops = draw(rng, folds, 100, 1.0)
        wrong += sequential(0.1, drops.__getitem__, folds, 1.0, 0.05).keeps
    assert wrong <= 0.05 * n + 4.75 * math.sqrt(n * 0.05 * 0.95)


def world(seeds: int, n: int, truth: Sequence[float], tests: int, rng: np.random.Generator) -> np.ndarray:
    """Whole calibrations of a known curve: search, confirmation, margin, and a repetition on `tests` other samples.

    Returns:
        int array [n, 4]: is a scale wrong that was accepted or confirmed; is there one, and useful; does the
        repetition refuse the accepted one; and the largest confirmed one.
    """
    scales = [float(i) for i in range(len(truth))]
    folds = [seed % 5 for seed in range(seeds)]
    outcomes = []
    for _ in range(n):
        noise, unseen = draw(rng, folds, 40, 0.0) / 4, draw(rng, [0] * (seeds - 1), tests, 0.0).mean(1) / 4
        own = 0.2 * rng.normal(size=(seeds, len(truth)))

        def drop(scale: float, seed: int, noise: np.ndarray = noise, own: np.ndarray = own) -> np.ndarray:
            return truth[int(scale)] + own[seed, int(scale)] + noise[seed]

        def test(scale: float, level: float, drop: Callable[[float, int], np.ndarray] = drop) -> Verdict:
            return sequential(scale, lambda i: drop(scale, i + 1), folds[1:], 1.0, level)

        start = screen(scales, lambda scale, drop=drop: drop(scale, 0).mean(), 0.5, 4)
        found = confirm(scales, start, test, 0.05)
        finer = [scale for scale in reversed(scales) if scale < found.accepted]
        found = margin(found, finer, test, lambda verdict: verdict.repeated(tests, 0.05) <= 1)
        true = [truth[int(scale)] for scale in (found.accepted, found.largest)]
        again = [upper_limit(drop + unseen + 0.2 * rng.normal(size=seeds - 1)) > 1 for drop in true]
        outcomes.append([max(true) > 1, found.accepted >= 2, *(bool(found.accepted) and one for one in again)])
    return np.array(outcomes)


def test_the_whole_calibration_is_wrong_no_more_often_than_stated():
    """13 scales, the true drop passes the tolerance in the middle, not monotonely; 800 calibrations at 95 %, z = 4.75.

    A scale whose true drop exceeds 1.0 is accepted at most 5 times in 100. A repetition on 20 samples refuses the
    accepted one in less than 10 of 100, less than two thirds as often as it would refuse the largest confirmed.
    """
    truth = [0.0, 0.1, 0.0, 0.3, 0.2, 0.6, 1.05, 0.9, 1.2, 2.0, 5.0, 12.0, 40.0]
    n = 800
    wrong, useful, refused, without = world(6, n, truth, 20, np.random.default_rng(2)).sum(0)
    assert wrong <= 0.05 * n + 4.75 * math.sqrt(n * 0.05 * 0.95)
    assert refused <= 0.1 * n
    assert 3 * refused < 2 * without
    assert useful > 0.3 * n


def test_fifteen_confirming_seeds_that_share_folds_are_wrong_no_more_often():
    """As above with a look halfway, true drops just above 1.0 at every second scale: 200 calibrations."""
    truth = [0.0, 0.1, 0.2, 0.5, 1.01, 0.4, 1.01, 0.3, 1.01, 1.02, 1.05, 2.0]
    n = 200
    wrong, useful, refused, without = world(16, n, truth, 40, np.random.default_rng(4)).sum(0)
    assert wrong <= 0.05 * n + 4.75 * math.sqrt(n * 0.05 * 0.95)
    assert 3 * refused < 2 * without
    assert useful > 0.4 * n


def test_a_hopeless_scale_costs_one_seed_and_a_clear_one_half_of_many():
    asked: list[int] = []

    def far(i: int) -> np.ndarray:
        asked.append(i)
        return np.full(50, 40.0)

    assert not sequential(0.1, far, range(6), 1.0, 0.05).keeps
    assert asked == [0]
    assert len(sequential(0.1, lambda i: np.full(50, 0.0), range(7), 1.0, 0.05).drops) == 4
    assert len(sequential(0.1, lambda i: np.full(50, 0.0), range(5), 1.0, 0.05).drops) == 5
    assert len(sequential(0.1, lambda i: np.full(50, 1.5 + i % 2 / 10), range(6), 1.0, 0.05).drops) == 2
    assert len(sequential(0.1, lambda i: np.full(50, 1.1 + (-1) ** i), range(6), 1.0, 0.05).drops) == 3


def test_grid_is_logarithmic_and_includes_both_ends():
    assert grid(0.001, 1.0, 1) == [0.001, 0.01, 0.1, 1.0]
    assert len(grid(0.001, 1.0, 4)) == 13
