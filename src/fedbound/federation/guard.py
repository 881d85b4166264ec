"""The online guard: loosen the calibrated bounds while accuracy holds, fall back at once when it does not.

A pure controller: validation counts in, a factor on all bounds out; no clock, no tensors, no randomness. The factor
travels with each model, so that both ends agree, and a bound with each encoded block. Additive increase,
multiplicative decrease, as congestion control does (Chiu and Jain, Computer Networks and ISDN Systems 17, 1989). That
FedCSpc adapts its bound during training is all that its abstract tells; this controller is ours.

The signal is the validation accuracy that silos report of the model they hold, all samples together, against the best
that this run has seen. A shortfall within the noise of so few samples is no shortfall: `margin` standard errors are
taken off. Where these alone exceed the tolerance, a loss of twice the tolerance would go unseen, and bounds are not
loosened. Silos evaluate a model while they train on it, so a change follows the model that caused it by one round.
"""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from fedbound.study import Guard as Settings


@dataclass(frozen=True)
class Change:
    """What the guard says after one evaluation; one row of its record.

    Attributes:
        round: version of the model that was evaluated.
        accuracy: its validation accuracy over all silos, 0 to 1.
        shortfall: best so far minus accuracy, percentage points, less the margin.
        factor: on every bound from now on.
        exact: whether the next exchange must be lossless.
        reason: why.
    """

    round: int
    accuracy: float
    shortfall: float
    factor: float
    exact: bool
    reason: str


class Guard:
    """One run's guard; its state belongs to the server's checkpoint."""

    def __init__(self, settings: Settings | None = None):
        self.settings = settings or Settings()
        self.factor = 1.0
        self.exact = False
        self.held = 0  # evaluations since the last change or shortfall
        self.best = 0.0
        self.ceiling = self.settings.largest
        self.heard: dict[int, list[int]] = {}  # version -> validation samples that are right, and all, so far

    @property
    def now(self) -> float:
        """What bounds are multiplied by in the next exchange; 0 makes it exact."""
        return 0.0 if self.exact else self.factor

    def hear(self, version: int, correct: int, samples: int) -> None:
        """Take in what one silo's validation samples say of the model `version`."""
        total = self.heard.setdefault(version, [0, 0])
        total[0] += correct
        total[1] += samples

    def settle(self, unfinished: Set[int]) -> list[Change]:
        """Act on every version that all silos have evaluated, in order; older ones that some did not are forgotten."""
        ready = sorted(self.heard.keys() - unfinished)
        totals = {version: self.heard[version] for version in ready}
        self.heard = {version: total for version, total in self.heard.items() if version > max(ready, default=-1)}
        return [self.observe(v, correct / n, n) for v, (correct, n) in totals.items() if n]

    def observe(self, round_: int, accuracy: float, samples: int) -> Change:
        """Take in the accuracy of the model after `round_` rounds and say how bounds go on.

        Args:
            round_: rounds completed.
            accuracy: validation accuracy over all silos, 0 to 1; NaN where training broke down.
            samples: validation samples that it was measured on.
        """
        s = self.settings
        self.exact = False
        if not math.isfinite(accuracy):
            return self._fall(round_, accuracy, math.inf, "accuracy is not finite")
        wanted = self.best
        self.best = max(self.best, accuracy)
        error = math.sqrt(max(accuracy * (1 - accuracy), 0.0) / max(samples, 1))
        shortfall = 100 * (wanted - accuracy - s.margin * error)
        if shortfall > s.tolerance:
            reason = f"accuracy falls short by more than {s.tolerance:g} points"
            return self._fall(round_, accuracy, shortfall, reason)
        self.held += 1
        if self.held < s.patience:
            return Change(round_, accuracy, shortfall, self.factor, False, "holds")
        if self.factor >= 1 and 100 * s.margin * error > s.tolerance:
            return Change(round_, accuracy, shortfall, self.factor, False, f"holds; {samples} samples are too few")
        if self.factor >= self.ceiling:
            return Change(round_, accuracy, shortfall, self.factor, False, "holds at the ceiling")
        self.held = 0
        # below 1 the way back doubles: adding a step to 1/16 would be no recovery but a jump
        grown = self.factor + s.step if self.factor >= 1 else min(1.0, self.factor / s.decrease)
        self.factor = min(grown, self.ceiling)
        return Change(round_, accuracy, shortfall, self.factor, False, f"held for {s.patience} evaluations")

    def _fall(self, round_: int, accuracy: float, shortfall: float, reason: str) -> Change:
        """Back to the given bounds at once; from there, by halves. Twice the tolerance asks for an exact round."""
        s = self.settings
        if self.factor > 1:
            self.ceiling = max(1.0, self.factor - s.step)  # what broke is not tried again
            self.factor = 1.0
        else:
            self.factor = max(s.smallest, self.factor * s.decrease)
        self.held = 0
        self.exact = shortfall > 2 * s.tolerance
        return Change(round_, accuracy, shortfall, self.factor, self.exact, reason)

    def state(self) -> dict[str, Any]:
        """JSON values that must survive a restart."""
        kept = {key: getattr(self, key) for key in ("factor", "exact", "held", "best", "ceiling")}
        return kept | {"heard": {str(version): total for version, total in self.heard.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        for key in ("factor", "exact", "held", "best", "ceiling"):
            setattr(self, key, state[key])
        self.heard = {int(version): list(total) for version, total in state["heard"].items()}
