"""Clients that leave and return, bandwidths that change, tasks that vary, models that must be encoded first."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation_cases import lognormal_star, random_case, random_star, sync

from fedbound.errors import InputError
from fedbound.federation import schedulers
from fedbound.simulation import SERVER, Change, Churn, Star, Trace, Workload, simulate
from fedbound.simulation.draws import Pool

SLOTS = [None, 1]


def quiet_star(count: int = 2, **changes: object) -> tuple[Workload, Star]:
    """No latency, 1 byte/s links, 10 bytes each way, 5 s of training: alone, a round takes 25 s."""
    workload = Workload(np.full(count, 5.0), 0, 0, 10, 10)
    star = Star(np.inf, np.inf, np.ones(count), 0.0, goodput_factor=1, latency_factor=1, weight_s=None)
    return workload, dataclasses.replace(star, **changes)  # type: ignore[arg-type]


# ---- absences -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [3.0, 12.0, 18.0])  # downloading, training, uploading
def test_who_leaves_at_work_is_not_waited_for(left: float) -> None:
    result = simulate(*quiet_star(), sync(), availability=Trace([(1, left, math.inf)]))
    assert [(r.end, r.clients) for r in result.rounds] == [(25, 1)]
    assert result.departures == 1
    assert result.up_bytes == 10
    assert result.down_bytes == (10 if left < 10 else 20)


def test_who_returns_begins_anew_with_the_next_round() -> None:
    trace = Trace([(1, 12.0, 20.0)])
    result = simulate(*quiet_star(), sync(rounds=2), availability=trace)
    assert [(r.start, r.end, r.clients) for r in result.rounds] == [(0, 25, 1), (25, 50, 2)]


def test_an_asynchronous_client_that_returns_begins_at_once() -> None:
    result = simulate(*quiet_star(), schedulers.get("async", rounds=3), availability=Trace([(1, 12.0, 20.0)]))
    # 0 at 25 and 50, 1 at 20 + 25: its computation of before, which would have been over at 15, sends nothing
    assert [(r.end, r.slowest) for r in result.rounds] == [(25, 0), (45, 1), (50, 0)]


def test_an_update_that_has_arrived_counts() -> None:
    workload, star = quiet_star()
    workload = dataclasses.replace(workload, train_seconds=np.array([5.0, 50.0]))
    result = simulate(workload, star, sync(), availability=Trace([(0, 30.0, math.inf)]))
    assert [(r.end, r.clients) for r in result.rounds] == [(70, 2)]


def test_a_slot_is_given_back() -> None:
    """One slot: 0 downloads until it leaves at 4, and 1 from then on."""
    result = simulate(*quiet_star(slots=1), sync(), availability=Trace([(0, 4.0, math.inf)]))
    assert [r.end for r in result.rounds] == [29]
    # 1 leaves the queue, so 2 is next
    result = simulate(*quiet_star(3, slots=1), sync(), availability=Trace([(1, 4.0, math.inf)]))
    assert [(r.end, r.clients) for r in result.rounds] == [(35, 2)]


def test_when_all_have_left_it_is_over() -> None:
    result = simulate(*quiet_star(), sync(rounds=5), availability=Trace([(0, 30.0, math.inf), (1, 31.0, math.inf)]))
    assert len(result.rounds) == 1
    assert result.seconds == 31


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    name=st.sampled_from(["sync", "async", "buffered", "compass"]),
    slots=st.sampled_from([None, 1, 3]),
)
def test_whatever_happens_bytes_are_conserved(seed: int, name: str, slots: int | None) -> None:
    """Every update that was folded came up and went down; on the way at the end is at most one for each client."""
    case = random_case(seed, 12, name, slots, away=True, changes=True)
    result = case.run()
    folded = sum(r.clients for r in result.rounds)
    assert folded * case.workload.up_bytes.min() <= result.up_bytes
    assert result.uplink_utilisation >= 0
    assert 0 < result.client_utilisation <= 1
    assert 0 < result.server_utilisation <= 1 + 1e-12
    assert all(r.staleness >= 0 for r in result.rounds)
    assert [r.end for r in result.rounds] == sorted(r.end for r in result.rounds)
    again = case.run()
    assert (again.rounds, again.seconds) == (result.rounds, result.seconds)


def test_churn_has_its_means() -> None:
    """10,000 absences: the means' standard errors are 1 % of them; 6 of these are allowed, false alarms below 1e-8."""
    churn = Churn(present=100.0, absent=7.0, seed=3)
    present, absent = [], []
    for client in range(100):
        since = 0.0
        for index in range(100):
            left, returned = churn.absence(client, index, since)  # type: ignore[misc]
            present.append(left - since)
            absent.append(returned - left)
            since = returned
    assert np.mean(present) == pytest.approx(100, rel=0.06)
    assert np.mean(absent) == pytest.approx(7, rel=0.06)
    assert abs(np.corrcoef(present, absent)[0, 1]) < 0.06


