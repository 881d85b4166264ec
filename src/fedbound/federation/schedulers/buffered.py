"""Buffered aggregation: whenever K updates wait at the server, they are aggregated together.

Source: Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation" (FedBuff), AISTATS 2022
(arXiv 2106.06639); K is the paper's buffer size. Read: its abstract and APPFL's published code.

Two choices of ours:

- A silo is sent off again when the buffer that holds its update is aggregated, not when the update arrives as in the
  paper. The server keeps one waiting update per silo, and a second model would overwrite what the first one was
  trained on. At most K - 1 silos idle meanwhile; in return a silo's next model holds its own last update.
- The updates of a buffer are aggregated in silo order, not in the order of arrival, so that a race between two
  messages does not change the sum.

When nobody is out, what waits is aggregated though it is fewer than K: no further update could come. The silo of a
rejected update rests until the next aggregation, since a silo that is broken stays broken and would be sent off for
ever. When all rest, a round passes without an Aggregate, as in `sync`. An update that came before its silo left
counts. When no silo is left, the federation finishes early; a silo that is out at the end is not awaited any more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import Field, field_validator

from fedbound.errors import InputError
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

_TINY = 1e-9  # 0.07 of 100 is 7, not 8


class BufferedOptions(Options):
    """Options of `buffered`."""

    buffer: int | float = Field(
        default=3,
        description="updates aggregated together (FedBuff's K): a share of the silos below 1, or a whole number",
    )

    @field_validator("buffer")
    @classmethod
    def _share_or_count(cls, value: int | float) -> int | float:
        # 1.0 would be all silos as a share and one update as a number: too far apart to guess
        if not (value >= 1 if isinstance(value, int) else 0 < value < 1):
            raise ValueError("give a share above 0 and below 1, or a whole number of updates from 1")
        return value


@SCHEDULERS.register("buffered", BufferedOptions)
def buffered(options: BufferedOptions) -> Callable[..., Buffered]:
    """Every K arrivals are aggregated together, and their silos sent off again (FedBuff)."""
    return lambda rounds, seed=0: Buffered(rounds, options.buffer)


class Buffered:
    """State: who is out, whose update waits, and who rests. A living silo is in exactly one of the three.

    Args:
        rounds: aggregations until the end.
        buffer: updates per aggregation; a share (float) or a number (int) of the silos that are there at the start.
    """

    overlapping = True

    def __init__(self, rounds: int, buffer: int | float):
        self.rounds = rounds
        self.buffer_size = buffer
        self.size = buffer if isinstance(buffer, int) else 1  # known when the silos are
        self.started = False
        self.finished = False
        self.round = 0
        self.silos: set[int] = set()
        self.out: set[int] = set()
        self.buffer: set[int] = set()
        self.resting: set[int] = set()

    def check(self, silos: int) -> None:
        """Raise InputError where `silos` silos can never fill the buffer."""
        if self._share(silos) > silos:
            raise InputError(
                f"scheduler 'buffered': buffer: {self.buffer_size} is refused: each of the {silos} silos has at most "
                f"one update waiting; give at most {silos}"
            )

    def _share(self, silos: int) -> int:
        if isinstance(self.buffer_size, int):
            return self.buffer_size
        return max(1, math.ceil(self.buffer_size * silos - _TINY))

    def handle(self, event: Event) -> list[Action]:
        match event:
            case Start(silos=silos):
                if self.started:
                    raise ValueError(f"a second start came in round {self.round}")
                self.started = True
                self.silos = set(range(silos))
                self.size = self._share(silos)
                return self._dispatch(self.silos) if self.silos else self._finish()
            case Arrived(silo=silo):
                self._answered(silo)
                self.buffer.add(silo)
            case Rejected(silo=silo):
                self._answered(silo)
                self.resting.add(silo)
            case Left(silo=silo):
                for members in (self.silos, self.out, self.resting):
                    members.discard(silo)
            case Returned(silo=silo):
                return self._returned(silo)
            case _:
                raise ValueError(f"{event} came, but a buffer sets no timer")
        return self._proceed()

    def _answered(self, silo: int) -> None:
        if silo not in self.out:
            raise ValueError(f"an update of silo {silo} arrived in round {self.round}, which does not wait for it")
        self.out.remove(silo)

    def _returned(self, silo: int) -> list[Action]:
        if not self.started or self.finished or silo in self.silos:
            return []
        self.silos.add(silo)
        return [] if silo in self.buffer else self._dispatch([silo])

    def _proceed(self) -> list[Action]:
        if not self.started or self.finished or (self.out and len(self.buffer) < self.size):
            return []
        done: list[Action] = [Aggregate(sorted(self.buffer))] if self.buffer else []
        free = (self.buffer | self.resting) & self.silos
        self.buffer, self.resting = set(), set()
        self.round += 1
        if self.round >= self.rounds or not self.silos:
            return done + self._finish()
        return done + (self._dispatch(free) if free else [])

    def _dispatch(self, silos: Iterable[int]) -> list[Action]:
        self.out.update(silos)
        return [Dispatch(sorted(silos))]

    def _finish(self) -> list[Action]:
        self.finished = True
        return [Finish()]

    def state(self) -> dict[str, Any]:
        return {
            "started": self.started,
            "finished": self.finished,
            "round": self.round,
            "size": self.size,
            "silos": sorted(self.silos),
            "out": sorted(self.out),
            "buffer": sorted(self.buffer),
            "resting": sorted(self.resting),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.started = state["started"]
        self.finished = state["finished"]
        self.round = state["round"]
        self.size = state["size"]
        self.silos = set(state["silos"])
        self.out = set(state["out"])
        self.buffer = set(state["buffer"])
        self.resting = set(state["resting"])
