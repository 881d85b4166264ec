"""What the errors of the silos' encodings become in the aggregated model: bound, variance, and what they assume.

On a star every update is encoded once, so the aggregate sum_k w_k x_k is off by sum_k w_k c_k, where c_k is silo k's
encoding error, |c_k| <= b_k. Three statements follow, in falling order of what they need:

1. |sum_k w_k c_k| <= sum_k w_k b_k, always.
2. Its variance per coordinate is sum_k w_k^2 m_k where the errors of different silos are uncorrelated and have second
   moments m_k. Each silo can report m_k: one scalar per block.
3. m_k = b_k^2 / 3 where the error is uniform on [-b_k, b_k], as the error of rounding to a grid finer than the data's
   spread is (b at most half a standard deviation). Coarser bounds send most values as 0 and the error is the value.

With error feedback (Karimireddy et al., ICML 2019, Algorithm 1) a silo sends v_t = x_t + r_{t-1} and keeps r_t = c_t.
What it sent in one round is off by r_{t-1} - r_t, and what it sent in all rounds by -r_T alone: the sum telescopes.
So one round's error is at most sum_k w_k (b_{k,t-1} + b_{k,t}), and the whole run's still sum_k w_k b_{k,T}.

Source: our own derivation; elementary. Others re-encode at every hop: on a ring of K the bound grows to (K - 1) b.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Values = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Aggregated:
    """The error of one coordinate of an aggregate.

    Attributes:
        bound: largest absolute value possible.
        variance: its variance; the mean is taken to be 0.
    """

    bound: float
    variance: float

    @property
    def sd(self) -> float:
        return math.sqrt(self.variance)


def uniform_moments(bounds: Values) -> np.ndarray:
    """Second moments of errors that are uniform on [-b, b]: b^2 / 3 (float64, one per bound)."""
    return np.square(np.asarray(bounds, np.float64)) / 3


def aggregated(weights: Values, bounds: Values, moments: Values | None = None, correlation: float = 0.0) -> Aggregated:
    """The error of sum_k w_k x_k when every x_k is encoded once.

    Args:
        weights: each silo's weight in the aggregate, as they are (FedAvg's add up to 1).
        bounds: each silo's absolute bound.
        moments: each silo's second moment of its error; None: errors are uniform.
        correlation: mean correlation of the errors of two silos, as `correlation` measures it.

    Raises:
        ValueError: the lists differ in length, or hold negative or non-finite values.
    """
    w, b = _checked(weights, bounds)
    m = uniform_moments(b) if moments is None else _checked(weights, moments)[1]
    return Aggregated(float(w @ b), _variance(w, m, correlation))


def one_round(weights: Values, bounds: Values, before: Values) -> Aggregated:
    """The error of one round's aggregate with error feedback: sum_k w_k (r_{k,t-1} - r_{k,t}), errors uniform.

    Args:
        weights: each silo's weight.
        bounds: each silo's bound in this round.
        before: its bound in the round whose residual it adds; 0 where it has none yet.
    """
    w, now = _checked(weights, bounds)
    then = _checked(weights, before)[1]
    return Aggregated(float(w @ (now + then)), _variance(w, uniform_moments(now) + uniform_moments(then), 0.0))


def whole_run(weights: Values, bounds: Sequence[Values], feedback: bool) -> Aggregated:
    """The error of the sum of all rounds' aggregates, errors uniform and independent between rounds.

    With error feedback only the last round's residual is left; without, every round's error stays in the model.

    Args:
        weights: each silo's weight, the same in all rounds.
        bounds: per round, each silo's bound.
        feedback: whether silos carry their error over.
    """
    rounds = [aggregated(weights, one) for one in bounds]
    if feedback and rounds:
        return rounds[-1]
    return Aggregated(math.fsum(one.bound for one in rounds), math.fsum(one.variance for one in rounds))


def correlation(weights: Values, moments: Values, measured: float) -> float:
    """Mean correlation of the errors of two silos, from scalars alone.

    Args:
        weights: each silo's weight.
        moments: each silo's second moment m_k of its error.
        measured: second moment of the aggregate's error.

    Returns:
        rho with measured = sum_k w_k^2 m_k + rho sum_{j != k} w_j w_k sqrt(m_j m_k); 0 where no two silos err.
    """
    w, m = _checked(weights, moments)
    alone = float(np.square(w) @ m)
    together = float(w @ np.sqrt(m)) ** 2 - alone
    return (measured - alone) / together if together > 1e-12 * alone else 0.0


def _variance(w: np.ndarray, m: np.ndarray, rho: float) -> float:
    alone = float(np.square(w) @ m)
    return alone + rho * (float(w @ np.sqrt(m)) ** 2 - alone)


def _checked(weights: Values, values: Values) -> tuple[np.ndarray, np.ndarray]:
    w, v = np.asarray(weights, np.float64), np.asarray(values, np.float64)
    if w.shape != v.shape or w.ndim != 1:
        raise ValueError(f"{w.shape} weights do not fit {v.shape} values: give one of each per silo")
    if not (np.isfinite(w).all() and np.isfinite(v).all() and (w >= 0).all() and (v >= 0).all()):
        raise ValueError("weights, bounds and moments must be finite and not negative")
    return w, v
