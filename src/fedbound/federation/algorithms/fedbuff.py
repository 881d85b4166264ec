"""FedBuff: the plain mean of a buffer of updates, each less the staler it is, times the server's learning rate.

Source: Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022 (arXiv 2106.06639),
Algorithm 1, read in its abstract and in APPFL's published code: w <- w + eta_g / K sum_i s(tau_i) D_i over the K
updates of a buffer, s(tau) = 1 / sqrt(1 + tau). When to aggregate is the scheduler's affair (`buffered`).
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from fedbound.federation.algorithms import Contribution, Mean, accumulate
from fedbound.federation.algorithms.staleness import StalenessOptions
from fedbound.registry import ALGORITHMS


class FedBuffOptions(StalenessOptions):
    """Options of `fedbuff`."""

    server_learning_rate: float = Field(default=1.0, gt=0, description="eta_g, the server's learning rate")


@ALGORITHMS.register("fedbuff", FedBuffOptions)
class FedBuff(Mean):
    """The mean of buffered updates, discounted by staleness (Nguyen et al. 2022)."""

    of_mean = False  # stale updates count less

    def __init__(self, options: FedBuffOptions):
        super().__init__()
        self.options = options

    def fold(self, update: np.ndarray, about: Contribution) -> None:
        accumulate(self.total, self.options.weight(about.staleness), update)
        self.weights += 1.0  # the mean is over the buffer: stale updates do not make fresh ones count more

    def apply(self, model: np.ndarray, mean: np.ndarray) -> None:
        model += (self.options.server_learning_rate * mean).astype(np.float32)
