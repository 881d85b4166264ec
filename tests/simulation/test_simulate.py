"""The simulated federation: golden times, closed forms, properties, and what the server's processor costs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation_cases import (
    MODEL_BYTES,
    TEN_GIGABIT,
    Async,
    Buffered,
    Deadline,
    lognormal_star,
    random_star,
    sync,
)

from fedbound.errors import FedboundError, InputError
from fedbound.federation.schedulers import Action, Aggregate, Arrived, Dispatch, Event, Finish, Scheduler
from fedbound.simulation import Result, Star, Workload, engines, simulate

FAST = 0.97  # goodput
WAIT = 13.01  # seconds paid per second of latency


def round_seconds(workload: Workload, star: Star, scheduler: Scheduler | None = None) -> float:
    return simulate(workload, star, scheduler or sync()).rounds[-1].seconds


# ---- golden values: the same from SimGrid 4.1 (C++ and Python) and from a separate fluid engine ----------------------


@pytest.mark.parametrize(
    ("count", "slots", "seconds"),
    [
        (10, None, 55.439362158928),
        (100, None, 94.251824665948),
        (1000, None, 228.2298002551),
        (3000, None, 298.534551386),
        (10_000, 1, 37081.622628295),
        (10_000, 32, 1267.603283181),
        (10_000, 128, 458.734652526),
    ],
)
def test_golden_round_times(count: int, slots: int | None, seconds: float) -> None:
    assert round_seconds(*lognormal_star(count, slots=slots)) == pytest.approx(seconds, rel=1e-9)


def test_golden_asynchronous_run() -> None:
    result = simulate(*lognormal_star(200, capacity=1.25e8), Async(updates=2000))
    assert result.seconds == pytest.approx(748.332330778, rel=1e-9)
    assert len(result.rounds) == 2000


def test_golden_buffered_run() -> None:
    result = simulate(*lognormal_star(200, capacity=1.25e8), Buffered(updates=2000, size=20))
    assert result.seconds == pytest.approx(769.331283179, rel=1e-9)
    assert [r.clients for r in result.rounds] == [20] * 100


@pytest.mark.parametrize(
    ("bandwidth", "latency", "window", "seconds"),
    [(12.5e6, 0.01, 4194304, 1.16103), (1.25e9, 0.1, 4194304, 1.9155), (1.25e9, 0.1, np.inf, 1.3113)],
)
def test_one_transfer_as_simgrid_measured_it(bandwidth: float, latency: float, window: float, seconds: float) -> None:
    workload = Workload(np.zeros(1), 0, 0, 12.5e6, 12.5e6)
    result = simulate(workload, Star(np.inf, np.inf, np.array([bandwidth]), latency, tcp_gamma=window), sync())
    assert result.rounds[0].download == pytest.approx(seconds, abs=5e-5)
    assert result.rounds[0].upload == pytest.approx(seconds, abs=5e-5)


# ---- closed forms ---------------------------------------------------------------------------------------------------


def test_free_server_link_is_the_slowest_client_alone() -> None:
    workload, star = random_star(3, 40)
    free = dataclasses.replace(star, server_up=np.inf, server_down=np.inf)
    workload = dataclasses.replace(workload, message_seconds=0.0)
    window = star.tcp_gamma / (2 * star.latency)
    speed = FAST * np.minimum(star.client_bandwidth, window)
    alone = (
        (workload.down_bytes + workload.up_bytes) / speed
        + 2 * WAIT * star.latency
        + workload.train_seconds
        + workload.evaluate_seconds
        + workload.encode_seconds
    )
    result = simulate(workload, free, sync())
    np.testing.assert_allclose(result.arrivals, alone, rtol=1e-12)
    assert result.rounds[0].seconds == pytest.approx(alone.max() + 40 * 0.012, rel=1e-9)
    assert result.rounds[0].slowest == alone.argmax()
    assert result.uplink_utilisation == 0


def test_equal_clients_and_a_full_server_link() -> None:
    count, seconds = 1000, 30.0
    workload = Workload(np.full(count, seconds), 0, 0, MODEL_BYTES, MODEL_BYTES, aggregate_seconds=1e-4)
    star = Star(TEN_GIGABIT, TEN_GIGABIT, np.full(count, 12.5e6), 0.01)
    formula = 2 * count * MODEL_BYTES / (FAST * TEN_GIGABIT) + 2 * WAIT * 0.01 + seconds + count * 1e-4
    assert round_seconds(workload, star) == pytest.approx(formula, rel=1e-9)
    assert formula == pytest.approx(93.2445, abs=5e-4)


def test_one_slot_serves_one_after_the_other() -> None:
    workload, star = random_star(5, 12, slots=1)
    workload = dataclasses.replace(workload, train_seconds=1e5 * np.arange(12), message_seconds=0.0)
    star = dataclasses.replace(star, server_up=np.inf, server_down=np.inf, tcp_gamma=np.inf)
    down = np.cumsum(WAIT * star.latency + workload.down_bytes / (FAST * star.client_bandwidth))
    work = workload.train_seconds + workload.evaluate_seconds + workload.encode_seconds
    up = WAIT * star.latency + workload.up_bytes / (FAST * star.client_bandwidth)
    np.testing.assert_allclose(simulate(workload, star, sync()).arrivals, down + work + up, rtol=1e-9)


def test_asynchronous_throughput_is_that_of_the_bottleneck() -> None:
    """100 clients, a link for 4 updates/s: the link is the bottleneck, not 100 clients / 5 s nor the processor."""
    count, size = 100, 1e6
    workload = Workload(np.linspace(4, 6, count), 0, 0, size, size, aggregate_seconds=0.01)
    star = Star(4 * size / FAST, np.inf, np.full(count, 1e8), 0.001)
    result = simulate(workload, star, Async(updates=4000))
    ends = [r.end for r in result.rounds]
    assert 3000 / (ends[3999] - ends[999]) == pytest.approx(4, rel=0.01)
    # At the end up to 100 of the 4,100 updates that were begun are on their way and not counted.
    assert 0.975 < result.uplink_utilisation < 1


# ---- the server's processor -----------------------------------------------------------------------------------------


def two_clients(**changes: float) -> tuple[Workload, Star]:
    """No latency, 1 byte/s links, 1 byte each way: a client that is dispatched at 0 arrives at 1 + train + 1."""
    workload = Workload(np.array([10.0, 20.0]), 0, 0, 1, 1, **changes)
    star = Star(np.inf, np.inf, np.ones(2), 0.0, goodput_factor=1, latency_factor=1)
    return workload, star


def test_decoding_and_folding_follow_the_last_arrival() -> None:
    result = simulate(*two_clients(decode_seconds=3, aggregate_seconds=4), sync(rounds=2))
    assert [r.end for r in result.rounds] == [22 + 14, 2 * (22 + 14)]
    assert result.rounds[1].start == 36
    assert result.rounds[1].server == 14


def test_messages_queue_at_the_processor() -> None:
    result = simulate(*two_clients(message_seconds=2), sync())
    # sent at 2 and 4, arrived at 14 and 26, the last one is taken in at 28
    np.testing.assert_allclose(result.arrivals, [14, 26])
    assert result.rounds[0].end == 28


def test_a_dispatch_waits_for_the_aggregation_before_it() -> None:
    result = simulate(*two_clients(aggregate_seconds=30), Async(updates=3))
    # client 0 arrives at 12, folded until 42; client 1 at 22, queues, folded until 72; client 0 again at 54, until 102
    assert [r.end for r in result.rounds] == [42, 72, 102]
    assert [r.slowest for r in result.rounds] == [0, 1, 0]
    assert [r.start for r in result.rounds] == [0, 0, 42]


def test_timers_and_steps_reach_the_scheduler() -> None:
    workload, star = two_clients()
    workload = dataclasses.replace(workload, steps=10)  # 10 and 20 s are ten steps; client 1 is asked for one: 2 s
    result = simulate(workload, star, Deadline(seconds=5))
    assert result.rounds[0].clients == 1
    assert result.rounds[0].slowest == 1
    assert result.rounds[0].compute == 2
    assert result.seconds == 5


def test_parts_of_a_round_add_up() -> None:
    workload, star = random_star(8, 1)
    only = simulate(workload, star, sync()).rounds[0]
    server = workload.message_seconds + workload.decode_seconds + workload.aggregate_seconds
    assert only.server == pytest.approx(server)
    assert only.download + only.compute + only.codec + only.upload + only.server == pytest.approx(only.seconds)


def test_parts_are_means_that_add_up_whatever_the_number_of_clients() -> None:
    """From dispatch, 0 here, to the new model; who arrives early waits."""
    one = simulate(*random_star(8, 30), sync()).rounds[0]
    assert one.wait > 0
    assert one.download + one.compute + one.codec + one.upload + one.wait + one.server == pytest.approx(one.end)
    workload = random_star(8, 30)[0]
    assert (one.up_bytes, one.down_bytes) == (workload.up_bytes.sum(), workload.down_bytes.sum())


# ---- properties -----------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32), count=st.integers(2, 30))
@settings(max_examples=40)
def test_the_order_of_clients_does_not_matter(seed: int, count: int) -> None:
    workload, star = random_star(seed, count)
    workload = dataclasses.replace(workload, message_seconds=0.0)  # messages leave in order, so with a cost it would
    order = np.random.default_rng(seed).permutation(count)
    shuffled = permuted(workload, star, order)
    a, b = simulate(workload, star, sync()), simulate(*shuffled, sync())
    np.testing.assert_allclose(a.arrivals[order], b.arrivals, rtol=1e-9, atol=1e-7)


def permuted(workload: Workload, star: Star, order: np.ndarray) -> tuple[Workload, Star]:
    keys = ("train_seconds", "encode_seconds", "evaluate_seconds", "up_bytes", "down_bytes")
    return (
        dataclasses.replace(workload, **{key: getattr(workload, key)[order] for key in keys}),
        dataclasses.replace(star, client_bandwidth=star.client_bandwidth[order], latency=star.latency[order]),
    )


@given(seed=st.integers(0, 2**32), factor=st.sampled_from([0.25, 3.0, 100.0]), slots=st.sampled_from([None, 2]))
@settings(max_examples=40)
def test_a_slower_world_is_the_same_world(seed: int, factor: float, slots: int | None) -> None:
    """All times times f, all bandwidths over f (the weights' formula scales along): the round takes f times longer."""
    workload, star = random_star(seed, 15, slots)
    times = ("train_seconds", "encode_seconds", "evaluate_seconds")
    costs = ("decode_seconds", "aggregate_seconds", "message_seconds")
    slow = dataclasses.replace(workload, **{key: getattr(workload, key) * factor for key in times + costs})
    far = dataclasses.replace(
        star,
        server_up=star.server_up / factor,
        server_down=star.server_down / factor,
        client_bandwidth=star.client_bandwidth / factor,
        latency=star.latency * factor,
    )
    expected = factor * round_seconds(workload, star)
    assert round_seconds(slow, far) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@given(seed=st.integers(0, 2**32), slots=st.sampled_from([None, 1, 3]))
@settings(max_examples=40)
def test_bytes_are_conserved_and_bounds_hold(seed: int, slots: int | None) -> None:
    workload, star = random_star(seed, 20, slots)
    result = simulate(workload, star, sync(rounds=2))
    assert result.up_bytes == pytest.approx(2 * workload.up_bytes.sum(), rel=1e-12)
    assert result.down_bytes == pytest.approx(2 * workload.down_bytes.sum(), rel=1e-12)
    assert result.uplink_utilisation <= 1
    assert result.downlink_utilisation <= 1
    free = dataclasses.replace(star, server_up=np.inf, server_down=np.inf, slots=None)
    assert result.rounds[0].seconds >= round_seconds(workload, free) - 1e-6
    assert np.diff([r.end for r in result.rounds]).min() > 0


@pytest.mark.parametrize("seed", range(6))
def test_a_slot_for_everyone_is_no_limit(seed: int) -> None:
    workload, star = random_star(seed, 25)
    with_slots = dataclasses.replace(star, slots=25)
    assert round_seconds(workload, with_slots) == pytest.approx(round_seconds(workload, star), rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_a_faster_server_is_never_slower(seed: int) -> None:
    workload, star = random_star(seed + 100, 25)
    seconds = [
        round_seconds(workload, dataclasses.replace(star, server_up=c, server_down=c)) for c in (1e6, 4e6, 16e6, np.inf)
    ]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] > seconds[-1]


def test_the_same_scenario_gives_the_same_numbers() -> None:
    a, b = (simulate(*random_star(4, 30), sync(rounds=3, participation=0.4, seed=9)) for _ in range(2))
    assert a.rounds == b.rounds
    assert a.events == b.events


def test_a_sample_leaves_the_others_alone() -> None:
    result = simulate(*random_star(4, 30), sync(participation=0.2))
    assert result.rounds[0].clients == 6
    assert np.isfinite(result.arrivals).sum() == 6


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_a_client_bandwidth_must_be_a_positive_number(bad: float) -> None:
    with pytest.raises(InputError, match=r"client_bandwidth: .* for client 1 is refused; give bytes/s above 0"):
        Star(1e9, 1e9, np.array([1e6, bad]), 0.01)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("server_up", 0.0),
        ("server_down", -1.0),
        ("server_up", np.nan),
        ("latency", -0.1),
        ("latency", np.nan),
        ("goodput_factor", 0.0),
        ("latency_factor", -1.0),
        ("weight_s", 0.0),
        ("tcp_gamma", np.nan),
        ("slots", 0),
    ],
)
def test_a_bad_platform_is_refused(key: str, value: float) -> None:
    good = Star(1e9, 1e9, np.array([1e6, 2e6]), 0.01)
    with pytest.raises(InputError, match=rf"{key}: .* is refused"):
        dataclasses.replace(good, **{key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train_seconds", np.array([1.0, -1.0])),
        ("encode_seconds", np.nan),
        ("up_bytes", 0.0),
        ("down_bytes", np.array([1.0, 2.0, 3.0])),
        ("decode_seconds", -1.0),
        ("message_seconds", np.nan),
        ("steps", 0.0),
    ],
)
def test_a_bad_workload_is_refused(key: str, value: object) -> None:
    good = Workload(np.ones(2), 0, 0, 1, 1)
    with pytest.raises(InputError, match=rf"{key}: .* is refused"):
        dataclasses.replace(good, **{key: value})


