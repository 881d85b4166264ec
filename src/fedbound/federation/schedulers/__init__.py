"""Schedulers: who trains when, and what is aggregated with what (design law 5).

A scheduler is a pure state machine: events in, actions out. It has no clock, does no I/O and touches no tensor, so
the MPI server and the simulator drive the very same object. Times are seconds on whatever clock the driver has, and
reach the scheduler only inside events.

What the driver owes the scheduler:

- Start comes first and once. After it every dispatched silo answers with one of Arrived, Rejected or Left.
- Left may come at any time, also from a silo that is not out; what such a silo still sends is not reported. Returned
  comes only after Left. A silo that left between its Arrived and the Aggregate that takes its update in is named there
  all the same: an update that has come counts.
- Timer comes at or after the time that was asked for, as soon as the driver can, whether messages come or not.
- Events after Finish are allowed and do nothing.

What the scheduler owes the driver:

- It dispatches only silos that live, are not out and have no update waiting at the server.
- Every update that arrived is named in exactly one Aggregate or Discard, or still waits at Finish.
- It never waits for what cannot happen: until Finish at least one silo is out, and where none lives any more it
  finishes early.
- A round of which nothing came back passes without an Aggregate. A timer's key is never used twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fedbound.registry import SCHEDULERS


@dataclass(frozen=True, slots=True)
class Start:
    """The federation begins: silos 0 .. silos-1 are there."""

    silos: int
    time: float = 0.0


@dataclass(frozen=True, slots=True)
class Arrived:
    """The update of `silo` is complete at the server."""

    silo: int
    time: float = 0.0


@dataclass(frozen=True, slots=True)
class Rejected:
    """The update of `silo` came but cannot be used (malformed, non-finite)."""

    silo: int
    time: float = 0.0


@dataclass(frozen=True, slots=True)
class Left:
    """`silo` is gone: it stalled, failed or disconnected."""

    silo: int
    time: float = 0.0


@dataclass(frozen=True, slots=True)
class Returned:
    """`silo` is back and can be dispatched again."""

    silo: int
    time: float = 0.0


@dataclass(frozen=True, slots=True)
class Timer:
    """The timer `key` that SetTimer asked for is due."""

    key: int
    time: float = 0.0


Event = Start | Arrived | Rejected | Left | Returned | Timer


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send the current global model to each of `silos` and let it train. `steps` 0: the study's own local work."""

    silos: Sequence[int]
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Fold the waiting updates of `silos`, in this order, into the global model: its version grows by one."""

    silos: Sequence[int]


@dataclass(frozen=True, slots=True)
class Discard:
    """Drop the waiting updates of `silos` unread, because they came too late. Their silos are free again."""

    silos: Sequence[int]


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Ask for a Timer event with `key` at `time`."""

    key: int
    time: float


@dataclass(frozen=True, slots=True)
class Finish:
    """The federation is over; the model as it now stands is the result."""


Action = Dispatch | Aggregate | Discard | SetTimer | Finish


class Scheduler(Protocol):
    """The state machine. Actions are carried out in order; a Dispatch sends the model as the actions before left it.

    Attributes:
        overlapping: whether it aggregates while silos are out.
    """

    overlapping: bool

    def check(self, silos: int) -> None:
        """Raise InputError where the scheduler's options cannot work with `silos` silos."""
        ...

    def handle(self, event: Event) -> list[Action]:
        """Take one event and return what is to be done now.

        Raises:
            ValueError: the event is impossible in this state (for example an arrival that was never dispatched).
        """
        ...

    def state(self) -> dict[str, Any]:
        """Everything needed to go on after a restart, as JSON values."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        ...


def get(name: str, *, rounds: int, seed: int = 0, **options: Any) -> Scheduler:
    """The scheduler called `name`, to run `rounds` rounds; raises InputError on an unknown name or option.

    A round is one aggregation; a synchronous round of which nothing came back counts as one without.
    """
    factory = SCHEDULERS.get(name, **options)
    return factory(rounds=rounds, seed=seed)


def available() -> list[str]:
    """Names of all registered schedulers."""
    return SCHEDULERS.available()
