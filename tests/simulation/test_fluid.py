"""The shared link against a slow reference that recomputes all rates at every event."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation_cases import Flow, end_times

from fedbound.simulation.fluid import SharedLink

# Flows closer than 1e-9 s end together, so an end may be that early, and so may what follows from it.
SLACK = 1e-7


def positive(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(np.log(low), np.log(high)).map(lambda x: float(np.exp(x)))


FLOWS = st.lists(
    st.builds(
        Flow,
        start=st.one_of(st.floats(0, 5), st.sampled_from([0.0, 1.0, 2.5])),
        size=st.one_of(positive(1e-2, 1e3), st.sampled_from([1.0, 10.0])),
        cap=st.one_of(positive(1e-1, 1e2), st.sampled_from([1.0, 5.0])),
        weight=st.one_of(positive(1e-2, 1e2), st.just(1.0)),
    ),
    min_size=1,
    max_size=12,
)


def run(flows: list[Flow], capacity: float) -> np.ndarray:
    """End times on a SharedLink."""
    link = SharedLink(capacity, np.array([f.cap for f in flows]), np.array([f.weight for f in flows]))
    waiting = sorted(range(len(flows)), key=lambda i: flows[i].start)
    ends = np.full(len(flows), np.nan)
    while waiting or link.next_end < np.inf:
        time = min(link.next_end, flows[waiting[0]].start if waiting else np.inf)
        done = link.close(time) if link.next_end <= time else []
        ends[done] = time
        while waiting and flows[waiting[0]].start <= time:
            flow = waiting.pop(0)
            link.open(time, flow, flows[flow].size)
        link.settle()
    return ends


@given(flows=FLOWS, capacity=st.one_of(positive(1e-1, 1e3), st.just(np.inf), st.sampled_from([1.0, 5.0, 10.0])))
@settings(max_examples=300)
def test_ends_are_those_of_progressive_filling(flows: list[Flow], capacity: float) -> None:
    expected = end_times(flows, capacity)
    np.testing.assert_allclose(run(flows, capacity), expected, rtol=1e-9, atol=SLACK)


@pytest.mark.parametrize("seed", range(5))
def test_many_heterogeneous_flows(seed: int) -> None:
    draw = np.random.default_rng(seed)
    flows = [Flow(*row) for row in draw.lognormal(0, 1.5, (150, 4))]
    capacity = 0.3 * sum(flow.cap for flow in flows)
    np.testing.assert_allclose(run(flows, capacity), end_times(flows, capacity), rtol=1e-9, atol=SLACK)


def test_a_flow_alone_moves_at_its_cap() -> None:
    assert run([Flow(1, 10, 2, 1)], 100.0)[0] == pytest.approx(6)


def test_equal_flows_share_equally() -> None:
    np.testing.assert_allclose(run([Flow(0, 10, 100, 1)] * 4, 8.0), 5.0)


def test_weights_divide_the_link() -> None:
    # 3 : 1 of 8 until the heavy flow is through at 10/6; the light one then has 10 - 2 * 10/6 left, at rate 8
    ends = run([Flow(0, 10, 100, 3), Flow(0, 10, 100, 1)], 8.0)
    np.testing.assert_allclose(ends, [10 / 6, 10 / 6 + (10 - 20 / 6) / 8])


def test_what_a_capped_flow_leaves_goes_to_the_others() -> None:
    np.testing.assert_allclose(run([Flow(0, 5, 1, 1), Flow(0, 45, 100, 1)], 10.0), 5.0)


@given(flows=FLOWS, capacity=positive(1e-1, 1e2))
@settings(max_examples=100)
def test_the_link_is_never_idle_nor_overfull(flows: list[Flow], capacity: float) -> None:
    """Flows whose caps exceed the link, all there from the start: the last one ends at bytes / capacity."""
    greedy = [Flow(0.0, f.size, 2 * capacity, f.weight) for f in flows]
    assert run(greedy, capacity).max() == pytest.approx(sum(f.size for f in greedy) / capacity, rel=1e-9, abs=SLACK)


def test_a_heavy_flow_leaves_no_rounding_behind() -> None:
    """A plain running sum of weights would keep an error of 1e-4 from a weight of 1e12, which the others would feel."""
    flows = [Flow(0, 1, 100, 1e12), Flow(0, 30, 10, 0.1), Flow(0, 30, 10, 0.3)]
    np.testing.assert_allclose(run(flows, 5.0), end_times(flows, 5.0), rtol=1e-9)


def test_memory_does_not_grow_with_the_number_of_transfers() -> None:
    draw = np.random.default_rng(0)
    count = 20
    link = SharedLink(5.0, draw.lognormal(0, 1, count), draw.lognormal(0, 1, count))
    for flow in range(count):
        link.open(0.0, flow, 1.0)
    link.settle()
    for _ in range(20_000):
        time = link.next_end
        for flow in link.close(time):
            link.open(time, flow, float(draw.lognormal()))
        link.settle()
    heaps = (link._shared_ends, link._capped_ends, link._to_cap, link._to_share)
    assert max(map(len, heaps)) < 2000


def test_a_flow_is_open_once() -> None:
    link = SharedLink(1.0, np.ones(1), np.ones(1))
    link.open(0.0, 0, 1.0)
    with pytest.raises(ValueError, match="flow 0 is open already"):
        link.open(0.0, 0, 1.0)
