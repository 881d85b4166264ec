"""A tiny federation on a clock of its own: it drives any scheduler and holds it to the driver's rules."""

from __future__ import annotations

import copy
import heapq
import itertools
import json
import random
from collections.abc import Callable
from typing import Any

from fedbound.federation.schedulers import (
    Action,
    Aggregate,
    Arrived,
    Discard,
    Dispatch,
    Event,
    Finish,
    Left,
    Rejected,
    Returned,
    Scheduler,
    SetTimer,
    Start,
    Timer,
)

Log = list[tuple[Event, list[Action]]]


class World:
    """Silos that take random or fixed time per step, and at times leave, come back or send rubbish.

    Args:
        new: makes the scheduler.
        silos: number of silos.
        seed: of speeds and mishaps.
        speeds: seconds per local step; drawn where None.
        mishaps: probability that an answer is no usable update.
        jitter: sigma of the lognormal factor on each task's time.
        restart_at: number of the event before which the scheduler is replaced by a copy from its JSON state.
    """

    def __init__(
        self,
        new: Callable[[], Scheduler],
        silos: int,
        seed: int = 0,
        speeds: list[float] | None = None,
        mishaps: float = 0.0,
        jitter: float = 0.0,
        restart_at: int = -1,
    ):
        self.new = new
        self.scheduler = new()
        self.silos = silos
        self.random = random.Random(seed)
        self.speeds = speeds or [self.random.lognormvariate(0, 1) for _ in range(silos)]
        self.mishaps = mishaps
        self.jitter = jitter
        self.restart_at = restart_at
        self.queue: list[tuple[float, int, str, int, int]] = []  # time, order, what, silo or key, task
        self.counter = itertools.count()
        self.tasks: dict[int, int] = {}  # silo that is out -> number of its task
        self.waiting: dict[int, int] = {}  # silo whose update waits -> number of its task
        self.gone: set[int] = set()
        self.dispatched = 0
        self.used: list[int] = []  # tasks whose update was aggregated or discarded
        self.timers: set[int] = set()
        self.aggregates = 0
        self.finished = False
        self.log: Log = []

    def run(self, limit: int = 5000) -> Log:
        self.tell(Start(self.silos, 0.0))
        while not self.finished:
            assert self.queue, "it waits for ever: nothing will ever happen again"
            assert len(self.log) < limit, "it does not finish"
            if len(self.log) == self.restart_at:
                self.restart()
            self.happen(*heapq.heappop(self.queue))
        return self.log

    def restart(self) -> None:
        state = self.scheduler.state()
        before = copy.deepcopy(state)
        self.scheduler = self.new()
        self.scheduler.restore(json.loads(json.dumps(state)))
        assert self.scheduler.state() == before

    def happen(self, time: float, order: int, what: str, subject: int, task: int) -> None:
        if what == "timer":
            self.tell(Timer(subject, time))
        elif what == "return":
            self.gone.discard(subject)
            self.tell(Returned(subject, time))
        elif what == "leave":
            if subject not in self.gone:
                self.leave(subject, time)
        elif self.tasks.get(subject) == task:
            self.answer(subject, time)

    def answer(self, silo: int, time: float) -> None:
        if self.random.random() >= self.mishaps:
            self.waiting[silo] = self.tasks.pop(silo)
            if self.random.random() < self.mishaps / 2:  # it goes as soon as it has answered
                self.plan(time + self.random.random(), "leave", silo)
            self.tell(Arrived(silo, time))
        elif self.random.random() < 0.5:
            del self.tasks[silo]
            self.tell(Rejected(silo, time))
        else:
            self.leave(silo, time)

    def leave(self, silo: int, time: float) -> None:
        self.gone.add(silo)
        self.tasks.pop(silo, None)
        if self.random.random() < 0.7:
            self.plan(time + self.random.expovariate(0.02), "return", silo)
        self.tell(Left(silo, time))

    def plan(self, time: float, what: str, subject: int, task: int = -1) -> None:
        heapq.heappush(self.queue, (time, next(self.counter), what, subject, task))

    def tell(self, event: Event) -> None:
        actions = self.scheduler.handle(event)
        self.log.append((event, actions))
        for action in actions:
            self.carry_out(action, event.time)
        assert self.finished or self.tasks, "nobody is out: it waits for ever"

    def carry_out(self, action: Action, now: float) -> None:
        assert not self.finished, "an action after Finish"
        match action:
            case Dispatch(silos=silos, steps=steps):
                assert silos
                for silo in silos:
                    self.dispatch(silo, steps, now)
            case Aggregate(silos=silos):
                self.aggregates += 1
                assert silos
                assert list(silos) == sorted(set(silos)), "not in silo order"
                self.used += [self.waiting.pop(silo) for silo in silos]
            case Discard(silos=silos):
                self.used += [self.waiting.pop(silo) for silo in silos]
            case SetTimer(key=key, time=time):
                assert time >= now
                assert key not in self.timers, "two timers with one key"
                self.timers.add(key)
                self.plan(time, "timer", key)
            case Finish():
                self.finished = True

    def dispatch(self, silo: int, steps: int, now: float) -> None:
        assert 0 <= silo < self.silos
        assert silo not in self.gone, "a silo that left was dispatched"
        assert silo not in self.tasks, "a silo was dispatched while it is out"
        assert silo not in self.waiting, "a silo was dispatched while its update waits"
        self.tasks[silo] = self.dispatched
        seconds = (steps or 10) * self.speeds[silo] * self.random.lognormvariate(0, self.jitter)
        self.plan(now + seconds, "answer", silo, self.dispatched)
        self.dispatched += 1

    def check_books(self) -> None:
        """Every task was answered at most once, and its update used at most once; nothing useful was left lying."""
        assert len(set(self.used)) == len(self.used)
        assert not set(self.used) & (set(self.tasks.values()) | set(self.waiting.values()))


def actions(log: Log) -> list[Action]:
    return [action for _, done in log for action in done]


def without_times(log: Log) -> list[Any]:
    """The log's events by kind and silo, with their actions."""
    return [(type(event).__name__, getattr(event, "silo", None), done) for event, done in log]
