"""A silo that sleeps instead of training, so that a measured round is made of times that are known.

Everything else is the federation's own: messages, exchange, codec, server, scheduler. Nothing here needs torch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedbound import data, study
from fedbound.exchange.layout import Layout, State
from fedbound.exchange.uplink import Uplink
from fedbound.federation.assembly import Assembly
from fedbound.federation.silo import Silo


@dataclass(frozen=True)
class Tensor:
    """What a layout wants to know of a tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class Learned:
    """As fedbound.models.training.LocalResult."""

    steps: int
    loss: float


def assembly(values: int, silos: int, training: study.Training, exchange: study.Exchange) -> Assembly:
    """A federation over a model of one tensor with `values` float32 values; its silos are `SleepingSilo`."""
    made = Assembly(study.Data(silos=silos), {"name": "mlp"}, training, exchange, seed=0)
    # cached properties, so that neither a torch module nor a data set is ever made
    made.__dict__["layout"] = Layout([Tensor("weights", (values,))])
    made.__dict__["initial_state"] = lambda: State(np.zeros(values, np.float32), [])
    return made


class SleepingSilo(Silo):
    """Trains by sleeping `seconds`, and for a command of so many steps that share of it.

    Args:
        number: the silo's number.
        parts: from `assembly`.
        seconds: of one round's training.
        steps: that `seconds` stands for.
    """

    def __init__(self, number: int, parts: Assembly, seconds: float, steps: int = 10):
        exchange = parts.exchange
        self.seconds = seconds
        self.steps = steps
        self.model = State(np.zeros(parts.layout.size, np.float32), [])
        self.draw = np.random.default_rng(number)
        some = data.Split(np.zeros((1, 1), np.float32), np.zeros(1, np.int64))
        super().__init__(
            number,
            None,
            data.SiloData(some, some, some),
            parts.layout,
            Uplink(parts.encoder("up", number), exchange.mode, bool(exchange.error_feedback)),
            parts.codec("down"),
            parts.client(),
            parts.training,
            0,
        )

    def _learn(self, round_: int, reference: State, steps: int = 0) -> Any:
        time.sleep(self.seconds * (steps / self.steps if steps else 1.0))
        # sparse and heavy-tailed like an update, and quick to make
        size = self.layout.size
        update = np.resize(self.draw.laplace(size=min(size, 65536)).astype(np.float32), size)
        return Learned(steps or self.steps, 0.0), State(reference.vector + 1e-3 * update, [])

    def _evaluate(self) -> dict[str, float]:
        counts = {f"{part}_{key}": 1.0 for part in ("test", "validation") for key in ("samples", "correct")}
        return {**counts, "test_loss": 0.0, "evaluate_seconds": 0.0}

    def _load(self, state: State) -> None:
        self.model = State(state.vector.copy(), [])

    def _state(self) -> State:
        return State(self.model.vector.copy(), [])


__all__ = ["SleepingSilo", "assembly"]
