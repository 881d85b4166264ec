"""The calibration bench on a federation small enough for a test: its rows, table and picture."""

from __future__ import annotations

import math

import pytest

from fedbound.bench import calibration, exchange
from fedbound.bench.rows import find


@pytest.fixture(scope="module")
def rows():
    data = {"dataset": "digits", "silos": 3, "partition": {"name": "dirichlet", "alpha": 0.5}, "test": 0.4}
    setting = exchange.Setting("digits", data, {"name": "mlp", "hidden": [32]}, {"rounds": 4}, range(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "settings", lambda quick, say: [setting])
        patch.setattr(calibration, "ALLOCATIONS", {"silos by weights": {"silos": "weights"}})
        patch.setattr(calibration, "AROUND", (-1, 0, 1))
        patch.setattr(calibration, "SAME_BYTES", 0.1)
        yield calibration.run(True, lambda line: None)


def test_every_case_is_judged_against_the_grid(rows):
    for case in ("digits, delta", "digits, weights"):
        scale = find(rows, "decision_scale", case)
        label = f"{case}: {scale:.3g} (calibrated)"
        assert find(rows, "scale", label) == scale
        assert find(rows, "keeps", label) in (0, 1)
        assert find(rows, "seeds", label) == 3
        best = find(rows, "best_fixed_bound", case)
        if best:
            kept = [r.case for r in rows if r.metric == "keeps" and r.value and r.case.startswith(f"{case}: ")]
            least = min(find(rows, "bytes", one) for one in kept)
            assert find(rows, "bytes", case, "best fixed bound") == pytest.approx(find(rows, "bytes", label) / least)


def test_allocations_are_compared_at_equal_bytes(rows):
    found = [row for row in rows if row.peer == calibration.UNIFORM and row.metric == "bytes"]
    assert found
    assert all(0.8 < row.value < 1.25 for row in found)
    assert all(row.case.startswith("digits, delta, ") for row in found)


def test_the_theorys_quotients_are_there(rows):
    fine = "digits, delta: aggregated error, fine weights"
    assert find(rows, "quotient", fine, "uniform") == pytest.approx(1, abs=0.05)


def test_table_and_plot(rows, tmp_path):
    said = calibration.table(rows)
    assert "digits, delta: calibrated" in said
    assert "against one bound, 90 % intervals" in said
    assert "nan" not in said.replace("refused nan", "")
    calibration.plot(rows, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert all(row.bench == "calibration" and isinstance(row.value, float) for row in rows)
    assert not any(math.isinf(float(row.value)) for row in rows if row.metric == "drop")
