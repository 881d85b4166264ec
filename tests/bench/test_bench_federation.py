"""The benches of rounds and of asynchronous strategies: one small run each over MPI, and how they are shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedbound import bench
from fedbound.bench import appfl, appfl_ranks, asynchronous
from fedbound.bench import round as rounds
from fedbound.bench.launch import under_mpi
from fedbound.bench.rows import find
from fedbound.errors import InputError


@pytest.mark.mpi
def test_all_loops_train_the_same_model(tmp_path: Path) -> None:
    """Same samples, order, steps and mean: the weights agree to float32's rounding, so the times compare like work."""
    settings = {"hidden": [16], "epochs": 1, "rounds": 3, "silos": 2}
    found = {
        loop: [under_mpi("fedbound.bench.round", 3, {"loop": loop, **settings})] * 3
        for loop in (rounds.OURS, rounds.REDUCED, rounds.PEER)
    }
    ours, reduced, plain = (found[loop][0] for loop in (rounds.OURS, rounds.REDUCED, rounds.PEER))
    assert ours["checksum"] == pytest.approx(plain["checksum"], rel=1e-6)
    assert reduced["checksum"] == pytest.approx(plain["checksum"], rel=1e-6)
    assert 0 < ours["train_seconds"] <= ours["round_seconds"]
    found[appfl.AS_SHIPPED] = [{**plain, "round_seconds": 3 * ours["round_seconds"]}]
    rows = rounds._rows("small", found)
    assert find(rows, "round", "small: fedbound", rounds.PEER) == pytest.approx(
        ours["round_seconds"] / plain["round_seconds"]
    )
    assert find(rows, "round", "small: fedbound", appfl.AS_SHIPPED) == pytest.approx(1 / 3)
    assert "small: fedbound" in rounds.table(rows)
    rounds.plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.mpi
def test_nobody_trains_where_messages_alone_are_measured() -> None:
    settings = {"loop": rounds.OURS, "hidden": [16], "epochs": 1, "rounds": 2, "silos": 1, "idle": True}
    start = rounds._assembly(settings).initial_state().vector
    found = under_mpi("fedbound.bench.round", 2, settings)
    assert found["checksum"] == pytest.approx(float(abs(start).sum()), rel=1e-6)
    assert found["round_seconds"] > 0


def test_appfl_gets_the_same_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain torch on what APPFL is given (its data set, model and optimizer) makes the model that ours makes."""
    torch = pytest.importorskip("torch")
    made = rounds._assembly({"hidden": [16], "epochs": 2, "rounds": 2, "silos": 2})
    np.savez(tmp_path / "work.npz", **appfl.work(made))
    monkeypatch.setattr(appfl_ranks, "WORK", tmp_path / "work.npz")
    settings, model = made.training, appfl_ranks.mlp([64, 16, 10])
    appfl_ranks.load(model)
    weights = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    known = [appfl_ranks.samples(silo)[0] for silo in range(2)]
    for _ in range(2):
        parts = []
        for one in known:
            torch.nn.utils.vector_to_parameters(weights.clone(), model.parameters())
            rate = {"lr": settings.learning_rate, "momentum": settings.momentum}
            optimizer = torch.optim.SGD(model.parameters(), **rate)
            for x, y in (b for _ in range(2) for b in torch.utils.data.DataLoader(one, settings.batch_size)):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
            parts.append(torch.nn.utils.parameters_to_vector(model.parameters()).detach() * len(one))
        weights = sum(parts) / sum(map(len, known))
    ours = made.server(made.local()).run().vector
    np.testing.assert_allclose(ours, weights.numpy(), atol=1e-5)


def test_appfl_is_found_by_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(appfl.VARIABLE, raising=False)
    assert appfl.python() is None
    monkeypatch.setenv(appfl.VARIABLE, str(tmp_path / "python"))
    with pytest.raises(InputError, match=r"FEDBOUND_APPFL: .*python' is no Python that has APPFL"):
        appfl.python()


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
