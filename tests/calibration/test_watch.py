"""Measured over predicted aggregated error in real runs: watching changes nothing, and the theory fits."""

from __future__ import annotations

import numpy as np
import pytest

from fedbound import study
from fedbound.calibration.watch import Aggregate, watch
from fedbound.federation.assembly import Assembly
from fedbound.registry import MODELS

ROUNDS = 20


def run(exchange: dict[str, object], watched: bool = True, rounds: int = ROUNDS) -> tuple[np.ndarray, list[Aggregate]]:
    data = study.Data.model_validate({"silos": 4})
    training = study.Training(rounds=rounds, local_epochs=1, evaluate_every=rounds)
    model = MODELS.normalise({"name": "mlp", "hidden": [128]})
    assembly = Assembly(data, model, training, study.Exchange.model_validate(exchange), 0)
    server = assembly.server(assembly.local())
    found = watch(server) if watched else []
    return server.run().vector, found


def test_watching_changes_nothing():
    exchange = {"codec": "ebq", "bound": 0.2}
    assert np.array_equal(run(exchange, True, 3)[0], run(exchange, False, 3)[0])


@pytest.mark.parametrize(
    "exchange",
    [
        {"codec": "ebq", "bound": 3e-3, "mode": "weights"},
        {"codec": "ebq", "bound": 0.1},
        {"codec": "ebq", "bound": 0.05, "mode": "weights", "error_feedback": False},
    ],
)
def test_no_aggregated_error_exceeds_its_bound(exchange):
    found = run(exchange, rounds=5)[1]
    assert {row.round for row in found} == set(range(1, 6))
    assert all(0 < row.largest <= row.bound * (1 + 1e-6) for row in found)
    assert all(row.measured <= row.largest for row in found)


def test_fine_bounds_have_the_uniform_law():
    """Weights at bounds far below half a standard deviation, large blocks: within 5 % in 20 rounds.

    Rounds 1 and 2 are left out: silos start from the same model, and their errors are still alike.
    """
    found = [row for row in run({"codec": "ebq", "bound": 3e-3, "mode": "weights"})[1] if row.values > 4096]
    assert all(row.bound_over_sd < 0.5 for row in found)
    assert len({row.round for row in found if row.round > 2}) == ROUNDS - 2
    assert all(abs(row.measured / row.uniform - 1) < 0.05 for row in found if row.round > 2)


def test_coarse_bounds_with_feedback_follow_the_second_moments():
    """Deltas at bounds above a standard deviation: not uniform, but within 10 % of the moments after warm-up."""
    found = [row for row in run({"codec": "ebq", "bound": 0.2})[1] if row.values > 4096]
    assert max(row.bound_over_sd for row in found) > 1
    assert min(row.measured / row.uniform for row in found) < 0.8
    assert all(abs(row.measured / row.moments - 1) < 0.1 for row in found if row.round > 10)


def test_without_feedback_the_errors_of_silos_are_alike():
    """Silos quantize nearly the same weights, so that averaging does not help as independence would have it."""
    found = run({"codec": "ebq", "bound": 0.05, "mode": "weights", "error_feedback": False})[1]
    large = [row.correlation for row in found if row.values > 4096]
    assert np.mean(large) > 0.15


def test_exact_exchange_has_no_error():
    assert all(row.measured == row.bound == row.uniform == 0 for row in run({"codec": "none"}, rounds=2)[1])


@pytest.mark.parametrize(("mode", "feedback"), [("delta", True), ("weights", True), ("delta", False)])
def test_training_records_the_same_figures(mode, feedback):
    """Over all blocks: what the server records of each round is what watching every block gives."""
    s = study.Exchange.model_validate({"codec": "ebq", "mode": mode, "bound": 0.05, "error_feedback": feedback})
    assembly = Assembly(
        study.Data(silos=3), {"name": "mlp", "hidden": [48]}, study.Training(rounds=4, local_epochs=1), s, 5
    )
    server = assembly.server(assembly.local())
    found = watch(server)
    server.run()
    size = server.layout.size
    for row in server.records.rows["rounds"]:
        blocks = [one for one in found if one.round == row["round"]]
        for column, key in (("moments", "moments"), ("uniform", "uniform"), ("measured", "measured")):
            wanted = sum(one.values * getattr(one, key) ** 2 for one in blocks) / size
            if column == "measured" and not feedback:
                assert np.isnan(row["error_measured"])  # no silo keeps its error
            else:
                assert row[f"error_{column}"] == pytest.approx(wanted**0.5, rel=1e-4)
        if feedback:
            assert -0.5 <= row["error_correlation"] <= 1
            assert row["error_measured"] <= row["error_moments"] * 2
