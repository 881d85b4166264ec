"""FedAvg: the mean of the silos' updates, weighted by their samples.

Source: McMahan et al., AISTATS 2017 (arXiv 1602.05629), Algorithm 1: w_{t+1} = sum_k n_k / n * w^k_{t+1}, here in the
equivalent form w_{t+1} = w_t + sum_k n_k / n * (w^k_{t+1} - w_t), which also holds where some updates are stale.
"""

from __future__ import annotations

from fedbound.federation.algorithms import Mean
from fedbound.registry import ALGORITHMS, Options


@ALGORITHMS.register("fedavg")
class FedAvg(Mean):
    """Federated averaging (McMahan et al. 2017): weighted mean of local updates."""

    def __init__(self, options: Options):
        super().__init__()
