"""Measured against predicted: the aggregated error of a federation that runs in this process, round by round.

The silos' encoding errors c_k are at hand here and are never sent anywhere: on separate machines the server could not
form sum_k w_k c_k. What a silo would report for the prediction is one second moment per block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedbound.calibration import theory
from fedbound.exchange.blocks import Encoding
from fedbound.exchange.layout import Layout, State
from fedbound.exchange.uplink import Uplink
from fedbound.federation.server import Server
from fedbound.federation.transports.local import LocalTransport


@dataclass(frozen=True)
class Aggregate:
    """One block of one round's aggregate.

    Attributes:
        round: the round, from 1.
        block: name of the block.
        values: its values.
        bound_over_sd: largest over silos of bound / standard deviation of what was encoded; 0 where all is exact.
        measured: root mean square of sum_k w_k c_k over the block's values.
        bound: sum_k w_k b_k, which no value may exceed.
        largest: largest |sum_k w_k c_k|.
        uniform: predicted standard deviation for uniform errors.
        moments: predicted standard deviation from the silos' second moments, uncorrelated.
        correlation: mean correlation of two silos' errors.
    """

    round: int
    block: str
    values: int
    bound_over_sd: float
    measured: float
    bound: float
    largest: float
    uniform: float
    moments: float
    correlation: float


def watch(server: Server) -> list[Aggregate]:
    """Follow `server`, whose silos must be in this process; the list fills while it runs.

    Weights are those of FedAvg: a silo's share of the training samples of all silos that answered in the round.
    """
    assert isinstance(server.transport, LocalTransport)
    found: list[Aggregate] = []
    ears = {}
    for number, silo in server.transport.members.items():
        ears[number] = silo.uplink = _Ear(silo.uplink, len(silo.split.train))
    server.algorithm = _Witness(server.algorithm, lambda: found.extend(_measure(server, list(ears.values()))))
    return found


class _Ear(Uplink):
    """An uplink that remembers what its last encoding lost."""

    def __init__(self, inner: Uplink, samples: int):
        super().__init__(inner.encoder, inner.mode, False)
        self.residual = inner.residual
        self.samples = samples
        self.error: np.ndarray | None = None
        self.bounds: list[float] = []
        self.spreads: list[float] = []

    def encode(self, local: State, reference: State, round_: int = 0) -> Encoding:
        v = local.vector - reference.vector if self.mode == "delta" else local.vector.copy()
        if self.residual is not None:
            v += self.residual
        encoding = super().encode(local, reference, round_)
        blocks = self.encoder.layout.blocks
        self.bounds = [float(record.bound) for record in encoding.records[: len(blocks)]]
        self.spreads = [float(v[block.start : block.stop].std(dtype=np.float64)) for block in blocks]
        self.error = v - encoding.decoded
        return encoding


class _Witness:
    """An algorithm that says when an aggregation is done."""

    def __init__(self, algorithm: Any, done: Any):
        self._algorithm, self._done = algorithm, done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._algorithm, name)

    def finish(self, model: np.ndarray) -> None:
        self._algorithm.finish(model)
        self._done()


def _measure(server: Server, ears: list[_Ear]) -> list[Aggregate]:
    heard = [ear for ear in ears if ear.error is not None]
    weights = np.array([ear.samples for ear in heard], np.float64)
    weights /= weights.sum()
    errors = [ear.error for ear in heard if ear.error is not None]
    rows = _rows(server.version + 1, server.layout, weights, heard, errors)
    for ear in heard:
        ear.error = None
    return rows


def _rows(
    number: int, layout: Layout, weights: np.ndarray, heard: list[_Ear], errors: list[np.ndarray]
) -> list[Aggregate]:
    rows = []
    for index, block in enumerate(layout.blocks):
        parts = [error[block.start : block.stop].astype(np.float64) for error in errors]
        total = sum(w * part for w, part in zip(weights, parts, strict=True))
        bounds = [ear.bounds[index] for ear in heard]
        moments = [float(np.square(part).mean()) for part in parts]
        measured = float(np.square(total).mean())
        uniform = theory.aggregated(weights, bounds)
        ratios = [b / ear.spreads[index] for b, ear in zip(bounds, heard, strict=True) if ear.spreads[index]]
        rows.append(
            Aggregate(
                number,
                block.name,
                block.size,
                max(ratios, default=0.0),
                measured**0.5,
                uniform.bound,
                float(np.abs(total).max()),
                uniform.sd,
                theory.aggregated(weights, bounds, moments).sd,
                theory.correlation(weights, moments, measured),
            )
        )
    return rows
