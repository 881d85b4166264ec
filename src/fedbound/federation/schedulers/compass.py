"""COMPASS: silos of different speed get different numbers of local steps, so that they arrive in groups.

Source: Li et al., "FedCompass: Efficient Cross-Silo Federated Learning on Heterogeneous Client Devices Using a
Computing Power-Aware Scheduler", ICLR 2024 (arXiv 2309.14675), after its published code (APPFL 1.12.0,
`algorithm/scheduler/compass_scheduler.py`), whose rules are these:

    s_i   seconds per local step of silo i, messages included: s_i <- (1 - beta) s_i + beta (t_arrived - t_sent) / Q_i;
          its first update is measured at Q_max steps and aggregated alone
    join  the group g with the largest q = floor((T_a(g) - now) / s_i) in [Q_min, Q_max]; the youngest one on a tie
    else  create a group with Q_i = max over groups g of floor((T_max(g) + Q_max min_{j in g} s_j - now) / s_i) that
          are <= Q_max, raised to Q_min; where there is none, Q_max;
          T_a = now + Q_i s_i, T_max = now + lambda Q_i s_i
    A group is aggregated when its last member has arrived or at T_max; its members are then assigned anew, from the
    fastest to the slowest. Who comes after T_max is late.

Where this differs from that code:

- What T_max releases is sent off at once, since the timer is an event like any other; there it stays at the server
  until some message comes.
- A late update is aggregated alone at once, and so once, and its silo sent off with that model. There it waits for the
  next group while its silo trains on, for which our server, with one waiting update per silo, has no place; and it is
  counted twice.
- A group is closed by its timer and not by a comparison of clocks: an update that overtakes the timer is in time.
- A quotient less than 1e-9 below a whole number counts as that number, so that two equally fast silos get equal work.

The updates of a group are aggregated in silo order. The silo of a rejected update rests until the next aggregation;
when all rest, a round passes without an Aggregate, as in `sync`. An update that came before its silo left counts. A
silo that comes back is sent off at once, with the speed it had. When no silo is left, the federation finishes early;
a silo that is out at the end is not awaited any more.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import Field, model_validator

from fedbound.federation.schedulers import (
    Action,
    Aggregate,
    Arrived,
    Dispatch,
    Event,
    Finish,
    Left,
    Rejected,
    Returned,
    SetTimer,
    Start,
    Timer,
)
from fedbound.registry import SCHEDULERS, Options

_ALONE = -1  # the group of a silo whose speed is not known yet
_LEAST = 1e-9  # seconds per step: no estimate is below, so that nothing is divided by zero
_ROUNDING = 1e-9  # steps


class CompassOptions(Options):
    """Options of `compass`."""

    q_min: int = Field(default=20, ge=1, description="fewest local steps that a silo is given")
    q_max: int = Field(default=100, ge=1, description="most local steps that a silo is given, also at first")
    latest_time_factor: float = Field(
        default=1.5, ge=1, description="lambda: how long a group is awaited, as a multiple of the time it should take"
    )
    speed_momentum: float = Field(
        default=0.9, gt=0, le=1, description="beta: weight of the newest measurement in a silo's estimated speed"
    )

    @model_validator(mode="after")
    def _ordered(self) -> CompassOptions:
        if self.q_min > self.q_max:
            raise ValueError(f"q_min {self.q_min} is above q_max {self.q_max}; give a q_min of at most q_max")
        return self


@SCHEDULERS.register("compass", CompassOptions)
def compass(options: CompassOptions) -> Callable[..., Compass]:
    """Groups that arrive together: local steps are given out by estimated speed (FedCompass)."""
    return lambda rounds, seed=0: Compass(rounds, options)


@dataclass(slots=True)
class Group:
    """Silos that should arrive together.

    Attributes:
        expected: T_a, seconds.
        latest: T_max, seconds.
        out: silos that have not answered; never empty between events.
        arrived: silos whose update waits.
        speeds: heap of (seconds per step, silo): its members' now, and entries that are outdated.
        release: when its fastest member, given Q_max steps at T_max, would come again, seconds.
    """

    expected: float
    latest: float
    out: set[int]
    arrived: set[int]
    speeds: list[tuple[float, int]] = field(default_factory=list)
    release: float = math.inf


@dataclass(frozen=True, slots=True)
class Task:
    """What a silo that is out was given: local steps, when (seconds), and its group's key."""

    steps: int
    since: float
    group: int


