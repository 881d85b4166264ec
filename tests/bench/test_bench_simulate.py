"""The bench of the simulator, on few clients."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fedbound.bench import simulate
from fedbound.bench.rows import Row, find


def test_bench_simulate_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every figure is there; SimGrid, where it is installed, says the same."""
    monkeypatch.setattr(simulate, "SCALES", [20, 1500])
    monkeypatch.setattr(simulate, "STRATEGIES", ("sync", "compass"))
    monkeypatch.setattr(simulate, "LINKS", {"shared": 1.25e9})
    said: list[str] = []
    rows = simulate.run(True, said.append)
    case = simulate.label("compass", "shared", 1500)
    assert case in said
    for metric in ("wall", "cpu", "memory", "events", "updates", "simulated", "event_rate"):
        assert find(rows, metric, case) > 0
    assert find(rows, "updates", simulate.label("sync", "shared", 20)) == 20
    assert find(rows, "log_growth", "sync, shared link") == pytest.approx(math.log(1500) / math.log(1000))
    if simulate._has_simgrid():
        assert find(rows, "largest_relative_difference", "all", simulate.PEER) < 1e-9
    assert "sync, shared link, 1500 clients" in simulate.table(rows)
    simulate.plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_simgrid_is_given_up_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One case that takes too long, and no larger one is tried."""
    asked = []

    def measure(folder: Path, clients: int, strategy: str, link: str, engine: str, patience: float | None) -> object:
        asked.append((engine, clients))
        figures = dict.fromkeys(("wall", "cpu", "memory", "events", "updates", "simulated", "load"), 1.0)
        return None if (engine, clients) == ("simgrid", 1000) else (figures, simulate.np.ones(3))

    monkeypatch.setattr(simulate, "_measure", measure)
    monkeypatch.setattr(simulate, "_has_simgrid", lambda: True)
    rows = simulate.run(False, lambda line: None)
    assert [clients for engine, clients in asked if engine == "simgrid"] == [100, 1000] * 8
    assert len([row for row in rows if row.metric == "wall"]) == 8 * (5 + 1)


def test_different_numbers_of_times_differ_infinitely() -> None:
    figures = {"wall": 1.0}
    ones = simulate.np.ones
    rows = simulate._compared("c", figures, ones(3), figures, ones(4))
    assert Row("simulate", "c", "simgrid", "largest_relative_difference", math.inf, "1") in rows
