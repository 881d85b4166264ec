"""What is done about a silo that stalls, raises or sends garbage: end the run, or go on without it."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from typing import Literal

from fedbound.errors import FederationError
from fedbound.federation.records import Records

PATIENCE, LEAST_SECONDS = 10.0, 60.0  # at the end of a run without silo_timeout: times the slowest answer so far


@dataclass
class Failures:
    """The policy, and who is awaited until when.

    Attributes:
        policy: "abort" ends the run at the first failure; "drop" goes on without the update, or without the silo.
        least: living silos below which a run ends all the same.
        timeout: seconds that a silo may take for an answer; 0 for ever. What it is sent meanwhile starts no new count.
    """

    policy: Literal["abort", "drop"] = "abort"
    least: int = 1
    timeout: float = 0.0
    due: dict[int, float] = field(default_factory=dict)
    slowest: float = 0.0  # seconds that an update took, from the model's dispatch to its arrival, at most

    def expect(self, silo: int, now: float) -> None:
        """From `now` on, an answer of `silo` is awaited."""
        if self.timeout:
            self.due.setdefault(silo, now + self.timeout)

    def end(self, silos: Iterable[int], now: float) -> None:
        """The run is over and these are still out: without a timeout they get one now, so that it ends at all."""
        self.timeout = self.timeout or max(LEAST_SECONDS, PATIENCE * self.slowest)
        for silo in silos:
            self.expect(silo, now)

    def answered(self, silo: int) -> None:
        self.due.pop(silo, None)

    def next_due(self) -> float | None:
        return min(self.due.values(), default=None)

    def overdue(self, now: float) -> list[int]:
        """Silos that should have answered by `now`; they are not awaited any more."""
        late = sorted(silo for silo, due in self.due.items() if due <= now)
        for silo in late:
            del self.due[silo]
        return late

    def note(self, records: Records, round_: int, silo: int, kind: str, why: str, living: Set[int]) -> None:
        """Record a failure of `silo` in round `round_`.

        Raises:
            FederationError: the policy is to end then, or too few silos are left.
        """
        self.answered(silo)
        if self.policy == "abort":
            what = why if kind == "rejected" else f"silo {silo} failed in round {round_}: {why}"
            raise FederationError(what)
        records.add("failures", round=round_, silo=silo, kind=kind, reason=why)
        print(f"round {round_}: silo {silo} {kind}: {why}", flush=True)
        if len(living) < self.least:
            raise FederationError(
                f"silo {silo} failed in round {round_} ({why}), and {len(living)} silos are fewer than "
                f"training.least_silos ({self.least}); the run ends"
            )
