"""Ranks that share a node's cores, against times worked out by hand and against a slow reference."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation_cases import needs_simgrid

from fedbound.errors import InputError
from fedbound.federation import schedulers
from fedbound.simulation import Star, Trace, Workload, simulate
from fedbound.simulation.cores import Cores

TWO_CORES = np.array([1.0, 1.0, 1.5, 2.0])  # of a rank beside others on two ideal cores


def computing(work: Any, cores: Cores | None, **more: Any) -> tuple[Workload, Star]:
    """Clients whose messages take no time worth mentioning."""
    workload = Workload(np.asarray(work, float), 0, 0, 1, 1, cores=cores, **more)
    return workload, Star(np.inf, np.inf, np.full(len(work), 1e15), 0.0)


def ends(work: Any, cores: Cores | None, engine: str = "fluid", **more: Any) -> np.ndarray:
    result = simulate(*computing(work, cores, **more), schedulers.get("sync", rounds=1), engine)
    return result.arrivals


def test_two_ranks_on_one_core() -> None:
    """The short one ends after 2 s of half speed; the long one then has one of its two seconds to do."""
    np.testing.assert_allclose(ends([1, 2], Cores(np.zeros(2, int), (np.array([1.0, 2.0]),))), [2.0, 3.0], rtol=1e-12)


def test_three_ranks_on_two_cores_and_one_elsewhere() -> None:
    """1, 2 and 3 s: all at 2/3 until 1.5; then two cores for two ranks."""
    cores = Cores(np.array([0, 0, 0, 1]), (TWO_CORES, np.ones(1)))
    np.testing.assert_allclose(ends([1, 2, 3, 5], cores), [1.5, 2.5, 3.5, 5.0], rtol=1e-12)


def test_more_ranks_than_were_measured_are_slowed_down_in_proportion() -> None:
    cores = Cores(np.zeros(8, int), (TWO_CORES,))
    np.testing.assert_allclose(ends([1.0] * 8, cores), 4.0, rtol=1e-12)
    assert cores.factor(0, 8) == 4.0


def test_what_is_not_computing_is_not_slowed_down() -> None:
    cores = Cores(np.zeros(2, int), (np.array([1.0, 2.0]),))
    workload, star = computing([1, 1], cores, other_seconds=0.25)
    workload = dataclasses.replace(workload, encode_seconds=np.full(2, 0.5), evaluate_seconds=np.full(2, 0.1))
    result = simulate(workload, star, schedulers.get("sync", rounds=2))
    one = result.rounds[0]
    assert one.seconds == pytest.approx(2 * 1.6 + 0.25, rel=1e-9)
    assert (one.compute, one.codec) == (pytest.approx(2 * 1.1 + 0.25), pytest.approx(2 * 0.5))
    assert one.download + one.compute + one.codec + one.upload + one.wait + one.server == pytest.approx(one.seconds)
    assert result.client_utilisation == pytest.approx(1.0)


def test_who_leaves_gives_its_share_back() -> None:
    """Client 1 leaves at 1 s, when client 0 has done half a second of its two."""
    workload, star = computing([2, 2], Cores(np.zeros(2, int), (np.array([1.0, 2.0]),)))
    away = Trace([(1, 1.0, np.inf)])
    result = simulate(workload, star, schedulers.get("sync", rounds=1), availability=away)
    assert result.rounds[0].end == pytest.approx(2.5, rel=1e-9)


def slow_reference(work: list[float], slowdown: np.ndarray) -> np.ndarray:
    """Ends of clients that begin together on one node, interval by interval."""
    left, ended, now = np.array(work), np.zeros(len(work)), 0.0
    while (active := left > 0).any():
        factor = slowdown[active.sum() - 1]
        step = left[active].min()
        now += step * factor
        left[active] -= step
        left[left < 1e-12] = 0.0
        ended[active & (left == 0)] = now
    return ended


@given(
    st.lists(st.floats(0.01, 100), min_size=1, max_size=8),
    st.lists(st.floats(0, 2), min_size=8, max_size=8),
)
def test_sharing_against_the_slow_reference(work: list[float], steps: list[float]) -> None:
    slowdown = 1 + np.cumsum([0, *steps[1:]])
    found = ends(work, Cores(np.zeros(len(work), int), (slowdown,)))
    np.testing.assert_allclose(found, slow_reference(work, slowdown), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("engine", [pytest.param("simgrid", marks=needs_simgrid)])
def test_both_engines_share_alike(engine: str) -> None:
    draw = np.random.default_rng(4)
    cores = Cores(draw.integers(0, 2, 9), (TWO_CORES, np.array([1.0, 1.1, 2.0])))
    work = draw.lognormal(0, 1, 9)
    for scheduler in ({"name": "sync", "rounds": 3}, {"name": "async", "rounds": 30}):
        options = dict(scheduler)
        name = options.pop("name")
        workload, star = computing(work, cores, message_seconds=0.01)
        star = dataclasses.replace(star, client_bandwidth=np.full(9, 1e6))
        workload = dataclasses.replace(workload, up_bytes=np.full(9, 3e5), down_bytes=np.full(9, 2e5))
        ours, theirs = (simulate(workload, star, schedulers.get(name, **options), e) for e in ("fluid", engine))
        np.testing.assert_allclose(ours.rounds.column("end"), theirs.rounds.column("end"), rtol=1e-9, atol=1e-8)


def test_bytes_of_messages_occupy_the_server() -> None:
    """Two models and two updates of 10 and 20 bytes at 0.1 s a byte, one after the other."""
    workload, star = computing([5, 5], None, message_byte_seconds=0.1, message_seconds=1.0)
    workload = dataclasses.replace(workload, down_bytes=np.full(2, 10.0), up_bytes=np.full(2, 20.0))
    result = simulate(workload, star, schedulers.get("sync", rounds=1))
    np.testing.assert_allclose(result.arrivals, [2 + 5, 4 + 5], rtol=1e-12)
    assert result.rounds[0].end == pytest.approx(7 + 3 + 3, rel=1e-12)  # the second waits for the first


@pytest.mark.parametrize(
    ("node", "slowdown", "said"),
    [
        ([0, 2], (np.ones(1), np.ones(1)), "there are 2 nodes from 0"),
        ([0, 0], (np.array([1.0, 0.9]),), "do not decrease"),
        ([0, 0], (np.array([0.5]),), "numbers from 1"),
    ],
)
def test_impossible_nodes_are_refused(node: list[int], slowdown: tuple[np.ndarray, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Cores(np.array(node), slowdown)


def test_each_client_needs_a_node() -> None:
    with pytest.raises(InputError, match="give a node to each of 2"):
        computing([1, 1], Cores(np.zeros(3, int), (np.ones(1),)))
