"""FedAvg: the mean of the silos' updates, weighted by their samples.

Source: McMahan et al., AISTATS 2017 (arXiv 1602.05629), Algorithm 1: w_{t+1} = sum_k n_k / n * w^k_{t+1}, here in the
equivalent form w_{t+1} = w_t + sum_k n_k / n * (w^k_{t+1} - w_t), which also holds where some updates are stale.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedbound.registry import ALGORITHMS, Options


@ALGORITHMS.register("fedavg")
class FedAvg:
    """Federated averaging (McMahan et al. 2017): weighted mean of local updates."""

    def __init__(self, options: Options):
        self.total = np.zeros(0)
        self.weight = 0

    def local_hook(self, module: Any) -> None:
        return None

    def begin(self, size: int) -> None:
        self.total = np.zeros(size)  # float64: the sum over many silos keeps more digits than its terms
        self.weight = 0

    def fold(self, update: np.ndarray, samples: int, staleness: int) -> None:
        self.total += np.float64(samples) * update
        self.weight += samples

    def finish(self, model: np.ndarray) -> None:
        if self.weight:
            model += (self.total / self.weight).astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        return {}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """FedAvg keeps nothing between rounds."""
