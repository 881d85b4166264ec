"""IIADMM: inexact consensus ADMM whose duals never travel.

Source: Ryu et al., "APPFL: Open-Source Software Framework for Privacy-Preserving Federated Learning", IPDPSW 2022
(arXiv 2202.03672), Algorithm 1, after APPFL's published code; the paper's general step with zeta was not readable to us
and is given from memory:

    server   w = 1/P sum_p (z_p - lambda_p / rho)
    silo     z_p <- (rho w + zeta z_p + lambda_p - g(z_p)) / (rho + zeta)      in every local step, from z_p = w
    both     lambda_p <- lambda_p + rho (w - z_p)                              once a round

With an adaptive penalty (`admm.py`) rho is each silo's own, and the server's mean is weighted by it.
In the last line z_p is the model as the server decodes it, noise and compression included, and w the copy that the silo
trained on, so that the duals of both ends are equal bit for bit. APPFL's silo uses the clean z_p there: its duals drift
apart under noise or compression.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedbound.exchange.layout import Layout
from fedbound.federation.algorithms import Contribution, Hook
from fedbound.federation.algorithms.admm import AdmmClient, AdmmOptions, Consensus, check_parameters_only, trained
from fedbound.registry import ALGORITHMS


@ALGORITHMS.register("iiadmm", AdmmOptions)
class IIADMM:
    """Inexact ADMM with duals at both ends, none on the wire (Ryu et al. 2022)."""

    synchronous = True
    needs_base = True
    wants_global_loss = False

    def __init__(self, options: AdmmOptions):
        self.options = options
        self.duals: dict[int, np.ndarray] = {}
        self.consensus = Consensus(options)

    def check(self, module: Any) -> None:
        check_parameters_only("iiadmm", module)

    def client(self, layout: Layout) -> IiadmmClient:
        return IiadmmClient(layout, self.options)

    def begin(self, size: int, silos: int) -> None:
        self.consensus.begin(size)

    def fold(self, update: np.ndarray, about: Contribution) -> None:
        assert about.reference is not None
        assert about.local is not None
        dual = self.duals.setdefault(about.silo, np.zeros(update.size, np.float32))
        penalty = self.consensus.penalty(about.silo, update.size)
        follow(dual, about.reference, about.local, penalty.rho)
        penalty.balance(about.reference, about.local)
        self.consensus.add(about.local, -dual, penalty.rho)

    def finish(self, model: np.ndarray) -> None:
        self.consensus.finish(model)

    def state(self) -> dict[str, np.ndarray]:
        return {f"dual-{silo}": dual for silo, dual in self.duals.items()} | self.consensus.state()

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self.duals = {
            int(key.removeprefix("dual-")): np.array(dual) for key, dual in state.items() if key.startswith("dual-")
        }
        self.consensus.restore(state)


class IiadmmClient(AdmmClient):
    """The silo's end of IIADMM."""

    def hook(self, module: Any, reference: np.ndarray) -> Hook:
        rho, zeta = self.penalty.rho, self.options.zeta
        pulls = self.parts(module, np.float32(rho) * reference + self.dual)  # rho w + lambda: the same in every step

        def step(module: Any) -> bool:
            for parameter, pull in zip(trained(module), pulls, strict=True):
                value = parameter.detach()
                value.copy_((pull + zeta * value - parameter.grad) / (rho + zeta))
            return True

        return step

    def commit(self, reference: np.ndarray, sent: np.ndarray, extra: list[np.ndarray]) -> None:
        follow(self.dual, reference, sent, self.penalty.rho)
        self.penalty.balance(reference, sent)


def follow(dual: np.ndarray, reference: np.ndarray, local: np.ndarray, rho: float) -> None:
    """lambda <- lambda + rho (w - z), in place, by one float32 operation after the other: the same at both ends."""
    dual += np.float32(rho) * (reference - local)
