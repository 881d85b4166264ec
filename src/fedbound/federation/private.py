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
from fedbound.federation.spending import Steps, Sums
from fedbound.federation.summing import DpSgdSilo, RecordSumSilo, SumSilo
from fedbound.models.per_example import RecordNoise
from fedbound.privacy import rounds, sums

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
        kind = SumSilo if self.settings.unit == "silo" else RecordSumSilo
        silo = kind(*parts, uplink, *ends)  # type: ignore[arg-type]  # what it sends is no floats
        if isinstance(silo, RecordSumSilo):
            silo.clip, silo.rate = self.settings.clip, self.settings.rate or 1.0
        silo.resend = resend
        return silo

    def receiver(self, log: Path | None) -> SumReceiver:
        """The server's end; which silos were summed is written to `log`."""
        return SumReceiver(self.assembly.layout, self.sum, self.assembly.seed, self.vectors, self._mean, SumLog(log))

    def _mean(self, total: np.ndarray, silos: list[int]) -> np.ndarray:
        """The mean update, silos alike; of records: one step down the mean of as many gradients as are expected."""
        if self.settings.unit == "silo":
            return total / len(silos)
        expected = (self.settings.rate or 1.0) * sum(self.vectors[silo] for silo in silos)
        return self.assembly.training.learning_rate * total / expected

    def spending(self) -> Sums:
        """How epsilon follows from the sums."""
        return Sums(self.sum, self.vectors)


class PrivateSteps:
    """DP-SGD in each silo, with noise and epsilon of its own: sampling rates follow from the silos' sizes.

    Args:
        assembly: the run's parts.
        settings: its privacy, of unit record and mechanism gaussian.
    """

    def __init__(self, assembly: Assembly, settings: study.TrainingPrivacy):
        self.assembly = assembly
        self.settings = settings

    def silo(self, parts: tuple[int, Any, Any, Any], uplink: Any, ends: tuple[Any, ...]) -> DpSgdSilo:
        """A silo from what every silo is made of."""
        silo = DpSgdSilo(*parts, uplink, *ends)
        silo.noise = RecordNoise(self.settings.clip, self.multiplier(parts[0]), self._rate(parts[0]))
        silo.draw = self.assembly._draw(parts[0])
        return silo

    def spending(self) -> Steps:
        """How epsilon follows from the silos' steps."""
        numbers = range(self.assembly.data.silos)
        return Steps(
            [self.multiplier(number) for number in numbers],
            [self._rate(number) for number in numbers],
            [self._steps(number) for number in numbers],
            self.settings.delta,
        )

    def _records(self, number: int) -> int:
        return len(self.assembly.silos.silos[number].train)

    def _steps(self, number: int) -> int:
        """Of one round."""
        training = self.assembly.training
        return training.local_epochs * -(-self._records(number) // training.batch_size)

    def _rate(self, number: int) -> float:
        if self.settings.rate is not None:
            return self.settings.rate
        return min(1.0, self.assembly.training.batch_size / self._records(number))

    def multiplier(self, number: int) -> float:
        """Noise over clip in silo `number`."""
        if self.settings.noise_multiplier is not None:
            return self.settings.noise_multiplier
        assert self.settings.epsilon is not None  # a validated study gives one of the two
        steps = self.assembly.training.rounds * self._steps(number)
        return rounds.sgd_multiplier(self.settings.epsilon, self._rate(number), steps, self.settings.delta)
