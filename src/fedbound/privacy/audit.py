"""Audits of mechanisms: a lower bound of epsilon from what a release shows for two neighbouring data sets.

Many draws for each of the two; half of them choose an event, the other half test it: if P(E) > e^eps Q(E) + delta with
the Clopper-Pearson limits of both probabilities, epsilon is larger than eps, at the stated rate of error. A lower bound
above the claim is a defect. One below it proves nothing: the attack may be weak. `exact` needs no draws: the epsilon of
the very pair that is attacked, from the laws of what is observed.

Source of the method: Jagielski, Ullman, Oprea, "Auditing Differentially Private Machine Learning", NeurIPS 2020
(arXiv 2006.07709), section 4; here with the mechanism's own worst pair instead of trained models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedbound.privacy import accounting, loss
from fedbound.privacy.mechanisms import Continuous, Law, Release, Setting
from fedbound.registry import MECHANISMS

CLIENTS = 8  # of an audited release
BINS = 200  # at most, into which outputs are sorted


@dataclass(frozen=True)
class Audit:
    """A claim and what an attack shows.

    Attributes:
        claimed: epsilon of the audited release, from its accountant.
        audited: lower bound of epsilon at the same delta.
        gaussian: lower bound of epsilon if the outputs' trade-off of errors is a Gaussian's, as it nearly is where much
            noise is summed; much closer then, because no event as rare as delta is needed. NaN for others.
        exact: epsilon of the attacked pair from the exact laws of what is observed: no attack on it shows more.
        draws: outputs drawn for each of the two data sets.
        level: probability that the lower bound is wrong.
    """

    claimed: float
    audited: float
    gaussian: float
    exact: float
    draws: int
    level: float


def mechanism(
    choice: Mapping[str, Any], epsilon: float, delta: float, draws: int, level: float, seed: int = 0
) -> Audit:
    """Audit a mechanism with its options, calibrated for `CLIENTS` clients and one coordinate of clip 1.

    In one coordinate all of epsilon is spent on what is looked at: the sharpest test.
    """
    made = MECHANISMS.make(choice)
    release = made.calibrate(Setting(epsilon, delta, CLIENTS, 1, 1.0))
    rng = np.random.default_rng([seed, round(1000 * epsilon)])
    return audit(release, draws, level, rng, gaussian=made.norm == "L2" and made.trust not in ("local", "shuffler"))


def audit(release: Release, draws: int, level: float, rng: np.random.Generator, gaussian: bool = False) -> Audit:
    """Audit a release for one coordinate at its worst pair: a client at the clip, against 0 or the other end.

    `gaussian` says that the trade-off of errors is nearly a Gaussian's.
    """
    here, there = neighbours(release)
    p, q = (np.asarray(release.observe(values, draws, rng), dtype=np.float64) for values in (here, there))
    guarantee = release.guarantee
    close = gaussian_bound(p, q, guarantee.delta, level) if gaussian else math.nan
    return Audit(guarantee.epsilon, lower_bound(p, q, guarantee.delta, level), close, exact(release), draws, level)


def neighbours(release: Release) -> tuple[np.ndarray, np.ndarray]:
    """Clients' values [n] of two neighbouring data sets; the others are at the clip, where kernels vary least."""
    setting = release.setting
    here = np.full(setting.clients, setting.clip)
    there = here.copy()
    there[0] = -setting.clip if release.guarantee.adjacency == "replace" else 0.0
    return here, there


def exact(release: Release) -> float:
    """Epsilon of the audited pair at the release's delta, from the exact laws of what is observed; at least 0.

    No attack on this pair can show more, and the claim must not be below. Real outcomes are put into 20,000 bins, which
    costs a hair; of shuffled messages the sum of their levels is looked at.
    """
    laws = [release.law(values) for values in neighbours(release)]
    delta = release.guarantee.delta
    p, q = _pmfs(laws[0], laws[1])
    most = max(loss_at(p, q, delta), loss_at(q, p, delta))
    return max(0.0, most)


def _pmfs(here: Law | Continuous, there: Law | Continuous) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(here, Continuous) and isinstance(there, Continuous):
        edges = np.linspace(min(here.low, there.low), max(here.high, there.high), 20_001)
        return np.maximum(np.diff(here.cdf(edges)), 0.0), np.maximum(np.diff(there.cdf(edges)), 0.0)
    assert isinstance(here, Law)
    assert isinstance(there, Law)
    outcomes = np.union1d(here.outcomes, there.outcomes)
    found = np.zeros((2, len(outcomes)))
    for row, law in zip(found, (here, there), strict=True):
        row[np.searchsorted(outcomes, law.outcomes)] = law.pmf
    return found[0], found[1]


