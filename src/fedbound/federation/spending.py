"""Epsilon of a run so far, from what its silos have released: one way of counting per kind of privacy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fedbound.privacy import rounds
from fedbound.privacy.sums import Members, Sum


@dataclass
class Spent:
    """What has left the silos.

    Attributes:
        releases: silo -> noised messages that it says it made, those of before restarts included.
        asked: the most that one silo was asked for or says it made: what was never folded may have left all the same.
        sums: of each round, the silos whose messages were folded.
    """

    releases: dict[int, int] = field(default_factory=dict)
    asked: int = 0
    sums: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def most(self) -> int:
        """Releases of the silo that made the most."""
        return max(self.releases.values(), default=0)

    def charge(self, releases: Mapping[int, int]) -> None:
        """Raise the silos' releases to at least these."""
        for silo, count in releases.items():
            self.releases[silo] = max(self.releases.get(silo, 0), count)


class Spending(Protocol):
    """How epsilon follows from what was released."""

    def epsilon(self, spent: Spent) -> float:
        """The most that any protected unit has spent; NaN without privacy."""
        ...


class Nothing:
    """No privacy."""

    def epsilon(self, spent: Spent) -> float:
        return float("nan")


@dataclass(frozen=True)
class Updates:
    """Output perturbation: each silo's own noised updates compose."""

    mechanism: rounds.Mechanism
    multiplier: float
    delta: float

    def epsilon(self, spent: Spent) -> float:
        return rounds.epsilon(self.mechanism, self.multiplier, max(spent.most, spent.asked), self.delta)


@dataclass(frozen=True)
class Sums:
    """Sums under secure aggregation: each holds the noise shares of those who are in it.

    A release beyond the rounds (a message that was made again) is charged as a sum over as few silos as any round had.
    A message that entered no sum has shown nothing.

    Attributes:
        sum_: the mechanism.
        vectors: how many vectors each silo's message is of.
    """

    sum_: Sum
    vectors: Sequence[int]

    def epsilon(self, spent: Spent) -> float:
        found = Counter(self._members(silos) for silos in spent.sums)
        beyond = spent.most - len(spent.sums)
        if beyond > 0:
            found[min(found, default=self.sum_.plan.members)] += beyond
        return self.sum_.epsilon(found)

    def _members(self, silos: Sequence[int]) -> Members:
        return Members(len(silos), sum(self.vectors[silo] for silo in silos))


@dataclass(frozen=True)
class Steps:
    """DP-SGD: each silo's steps compose, under Poisson sampling; the silo whose records have spent the most counts.

    Attributes:
        multipliers, rates, steps: of each silo: noise over clip, sampling probability, steps in one round.
        delta: at which epsilon is stated.
    """

    multipliers: Sequence[float]
    rates: Sequence[float]
    steps: Sequence[int]
    delta: float

    def epsilon(self, spent: Spent) -> float:
        releases = {silo: max(spent.releases.get(silo, 0), spent.asked) for silo in range(len(self.steps))}
        return max(self.of_silo(silo, count) for silo, count in releases.items())

    def of_silo(self, silo: int, releases: int) -> float:
        """Epsilon of one silo's records after so many rounds of it."""
        return rounds.sgd_epsilon(self.multipliers[silo], self.rates[silo], releases * self.steps[silo], self.delta)
