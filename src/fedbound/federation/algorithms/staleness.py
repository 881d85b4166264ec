"""How much a stale update counts.

Source: Xie, Koyejo and Gupta, "Asynchronous Federated Optimization", arXiv 1903.03934, section 5.2, with the staleness
tau in aggregations: constant 1; polynomial (tau + 1)^-a; hinge 1 where tau <= b, else 1 / (a (tau - b) + 1).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedbound.registry import Options


class StalenessOptions(Options):
    """How an update's weight falls with its staleness."""

    staleness: Literal["constant", "polynomial", "hinge"] = Field(
        default="polynomial", description="how the weight of an update falls with its staleness tau"
    )
    a: float = Field(default=0.5, gt=0, description="exponent of (tau + 1)^-a, or slope of the hinge")
    b: int = Field(default=4, ge=0, description="staleness up to which the hinge counts an update fully")

    def weight(self, staleness: int) -> float:
        """s(tau), 1 for a fresh update."""
        if self.staleness == "constant":
            return 1.0
        if self.staleness == "polynomial":
            return float((staleness + 1) ** -self.a)
        return 1.0 if staleness <= self.b else 1.0 / (self.a * (staleness - self.b) + 1)