def loss_at(p: np.ndarray, q: np.ndarray, delta: float) -> float:
    """The epsilon, any real number, at which the hockey-stick divergence of pmfs `p` from `q` is `delta`."""
    low, high = -100.0, 200.0
    if loss.hockey_stick(p, q, np.array([high]))[0] > delta:
        return math.inf
    while high - low > 1e-10:  # the divergence falls: between two of many points at once
        points = np.linspace(low, high, 1000)
        first = int(np.argmax(loss.hockey_stick(p, q, points) <= delta))
        low, high = float(points[max(0, first - 1)]), float(points[first])
        if not first:
            break
    return high


def lower_bound(p: np.ndarray, q: np.ndarray, delta: float, level: float) -> float:
    """Lower bound of epsilon from outputs [m] of two data sets, wrong with probability at most `level`; at least 0."""
    half = len(p) // 2
    labels_p, labels_q = _binned(p, q, half)
    choices = []
    for first, second in ((labels_p, labels_q), (labels_q, labels_p)):
        counts = [np.bincount(labels[:half], minlength=2 * BINS) for labels in (first, second)]
        order = np.argsort(-(np.log(counts[0] + 0.5) - np.log(counts[1] + 0.5)), kind="stable")
        inside = [np.cumsum(count[order]) for count in counts]
        guessed = [_epsilon(int(a), int(b), half, delta, level) for a, b in zip(*inside, strict=True)]
        best = int(np.argmax(guessed))
        choices.append((guessed[best], first, second, set(order[: best + 1].tolist())))
    _, first, second, event = max(choices, key=lambda choice: choice[0])
    member = np.zeros(2 * BINS, dtype=bool)
    member[list(event)] = True
    hits = [int(member[labels[half:]].sum()) for labels in (first, second)]
    return max(0.0, _epsilon(hits[0], hits[1], len(p) - half, delta, level))


def gaussian_bound(p: np.ndarray, q: np.ndarray, delta: float, level: float) -> float:
    """Lower bound of epsilon from outputs [m], if the best test's errors are those of two Gaussians mu apart.

    mu >= Phi^-1(P(E)) - Phi^-1(Q(E)) for an event E between the means, at its Clopper-Pearson limits; epsilon of the
    Gaussian mechanism at mu (Nasr et al., "Tight Auditing of Differentially Private Machine Learning", USENIX Security
    2023, section 4). It is no bound for another trade-off.
    """
    from scipy.special import ndtri

    half = len(p) // 2
    middle = (np.median(p[:half]) + np.median(q[:half])) / 2
    upper, lower = (p, q) if np.median(p[:half]) >= np.median(q[:half]) else (q, p)
    draws = len(p) - half
    low = _limits(int((upper[half:] > middle).sum()), draws, level)[0]
    high = _limits(int((lower[half:] > middle).sum()), draws, level)[1]
    mu = float(ndtri(low) - ndtri(high))
    if mu <= 0:
        return 0.0
    return accounting.gaussian_exact(1 / mu, delta)


def _binned(p: np.ndarray, q: np.ndarray, half: int) -> tuple[np.ndarray, np.ndarray]:
    """Outputs as labels: values themselves where they are few, else between quantiles of the first halves."""
    seen = np.unique(np.concatenate([p[:half], q[:half]]))
    if len(seen) > BINS:
        both = np.concatenate([p[:half], q[:half]])
        # more of them in the tails, where the loss is large
        inner = np.concatenate(
            [np.geomspace(1e-5, 0.02, 40), np.linspace(0.02, 0.98, 110), 1 - np.geomspace(0.02, 1e-5, 40)]
        )
        seen = np.unique(np.quantile(both, inner))
    return np.searchsorted(seen, p, side="right"), np.searchsorted(seen, q, side="right")


def _epsilon(hits_p: int, hits_q: int, draws: int, delta: float, level: float) -> float:
    """ln((p - delta) / q) at the limits of both probabilities."""
    low, high = _limits(hits_p, draws, level)[0], _limits(hits_q, draws, level)[1]
    return math.log((low - delta) / high) if low > delta else -math.inf


def _limits(hits: int, draws: int, level: float) -> tuple[float, float]:
    """Clopper-Pearson limits of a probability, each wrong with probability at most level/2."""
    from scipy.special import betaincinv

    low = 0.0 if hits == 0 else float(betaincinv(hits, draws - hits + 1, level / 2))
    high = 1.0 if hits == draws else float(betaincinv(hits + 1, draws - hits, 1 - level / 2))
    return low, high
