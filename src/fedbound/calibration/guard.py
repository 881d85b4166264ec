"""The online guard: loosen the calibrated bounds while accuracy holds, fall back at once when it does not.

A pure controller: accuracies in, factors on the bounds out; no clock, no tensors, no randomness. Additive increase,
multiplicative decrease, as congestion control does (Chiu and Jain, Computer Networks and ISDN Systems 17, 1989). That
FedCSpc adapts its bound during training is all that its abstract tells; this controller is ours.

The signal is the validation accuracy that silos report of the model they hold. It is held against a reference, such as
the uncompressed probe's accuracy in the same round, or, where there is none, against the best that this run has seen.
A shortfall within the noise of so few samples is no shortfall: `margin` standard errors are taken off.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """How the guard acts.

    Attributes:
        tolerance: shortfall allowed, percentage points.
        step: added to the factor when accuracy has held for `patience` rounds.
        decrease: factor on the factor at a shortfall, where it is already 1 or below.
        patience: rounds without shortfall before the factor grows.
        smallest, largest: limits of the factor.
        margin: standard errors of the accuracy that a shortfall must exceed.
    """

    tolerance: float = 1.0
    step: float = 0.25
    decrease: float = 0.5
    patience: int = 3
    smallest: float = 1 / 16
    largest: float = 4.0
    margin: float = 2.0

    def __post_init__(self) -> None:
        sound = self.tolerance > 0 and self.step >= 0 and 0 < self.decrease < 1 and self.patience >= 1
        if not (sound and 0 < self.smallest <= 1 <= self.largest and self.margin >= 0):
            raise ValueError(
                "a guard needs tolerance > 0, step >= 0, 0 < decrease < 1, patience >= 1, smallest <= 1 <= largest"
            )


@dataclass(frozen=True)
class Change:
    """What the guard says after one evaluation; one row of its record.

    Attributes:
        round: version of the model that was evaluated.
        factor: on every calibrated bound from now on.
        exact: whether the next exchange must be lossless.
        shortfall: reference minus accuracy, percentage points, less the margin.
        reason: why.
    """

    round: int
    factor: float
    exact: bool
    shortfall: float
    reason: str


class Guard:
    """One run's guard; its state belongs to the server's checkpoint."""

    def __init__(self, settings: Settings | None = None):
        self.settings = settings or Settings()
        self.factor = 1.0
        self.held = 0  # rounds since the last change or shortfall
        self.best = 0.0
        self.ceiling = self.settings.largest

    def observe(self, round_: int, accuracy: float, samples: int, reference: float | None = None) -> Change:
        """Take in the accuracy of the model after `round_` rounds and say how bounds go on.

        Args:
            round_: rounds completed.
            accuracy: validation accuracy over all silos, 0 to 1; NaN where training broke down.
            samples: validation samples that it was measured on.
            reference: accuracy of the uncompressed run in the same round; None: the best seen so far.
        """
        s = self.settings
        if not math.isfinite(accuracy):
            return self._fall(round_, math.inf, "accuracy is not finite")
        wanted = self.best if reference is None else reference
        self.best = max(self.best, accuracy)
        error = math.sqrt(max(accuracy * (1 - accuracy), 0.0) / max(samples, 1))
        shortfall = 100 * (wanted - accuracy - s.margin * error)
        if shortfall > s.tolerance:
            return self._fall(round_, shortfall, f"accuracy falls short by more than {s.tolerance:g} points")
        self.held += 1
        if self.held < s.patience:
            return Change(round_, self.factor, False, shortfall, "holds")
        if self.factor >= self.ceiling:
            return Change(round_, self.factor, False, shortfall, "holds at the ceiling")
        self.held = 0
        # below 1 the way back doubles: adding a step to 1/16 would be no recovery but a jump
        grown = self.factor + s.step if self.factor >= 1 else min(1.0, self.factor / s.decrease)
        self.factor = min(grown, self.ceiling)
        return Change(round_, self.factor, False, shortfall, f"held for {s.patience} rounds")

    def _fall(self, round_: int, shortfall: float, reason: str) -> Change:
        """Back to the calibrated bounds at once; from there, by halves. Twice the tolerance asks for an exact round."""
        s = self.settings
        if self.factor > 1:
            self.ceiling = max(1.0, self.factor - s.step)  # what broke is not tried again
            self.factor = 1.0
        else:
            self.factor = max(s.smallest, self.factor * s.decrease)
        self.held = 0
        return Change(round_, self.factor, shortfall > 2 * s.tolerance, shortfall, reason)

    def state(self) -> dict[str, Any]:
        """JSON values that must survive a restart."""
        return {
            "settings": asdict(self.settings),
            "factor": self.factor,
            "held": self.held,
            "best": self.best,
            "ceiling": self.ceiling,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.settings = Settings(**state["settings"])
        self.factor, self.held = float(state["factor"]), int(state["held"])
        self.best, self.ceiling = float(state["best"]), float(state["ceiling"])
