"""The benches of rounds and of asynchronous strategies: one small run each over MPI, and how they are shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedbound import bench
from fedbound.bench import asynchronous
from fedbound.bench import round as rounds
from fedbound.bench.launch import under_mpi
from fedbound.bench.rows import find


@pytest.mark.mpi
def test_both_loops_train_the_same_model(tmp_path: Path) -> None:
    """Same samples, order, steps and mean: the weights agree to float32's rounding, so the times compare like work."""
    settings = {"hidden": [16], "epochs": 1, "rounds": 3, "silos": 2}
    found = {
        loop: [under_mpi("fedbound.bench.round", 3, {"loop": loop, **settings})] * 3
        for loop in (rounds.OURS, rounds.PEER)
    }
    ours, plain = (found[loop][0] for loop in (rounds.OURS, rounds.PEER))
    assert ours["checksum"] == pytest.approx(plain["checksum"], rel=1e-6)
    assert 0 < ours["train_seconds"] <= ours["round_seconds"]
    rows = rounds._rows("small", found)
    assert find(rows, "round", "small: fedbound", rounds.PEER) == pytest.approx(
        ours["round_seconds"] / plain["round_seconds"]
    )
    assert "small: fedbound" in rounds.table(rows)
    rounds.plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.mpi
@pytest.mark.parametrize("name", ["sync, fedavg", "compass, fedcompass"])
def test_a_strategy_makes_the_updates_that_it_is_asked_for(name: str) -> None:
    found = under_mpi("fedbound.bench.asynchronous", 5, {"strategy": name, "updates": 8, "seed": 0})
    assert found["seconds"] > 0
    assert found["staleness"] == 0 or name != "sync, fedavg"
    assert found["steps"] > 0


def test_time_runs_until_the_updates_are_folded() -> None:
    rows = {
        "rounds": [{"seconds": 1.0}, {"seconds": 2.0}, {"seconds": 4.0}],
        "silos": [{"round": n, "staleness": 0, "steps": 5} for n in (1, 2, 2, 3)],
        "evaluations": [{"round": 3, "test_samples": 4, "test_accuracy": 0.5}],
    }
    assert asynchronous._figures(rows, 1)["seconds"] == 1.0
    assert asynchronous._figures(rows, 3)["seconds"] == 3.0
    assert asynchronous._figures(rows, 4)["seconds"] == 7.0


def test_async_is_found_by_its_name() -> None:
    assert bench.get("async") is asynchronous
