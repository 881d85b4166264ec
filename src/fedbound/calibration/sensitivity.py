"""Which tensors bear a coarser bound: sensitivity of the loss, and the bounds that save most bits for a given loss.

A reconstruction of what FedCSpc (Z. Zhang et al., IEEE TPDS 2025, doi 10.1109/TPDS.2025.3564736) may do: its abstract
speaks of an "XAI-driven" adaptive error bound; its algorithm could not be read, and nothing below is claimed to be it.

To second order an error e in the parameters raises the loss by 1/2 e'He. With errors that are uniform on [-b_l, b_l],
independent, and the empirical Fisher for H's diagonal, the expected increase is 1/2 sum_l n_l g_l b_l^2 / 3, where g_l
is the mean over tensor l of the squared gradient and n_l its size. At high rate a value costs h - log2(2 b) bits.
Minimising the bits for a given increase tau (Lagrange) gives b_l = sqrt(6 tau / (N g_l)), N = sum_l n_l.

At the low rates where deltas with error feedback live, a bit's price is not 1 / b any more: `lagrangian` takes rate and
squared error of each block from its values instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedbound.calibration.shape import unit
from fedbound.codecs.entropy import entropy_bits
from fedbound.data import Split
from fedbound.exchange.layout import Layout

LARGEST_FACTOR = 8.0  # no tensor's bound departs further than this from the uniform one, either way
SAMPLE = 65536  # values of a block that rate and error are estimated from
_STEPS = np.geomspace(1 / LARGEST_FACTOR, LARGEST_FACTOR, 25)  # factors that `lagrangian` tries: four per octave


def fisher(module: Any, splits: Sequence[Split], samples: int = 192) -> dict[str, float]:
    """Empirical Fisher per tensor: the squared gradient of one sample's loss, mean over samples and over the tensor.

    Gradients are taken sample by sample: the squared gradient of a batch's mean loss would vanish at a minimum.

    Args:
        module: torch module with the weights to look at; left in evaluation mode, without gradients.
        splits: the silos' validation samples; each silo gives as many as the others, as far as it has them.
        samples: samples used in all.

    Returns:
        Mean squared gradient by parameter name; buffers are missing.
    """
    from fedbound.models.state import as_tensor
    from fedbound.models.training import cross_entropy

    module.eval()
    total = {name: 0.0 for name, parameter in module.named_parameters() if parameter.requires_grad}
    each = max(1, samples // max(1, len(splits)))
    count = 0
    for split in splits:
        x, y = as_tensor(split.x[:each]), as_tensor(split.y[:each])
        for i in range(len(y)):
            module.zero_grad()
            cross_entropy(module(x[i : i + 1]), y[i : i + 1]).backward()
            for name, parameter in module.named_parameters():
                if parameter.grad is not None:
                    total[name] += float(parameter.grad.square().mean())
            count += 1
    module.zero_grad()
    return {name: value / max(count, 1) for name, value in total.items()}


def minimal_bits(increase: float, sizes: Sequence[int], sensitivity: Sequence[float]) -> np.ndarray:
    """Bounds of fewest bits at high rate for an expected loss increase: b_l = sqrt(6 tau / (N g_l)).

    Args:
        increase: tau, expected increase of the loss (nat).
        sizes: values per tensor.
        sensitivity: mean squared gradient per tensor; all above 0.

    Returns:
        Absolute bounds, float64.
    """
    g = np.asarray(sensitivity, np.float64)
    if not (g > 0).all():
        raise ValueError("a tensor without sensitivity could take any bound: leave it out")
    return np.sqrt(6 * increase / (sum(sizes) * g))


def expected_increase(bounds: Sequence[float], sizes: Sequence[int], sensitivity: Sequence[float]) -> float:
    """Expected increase of the loss (nat) by uniform errors: 1/2 sum_l n_l g_l b_l^2 / 3."""
    b, n, g = (np.asarray(one, np.float64) for one in (bounds, sizes, sensitivity))
    return float((n * g * b**2).sum() / 6)


@dataclass(frozen=True)
class Piece:
    """What is known of one block before training.

    Attributes:
        values: values of a typical update, evenly picked where there are many (flat float32).
        sensitivity: mean squared gradient over the block; 0 where the loss does not depend on it.
        size: number of the block's values.
        unit: what a scale is a multiple of: the range or the standard deviation of all its values.
    """

    values: np.ndarray
    sensitivity: float
    size: int
    unit: float

    def bits(self, bound: float) -> float:
        """Predicted bits of the whole block: its size times the entropy of the quantized values."""
        return self.size * entropy_bits(self.values, bound)

    def error(self, bound: float) -> float:
        """Predicted sum of squared errors of rounding to the grid of `bound` > 0."""
        x = self.values.astype(np.float64)
        return self.size * float(np.square(x - 2 * bound * np.rint(x / (2 * bound))).mean())


def pieces(layout: Layout, update: np.ndarray, sensitivity: Mapping[str, float], rule: str = "range") -> list[Piece]:
    """One piece per block of a flat update; a block of small tensors has the mean of theirs, by size."""
    found = []
    for block in layout.blocks:
        sizes = [layout.slices[name].stop - layout.slices[name].start for name in block.tensors]
        g = sum(n * sensitivity.get(name, 0.0) for n, name in zip(sizes, block.tensors, strict=True)) / sum(sizes)
        values = update[block.start : block.stop]
        found.append(Piece(values[:: -(-block.size // SAMPLE)], g, block.size, unit(rule, values)))
    return found


def analytic(parts: Sequence[Piece], scale: float) -> np.ndarray:
    """Factors on the uniform relative bound: `minimal_bits`, at the entropy that the uniform bound would take.

    Args:
        parts: the blocks.
        scale: relative bound at which bits are compared.

    Returns:
        One factor per block, within LARGEST_FACTOR; 1 for a block without sensitivity or all alike.
    """
    live = [i for i, part in enumerate(parts) if part.sensitivity > 0 and part.unit > 0]
    factors = np.ones(len(parts))
    if len(live) < 2:
        return factors
    absolute = minimal_bits(1.0, [parts[i].size for i in live], [parts[i].sensitivity for i in live])
    relative = absolute / [parts[i].unit for i in live]
    return _at_equal_bits(parts, live, scale, lambda level: relative * math.exp(level))


def lagrangian(parts: Sequence[Piece], scale: float) -> np.ndarray:
    """Factors that minimise bits + level * sensitivity * squared error, both taken from the values themselves.

    Arguments and result as in `analytic`. The level is the one at which the bits equal those of the uniform bound.
    """
    live = [i for i, part in enumerate(parts) if part.sensitivity > 0 and part.unit > 0]
    if len(live) < 2:
        return np.ones(len(parts))
    bits = np.array([[parts[i].bits(scale * f * parts[i].unit) for f in _STEPS] for i in live])
    harm = np.array([[parts[i].sensitivity * parts[i].error(scale * f * parts[i].unit) for f in _STEPS] for i in live])
    return _at_equal_bits(parts, live, scale, lambda level: _STEPS[(bits + harm * math.exp(-level)).argmin(1)])


def deviation(parts: Sequence[Piece], scale: float) -> np.ndarray:
    """Factors that make every bound the same multiple of its block's standard deviation in a first update.

    With error feedback a bound does not harm by the error that it leaves, which is sent later, but by how long updates
    wait for being sent: bound over standard deviation says that better than bound over range. Ours; no source.

    Arguments and result as in `analytic`, sensitivities apart.
    """
    live = [i for i, part in enumerate(parts) if part.unit > 0]
    if len(live) < 2:
        return np.ones(len(parts))
    relative = np.array([float(parts[i].values.std(dtype=np.float64)) / parts[i].unit for i in live])
    return _at_equal_bits(parts, live, scale, lambda level: relative * math.exp(level))


def _at_equal_bits(parts: Sequence[Piece], live: list[int], scale: float, factors_at: Any) -> np.ndarray:
    """The factors of the level at which the bits are those of the uniform bound; higher levels are coarser."""
    wanted = sum(parts[i].bits(scale * parts[i].unit) for i in live)

    def at(level: float) -> np.ndarray:
        return np.clip(np.asarray(factors_at(level), np.float64), 1 / LARGEST_FACTOR, LARGEST_FACTOR)

    def bits(level: float) -> float:
        return sum(parts[i].bits(scale * f * parts[i].unit) for i, f in zip(live, at(level), strict=True))

    low, high = -60.0, 60.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if bits(middle) > wanted else (low, middle)
    factors = np.ones(len(parts))
    factors[live] = at(high)
    return factors
