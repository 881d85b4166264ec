"""A lower bound of epsilon from one run: many canaries, each included by a coin flip, guessed from the output.

Source: Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023 (arXiv 2305.08846), Theorem
5.2: under (eps, delta)-DP the number of right guesses among r is dominated by Bin(r, e^eps / (e^eps + 1)), delta aside:

    P[V >= v] <= P[B >= v] + 2 m delta max_i P[v > B >= v - i] / i,      B ~ Bin(r, e^eps / (e^eps + 1)), m canaries

(the form of the code in Google's jax-privacy; without its 2 the term would be the theorem's own). A bound far below the
claim proves nothing: with m canaries no more can be shown than m right guesses allow (`cap`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

GUESSES = 12  # numbers of guesses tried, each at its share of the level


@dataclass(frozen=True)
class OneRun:
    """What one run shows.

    Attributes:
        audited: lower bound of epsilon, wrong with probability at most `level`.
        cap: the lower bound if every guess had been right.
        guesses: number of guesses of the best bound, half of them "included".
        right: how many of them were right.
        canaries: number of canaries.
        level: probability of error, over all numbers of guesses tried.
    """

    audited: float
    cap: float
    guesses: int
    right: int
    canaries: int
    level: float


def p_value(right: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """Largest probability, under (epsilon, delta)-DP, of at least `right` of `guesses` right."""
    from scipy.stats import binom

    q = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(right - 1, guesses, q))
    if delta > 0:
        below = binom.pmf(np.arange(right - 1, -1, -1), guesses, q)
        worst = float((np.cumsum(below) / np.arange(1, right + 1)).max(initial=0.0))
        tail += 2 * canaries * delta * worst
    return min(1.0, tail)


def lower_bound(right: int, guesses: int, canaries: int, delta: float, level: float) -> float:
    """The least epsilon under which `right` of `guesses` is no rarer than `level`; at least 0."""
    if p_value(right, guesses, canaries, 0.0, delta) > level:
        return 0.0
    low, high = 0.0, 40.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(right, guesses, canaries, middle, delta) <= level else (low, middle)
    return low


def audit(scores: np.ndarray, included: np.ndarray, delta: float, level: float) -> OneRun:
    """The best lower bound over some numbers of guesses: highest scores guessed in, lowest out.

    Args:
        scores: one per canary, float64 [m]; high means likely included.
        included: the coin flips, bool [m].
        delta: delta of the claim.
        level: probability of error over all numbers of guesses (Bonferroni).
    """
    canaries = len(scores)
    order = np.argsort(scores)
    best = OneRun(0.0, 0.0, 0, 0, canaries, level)
    tried = {max(1, round(canaries / 2 ** (i / 1.5))) for i in range(1, GUESSES + 1)}
    counts = sorted(k for k in tried if 2 * k <= canaries)  # of either guess
    share = level / max(1, len(counts))
    cap = max((lower_bound(2 * k, 2 * k, canaries, delta, share) for k in counts), default=0.0)
    for k in counts:
        right = int(included[order[-k:]].sum() + (~included[order[:k]]).sum())
        bound = lower_bound(right, 2 * k, canaries, delta, share)
        if bound >= best.audited:
            best = OneRun(bound, cap, 2 * k, right, canaries, level)
    return best


Release = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def sum_audit(
    release: Release, canaries: int, clip: float, delta: float, level: float, rng: np.random.Generator
) -> OneRun:
    """Audit one private mean (or sum) whose clients are canaries: orthogonal vectors of norm `clip`, or zero.

    Args:
        release: vectors [m, m] and a generator to the released mean [m].
        canaries: number m of clients and coordinates.
        clip: norm of an included canary.
        delta: delta of the claim.
        level: probability that the lower bound is wrong.
        rng: for the coin flips and the release.
    """
    included = rng.random(canaries) < 0.5
    vectors = np.zeros((canaries, canaries))
    vectors[np.arange(canaries), np.arange(canaries)] = np.where(included, clip, 0.0)
    released = release(vectors, rng)
    return audit(np.asarray(released, dtype=np.float64), included, delta, level)
