"""Privacy loss distributions of finite kernels: exact pmf pairs in, epsilon after coordinates, sampling and rounds out.

A pair of pmfs (P with the client, Q without) becomes two loss distributions, one per direction, on a grid:

- one pair: every atom is split between its two neighbours on the grid so that its mass under P and under Q is kept.
  That is the connect-the-dots discretization (Doroshenko, Ghazi, Kamath, Kumar, Manurangsi, "Connect the Dots",
  PoPETs 2022, arXiv 2207.04380), computed without differences of deltas.
- several pairs, any of which may be the neighbours met: the pointwise maximum of their privacy profiles, connected the
  same way (a maximum of convex profiles is a profile; Zhu, Dong, Wang, AISTATS 2022, arXiv 2106.08567).

Both are upper bounds at any grid. Rounding each loss up instead, the naive way, adds half a step per composition.
Composition is dp-accounting's (convolution by FFT, truncated tails added to the infinite loss). Thousands of
compositions are taken in stages between which the grid is coarsened by splitting again, because the loss of one
coordinate of a million is far finer than any grid that could hold the sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

_FINE = 96.0  # grid steps per standard deviation of the loss
_MOST = 1 << 18  # grid points of one loss
_STAGE = 64  # compositions between two coarsenings
_FAR = 60.0  # losses beyond count as infinite: their mass under Q is below e^-60


@dataclass(frozen=True)
class Loss:
    """The law, under P, of the privacy loss ln P/Q: `mass[i]` at (lowest + i) * step, and `infinite` at +infinity."""

    step: float
    lowest: int
    mass: np.ndarray
    infinite: float

    @property
    def losses(self) -> np.ndarray:
        """The grid, float64 [len(mass)]."""
        return (self.lowest + np.arange(len(self.mass))) * self.step

    @property
    def deviation(self) -> float:
        """Standard deviation of the finite part."""
        weights = self.mass / self.mass.sum()
        mean = float(weights @ self.losses)
        return math.sqrt(max(float(weights @ np.square(self.losses - mean)), 0.0))

    def delta(self, epsilon: float) -> float:
        """The hockey-stick divergence at `epsilon`, any real number."""
        above = self.losses > epsilon
        return self.infinite + float(self.mass[above] @ -np.expm1(epsilon - self.losses[above]))

    def epsilon(self, delta: float) -> float:
        """The least epsilon, at least 0, whose hockey-stick divergence is at most `delta`; inf where there is none."""
        if self.infinite > delta:
            return math.inf
        if self.delta(0.0) <= delta:
            return 0.0
        losses = self.losses
        keep = losses > 0
        losses, mass = losses[keep], self.mass[keep]
        above = np.cumsum(mass[::-1])[::-1]  # under P, of the losses from here on
        other = np.cumsum((mass * np.exp(-losses))[::-1])[::-1]
        at = self.infinite + above - np.exp(losses) * other
        i = int(np.argmax(at <= delta))  # the divergence falls: epsilon lies between the losses i - 1 and i
        return math.log((self.infinite + above[i] - delta) / other[i])

    def compose(self, times: int, lost: float = 1e-15) -> Loss:
        """The loss of `times` independent releases; at most `lost` of the tails is moved to infinity."""
        done, loss = 1, self
        while done < times:
            remaining = times // done
            factor = remaining if remaining < 4 * _STAGE else _STAGE
            stages = 1 + math.log(remaining) / math.log(_STAGE)
            part = loss._self_compose(factor, lost * factor / remaining / stages)
            done *= factor
            rest = times - done * (times // done)
            loss = part.coarsened() if times // done > 1 or rest else part
            if times // done == 1 and rest:
                return loss._with(self.compose(rest, lost / 4))
            if rest and times // done > 1:
                return loss.compose(times // done, lost / 2)._with(self.compose(rest, lost / 4))
        return loss

    def _self_compose(self, times: int, lost: float) -> Loss:
        from dp_accounting.pld import pld_pmf

        made = pld_pmf.DensePLDPmf(self.step, self.lowest, self.mass, self.infinite, True).self_compose(times, lost)
        return Loss(self.step, made._lower_loss, _of_sum(made._probs, 1 - made._infinity_mass), made._infinity_mass)

    def _with(self, other: Loss) -> Loss:
        """The loss of this release and another one: both on the coarser grid."""
        from scipy.signal import fftconvolve

        step = max(self.step, other.step)
        a, b = self.on(step), other.on(step)
        mass = np.maximum(fftconvolve(a.mass, b.mass), 0.0)
        return Loss(step, a.lowest + b.lowest, mass, 1 - (1 - a.infinite) * (1 - b.infinite))

    def coarsened(self) -> Loss:
        """On the coarsest grid that still resolves the standard deviation; as it is where that is no coarser."""
        step = self.deviation / _FINE
        return self.on(step) if step > 1.5 * self.step else self

    def on(self, step: float) -> Loss:
        """The same loss split onto another grid: an upper bound."""
        return self if step == self.step else split(self.losses, self.mass, self.infinite, step)


def split(losses: np.ndarray, mass: np.ndarray, infinite: float, step: float) -> Loss:
    """Atoms of `mass` [k] under P at `losses` [k] on the grid of `step`, keeping each one's mass under P and Q.

    With u the loss above the grid point below it: mass (1 - e^-u)/(1 - e^-step) goes to the point above.
    """
    keep = mass > 0
    losses, mass = losses[keep], mass[keep]
    if not len(losses):
        return Loss(step, 0, np.zeros(1), infinite)
    losses = np.maximum(losses, -_FAR)  # raised: an upper bound
    far = losses > _FAR
    infinite = infinite + float(mass[far].sum())
    losses, mass = losses[~far], mass[~far]
    if not len(losses):
        return Loss(step, 0, np.zeros(1), infinite)
    below = np.floor(losses / step).astype(np.int64)
    up = np.clip(np.expm1(below * step - losses) / math.expm1(-step), 0, 1)
    lowest = int(below.min())
    size = int(below.max()) - lowest + 2
    placed = np.bincount(below - lowest, mass * (1 - up), size) + np.bincount(below - lowest + 1, mass * up, size)
    return Loss(step, lowest, placed, infinite)


@dataclass(frozen=True)
class Pair:
    """Both directions of neighbouring data sets: `remove` is ln P/Q under P, `add` is ln Q/P under Q."""

    remove: Loss
    add: Loss

    def epsilon(self, delta: float) -> float:
        """The least epsilon that holds at `delta` in both directions."""
        return max(self.remove.epsilon(delta), self.add.epsilon(delta))

    def delta(self, epsilon: float) -> float:
        """The least delta that holds at `epsilon` in both directions."""
        return max(self.remove.delta(epsilon), self.add.delta(epsilon))

    def compose(self, times: int, lost: float = 1e-15) -> Pair:
        """`times` independent releases."""
        return Pair(self.remove.compose(times, lost), self.add.compose(times, lost))

    def sampled(self, rate: float) -> Pair:
        """A release in which the client takes part with probability `rate`, by itself and unseen (Poisson sampling).

        The pairs become (rP + (1-r)Q, Q) and (Q, rP + (1-r)Q): Zhu, Dong, Wang 2022, Theorem 11. For vectors, sample
        after composing the coordinates: a client is in or out with all of them.
        """
        if rate >= 1:
            return self
        remove, add = self.remove, self.add
        both = remove.mass * np.exp(-remove.losses)  # under Q
        only = max(0.0, 1.0 - float(both.sum()))
        losses = np.append(np.log1p(rate * np.expm1(remove.losses)), math.log1p(-rate))
        mass = np.append(rate * remove.mass + (1 - rate) * both, (1 - rate) * only)
        removed = split(losses, mass, rate * remove.infinite, _step(losses, mass))
        losses = -np.log1p(rate * np.expm1(-add.losses))
        return Pair(removed, split(losses, add.mass, add.infinite, _step(losses, add.mass)))


def _step(losses: np.ndarray, mass: np.ndarray) -> float:
    """A grid that resolves the standard deviation of the losses with at most `_MOST` points."""
    keep = (mass > 0) & (np.abs(losses) <= _FAR)
    losses, weights = losses[keep], mass[keep]
    if not len(losses):
        return 1.0
    mean = float(weights @ losses) / float(weights.sum())
    deviation = math.sqrt(float(weights @ np.square(losses - mean)) / float(weights.sum()))
    spread = float(losses.max() - losses.min())
    return max(deviation / _FINE, spread / _MOST, 1e-13)


def from_pmfs(p: np.ndarray, q: np.ndarray, finer: float = 1.0) -> Pair:
    """The pair of losses of two pmfs on one support: float64 [k] each. `finer` divides the step of the grid."""
    p, q = p / p.sum(), q / q.sum()
    return Pair(_direction(p, q, finer), _direction(q, p, finer))


def _direction(p: np.ndarray, q: np.ndarray, finer: float) -> Loss:
    common = (p > 0) & (q > 0)
    losses = np.log(p[common]) - np.log(q[common])
    return split(losses, p[common], float(p[(q <= 0)].sum()), _step(losses, p[common]) / finer)


def from_pairs(pairs: Iterable[tuple[np.ndarray, np.ndarray]], finer: float = 1.0) -> Pair:
    """The pair of losses that dominates several pairs of pmfs: the maximum of their profiles at every epsilon."""
    pairs = [(p / p.sum(), q / q.sum()) for p, q in pairs]
    if len(pairs) == 1:
        return from_pmfs(*pairs[0], finer)
    return Pair(_dominating(pairs, finer), _dominating([(q, p) for p, q in pairs], finer))


def _dominating(pairs: Sequence[tuple[np.ndarray, np.ndarray]], finer: float) -> Loss:
    step, far = math.inf, 0.0
    for p, q in pairs:
        common = (p > 0) & (q > 0)
        losses = np.log(p[common]) - np.log(q[common])
        step = min(step, _step(losses, p[common]) / finer)
        far = max(far, float(np.abs(losses).max(initial=0.0)))
    top = math.ceil(min(far, _FAR) / step) + 1
    grid = step * np.arange(-top, top + 1)
    # The profile H(e), and H(e) - (1 - e^e), which has the same masses and keeps its digits below 0. The mass at e_i is
    # (H_{i+1} - H_i - e^step (H_i - H_{i-1})) / (e^step - 1), as in dp-accounting's connect-the-dots of fixed gaps.
    right = np.max([hockey_stick(p, q, grid) for p, q in pairs], axis=0)
    left = np.max([np.exp(grid) * hockey_stick(q, p, -grid) for p, q in pairs], axis=0)
    grow = math.expm1(step)
    rises = [(np.diff(h)[1:] - math.exp(step) * np.diff(h)[:-1]) / grow for h in (right, left)]
    mass = np.empty(len(grid))
    mass[1:-1] = np.where(grid[1:-1] < 0, rises[1], rises[0])
    mass[0] = (left[1] - left[0]) / grow - left[0]
    mass[-1] = (right[-2] - right[-1]) / -math.expm1(-step)
    infinite = float(right[-1])
    return Loss(step, -top, _of_sum(mass, 1 - infinite), infinite)


def _of_sum(mass: np.ndarray, total: float) -> np.ndarray:
    """`mass` without negative rounding errors, scaled to the total that it has by construction."""
    mass = np.maximum(mass, 0.0)
    return mass * (total / mass.sum())


def hockey_stick(p: np.ndarray, q: np.ndarray, epsilon: np.ndarray) -> np.ndarray:
    """Exact sum_z max(p - e^epsilon q, 0) of two pmfs [k] at every `epsilon` [m], any real numbers: float64 [m]."""
    alone = float(p[q <= 0].sum())
    common = (p > 0) & (q > 0)
    p, q = p[common], q[common]
    losses = np.log(p) - np.log(q)
    order = np.argsort(losses)[::-1]
    losses, p, q = losses[order], p[order], q[order]
    above_p, above_q = (np.append(0.0, np.cumsum(x)) for x in (p, q))
    more = np.searchsorted(-losses, -epsilon, side="left")  # how many losses exceed each epsilon
    return np.clip(alone + above_p[more] - np.exp(epsilon) * above_q[more], 0.0, 1.0)


def renyi(p: np.ndarray, q: np.ndarray, orders: Sequence[float] | np.ndarray) -> np.ndarray:
    """Exact Rényi divergences above 1 of pmf `p` from `q`, both [k]: float64 [len(orders)]; inf where q lacks p."""
    alpha = np.asarray(orders, dtype=np.float64)
    if (p[q <= 0] > 0).any():
        return np.full(len(alpha), np.inf)
    common = p > 0
    log_p, log_q = np.log(p[common]), np.log(q[common])
    exponent = alpha[:, None] * (log_p - log_q)[None, :] + log_q[None, :]
    peak = exponent.max(axis=1)
    return np.maximum((peak + np.log(np.exp(exponent - peak[:, None]).sum(axis=1))) / (alpha - 1), 0.0)


def rounds_epsilon(one: Pair, coordinates: int, rate: float, rounds: int, delta: float) -> float:
    """Epsilon of `rounds` releases of `coordinates` each, clients sampled with probability `rate` in each round."""
    lost = delta * 1e-6
    return one.compose(coordinates, lost / rounds).sampled(rate).compose(rounds, lost).epsilon(delta)
