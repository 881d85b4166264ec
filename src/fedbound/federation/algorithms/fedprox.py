"""FedProx: FedAvg with a proximal term in the local objective.

Source: Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020 (arXiv 1812.06127), Algorithm 2: silo
k minimises F_k(w) + mu / 2 |w - w_t|^2, so that mu (w - w_t) is added to each local gradient. The paper samples silos
by their share of the data and averages plainly; here all take part and the mean is weighted by samples, as in FedAvg.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from fedbound.exchange.layout import Layout
from fedbound.federation.algorithms import Client, Hook, Mean
from fedbound.registry import ALGORITHMS, Options


class FedProxOptions(Options):
    """Options of `fedprox`."""

    mu: float = Field(default=0.01, ge=0, description="weight of the proximal term; 0 is FedAvg")


@ALGORITHMS.register("fedprox", FedProxOptions)
class FedProx(Mean):
    """FedAvg with a proximal term in the silos' objective (Li et al. 2020)."""

    def __init__(self, options: FedProxOptions):
        super().__init__()
        self.options = options

    def client(self, layout: Layout) -> Client:
        return Proximal(self.options.mu)


class Proximal(Client):
    """Adds mu (w - w_t) to the gradients."""

    def __init__(self, mu: float):
        self.mu = mu

    def hook(self, module: Any, reference: np.ndarray) -> Hook | None:
        if not self.mu:
            return None
        start = [parameter.detach().clone() for parameter in module.parameters()]

        def add(module: Any) -> None:
            for parameter, origin in zip(module.parameters(), start, strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach() - origin, alpha=self.mu)

        return add
