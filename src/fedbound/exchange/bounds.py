"""From a study's bound to an absolute one per block; nothing below this sees a relative bound (design law 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fedbound.errors import InputError
from fedbound.exchange.layout import Block, Layout
from fedbound.study import Exchange

if TYPE_CHECKING:
    from fedbound.artifacts import Artifact


class BoundRule(Protocol):
    """Gives the absolute bound of one block for the values that are about to be encoded."""

    def absolute(self, block: Block, values: np.ndarray) -> float: ...


@dataclass(frozen=True)
class Absolute:
    """The same bound for every block."""

    bound: float

    def absolute(self, block: Block, values: np.ndarray) -> float:
        return self.bound


@dataclass(frozen=True)
class Range:
    """`scale` times the value range (max - min): what SZ calls REL. Constant blocks get 0, that is lossless."""

    scale: float

    def absolute(self, block: Block, values: np.ndarray) -> float:
        return _range_bound(self.scale, values)


@dataclass(frozen=True)
class Calibrated:
    """The rules of a bounds artifact for one silo: a scale per tensor, the smallest one for a shared block."""

    scales: Mapping[str, float]

    def absolute(self, block: Block, values: np.ndarray) -> float:
        return _range_bound(min(self.scales[name] for name in block.tensors), values)


def _range_bound(scale: float, values: np.ndarray) -> float:
    if not values.size:
        return 0.0
    # in float64, so that the range of values near the float32 limits does not overflow
    return scale * (float(values.max()) - float(values.min()))


def rule(exchange: Exchange, layout: Layout, silo: int, bounds: Artifact | None) -> BoundRule:
    """The bound rule of one silo's uplink.

    Args:
        bounds: the calibrate stage's artifact; needed when the bound is 'calibrated'.

    Raises:
        InputError: the bounds artifact is missing or belongs to another model.
    """
    if exchange.bound is None:
        return Absolute(0.0)
    if exchange.bound != "calibrated":
        return Range(exchange.bound) if exchange.bound_mode == "rel" else Absolute(exchange.bound)
    if bounds is None:
        raise InputError("exchange.bound: 'calibrated' needs a bounds artifact; give it with --input bounds=FILE")
    scales = _scales(bounds, silo)
    missing = [name for name in layout.slices if name not in scales]
    if missing:
        raise InputError(
            f"the bounds artifact has no bound for tensor {missing[0]!r}: it was calibrated for another model; "
            "run calibrate for this one"
        )
    return Calibrated(scales)


def _scales(bounds: Artifact, silo: int) -> dict[str, float]:
    """Scale per tensor of the uplink; a silo's own row beats the row for all (-1)."""
    table = bounds.tables["bounds"]
    columns = [table[key].values for key in ("direction", "silo", "tensor", "rule", "scale")]
    scales: dict[str, float] = {}
    own: set[str] = set()
    for direction, owner, tensor, kind, scale in zip(*columns, strict=True):
        if direction != "up" or owner not in (-1, silo):
            continue
        if kind != "range":
            raise InputError(f"the bounds artifact scales {tensor!r} by the unknown rule {kind!r}; update fedbound")
        if owner == silo or tensor not in own:
            scales[tensor] = float(scale)
        if owner == silo:
            own.add(tensor)
    return scales
