"""FedAdagrad, FedAdam and FedYogi: an adaptive optimizer at the server takes the mean update for a gradient.

Source: Reddi et al., "Adaptive Federated Optimization", ICLR 2021 (arXiv 2003.00295), Algorithm 2. With the mean update
D_t,

    m_t = beta_1 m_{t-1} + (1 - beta_1) D_t
    v_t = v_{t-1} + D_t^2                                             FedAdagrad
    v_t = beta_2 v_{t-1} + (1 - beta_2) D_t^2                         FedAdam
    v_t = v_{t-1} - (1 - beta_2) D_t^2 sign(v_{t-1} - D_t^2)          FedYogi
    w_{t+1} = w_t + eta m_t / (sqrt(v_t) + tau)

without bias correction, v_{-1} = tau^2. The paper averages silos plainly; here the mean is weighted by samples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pydantic import Field

from fedbound.federation.algorithms import Mean
from fedbound.registry import ALGORITHMS, Options


class FedOptOptions(Options):
    """Options of `fedadam`, `fedyogi` and `fedadagrad`."""

    server_learning_rate: float = Field(default=0.01, gt=0, description="eta, the server's learning rate")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the mean; 0 in the paper's FedAdagrad")
    beta2: float = Field(default=0.99, ge=0, lt=1, description="decay of the squares; fedadagrad ignores it")
    tau: float = Field(default=1e-3, gt=0, description="degree of adaptivity: added to the root of the squares")


class FedOpt(Mean):
    """What the three share; they differ in how the squares are kept."""

    def __init__(self, options: FedOptOptions, squares: Callable[[np.ndarray, np.ndarray, float], np.ndarray]):
        super().__init__()
        self.options = options
        self.squares = squares
        self.m = np.zeros(0)
        self.v = np.zeros(0)

    def apply(self, model: np.ndarray, mean: np.ndarray) -> None:
        options = self.options
        if not self.m.size:
            self.m, self.v = np.zeros(model.size), np.full(model.size, options.tau**2)
        self.m = options.beta1 * self.m + (1 - options.beta1) * mean
        self.v = self.squares(self.v, mean**2, options.beta2)
        model += (options.server_learning_rate * self.m / (np.sqrt(self.v) + options.tau)).astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        return {"m": self.m, "v": self.v}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self.m, self.v = state["m"], state["v"]


@ALGORITHMS.register("fedadagrad", FedOptOptions)
def fedadagrad(options: FedOptOptions) -> FedOpt:
    """Adagrad at the server (Reddi et al. 2021)."""
    return FedOpt(options, lambda v, square, beta2: v + square)


@ALGORITHMS.register("fedadam", FedOptOptions)
def fedadam(options: FedOptOptions) -> FedOpt:
    """Adam at the server, without bias correction (Reddi et al. 2021)."""
    return FedOpt(options, lambda v, square, beta2: beta2 * v + (1 - beta2) * square)


@ALGORITHMS.register("fedyogi", FedOptOptions)
def fedyogi(options: FedOptOptions) -> FedOpt:
    """Yogi at the server (Reddi et al. 2021)."""
    return FedOpt(options, lambda v, square, beta2: v - (1 - beta2) * square * np.sign(v - square))
