"""The largest bound that keeps accuracy: a screening bisection over a grid, then a confirmation on fresh seeds.

A reconstruction: FedCSpc (Z. Zhang et al., IEEE TPDS 2025) adapts its bound "to guarantee the model accuracy", but only
its abstract could be read; neither its algorithm nor its criterion is known to us. Ours:

1. `screen`: bisection over a logarithmic grid with the first seed alone. It decides nothing: it says where to look.
2. `confirm`: a paired test on the other seeds, starting at the screened scale. The screened scale depends on the first
   seed only, so the test's level is not spoilt by the search (sample splitting). From there it walks up while scales
   are confirmed (fixed sequence: stops at the first refusal, which needs no correction), or, where the first one is
   refused, down, each further step with a share of what is left of alpha. In all, the probability that a scale is
   accepted whose expected drop exceeds the tolerance is at most alpha.
3. `sequential`: the test of one scale, seed by seed. It accepts at a look where the one-sided upper limit of the mean
   drop is within the tolerance; the looks share the scale's level (Bonferroni). It refuses early where acceptance is
   out of sight, which can only make it more cautious.

Both the seeds and the few validation samples are draws: a bound that keeps these very samples may still lose others.
`limits` counts both, as crossed random effects. (Search and confirmation share the validation samples: what the search
picked because of them is not undone by fresh seeds. The simulation in the tests includes that.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedbound.calibration.student import quantile, upper_limit

__all__ = ["Decision", "Verdict", "confirm", "grid", "limits", "screen", "sequential", "upper_limit"]

FIRST_LOOK = 3  # seeds before a scale may be accepted
HOPELESS = 3.0  # a first drop beyond this multiple of the tolerance refuses at once
_LAST_SHARE = 0.75  # of a scale's level for the look at all seeds; earlier looks share the rest
_FIRST_SHARE = 0.7  # of alpha for the screened scale and those above it; each step down takes as much of the rest


@dataclass(frozen=True)
class Verdict:
    """The sequential test of one scale.

    Attributes:
        scale: the scale.
        keeps: whether it was accepted.
        drops: paired drops seen, percentage points [seeds, samples].
        level: error probability of the look that decided.
    """

    scale: float
    keeps: bool
    drops: np.ndarray
    level: float

    @property
    def mean(self) -> float:
        """Mean drop, percentage points."""
        return float(self.drops.mean())

    @property
    def upper(self) -> float:
        """One-sided upper limit of the expected drop at `level`; infinite for fewer than two seeds."""
        return limits(self.drops, self.level)[1] if len(self.drops) > 1 else math.inf


@dataclass(frozen=True)
class Decision:
    """The outcome of the calibration.

    Attributes:
        accepted: the largest confirmed scale; 0 where none was.
        refused: the smallest scale above it that the screening or the confirmation refused; NaN where there is none.
        screened: where the confirmation started; 0 where the screening refused all.
        verdict: the accepted scale's; None where none was.
    """

    accepted: float
    refused: float
    screened: float
    verdict: Verdict | None


def grid(smallest: float, largest: float, per_decade: int) -> list[float]:
    """Scales from `smallest` to `largest`, `per_decade` per factor of ten, rounded to three digits, ascending."""
    count = max(1, round(math.log10(largest / smallest) * per_decade))
    points = smallest * (largest / smallest) ** (np.arange(count + 1) / count)
    return [float(f"{point:.3g}") for point in points]


def limits(drops: np.ndarray, level: float) -> tuple[float, float]:
    """One-sided lower and upper limit, each at `level`, of the expected drop over new seeds and new samples.

    With A the variance of the seeds' means over their number and B that of the samples' means over theirs, A + B is
    at least the variance of the mean (it counts the interaction twice); degrees of freedom by Welch and Satterthwaite,
    rounded down.

    Args:
        drops: paired drops [seeds, samples], at least two seeds.
        level: probability that the expected drop is beyond a limit.
    """
    seeds, samples = drops.shape
    mean = float(drops.mean())
    a = float(drops.mean(1).var(ddof=1)) / seeds
    b = float(drops.mean(0).var(ddof=1)) / samples if samples > 1 else 0.0
    if a + b == 0:
        return mean, mean
    freedom = (a + b) ** 2 / (a**2 / (seeds - 1) + (b**2 / (samples - 1) if samples > 1 else 0.0))
    half = quantile(1 - level, max(seeds - 1, int(freedom))) * math.sqrt(a + b)
    return mean - half, mean + half


def screen(scales: Sequence[float], drop: Callable[[float], float], tolerance: float) -> int:
    """Bisection: the index of the largest scale of an ascending grid whose drop is within the tolerance; -1 for none.

    Exact for a drop that grows with the scale; elsewhere it ends at some scale that keeps below one that does not.
    """
    low, high = -1, len(scales)
    while high - low > 1:
        middle = (low + high) // 2
        if drop(scales[middle]) <= tolerance:
            low = middle
        else:
            high = middle
    return low


def sequential(scale: float, drop: Callable[[int], np.ndarray], seeds: int, tolerance: float, level: float) -> Verdict:
    """Test one scale seed by seed.

    Args:
        scale: the scale, for the record.
        drop: the i-th seed's drop per validation sample, percentage points; called in order, as far as needed.
        seeds: seeds there are, at least FIRST_LOOK.
        tolerance: largest expected drop, percentage points.
        level: probability of acceptance, at most, where the expected drop exceeds the tolerance.
    """
    early = range(FIRST_LOOK, seeds)
    seen: list[np.ndarray] = []
    at = level
    for i in range(seeds):
        seen.append(drop(i))
        drops = np.stack(seen)
        if i == 0 and drops.mean() > HOPELESS * tolerance:
            break
        if i and limits(drops, 0.1)[0] > tolerance:
            break
        if i + 1 < FIRST_LOOK:
            continue
        last = i + 1 == seeds
        at = level * (_LAST_SHARE if last else (1 - _LAST_SHARE) / len(early)) if early else level
        if limits(drops, at)[1] <= tolerance:
            return Verdict(scale, True, drops, at)
    return Verdict(scale, False, drops, at)


def confirm(
    scales: Sequence[float],
    start: int,
    test: Callable[[float, float], Verdict],
    alpha: float,
    ceiling: int | None = None,
) -> Decision:
    """Walk from the screened scale to the largest confirmed one.

    Args:
        scales: ascending grid.
        start: index that the screening ended at; -1 for none.
        test: tests a scale at a level on seeds that the screening has not seen.
        alpha: probability that the accepted scale's expected drop exceeds the tolerance, at most.
        ceiling: index that the walk up does not reach, because the screening left no doubt; None for the grid's end.
    """
    screened = scales[start] if start >= 0 else 0.0
    ceiling = len(scales) if ceiling is None else ceiling
    level, left = _FIRST_SHARE * alpha, (1 - _FIRST_SHARE) * alpha
    best: Verdict | None = None
    low, high, step = max(start, 0), ceiling, 1
    first = test(scales[low], level)
    if first.keeps:
        best = first
        while low + 1 < ceiling and (above := test(scales[low + 1], level)).keeps:
            best, low = above, low + 1
        high = low + 1
    else:
        while best is None and low > 0:
            high, low, step = low, max(0, low - step), 2 * step
            level, left = _FIRST_SHARE * left, (1 - _FIRST_SHARE) * left
            verdict = test(scales[low], level)
            best = verdict if verdict.keeps else None
    refused = scales[high] if high < len(scales) else math.nan
    return Decision(best.scale, refused, screened, best) if best else Decision(0.0, scales[low], screened, None)
