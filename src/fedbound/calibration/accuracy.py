"""The largest bound that keeps accuracy: a screening bisection over a grid, a confirmation on fresh seeds, a margin.

A reconstruction: FedCSpc (Z. Zhang et al., IEEE TPDS 2025) adapts its bound "to guarantee the model accuracy", but only
its abstract could be read; neither its algorithm nor its criterion is known to us. Ours:

1. `screen`: a search over a logarithmic grid with the first seed alone, for the largest scale that loses no more than
   half the tolerance: one that loses all of it could not be confirmed. It decides nothing: it says where to look.
2. `confirm`: a paired test on the other seeds, starting at the screened scale. The screened scale depends on the first
   seed only, so the test's level is not spoilt by the search (sample splitting). From there it walks up while scales
   are confirmed (fixed sequence: stops at the first refusal, which needs no correction), or, where the first one is
   refused, down, each further step with a share of what is left of alpha. In all, the probability that a scale is
   accepted whose expected drop exceeds the tolerance is at most alpha.
3. `margin`: what is confirmed is the expected drop over new seeds and new samples. The study's own test samples are a
   draw too, and where they are few they may lose more, whatever the seed. So from the largest confirmed scale it steps
   down, where finer bounds cost little, until a repetition of the test with as many fresh seeds on as many other
   samples would confirm the scale again (`repeated`); a scale that was not tested yet is, with what is left of alpha.
4. `sequential`: the test of one scale, seed by seed. It accepts at a look where the one-sided upper limit of the mean
   drop is within the tolerance; the looks share the scale's level (Bonferroni). It refuses early where acceptance is
   out of sight, which can only make it more cautious.

Both the seeds and the held-out samples are draws: a bound that keeps these very samples may still lose others. Seeds
of different folds (folds.py) hold out different samples, so that their scatter has both; `limits` adds what seeds that
share a fold have in common.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedbound.calibration.student import quantile, upper_limit

__all__ = [
    "Decision",
    "Verdict",
    "confirm",
    "grid",
    "limits",
    "margin",
    "repeated",
    "screen",
    "sequential",
    "upper_limit",
]

TARGET = 0.5  # share of the tolerance that a screened scale may lose
FEWEST = 4  # seeds before a scale may be accepted, where there are more
HOPELESS = 3.0  # a first drop beyond this multiple of the tolerance refuses at once
SPARE = 1.25  # predicted bytes that a margin is worth, at most, in those of the largest confirmed scale
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

    def repeated(self, samples: int, level: float) -> float:
        """What a repetition's upper limit stays below with probability 1 - `level`; infinite for fewer than two seeds.

        Args:
            samples: held-out samples of the repetition, none of which a probe has seen.
            level: of the repetition's limit, too.
        """
        return repeated(self.drops, level, self.folds, samples) if len(self.drops) > 1 else math.inf


@dataclass(frozen=True)
class Decision:
    """The outcome of the calibration.

    Attributes:
        accepted: the scale to use: the largest confirmed one, or a finer confirmed one (`margin`); 0 where none was.
        refused: the smallest scale above it that the screening or the confirmation refused; NaN where there is none.
        screened: where the confirmation started; 0 where the screening refused all.
        verdict: the accepted scale's; None where none was.
        largest: the largest confirmed scale; 0 where none was.
        kept: verdicts of all confirmed scales.
        left: what is left of alpha.
    """

    accepted: float
    refused: float
    screened: float
    verdict: Verdict | None
    largest: float = 0.0
    kept: tuple[Verdict, ...] = ()
    left: float = 0.0


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
    a, b = _variances(drops, folds)
    mean, half = float(drops.mean()), _half(drops, level, a, b)
    return mean - half, mean + half


def repeated(drops: np.ndarray, level: float, folds: Sequence[int] | None, unseen: int) -> float:
    """What the upper limit stays below, with probability 1 - `level`, when the test is repeated on other samples.

    The repetition has as many fresh seeds, all on the same `unseen` further samples, and takes Student's limit at
    `level` over its seeds. Its mean differs from this one's by 2 A + B + C, A and B as in `limits` and C the variance
    by samples of a mean over so many seeds, divided by `unseen`; its limit lies a multiple of its own standard error,
    here that of A, above its mean. Samples of folds with a single seed cannot tell what is always lost from what is
    lost by chance of training, and make C too large rather than too small.

    Args:
        drops: paired drops [seeds, samples], at least two seeds.
        level: probability of a larger limit, at most; and the level of that limit.
        folds: each seed's fold; None: all seeds have the same samples.
        unseen: samples of the repetition.
    """
    a, b = _variances(drops, folds)
    c = float(np.mean([_by_samples(drops[of], len(drops)) for of in _members(len(drops), folds)])) / unseen
    return float(drops.mean()) + _half(drops, level, 2 * a, b + c) + _half(drops, level, a, 0.0)


def _members(seeds: int, folds: Sequence[int] | None) -> list[np.ndarray]:
    """Which seeds are of each fold."""
    of = np.zeros(seeds, np.int64) if folds is None else np.asarray(folds)
    return [np.flatnonzero(of == fold) for fold in np.unique(of)]


def _variances(drops: np.ndarray, folds: Sequence[int] | None) -> tuple[float, float]:
    """A and B of `limits`."""
    seeds, samples = drops.shape
    a = float(drops.mean(1).var(ddof=1)) / seeds
    members = _members(seeds, folds)
    shares = np.array([len(of) for of in members]) / seeds
    missing = max(0.0, (seeds * float((shares**2).sum()) - 1) / (seeds - 1))
    if samples == 1 or not missing:
        return a, 0.0
    return a, missing * float(shares @ [drops[of].mean(0).var(ddof=1) / samples for of in members])


def _half(drops: np.ndarray, level: float, by_seeds: float, by_samples: float) -> float:
    """Half an interval's width: Student's quantile times the root of two variances of seeds and of samples."""
    seeds, samples = drops.shape
    total = by_seeds + by_samples
    if total == 0:
        return 0.0
    freedom = total**2 / (by_seeds**2 / (seeds - 1) + (by_samples**2 / (samples - 1) if samples > 1 else 0.0))
    return quantile(1 - level, max(seeds - 1, int(freedom))) * math.sqrt(total)


def _by_samples(drops: np.ndarray, seeds: int) -> float:
    """The variance between samples of the mean over `seeds` seeds, from fewer or as many of one fold [seeds, samples].

    Unbiased from two on, too large from a single one.
    """
    of, samples = drops.shape
    if samples < 2:
        return 0.0
    between = float(drops.mean(0).var(ddof=1))
    if of == 1:
        return between
    chance = float((drops - drops.mean(1, keepdims=True)).var(axis=0, ddof=1).mean())
    return max(0.0, between - chance * (1 / of - 1 / seeds))


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
    early: Callable[[Verdict], bool] = lambda verdict: True,
) -> Verdict:
    """Test one scale seed by seed.

    Args:
        scale: the scale, for the record.
        drop: the i-th seed's drop per held-out sample, percentage points; called in order, as far as needed.
        folds: each seed's fold; as many as there are seeds.
        tolerance: largest expected drop, percentage points.
        level: probability of acceptance, at most, where the expected drop exceeds the tolerance.
        early: what else must be true of a verdict for acceptance before all seeds are seen.
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
            verdict = Verdict(scale, True, drops, at, of)
            if i + 1 == seeds or early(verdict):
                return verdict
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
    kept: list[Verdict] = []
    low, high, step = max(start, 0), ceiling, stride
    first = test(scales[low], level)
    if first.keeps:
        kept.append(first)
        while low + 1 < ceiling and (above := test(scales[low + 1], level)).keeps:
            kept.append(above)
            low += 1
        high = low + 1
    else:
        while not kept and low > 0:
            high, low, step = low, max(0, low - step), 2 * step
            level, left = _FIRST_SHARE * left, (1 - _FIRST_SHARE) * left
            verdict = test(scales[low], level)
            kept += [verdict] if verdict.keeps else []
    refused = scales[high] if high < len(scales) else math.nan
    if not kept:
        return Decision(0.0, scales[low], screened, None)
    return Decision(kept[-1].scale, refused, screened, kept[-1], kept[-1].scale, tuple(kept), left)


def margin(
    decision: Decision,
    finer: Sequence[float],
    test: Callable[[float, float], Verdict],
    enough: Callable[[Verdict], bool],
) -> Decision:
    """Step down from the largest confirmed scale until `enough` is true of the accepted one, or no scale is left.

    Confirmed scales are taken as they are. The others are tested at all that is left of alpha, one after the other, up
    to the first refusal: a fixed sequence again, so that all tests together keep alpha.

    Args:
        decision: what `confirm` found.
        finer: scales below its accepted one that cost little more, descending.
        test: as `confirm` takes it.
        enough: whether a verdict leaves room for the study's own test samples.
    """
    known = {verdict.scale: verdict for verdict in decision.kept}
    best = decision.verdict
    for scale in finer:
        if best is None or enough(best):
            break
        verdict = known.get(scale) or test(scale, decision.left)
        if not verdict.keeps:
            break
        best = verdict
    return replace(decision, accepted=best.scale, verdict=best) if best else decision
