"""The largest bound that keeps accuracy: a screening bisection over a grid, then a confirmation on fresh seeds.

A reconstruction: FedCSpc (Z. Zhang et al., IEEE TPDS 2025) adapts its bound "to guarantee the model accuracy", but only
its abstract could be read; neither its algorithm nor its criterion is known to us. Ours:

1. `screen`: a search over a logarithmic grid with the first seed alone, for the largest scale that loses no more than
   half the tolerance: one that loses all of it could not be confirmed. It decides nothing: it says where to look.
2. `confirm`: a paired test on the other seeds, starting at the screened scale. The screened scale depends on the first
   seed only, so the test's level is not spoilt by the search (sample splitting). From there it walks up while scales
   are confirmed (fixed sequence: stops at the first refusal, which needs no correction), or, where the first one is
   refused, down, each further step with a share of what is left of alpha. In all, the probability that a scale is
   accepted whose expected drop exceeds the tolerance is at most alpha.
3. `sequential`: the test of one scale, seed by seed. It accepts at a look where the one-sided upper limit of the mean
   drop is within the tolerance; the looks share the scale's level (Bonferroni). It refuses early where acceptance is
   out of sight, which can only make it more cautious.

Both the seeds and the held-out samples are draws: a bound that keeps these very samples may still lose others. Seeds
of different folds (folds.py) hold out different samples, so that their scatter has both; `limits` adds what seeds that
share a fold have in common.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedbound.calibration.student import quantile, upper_limit

__all__ = ["Decision", "Verdict", "confirm", "grid", "limits", "screen", "sequential", "upper_limit"]

TARGET = 0.5  # share of the tolerance that a screened scale may lose
FEWEST = 4  # seeds before a scale may be accepted, where there are more
HOPELESS = 3.0  # a first drop beyond this multiple of the tolerance refuses at once
_LAST_SHARE = 0.85  # of a scale's level for the look at all seeds; a look halfway, where there is one, has the rest
_FIRST_SHARE = 0.8  # of alpha for the screened scale and those above it; each step down takes as much of the rest


@dataclass(frozen=True)
class Verdict:
    """The sequential test of one scale.

    Attributes:
        scale: the scale.
        keeps: whether it was accepted.
        drops: paired drops seen, percentage points [seeds, samples].
        level: error probability of the look that decided.
        folds: each seed's fold; seeds of one fold share their samples. None: all are of one.
    """

    scale: float
    keeps: bool
    drops: np.ndarray
    level: float
    folds: tuple[int, ...] | None = None

    @property
    def mean(self) -> float:
        """Mean drop, percentage points."""
        return float(self.drops.mean())

    @property
    def upper(self) -> float:
        """One-sided upper limit of the expected drop at `level`; infinite for fewer than two seeds."""
        return limits(self.drops, self.level, self.folds)[1] if len(self.drops) > 1 else math.inf


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


def limits(drops: np.ndarray, level: float, folds: Sequence[int] | None = None) -> tuple[float, float]:
    """One-sided lower and upper limit, each at `level`, of the expected drop over new seeds and new samples.

    The variance of the mean of k seeds is that of the seeds' means over k, A, as long as no two share samples. Where
    they do, what samples have in common between seeds is missing from A: with V the variance of one fold's mean by its
    samples and q the sum over folds of its share of the seeds, squared, B = V (k q - 1) / (k - 1) is added: 0 for
    different folds, V for a single one. (V counts the interaction of seeds and samples too, so B is too large rather
    than too small.) Degrees of freedom by Welch and Satterthwaite, rounded down.

    Args:
        drops: paired drops [seeds, samples], at least two seeds.
        level: probability that the expected drop is beyond a limit.
        folds: each seed's fold; None: all seeds have the same samples.
    """
    seeds, samples = drops.shape
    of = np.zeros(seeds, np.int64) if folds is None else np.asarray(folds)
    mean = float(drops.mean())
    a = float(drops.mean(1).var(ddof=1)) / seeds
    shares = np.array([(of == fold).mean() for fold in np.unique(of)])
    missing = max(0.0, (seeds * float((shares**2).sum()) - 1) / (seeds - 1))
    b = 0.0
    if samples > 1 and missing:
        common = [drops[of == fold].mean(0).var(ddof=1) / samples for fold in np.unique(of)]
        b = missing * float(shares @ np.array(common))
    if a + b == 0:
        return mean, mean
    freedom = (a + b) ** 2 / (a**2 / (seeds - 1) + (b**2 / (samples - 1) if samples > 1 else 0.0))
    half = quantile(1 - level, max(seeds - 1, int(freedom))) * math.sqrt(a + b)
    return mean - half, mean + half


def screen(scales: Sequence[float], drop: Callable[[float], float], tolerance: float, first: int | None = None) -> int:
    """The index of the largest scale of an ascending grid whose drop is within the tolerance; -1 for none.

    Bisection, or, from a `first` guess, steps of doubling length until there is a scale on either side. Exact for a
    drop that grows with the scale; elsewhere it ends at some scale that keeps below one that does not.
    """
    low, high, step = -1, len(scales), 1
    at = (low + high) // 2 if first is None else min(max(first, 0), high - 1)
    while high - low > 1:
        if drop(scales[at]) <= tolerance:
            low = at
        else:
            high = at
        if first is None or (low >= 0 and high < len(scales)):
            at = (low + high) // 2
        else:
            at = min(low + step, high - 1) if low >= 0 else max(high - step, low + 1)
            step *= 2
    return low


def sequential(
    scale: float,
    drop: Callable[[int], np.ndarray],
    folds: Sequence[int],
    tolerance: float,
    level: float,
) -> Verdict:
    """Test one scale seed by seed.

    Args:
        scale: the scale, for the record.
        drop: the i-th seed's drop per held-out sample, percentage points; called in order, as far as needed.
        folds: each seed's fold; as many as there are seeds.
        tolerance: largest expected drop, percentage points.
        level: probability of acceptance, at most, where the expected drop exceeds the tolerance.
    """
    seeds = len(folds)
    halfway = (seeds + 1) // 2 if (seeds + 1) // 2 >= FEWEST else 0
    levels = {seeds: level * _LAST_SHARE, halfway: level * (1 - _LAST_SHARE)} if halfway else {seeds: level}
    seen: list[np.ndarray] = []
    at = level
    for i in range(seeds):
        seen.append(drop(i))
        drops, of = np.stack(seen), tuple(folds[: i + 1])
        if _hopeless(drops, of, tolerance):
            break
        at = levels.get(i + 1, at)
        if i + 1 in levels and limits(drops, at, of)[1] <= tolerance:
            return Verdict(scale, True, drops, at, of)
    return Verdict(scale, False, drops, at, of)


def _hopeless(drops: np.ndarray, folds: tuple[int, ...], tolerance: float) -> bool:
    """Whether acceptance is out of sight."""
    seeds, mean = len(drops), float(drops.mean())
    if seeds == 1:
        return mean > HOPELESS * tolerance
    return limits(drops, 0.1, folds)[0] > tolerance or (seeds >= 3 and mean > tolerance)


def confirm(
    scales: Sequence[float],
    start: int,
    test: Callable[[float, float], Verdict],
    alpha: float,
    ceiling: int | None = None,
    stride: int = 1,
) -> Decision:
    """Walk from the screened scale to the largest confirmed one.

    Args:
        scales: ascending grid.
        start: index that the screening ended at; -1 for none.
        test: tests a scale at a level on seeds that the screening has not seen.
        alpha: probability that the accepted scale's expected drop exceeds the tolerance, at most.
        ceiling: index that the walk up does not reach, because the screening left no doubt; None for the grid's end.
        stride: grid points of the first step down; the walk up takes every point.
    """
    screened = scales[start] if start >= 0 else 0.0
    ceiling = len(scales) if ceiling is None else ceiling
    level, left = _FIRST_SHARE * alpha, (1 - _FIRST_SHARE) * alpha
    best: Verdict | None = None
    low, high, step = max(start, 0), ceiling, stride
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
