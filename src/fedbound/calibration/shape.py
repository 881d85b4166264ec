"""How one scale is spread over tensors and silos: the factors that a bounds artifact's rows come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from fedbound import schemas
from fedbound.artifacts import Table
from fedbound.exchange.bounds import ALL_SILOS, CALIBRATED, Direction
from fedbound.exchange.layout import Block, Layout


def unit(rule: str, values: np.ndarray) -> float:
    """What a scale is a multiple of, by the exchange's own rule."""
    block = Block("", 0, values.size, (), (values.size,))
    return float(CALIBRATED[rule](1.0).absolute(block, values))


@dataclass(frozen=True)
class Shape:
    """Factors on the calibrated scale.

    Attributes:
        tensors: factor by tensor, both directions; 1 where missing.
        silos: factor by silo, uplink only (all silos get the same model); empty: all silos alike.
        rule: what a scale is a multiple of: a block's value range ("range") or its standard deviation ("std").
    """

    tensors: Mapping[str, float] = field(default_factory=dict)
    silos: Mapping[int, float] = field(default_factory=dict)
    rule: str = "range"

    def absolute(self, scale: float, values: np.ndarray) -> float:
        """The absolute bound at `scale` of values that are encoded together."""
        return scale * unit(self.rule, values)

    def entries(self, layout: Layout, scale: float) -> Iterator[tuple[Direction, int, str, float]]:
        """Direction, silo (-1: all), tensor and scale of each row that the artifact holds."""
        everyone: dict[int, float] = {ALL_SILOS: 1.0}
        sides: tuple[tuple[Direction, Mapping[int, float]], ...] = (
            ("up", everyone | dict(self.silos)),
            ("down", everyone),
        )
        for direction, silos in sides:
            for silo, factor in silos.items():
                for name in layout.slices:
                    yield direction, silo, name, scale * factor * self.tensors.get(name, 1.0)

    def table(self, layout: Layout, scale: float) -> Table:
        """The rows with nothing but what the exchange reads: what a probe runs on."""
        rest = {"bound": 0.0, "rule": self.rule, "predicted_bits": 0.0, "measured_bits": 0.0, "sensitivity": 0.0}
        return schemas.BOUNDS.table(
            [
                {"direction": direction, "silo": silo, "tensor": name, "scale": own, **rest}
                for direction, silo, name, own in self.entries(layout, scale)
            ]
        )
