"""Every epsilon of fedbound comes from here (design law 4): thin glue over Google's dp-accounting.

Loss distributions of finite kernels, their composition and sampling are in `loss.py`. Here, noise is given as a
multiple of the sensitivity, so that nothing here knows of vectors. Functions named after a mechanism account one
release of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

# Integer orders, because several discrete mechanisms prove their Rényi divergence at integers only; far up, because
# the best order grows as 2 ln(1/delta) / epsilon.
ORDERS: tuple[int, ...] = (*range(2, 257), *(int(order) for order in np.geomspace(260, 1e7, 160)))
COARSE_ORDERS: tuple[int, ...] = (*range(2, 65), *(int(order) for order in np.geomspace(70, 1e5, 40)))

PLD = "privacy loss distribution (dp-accounting, connect-the-dots)"
RDP = "Rényi divergence at integer orders (dp-accounting conversion)"


def gaussian_delta(multiplier: float, epsilon: float) -> float:
    """Exact delta of the Gaussian mechanism whose standard deviation is `multiplier` times its L2 sensitivity.

    Source: Balle, Wang, "Improving the Gaussian Mechanism for Differential Privacy: Analytical Calibration and
    Optimal Denoising", ICML 2018 (arXiv 1805.06530), Theorem 8:
    Phi(1/(2m) - epsilon m) - e^epsilon Phi(-1/(2m) - epsilon m).
    """
    from scipy.special import log_ndtr

    half, shift = 1 / (2 * multiplier), epsilon * multiplier
    upper, lower = float(log_ndtr(half - shift)), epsilon + float(log_ndtr(-half - shift))
    return -math.exp(upper) * math.expm1(lower - upper)


def gaussian_multiplier(epsilon: float, delta: float) -> float:
    """The least noise multiplier of the Gaussian mechanism for (epsilon, delta): the analytic Gaussian mechanism.

    Exact to a relative 1e-12. Source: Balle, Wang 2018, Algorithm 1 (its condition, solved by bisection).
    """
    return least_noise(lambda multiplier: gaussian_delta(multiplier, epsilon), delta, *_bracket(epsilon, delta))


def _bracket(epsilon: float, delta: float) -> tuple[float, float]:
    low = high = 1.0
    while gaussian_delta(low, epsilon) <= delta:
        low /= 2
    while gaussian_delta(high, epsilon) > delta:
        high *= 2
    return low, high


def gaussian_epsilon(multiplier: float, delta: float) -> float:
    """Epsilon at `delta` of one Gaussian release from its privacy loss distribution: an upper bound, within 1e-4."""
    from dp_accounting.pld import privacy_loss_distribution

    loss = privacy_loss_distribution.from_gaussian_mechanism(
        multiplier,
        value_discretization_interval=1e-3 / multiplier,
        log_mass_truncation_bound=min(-50.0, math.log(delta) - 25),
    )
    return float(loss.get_epsilon_for_delta(delta))


def laplace_epsilon(multiplier: float, delta: float) -> float:
    """Epsilon at `delta` of one Laplace release of scale `multiplier` times the L1 sensitivity, in any dimension.

    The one-dimensional privacy loss distribution is a bound in every dimension: a move of L1 length s is k moves of
    length s/k, each (s/k)-DP, and the group privacy of k such steps tends to the trade-off function of the
    one-dimensional mechanism as k grows (Dong, Roth, Su, "Gaussian Differential Privacy", 2022, on group privacy).
    The pure epsilon 1/multiplier is never exceeded; the grid's rounding may not either.
    """
    from dp_accounting.pld import privacy_loss_distribution

    pure = 1 / multiplier
    loss = privacy_loss_distribution.from_laplace_mechanism(multiplier, value_discretization_interval=pure / 1000)
    return min(pure, float(loss.get_epsilon_for_delta(delta)))


def skellam_rdp(orders: Sequence[int], l1: float, l2: float, variance: float) -> np.ndarray:
    """Rényi divergence of integer vectors under Skellam noise, at integer `orders` above 1: float64 [len(orders)].

    Args:
        orders: Rényi orders alpha.
        l1: L1 sensitivity, in the integers' units.
        l2: L2 sensitivity, in the integers' units.
        variance: variance of the summed noise per coordinate, in the integers' units squared.

    Source: Agarwal, Kairouz, Liu, "The Skellam Mechanism for Differentially Private Federated Learning", NeurIPS 2021
    (arXiv 2110.04995), the multi-dimensional bound:
    alpha l2^2 / (2 mu) + min(((2 alpha - 1) l2^2 + 6 l1) / (4 mu^2), 3 l1 / (2 mu)).
    """
    alpha = np.asarray(orders, dtype=np.float64)
    excess = np.minimum(((2 * alpha - 1) * l2**2 + 6 * l1) / (4 * variance**2), 3 * l1 / (2 * variance))
    return alpha * l2**2 / (2 * variance) + excess


def rdp_epsilon(orders: Sequence[int], rdp: Sequence[float] | np.ndarray, delta: float) -> float:
    """Epsilon at `delta` from Rényi divergences `rdp` at `orders`, by dp-accounting's conversion.

    Source of the conversion: Canonne, Kamath, Steinke, NeurIPS 2020 (arXiv 2004.00010), Proposition 12.
    """
    from dp_accounting.rdp import rdp_privacy_accountant

    epsilon, _ = rdp_privacy_accountant.compute_epsilon(orders, [float(value) for value in rdp], delta)
    return float(epsilon)


def least_noise(loss: Callable[[float], float], target: float, low: float, high: float) -> float:
    """The least noise in [low, high] whose `loss` (falling in the noise) is at most `target`, to a relative 1e-12.

    The noise returned satisfies loss(noise) <= target; `low` itself is returned where it already does.

    Raises:
        ValueError: not even `high` satisfies the target.
    """
    if loss(low) <= target:
        return low
    if loss(high) > target:
        raise ValueError(f"no noise up to {high:g} reaches {target:g}")
    while high / low > 1 + 1e-12:
        middle = math.sqrt(low * high)
        if not low < middle < high:
            break
        low, high = (low, middle) if loss(middle) <= target else (middle, high)
    return high


def worst_renyi(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]], orders: Sequence[int] = COARSE_ORDERS
) -> tuple[Sequence[int], np.ndarray]:
    """The orders, and the largest Rényi divergence at each over `pairs` of pmfs and both directions."""
    from fedbound.privacy import loss

    both = [loss.renyi(a, b, orders) for p, q in pairs for a, b in ((p, q), (q, p))]
    return orders, np.max(both, axis=0)


def sampled_rdp_epsilon(
    one: tuple[Sequence[int], np.ndarray], coordinates: int, rate: float, rounds: int, delta: float
) -> float:
    """Epsilon by Rényi divergences, for comparison: coordinates added up, Poisson sampling by Zhu and Wang's bound.

    Source: Zhu, Wang, "Poisson Subsampled Rényi Differential Privacy", ICML 2019, Theorem 5 (integer orders), the
    general upper bound; the lesser of it and no amplification counts.
    """
    from scipy.special import gammaln, logsumexp

    orders, rdp = one[0], coordinates * np.asarray(one[1])
    if rate < 1:
        table = dict(zip(orders, rdp, strict=True))
        amplified = []
        for order in orders:
            if any(k not in table for k in range(2, order + 1)):
                amplified.append(table[order])
                continue
            k = np.arange(2, order + 1)
            binomials = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
            weights = binomials + k * math.log(rate) + (order - k) * math.log1p(-rate)
            terms = weights + (k - 1) * np.array([table[int(j)] for j in k])
            terms[1:] += math.log(3)
            first = (order - 1) * math.log1p(-rate) + math.log1p((order - 1) * rate)
            amplified.append(min(table[order], float(logsumexp(np.append(terms, first))) / (order - 1)))
        rdp = np.array(amplified)
    return rdp_epsilon(orders, rounds * rdp, delta)