@pytest.mark.parametrize("mean", [0.0, -1.0, math.inf, math.nan])
def test_bad_means_are_refused(mean: float) -> None:
    with pytest.raises(InputError, match="present: .* is refused; give mean seconds above 0"):
        Churn(mean, 1.0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, -1.0, 2.0)], "absence of client 0 from -1.0 to 2.0 s is refused"),
        ([(0, 2.0, 2.0)], "absence of client 0 from 2.0 to 2.0 s is refused"),
        ([(0, math.nan, 2.0)], "is refused"),
        ([(3, 1.0, 5.0), (3, 4.0, 6.0)], "two absences of client 3 overlap at 4.0 s"),
        ([(3, 1.0, math.inf), (3, 4.0, 6.0)], "overlap"),
    ],
)
def test_a_bad_trace_is_refused(rows: list[tuple[int, float, float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Trace(rows)


# ---- bandwidths -----------------------------------------------------------------------------------------------------


def test_a_change_of_a_client_takes_effect_at_once() -> None:
    changes = (Change(4.0, 0, 0.5), Change(8.0, 0, 2.0))
    result = simulate(*quiet_star(1, changes=changes), sync())
    # 4 bytes until 4 s, 2 until 8 s, the other 4 until 10 s; upload of 10 bytes at 2 bytes/s
    assert result.rounds[0].download == 10
    assert result.rounds[0].upload == 5


@pytest.mark.parametrize("slots", SLOTS)
def test_a_change_of_the_server_is_one_for_all(slots: int | None) -> None:
    workload, star = quiet_star(2, changes=(Change(5.0, SERVER, 0.5),), server_down=2.0, slots=slots)
    download = simulate(workload, star, sync()).rounds[0].download
    # all at once: 1 byte/s each until 5 s, then 0.5. One slot: 0 until 15 (5 bytes, then 1 byte/s as its own link: 10)
    assert download == (15 if slots is None else (10 + 20) / 2)


def test_changes_without_end_leave_the_others_alone() -> None:
    changes = tuple(Change(float(t), 1, 0.5) for t in range(1, 100))
    assert simulate(*quiet_star(1), sync()).seconds == 25
    result = simulate(*quiet_star(2, changes=changes), sync())
    assert result.arrivals[0] == 25
    assert result.arrivals[1] == pytest.approx(1 + 18 + 5 + 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((-1.0, 0, 1.0), "bandwidth change at -1.0 s is refused"),
        ((math.inf, 0, 1.0), "bandwidth change at inf s is refused"),
        ((0.0, 0, 0.0), "bandwidth change by the factor 0.0 is refused"),
        ((0.0, 0, -2.0), "factor -2.0 is refused"),
    ],
)
def test_a_bad_change_is_refused(change: tuple[float, int, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Change(*change)


def test_a_change_of_nobody_is_refused() -> None:
    with pytest.raises(InputError, match="bandwidth change of client 2 is refused; there are clients 0 to 1"):
        quiet_star(2, changes=(Change(1.0, 2, 1.0),))


# ---- what else takes time -------------------------------------------------------------------------------------------


def test_the_model_is_encoded_once_a_version_and_decoded_by_each_client() -> None:
    workload, star = quiet_star()
    workload = dataclasses.replace(workload, downlink_seconds=2.0, load_seconds=np.array([1.0, 3.0]))
    result = simulate(workload, star, sync(rounds=2))
    assert [r.end for r in result.rounds] == [30, 60]
    assert result.rounds[0].download == 12
    np.testing.assert_allclose(result.arrivals, [28, 30])
    assert result.server_utilisation == pytest.approx(4 / 60)
    assert result.client_utilisation == pytest.approx((6 + 8) / 60)


def test_each_task_varies() -> None:
    workload, star = quiet_star(50)
    workload = dataclasses.replace(workload, variation=np.array([1.0, 3.0]), seed=4)
    rounds = [sync(rounds=k) for k in (1, 2)]
    first, second = (simulate(workload, star, s).arrivals for s in rounds)
    assert set(first) == set(second) == {25.0, 35.0}
    assert (first != second).any()
    np.testing.assert_array_equal(first, simulate(workload, star, sync()).arrivals)
    other = simulate(dataclasses.replace(workload, seed=5), star, sync()).arrivals
    assert (first != other).any()


def test_staleness_is_counted_in_versions() -> None:
    workload, star = quiet_star()
    workload = dataclasses.replace(workload, train_seconds=np.array([5.0, 54.0]))
    result = simulate(workload, star, schedulers.get("async", rounds=5))
    found = [(r.end, r.slowest, r.staleness) for r in result.rounds]
    assert found == [(25, 0, 0), (50, 0, 0), (74, 1, 2), (75, 0, 1), (100, 0, 0)]


def test_a_scheduler_that_cannot_work_with_so_many_clients_is_refused() -> None:
    with pytest.raises(InputError, match="buffer: 3 is refused: each of the 2 silos"):
        simulate(*quiet_star(), schedulers.get("buffered", rounds=1, buffer=3))


@pytest.mark.parametrize("key", ["downlink_seconds", "load_seconds", "variation"])
def test_bad_times_are_refused(key: str) -> None:
    workload, _ = random_star(0, 3)
    with pytest.raises(InputError, match=f"{key}: .* is refused"):
        dataclasses.replace(workload, **{key: np.array([-1.0, 1, 1]) if key != "downlink_seconds" else -1.0})


@settings(max_examples=200)
@given(seed=st.integers(0, 2**64), subject=st.integers(0, 10**7), index=st.integers(0, 10**6))
def test_a_draw_depends_on_what_it_is_for_alone(seed: int, subject: int, index: int) -> None:
    values = np.arange(1000.0)
    assert Pool(values, seed).draw(subject, index) == Pool(values, seed).draw(subject, index) in values


def test_draws_are_uniform_over_subjects_and_indices() -> None:
    """Chi-square with 99 degrees of freedom: above 180 with probability 1e-6."""
    pool = Pool(np.arange(100.0), seed=1)
    for draws in ([pool.draw(i, 7) for i in range(20_000)], [pool.draw(7, i) for i in range(20_000)]):
        counts = np.bincount(np.array(draws, int), minlength=100)
        assert ((counts - 200) ** 2 / 200).sum() < 180


def test_all_clients_of_a_large_star_may_churn() -> None:
    workload, star = lognormal_star(300)
    result = simulate(workload, star, schedulers.get("async", rounds=900), availability=Churn(200.0, 50.0, 1))
    assert result.departures > 100
    assert len(result.rounds) == 900
