"""Synchronous rounds: all (or a sample of) silos train, then all their updates are aggregated at once.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017
(arXiv 1602.05629), Algorithm 1: the server waits for every client of the round's set S_t.

A round of which every update was rejected, or every silo left, passes without an Aggregate: the model stays as it is
and the next round begins. Repeating it instead could go on for ever, since a silo that is broken stays broken. When no
silo is left, the federation finishes early with the model that it has.

With a quorum, a round ends without its last silos: as soon as the quorum has arrived, but not before the deadline
where there is one. Who is late then stays away until its old update has arrived; that update is discarded, and the
silo can be sampled again from the next round on. Where all silos that live are late, the next round waits for one of
them. A silo that is out at the end is not awaited any more.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field, field_validator, model_validator

from fedbound.errors import InputError
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
    SetTimer,
    Start,
    Timer,
)
from fedbound.registry import SCHEDULERS, Options

_TINY = 1e-9  # 0.07 of 100 is 7, not 8


class SyncOptions(Options):
    """Options of `sync`."""

    participation: float = Field(default=1.0, gt=0, le=1, description="share of silos that train in each round")
    deadline: float = Field(
        default=0.0, ge=0, description="seconds that a round waits for more than its quorum; 0: not at all"
    )
    quorum: int | float | None = Field(
        default=None,
        description="arrivals that are enough to end a round: a share of its silos below 1, or a whole number of "
        "silos; null: all",
    )

    @field_validator("quorum")
    @classmethod
    def _share_or_count(cls, value: int | float | None) -> int | float | None:
        # 1.0 would be all silos as a share and one silo as a number: too far apart to guess
        if value is not None and not (value >= 1 if isinstance(value, int) else 0 < value < 1):
            raise ValueError("give a share above 0 and below 1, a whole number of silos from 1, or null for all")
        return value

    @model_validator(mode="after")
    def _deadline_has_effect(self) -> SyncOptions:
        if self.deadline and self.quorum is None:
            raise ValueError(
                f"deadline {self.deadline:g} has no effect while every silo is awaited; add a quorum, for example 1"
            )
        return self


@SCHEDULERS.register("sync", SyncOptions)
def sync(options: SyncOptions) -> Callable[..., Sync]:
    """Synchronous rounds over all silos or a fresh sample of them (FedAvg, Algorithm 1)."""
    return lambda rounds, seed=0: Sync(rounds, seed, options.participation, options.deadline, options.quorum)


class Sync:
    """State: the round, and whom it still waits for. Aggregation order is silo order, so runs are reproducible.

    Args:
        rounds: rounds until the end.
        seed: of the samples.
        participation: share of the silos that train in a round.
        deadline: seconds from a round's dispatch before which only the arrival of all ends it.
        quorum: arrivals that end a round from then on; a share (float) or a number (int) of its silos, None for all.
    """

    def __init__(
        self,
        rounds: int,
        seed: int = 0,
        participation: float = 1.0,
        deadline: float = 0.0,
        quorum: int | float | None = None,
    ):
        self.rounds = rounds
        self.seed = seed
        self.participation = participation
        self.deadline = deadline
        self.quorum = quorum
        self.overlapping = quorum is not None  # late silos train on while others are aggregated
        self.started = False
        self.finished = False
        self.round = 0
        self.overdue = False  # the round's deadline has passed
        self.silos: list[int] = []
        self.members: Sequence[int] = []
        self.waiting: set[int] = set()  # empty between rounds: all silos are late, or the federation is over
        self.arrived: set[int] = set()
        self.late: set[int] = set()  # out for a round that is over

    def check(self, silos: int) -> None:
        """Raise InputError where a round over `silos` silos can never have its quorum."""
        members = self._sample_size(silos)
        if isinstance(self.quorum, int) and self.quorum > members:
            raise InputError(
                f"scheduler 'sync': quorum: {self.quorum} is refused: a round has {members} of the {silos} silos; "
                f"give at most {members}"
            )

    def handle(self, event: Event) -> list[Action]:
        match event:
            case Start(silos=silos, time=now):
                if self.started:
                    raise ValueError(f"a second start came in round {self.round}")
                self.started = True
                self.silos = list(range(silos))
                return self._begin(now)
            case Arrived(silo=silo, time=now):
                if silo in self.late:
                    self.late.remove(silo)
                    return [] if self.finished else [Discard([silo]), *self._resume(now)]
                self._remove(silo)
                self.arrived.add(silo)
                return self._complete(now)
            case Rejected(silo=silo, time=now):
                if silo in self.late:
                    self.late.remove(silo)
                    return self._resume(now)
                self._remove(silo)
                return self._complete(now)
            case Left(silo=silo, time=now):
                return self._left(silo, now)
            case Returned(silo=silo, time=now):
                if silo not in self.silos:
                    bisect.insort(self.silos, silo)  # trains from the next round on
                return self._resume(now)
            case Timer(key=key, time=now):
                return self._due(key, now)

    def _remove(self, silo: int) -> None:
        if silo not in self.waiting:
            raise ValueError(f"an update of silo {silo} arrived in round {self.round}, which does not wait for it")
        self.waiting.remove(silo)

    def _left(self, silo: int, now: float) -> list[Action]:
        self.silos = [other for other in self.silos if other != silo]
        self.late.discard(silo)
        if silo in self.waiting:
            self.waiting.remove(silo)
            return self._complete(now)
        return self._resume(now)

    def _due(self, key: int, now: float) -> list[Action]:
        if not self.deadline:
            raise ValueError(f"timer {key} came, but synchronous rounds without a deadline set no timer")
        if key > self.round:
            raise ValueError(f"the timer of round {key} came in round {self.round}")
        if key < self.round or not self.waiting:
            return []  # of a round that ended before its deadline
        self.overdue = True
        return self._complete(now)

    def _begin(self, now: float) -> list[Action]:
        self.overdue = False
        self.arrived = set()
        if self.round >= self.rounds or not self.silos:
            self.finished = True
            return [Finish()]
        self.members = self._sample()
        self.waiting = set(self.members)
        if not self.members:
            return []
        timer: list[Action] = [SetTimer(self.round, now + self.deadline)] if self.deadline else []
        return [Dispatch(self.members), *timer]

    def _resume(self, now: float) -> list[Action]:
        """Begin the round that could not begin while all silos were late."""
        return self._begin(now) if self.started and not self.waiting and not self.finished else []

    def _complete(self, now: float) -> list[Action]:
        enough = len(self.arrived) >= self._needed() and (self.overdue or not self.deadline)
        if self.waiting and not enough:
            return []
        done: list[Action] = [Aggregate([s for s in self.members if s in self.arrived])] if self.arrived else []
        self.late |= self.waiting
        self.waiting = set()
        self.round += 1
        return done + self._begin(now)

    def _needed(self) -> int:
        if self.quorum is None:
            return len(self.members)
        if isinstance(self.quorum, int):
            return self.quorum
        return max(1, math.ceil(self.quorum * len(self.members) - _TINY))

    def _sample(self) -> Sequence[int]:
        free = [silo for silo in self.silos if silo not in self.late] if self.late else list(self.silos)
        if self.participation >= 1:
            return free
        # one generator per round: a restarted server draws the same sample without storing generator state
        generator = random.Random(f"{self.seed}/{self.round}")
        return sorted(generator.sample(free, min(len(free), self._sample_size(len(self.silos)))))

    def _sample_size(self, silos: int) -> int:
        return max(1, math.ceil(self.participation * silos - _TINY))

    def state(self) -> dict[str, Any]:
        return {
            "started": self.started,
            "finished": self.finished,
            "round": self.round,
            "overdue": self.overdue,
            "silos": list(self.silos),
            "members": list(self.members),
            "waiting": sorted(self.waiting),
            "arrived": sorted(self.arrived),
            "late": sorted(self.late),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.started = state["started"]
        self.finished = state["finished"]
        self.round = state["round"]
        self.overdue = state["overdue"]
        self.silos = list(state["silos"])
        self.members = list(state["members"])
        self.waiting = set(state["waiting"])
        self.arrived = set(state["arrived"])
        self.late = set(state["late"])
