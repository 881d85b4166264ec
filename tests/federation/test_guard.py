"""The guard, step by step, by property, and against a run whose accuracy answers to the factor."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbound import artifacts, study
from fedbound.errors import InputError
from fedbound.federation import stage
from fedbound.federation.assembly import Assembly
from fedbound.federation.guard import Guard, Settings
from fedbound.federation.server import Server

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


def test_the_noise_of_few_samples_is_no_shortfall():
    """Two standard errors of 0.9 on 100 samples are 6 points."""
    for samples, factor in ((100, 1.0), (10_000, 0.5)):
        guard = Guard()
        guard.best = 0.95
        assert guard.observe(1, 0.9, samples).factor == factor


def test_samples_that_could_not_tell_a_loss_loosen_nothing():
    """Two standard errors of 0.9 are 1 point on 3,600 samples; the way back from a fall is open to fewer."""
    for samples, factor in ((3_500, 1.0), (3_700, 1.25)):
        change = Guard(Settings(patience=1)).observe(1, 0.9, samples)
        assert change.factor == factor
        assert ("too few" in change.reason) == (factor == 1)
    fallen = Guard(Settings(patience=1))
    fallen.factor = 0.25
    assert [fallen.observe(i, 0.9, 100).factor for i in range(3)] == [0.5, 1.0, 1.0]


def test_nan_falls_back_and_asks_for_an_exact_round():
    change = Guard().observe(1, math.nan, 100)
    assert (change.factor, change.exact) == (0.5, True)


@given(ACCURACIES, st.integers(0, 59))
def test_factors_stay_within_limits_and_a_restart_changes_nothing(accuracies, at):
    guard, again = Guard(Settings(patience=2)), Guard(Settings(patience=2))
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


def test_counts_of_all_silos_are_one_signal_and_unfinished_versions_wait():
    guard = Guard(Settings(patience=1))
    for version, counts in ((1, [(9, 10), (80, 90)]), (2, [(5, 5)]), (3, [(40, 50)])):
        for correct, samples in counts:
            guard.hear(version, correct, samples)
    assert [(c.round, c.accuracy) for c in guard.settle({2, 3})] == [(1, 0.89)]
    assert [(c.round, c.accuracy) for c in guard.settle({2})] == [(3, 0.8)]  # 2 is never finished: it is passed over
    assert guard.settle(set()) == []


def test_an_exact_exchange_lasts_until_the_next_evaluation():
    guard = Guard(Settings(patience=1))
    guard.best = 0.9
    assert guard.observe(1, 0.8, MANY).exact
    assert guard.now == 0
    assert not guard.observe(2, 0.9, MANY).exact
    assert guard.now == 1


# ---- in training ----------------------------------------------------------------------------------------------------


def scenario(**guard: object) -> study.TrainScenario:
    return study.TrainScenario(
        study="t",
        data=study.Data(silos=3),
        model={"name": "mlp", "hidden": [48]},
        training=study.Training(rounds=6, local_epochs=1),
        exchange=study.Exchange(codec="ebq", bound=0.004, bound_mode="abs", guard={"patience": 1, **guard}),
        seed=5,
    )


def test_every_bound_of_both_directions_follows_the_guard_and_is_recorded(tmp_path):
    """The evaluation of version v is known when round v + 1 ends: it rules what is sent from then on."""
    run = stage.run(scenario(margin=0.0), {}, checkpoints=tmp_path / "c", transport="local")
    guard, tensors = run["guard"], run["tensors"]
    assert list(guard["round"]) == list(range(len(guard)))
    assert guard["factor"].max() > 1
    for version in range(6):
        after = guard[guard["round"] == version - 1]
        factor = 1.0 if after.empty else 0.0 if after.exact.iloc[0] else after.factor.iloc[0]
        up = tensors[(tensors.direction == "up") & (tensors["round"] == version + 1)]
        down = tensors[(tensors.direction == "down") & (tensors["round"] == version)]
        np.testing.assert_allclose(up.bound, 0.004 * factor, rtol=1e-6)
        np.testing.assert_allclose(down.bound, 0.004 * factor, rtol=1e-6)
    assert run["silos"].error_over_bound.max() <= 1


def test_a_guarded_run_that_was_interrupted_ends_with_the_same_numbers(tmp_path, monkeypatch):
    whole = stage.run(scenario(), {}, checkpoints=tmp_path / "whole", transport="local")

    class Stop(Exception):
        pass

    def dying(self, *args):
        if self.version >= 3:
            raise Stop
        return original(self, *args)

    with monkeypatch.context() as patch:
        original = Server._aggregate
        patch.setattr(Server, "_aggregate", dying)
        with pytest.raises(Stop):
            stage.run(scenario(), {}, checkpoints=tmp_path / "c", transport="local")
    resumed = stage.run(scenario(), {}, checkpoints=tmp_path / "c", transport="local")
    assert resumed["summary"]["resumed_from"][0] == 3
    assert artifacts.differences(whole, resumed) == []


def test_what_a_guard_cannot_go_with_is_refused():
    s = scenario()
    blind = Assembly(study.Data(silos=3, validation=0), s.model, s.training, s.exchange, s.seed)
    with pytest.raises(InputError, match=r"no validation samples to guard by .*raise data.validation"):
        blind.layout  # noqa: B018
    private = s.training.model_copy(update={"privacy": study.TrainingPrivacy(epsilon=8.0)})
    with pytest.raises(InputError, match=r"refused with training.privacy"):
        Assembly(s.data, s.model, private, s.exchange, s.seed).layout  # noqa: B018


def test_a_guard_that_is_off_leaves_no_trace_in_the_scenario():
    on, off = study.Exchange(codec="ebq", guard=True), study.Exchange(codec="ebq", guard=False)
    assert on.guard == Settings()
    assert "guard" not in off.model_dump()
    assert off == study.Exchange(codec="ebq")
    assert study.Exchange(codec="none", guard=True).guard is None  # nothing to guard
    assert study.Exchange.model_validate(on.model_dump()) == on
