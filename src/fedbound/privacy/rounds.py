"""Epsilon of output perturbation over rounds, and the noise that a target epsilon needs.

One silo's releases compose: Gaussian ones to a Gaussian of multiplier m / sqrt(t), exactly; Laplace ones through their
privacy loss distribution, never above the pure t / m. No amplification by sampling is claimed: the server knows who
takes part.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Literal

from fedbound.privacy import accounting

Mechanism = Literal["gaussian", "laplace"]
Adjacency = Literal["zero-out", "replace-one"]


def sensitivity(clip: float, adjacency: Adjacency) -> float:
    """How far one silo's clipped update can move: `clip` to nothing (zero-out), 2 clip to another (replace-one)."""
    return clip if adjacency == "zero-out" else 2 * clip


@cache
def epsilon(mechanism: Mechanism, multiplier: float, releases: int, delta: float) -> float:
    """Epsilon at `delta` of so many releases whose noise is `multiplier` times the sensitivity; 0 for none."""
    if not releases:
        return 0.0
    if mechanism == "gaussian":
        return accounting.gaussian_exact(multiplier / math.sqrt(releases), delta)
    from dp_accounting.pld import privacy_loss_distribution

    pure = 1 / multiplier
    grid = min(1e-2, pure / 50)
    one = privacy_loss_distribution.from_laplace_mechanism(multiplier, value_discretization_interval=grid)
    return min(releases * pure, float(one.self_compose(releases).get_epsilon_for_delta(delta)))


@cache
def multiplier(mechanism: Mechanism, target: float, releases: int, delta: float) -> float:
    """The least noise multiplier at which so many releases cost at most `target` epsilon, to a relative 1e-3."""
    if mechanism == "gaussian":
        return accounting.gaussian_multiplier(target, delta) * math.sqrt(releases)
    high = releases / target  # pure composition is always enough
    low = high / 64
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if epsilon(mechanism, middle, releases, delta) <= target else (middle, high)
    return high