class Compass:
    """State: estimated speeds, tasks of the silos that are out, groups that are awaited.

    Every living silo has a task, or waits in a group, or rests.

    Args:
        rounds: aggregations until the end.
        options: of `compass`.
    """

    overlapping = True

    def __init__(self, rounds: int, options: CompassOptions | None = None):
        self.rounds = rounds
        self.options = options or CompassOptions()
        self.started = False
        self.finished = False
        self.round = 0
        self.silos: set[int] = set()
        self.resting: set[int] = set()
        self.speed: dict[int, float] = {}
        self.tasks: dict[int, Task] = {}
        self.groups: dict[int, Group] = {}
        self.order: list[tuple[float, int]] = []  # (T_a, key) of the groups, sorted
        self.releases: list[tuple[float, int]] = []  # (release, key) of the groups, sorted
        self.created = 0  # groups so far: the key of the next one

    def check(self, silos: int) -> None:
        """Any number of silos will do."""

    def handle(self, event: Event) -> list[Action]:
        match event:
            case Start(silos=silos, time=now):
                if self.started:
                    raise ValueError(f"a second start came in round {self.round}")
                self.started = True
                self.silos = set(range(silos))
                return self._send(self.silos, now) if self.silos else self._finish()
            case Arrived(silo=silo, time=now):
                return self._arrived(silo, now)
            case Rejected(silo=silo, time=now):
                task = self._answered(silo)
                self.resting.add(silo)
                return self._lost(silo, task, now)
            case Left(silo=silo, time=now):
                self.silos.discard(silo)
                self.resting.discard(silo)
                return self._lost(silo, self.tasks.pop(silo, None), now)
            case Returned(silo=silo, time=now):
                return self._returned(silo, now)
            case Timer(key=key, time=now):
                return self._due(key, now)

    def _answered(self, silo: int) -> Task:
        if silo not in self.tasks:
            raise ValueError(f"an update of silo {silo} arrived in round {self.round}, which does not wait for it")
        return self.tasks.pop(silo)

    def _arrived(self, silo: int, now: float) -> list[Action]:
        task = self._answered(silo)
        group = self.groups.get(task.group)
        speed = max(_LEAST, (now - task.since) / task.steps)
        beta, before = self.options.speed_momentum, self.speed.get(silo)
        self.speed[silo] = speed if before is None else (1 - beta) * before + beta * speed
        if group is None:  # the silo's first update, or a late one
            return self._proceed({silo}, now)
        group.arrived.add(silo)
        return self._lost(silo, task, now)

    def _lost(self, silo: int, task: Task | None, now: float) -> list[Action]:
        """`silo` is not out any more: aggregate its group if it was the last one, go on if nobody is out."""
        group = self.groups.get(task.group) if task else None
        if task and group:
            group.out.remove(silo)
            if not group.out:
                self._close(task.group)
                if group.arrived:
                    return self._proceed(group.arrived, now)
            else:
                if silo in group.arrived:
                    heapq.heappush(group.speeds, (self.speed[silo], silo))
                self._rank(task.group, group)
        return [] if self.tasks else self._proceed(set(), now)

    def _returned(self, silo: int, now: float) -> list[Action]:
        if not self.started or self.finished or silo in self.silos:
            return []
        self.silos.add(silo)
        waits = any(silo in group.arrived for group in self.groups.values())
        return [] if waits else self._send([silo], now)

    def _due(self, key: int, now: float) -> list[Action]:
        if key not in range(self.created):
            raise ValueError(f"timer {key} came in round {self.round}, but only {self.created} were set")
        group = self._close(key)  # its members that are still out are late from now on
        return self._proceed(group.arrived, now) if group and group.arrived else []

    def _close(self, key: int) -> Group | None:
        group = self.groups.pop(key, None)
        if group:
            del self.order[bisect.bisect_left(self.order, (group.expected, key))]
            del self.releases[bisect.bisect_left(self.releases, (group.release, key))]
        return group

    def _rank(self, key: int, group: Group) -> None:
        """Give a group that has members its place among the releases, after its members or their speeds changed."""
        speeds = group.speeds
        while True:
            fastest, silo = speeds[0]
            if self.speed[silo] == fastest and (silo in group.out or silo in group.arrived):
                break
            heapq.heappop(speeds)
        release = group.latest + self.options.q_max * fastest
        if release != group.release:
            at = bisect.bisect_left(self.releases, (group.release, key))
            if self.releases[at : at + 1] == [(group.release, key)]:
                del self.releases[at]
            group.release = release
            bisect.insort(self.releases, (release, key))

    def _proceed(self, silos: set[int], now: float) -> list[Action]:
        """Aggregate the updates of `silos`, if any, and give out new tasks."""
        if not self.started or self.finished:
            return []
        done: list[Action] = [Aggregate(sorted(silos))] if silos else []
        free = (silos | self.resting) & self.silos
        self.resting = set()
        self.round += 1
        if self.round >= self.rounds or not self.silos:
            return done + self._finish()
        return done + self._send(free, now)

    def _finish(self) -> list[Action]:
        self.finished = True
        return [Finish()]

    # ---- who gets how many steps ----------------------------------------------------------------------------------

    def _send(self, silos: Iterable[int], now: float) -> list[Action]:
        """Give each of `silos` a task, the fastest first; one Dispatch for neighbours with equal steps."""
        before = self.created
        order = sorted(silos, key=lambda silo: (self.speed.get(silo, 0.0), silo))
        for silo in order:
            self.tasks[silo] = self._assign(silo, now)
        dispatches: list[Action] = [
            Dispatch(list(members), steps)
            for steps, members in itertools.groupby(order, key=lambda silo: self.tasks[silo].steps)
        ]
        timers: list[Action] = [SetTimer(key, self.groups[key].latest) for key in range(before, self.created)]
        return dispatches + timers

    def _assign(self, silo: int, now: float) -> Task:
        if silo not in self.speed:
            return Task(self.options.q_max, now, _ALONE)
        steps, key = self._join(silo, now) or self._create(silo, now)
        group = self.groups[key]
        group.out.add(silo)
        heapq.heappush(group.speeds, (self.speed[silo], silo))
        self._rank(key, group)
        return Task(steps, now, key)

    def _join(self, silo: int, now: float) -> tuple[int, int] | None:
        """(steps, key) of the group that gives the silo most work, if one can be reached in time."""
        speed = self.speed[silo]

        def steps_to(group: tuple[float, int]) -> int:
            return _whole((group[0] - now) / speed)

        index = bisect.bisect_right(self.order, self.options.q_max, key=steps_to)
        if not index or (most := steps_to(self.order[index - 1])) < self.options.q_min:
            return None
        youngest = -1
        while index and steps_to(self.order[index - 1]) == most:
            index -= 1
            youngest = max(youngest, self.order[index][1])
        return most, youngest

    def _create(self, silo: int, now: float) -> tuple[int, int]:
        """(steps, key) of a new group."""
        steps = self._steps_alone(silo, now)
        seconds = steps * self.speed[silo]
        key, self.created = self.created, self.created + 1
        self.groups[key] = Group(now + seconds, now + self.options.latest_time_factor * seconds, set(), set())
        bisect.insort(self.order, (now + seconds, key))
        return steps, key

    def _steps_alone(self, silo: int, now: float) -> int:
        """Steps that let a new group arrive when the members of an older one come for the next time."""
        options, speed = self.options, self.speed[silo]

        def steps_to(release: tuple[float, int]) -> int:
            return _whole((release[0] - now) / speed)

        # Steps grow with the release, so the largest that are not above Q_max stand just before those that are.
        for index in range(bisect.bisect_right(self.releases, options.q_max, key=steps_to) - 1, -1, -1):
            if now < self.groups[self.releases[index][1]].latest:
                return max(steps_to(self.releases[index]), options.q_min)
        return options.q_max

    # ---- restart --------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            "started": self.started,
            "finished": self.finished,
            "round": self.round,
            "silos": sorted(self.silos),
            "resting": sorted(self.resting),
            "speed": {str(silo): speed for silo, speed in sorted(self.speed.items())},
            "tasks": {str(silo): asdict(task) for silo, task in sorted(self.tasks.items())},
            "groups": {
                str(key): {
                    "expected": group.expected,
                    "latest": group.latest,
                    "out": sorted(group.out),
                    "arrived": sorted(group.arrived),
                }
                for key, group in self.groups.items()
            },
            "created": self.created,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.started = state["started"]
        self.finished = state["finished"]
        self.round = state["round"]
        self.silos = set(state["silos"])
        self.resting = set(state["resting"])
        self.speed = {int(silo): speed for silo, speed in state["speed"].items()}
        self.tasks = {int(silo): Task(**task) for silo, task in state["tasks"].items()}
        self.groups = {
            int(key): Group(group["expected"], group["latest"], set(group["out"]), set(group["arrived"]))
            for key, group in state["groups"].items()
        }
        self.order = sorted((group.expected, key) for key, group in self.groups.items())
        self.releases = []
        for key, group in self.groups.items():
            group.speeds = sorted((self.speed[silo], silo) for silo in group.out | group.arrived)
            self._rank(key, group)
        self.created = state["created"]


def _whole(steps: float) -> int:
    return math.floor(steps + _ROUNDING)
