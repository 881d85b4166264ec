"""Whole runs of FedCompass against its rules written down once more, plainly, on a clock that both share.

The clock stands still while silos train and jumps to what happens next, so that who arrives when is exact. Silos do not
keep their pace: some come after their group's timer.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from reference_cases import SILOS, Plain, assembly

from fedbound.codecs import wire
from fedbound.federation import server
from fedbound.federation.assembly import Assembly
from fedbound.federation.transports.local import LocalTransport

Q_MIN, Q_MAX, FACTOR, BETA, ALPHA, ROUNDS = 2, 12, 1.2, 0.9, 0.9, 14
SPEEDS = (1.0, 1.7, 5.3)  # seconds per step


class Pace:
    """Seconds per step of each silo's tasks: the silo's own, times something from 0.9 to 1.6."""

    def __init__(self, seed: int):
        self.factors = np.random.default_rng(seed).uniform(0.9, 1.6, (SILOS, 100))

    def __call__(self, silo: int, task: int) -> float:
        return SPEEDS[silo] * float(self.factors[silo, task])


class Paced(LocalTransport):
    """Answers come when the clock says so; `now` moves on while the server waits."""

    def __init__(self, made: Assembly, pace: Pace):
        super().__init__(made.local().members)
        self.pace, self.now, self.tasks = pace, 0.0, Counter()
        self.due: list[tuple[float, int, int, bytearray]] = []
        self.sent, self.free = 0, {}

    def send(self, silo: int, message: bytearray) -> None:
        until = max(self.now, self.free.get(silo, 0.0))  # a silo takes its messages in order
        if wire.peek(message).flags & wire.Flags.TRAIN:
            steps = wire.unpack(message, limits=self.members[silo].limits).fields["steps"]
            until += steps * self.pace(silo, self.tasks[silo])
            self.tasks[silo] += 1
        self.sent += 1
        self.free[silo] = until
        heapq.heappush(self.due, (until, self.sent, silo, message))

    def receive(self, timeout: float | None = None) -> tuple[int, bytearray] | None:
        until = math.inf if timeout is None else math.nextafter(self.now + timeout, math.inf)
        while self.due and self.due[0][0] <= until:
            at, _, silo, message = heapq.heappop(self.due)
            self.now = max(self.now, at)
            answer = self.members[silo].handle(message)
            if answer is not None:
                return silo, answer
        self.now = until
        return None


@dataclass(eq=False)
class Group:
    due: float
    latest: float
    members: set[int] = field(default_factory=set)
    arrived: dict[int, tuple[np.ndarray, int]] = field(default_factory=dict)


@dataclass
class Task:
    end: float
    steps: int
    since: float
    base: np.ndarray
    version: int
    group: Group | None


class Reference:
    """FedCompass as its paper's code has it, but that a late update is aggregated alone, and at once."""

    def __init__(self, plain: Plain, pace: Pace):
        self.plain, self.pace = plain, pace
        self.w, self.version, self.now = plain.start.copy(), 0, 0.0
        self.speed: dict[int, float] = {}
        self.out: dict[int, Task] = {}
        self.groups: list[Group] = []
        self.samples: dict[int, float] = {}
        self.tasks, self.seen = Counter(), Counter()

    def run(self) -> np.ndarray:
        for k in range(SILOS):
            self.send(k)
        while self.version < ROUNDS:
            k = min(self.out, key=lambda silo: self.out[silo].end)
            first = min(self.groups, key=lambda group: group.latest, default=None)
            if first and first.latest <= self.out[k].end:
                self.now = first.latest
                self.seen["timer"] += 1
                self.close(first)
            else:
                self.arrived(k)
        return self.w

    def arrived(self, k: int) -> None:
        task = self.out.pop(k)
        self.now = task.end
        s = (task.end - task.since) / task.steps
        self.speed[k] = (1 - BETA) * self.speed[k] + BETA * s if k in self.speed else s
        update = (self.plain.update(task.base, k, task.version, steps=task.steps), task.version)
        if task.group not in self.groups:
            self.seen["late" if task.group else "first"] += 1
            self.aggregate({k: update})
            return
        task.group.arrived[k] = update
        if task.group.arrived.keys() == task.group.members:
            self.seen[f"group of {len(task.group.members)}"] += 1
            self.close(task.group)

    def close(self, group: Group) -> None:
        self.groups.remove(group)
        if group.arrived:
            self.aggregate(group.arrived)

    def aggregate(self, updates: dict[int, tuple[np.ndarray, int]]) -> None:
        total = np.zeros_like(self.w)
        for k in sorted(updates):
            update, trained = updates[k]
            self.samples[k] = self.plain.samples[k]
            everyone = sum(self.samples.values()) * SILOS / len(self.samples)
            total += ALPHA * (1 + self.version - trained) ** -0.5 * self.samples[k] / everyone * update
        self.w, self.version = self.w + total, self.version + 1
        for k in sorted(updates, key=lambda silo: self.speed[silo]) if self.version < ROUNDS else ():
            self.send(k)

    def send(self, k: int) -> None:
        steps, group = self.place(k)
        if group:
            group.members.add(k)
        end = self.now + steps * self.pace(k, self.tasks[k])
        self.tasks[k] += 1
        self.out[k] = Task(end, steps, self.now, self.w, self.version, group)

    def place(self, k: int) -> tuple[int, Group | None]:
        if k not in self.speed:
            return Q_MAX, None
        s = self.speed[k]
        fits = [(math.floor((group.due - self.now) / s), number) for number, group in enumerate(self.groups)]
        fits = [fit for fit in fits if Q_MIN <= fit[0] <= Q_MAX]
        if fits:
            steps, number = max(fits)
            return steps, self.groups[number]
        again = [
            math.floor((group.latest + Q_MAX * min(self.speed[j] for j in group.members) - self.now) / s)
            for group in self.groups
        ]
        steps = max((max(n, Q_MIN) for n in again if n <= Q_MAX), default=Q_MAX)
        self.groups.append(Group(self.now + steps * s, self.now + FACTOR * steps * s))
        return steps, self.groups[-1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fedcompass(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"q_min": Q_MIN, "q_max": Q_MAX, "latest_time_factor": FACTOR, "speed_momentum": BETA}
    made = assembly("fedcompass", seed, {"name": "compass", **options}, ROUNDS)
    transport = Paced(made, Pace(seed))
    monkeypatch.setattr(server, "time", SimpleNamespace(perf_counter=lambda: transport.now))
    ours = made.server(transport).run().vector
    reference = Reference(Plain(made), Pace(seed))
    found = reference.run()
    assert np.abs(found - reference.plain.start).max() > 0.01  # it has moved
    np.testing.assert_allclose(ours, found, rtol=0, atol=5e-5)
    assert transport.tasks == reference.tasks
    assert reference.seen["first"] == SILOS
    assert reference.seen["timer"]
    assert reference.seen["late"]
    assert reference.seen["group of 2"] or reference.seen["group of 3"]
