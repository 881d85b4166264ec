"""Mechanisms: a private mean of clients' vectors. One file per mechanism.

A mechanism with its options is calibrated for a setting (epsilon, delta, clients, dimension, clip) and becomes a
release: parameters fixed, guarantee stated, ready to estimate. A mechanism's file declares its options, trust model,
adjacency, equations and source; every epsilon comes from `fedbound.privacy.accounting`, every shared step from
`fedbound.privacy.transforms`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from fedbound.errors import InputError
from fedbound.registry import MECHANISMS

Norm = Literal["L1", "L2", "Linf"]
Trust = Literal["local", "shuffler", "secure aggregation", "central server"]
Adjacency = Literal["add-remove", "replace", "zero-out"]


@dataclass(frozen=True)
class Setting:
    """What is asked of a mechanism.

    Attributes:
        epsilon: target epsilon of all releases together, above 0.
        delta: target delta of all releases together, in (0, 1).
        clients: number n of clients, each with one vector.
        dimension: coordinates d of each vector.
        clip: bound on the norm (the mechanism's own) of each vector.
        rounds: number of releases, every client taking part in each.
    """

    epsilon: float
    delta: float
    clients: int
    dimension: int
    clip: float
    rounds: int = 1

    def once(self, name: str) -> None:
        """Refuse more than one release, for mechanisms whose composition is not accounted.

        Raises:
            InputError: saying which mechanisms compose.
        """
        if self.rounds > 1:
            raise InputError(
                f"privacy.mechanism: {name} is accounted for one release and not for {self.rounds}; "
                "take gaussian, skellam, ddgauss, binomial, pbm or shifted_layered"
            )

    def check(self, vectors: np.ndarray) -> None:
        """Refuse vectors of another shape, or with non-finite values, which no clip can bound.

        Raises:
            ValueError: saying what is wrong.
        """
        if vectors.shape != (self.clients, self.dimension):
            raise ValueError(f"the vectors are {vectors.shape}, calibrated for {(self.clients, self.dimension)}")
        if not np.isfinite(vectors).all():
            raise ValueError("the vectors hold NaN or infinity")


@dataclass(frozen=True)
class Guarantee:
    """An epsilon and all that must be known to read it (design law 4)."""

    epsilon: float
    delta: float
    accountant: str
    adjacency: Adjacency
    trust: Trust
    unit: str = "client: one client's whole vector"
    sampling: str = "none: every client takes part"


@dataclass(frozen=True)
class Accounts:
    """Epsilon of one release at its delta by two accountants, beside the claim; NaN where an accountant has none.

    Attributes:
        pld: from privacy loss distributions. Under secure aggregation that of one bad pair of neighbours, composed over
            the coordinates that it moves: shown, and never claimed, because another pair may be worse.
        rdp: from Rényi divergences.
    """

    pld: float
    rdp: float


@dataclass(frozen=True)
class Law:
    """The exact law of what a release shows in one dimension: for tests, and for audits without draws.

    Attributes:
        outcomes: numbers that `observe` can show, rising, float64 [k].
        pmf: their probabilities, float64 [k].
        decoded: the estimate that each leads to: of the first client's value where single messages are seen, else of
            the mean; None where the outcome alone does not say it.
    """

    outcomes: np.ndarray
    pmf: np.ndarray
    decoded: np.ndarray | None

    @staticmethod
    def of_sum(pmfs: Sequence[np.ndarray]) -> Law:
        """The sum of independent outcomes, each on 0, 1, ...; nothing is decoded."""
        total = np.ones(1)
        for pmf in pmfs:
            total = np.convolve(total, pmf)
        return Law(np.arange(len(total)), total, None)


@dataclass(frozen=True)
class Continuous:
    """The exact law of what a release shows in one dimension, where that is a real number.

    Attributes:
        cdf: distribution function, of float64 arrays.
        low: below it lies a probability of less than 1e-12.
        high: above it lies a probability of less than 1e-12.
    """

    cdf: Callable[[np.ndarray], np.ndarray]
    low: float
    high: float


def debiased_mse(release: Release) -> float:
    """The closed form of the error after dividing the estimate by its gain: what ranks biased mechanisms fairly.

    `mse` is that of vectors of norm c in independent directions, whose mean's squared coordinate is c^2 / (dn).
    """
    setting, gain = release.setting, release.gain
    bias = (1 - gain) ** 2 * setting.clip**2 / (setting.dimension * setting.clients)
    return (release.mse - bias) / gain**2


class Release(Protocol):
    """A mechanism calibrated for one setting.

    Attributes:
        setting: what it was calibrated for.
        noise: standard deviation of the summed noise per coordinate, in the vectors' units.
        bits: bits per coordinate that one client sends.
        mse: closed form of the mean squared error per coordinate of the estimated mean, for vectors within the clip.
        gain: closed form of what the estimate's mean is of the clients' mean: 1 where there is no bias. A mechanism
            that shrinks what it sends has a small error where the clients' mean is small, and no use.
        guarantee: the epsilon that holds.
    """

    @property
    def setting(self) -> Setting: ...

    @property
    def noise(self) -> float: ...

    @property
    def bits(self) -> float: ...

    @property
    def mse(self) -> float: ...

    @property
    def gain(self) -> float: ...

    @property
    def guarantee(self) -> Guarantee: ...

    def estimate(self, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The private mean, float64 [d], of the clients' float64 vectors [n, d], clipped first.

        All randomness comes from `rng`; with a seeded one the result repeats and is not private.

        Raises:
            ValueError: the vectors are of another shape than the setting's, or not finite.
        """
        ...

    def accounts(self) -> Accounts:
        """Epsilon by both accountants."""
        ...

    def observe(self, values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
        """What those who are not trusted see of clients' `values` [n] in one dimension, `draws` times: numbers [draws].

        For audits of a release calibrated for one coordinate. Under local trust it is the first client's message, else
        the sum, before any post-processing. It runs the code that `estimate` runs.
        """
        ...

    def epsilon_of(self, present: int) -> float:
        """Epsilon at the guarantee's delta if only `present` clients' messages arrive: without the others' noise."""
        ...

    @property
    def epsilon_alone(self) -> float:
        """Epsilon at the guarantee's delta against one who sees single messages: inf where these are not private."""
        ...

    def law(self, values: np.ndarray) -> Law | Continuous:
        """The exact law of one draw of `observe`, for clients' `values` [n] within the clip, in one dimension."""
        ...


class Mechanism(Protocol):
    """One mechanism with its options.

    Attributes:
        name: the registered name.
        norm: the norm that is clipped.
        adjacency: which data sets are neighbours.
        trust: who must be trusted for the guarantee to hold. Options may change it, and the norm; nothing else may.
        unbiased: whether the estimate's mean is the clients' mean, clips aside.
    """

    name: ClassVar[str]
    adjacency: ClassVar[Adjacency]

    @property
    def norm(self) -> Norm: ...

    @property
    def trust(self) -> Trust: ...

    @property
    def unbiased(self) -> bool: ...

    def calibrate(self, setting: Setting) -> Release:
        """Choose the least noise whose epsilon at the setting's delta is at most its epsilon (pure mechanisms: at 0).

        Raises:
            InputError: no parameters reach the target (the message names key, value and mend).
        """
        ...


def get(name: str, **parameters: Any) -> Mechanism:
    """The mechanism called `name`; raises InputError on an unknown name or parameter."""
    return MECHANISMS.get(name, **parameters)


def available() -> list[str]:
    """Names of all registered mechanisms."""
    return MECHANISMS.available()
