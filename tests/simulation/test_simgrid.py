"""The fluid engine against SimGrid, the reference: every client's arrival, not only the round."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation_cases import Async, Buffered, Deadline, lognormal_star, needs_simgrid, random_case, random_star, sync

from fedbound.errors import FedboundError, InputError
from fedbound.federation.schedulers import Scheduler
from fedbound.simulation import Result, Star, Workload, simulate
from fedbound.simulation.engines import simgrid


def assert_same(a: Result, b: Result) -> None:
    """All times within 1e-9 relative or 1e-8 s (SimGrid's own precision is 1e-9 s per event)."""
    close = {"rtol": 1e-9, "atol": 1e-8}
    np.testing.assert_allclose(a.arrivals, b.arrivals, **close)
    np.testing.assert_allclose([r.end for r in a.rounds], [r.end for r in b.rounds], **close)
    np.testing.assert_allclose([r.download for r in a.rounds], [r.download for r in b.rounds], **close)
    assert [r.slowest for r in a.rounds] == [r.slowest for r in b.rounds]
    assert a.up_bytes == pytest.approx(b.up_bytes, rel=1e-12)


class TestAgainstSimGrid:
    pytestmark = needs_simgrid

    @pytest.mark.parametrize(
        ("seed", "count", "slots", "scheduler"),
        [
            (0, 60, None, lambda: sync(rounds=3)),
            (1, 40, None, lambda: sync(rounds=2)),
            (2, 40, 4, lambda: sync(rounds=3)),
            (3, 30, 1, lambda: sync(rounds=2, participation=0.5, seed=5)),
            (4, 50, None, lambda: Async(updates=150)),
            (5, 40, 5, lambda: Buffered(updates=120, size=8)),
            (6, 20, None, lambda: Deadline(seconds=20.0)),
        ],
    )
    def test_same_times(self, seed: int, count: int, slots: int | None, scheduler: type[Scheduler]) -> None:
        workload, star = random_star(seed, count, slots)
        assert_same(simulate(workload, star, scheduler()), simulate(workload, star, scheduler(), "simgrid"))

    @settings(max_examples=25)
    @given(
        seed=st.integers(0, 2**32 - 1),
        size=st.floats(math.log(2), math.log(300)),
        name=st.sampled_from(["sync", "async", "buffered", "compass"]),
        share=st.sampled_from([None, None, 0.0, 0.2]),
        away=st.booleans(),
        changes=st.booleans(),
    )
    def test_same_times_whatever_happens(
        self, seed: int, size: float, name: str, share: float | None, away: bool, changes: bool
    ) -> None:
        """The federation's schedulers; free and shared links, slots, stragglers, absences, bandwidths that change.

        Compass floors quotients of times: a quotient within 1e-9 of a whole number could be floored differently by
        two engines. It counts as the whole number (see there), and parameters are continuous, so none is that close.
        """
        count = round(math.exp(size))
        slots = None if share is None else max(1, round(share * count))
        case = random_case(seed, count, name, slots, away, changes)
        fluid, reference = case.run(), case.run("simgrid")
        assert_same(fluid, reference)
        assert [r.clients for r in fluid.rounds] == [r.clients for r in reference.rounds]
        assert [r.staleness for r in fluid.rounds] == [r.staleness for r in reference.rounds]
        assert fluid.departures == reference.departures

    def test_same_times_where_the_server_link_is_free(self) -> None:
        workload, star = lognormal_star(50, capacity=np.inf)
        assert_same(simulate(workload, star, sync()), simulate(workload, star, sync(), "simgrid"))

    def test_golden_round_time(self) -> None:
        result = simulate(*lognormal_star(100), sync(), "simgrid")
        assert result.rounds[0].seconds == pytest.approx(94.251824665948, rel=1e-9)

    @pytest.mark.parametrize(
        ("bandwidth", "latency", "window", "seconds"),
        [(12.5e6, 0.01, 4194304, 1.16103), (1.25e9, 0.1, 4194304, 1.9155), (1.25e9, 0.1, np.inf, 1.3113)],
    )
    def test_one_transfer(self, bandwidth: float, latency: float, window: float, seconds: float) -> None:
        workload = Workload(np.zeros(1), 0, 0, 12.5e6, 12.5e6)
        star = Star(np.inf, np.inf, np.array([bandwidth]), latency, tcp_gamma=window)
        result = simulate(workload, star, sync(), "simgrid")
        assert result.rounds[0].download == pytest.approx(seconds, abs=5e-5)

    def test_a_second_simulation_starts_at_zero(self) -> None:
        ends = [simulate(*lognormal_star(5), sync(), "simgrid").seconds for _ in range(2)]
        assert ends[0] == ends[1]

    def test_an_error_of_the_scheduler_ends_the_worker(self) -> None:
        class Breaks(Async):
            def handle(self, event: object) -> list:
                if self.left == 5:
                    raise ZeroDivisionError
                return super().handle(event)  # type: ignore[arg-type]

        with pytest.raises(ZeroDivisionError):
            simulate(*lognormal_star(10), Breaks(updates=9), "simgrid")

    def test_a_failing_worker_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(simgrid, "_describe", lambda star: {"settings": {"network/no-such-key": 1}})
        with pytest.raises(FedboundError, match=r"SimGrid failed at 0 simulated seconds: .+"):
            simulate(*lognormal_star(2), sync(), "simgrid")


def test_a_missing_simgrid_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "simgrid" else find(name, *a))
    with pytest.raises(InputError, match=r"needs the Python package simgrid, .* run 'make simgrid'"):
        simulate(*lognormal_star(2), sync(), "simgrid")


@pytest.mark.skipif(importlib.util.find_spec("simgrid") is None, reason="the package simgrid is missing")
def test_equal_weights_are_refused_by_simgrid() -> None:
    star = Star(1e9, 1e9, np.array([1e6]), 0.01, weight_s=None)
    with pytest.raises(InputError, match="'simgrid' has no equal weights"):
        simulate(Workload(np.ones(1), 0, 0, 1, 1), star, sync(), "simgrid")
