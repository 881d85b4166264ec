"""FedAvgM: FedAvg with momentum at the server.

Source: Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification", 2019 (arXiv 1909.06335), section 4.3: v <- beta v + delta, w <- w - v, where delta is the mean of
w_t - w^k; here with the server's learning rate, and the sign of an update.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from fedbound.federation.algorithms import Mean
from fedbound.registry import ALGORITHMS, Options


class FedAvgMOptions(Options):
    """Options of `fedavgm`."""

    server_learning_rate: float = Field(default=1.0, gt=0, description="the server's learning rate")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="the server's momentum; 0 is FedAvg")


@ALGORITHMS.register("fedavgm", FedAvgMOptions)
class FedAvgM(Mean):
    """FedAvg with server momentum (Hsu et al. 2019)."""

    def __init__(self, options: FedAvgMOptions):
        super().__init__()
        self.options = options
        self.velocity = np.zeros(0)

    def apply(self, model: np.ndarray, mean: np.ndarray) -> None:
        if not self.velocity.size:
            self.velocity = np.zeros(model.size)
        self.velocity = self.options.momentum * self.velocity + mean
        model += (self.options.server_learning_rate * self.velocity).astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        return {"velocity": self.velocity}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self.velocity = state["velocity"]
