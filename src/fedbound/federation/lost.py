"""What encoding took from each round's aggregate, against what theory says of it.

Each update is encoded once, so the aggregate sum_k w_k x_k is off by sum_k w_k c_k, c_k being what silo k's encoding
lost. Uncorrelated, that has the variance sum_k w_k^2 m_k per value, with m_k the second moment that silo k reports, and
m_k = b_k^2 / 3 where errors are uniform (calibration/theory.py says when). Where silos are in the server's own process,
their residuals are at hand, and what the aggregate really lost is measured; nothing of that ever travels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedbound.codecs.wire import Message
from fedbound.exchange.layout import Layout

UNKNOWN = dict.fromkeys(("error_uniform", "error_moments", "error_measured", "error_correlation"), float("nan"))


@dataclass(frozen=True)
class _Part:
    """One silo's share: samples, sum over values of the squared error, and the same were errors uniform."""

    silo: int
    samples: float
    square: float
    uniform: float


@dataclass
class Lost:
    """Collects one round's updates.

    Attributes:
        layout: the model's layout.
        members: the silos of this process by number, whose residuals are what their last encoding lost; empty: none.
    """

    layout: Layout
    members: Mapping[int, Any] = field(default_factory=dict)
    _parts: list[_Part] = field(default_factory=list)

    def add(self, message: Message) -> None:
        """Take in one update that was folded."""
        blocks = self.layout.blocks
        uniform = sum(blocks[r.name].size * r.bound**2 / 3 for r in message.records if r.name < len(blocks))
        norm = message.fields.get("error_norm", message.fields["residual_norm"])
        self._parts.append(_Part(message.sender, message.fields["samples"], norm**2, uniform))

    def figures(self) -> dict[str, float]:
        """The round's columns, root mean squares over the model's values; the next round starts anew.

        Weights are FedAvg's: a silo's share of the samples of all that were folded.
        """
        parts, self._parts = sorted(self._parts, key=lambda part: part.silo), []
        if not parts:
            return dict(UNKNOWN)
        w = np.array([part.samples for part in parts]) / sum(part.samples for part in parts)
        squares, uniform = (np.array([getattr(part, key) for part in parts]) for key in ("square", "uniform"))
        alone, n = float(w**2 @ squares), self.layout.size
        found = {
            **UNKNOWN,
            "error_uniform": math.sqrt(float(w**2 @ uniform) / n),
            "error_moments": math.sqrt(alone / n),
        }
        residuals = [r for r in (self._residual(part.silo) for part in parts) if r is not None]
        if len(residuals) < len(parts):
            return found
        total = sum(one * residual.astype(np.float64) for one, residual in zip(w, residuals, strict=True))
        measured = float(np.square(total).sum())
        together = float(w @ np.sqrt(squares)) ** 2 - alone
        found["error_measured"] = math.sqrt(measured / n)
        found["error_correlation"] = (measured - alone) / together if together > 1e-12 * alone else 0.0
        return found

    def _residual(self, silo: int) -> np.ndarray | None:
        return self.members[silo].uplink.residual if silo in self.members else None
