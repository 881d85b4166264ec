"""Synchronous rounds: all (or a sample of) silos train, then all their updates are aggregated at once.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017
(arXiv 1602.05629), Algorithm 1: the server waits for every client of the round's set S_t.

A round of which every update was rejected, or every silo left, passes without an Aggregate: the model stays as it is
and the next round begins. Repeating it instead could go on for ever, since a silo that is broken stays broken. When no
silo is left, the federation finishes early with the model that it has.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field

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
    Start,
)
from fedbound.registry import SCHEDULERS, Options


class SyncOptions(Options):
    """Options of `sync`."""

    participation: float = Field(default=1.0, gt=0, le=1, description="share of silos that train in each round")


@SCHEDULERS.register("sync", SyncOptions)
def sync(options: SyncOptions) -> Callable[..., Sync]:
    """Synchronous rounds over all silos or a fresh sample of them (FedAvg, Algorithm 1)."""
    return lambda rounds, seed=0: Sync(rounds, seed, options.participation)


class Sync:
    """State: the round, and whom it still waits for. Aggregation order is silo order, so runs are reproducible."""

    def __init__(self, rounds: int, seed: int = 0, participation: float = 1.0):
        self.rounds = rounds
        self.seed = seed
        self.participation = participation
        self.started = False
        self.round = 0
        self.silos: list[int] = []
        self.members: Sequence[int] = []
        self.waiting: set[int] = set()
        self.arrived: set[int] = set()

    def handle(self, event: Event) -> list[Action]:
        match event:
            case Start(silos=silos):
                if self.started:
                    raise ValueError(f"a second start came in round {self.round}")
                self.started = True
                self.silos = list(range(silos))
                return self._begin()
            case Arrived(silo=silo):
                self._remove(silo)
                self.arrived.add(silo)
                return self._complete()
            case Rejected(silo=silo):
                self._remove(silo)
                return self._complete()
            case Left(silo=silo):
                self.silos = [other for other in self.silos if other != silo]
                if silo in self.waiting:
                    self.waiting.remove(silo)
                    return self._complete()
                return []
            case Returned(silo=silo):
                if silo not in self.silos:
                    bisect.insort(self.silos, silo)  # trains from the next round on
                return []
            case _:
                raise ValueError(f"{event} came, but synchronous rounds set no timer")

    def _remove(self, silo: int) -> None:
        if silo not in self.waiting:
            raise ValueError(f"an update of silo {silo} arrived in round {self.round}, which does not wait for it")
        self.waiting.remove(silo)

    def _begin(self) -> list[Action]:
        if self.round >= self.rounds or not self.silos:
            return [Finish()]
        self.members = self._sample()
        self.waiting = set(self.members)
        self.arrived = set()
        return [Dispatch(self.members)]

    def _complete(self) -> list[Action]:
        if self.waiting:
            return []
        done: list[Action] = [Aggregate([s for s in self.members if s in self.arrived])] if self.arrived else []
        self.round += 1
        return done + self._begin()

    def _sample(self) -> Sequence[int]:
        if self.participation >= 1:
            return list(self.silos)
        count = max(1, math.ceil(self.participation * len(self.silos) - 1e-9))  # 0.07 of 100 is 7, not 8
        # one generator per round: a restarted server draws the same sample without storing generator state
        return sorted(random.Random(f"{self.seed}/{self.round}").sample(self.silos, count))

    def state(self) -> dict[str, Any]:
        return {
            "started": self.started,
            "round": self.round,
            "silos": list(self.silos),
            "members": list(self.members),
            "waiting": sorted(self.waiting),
            "arrived": sorted(self.arrived),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.started = state["started"]
        self.round = state["round"]
        self.silos = list(state["silos"])
        self.members = list(state["members"])
        self.waiting = set(state["waiting"])
        self.arrived = set(state["arrived"])
