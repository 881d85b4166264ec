"""The guard, step by step, by property, and against a run whose accuracy answers to the factor."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbound.calibration.guard import Guard, Settings

MANY = 10**9  # samples: no noise to allow for
ACCURACIES = st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), min_size=1, max_size=60)


def test_loosens_by_steps_while_accuracy_holds():
    guard = Guard(Settings(patience=2, largest=1.75))
    found = [guard.observe(i, 0.9, MANY).factor for i in range(1, 11)]
    assert found == [1, 1.25, 1.25, 1.5, 1.5, 1.75, 1.75, 1.75, 1.75, 1.75]


def test_falls_back_to_the_calibrated_bounds_at_once_and_does_not_try_what_broke_again():
    guard = Guard(Settings(patience=1))
    assert [guard.observe(i, 0.9, MANY).factor for i in range(2)] == [1.25, 1.5]
    change = guard.observe(2, 0.885, MANY)
    assert (change.factor, change.exact) == (1.0, False)
    assert change.shortfall == pytest.approx(1.5, abs=0.01)
    assert "more than 1 points" in change.reason
    assert [guard.observe(i, 0.9, MANY).factor for i in range(3, 7)] == [1.25, 1.25, 1.25, 1.25]


def test_at_the_calibrated_bounds_a_shortfall_halves_and_recovery_doubles():
    guard = Guard(Settings(patience=1, smallest=0.25))
    guard.best = 0.9
    falls = [guard.observe(i, 0.8, MANY) for i in range(3)]
    assert [change.factor for change in falls] == [0.5, 0.25, 0.25]
    assert all(change.exact for change in falls)  # ten points: more than twice the tolerance
    assert [guard.observe(i, 0.9, MANY).factor for i in range(3, 6)] == [0.5, 1.0, 1.25]


def test_a_reference_takes_the_place_of_the_best_seen():
    guard = Guard()
    assert guard.observe(1, 0.5, MANY, reference=0.5).reason == "holds"
    assert guard.observe(2, 0.5, MANY, reference=0.6).factor == 0.5


def test_the_noise_of_few_samples_is_no_shortfall():
    """Two standard errors of 0.9 on 100 samples are 6 points."""
    for samples, factor in ((100, 1.0), (10_000, 0.5)):
        guard = Guard()
        guard.best = 0.95
        assert guard.observe(1, 0.9, samples).factor == factor


def test_nan_falls_back_and_asks_for_an_exact_round():
    change = Guard().observe(1, math.nan, 100)
    assert (change.factor, change.exact) == (0.5, True)


@given(ACCURACIES, st.integers(0, 59))
def test_factors_stay_within_limits_and_a_restart_changes_nothing(accuracies, at):
    guard, again = Guard(Settings(patience=2)), Guard()
    for i, accuracy in enumerate(accuracies):
        if i == at % len(accuracies):
            again.restore(json.loads(json.dumps(guard.state())))
        before = guard.factor
        change = guard.observe(i, accuracy, 200)
        assert guard.settings.smallest <= change.factor <= guard.settings.largest
        if change.factor > 1:  # looser than calibrated only while accuracy holds
            assert change.shortfall <= guard.settings.tolerance
        if change.shortfall > guard.settings.tolerance:
            assert change.factor <= max(before / 2, guard.settings.smallest) or (before > 1 and change.factor == 1)
        if i >= at % len(accuracies):
            assert again.observe(i, accuracy, 200) == change


def test_settles_below_the_factor_at_which_accuracy_breaks():
    """A run that loses 5 points at factors above 2 ends within a step below it, and spends few rounds beyond."""
    guard, beyond = Guard(Settings(patience=2)), 0
    for i in range(60):
        broken = guard.factor > 2
        beyond += broken
        guard.observe(i, 0.85 if broken else 0.9, MANY)
    assert 1.75 <= guard.factor <= 2
    assert beyond == 1


def test_senseless_settings_are_refused():
    with pytest.raises(ValueError, match="tolerance > 0"):
        Settings(tolerance=0)
    with pytest.raises(ValueError, match="smallest <= 1"):
        Settings(smallest=2)
