"""The search for the largest bound, its statistics, and the stage on a small federation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedbound import study
from fedbound.calibration import stage
from fedbound.calibration.accuracy import _T95, grid, search, upper_limit
from fedbound.errors import InputError


@given(st.lists(st.floats(1e-4, 1), min_size=1, max_size=30, unique=True), st.integers(0, 30))
def test_a_clean_knee_is_found_exactly(points, knee):
    scales = sorted(points)
    knee = min(knee, len(scales))
    asked = []
    decision = search(scales, lambda scale: asked.append(scale) or scales.index(scale) < knee)
    assert decision.accepted == (scales[knee - 1] if knee else 0.0)
    assert decision.refused == scales[knee] if knee < len(scales) else math.isnan(decision.refused)
    assert len(set(asked)) <= math.log2(len(scales) + 1) + 2


@given(st.lists(st.booleans(), min_size=1, max_size=25))
def test_accepted_scale_always_keeps_and_so_does_its_smaller_neighbour(keeps):
    scales = [float(i + 1) for i in range(len(keeps))]
    decision = search(scales, lambda scale: keeps[int(scale) - 1])
    if decision.accepted:
        index = int(decision.accepted) - 1
        assert keeps[index]
        assert index == 0 or keeps[index - 1]
    if not math.isnan(decision.refused):
        assert not keeps[int(decision.refused) - 1]
        assert decision.refused > decision.accepted


@pytest.mark.parametrize("df", sorted(_T95))
def test_t_quantiles(df):
    assert _T95[df] == pytest.approx(stats.t.ppf(0.95, df), abs=6e-4)


def test_upper_limit_by_hand():
    # mean 1, sd 1, n 4: 1 + 2.353 / 2
    assert upper_limit([0.0, 0.0, 2.0, 2.0]) == pytest.approx(1 + 2.353 * math.sqrt(4 / 3) / 2)


def test_upper_limit_covers_the_mean_in_95_of_100():
    """20,000 draws of 3 normal differences; false-alarm rate 1e-6 (|z| < 4.9)."""
    rng = np.random.default_rng(0)
    n = 20000
    covered = sum(upper_limit(row) >= 0 for row in rng.normal(size=(n, 3)))
    assert abs(covered - 0.95 * n) < 4.9 * math.sqrt(n * 0.95 * 0.05)


def test_grid_is_logarithmic_and_includes_both_ends():
    assert grid(0.001, 1.0, 1) == [0.001, 0.01, 0.1, 1.0]
    assert len(grid(0.001, 1.0, 4)) == 13


def scenario(**calibration: object) -> study.CalibrateScenario:
    settings = {"rounds": 3, "smallest": 0.01, "largest": 1.0, "per_decade": 1, "tolerance": 5.0} | calibration
    return study.CalibrateScenario(
        study="t",
        data=study.Data(silos=3),
        model={"name": "mlp", "hidden": [48]},
        training=study.LocalTraining(local_epochs=2, learning_rate=0.1),
        mode="delta",
        error_feedback=True,
        downlink="sz3",
        downlink_bound="calibrated",
        bound_mode=None,
        calibration=study.Calibration(**settings),
    )


def test_stage_is_deterministic_and_its_answer_is_supported_by_its_probes():
    a, b = (stage.run(scenario(), {}) for _ in range(2))
    assert a.content_digest() == b.content_digest()
    probes, decision, bounds = a["probes"], a["decision"].iloc[0], a["bounds"]
    drops = probes[probes["scale"] == decision["scale"]]["drop"]
    assert len(drops) == 3
    assert upper_limit(list(drops)) == pytest.approx(decision["upper_drop"])
    assert decision["upper_drop"] <= 5.0
    assert set(bounds["scale"]) == {decision["scale"]}
    assert (bounds["bound"] > 0).all()
    assert (bounds["sensitivity"] > 0).all()
    if np.isfinite(decision["refused"]):
        refused = probes[probes["scale"] == decision["refused"]]["drop"]
        assert upper_limit(list(refused)) > 5.0


def test_refusals_are_one_sentence():
    with pytest.raises(InputError, match="calibration.smallest"):
        stage.run(scenario(smallest=0.9, tolerance=0.01), {})
    s = scenario()
    with pytest.raises(InputError, match="data.validation"):
        stage.run(s.model_copy(update={"data": study.Data(silos=3, validation=0.0)}), {})
    with pytest.raises(InputError, match="learning_rate"):
        stage.run(s.model_copy(update={"training": study.LocalTraining(learning_rate=1e38)}), {})
