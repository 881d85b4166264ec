"""What the two ADMM methods share: the consensus problem, and local steps that replace the optimizer's.

min_w sum_p f_p(w), split as min sum_p f_p(z_p) subject to z_p = w, with the augmented Lagrangian sum_p f_p(z_p) +
<lambda_p, w - z_p> + rho / 2 |w - z_p|^2. Each silo counts alike, whatever its samples. Local steps are linearised:
rho, and zeta for how far one step goes, take the place of the optimizer, whose learning rate, momentum and weight decay
have no effect.

The penalty may be adaptive, which it is only where asked for. Source: He, Yang and Wang, "Alternating direction method
with self-adaptive penalty parameters", JOTA 106, 2000, as Boyd et al., "Distributed Optimization and Statistical
Learning via ADMM", 2011, state it in equation 3.13 (residual balancing), both from memory; for each silo alone, as in
APPFL 1.12's code:

    r_p = |w - z_p|      s_p = rho_p |z_p - z_p of the round before|
    rho_p <- tau rho_p where r_p > mu s_p;   rho_p / tau where s_p > mu r_p;   rho_p elsewhere

Both ends compute it from z_p as the server decodes it, so that they agree, and nothing of it travels. It ends after
`adapt_rounds`: convergence is known for penalties that become constant. With penalties that differ, the server's mean
is weighted by them, which is what the consensus problem asks for; APPFL's IIADMM takes the plain mean there, whose
fixed point is another.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pydantic import Field

from fedbound.errors import InputError
from fedbound.exchange.layout import Layout, State
from fedbound.federation.algorithms import Client
from fedbound.registry import Options


class AdmmOptions(Options):
    """Penalty and local step of an ADMM method."""

    rho: float = Field(
        default=2.0, gt=0, description="penalty of the distance between a silo's model and the global one"
    )
    zeta: float = Field(
        default=20.0, ge=0, description="penalty of one local step: with rho, 1 / (rho + zeta) is the step size"
    )
    # without their defaults in a scenario, so that runs of before they were there are the same scenarios
    adapt_rounds: int = Field(
        default=0, ge=0, exclude_if=lambda rounds: rounds == 0,
        description="rounds in which each silo's rho follows its residuals (residual balancing); 0: rho stays",
    )  # fmt: skip
    adapt_mu: float = Field(
        default=10.0, gt=1, exclude_if=lambda mu: mu == 10,
        description="factor between primal and dual residual above which rho changes",
    )  # fmt: skip
    adapt_tau: float = Field(
        default=2.0, gt=1, exclude_if=lambda tau: tau == 2, description="factor by which rho changes"
    )


class Penalty:
    """One silo's rho, kept at both ends from the same numbers.

    Attributes:
        rho: of the coming round.
    """

    def __init__(self, options: AdmmOptions, size: int):
        self.options = options
        self.rho = options.rho
        self.rounds = 0
        self.previous = np.zeros(size if options.adapt_rounds else 0, np.float32)

    def balance(self, reference: np.ndarray, local: np.ndarray) -> None:
        """Let rho follow the residuals of a round: `reference` is w, `local` z_p as decoded, both flat float32."""
        if self.rounds >= self.options.adapt_rounds:
            return
        primal = norm(reference - local)
        dual = self.rho * norm(local - self.previous)
        if self.rounds and primal > self.options.adapt_mu * dual:
            self.rho *= self.options.adapt_tau
        elif self.rounds and dual > self.options.adapt_mu * primal:
            self.rho /= self.options.adapt_tau
        self.previous[:] = local
        self.rounds += 1

    def state(self) -> dict[str, np.ndarray]:
        """Nothing where rho stays as it is given."""
        if not self.options.adapt_rounds:
            return {}
        return {"penalty": np.array([self.rho, self.rounds]), "previous": self.previous}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        if "penalty" in state:
            self.rho, self.rounds = float(state["penalty"][0]), int(state["penalty"][1])
            self.previous = np.array(state["previous"], np.float32)


def norm(vector: np.ndarray) -> float:
    """Euclidean norm, summed in order: the same bits on every processor, which a vectorised sum does not promise."""
    total = 0.0
    for start in range(0, len(vector), 1 << 16):
        total = float(
            np.add.accumulate(np.append(total, vector[start : start + (1 << 16)].astype(np.float64) ** 2))[-1]
        )
    return math.sqrt(total)


class Consensus:
    """The server's mean of what the silos hold: w = sum_p (rho_p z_p -+ lambda_p) / sum_p rho_p.

    Where all penalties are the one that is given, that is 1/P sum_p (z_p -+ lambda_p / rho), which is computed so.
    """

    def __init__(self, options: AdmmOptions):
        self.options = options
        self.penalties: dict[int, Penalty] = {}
        self.begin(0)

    def begin(self, size: int) -> None:
        self.total = np.zeros(size)
        self.weight = 0.0

    def penalty(self, silo: int, size: int) -> Penalty:
        if silo not in self.penalties:
            self.penalties[silo] = Penalty(self.options, size)
        return self.penalties[silo]

    def add(self, local: np.ndarray, dual: np.ndarray, rho: float) -> None:
        """Take in z_p and lambda_p, flat float32; the dual with the sign by which it is added."""
        weight = rho if self.options.adapt_rounds else 1.0
        part = local.astype(np.float64) + dual.astype(np.float64) / rho
        self.total += weight * part if weight != 1.0 else part
        self.weight += weight

    def finish(self, model: np.ndarray) -> None:
        if self.weight:
            model[:] = (self.total / self.weight).astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        kept = {silo: penalty.state() for silo, penalty in self.penalties.items()}
        return {f"{key}-{silo}": array for silo, arrays in kept.items() for key, array in arrays.items()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self.penalties = {}
        for key in state:
            name, _, silo = key.rpartition("-")
            if name == "penalty":
                arrays = {"penalty": state[key], "previous": state[f"previous-{silo}"]}
                self.penalty(int(silo), len(arrays["previous"])).restore(arrays)


class AdmmClient(Client):
    """A silo's dual, which both ends keep or which travels with the update."""

    follows = True

    def __init__(self, layout: Layout, options: AdmmOptions):
        self.layout = layout
        self.options = options
        self.dual = np.zeros(layout.size, np.float32)
        self.penalty = Penalty(options, layout.size)

    def parts(self, module: Any, vector: np.ndarray) -> list[Any]:
        """`vector` as tensors of the trained parameters' shapes, on their device, in the order of `trained`."""
        from fedbound.models.state import as_tensor

        names = [spec.name for spec in self.layout.specs]
        arrays = dict(zip(names, self.layout.unflatten(State(vector, [])), strict=False))
        return [
            as_tensor(np.array(arrays[name])).to(parameter.device, parameter.dtype)
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        ]

    def state(self) -> dict[str, np.ndarray]:
        return {"dual": self.dual, **self.penalty.state()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self.dual[:] = state["dual"]
        self.penalty.restore(state)


def trained(module: Any) -> list[Any]:
    """The parameters that local steps change; the frozen ones, such as the base of LoRA adapters, do not travel."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def check_parameters_only(name: str, module: Any) -> None:
    """Raise InputError where the model has tensors that are exchanged but not trained: they have no gradient."""
    parameters = {key for key, _ in module.named_parameters(remove_duplicate=False)}
    others = [key for key in module.state_dict() if key not in parameters]
    if others:
        raise InputError(
            f"training.algorithm: {name!r} is refused: the model's tensor {others[0]!r} is not trained, and ADMM "
            "has no dual for it; use a model without batch normalisation (norm: group), or another algorithm"
        )
