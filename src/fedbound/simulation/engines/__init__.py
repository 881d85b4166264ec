"""Simulation engines: one file each.

An engine is the clock and the network; who sends what, and when, is decided by the driver and the scheduler above it,
which are the same for every engine (design law 5).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from fedbound.registry import ENGINES
from fedbound.simulation.platform import Direction, Star

Received = Callable[[Direction, int], None]
TimerDue = Callable[[int], None]


class Engine(Protocol):
    """One simulation of one star, used once.

    Attributes:
        now: simulated seconds.
        events: transfers begun and ended, and timers, so far.
        validity: the engine's name and why its answer is right for this platform.
    """

    now: float
    events: int
    validity: str

    def transfer(self, direction: Direction, client: int, size: float, delay: float) -> None:
        """Ask, `delay` seconds from now, for `size` bytes to or from `client`; latency comes on top."""
        ...

    def cancel(self, direction: Direction, client: int) -> None:
        """Give up the transfer that was asked for and has not ended: no end will be reported."""
        ...

    def rescale(self, client: int, factor: float) -> None:
        """From now on the link of `client`, or of SERVER, has `factor` times its nominal bandwidth, both ways."""
        ...

    def timer(self, time: float, key: int) -> None:
        """Ask for `due(key)` at `time`, or now where that has passed."""
        ...

    def run(self, received: Received, due: TimerDue) -> None:
        """Report ends of transfers and timers, in the order of time, until nothing is left or `stop` was called."""
        ...

    def stop(self) -> None:
        """End the run after the report in progress."""
        ...


Maker = Callable[[Star], Engine]


def get(choice: str | dict[str, Any] | Maker) -> Maker:
    """What makes the engine of a name or of a choice `{"name": ..., **options}`; raises InputError if unknown."""
    if callable(choice):
        return choice
    make: Maker = ENGINES.make({"name": choice} if isinstance(choice, str) else choice)
    return make


def available() -> list[str]:
    """Names of all registered engines."""
    return ENGINES.available()
