"""What the two ADMM methods share: the consensus problem, and local steps that replace the optimizer's.

min_w sum_p f_p(w), split as min sum_p f_p(z_p) subject to z_p = w, with the augmented Lagrangian sum_p f_p(z_p) +
<lambda_p, w - z_p> + rho / 2 |w - z_p|^2. Each silo counts alike, whatever its samples. Local steps are linearised:
rho, and zeta for how far one step goes, take the place of the optimizer, whose learning rate, momentum and weight decay
have no effect.
"""

from __future__ import annotations

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


class AdmmClient(Client):
    """A silo's dual, which both ends keep or which travels with the update."""

    follows = True

    def __init__(self, layout: Layout, options: AdmmOptions):
        self.layout = layout
        self.options = options
        self.dual = np.zeros(layout.size, np.float32)

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
        return {"dual": self.dual}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self.dual[:] = state["dual"]


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
