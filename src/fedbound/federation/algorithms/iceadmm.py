"""ICEADMM: inexact consensus ADMM whose duals travel with the models.

Source: Zhou and Li, "Communication-Efficient ADMM-based Federated Learning", 2021 (arXiv 2110.15318), after APPFL's
published code, which updates the dual once a round; the paper itself was not read. The dual has the opposite sign of
IIADMM's:

    server   w = 1/P sum_p (z_p + lambda_p / rho)
    silo     z_p <- z_p - (rho (z_p - w) + g(z_p) + lambda_p) / (rho + zeta)   in every local step, from z_p = w
             lambda_p <- lambda_p + rho (z_p - w)                              once a round
             send z_p and lambda_p: twice the bytes of IIADMM

In the dual's line z_p is the model as the server decodes it, and the silo goes on with the dual as the server decodes
it. With an adaptive penalty (`admm.py`) rho is each silo's own, and the server's mean is weighted by it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedbound.exchange.layout import Layout
from fedbound.federation.algorithms import Contribution, Hook
from fedbound.federation.algorithms.admm import AdmmClient, AdmmOptions, Consensus, check_parameters_only, trained
from fedbound.registry import ALGORITHMS


@ALGORITHMS.register("iceadmm", AdmmOptions)
class ICEADMM:
    """Inexact ADMM that sends its duals (Zhou and Li 2021)."""

    synchronous = True
    needs_base = True
    wants_global_loss = False

    def __init__(self, options: AdmmOptions):
        self.options = options
        self.consensus = Consensus(options)

    def check(self, module: Any) -> None:
        check_parameters_only("iceadmm", module)

    def client(self, layout: Layout) -> IceadmmClient:
        return IceadmmClient(layout, self.options)

    def begin(self, size: int, silos: int) -> None:
        self.consensus.begin(size)

    def fold(self, update: np.ndarray, about: Contribution) -> None:
        assert about.reference is not None
        assert about.local is not None
        (dual,) = about.extra
        penalty = self.consensus.penalty(about.silo, update.size)
        penalty.balance(about.reference, about.local)
        self.consensus.add(about.local, dual, penalty.rho)

    def finish(self, model: np.ndarray) -> None:
        self.consensus.finish(model)

    def state(self) -> dict[str, np.ndarray]:
        return self.consensus.state()  # the duals are the silos'

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self.consensus.restore(state)


class IceadmmClient(AdmmClient):
    """The silo's end of ICEADMM."""

    extras = 1

    def hook(self, module: Any, reference: np.ndarray) -> Hook:
        rho, zeta = self.penalty.rho, self.options.zeta
        pulls = self.parts(module, np.float32(rho) * reference - self.dual)  # rho w - lambda: the same in every step

        def step(module: Any) -> bool:
            for parameter, pull in zip(trained(module), pulls, strict=True):
                value = parameter.detach()
                value.sub_((rho * value - pull + parameter.grad) / (rho + zeta))
            return True

        return step

    def extra(self, reference: np.ndarray, sent: np.ndarray) -> list[np.ndarray]:
        return [self.dual + np.float32(self.penalty.rho) * (sent - reference)]

    def commit(self, reference: np.ndarray, sent: np.ndarray, extra: list[np.ndarray]) -> None:
        self.dual[:] = extra[0]
        self.penalty.balance(reference, sent)
