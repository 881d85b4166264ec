"""Workloads, schedulers and a slow exact reference that the simulation's tests share."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from fedbound.federation import schedulers
from fedbound.federation.schedulers import Action, Aggregate, Arrived, Dispatch, Event, Finish, SetTimer, Start, Timer
from fedbound.simulation import SERVER, Availability, Change, Churn, Result, Star, Workload, engines, simulate

MODEL_BYTES = 38_123_587
TEN_GIGABIT = 1.25e9  # bytes/s

needs_simgrid = [
    pytest.mark.simgrid,
    pytest.mark.skipif(
        importlib.util.find_spec("simgrid") is None, reason="the package simgrid is missing; run 'make simgrid'"
    ),
]


def lognormal_star(count: int, capacity: float = TEN_GIGABIT, slots: int | None = None) -> tuple[Workload, Star]:
    """The workload that the golden round times were computed for: seed 1, training drawn before bandwidth."""
    draw = np.random.default_rng(1)
    train = 30 * draw.lognormal(0, 0.5, count)
    bandwidth = 12.5e6 * draw.lognormal(0, 0.5, count)
    workload = Workload(train, 0, 0, MODEL_BYTES, MODEL_BYTES, aggregate_seconds=1e-4)
    return workload, Star(capacity, capacity, bandwidth, 0.01, slots=slots)


def random_star(seed: int, count: int, slots: int | None = None) -> tuple[Workload, Star]:
    """Everything differs between clients: times, sizes, bandwidths and latencies, so weights; draws are continuous."""
    draw = np.random.default_rng(seed)
    capacity = np.inf if draw.random() < 0.2 else 1e6 * count * draw.lognormal(-1, 1)
    workload = Workload(
        train_seconds=draw.lognormal(1, 1, count),
        encode_seconds=draw.lognormal(-2, 1, count),
        evaluate_seconds=draw.lognormal(-2, 1, count),
        up_bytes=np.ceil(draw.lognormal(14, 1, count)),  # whole: SimGrid cuts off fractions of a byte
        down_bytes=np.ceil(draw.lognormal(15, 1, count)),
        decode_seconds=0.01,
        aggregate_seconds=0.002,
        message_seconds=0.001 * draw.random(),
        steps=5,
    )
    bandwidth = 1e6 * draw.lognormal(0, 1, count)
    return workload, Star(capacity, 2 * capacity, bandwidth, draw.uniform(1e-4, 0.2, count), slots=slots)


@dataclass(frozen=True)
class Case:
    """Everything that `simulate` is given; `scheduler` makes a fresh one."""

    workload: Workload
    star: Star
    scheduler: Callable[[], schedulers.Scheduler]
    availability: Availability | None

    def run(self, engine: str | engines.Maker = "fluid") -> Result:
        return simulate(self.workload, self.star, self.scheduler(), engine, self.availability)


def random_case(
    seed: int, count: int, name: str, slots: int | None = None, away: bool = False, changes: bool = False
) -> Case:
    """A random star, one of the federation's schedulers with random options, and mishaps if wanted."""
    draw = np.random.default_rng([seed, 1])
    workload, star = random_star(seed, count, slots)
    workload = dataclasses.replace(
        workload,
        train_seconds=workload.train_seconds * np.where(draw.random(count) < 0.1, 10, 1),  # stragglers
        load_seconds=0.1 * draw.random(count),
        downlink_seconds=0.1 * draw.random(),
        variation=draw.lognormal(0, 0.3, 50),
        seed=seed,
    )
    long = float(
        workload.train_seconds.mean() + workload.down_bytes.mean() * count / min(star.server_down, 1e6 * count)
    )
    if changes:
        rows = zip(
            3 * long * draw.random(4), [SERVER, *draw.integers(0, count, 3)], draw.lognormal(0, 0.7, 4), strict=True
        )
        star = dataclasses.replace(star, changes=tuple(Change(float(t), int(c), float(f)) for t, c, f in rows))
    options = {
        "sync": [{}, {"participation": 0.5}, {"deadline": 2 * long, "quorum": 0.5}][seed % 3],
        "async": {},
        "buffered": {"buffer": 1 + count // 5},
        "compass": {"q_min": 2, "q_max": 40, "latest_time_factor": 1.2},
    }[name]
    rounds = {"sync": 3, "async": 3 * count, "buffered": 12, "compass": 3 * count}[name]
    return Case(
        workload,
        star,
        lambda: schedulers.get(name, rounds=rounds, seed=seed, **options),
        Churn(3 * long, long, seed) if away else None,
    )


def sync(rounds: int = 1, **options: Any) -> schedulers.Scheduler:
    return schedulers.get("sync", rounds=rounds, **options)


class _Stateless:
    """Test schedulers are never restarted, and take any number of silos."""

    def check(self, silos: int) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        raise AssertionError(state)


class Async(_Stateless):
    """Every update is folded as it comes and its client sent off again (FedAsync's timing)."""

    def __init__(self, updates: int):
        self.left = updates

    def handle(self, event: Event) -> list[Action]:
        if isinstance(event, Start):
            return [Dispatch(range(event.silos))]
        assert isinstance(event, Arrived)
        self.left -= 1
        folded: list[Action] = [Aggregate([event.silo])]
        return folded + ([Dispatch([event.silo])] if self.left else [Finish()])


class Buffered(_Stateless):
    """Updates are folded `size` at a time, and their clients sent off again together (FedBuff's timing)."""

    def __init__(self, updates: int, size: int):
        self.left = updates
        self.size = size
        self.buffer: list[int] = []

    def handle(self, event: Event) -> list[Action]:
        if isinstance(event, Start):
            return [Dispatch(range(event.silos))]
        assert isinstance(event, Arrived)
        self.buffer.append(event.silo)
        if len(self.buffer) < self.size:
            return []
        batch, self.buffer = self.buffer, []
        self.left -= len(batch)
        folded: list[Action] = [Aggregate(batch)]
        return folded + ([Dispatch(batch)] if self.left > 0 else [Finish()])


class Deadline(_Stateless):
    """What has arrived when the timer is due is folded; half the steps at odd clients. One round, then the end."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.arrived: list[int] = []

    def handle(self, event: Event) -> list[Action]:
        match event:
            case Start(silos=silos, time=time):
                halves: list[Action] = [Dispatch(range(0, silos, 2)), Dispatch(range(1, silos, 2), steps=1)]
                return [*halves, SetTimer(7, time + self.seconds)]
            case Arrived(silo=silo):
                self.arrived.append(silo)
                return []
            case Timer(key=7, time=time):
                assert abs(time - self.seconds) < 1e-9
                return [Aggregate(self.arrived), Finish()]
        raise AssertionError(event)


@dataclass(frozen=True)
class Flow:
    start: float
    size: float
    cap: float
    weight: float


def rates(active: dict[int, Flow], capacity: float) -> dict[int, float]:
    """Weighted max-min rates by progressive filling: raise one level, freeze who reaches the cap, go on."""
    rising, found, left = dict(active), {}, capacity
    while rising:
        level = left / sum(flow.weight for flow in rising.values())
        full = [i for i, flow in rising.items() if flow.cap <= level * flow.weight]
        if not full:
            return found | {i: level * flow.weight for i, flow in rising.items()}
        for i in full:
            found[i] = rising[i].cap
            left -= rising.pop(i).cap
    return found


def end_times(flows: list[Flow], capacity: float) -> np.ndarray:
    """When each flow ends: all rates anew after every start and every end, O(n^2) and more."""
    time, ends = 0.0, np.full(len(flows), np.inf)
    left: dict[int, float] = {}
    waiting = sorted(range(len(flows)), key=lambda i: flows[i].start)
    while waiting or left:
        speed = rates({i: flows[i] for i in left}, capacity)
        finish = {i: time + left[i] / speed[i] for i in left}
        following = min([*finish.values(), *(flows[i].start for i in waiting[:1])])
        for i in list(left):
            left[i] -= speed[i] * (following - time)
            if finish[i] <= following:
                ends[i] = following
                del left[i]
        time = following
        while waiting and flows[waiting[0]].start <= time:
            opened = waiting.pop(0)
            left[opened] = flows[opened].size
    return ends
