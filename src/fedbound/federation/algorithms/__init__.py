"""Federated algorithms: what a silo changes about its training, and what the server makes of the updates.

One file per paper. An algorithm is a pair of parts around the round loop: `client` gives the silo's end, the rest is
the server's, which sees one decoded update at a time (design law 6).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fedbound.exchange.layout import Layout
from fedbound.registry import ALGORITHMS

#: Runs between the backward pass and the optimizer's step; True says that it has made the step itself.
Hook = Callable[[Any], bool | None]


@dataclass(frozen=True)
class Contribution:
    """What the server knows of one update besides its values.

    Attributes:
        silo: who sent it.
        samples: training samples of that silo.
        staleness: aggregations between the model that the silo trained on and now.
        reference: the copy of the model that the silo trained on, and
        local: its model as both ends know it: flat float32, not to be changed. Only for algorithms with `needs_base`.
        global_loss: the silo's mean training loss (nat) of the model that it received; only for those that ask for it.
        extra: further vectors that the silo sent, decoded, in the order of `Client.extra`.
    """

    silo: int
    samples: int
    staleness: int
    reference: np.ndarray | None = None
    local: np.ndarray | None = None
    global_loss: float = float("nan")
    extra: tuple[np.ndarray, ...] = ()


class Client:
    """The silo's end. This one trains as the study says and keeps nothing.

    Attributes:
        extras: number of further vectors that go with each update.
        wants_global_loss: whether the loss of the received model on the training samples is needed.
        follows: whether `extra` and `commit` do anything.
    """

    follows: bool = False
    extras: int = 0
    wants_global_loss: bool = False

    def hook(self, module: Any, reference: np.ndarray) -> Hook | None:
        """What runs in each local step; None for nothing.

        Args:
            module: the torch module, holding the model as received.
            reference: the same as a flat float32 vector, not to be changed.
        """
        return None

    def extra(self, reference: np.ndarray, sent: np.ndarray) -> list[np.ndarray]:
        """Further vectors to send, flat float32.

        Args:
            reference: the model as received.
            sent: the model that the server will decode, bit for bit.
        """
        return []

    def commit(self, reference: np.ndarray, sent: np.ndarray, extra: list[np.ndarray]) -> None:
        """Update what both ends keep, from what the server decodes (design law 1).

        Args:
            reference: the model as received.
            sent: the model that the server decodes.
            extra: the further vectors as the server decodes them.
        """

    def state(self) -> dict[str, np.ndarray]:
        """What must survive a restart."""
        return {}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take over what `state` gave."""


class Algorithm(Protocol):
    """One federated algorithm.

    Attributes:
        synchronous: whether it needs every silo's update in every round, of the same model.
        needs_base: whether `fold` needs `Contribution.reference` and `Contribution.local`.
        wants_global_loss: whether `fold` needs `Contribution.global_loss`.
    """

    synchronous: bool
    needs_base: bool
    wants_global_loss: bool

    def check(self, module: Any) -> None:
        """Raise InputError where the algorithm cannot train this torch module."""
        ...

    def client(self, layout: Layout) -> Client:
        """The silo's end, for a model of this layout."""
        ...

    def begin(self, size: int, silos: int) -> None:
        """Start an aggregation over models of `size` float values in a federation of `silos` living silos."""
        ...

    def fold(self, update: np.ndarray, about: Contribution) -> None:
        """Take in one silo's decoded update (flat float32, change against the model it trained on)."""
        ...

    def finish(self, model: np.ndarray) -> None:
        """Apply what was folded to the global model (flat float32) in place."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """What must survive a restart between aggregations."""
        ...

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take over what `state` gave."""
        ...


class Mean:
    """The weighted mean of the updates, folded one by one: what most algorithms begin with.

    Subclasses say how an update counts (`weight`) and what becomes of the mean (`apply`).
    """

    synchronous: bool = False
    needs_base: bool = False
    wants_global_loss: bool = False
    of_mean: bool = True  # the mean alone would do: it may come from a secure sum

    def __init__(self) -> None:
        self.total = np.zeros(0)
        self.weights = 0.0

    def check(self, module: Any) -> None:
        """Any model will do."""

    def client(self, layout: Layout) -> Client:
        return Client()

    def weight(self, about: Contribution) -> float:
        """How much one update counts: its silo's samples."""
        return float(about.samples)

    def begin(self, size: int, silos: int) -> None:
        self.total = np.zeros(size)  # float64: the sum over many silos keeps more digits than its terms
        self.weights = 0.0

    def fold(self, update: np.ndarray, about: Contribution) -> None:
        weight = self.weight(about)
        accumulate(self.total, weight, update)
        self.weights += weight

    def finish(self, model: np.ndarray) -> None:
        if self.weights > 0:
            self.apply(model, self.total / self.weights)

    def apply(self, model: np.ndarray, mean: np.ndarray) -> None:
        """Change the global model (flat float32, in place) by the mean update (flat float64)."""
        model += mean.astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        return {}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Nothing is kept between aggregations."""


_CHUNK = 1 << 16  # values: large enough to be quick, small enough to count for nothing in memory


def accumulate(total: np.ndarray, weight: float, update: np.ndarray) -> None:
    """total += weight * update, in float64 (total) of float32 (update), without a temporary of their size."""
    for start in range(0, len(total), _CHUNK):
        part = slice(start, start + _CHUNK)
        total[part] += weight * update[part].astype(np.float64)


def get(name: str, **options: Any) -> Algorithm:
    """The algorithm called `name`; raises InputError on an unknown name or option."""
    return ALGORITHMS.get(name, **options)


def available() -> list[str]:
    """Names of all registered algorithms."""
    return ALGORITHMS.available()
