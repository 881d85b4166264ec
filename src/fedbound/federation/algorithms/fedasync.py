"""FedAsync: each model that arrives is mixed into the global one.

Source: Xie, Koyejo and Gupta, "Asynchronous Federated Optimization", arXiv 1903.03934, Algorithm 1:

    w <- (1 - alpha_t) w + alpha_t w^k,   alpha_t = alpha s(tau)

with the staleness functions of `staleness.py`. w^k is the silo's model as the server decodes it: the copy that the silo
trained on plus its update. With the scheduler `async` each update is an aggregation of its own; where several come at
once they are mixed in one after the other. The paper's local proximal term is FedProx's and is not made here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from fedbound.exchange.layout import Layout
from fedbound.federation.algorithms import Client, Contribution
from fedbound.federation.algorithms.staleness import StalenessOptions
from fedbound.registry import ALGORITHMS


class FedAsyncOptions(StalenessOptions):
    """Options of `fedasync`."""

    alpha: float = Field(default=0.6, gt=0, le=1, description="weight of a fresh model")


@ALGORITHMS.register("fedasync", FedAsyncOptions)
class FedAsync:
    """Each arriving model is mixed into the global one, less so if it is stale (Xie et al. 2019)."""

    synchronous = False
    needs_base = True
    wants_global_loss = False

    def __init__(self, options: FedAsyncOptions):
        self.options = options
        self.mixed = np.zeros(0)
        self.kept = 1.0

    def check(self, module: Any) -> None:
        """Any model will do."""

    def client(self, layout: Layout) -> Client:
        return Client()

    def begin(self, size: int, silos: int) -> None:
        self.mixed = np.zeros(size)  # what the models folded so far bring, and
        self.kept = 1.0  # the share of the global model that is left beside them

    def fold(self, update: np.ndarray, about: Contribution) -> None:
        assert about.local is not None
        alpha = self.options.alpha * self.options.weight(about.staleness)
        self.mixed = (1 - alpha) * self.mixed + alpha * about.local.astype(np.float64)
        self.kept *= 1 - alpha

    def finish(self, model: np.ndarray) -> None:
        model[:] = (self.kept * model.astype(np.float64) + self.mixed).astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        return {}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Nothing is kept between aggregations."""
