"""The parts of a run whose silos send integers for secure sums, made from its settings."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedbound import study
from fedbound.errors import InputError
from fedbound.exchange.summation import SumLog, SumReceiver, SumUplink
from fedbound.federation.resend import Resend
from fedbound.federation.spending import Sums
from fedbound.federation.summing import SumSilo
from fedbound.privacy import sums

if TYPE_CHECKING:
    from fedbound.federation.assembly import Assembly


class PrivateSums:
    """Settings of one run, and what follows from them.

    Args:
        assembly: the run's parts.
        settings: its privacy, of a mechanism of secure sums.
    """

    def __init__(self, assembly: Assembly, settings: study.TrainingPrivacy):
        self.assembly = assembly
        self.settings = settings

    @cached_property
    def vectors(self) -> list[int]:
        """Vectors in each silo's message: its one update, or one gradient per training record."""
        if self.settings.unit == "silo":
            return [1] * self.assembly.data.silos
        return [len(split.train) for split in self.assembly.silos.silos]

    @cached_property
    def sum(self) -> sums.Sum:
        """The mechanism, its noise as given or solved for the target epsilon over all rounds.

        Raises:
            InputError: the bits are too few, or the model holds integer tensors.
        """
        settings, layout = self.settings, self.assembly.layout
        if layout.integers:
            raise InputError(
                f"training.privacy.mechanism: {settings.mechanism!r} is refused for a model with counters "
                f"({layout.integers[0].name}): BatchNorm's statistics are no sum; use a model without"
            )
        plan = sums.Plan(
            settings.mechanism,
            sums.Members(self.assembly.data.silos, sum(self.vectors)),
            layout.size,
            settings.clip,
            settings.bits or 0,
            settings.delta,
            self.assembly.training.rounds,
            settings.honest or 1.0,
            settings.rate or 1.0,
        )
        if settings.noise_multiplier is not None:
            return sums.of_noise(plan, settings.noise_multiplier * settings.clip)
        assert settings.epsilon is not None  # a validated study gives one of the two
        return sums.solve(plan, settings.epsilon)

    def silo(self, parts: tuple[int, Any, Any, Any], ends: tuple[Any, ...], resend: Resend) -> SumSilo:
        """A silo from what every silo is made of: number, module, data, layout; and codec, client, settings, ..."""
        uplink = SumUplink(self.assembly.layout, self.sum, self.assembly._draw(parts[0]), self.assembly.seed)
        silo = SumSilo(*parts, uplink, *ends)  # type: ignore[arg-type]  # what it sends is no floats
        silo.resend = resend
        return silo

    def receiver(self, log: Path | None) -> SumReceiver:
        """The server's end; which silos were summed is written to `log`."""
        return SumReceiver(self.assembly.layout, self.sum, self.assembly.seed, self.vectors, self._mean, SumLog(log))

    def _mean(self, total: np.ndarray, silos: list[int]) -> np.ndarray:
        """The mean update, equal weights."""
        return total / len(silos)

    def spending(self) -> Sums:
        """How epsilon follows from the sums."""
        return Sums(self.sum, self.vectors)
