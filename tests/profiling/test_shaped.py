"""The token buckets: what they let pass, and when, on a clock of their own."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbound.profiling.shaped import BURST, CHUNK, Shaper


def drain(shaper: Shaper, late: float = 0.0) -> tuple[list[float], list[tuple[float, int, int]]]:
    """(end by silo, chunks moved): the shaper is asked when it wants to be, or up to `late` seconds later."""
    ends, moved = [0.0] * len(shaper.silos), []
    while (now := shaper.next_time()) < math.inf:
        now += late * (len(moved) % 3)
        while (chunk := shaper.take(now)) is not None:
            moved.append((now, *chunk))
            # the chunk is through when both buckets have tokens again
            ends[chunk[0]] = max(shaper.ready[chunk[0]], now)
    return ends, moved


def test_a_silo_alone_has_its_own_speed() -> None:
    shaper = Shaper(math.inf, [1e6, 4e6])
    shaper.begin(0, 1_000_000, 2.0)
    ends, moved = drain(shaper)
    assert ends[0] == pytest.approx(3.0)
    assert sum(size for _, _, size in moved) == 1_000_000


def test_equal_silos_share_the_server_equally() -> None:
    shaper = Shaper(2e6, [1e7] * 4)
    for silo in range(4):
        shaper.begin(silo, 1_000_000, 0.0)
    _, moved = drain(shaper)
    last = {silo: time for time, silo, _ in moved}
    assert all(time == pytest.approx(2.0, abs=5 * CHUNK / 2e6) for time in last.values())


def test_what_a_slow_silo_leaves_goes_to_the_others() -> None:
    """Max-min: 0.5 MB/s for the slow one, 1.5 MB/s for the fast one."""
    shaper = Shaper(2e6, [0.5e6, 1e7])
    shaper.begin(0, 500_000, 0.0)
    shaper.begin(1, 1_500_000, 0.0)
    _, moved = drain(shaper)
    last = {silo: time for time, silo, _ in moved}
    assert last[0] == pytest.approx(1.0, abs=0.08)
    assert last[1] == pytest.approx(1.0, abs=0.03)


@settings(max_examples=100)
@given(
    server=st.floats(1e5, 1e8),
    rates=st.lists(st.floats(1e5, 1e8), min_size=1, max_size=6),
    size=st.integers(1, 2_000_000),
    late=st.floats(0, 0.005),
)
def test_no_bucket_gives_more_than_its_rate_and_a_burst(
    server: float, rates: list[float], size: int, late: float
) -> None:
    shaper = Shaper(server, rates)
    for silo in range(len(rates)):
        shaper.begin(silo, size, 0.0)
    _, moved = drain(shaper, late)
    passed, total = [0] * len(rates), 0
    for time, silo, chunk in moved:
        assert passed[silo] <= (time + BURST) * rates[silo] * (1 + 1e-9)
        assert total <= (time + BURST) * server * (1 + 1e-9)
        passed[silo] += chunk
        total += chunk
    assert passed == [size] * len(rates)


def test_one_message_at_a_time() -> None:
    shaper = Shaper(1.0, [1.0])
    shaper.begin(0, 10, 0.0)
    with pytest.raises(ValueError, match="silo 0 has a message under way"):
        shaper.begin(0, 10, 0.0)
