"""Break-even, pipeline and idle times: by hand, and as identities that hold for any costs."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fedbound.calibration import resources
from fedbound.calibration.resources import Cost, break_even, pipelined, view

SECONDS = st.floats(0, 100)
COSTS = st.lists(
    st.tuples(st.integers(1, 10**9), st.floats(0.001, 1.2), st.integers(0, 10**9), *[SECONDS] * 4),
    min_size=1,
    max_size=6,
).map(lambda rows: [Cost(i, raw, int(raw * share), *rest) for i, (raw, share, *rest) in enumerate(rows)])


def test_break_even_by_hand():
    """The knowledge of FedSZ's limit: ratio 13.2 at 114 and 164 MB/s breaks even near 62 MB/s."""
    found = break_even(1e6, 1e6 / 13.2, 1 / 114, 1 / 164)
    assert found == pytest.approx((1 - 1 / 13.2) / (1 / 114 + 1 / 164) * 1e6)
    assert found * 8e-6 == pytest.approx(497, abs=1)
    assert break_even(100, 100, 1, 1) == break_even(100, 120, 1, 1) == 0
    assert break_even(100, 50, 0, 0) == math.inf


@given(st.floats(1, 1e9), st.floats(0.001, 0.999), st.floats(1e-6, 100), st.floats(1e-6, 100))
def test_at_the_break_even_both_ways_take_as_long(raw, share, encode, decode):
    at = break_even(raw, raw * share, encode, decode)
    assume(at > 0)
    assert encode + raw * share / at + decode == pytest.approx(raw / at)


def test_pipelines_by_hand():
    assert pipelined((2.0, 4.0, 2.0), 1) == 8
    assert pipelined((2.0, 4.0, 2.0), 2) == 6  # 1, then two of 2, then 1
    assert pipelined((2.0, 4.0, 2.0), 10**6) == pytest.approx(4)
    with pytest.raises(ValueError, match="at least 1"):
        pipelined((1.0,), 0)


@given(COSTS, st.floats(1e3, 1e9), st.integers(1, 64))
def test_views_are_consistent_for_any_costs(costs, bandwidth, chunks):
    for cost, one in zip(costs, view(costs, bandwidth, chunks), strict=True):
        assert one.pays == (bandwidth < one.break_even)
        if one.pays:
            assert one.coded_seconds < one.plain_seconds * (1 + 1e-9)
        assert one.pipelined_seconds <= one.coded_seconds * (1 + 1e-9)
        longest = max(cost.encode_seconds, cost.up_bytes / bandwidth, sum(c.decode_seconds for c in costs))
        assert one.pipelined_seconds >= longest * (1 - 1e-9)
        for share in (one.hidden, one.device_idle, one.processor_idle, one.link_idle):
            assert -1e-9 <= share <= 1
        assert one.waits_seconds >= 0
    assert min(one.waits_seconds for one in view(costs, bandwidth)) == 0


def test_idle_times_by_hand():
    """Two silos, 10 MB/s: 1 + 1 s and 3 + 1 s of work and transfer, then 2 x 0.5 s at the server: 5 s in all."""
    costs = [Cost(0, 40_000_000, 5_000_000, 5_000_000, 0.5, 0.25, 0.25, 0.5)]
    costs.append(Cost(1, 40_000_000, 5_000_000, 5_000_000, 2.5, 0.25, 0.25, 0.5))
    fast, slow = view(costs, 1e7, same_device=False)
    assert fast.waits_seconds == pytest.approx(2)
    assert slow.waits_seconds == 0
    assert fast.device_idle == pytest.approx(1 - 0.75 / 5)
    assert slow.device_idle == pytest.approx(1 - 2.75 / 5)
    assert slow.processor_idle == pytest.approx(1 - 0.25 / 5)
    assert slow.link_idle == pytest.approx(1 - 1 / 5)
    assert view(costs, 1e7)[1].processor_idle == pytest.approx(1 - 3 / 5)
    assert view(costs, 1e7, serial_decode=False)[0].break_even == pytest.approx(35e6 / 0.75)


def test_the_sentence_can_be_not_to_compress():
    costs = [
        Cost(0, 1_000_000, 100_000, 0, 1.0, 0.0, 0.01, 0.005),
        Cost(1, 1_000_000, 100_000, 0, 1.0, 0.0, 0.1, 0.005),
    ]
    said = [resources.sentence("ebq", view(costs, b), b) for b in (1e6, 2e7, 1e9)]
    assert said[0].startswith("ebq pays for every silo on links of 8 Mbit/s")
    assert said[1].startswith("ebq pays for 1 of 2 silos on links of 160 Mbit/s")
    assert said[2].startswith("do not compress by ebq on links of 8,000 Mbit/s")
    with pytest.raises(ValueError, match="carries nothing"):
        view(costs, 0)
