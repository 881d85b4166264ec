"""What the references of whole runs share: a run's settings, and local training without a federation around it."""

from __future__ import annotations

import numpy as np
import torch

from fedbound import study
from fedbound.exchange.layout import State
from fedbound.federation.assembly import Assembly
from fedbound.federation.silo import round_seed
from fedbound.models import state, training

SILOS, ROUNDS = 3, 3
OPTIONS = {
    "fedprox": {"mu": 0.5},
    "fedavgm": {"server_learning_rate": 0.8, "momentum": 0.6},
    "fedadagrad": {"server_learning_rate": 0.03, "beta1": 0.8, "beta2": 0.9, "tau": 0.01},
    "fedadam": {"server_learning_rate": 0.03, "beta1": 0.8, "beta2": 0.9, "tau": 0.01},
    "fedyogi": {"server_learning_rate": 0.03, "beta1": 0.8, "beta2": 0.9, "tau": 0.01},
    "qffl": {"q": 1.0, "lipschitz": 10.0},
    "fedasync": {"alpha": 0.7, "staleness": "polynomial", "a": 0.5},
    "fedbuff": {"server_learning_rate": 0.9, "staleness": "polynomial", "a": 0.5},
}


def assembly(algorithm: str, seed: int, scheduler: object = "sync", rounds: int = ROUNDS) -> Assembly:
    chosen = {"name": algorithm, **OPTIONS.get(algorithm, {})}
    given = study.Training(
        rounds=rounds, local_epochs=1, batch_size=64, algorithm=chosen, scheduler=scheduler, evaluate_every=10**6
    )
    return Assembly(study.Data(silos=SILOS), {"name": "mlp", "hidden": [16]}, given, study.Exchange(codec="none"), seed)


class Plain:
    """Local training and nothing else, for a reference to build on."""

    def __init__(self, made: Assembly):
        self.made, self.module, self.layout = made, made.module(), made.layout
        self.start = self.layout.flatten(state.get_state(self.module)).vector.astype(np.float64)
        self.splits = [silo.train for silo in made.silos.silos]
        self.samples = np.array([len(split) for split in self.splits], float)

    def load(self, w: np.ndarray) -> None:
        state.set_state(self.module, self.layout.unflatten(State(w.astype(np.float32), [])))

    def update(self, w: np.ndarray, silo: int, round_: int, mu: float = 0.0, steps: int = 0) -> np.ndarray:
        """What local SGD changes in so many steps (0: the epochs), with a proximal term where mu is given."""
        self.load(w)
        start = [p.detach().clone() for p in self.module.parameters()]

        def pull(module: torch.nn.Module) -> None:
            for p, origin in zip(module.parameters(), start, strict=True):
                p.grad += mu * (p.detach() - origin)

        seed = round_seed(self.made.seed, silo, round_)
        training.train(self.module, self.splits[silo], self.made.training, seed, steps, pull if mu else None)
        return self.layout.flatten(state.get_state(self.module)).vector - w.astype(np.float32).astype(np.float64)

    def loss(self, w: np.ndarray, silo: int) -> float:
        self.load(w)
        found = training.evaluate(self.module, self.splits[silo])
        return found.loss_sum / found.samples
