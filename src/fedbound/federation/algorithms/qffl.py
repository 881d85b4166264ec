"""q-FedAvg: silos whose loss is higher count more, for accuracies that differ less between silos (q-FFL).

Source: Li et al., "Fair Resource Allocation in Federated Learning", ICLR 2020 (arXiv 1905.10497), Algorithm 2. With
silo k's loss F_k of the model w_t it received, its trained model w^k, and L the reciprocal of the local learning rate,

    d_k = L (w_t - w^k)         Delta_k = F_k^q d_k         h_k = q F_k^(q-1) |d_k|^2 + L F_k^q
    w_{t+1} = w_t - sum_k Delta_k / sum_k h_k

q = 0 is the plain mean of the updates. The loss is the silo's mean training loss, which it reveals each round.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from fedbound.exchange.layout import Layout
from fedbound.federation.algorithms import Client, Contribution
from fedbound.registry import ALGORITHMS, Options

_LEAST_LOSS = 1e-10  # as in the authors' code: F^(q-1) must not divide by 0


class QfflOptions(Options):
    """Options of `qffl`."""

    q: float = Field(default=1.0, ge=0, description="degree of fairness; 0 is the plain mean")
    lipschitz: float = Field(
        default=20.0, gt=0, description="L, an estimate of the gradient's Lipschitz constant: 1 / local learning rate"
    )


@ALGORITHMS.register("qffl", QfflOptions)
class Qffl:
    """q-FedAvg (Li et al. 2020): silos with a higher loss count more."""

    synchronous = False
    needs_base = False
    wants_global_loss = True

    def __init__(self, options: QfflOptions):
        self.options = options
        self.delta = np.zeros(0)
        self.h = 0.0

    def check(self, module: Any) -> None:
        """Any model will do."""

    def client(self, layout: Layout) -> Client:
        client = Client()
        client.wants_global_loss = True
        return client

    def begin(self, size: int, silos: int) -> None:
        self.delta = np.zeros(size)
        self.h = 0.0

    def fold(self, update: np.ndarray, about: Contribution) -> None:
        q, lipschitz = self.options.q, self.options.lipschitz
        loss = max(about.global_loss, _LEAST_LOSS)
        d = -lipschitz * update.astype(np.float64)
        self.delta += loss**q * d
        self.h += q * loss ** (q - 1) * float(d @ d) + lipschitz * loss**q

    def finish(self, model: np.ndarray) -> None:
        if self.h > 0:
            model -= (self.delta / self.h).astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        return {}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Nothing is kept between aggregations."""
