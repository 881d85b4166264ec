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


@cache
def sgd_epsilon(multiplier: float, rate: float, steps: int, delta: float) -> float:
    """Epsilon at `delta` of so many steps of DP-SGD: Gaussian noise, Poisson sampling at `rate`; 0 for none.

    By privacy loss distribution (dp-accounting), for a record that is there or not; sizes of data sets are public.
    """
    if not steps:
        return 0.0
    if rate >= 1:
        return accounting.gaussian_exact(multiplier / math.sqrt(steps), delta)
    from dp_accounting.pld import privacy_loss_distribution

    one = privacy_loss_distribution.from_gaussian_mechanism(
        multiplier, value_discretization_interval=5e-3, sampling_prob=rate
    )
    return float(one.self_compose(steps).get_epsilon_for_delta(delta))


@cache
def sgd_multiplier(target: float, rate: float, steps: int, delta: float) -> float:
    """The least noise multiplier at which so many steps of DP-SGD cost at most `target` epsilon, to a relative 2e-3."""
    high = accounting.gaussian_multiplier(target, delta) * math.sqrt(steps)  # without sampling
    if rate >= 1:
        return high
    low = max(0.2, high * rate / 4)
    return accounting.least_noise(
        lambda noise: sgd_epsilon(noise, rate, steps, delta), target, min(low, high), high, 1e-3
    )
