"""Every epsilon of fedbound comes from here (design law 4): thin glue over Google's dp-accounting.

Loss distributions of finite kernels, their composition and sampling are in `loss.py`. Here, noise is given as a
multiple of the sensitivity, so that nothing here knows of vectors. Functions named after a mechanism account one
release of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from fedbound.errors import InputError

# Integer orders, because several discrete mechanisms prove their Rényi divergence at integers only; far up, because
# the best order grows as 2 ln(1/delta) / epsilon.
ORDERS: tuple[int, ...] = (*range(2, 257), *(int(order) for order in np.geomspace(260, 1e7, 160)))
COARSE_ORDERS: tuple[int, ...] = (*range(2, 65), *(int(order) for order in np.geomspace(70, 1e5, 40)))

MOST_SHUFFLED = 20_000  # messages whose shuffling is enumerated to calibrate
_MOST_LOCAL = 64.0  # epsilon of one message: beyond, nothing is private

PLD = "privacy loss distribution (dp-accounting, connect-the-dots)"
PURE = "largest likelihood ratio of the exact pmf (pure: holds at delta 0)"
JOINT_RDP = "Rényi divergence of exact sum pmfs, coordinates sharing the L2 budget (dp-accounting conversion)"
SHUFFLED = "shuffled pure messages, by enumeration of the dominating pair (Feldman, McMillan, Talwar 2021)"
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


def gaussian_exact(multiplier: float, delta: float) -> float:
    """Epsilon at `delta` of one Gaussian release, by Balle and Wang's condition, to 1e-9; at least 0."""
    if gaussian_delta(multiplier, 0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(multiplier, high) > delta:
        low, high = high, 2 * high
    while high - low > 1e-9 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (low, middle) if gaussian_delta(multiplier, middle) <= delta else (middle, high)
    return high


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


def laplace_rdp(orders: Sequence[int], multiplier: float) -> np.ndarray:
    """Rényi divergence of Laplace noise of scale `multiplier` times the L1 sensitivity: float64 [len(orders)].

    Source: Mironov, "Rényi Differential Privacy", CSF 2017, Proposition 6:
    ln(a/(2a-1) e^{(a-1)/b} + (a-1)/(2a-1) e^{-a/b}) / (a-1), in one dimension, where one release moves one coordinate.
    """
    alpha = np.asarray(orders, dtype=np.float64)
    with_ = np.log(alpha / (2 * alpha - 1)) + (alpha - 1) / multiplier
    without = np.log((alpha - 1) / (2 * alpha - 1)) - alpha / multiplier
    return np.logaddexp(with_, without) / (alpha - 1)


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


def ddgauss_rdp(
    orders: Sequence[int], l1: float, l2: float, variance: float, shares: int, dimension: int
) -> np.ndarray:
    """Rényi divergence of integer vectors under `shares` discrete Gaussian noise shares: float64 [len(orders)].

    Args:
        orders: Rényi orders alpha.
        l1: L1 sensitivity, in the integers' units.
        l2: L2 sensitivity, in the integers' units.
        variance: parameter sigma^2 of one share per coordinate, in the integers' units squared.
        shares: number of shares n in the sum.
        dimension: number of coordinates D.

    Source: Kairouz, Liu, Steinke, ICML 2021 (arXiv 2102.06387), as in the code published with it: with
    tau = 10 sum_{k=1}^{n-1} exp(-2 pi^2 sigma^2 k/(k+1)) and L_i = l_i / (sqrt(n) sigma), the least of
    alpha/2 L2^2 + tau D,  alpha/2 (L2^2 + 2 L1 tau + tau^2 D),  alpha/2 (L2 + sqrt(D) tau)^2.
    """
    alpha = np.asarray(orders, dtype=np.float64)
    k = np.arange(1, shares)
    tau = 10 * float(np.exp(-2 * math.pi**2 * variance * k / (k + 1)).sum())
    root = math.sqrt(shares * variance)
    l1, l2 = l1 / root, l2 / root
    by_norms = min(l2**2 + 2 * l1 * tau + tau**2 * dimension, (l2 + math.sqrt(dimension) * tau) ** 2)
    return np.minimum(alpha / 2 * l2**2 + tau * dimension, alpha / 2 * by_norms)


def binomial_epsilon(l2: float, trials: int, dimension: int, delta: float, rounds: int = 1) -> float:
    """Epsilon at `delta` of integer vectors of L2 norm at most `l2` under Bin(trials, 1/2) noise per coordinate.

    `rounds` releases together.

    The two pmfs of a coordinate that moves by t differ in support, so that their Rényi divergence is infinite. Both are
    conditioned on outputs within 15 standard deviations of the middle that either can reach; `lost`, the probability of
    any other output in any coordinate that moves, is taken off delta (approximate Rényi privacy, as Bun, Steinke, TCC
    2016, do for zCDP), and -ln(1 - lost) is added. With g(t) the divergence of a coordinate that moves by t,
    sum_j g(t_j) <= max_t g(t)/t^2 l2^2. g(t)/t^2 grows with t, until alpha t reaches the edge of the outputs: orders at
    which it does not grow over powers of two up to l2, and l2, are left out.
    """
    from scipy.stats import binom

    sd, most = math.sqrt(trials) / 2, math.floor(l2)
    if most < 1:
        return 0.0
    low = max(most, math.ceil(trials / 2 - most - 15 * sd))
    high = trials - low
    lost = rounds * min(dimension, l2**2) * (binom.cdf(low - 1, trials, 0.5) + binom.cdf(low + most - 1, trials, 0.5))
    if low >= high or 2 * lost >= delta:
        return math.inf
    outputs = np.arange(low, high + 1, max(1, int(sd / 64)), dtype=np.float64)  # a fine sum where sd is large
    alpha = np.asarray(COARSE_ORDERS, dtype=np.float64)[:, None]
    weights = binom.logpmf(outputs, trials, 0.5)
    weights -= _log_sum(weights)
    steepest = np.zeros(len(COARSE_ORDERS))
    for t in sorted({most, *(1 << i for i in range(most.bit_length()))}):
        # ln P(y - t)/P(y) = ln y!/(y-t)! - ln (N-y+t)!/(N-y)!
        ratio = _log_rise(outputs - t + 1, t) - _log_rise(trials - outputs + 1, t)
        ratio -= _log_sum(weights + ratio)
        divergence = np.array([_log_sum(row) for row in alpha * ratio + weights]) / (alpha[:, 0] - 1)
        rate = divergence / t**2
        steepest = np.where(rate >= steepest * (1 - 1e-4), np.maximum(rate, steepest), np.inf)  # but for rounding
    return rdp_epsilon(COARSE_ORDERS, rounds * l2**2 * steepest, delta - 2 * lost) - math.log1p(-lost)


def _log_sum(x: np.ndarray) -> float:
    peak = float(x.max())
    return peak + math.log(float(np.exp(x - peak).sum()))


def _log_rise(a: np.ndarray, t: int) -> np.ndarray:
    """ln Gamma(a + t) - ln Gamma(a), without cancellation where `a` is large (Stirling's series)."""
    from scipy.special import gammaln

    if a.min() < 50:
        return gammaln(a + t) - gammaln(a)
    b = a + t
    series = [1 / (12 * x) - 1 / (360 * x**3) + 1 / (1260 * x**5) for x in (b, a)]
    return (a - 0.5) * np.log1p(t / a) + t * np.log(b) - t + series[0] - series[1]


def rdp_epsilon(orders: Sequence[int], rdp: Sequence[float] | np.ndarray, delta: float) -> float:
    """Epsilon at `delta` from Rényi divergences `rdp` at `orders`, by dp-accounting's conversion.

    Source of the conversion: Canonne, Kamath, Steinke, NeurIPS 2020 (arXiv 2004.00010), Proposition 12.
    """
    from dp_accounting.rdp import rdp_privacy_accountant

    epsilon, _ = rdp_privacy_accountant.compute_epsilon(orders, [float(value) for value in rdp], delta)
    return float(epsilon)


def least_noise(
    loss: Callable[[float], float], target: float, low: float, high: float, precision: float = 1e-12
) -> float:
    """The least noise in [low, high] whose `loss` (falling in the noise) is at most `target`, to a relative
    `precision`.

    The noise returned satisfies loss(noise) <= target; `low` itself is returned where it already does.

    Raises:
        ValueError: not even `high` satisfies the target.
    """
    if loss(low) <= target:
        return low
    if loss(high) > target:
        raise ValueError(f"no noise up to {high:g} reaches {target:g}")
    while high / low > 1 + precision:
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
    """Epsilon by Rényi divergences, for comparison: coordinates added up, then `sampled_rdp`, then rounds."""
    orders, rdp = one[0], coordinates * np.asarray(one[1])
    return rdp_epsilon(orders, rounds * sampled_rdp(orders, rdp, rate), delta)


def sampled_rdp(orders: Sequence[int], rdp: np.ndarray, rate: float) -> np.ndarray:
    """Rényi divergences under Poisson sampling at `rate`, at integer `orders`: float64 [len(orders)].

    `rdp` must bound both directions between neighbours of which one lacks what is sampled.

    Source: Zhu, Wang, "Poisson Subsampled Rényi Differential Privacy", ICML 2019, Theorem 5 (integer orders), the
    general upper bound; the lesser of it and no amplification counts. An order above the first one missing from the
    run 2, 3, 4 ... is not amplified.
    """
    from scipy.special import gammaln, logsumexp

    if rate >= 1:
        return np.asarray(rdp)
    known = {int(order): float(value) for order, value in zip(orders, rdp, strict=True)}
    amplified = []
    for order in orders:
        if any(k not in known for k in range(2, order + 1)):
            amplified.append(known[order])
            continue
        k = np.arange(2, order + 1)
        binomials = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
        weights = binomials + k * math.log(rate) + (order - k) * math.log1p(-rate)
        terms = weights + (k - 1) * np.array([known[int(j)] for j in k])
        terms[1:] += math.log(3)
        first = (order - 1) * math.log1p(-rate) + math.log1p((order - 1) * rate)
        amplified.append(min(known[order], float(logsumexp(np.append(terms, first))) / (order - 1)))
    return np.array(amplified)


def shuffled_epsilon(clients: int, local: float, delta: float) -> float:
    """Epsilon at `delta` (replacement) of `clients` shuffled messages, each `local`-DP, in one go: numerical.

    Source: Feldman, McMillan, Talwar, "Hiding Among the Clones", FOCS 2021 (arXiv 2012.12803), Theorem 3.1: with
    C ~ Bin(n-1, e^-local), A ~ Bin(C, 1/2), the pair of (A+1, C-A) with probability e^local/(e^local + 1), else
    (A, C-A+1), and of its mirror image dominates. Its pmfs are enumerated; what is left out has a
    probability below 1e-30.
    """
    from scipy.stats import binom

    from fedbound.privacy import loss

    clone = math.exp(-local)
    first = 1 / (1 + clone)
    middle, reach = (clients - 1) * clone, 12 * math.sqrt(clients * clone) + 12
    p, q = [], []
    for c in range(max(0, int(middle - reach)), min(clients - 1, int(middle + reach)) + 1):
        low = max(0, int(c / 2 - 6 * math.sqrt(c)) - 1)
        heads = binom.pmf(np.arange(low - 1, c + 2 - low), c, 0.5) * binom.pmf(c, clients - 1, clone)
        one_more, same = heads[:-1], heads[1:]
        p.append(first * one_more + (1 - first) * same)
        q.append((1 - first) * one_more + first * same)
    return min(local, loss.from_pmfs(np.concatenate(p), np.concatenate(q)).epsilon(delta))


def shuffled_local_epsilon(clients: int, epsilon: float, delta: float) -> float:
    """The largest epsilon of one message, to a relative 1e-3, at which `clients` shuffled ones are (epsilon, delta)-DP.

    Raises:
        InputError: the clients are more than can be enumerated.
    """
    if clients > MOST_SHUFFLED:
        raise InputError(
            f"privacy.clients: the shuffling of {clients} messages is not accounted, at most {MOST_SHUFFLED}; take "
            "aggregate: list, or fewer clients"
        )
    low, high = epsilon, 2 * epsilon
    while high < _MOST_LOCAL and shuffled_epsilon(clients, high, delta) <= epsilon:
        low, high = high, 2 * high
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if shuffled_epsilon(clients, middle, delta) <= epsilon else (low, middle)
    return low