def test_workload_and_platform_have_the_same_clients() -> None:
    with pytest.raises(InputError, match="the workload has 2 clients and the platform 3"):
        simulate(Workload(np.ones(2), 0, 0, 1, 1), Star(1, 1, np.ones(3), 0), sync())


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(InputError, match="unknown simulation engine 'fluit'; did you mean 'fluid'"):
        simulate(*random_star(0, 2), sync(), "fluit")


def test_engines_register_themselves() -> None:
    assert engines.available() == ["auto", "fluid", "simgrid"]


def test_auto_says_which_engine_ran_and_why() -> None:
    result: Result = simulate(*random_star(0, 2), sync(), "auto")
    assert result.engine.startswith("fluid: exact")


class Scripted:
    """Answers each event with the next list of actions."""

    def __init__(self, *answers: list[Action]):
        self.answers = list(answers)

    def check(self, silos: int) -> None:
        pass

    def handle(self, event: Event) -> list[Action]:
        return self.answers.pop(0) if self.answers else []

    def state(self) -> dict[str, object]:
        return {}

    def restore(self, state: dict[str, object]) -> None:
        raise AssertionError(state)


def test_a_scheduler_that_never_finishes_is_reported() -> None:
    with pytest.raises(FedboundError, match=r"came to a halt at .* after 0 aggregations: scheduler 'Scripted'"):
        simulate(*random_star(0, 2), Scripted([Dispatch([0, 1])]))


def test_a_busy_client_cannot_be_dispatched() -> None:
    with pytest.raises(ValueError, match=r"client 1 was dispatched at .* while it is still at work"):
        simulate(*random_star(0, 2), Scripted([Dispatch([0, 1]), Dispatch([1])]))


def test_only_an_update_that_waits_can_be_folded() -> None:
    with pytest.raises(ValueError, match="client 1 has no update that waits"):
        simulate(*two_clients(), Scripted([Dispatch([0, 1])], [Aggregate([0, 1])]))


def test_nothing_happens_after_the_finish() -> None:
    heard: list[Event] = []

    class Ends(Scripted):
        def handle(self, event: Event) -> list[Action]:
            heard.append(event)
            return super().handle(event)

    result = simulate(*two_clients(), Ends([Dispatch([0, 1])], [Aggregate([0]), Finish()]))
    assert heard[-1] == Arrived(0, 12.0)
    assert len(heard) == 2
    assert result.seconds == 12
