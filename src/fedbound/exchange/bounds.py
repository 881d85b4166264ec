"""From a study's bound to an absolute one per block; nothing below this sees a relative bound (design law 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from fedbound.codecs import Codec, search
from fedbound.codecs.payload import all_finite
from fedbound.errors import FederationError, InputError
from fedbound.exchange.layout import Block, Layout
from fedbound.study import Exchange

if TYPE_CHECKING:
    from fedbound.artifacts import Artifact


TAIL = 0.001  # share of values on each side that RobustRange leaves out
Direction = Literal["up", "down"]
ALL_SILOS = -1


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
class RobustRange:
    """`scale` times the range of the central 99.8 % of the values, so that single outliers do not widen the bound.

    Where that range is 0, as in a tensor that is nearly all zeros, the whole range is used.
    """

    scale: float

    def absolute(self, block: Block, values: np.ndarray) -> float:
        if not values.size:
            return 0.0
        low, high = np.quantile(values, (TAIL, 1 - TAIL)).astype(np.float64)
        return self.scale * float(high - low) or _range_bound(self.scale, values)


@dataclass(frozen=True)
class Deviation:
    """`scale` times the standard deviation of the values."""

    scale: float

    def absolute(self, block: Block, values: np.ndarray) -> float:
        return self.scale * float(values.std(dtype=np.float64)) if values.size else 0.0


@dataclass(frozen=True)
class Calibrated:
    """The rules of a bounds artifact for one silo: a scale per tensor, the smallest one for a shared block.

    `rule` says what a scale is a multiple of: a block's value range ("range") or its standard deviation ("std").
    """

    scales: Mapping[str, float]
    rule: str = "range"

    def absolute(self, block: Block, values: np.ndarray) -> float:
        return CALIBRATED[self.rule](min(self.scales[name] for name in block.tensors)).absolute(block, values)


CALIBRATED: dict[str, type[Range] | type[Deviation]] = {"range": Range, "std": Deviation}


def _range_bound(scale: float, values: np.ndarray) -> float:
    if not values.size:
        return 0.0
    # in float64, so that the range of values near the float32 limits does not overflow
    return scale * (float(values.max()) - float(values.min()))


@dataclass(frozen=True)
class Ratio:
    """The smallest common scale of all blocks' value ranges at which they take a `ratio`-th of their raw bytes.

    One scale for all blocks, as in the mode `rel`, of which this is the inverse.
    """

    ratio: float

    def prepare(self, layout: Layout, v: np.ndarray, codec: Codec) -> Range:
        """The rule for this vector; blocks that hold NaN or infinities are sent exactly and left out.

        Args:
            layout: the model's layout.
            v: flat float32 vector that is about to be encoded.
            codec: the codec that will encode it.

        Raises:
            FederationError: not even the loosest bound takes so few bytes.
        """
        parts = [v[block.start : block.stop].reshape(block.shape) for block in layout.blocks]
        parts = [part for part in parts if all_finite(part)]
        units = [_range_bound(1.0, part) for part in parts]
        if not any(units):
            return Range(1.0)  # nothing to lose: constant blocks are exact
        budget = sum(part.nbytes for part in parts) / self.ratio
        try:
            return Range(search.smallest_scale(codec, parts, units, budget).bound)
        except ValueError as error:
            raise FederationError(f"exchange.bound: the ratio {self.ratio:g} cannot be reached: {error}") from None


_MODES: dict[str, type[Absolute] | type[Range] | type[RobustRange] | type[Deviation] | type[Ratio]] = {
    "abs": Absolute,
    "rel": Range,
    "rel_quantile": RobustRange,
    "std": Deviation,
    "ratio": Ratio,
}


def rule(
    exchange: Exchange, layout: Layout, silo: int, bounds: Artifact | None, direction: Direction = "up"
) -> BoundRule | Ratio:
    """The bound rule of one silo's uplink, or of the downlink that all silos share.

    Args:
        silo: the silo's number; ALL_SILOS for the downlink.
        bounds: the calibrate stage's artifact; needed when the bound is 'calibrated'.

    Raises:
        InputError: the bounds artifact is missing or belongs to another model.
    """
    bound = exchange.bound if direction == "up" else exchange.downlink_bound
    if bound is None:
        return Absolute(0.0)
    if bound != "calibrated":
        return _MODES[exchange.bound_mode or "rel"](bound)
    if bounds is None:
        raise InputError("exchange.bound: 'calibrated' needs a bounds artifact; give it with --input bounds=FILE")
    scales, kind = _scales(bounds, silo, direction)
    missing = [name for name in layout.slices if name not in scales]
    if missing and scales:
        raise InputError(
            f"the bounds artifact has no bound for tensor {missing[0]!r}: it was calibrated for another model; "
            "run calibrate for this one"
        )
    if missing:
        raise InputError(
            f"the bounds artifact has no bounds for the direction {direction!r}: it was calibrated for another "
            "exchange; run calibrate for this one"
        )
    return Calibrated(scales, kind)


def _scales(bounds: Artifact, silo: int, direction: Direction) -> tuple[dict[str, float], str]:
    """Scale per tensor of one direction, and their rule; a silo's own row beats the row for all (-1)."""
    table = bounds.tables["bounds"]
    columns = [table[key].values for key in ("direction", "silo", "tensor", "rule", "scale")]
    scales: dict[str, float] = {}
    own: set[str] = set()
    rules: set[str] = set()
    for where, owner, tensor, kind, scale in zip(*columns, strict=True):
        if where != direction or owner not in (ALL_SILOS, silo):
            continue
        if kind not in CALIBRATED or rules - {kind}:
            raise InputError(f"the bounds artifact scales {tensor!r} by the unknown rule {kind!r}; update fedbound")
        rules.add(kind)
        if owner == silo or tensor not in own:
            scales[tensor] = float(scale)
        if owner == silo:
            own.add(tensor)
    return scales, rules.pop() if rules else "range"
